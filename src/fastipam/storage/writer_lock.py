"""The lock that lets one thread of one process write to a store at a time."""

from __future__ import annotations

import fcntl
import os
from _thread import allocate_lock

from fastipam.storage.directory import WRITER_LOCK_FILE


class WriterLock:
    """The lock that a writer holds: one thread of one process at a time.

    LMDB has its own lock, a robust mutex in shared memory. But a process that is killed just when
    the mutex wakes it loses the wake-up, and those who wait behind it may sleep until another
    writer comes. (With four writers and one killed, one run in fifteen ended so.) The kernel's lock
    knows who waits. Nobody waits for LMDB's mutex behind it; the mutex still ensures that there is
    one writer. It is a POSIX lock, so that a forked child inherits none.
    """

    __slots__ = ("_descriptor", "_threads")

    def __init__(self, path: str) -> None:
        self._threads = allocate_lock()
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(os.path.join(path, WRITER_LOCK_FILE), flags)

    def acquire(self) -> None:
        """Wait until this thread has the lock."""
        self._threads.acquire()
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise

    def release(self) -> None:
        """Release the lock."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def close(self) -> None:
        """Close the lock's file."""
        os.close(self._descriptor)
