"""Priority and fairness of an API server, for the priority level that all agents share.

As kube-apiserver 1.36 has it by default (apiserver: pkg/apis/flowcontrol/bootstrap/default.go,
pkg/util/flowcontrol). All agents are one service account, which is one flow: of the 128 queues of
``workload-low`` it uses 6. The other levels are idle here.

- 600 seats for all, by shares. A level lends what it does not use, and every 10 s the limits are
  set anew by what was used in the 10 s before. So a level that was idle begins with fewer seats
  than its nominal 245.
- A request takes a seat when one is free, else it waits in the shortest of its queues, 15 s at
  most. When that has 50 requests it is answered 429.
- Retry-After is 1 s, is doubled while many are refused, up to 32 s, and falls by one.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.kubernetes_sim.world import World

SERVER_SEATS = 600
# Level -> shares, the part of its seats that it lends (percent).
LEVELS = {
    "system": (30, 33),
    "node-high": (40, 25),
    "leader-election": (10, 0),
    "workload-high": (40, 50),
    "workload-low": (100, 90),
    "global-default": (20, 50),
    "catch-all": (5, 0),
}
LEVEL = "workload-low"
QUEUES, QUEUE_LENGTH = 6, 50
WAIT_S = 15.0
ADJUST_S = 10.0
_SMOOTHING = 0.977
_LONGEST_RETRY_S = 32


def _seats(name: str) -> tuple[int, int]:
    """Return a level's nominal seats, and those that it keeps."""
    shares, lent = LEVELS[name]
    nominal = math.ceil(SERVER_SEATS * shares / sum(one for one, _ in LEVELS.values()))
    return nominal, nominal - math.floor(nominal * lent / 100 + 0.5)


def allocate(demand: float, high: int) -> int:
    """Return the level's seats for a smoothed demand and a highest one, all others idle."""
    bounds, targets = [], []
    for name in LEVELS:
        nominal, kept = _seats(name)
        low = max(kept, min(nominal, high)) if name == LEVEL else kept
        bounds.append(low)
        targets.append(max(low, demand) if name == LEVEL else low)
    # Each gets its target times one factor, and not less than its bound; none reaches its upper
    # bound, which is its nominal seats and 600 more.
    free = set(range(len(bounds)))
    while True:
        left = SERVER_SEATS - sum(bounds[at] for at in range(len(bounds)) if at not in free)
        factor = left / sum(targets[at] for at in free)
        short = {at for at in free if targets[at] * factor < bounds[at]}
        if not short:
            break
        free -= short
    mine = list(LEVELS).index(LEVEL)
    return math.floor(max(bounds[mine], targets[mine] * factor) + 0.5)


IDLE_SEATS = allocate(0.0, 0)


class Work:
    """A request before the server: ``seats`` while it runs, ``linger_s`` after it has run."""

    __slots__ = ("has_begun", "is_wanted", "linger_s", "queue", "seats", "start")

    def __init__(self, seats: int, linger_s: float, start: Callable[[], None]) -> None:
        self.seats = seats
        self.linger_s = linger_s
        self.start = start
        self.has_begun = False
        self.is_wanted = True  # its client has not gone away
        self.queue: int | None = None


