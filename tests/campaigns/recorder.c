/*
 * Preloaded into a program, writes down what it does to the files below a directory.
 *
 * FASTIPAM_RECORD_DIR is the directory, FASTIPAM_RECORD the file that the records are appended to, each
 * in one write: kind, flag, length of the path, length of the data, offset, path, data. A write
 * is recorded before it is made, and once more, without data, when it has returned; what makes
 * something durable is recorded when it has returned. powercut.py reads the records.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LARGEST = 64 << 20 };

struct __attribute__((packed)) head {
	char kind, flag;
	uint16_t path;
	uint32_t data;
	int64_t offset;
};

static void record(char kind, char flag, const char *path, int64_t offset, const struct iovec *data,
		   int parts)
{
	static int out = -2;
	struct iovec all[2 + IOV_MAX];
	struct head head = { kind, flag, (uint16_t)strlen(path), 0, offset };
	int at, saved = errno;
	if (out == -2)
		out = (int)syscall(SYS_openat, AT_FDCWD, getenv("FASTIPAM_RECORD"),
				   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	all[0] = (struct iovec){ &head, sizeof head };
	all[1] = (struct iovec){ (void *)path, head.path };
	for (at = 0; at < parts; at++) {
		all[2 + at] = data[at];
		head.data += (uint32_t)data[at].iov_len;
	}
	if (out < 0 || syscall(SYS_writev, out, all, 2 + parts) !=
			       (ssize_t)(sizeof head + head.path + head.data))
		abort();
	errno = saved;
}

/* The path of a descriptor if it is below the directory, else NULL. */
static const char *watched(int fd)
{
	static __thread char path[PATH_MAX];
	static const char *directory;
	char link[40];
	ssize_t n;
	int saved = errno;
	if (!directory && !(directory = getenv("FASTIPAM_RECORD_DIR")))
		return NULL;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof path - 1);
	errno = saved;
	if (n <= 0)
		return NULL;
	path[n] = 0;
	return strncmp(path, directory, strlen(directory)) == 0 ? path : NULL;
}

static const char *below(const char *path)
{
	const char *directory = getenv("FASTIPAM_RECORD_DIR");
	return directory && strncmp(path, directory, strlen(directory)) == 0 ? path : NULL;
}

/* 'd': the write is on the disk when it returns. */
static char through(int fd)
{
	return fcntl(fd, F_GETFL) & O_DSYNC ? 'd' : '-';
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

static off_t place(int fd)
{
	return fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
}

#define WRITE(name, parameters, call, where, ...)                            \
	ssize_t name parameters                                              \
	{                                                                    \
		REAL(name);                                                  \
		const char *path = watched(fd);                              \
		ssize_t n;                                                   \
		if (!path)                                                   \
			return real call;                                    \
		int64_t offset = where;                                      \
		record('W', through(fd), path, offset, __VA_ARGS__);         \
		n = real call;                                               \
		record('w', n < 0 ? '!' : through(fd), path, offset, NULL, 0); \
		return n;                                                    \
	}

#define ONE (&(struct iovec){ (void *)data, size }), 1

WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), place(fd), ONE)
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), at, ONE)
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), at, ONE)
WRITE(writev, (int fd, const struct iovec *v, int n_v), (fd, v, n_v), place(fd), v, n_v)
WRITE(pwritev, (int fd, const struct iovec *v, int n_v, off_t at), (fd, v, n_v, at), at, v, n_v)
WRITE(pwritev64, (int fd, const struct iovec *v, int n_v, off64_t at), (fd, v, n_v, at), at, v, n_v)

#define SYNC(name)                                                   \
	int name(int fd)                                             \
	{                                                            \
		REAL(name);                                          \
		int rc = real(fd);                                   \
		const char *path = watched(fd);                      \
		if (path && rc == 0)                                 \
			record('S', '-', path, 0, NULL, 0);          \
		return rc;                                           \
	}

SYNC(fsync)
SYNC(fdatasync)

int ftruncate(int fd, off_t size)
{
	REAL(ftruncate);
	const char *path = watched(fd);
	if (path)
		record('T', '-', path, size, NULL, 0);
	return real(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
	REAL(ftruncate64);
	const char *path = watched(fd);
	if (path)
		record('T', '-', path, size, NULL, 0);
	return real(fd, size);
}

/* Nothing of ours is written through a memory map: a program that does has to be seen. */
void *mmap(void *address, size_t size, int access, int flags, int fd, off_t offset)
{
	REAL(mmap);
	const char *path = fd >= 0 && (access & PROT_WRITE) && (flags & MAP_SHARED) ? watched(fd) : NULL;
	if (path)
		record('M', '-', path, 0, NULL, 0);
	return real(address, size, access, flags, fd, offset);
}

/*
 * A change of a name and its record are one step for all programs: a program that opens what another
 * has just made would write down its own write before the file exists.
 */
static int begin_names(const char *path)
{
	int lock;
	if (!below(path))
		return -1;
	lock = (int)syscall(SYS_openat, AT_FDCWD, getenv("FASTIPAM_RECORD_DIR"), O_RDONLY | O_CLOEXEC);
	if (lock < 0 || flock(lock, LOCK_EX) != 0)
		abort();
	return lock;
}

static void end_names(int lock)
{
	int saved = errno;
	if (lock >= 0)
		syscall(SYS_close, lock); /* and with it the lock */
	errno = saved;
}

#define PAIR(name)                                                                      \
	int name(const char *from, const char *to)                                      \
	{                                                                               \
		REAL(name);                                                             \
		int lock = begin_names(from);                                           \
		int rc = real(from, to);                                                \
		if (rc == 0 && lock >= 0)                                               \
			record(#name[0], '-', from, 0, &(struct iovec){ (void *)to, strlen(to) }, 1); \
		end_names(lock);                                                        \
		return rc;                                                              \
	}

PAIR(rename)
PAIR(link)

int unlink(const char *path)
{
	REAL(unlink);
	int lock = begin_names(path);
	int rc = real(path);
	if (rc == 0 && lock >= 0)
		record('u', '-', path, 0, NULL, 0);
	end_names(lock);
	return rc;
}

int mkdir(const char *path, mode_t mode)
{
	REAL(mkdir);
	int lock = begin_names(path);
	int rc = real(path, mode);
	if (rc == 0 && lock >= 0)
		record('m', '-', path, 0, NULL, 0);
	end_names(lock);
	return rc;
}

static void note_creation(int fd, int flags, int was_there)
{
	const char *path = fd >= 0 && (flags & O_CREAT) && !was_there ? watched(fd) : NULL;
	if (path)
		record('c', '-', path, 0, NULL, 0);
}

#define OPEN(name)                                                   \
	int name(const char *path, int flags, ...)                   \
	{                                                            \
		REAL(name);                                          \
		struct stat status;                                  \
		va_list rest;                                        \
		va_start(rest, flags);                               \
		mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
		va_end(rest);                                        \
		int lock = begin_names(path);                        \
		int there = !(flags & O_CREAT) || stat(path, &status) == 0; \
		int fd = real(path, flags, mode);                    \
		note_creation(fd, flags, there);                     \
		end_names(lock);                                     \
		return fd;                                           \
	}

OPEN(open)
OPEN(open64)
