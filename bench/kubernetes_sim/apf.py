"""A model of API Priority and Fairness, for the priority level that all agents share.

It follows the defaults of kube-apiserver 1.36 (pkg/apis/flowcontrol/bootstrap/default.go and
pkg/util/flowcontrol of apiserver). All agents have one service account, which is one flow: it uses
6 of the 128 queues of ``workload-low``. The other levels are idle here.

- All levels together have 600 seats, distributed by shares. A level lends seats that it does not
  use, and every 10 s the limits are set again from the use in the last 10 s. So a level that was
  idle begins with fewer seats than its nominal 245.
- A request takes a seat if one is free. Otherwise it waits in the shortest of its queues, for 15 s
  at most. If that queue has 50 requests, the answer is 429.
- Retry-After is 1 s. It is doubled while many requests are refused, up to 32 s, and otherwise
  falls by 1 s.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.kubernetes_sim.world import World

SERVER_SEATS = 600
# Level -> its shares, and the percentage of its seats that it lends.
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
    """Return a level's nominal seats, and the seats that it never lends."""
    shares, lent = LEVELS[name]
    nominal = math.ceil(SERVER_SEATS * shares / sum(one for one, _ in LEVELS.values()))
    return nominal, nominal - math.floor(nominal * lent / 100 + 0.5)


def allocate(demand: float, high: int) -> int:
    """Return the agents' level's seats, from smoothed and highest demand; other levels idle."""
    bounds, targets = [], []
    for name in LEVELS:
        nominal, kept = _seats(name)
        low = max(kept, min(nominal, high)) if name == LEVEL else kept
        bounds.append(low)
        targets.append(max(low, demand) if name == LEVEL else low)
    # Each level gets its target times one factor, but not less than its bound. No level reaches its
    # upper bound, which is 600 more than its nominal seats.
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
    """A request at the server. It takes ``seats`` while it runs and for ``linger_s`` after that."""

    __slots__ = ("has_begun", "is_wanted", "linger_s", "queue", "seats", "start")

    def __init__(self, seats: int, linger_s: float, start: Callable[[], None]) -> None:
        self.seats = seats
        self.linger_s = linger_s
        self.start = start
        self.has_begun = False
        self.is_wanted = True  # its client still waits
        self.queue: int | None = None


class Level:
    """The queues and seats of the priority level. ``phase_s`` is when its limit is set next."""

    def __init__(self, world: World, phase_s: float) -> None:
        self.limit = IDLE_SEATS
        self.refused = 0
        self._world = world
        self._queues: list[deque[Work]] = [deque() for _ in range(QUEUES)]
        self._seats = [0] * QUEUES  # the seats that the requests in each queue want
        self._came = self._went = 0  # counts of requests, by which the queues take turns
        self._used = self._running = 0
        self._waiting = 0  # the seats that all waiting requests want
        self._demand = 0.0
        # Since the limit was set: the highest demand, and the integrals of demand and its square.
        self._high = self._sum = self._squares = 0.0
        self._since = self._began = world.now
        self._smoothed = 0.0
        self._history: list[tuple[int, int]] = []  # second, and the requests refused in it
        self._second, self._count = -1, 0
        self._retry_s, self._retry_at = 1, -100
        world.at(phase_s, self._adjust)

    def arrive(self, work: Work, refuse: Callable[[int], None]) -> None:
        """Start a request, queue it, or refuse it with a Retry-After."""
        if not work.is_wanted:
            return
        self._came += 1
        at = min(((self._came + at) % QUEUES for at in range(QUEUES)), key=self._seats.__getitem__)
        queue = self._queues[at]
        # As in kube-apiserver, a queue may grow beyond its length while some seats are free, even
        # if they are too few for the next request.
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
        """Remove a request from its queue if it has not begun; return whether it was removed."""
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
        """End a request, which was answered. Its seats stay taken while it lingers."""
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
            # A request that wants more seats than there are runs alone.
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

    # Lending and borrowing of seats.

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
