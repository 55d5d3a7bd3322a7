/* The lock of a store's writers: between the processes of a machine, and between the threads of one. */
#ifndef FASTIPAM_WRITER_LOCK_H
#define FASTIPAM_WRITER_LOCK_H

#include <pthread.h>
#include <stdint.h>

typedef struct fastipam_lock fastipam_lock;

/* A thread that waits; it stands on the stack of the thread. */
typedef struct fastipam_waiter {
    uint32_t first;  /* a futex: 1 when the thread may ask the kernel */
    pthread_t thread;
    struct fastipam_waiter *next;
} fastipam_waiter;

/* Return a lock on a file that exists, or NULL with errno. With an empty path it is one between threads. */
fastipam_lock *fastipam_lock_open(const char *path);
/* Lock without waiting. Return 0, EAGAIN when others have the lock or wait for it, or another errno. */
int fastipam_lock_try(fastipam_lock *lock);
/* Wait behind the other threads of this process. Return 0, or EDEADLK when this thread itself has the
 * lock or waits for it: a signal handler of Python has interrupted it there. */
int fastipam_lock_enter(fastipam_lock *lock, fastipam_waiter *waiter);
/* Wait until deadline_ns of CLOCK_MONOTONIC. Return 0 with the lock; else the thread still waits: EINTR,
 * ETIMEDOUT, or another errno. */
int fastipam_lock_wait(fastipam_lock *lock, fastipam_waiter *waiter, int64_t deadline_ns);
/* Stop waiting. */
void fastipam_lock_leave(fastipam_lock *lock, fastipam_waiter *waiter);
void fastipam_lock_release(fastipam_lock *lock);
/* Return whether this process was forked from the one that opened the lock. */
int fastipam_lock_is_forked(const fastipam_lock *lock);
/* Return whether the lock is on the file of this identity; true when it has no file open, because it then opens
 * the one that is there. */
int fastipam_lock_is_of(fastipam_lock *lock, uint64_t device, uint64_t inode);
/* Close the file, which nobody may have locked or wait for. */
void fastipam_lock_close(fastipam_lock *lock);
void fastipam_lock_free(fastipam_lock *lock);

/* Find the device and the inode of the file at a path. Return -1 with errno when there is none. */
int fastipam_identify(const char *path, uint64_t *device, uint64_t *inode);
/* Keep the descriptors of this file from the programs that this process starts. LMDB forgets one of its. */
void fastipam_close_on_exec(uint64_t device, uint64_t inode);
int64_t fastipam_monotonic_ns(void);
/* The kernel's number of this thread, and whether a thread of this process has one. */
int fastipam_thread_id(void);
int fastipam_thread_lives(int id);

#endif
