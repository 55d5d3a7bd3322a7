"""The lock that lets one thread of one process write to a store at a time."""

from __future__ import annotations

import fcntl
import os
from _thread import allocate_lock

from fastipam.storage.directory import TURN_FILE


class Turn:
    """Who writes next: one thread of this process, and one process at a time.

    LMDB has a lock for that, a robust mutex in shared memory; but a process that is killed just
    when it was woken to take its turn takes the wake-up with it, and those who wait behind it may
    sleep until somebody else comes by. (Four writers, one killed: one run in fifteen ended so.) A
    lock of the kernel's knows who waits; behind it nobody ever waits for LMDB's mutex, which
    still sees to it that there is one writer. It is a POSIX lock: a forked child inherits none.
    """

    __slots__ = ("_descriptor", "_threads")

    def __init__(self, path: str) -> None:
        self._threads = allocate_lock()
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(os.path.join(path, TURN_FILE), flags)

    def take(self) -> None:
        """Wait until it is this thread's turn."""
        self._threads.acquire()
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise

    def give(self) -> None:
        """Let the next one have it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)
