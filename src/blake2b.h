/* The digest of an owner; see blake2b.c. */

#ifndef FASTIPAM_BLAKE2B_H
#define FASTIPAM_BLAKE2B_H

#include <stddef.h>
#include <stdint.h>

#define FASTIPAM_DIGEST_BYTES 16

void fastipam_digest(uint8_t *digest, const uint8_t *text, size_t size);

#endif
