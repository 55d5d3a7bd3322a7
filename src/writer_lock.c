/* The lock of a store's writers: between the processes of a machine, and between the threads of one.
 *
 * Between processes it is an open-file-description lock (F_OFD_SETLKW). The kernel releases it
 * when the process that holds it dies, and serves waiting processes in order. Unlike a POSIX
 * lock it belongs to the open description, not to the process: two threads of one process that
 * wait for the locks of two stores are not taken for a deadlock. Processes that share the
 * description share the lock, so a forked child closes its copy before fork() returns. Else the
 * lock of a killed parent would stay with the child, which does not know of it.
 *
 * Between the threads of a process it is a queue. Only its first thread asks the kernel. The
 * holder may run the calls of waiting threads, in the order of the queue, and commit them with
 * its own.
 *
 * How a wait is bounded: F_OFD_SETLKW has no timeout, and any signal that interrupts it could be
 * one that the application uses. So a thread that finds the lock taken starts a helper thread,
 * which waits in the kernel. The thread itself waits for the helper on a futex, which has a
 * timeout and is interrupted by signals. When the thread gives up, its helper cannot be
 * interrupted: it keeps the description, and closes it when the kernel grants the lock, which
 * releases the lock. If another thread asks for the lock before that, it takes over this helper.
 * So each file has at most one helper without a thread, however many threads give up while the
 * holder is stopped. */
#define _GNU_SOURCE
#include "writer_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

/* glibc 2.32 and 2.34 moved these functions and gave them new symbol versions. The old versions are
 * the same functions, and a wheel that uses them runs on an older glibc than it was built with. */
#if defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))
#ifdef __x86_64__
#define OLDEST "GLIBC_2.2.5"
#else
#define OLDEST "GLIBC_2.17"
#endif
__asm__(".symver pthread_create,pthread_create@" OLDEST);
__asm__(".symver pthread_once,pthread_once@" OLDEST);
__asm__(".symver pthread_sigmask,pthread_sigmask@" OLDEST);
__asm__(".symver pthread_attr_setstacksize,pthread_attr_setstacksize@" OLDEST);
#endif

#ifndef F_OFD_SETLK /* of the kernel since 3.15 */
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

/* An open description; all are in one list, so that a forked child can close them. */
typedef struct file {
    int descriptor;
    struct file *next, **link;
} file;

enum { WAITING, LOCKED, FAILED, ABANDONED };

/* The states of a waiter. QUEUED: in the queue. FIRST: at its head, so it may ask the kernel.
 * CLAIMED: the holder has taken its call, and its commit is still to come. SERVED: the holder has
 * committed the call. */
enum { QUEUED, FIRST, CLAIMED, SERVED };

/* A wait in the kernel, shared by the thread that wants the lock and the helper thread. */
typedef struct request {
    uint32_t state; /* a futex */
    int error;
    int users; /* the last one frees it */
    file *file;
    uint64_t device, inode; /* of the file, once the thread has given up */
    struct request *next;
} request;

struct fastipam_lock {
    pthread_mutex_t mutex; /* held for a few instructions, never while a thread waits */
    file *file;            /* NULL after a helper has kept it */
    int held;
    pthread_t holder; /* while it is held */
    fastipam_waiter *first, *last;
    request *request; /* of the first waiter to the kernel, or NULL */
    unsigned fork;    /* the value of forks when the lock was opened */
    char path[];
};

static pthread_mutex_t files_mutex = PTHREAD_MUTEX_INITIALIZER;
static file *files;
static request *given_up; /* requests without a thread; their helpers wait. Under files_mutex */
static unsigned forks; /* how many forks this process is away from the first one */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before_fork(void) { pthread_mutex_lock(&files_mutex); }

static void after_fork(void) { pthread_mutex_unlock(&files_mutex); }

