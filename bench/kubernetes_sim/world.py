"""Virtual time for code that blocks: each process is a greenlet, and a wait is an event.

The registry, its client and the planner are called as in an agent. While they wait, the world runs
the next event. Nothing here reads a real clock, so the same seed gives the same figures.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from fastipam.cluster.engines import http, pool
from fastipam.cluster.node import identity, node
from fastipam.cluster.registries.kubernetes import client, stream, watch

if TYPE_CHECKING:
    from collections.abc import Callable


class World:
    """A clock and a queue of events. Clients use its time after :meth:`take_clocks`."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._hub = getcurrent()

    def take_clocks(self) -> None:
        """Give the client's modules this world's clock and random numbers, for good."""
        virtual = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        for module in (client, http, pool, stream, watch):
            vars(module)["time"] = virtual
        chance = SimpleNamespace(urandom=self.random.randbytes, getpid=lambda: 1)
        for module in (client, identity, node, pool):
            vars(module)["os"] = chance

    def at(self, moment: float, act: Callable[[], object]) -> None:
        """Call a function at this time."""
        heappush(self._events, (moment, next(self._numbers), act))

    def run(self, until: float = float("inf"), done: Callable[[], bool] = lambda: False) -> None:
        """Run all events up to the time ``until``, or until ``done`` returns True."""
        while self._events and self._events[0][0] <= until and not done():
            self.now, _, act = heappop(self._events)
            act()

    def start(self, process: Callable[[], object], moment: float = 0.0) -> None:
        """Run a process from this time on. An exception of the process ends the simulation."""
        self.at(max(self.now, moment), greenlet(process, parent=self._hub).switch)

    def sleep(self, seconds: float) -> None:
        """Let the calling process wait."""
        self.at(self.now + max(0.0, seconds), getcurrent().switch)
        self._hub.switch()

    def wait(self, box: Box, until: float) -> bool:
        """Let the calling process wait for an answer; return False if it did not come in time."""
        if not box.is_full:
            box.waiter = mine = getcurrent().switch
            self.at(max(until, self.now), lambda: box.give_up(mine))
            self._hub.switch()
            box.waiter = None
        return box.is_full


class Box:
    """A place for an answer that a process waits for: first empty, then full."""

    __slots__ = ("_world", "is_full", "value", "waiter")

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_full = False
        self.value: Any = None
        self.waiter: Callable[[], object] | None = None

    def fill(self, value: Any = None) -> None:
        """Put the answer in, and wake the waiting process."""
        self.is_full, self.value = True, value
        self._wake()

    def empty(self) -> None:
        """Remove the answer, to make room for the next one."""
        self.is_full, self.value = False, None

    def give_up(self, waiter: Callable[[], object]) -> None:
        """Wake the waiting process, if it is still in the same wait."""
        if self.waiter is waiter:
            self._wake()

    def _wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            self._world.at(self._world.now, waiter)
