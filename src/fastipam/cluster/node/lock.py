"""The lock that only one process of a node holds at a time, to work on the node's claims."""

from __future__ import annotations

import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.storage.store import Store


class NodeLock:
    """The lock that one thread of one process holds while it works on this node's claims.

    It is flock(2) on a file beside the store: the kernel releases it when the process dies.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, store: Store) -> None:
        self._path = os.path.join(store.path, "cluster.lock")
        self._descriptor = -1

    def try_take(self) -> bool:
        """Take the lock; return False if another process or thread has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> None:
        while not self.try_take():
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.release()