static void in_child(void) {
    for (file *one = files; one; one = one->next) close(one->descriptor);
    files = NULL; /* their memory belongs to locks of the parent, which the child must not use */
    given_up = NULL;
    forks++;
    pthread_mutex_unlock(&files_mutex);
}

static void watch_forks(void) { pthread_atfork(before_fork, after_fork, in_child); }

static file *open_file(const char *path) {
    file *one = malloc(sizeof *one);
    if (!one) return NULL;
    /* Opened and listed in one step: a fork in between would copy a description that is not listed. */
    pthread_mutex_lock(&files_mutex);
    one->descriptor = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    int error = errno;
    if (one->descriptor >= 0) {
        one->next = files;
        one->link = &files;
        if (files) files->link = &one->next;
        files = one;
    }
    pthread_mutex_unlock(&files_mutex);
    if (one->descriptor >= 0) return one;
    free(one);
    errno = error;
    return NULL;
}

static void close_file(file *one) {
    pthread_mutex_lock(&files_mutex);
    *one->link = one->next;
    if (one->next) one->next->link = one->link;
    close(one->descriptor);
    pthread_mutex_unlock(&files_mutex);
    free(one);
}

static int set_lock(int descriptor, int command, short type) {
    struct flock whole = {.l_type = type, .l_whence = SEEK_SET};
    return fcntl(descriptor, command, &whole) ? errno : 0;
}

static void wake(uint32_t *futex) { syscall(SYS_futex, futex, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }

/* Wait until *futex is no longer `value`. Return 0, EINTR or ETIMEDOUT. */
static int wait_while(uint32_t *futex, uint32_t value, int64_t deadline_ns) {
    int64_t left = deadline_ns - fastipam_monotonic_ns();
    if (left <= 0) return ETIMEDOUT;
    struct timespec time = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    if (!syscall(SYS_futex, futex, FUTEX_WAIT_PRIVATE, value, &time, NULL, 0)) return 0;
    return errno == EAGAIN ? 0 : errno;
}

static void drop(request *one) {
    if (!__atomic_sub_fetch(&one->users, 1, __ATOMIC_ACQ_REL)) free(one);
}

static void *ask_kernel(void *argument) {
    request *one = argument;
    int error;
    do error = set_lock(one->file->descriptor, F_OFD_SETLKW, F_WRLCK);
    while (error == EINTR);
    one->error = error;
    if (__atomic_exchange_n(&one->state, error ? FAILED : LOCKED, __ATOMIC_ACQ_REL) == WAITING)
        wake(&one->state);
    else
        close_file(one->file); /* the thread has given up: closing releases the lock */
    drop(one);
    return NULL;
}

/* Start a helper thread that waits in the kernel. Return the request, or NULL without a thread. */
static request *start_helper(file *file) {
    request *one = malloc(sizeof *one);
    if (!one) return NULL;
    *one = (request){.state = WAITING, .users = 2, .file = file};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN < 65536 ? 65536 : PTHREAD_STACK_MIN);
    sigset_t all, before; /* signals are for the application's threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int error = pthread_create(&thread, &attributes, ask_kernel, one);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (!error) return one;
    free(one);
    return NULL;
}

static int identify(int directory, const char *path, int flags, uint64_t *device, uint64_t *inode) {
    struct statx status;
    if (statx(directory, path, flags, STATX_INO, &status)) return -1;
    *device = makedev(status.stx_dev_major, status.stx_dev_minor);
    *inode = status.stx_ino;
    return 0;
}

int fastipam_identify(const char *path, uint64_t *device, uint64_t *inode) {
    return identify(AT_FDCWD, path, 0, device, inode);
}

int fastipam_look_at(const char *path, fastipam_directory *found) {
    struct statx status;
    if (statx(AT_FDCWD, path, 0, STATX_INO | STATX_CTIME, &status)) return -1;
    if (!(status.stx_mask & STATX_CTIME)) return -1; /* a file system without it */
    found->device = makedev(status.stx_dev_major, status.stx_dev_minor);
    found->inode = status.stx_ino;
    found->changed_ns = status.stx_ctime.tv_sec * 1000000000 + status.stx_ctime.tv_nsec;
    return 0;
}

