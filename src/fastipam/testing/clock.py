"""A wall clock that only a test moves, for the test's process and the processes that it starts."""

from __future__ import annotations

import mmap
import os
import sys
import weakref

from fastipam import processes

_START_NS = 1_700_000_000 * 10**9
_BYTES = 8


class Clock:
    """A wall clock that only a test moves. Calling it returns nanoseconds since the epoch.

    ``now_ns`` can be set too. Forked children share the clock, and so do the processes of
    :meth:`TemporaryStore.command`. Whenever the store of a :class:`TemporaryStore` reads the clock,
    a nanosecond passes. So of two leases the first one has the earlier time: GC and
    :meth:`Network.retain` compare the times of leases.
    """

    def __init__(self, now_ns: int = _START_NS) -> None:
        self._file: int | None = None
        self._cell = memoryview(mmap.mmap(-1, _BYTES)).cast("q")
        self._cell[0] = now_ns

    def __call__(self) -> int:
        return self._cell[0]

    def __repr__(self) -> str:
        return f"Clock({self.now_ns})"

    @property
    def now_ns(self) -> int:
        """The time, in nanoseconds since the epoch."""
        return self._cell[0]

    @now_ns.setter
    def now_ns(self, now_ns: int) -> None:
        self._cell[0] = now_ns

    def advance(self, seconds: float) -> None:
        """Move the clock forwards, or backwards if ``seconds`` is negative.

        For example, a cool-down of 30 s is over after ``advance(31)``.
        """
        self._cell[0] += int(seconds * 1e9)
        forget_looks()

    def tick(self) -> int:
        """Return the time and let a nanosecond pass. A store calls this to read the clock."""
        now_ns = self._cell[0]
        self._cell[0] = now_ns + 1
        return now_ns

    def share(self) -> str:
        """Return the path of a file by which another process opens this clock.

        The file exists as long as the clock. It is below /proc, so only this user's processes that
        can see this process can open it.
        """
        if self._file is None:
            self._file = os.memfd_create("fastipam-clock", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self._file)
            os.ftruncate(self._file, _BYTES)
            cell = memoryview(mmap.mmap(self._file, _BYTES)).cast("q")
            cell[0] = self._cell[0]
            self._cell = cell
        return f"/proc/{os.getpid()}/fd/{self._file}"

    @classmethod
    def of(cls, path: str) -> Clock:
        """Return the clock that another process shares. Raises OSError."""
        clock = cls()
        with open(path, "r+b") as file:
            clock._cell = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("q")
        return clock


def forget_looks() -> None:
    """Discard cached results, so that this process searches for namespaces again.

    The result of a search is reused for a second of the machine's clock. Within that second minutes
    may pass on a test's clock, and namespaces may end.
    """
    vars(processes)["_searches"] = processes.Searches()
    handler = sys.modules.get("fastipam.cni.handler")
    if handler is not None:
        vars(handler)["_services"] = handler.Services()
