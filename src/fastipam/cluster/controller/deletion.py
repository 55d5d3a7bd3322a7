"""The deletion of a pool: its object is kept until no node owns a block of it.

Agents treat a pool that is being deleted as disabled, and release its blocks as these become empty.
The finalizer is removed when a list shows no block of the pool, and the deletion is so long ago
that every agent that can reach the API has read of it. Until then the condition Deleting says which
nodes own blocks.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastipam.cluster.controller import overlap
from fastipam.cluster.controller.acceptance import FINALIZER
from fastipam.cluster.controller.conditions import (
    DELETING,
    condition,
    replace_status,
    status_of,
    with_condition,
)
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.controller.conditions import Events
    from fastipam.cluster.controller.guard import Guard
    from fastipam.cluster.controller.view import Owned, View
    from fastipam.cluster.registries.kubernetes.client import Client

# Longer than an agent relies on its last reading of the pools for new blocks (I9). So every block
# that it has claimed by then is in the list that is read before the finalizer is removed.
SETTLE_S = 2 * objects.POOLS_FRESH_S
_CALL_S = 5.0
_TELL_S = 60.0  # between two updates of the condition
_MOST_NAMED = 8  # blocks in a condition


class Deletion:
    """Removes the finalizer of deleted pools that have no block left."""

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
        self._since: dict[str, float] = {}  # uid of a pool -> when its deletion was seen
        self._told_at: dict[str, float] = {}  # uid of a pool -> when its condition was written

    def work(self) -> None:
        """Remove the finalizer of deleted pools without blocks; report what holds the others.

        Two requests for each pool that can go. Raises ApiFails.
        """
        going = {
            objects.uid_of(one): one
            for one in self._view.pools().values()
            if one["metadata"].get("deletionTimestamp")
            and FINALIZER in (one["metadata"].get("finalizers") or ())
        }
        self._since = {uid: self._since.get(uid, self._clock()) for uid in going}
        if not going:
            return
        blocks = self._view.blocks()
        used = {one.pool for one in blocks}
        self._told_at = {uid: at for uid, at in self._told_at.items() if uid in going}
        for uid, pool in going.items():
            name = objects.name_of(pool)
            if name in used:
                mine = [one for one in blocks if one.pool == name]
                self._guard.run(f"pool {name}", self._tell, uid, pool, mine)
            was_used = overlap.accepted_spec(pool) is not None
            is_settled = not was_used or self._clock() - self._since[uid] >= SETTLE_S
            if name not in used and is_settled:
                self._guard.run(f"pool {name}", self._let_go, pool)

    def _tell(self, uid: str, pool: dict[str, Any], blocks: Sequence[Owned]) -> None:
        """Write into the pool's status which blocks hold it, and what to type; once a minute."""
        now = self._clock()
        if now < self._told_at.get(uid, -math.inf) + _TELL_S:
            return
        self._told_at[uid] = now
        listed = sorted(blocks, key=lambda one: (one.node, one.whole))
        texts = [f"{one.cidr} (node {one.node})" for one in listed[:_MOST_NAMED]]
        if len(listed) > _MOST_NAMED:
            texts.append(f"{len(listed) - _MOST_NAMED} more")
        message = (
            f"nodes own {len(listed)} {'block' if len(listed) == 1 else 'blocks'} of the pool: "
            f"{', '.join(texts)}; a node releases a block when no pod has an address of it: "
            "`fastipam cluster status` on the node names the pods and the reservations (fastipam "
            "unreserve)"
        )
        before = condition(pool, DELETING)
        if before.get("message") == message:
            return
        conditions = with_condition(pool, DELETING, "True", "BlocksOwned", message, self._now())
        with suppress(Conflict, NotFound):  # changed meanwhile: retried in a minute
            status = status_of(pool) | {"conditions": conditions}
            replace_status(self._client, self._view, pool, status)
            self._step("held")
            if not before:
                self._events.tell(pool, DELETING, message, warning=False)

    def _let_go(self, pool: dict[str, Any]) -> None:
        """Remove the finalizer, unless a node owns a block of the pool."""
        name = objects.name_of(pool)
        listed, _ = self._client.list(objects.BLOCKS, f"spec.pool={name}", deadline_s=_CALL_S)
        if next(listed, None) is not None:
            return
        left = [one for one in pool["metadata"]["finalizers"] if one != FINALIZER]
        metadata = pool["metadata"] | {"finalizers": left}
        with suppress(Conflict, NotFound):
            self._client.replace(objects.POOLS, pool | {"metadata": metadata}, deadline_s=_CALL_S)
            self._step("let go")
