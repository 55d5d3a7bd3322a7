"""A wall clock that only a test moves, in the test's process and in those that it starts."""

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

    ``now_ns`` can be set, too. Children that are forked have the same clock, and so have the
    processes of :meth:`TemporaryStore.command`. A nanosecond passes whenever the store of a
    :class:`TemporaryStore` reads it, so that what was assigned first is older: GC and
    :meth:`Network.retain` compare times.
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
        """Nanoseconds since the epoch."""
        return self._cell[0]

    @now_ns.setter
    def now_ns(self, now_ns: int) -> None:
        self._cell[0] = now_ns

    def advance(self, seconds: float) -> None:
        """Move the clock, backwards if ``seconds`` is negative.

        A cool-down of 30 s is over after ``advance(31)``.
        """
        self._cell[0] += int(seconds * 1e9)
        forget_looks()

    def tick(self) -> int:
        """Return the time, after which a nanosecond passes: what a store calls."""
        now_ns = self._cell[0]
        self._cell[0] = now_ns + 1
        return now_ns

    def share(self) -> str:
        """Return the path of a file with which another process opens this clock.

        It is there as long as the clock is, and is for this user's processes that see this one.
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
    """Make this process search for namespaces again, without the last result.

    The result of a search is used for one second of the machine's clock. In a test, minutes may
    have passed in that time, and namespaces have ended.
    """
    vars(processes)["_searches"] = processes.Searches()
    handler = sys.modules.get("fastipam.cni.handler")
    if handler is not None:
        vars(handler)["_services"] = handler.Services()