class Level:
    """The queues and the seats of the priority level. ``phase_s``: when its limit is set next."""

    def __init__(self, world: World, phase_s: float) -> None:
        self.limit = IDLE_SEATS
        self.refused = 0
        self._world = world
        self._queues: list[deque[Work]] = [deque() for _ in range(QUEUES)]
        self._seats = [0] * QUEUES  # that the requests of a queue want
        self._came = self._went = 0  # requests: the queues take turns
        self._used = self._running = 0
        self._waiting = 0  # seats that waiting requests want
        self._demand = 0.0
        # The demand since the limit was set: the highest, and its integrals.
        self._high = self._sum = self._squares = 0.0
        self._since = self._began = world.now
        self._smoothed = 0.0
        self._history: list[tuple[int, int]] = []  # second, refused in it
        self._second, self._count = -1, 0
        self._retry_s, self._retry_at = 1, -100
        world.at(phase_s, self._adjust)

    def arrive(self, work: Work, refuse: Callable[[int], None]) -> None:
        """Start it, queue it, or refuse it with a Retry-After."""
        if not work.is_wanted:
            return
        self._came += 1
        at = min(((self._came + at) % QUEUES for at in range(QUEUES)), key=self._seats.__getitem__)
        queue = self._queues[at]
        # As there: while some seats are free, but too few for the next request, a queue grows on.
        if self._used >= self.limit and len(queue) >= QUEUE_LENGTH:
            self._drop(refuse)
            return
        queue.append(work)
        work.queue = at
        self._wait(work, 1)
        self._dispatch()
        if not work.has_begun:
            self._world.at(self._world.now + WAIT_S, lambda: self._expire(work, refuse))

    def cancel(self, work: Work) -> bool:
        """Take a request out of its queue, if it has not begun."""
        work.is_wanted = False
        if work.has_begun or work.queue is None:
            return False
        self._queues[work.queue].remove(work)
        self._wait(work, -1)
        work.queue = None
        return True

    def _wait(self, work: Work, more: int) -> None:
        assert work.queue is not None
        self._seats[work.queue] += more * work.seats
        self._waiting += more * work.seats
        self._note()

    def finish(self, work: Work) -> None:
        """Note that a request was answered; its seats stay taken while it lingers."""
        self._running -= 1
        if work.linger_s:
            self._world.at(self._world.now + work.linger_s, lambda: self._release(work))
        else:
            self._release(work)

    def _release(self, work: Work) -> None:
        self._used -= work.seats
        self._note()
        self._dispatch()

    def _expire(self, work: Work, refuse: Callable[[int], None]) -> None:
        if self.cancel(work):
            self._drop(refuse)

    def _dispatch(self) -> None:
        while self._waiting:
            while not self._queues[self._went % QUEUES]:
                self._went += 1
            queue = self._queues[self._went % QUEUES]
            work = queue[0]
            # One that wants more seats than there are runs alone.
            if self._used + work.seats > self.limit and (self._running or work.seats <= self.limit):
                return
            queue.popleft()
            self._went += 1
            work.has_begun = True
            self._used += work.seats
            self._running += 1
            self._wait(work, -1)
            work.start()

    # Retry-After.

    def _drop(self, refuse: Callable[[int], None]) -> None:
        self.refused += 1
        second = int(self._world.now)
        if second == self._second:
            self._count += 1
        else:
            self._history.append((self._second, self._count))
            self._second, self._count = second, 1
            self._update_retry(second)
        refuse(self._retry_s)

    def _update_retry(self, second: int) -> None:
        dropped = sum(n for at, n in self._history if second - self._retry_s <= at < second)
        if second - self._retry_at >= self._retry_s and dropped >= 3 * self._retry_s:
            self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)
            self._retry_at = second
        elif dropped < self._retry_s and self._retry_s > 1:
            self._retry_s -= 1

    # Seats that are lent and borrowed.

    def _note(self) -> None:
        self._integrate()
        self._demand = float(self._used + self._waiting)
        self._high = max(self._high, self._demand)

    def _integrate(self) -> None:
        seconds = self._world.now - self._since
        self._sum += seconds * self._demand
        self._squares += seconds * self._demand**2
        self._since = self._world.now

    def _adjust(self) -> None:
        self._integrate()
        seconds = self._world.now - self._began
        if seconds > 0:
            mean = self._sum / seconds
            envelope = mean + math.sqrt(max(0.0, self._squares / seconds - mean**2))
            faded = _SMOOTHING * self._smoothed + (1 - _SMOOTHING) * envelope
            self._smoothed = max(envelope, faded)
        self.limit = allocate(self._smoothed, round(self._high))
        self._high, self._sum, self._squares = self._demand, 0.0, 0.0
        self._began = self._world.now
        self._world.at(self._world.now + ADJUST_S, self._adjust)
        self._dispatch()
