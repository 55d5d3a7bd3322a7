"""The controller: what its leader does in each turn. Claims, ADD and DEL never need it.

It checks the whole state in every turn; an event only makes the next turn come sooner. If a turn
does not finish, the next turn continues its work, in this process or in another one.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.cluster.controller.acceptance import Acceptance
from fastipam.cluster.controller.conditions import ACCEPTED, Events, condition
from fastipam.cluster.controller.deletion import Deletion
from fastipam.cluster.controller.first_pools import FirstPools
from fastipam.cluster.controller.guard import ApiFails, Guard
from fastipam.cluster.controller.node_cidrs import NodeCIDRs
from fastipam.cluster.controller.reclaim import RECLAIM_AFTER_S, Reclaim
from fastipam.cluster.controller.usage import Usage
from fastipam.cluster.controller.view import View
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.registries.kubernetes.client import Client

log = logging.getLogger("fastipam.controller")

TICK_S = 1.0  # between two turns while nothing wakes the controller
_LONGEST_PAUSE_S = 30.0


class State(NamedTuple):
    """The numbers of a controller, for its metrics."""

    pools: dict[str, str]  # pool -> the status of its condition Accepted
    blocks: int
    nodes: int
    orphans: int
    waiting: int
    removed: int
    freed: int
    failures: int


class Controller:
    """Accepts and deletes pools, counts their use, and removes nodes. For one thread.

    ``pools`` are created if they are absent. ``clock`` returns seconds, ``now`` the seconds since
    1970. ``step`` is called after each change and each list, with a name, for tests.
    """

    def __init__(
        self,
        client: Client,
        *,
        reclaim_after_s: float = RECLAIM_AFTER_S,
        pools: Sequence[dict[str, Any]] = (),
        is_leading: Callable[[], bool] = lambda: True,
        wake: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.view = View(client, wake)
        self._is_leading = is_leading
        self._led = False
        self._pauses = 0
        self._guard = guard = Guard(clock)
        events = Events(client, now)
        usage = Usage(client, self.view, events, guard, clock=clock, now=now, step=step)
        self._reclaim = Reclaim(
            client,
            self.view,
            guard,
            reclaim_after_s=reclaim_after_s,
            clock=clock,
            now=now,
            step=step,
        )
        first = FirstPools(client, self.view, guard, pools, step=step)
        node_cidrs = NodeCIDRs(client, self.view, events, guard, now=now, step=step)
        acceptance = Acceptance(
            client, self.view, usage, node_cidrs, events, guard, now=now, step=step
        )
        deletion = Deletion(client, self.view, events, guard, clock=clock, now=now, step=step)
        self._parts: tuple[Callable[[], None], ...] = (
            first.work,
            acceptance.work,
            deletion.work,
            self._reclaim.work,
            node_cidrs.work,
            usage.work,
            guard.tidy,
        )

    def turn(self) -> float:
        """Do what is due, if this process leads; return the seconds until the next turn.

        Raises nothing.
        """
        if not self._is_leading():
            self._led = False
            return TICK_S
        try:
            if not self._led:
                # A new leader reads the current state, because its watches may be behind.
                self.view.load()
                self._reclaim.begin()
                self._led = True
            for part in self._parts:
                if not self._is_leading():
                    break
                part()
        except (ApiFails, FastipamError) as error:
            log.warning("a request to the API failed: %s", error)
            return self._pause()
        except Exception:
            log.exception("internal error in the controller")
            return self._pause()
        self._pauses = 0
        return TICK_S

    def _pause(self) -> float:
        self._pauses += 1
        return min(TICK_S * float(1 << min(self._pauses, 10)), _LONGEST_PAUSE_S)

    def state(self) -> State:
        """Return the present numbers. O(nodes + blocks + pools). For any thread."""
        told = {name: condition(one, ACCEPTED) for name, one in self.view.pools().items()}
        return State(
            {name: str(one.get("status", "Unknown")) for name, one in told.items()},
            self.view.count_blocks(),
            sum(1 for one in self.view.entries().values() if one.incarnation),
            self._reclaim.orphans(),
            self._reclaim.waiting,
            self._reclaim.removed,
            self._reclaim.freed,
            self._guard.failures,
        )
