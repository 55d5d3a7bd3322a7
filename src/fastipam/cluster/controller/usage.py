"""How much of each pool is owned and used: counts in its status, and the condition Exhausted.

Blocks are counted by their objects. The agents report how many addresses are in use
(AddressNode.status). A pool's status is written once a minute at most, and only when it changes.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastipam.cluster.controller import overlap
from fastipam.cluster.controller.conditions import (
    EXHAUSTED,
    condition,
    replace_status,
    status_of,
    with_condition,
)
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import Conflict, NotFound
from fastipam.configuration.address_pools import DELETING
from fastipam.configuration.cluster import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.controller.conditions import Events
    from fastipam.cluster.controller.guard import Guard
    from fastipam.cluster.controller.view import View
    from fastipam.cluster.registries.kubernetes.client import Client
    from fastipam.configuration.address_pools import AddressPool

EVERY_S = 60.0


class Usage:
    """Counts the blocks and addresses of each pool, and writes the counts into its status."""

    def __init__(
        self,
        client: Client,
        view: View,
        events: Events,
        guard: Guard,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._view = view
        self._events = events
        self._guard = guard
        self._clock = clock
        self._now = now
        self._step = step
        self._written_at: dict[str, float] = {}
        self._totals: dict[str, tuple[AddressPool, int]] = {}  # name -> pool, usable blocks
        self._owned: Counter[str] = Counter()
        self._used: dict[str, tuple[int, int]] = {}  # pool -> used addresses, all addresses
        self._counted_at = float("-inf")

    def work(self) -> None:
        """Write the counts that have changed. One request per pool. Raises ApiFails."""
        pools = self._view.pools()
        self._written_at = {one: at for one, at in self._written_at.items() if one in pools}
        self._totals = {one: total for one, total in self._totals.items() if one in pools}
        oldest = self._clock() - EVERY_S
        due = [one for one in pools if self._written_at.get(one, oldest) <= oldest]
        if due:
            self._count()
        for name in due:
            if overlap.accepted_spec(pools[name]) is not None:
                self._guard.run(f"usage of {name}", self._write, pools[name])

    def counts(self, pool: dict[str, Any]) -> dict[str, Any]:
        """Return the part of a pool's status that has its counts; the pool is in force."""
        if self._clock() - self._counted_at >= 1.0:
            self._count()
        name, found = objects.name_of(pool), objects.read_pool(pool)
        assert found is not None
        total, owned = self._total(found), self._owned[name]
        said: dict[str, Any] = {"blocks": {"total": total, "owned": owned}}
        used, addresses = self._used.get(name, (0, 0))
        said["used"] = f"{100 * used // addresses}%" if addresses else "0%"
        if owned >= total:
            text = (
                f"nodes own all blocks of the pool ({total}): widen the pool, or add another "
                "one; nodes donate free blocks to each other"
            )
            told = ("True", "NoFreeBlock", text)
        else:
            told = ("False", "FreeBlocks", "")
        said["conditions"] = with_condition(pool, EXHAUSTED, *told, self._now())
        return said

    def _write(self, pool: dict[str, Any]) -> None:
        before = status_of(pool)
        status = before | self.counts(pool)
        if status == before:
            return
        name = objects.name_of(pool)
        self._written_at[name] = self._clock()
        with suppress(Conflict, NotFound):  # changed meanwhile: a later turn retries
            made = replace_status(self._client, self._view, pool, status)
            self._step("status")
            there, was = condition(made, EXHAUSTED), condition(pool, EXHAUSTED)
            if there.get("status") == "True" != was.get("status"):
                self._events.tell(pool, EXHAUSTED, str(there.get("message")), warning=True)

    def _count(self) -> None:
        """Count the owned blocks and the used addresses of each pool. O(blocks + nodes)."""
        self._owned = Counter(one.pool for one in self._view.blocks())
        sums: dict[str, tuple[int, int]] = {}
        for entry in self._view.entries().values():
            if entry.incarnation:
                for pool, used, free in entry.uses:
                    before = sums.get(pool, (0, 0))
                    sums[pool] = before[0] + used, before[1] + used + free
        self._used = sums
        self._counted_at = self._clock()

    def _total(self, pool: AddressPool) -> int:
        """Return how many blocks with a usable address a pool has. O(blocks), once per spec."""
        known = self._totals.get(pool.name)
        if known is None or known[0] != pool:
            (geometry,) = _GEOMETRY.with_pools([_enabled(pool)]).geometries or (None,)
            total = 0 if geometry is None else geometry.count - len(geometry.unusable)
            known = self._totals[pool.name] = pool, total
        return known[1]


_GEOMETRY = Settings({"engine": "kubernetes", "node": "controller"})


def _enabled(pool: AddressPool) -> AddressPool:
    """Return a pool as if it were neither disabled nor being deleted: it has the same blocks."""
    return type(pool)(pool.name, pool.spec | {"disabled": False, DELETING: False})
