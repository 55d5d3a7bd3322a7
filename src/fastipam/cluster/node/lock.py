"""Who of a node's processes works on its claims: one at a time, as the kernel says."""

from __future__ import annotations

import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.storage.store import Store


class NodeLock:
    """The right of one process (and one thread of it) to work on this node's claims.

    A lock of the kernel's on a file beside the store: it goes with the process that holds it.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, store: Store) -> None:
        self._path = os.path.join(store.path, "cluster.lock")
        self._descriptor = -1

    def try_take(self) -> bool:
        """Take it if nobody has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def give(self) -> None:
        """Let the next one have it."""
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> None:
        while not self.try_take():
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.give()
