/* Preloaded into a node's processes: fdatasync waits while the file $HANG exists, as on a disk that hangs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int descriptor) {
    static int (*next)(int);
    const char *file = getenv("HANG");
    if (!next)
        next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    while (file && access(file, F_OK) == 0)
        usleep(20000);
    return next(descriptor);
}
