"""Virtual time: a queue of events, processes as generators, a store with one request at a time."""

from __future__ import annotations

import random
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

from tests.cluster.memory import MemoryEngine

from fastipam.cluster.engine import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import TypeAlias

    Step: TypeAlias = "float | Call"
    Process = Generator[Step, Any, None]


class Call:
    """A request of a process to the shared store, which calls ``work`` to serve it."""

    __slots__ = ("work", "writes")

    def __init__(self, work: Callable[[MemoryEngine], Any], *, writes: bool) -> None:
        self.work = work
        self.writes = writes


class World:
    """A clock, a queue of events, and a store behind a network.

    A request travels to the store in half of ``round_trip_s`` (times a random factor from 0.5 to
    1.5), waits for the earlier requests and is served. Its answer takes the same way back.
    """

    def __init__(
        self,
        seed: int,
        *,
        writes_per_s: float = 20_000,
        reads_per_s: float = 100_000,
        round_trip_s: float = 0.002,
    ) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.engine = MemoryEngine(clock=lambda: self.now)
        self.round_trip_s = round_trip_s
        self._write_s = 1 / writes_per_s
        self._read_s = 1 / reads_per_s
        self._busy_until = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Call a function at this time."""
        heappush(self._events, (moment, next(self._numbers), act))

    def run(self, until: float = float("inf")) -> None:
        """Run all events up to the time ``until``."""
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heappop(self._events)
            act()
        if until < float("inf"):
            self.now = until

    def start(
        self, process: Process, reaches: Callable[[], bool], lives: Callable[[], bool]
    ) -> None:
        """Run a process, a generator of seconds to sleep and of Calls, to which answers are sent.

        ``reaches`` returns whether the process can reach the store now. When ``lives`` returns
        False, the process ends, as after SIGKILL, but requests that it has sent are still served.
        """
        self._advance(process, None, None, reaches, lives)

    def _advance(
        self,
        process: Process,
        value: Any,
        error: Exception | None,
        reaches: Callable[[], bool],
        lives: Callable[[], bool],
    ) -> None:
        if not lives():
            process.close()
            return
        try:
            step = process.send(value) if error is None else process.throw(error)
        except StopIteration:
            return

        def go_on(value: Any = None, error: Exception | None = None) -> None:
            self._advance(process, value, error, reaches, lives)

        if not isinstance(step, Call):
            self.at(self.now + step, go_on)
        elif not reaches():
            # The real engine reports this for members that accept no connection.
            self.at(self.now + 1.0, lambda: go_on(error=EngineUnavailable("cut off")))
        else:
            self._send(step, go_on)

    def _send(self, call: Call, reply: Callable[[Any], None]) -> None:
        arrives = self.now + self._half_trip()

        def serve() -> None:
            begins = max(self.now, self._busy_until)
            self._busy_until = begins + (self._write_s if call.writes else self._read_s)
            self.at(self._busy_until, finish)

        def finish() -> None:
            answer = call.work(self.engine)
            self.at(self.now + self._half_trip(), lambda: reply(answer))

        self.at(arrives, serve)

    def _half_trip(self) -> float:
        return self.round_trip_s / 2 * (0.5 + self.random.random())


class Waits:
    """Counts of ADDs: how long they waited, and how many failed."""

    def __init__(self) -> None:
        self.served = 0
        self.waited = 0
        self.worst_s = 0.0
        self.seconds: list[float] = []  # the waits of the ADDs that had to wait
        self.failed = 0
        self.failed_though_free = 0
        self.failed_cut_off = 0

    def serve(self, waited_s: float) -> None:
        """Count an ADD that got its address after waiting ``waited_s``."""
        self.served += 1
        if waited_s > 0:
            self.waited += 1
            self.seconds.append(waited_s)
            self.worst_s = max(self.worst_s, waited_s)