void fastipam_close_on_exec(uint64_t device, uint64_t inode) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    for (int one = 0; (rlim_t)one < limit.rlim_cur; one++) {
        uint64_t found[2];
        int flags = fcntl(one, F_GETFD);
        if (flags < 0 || flags & FD_CLOEXEC) continue;
        if (identify(one, "", AT_EMPTY_PATH, &found[0], &found[1])) continue;
        if (found[0] != device || found[1] != inode) continue;
        fcntl(one, F_SETFD, flags | FD_CLOEXEC);
        return;
    }
}

int64_t fastipam_monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int fastipam_thread_id(void) {
    static _Thread_local int id;
    static _Thread_local unsigned of; /* forks + 1 when the id was read; 0: not read yet */
    if (of != forks + 1) {
        id = (int)syscall(SYS_gettid);
        of = forks + 1;
    }
    return id;
}

int fastipam_thread_lives(int id) { return !syscall(SYS_tgkill, getpid(), id, 0); }

int fastipam_is_main_thread(int id) { return id == getpid(); }

fastipam_lock *fastipam_lock_open(const char *path) {
    pthread_once(&once, watch_forks);
    size_t size = strlen(path) + 1;
    fastipam_lock *lock = calloc(1, sizeof *lock + size);
    if (!lock) return NULL;
    memcpy(lock->path, path, size);
    if (*path) lock->file = open_file(path);
    if (*path && !lock->file) {
        int error = errno;
        free(lock);
        errno = error;
        return NULL;
    }
    pthread_mutex_init(&lock->mutex, NULL);
    lock->fork = forks;
    return lock;
}

static void note_holder(fastipam_lock *lock) {
    lock->held = 1;
    lock->holder = pthread_self();
}

/* With the mutex: try to lock without waiting, for a thread that is first in the queue. */
static int try_now(fastipam_lock *lock) {
    if (!*lock->path) {
        note_holder(lock);
        return 0;
    }
    if (!lock->file && !(lock->file = open_file(lock->path))) return errno;
    int error = set_lock(lock->file->descriptor, F_OFD_SETLK, F_WRLCK);
    if (!error) note_holder(lock);
    return error == EACCES ? EAGAIN : error;
}

int fastipam_lock_try(fastipam_lock *lock) {
    pthread_mutex_lock(&lock->mutex);
    int error = lock->held || lock->first ? EAGAIN : try_now(lock);
    pthread_mutex_unlock(&lock->mutex);
    return error;
}

int fastipam_lock_enter(fastipam_lock *lock, fastipam_waiter *waiter, void *call) {
    pthread_mutex_lock(&lock->mutex);
    waiter->thread = pthread_self();
    int is_here = lock->held && pthread_equal(lock->holder, waiter->thread);
    for (fastipam_waiter *one = lock->first; one && !is_here; one = one->next)
        is_here = pthread_equal(one->thread, waiter->thread);
    if (!is_here) {
        waiter->next = NULL;
        waiter->state = !lock->first && !lock->held ? FIRST : QUEUED;
        waiter->call = call;
        waiter->done = 0;
        if (lock->first) lock->last->next = waiter;
        else lock->first = waiter;
        lock->last = waiter;
    }
    pthread_mutex_unlock(&lock->mutex);
    return is_here ? EDEADLK : 0;
}

static void set_state(fastipam_waiter *waiter, uint32_t state) {
    __atomic_store_n(&waiter->state, state, __ATOMIC_RELEASE);
    wake(&waiter->state);
}

/* With the mutex: let the first waiter ask the kernel, unless the lock is held. */
static void call_first(fastipam_lock *lock) {
    if (!lock->first || lock->held) return;
    set_state(lock->first, FIRST);
}

