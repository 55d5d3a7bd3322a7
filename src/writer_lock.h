/* The lock of a store's writers: between the processes of a machine, and between the threads of one. */
#ifndef FASTIPAM_WRITER_LOCK_H
#define FASTIPAM_WRITER_LOCK_H

#include <pthread.h>
#include <stdint.h>

typedef struct fastipam_lock fastipam_lock;

/* A thread that waits; it stands on the stack of the thread. */
typedef struct fastipam_waiter {
    uint32_t state;  /* a futex: see writer_lock.c */
    pthread_t thread;
    struct fastipam_waiter *next;
    void *call;      /* what the holder may do for it, or NULL */
    int done;        /* the holder has done that, and has to commit it */
} fastipam_waiter;

/* What a wait returns, beside 0 and an errno: the holder has done the call, and committed it. */
#define FASTIPAM_SERVED (-1)

/* Return a lock on a file that exists, or NULL with errno. With an empty path it is one between threads. */
fastipam_lock *fastipam_lock_open(const char *path);
/* Lock without waiting. Return 0, EAGAIN when others have the lock or wait for it, or another errno. */
int fastipam_lock_try(fastipam_lock *lock);
/* Wait behind the other threads of this process, with a call that the holder may do, or NULL. Return 0, or
 * EDEADLK when this thread itself has the lock or waits for it: a signal handler of Python has interrupted
 * it there. */
int fastipam_lock_enter(fastipam_lock *lock, fastipam_waiter *waiter, void *call);
/* Wait until deadline_ns of CLOCK_MONOTONIC. Return 0 with the lock, FASTIPAM_SERVED without it; else the
 * thread still waits: EINTR, ETIMEDOUT, or another errno. */
int fastipam_lock_wait(fastipam_lock *lock, fastipam_waiter *waiter, int64_t deadline_ns);
/* Stop waiting: return 0. When the holder is doing the call, wait for its end: it may be FASTIPAM_SERVED. */
int fastipam_lock_leave(fastipam_lock *lock, fastipam_waiter *waiter);
/* For the holder: take the call of the next waiter in the queue, or return NULL. Its thread waits, whatever
 * happens, until fastipam_lock_settle. */
fastipam_waiter *fastipam_lock_claim(fastipam_lock *lock);
/* For the holder: the calls that were claimed and done are served, if they are committed. The threads of all
 * others wait again, in their places, and have to call for themselves. */
void fastipam_lock_settle(fastipam_lock *lock, int committed);
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
/* Find the same of a directory, and the time of its last change, by the wall clock: no entry of it was made,
 * renamed or removed since. Return -1 with errno when there is none. */
typedef struct fastipam_directory {
    uint64_t device, inode;
    int64_t changed_ns;
} fastipam_directory;
int fastipam_look_at(const char *path, fastipam_directory *found);
/* Keep the descriptors of this file from the programs that this process starts. LMDB forgets one of its. */
void fastipam_close_on_exec(uint64_t device, uint64_t inode);
int64_t fastipam_monotonic_ns(void);
/* The kernel's number of this thread, and whether a thread of this process has one. */
int fastipam_thread_id(void);
int fastipam_thread_lives(int id);
int fastipam_is_main_thread(int id);

#endif
