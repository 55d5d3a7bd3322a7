# System calls of the agent's loop for which Python has no function, or needs several steps.
#
# After a quiet second each step in Python costs some ten microseconds, because its code and objects
# have left the processor's caches. A request waits for every step between connection and data.

from cpython.exc cimport PyErr_SetFromErrno
from posix.time cimport CLOCK_MONOTONIC, itimerspec
from posix.types cimport gid_t, pid_t, uid_t
from posix.unistd cimport close, read

cdef extern from "sys/timerfd.h" nogil:
    int TFD_CLOEXEC
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int descriptor, int flags, const itimerspec* new, itimerspec* old)

cdef extern from "sys/socket.h" nogil:
    struct ucred:
        pid_t pid
        uid_t uid
        gid_t gid
    int SOL_SOCKET, SO_PEERCRED, SOCK_CLOEXEC, SOCK_NONBLOCK, MSG_DONTWAIT
    int accept4(int descriptor, void* address, unsigned int* size, int flags)
    int getsockopt(int descriptor, int level, int name, void* value, unsigned int* size)
    ssize_t recv(int descriptor, void* data, size_t size, int flags)

cdef enum:
    FIRST_READ = 1 << 16  # bytes: nearly every request is far smaller

cdef char _first[FIRST_READ]  # used only while the GIL is held


def accept(int listener):
    """Accept a connection of a Unix socket, and read what has arrived.

    Return (descriptor, process id, uid, data), or None when no connection waits. The descriptor is
    non-blocking, and the caller closes it. ``data`` is None when nothing has arrived yet, empty
    when nothing will arrive, and at most 64 KiB long. Raises OSError, for example when the process
    has no descriptor left.
    """
    cdef ucred peer
    cdef unsigned int size = sizeof(peer)
    cdef int descriptor = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
    if descriptor < 0:
        if errno == EAGAIN:
            return None
        PyErr_SetFromErrno(OSError)
    try:
        if getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0:
            PyErr_SetFromErrno(OSError)
        return descriptor, peer.pid, peer.uid, _read(descriptor)
    except BaseException:
        close(descriptor)
        raise


cdef object _read(int descriptor):
    cdef ssize_t size = recv(descriptor, _first, FIRST_READ, MSG_DONTWAIT)
    if size < 0:
        return None if errno == EAGAIN else b""
    return PyBytes_FromStringAndSize(_first, size)


@cython.final
cdef class Alarm:
    """A timer that one thread sets and another thread waits for.

    Setting it costs a microsecond, because it wakes no thread.
    """

    cdef int _descriptor

    def __cinit__(self):
        self._descriptor = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)
        if self._descriptor < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        if self._descriptor >= 0:
            close(self._descriptor)

    def set(self, double seconds):
        """Set the timer to expire in ``seconds``; 0 is never. It replaces an earlier setting."""
        cdef itimerspec when
        when.it_interval.tv_sec = when.it_interval.tv_nsec = 0
        when.it_value.tv_sec = <long>seconds
        when.it_value.tv_nsec = <long>((seconds - <long>seconds) * 1e9)
        if timerfd_settime(self._descriptor, 0, &when, NULL) < 0:
            PyErr_SetFromErrno(OSError)

    def wait(self):
        """Wait until the timer expires. Signal handlers run meanwhile, and may raise."""
        cdef uint64_t times
        cdef ssize_t size
        while True:
            with nogil:
                size = read(self._descriptor, &times, sizeof(times))
            if size == sizeof(times):
                return
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
            PyErr_CheckSignals()