/* With the mutex: take a waiter out of the queue. */
static void unlink_waiter(fastipam_lock *lock, fastipam_waiter *waiter) {
    fastipam_waiter *before = NULL;
    for (fastipam_waiter *one = lock->first; one != waiter; one = one->next) before = one;
    if (before) before->next = waiter->next;
    else lock->first = waiter->next;
    if (lock->last == waiter) lock->last = before;
}

/* With the mutex: read the kernel's answer to the request. Return 0 with the lock, EAGAIN while the
 * helper waits, or another errno. */
static int take_answer(fastipam_lock *lock) {
    request *one = lock->request;
    uint32_t state = __atomic_load_n(&one->state, __ATOMIC_ACQUIRE);
    if (state == WAITING) return EAGAIN;
    int error = one->error;
    lock->request = NULL;
    drop(one);
    if (!error) note_holder(lock);
    return error;
}

static int change(request *one, uint32_t from, uint32_t to) {
    return __atomic_compare_exchange_n(&one->state, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* With the mutex and an open file: take over the helper of a thread that has given up on this file,
 * if there is one. */
static void take_over(fastipam_lock *lock) {
    uint64_t device, inode;
    if (identify(lock->file->descriptor, "", AT_EMPTY_PATH, &device, &inode)) return;
    request *found = NULL;
    pthread_mutex_lock(&files_mutex);
    for (request **link = &given_up; *link && !found;) {
        request *one = *link;
        int is_this = one->device == device && one->inode == inode;
        if (!is_this && __atomic_load_n(&one->state, __ATOMIC_ACQUIRE) == ABANDONED) {
            link = &one->next;
            continue;
        }
        *link = one->next;
        if (is_this && change(one, ABANDONED, WAITING)) found = one;
        else drop(one); /* the kernel has granted the lock to its helper */
    }
    pthread_mutex_unlock(&files_mutex);
    if (!found) return;
    close_file(lock->file);
    lock->file = found->file;
    lock->request = found;
}

/* Give up a request. Return whether its helper still waits, and so keeps the description. */
static int give_up(request *one) {
    if (identify(one->file->descriptor, "", AT_EMPTY_PATH, &one->device, &one->inode))
        one->device = one->inode = 0;
    pthread_mutex_lock(&files_mutex);
    int is_waiting = change(one, WAITING, ABANDONED);
    if (is_waiting) {
        one->next = given_up;
        given_up = one;
    }
    pthread_mutex_unlock(&files_mutex);
    return is_waiting;
}

int fastipam_lock_wait(fastipam_lock *lock, fastipam_waiter *waiter, int64_t deadline_ns) {
    for (;;) {
        uint32_t state = __atomic_load_n(&waiter->state, __ATOMIC_ACQUIRE);
        if (state == QUEUED) {
            int error = wait_while(&waiter->state, QUEUED, deadline_ns);
            if (error) return error;
            continue;
        }
        if (state == CLAIMED) { /* wait without a deadline, until the holder's commit */
            wait_while(&waiter->state, CLAIMED, INT64_MAX);
            continue;
        }
        pthread_mutex_lock(&lock->mutex);
        if (state == SERVED) {
            pthread_mutex_unlock(&lock->mutex); /* the holder does not use the waiter any more */
            return FASTIPAM_SERVED;
        }
        int error = lock->request ? take_answer(lock) : try_now(lock);
        if (error == EAGAIN && !lock->request) take_over(lock);
        if (error == EAGAIN && !lock->request) lock->request = start_helper(lock->file);
        request *asked = error ? lock->request : NULL;
        if (!error) unlink_waiter(lock, waiter);
        pthread_mutex_unlock(&lock->mutex);
        if (error != EAGAIN) return error;
        if (asked) {
            /* Only this thread, the first of the queue, can drop the request, so it stays valid. */
            error = wait_while(&asked->state, WAITING, deadline_ns);
        } else { /* no helper thread can be made: try again in a millisecond */
            int64_t soon = fastipam_monotonic_ns() + 1000000;
            uint32_t never = 0;
            error = wait_while(&never, 0, soon < deadline_ns ? soon : deadline_ns);
            if (error == ETIMEDOUT && soon < deadline_ns) error = 0;
        }
        if (error) return error;
    }
}

int fastipam_lock_leave(fastipam_lock *lock, fastipam_waiter *waiter) {
    if (fastipam_lock_is_forked(lock)) return 0; /* forked in a signal handler: no queue here */
    pthread_mutex_lock(&lock->mutex);
    while (waiter->state == CLAIMED) {
        pthread_mutex_unlock(&lock->mutex);
        wait_while(&waiter->state, CLAIMED, INT64_MAX);
        pthread_mutex_lock(&lock->mutex);
    }
    if (waiter->state == SERVED) {
        pthread_mutex_unlock(&lock->mutex);
        return FASTIPAM_SERVED;
    }
    int was_first = lock->first == waiter;
    unlink_waiter(lock, waiter);
    if (was_first && lock->first) call_first(lock); /* it takes over the request to the kernel */
    else if (was_first && lock->request) {
        request *one = lock->request;
        lock->request = NULL;
        if (give_up(one)) lock->file = NULL;
        else { /* the kernel has answered at this moment */
            set_lock(lock->file->descriptor, F_OFD_SETLK, F_UNLCK);
            drop(one);
        }
    }
    pthread_mutex_unlock(&lock->mutex);
    return 0;
}

fastipam_waiter *fastipam_lock_claim(fastipam_lock *lock) {
    pthread_mutex_lock(&lock->mutex);
    fastipam_waiter *one = lock->first;
    while (one && one->state == CLAIMED) one = one->next;
    if (one && !one->call) one = NULL; /* no later waiter may overtake this one */
    if (one) __atomic_store_n(&one->state, CLAIMED, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&lock->mutex);
    return one;
}

void fastipam_lock_settle(fastipam_lock *lock, int committed) {
    if (fastipam_lock_is_forked(lock)) return;
    pthread_mutex_lock(&lock->mutex);
    for (fastipam_waiter *one = lock->first, *next; one && one->state == CLAIMED; one = next) {
        next = one->next;
        if (committed && one->done) {
            unlink_waiter(lock, one);
            set_state(one, SERVED);
        } else {
            one->call = NULL;
            set_state(one, QUEUED);
        }
    }
    pthread_mutex_unlock(&lock->mutex);
}

void fastipam_lock_release(fastipam_lock *lock) {
    if (fastipam_lock_is_forked(lock)) return; /* the description is closed */
    pthread_mutex_lock(&lock->mutex);
    lock->held = 0;
    if (*lock->path && set_lock(lock->file->descriptor, F_OFD_SETLK, F_UNLCK)) {
        close_file(lock->file); /* closing releases the lock, even when unlocking failed */
        lock->file = NULL;
    }
    call_first(lock);
    pthread_mutex_unlock(&lock->mutex);
}

int fastipam_lock_is_forked(const fastipam_lock *lock) { return lock->fork != forks; }

int fastipam_lock_is_of(fastipam_lock *lock, uint64_t device, uint64_t inode) {
    uint64_t its_device, its_inode; /* without an open file, the next call opens the current one */
    if (!lock->file) return 1;
    if (identify(lock->file->descriptor, "", AT_EMPTY_PATH, &its_device, &its_inode)) return 0;
    return its_device == device && its_inode == inode;
}

void fastipam_lock_close(fastipam_lock *lock) {
    if (lock->file && !fastipam_lock_is_forked(lock)) close_file(lock->file);
    lock->file = NULL;
}

void fastipam_lock_free(fastipam_lock *lock) {
    fastipam_lock_close(lock);
    if (!fastipam_lock_is_forked(lock)) pthread_mutex_destroy(&lock->mutex);
    free(lock);
}
