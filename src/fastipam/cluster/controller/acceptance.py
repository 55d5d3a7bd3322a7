"""The acceptance of pools: two pools that are in force never share an address (I8).

Every write replaces one object by its version, so a conflict shows that somebody has changed it.
First a pool's condition ``Accepted`` becomes ``Unknown`` (reason Pending) for its generation. Then
all pools are listed. A pool that is pending in the list is refused if it shares an address with
what another pool has in force. If it shares an address with another pending pool, the older of the
two (creationTimestamp, uid) wins: the younger one is refused *first*, and the older one is accepted
only after that refusal was written.

This holds with any leader, and with two leaders at once. Take two pools that share an address, each
made pending before its leader has listed the pools. At least one of the two lists shows the other
pool. If the list shows it in force, the leader refuses its own pool. If the list shows it pending,
the leader refuses one of the two pools, by its version in the list. Then a leader that wants to
accept the refused pool gets a conflict, because the pool has another version now.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastipam.cluster.controller import overlap
from fastipam.cluster.controller.conditions import (
    ACCEPTED,
    condition,
    generation_of,
    replace_status,
    status_of,
    with_condition,
)
from fastipam.cluster.controller.node_cidrs import REFUSED
from fastipam.cluster.controller.overlap import Refusal
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.controller.conditions import Events
    from fastipam.cluster.controller.guard import Guard
    from fastipam.cluster.controller.node_cidrs import NodeCIDRs
    from fastipam.cluster.controller.usage import Usage
    from fastipam.cluster.controller.view import View
    from fastipam.cluster.registries.kubernetes.client import Client

FINALIZER = "fastipam.io/blocks"
PENDING = "Pending"
_CALL_S, _LIST_S = 5.0, 20.0
# Reasons for refusals that end when another pool or a block is deleted.
_BY_OTHERS = ("Overlaps", REFUSED, overlap.GATEWAY)


class Acceptance:
    """Decides about pools whose spec has changed, and about refused ones after a deletion."""

    def __init__(
        self,
        client: Client,
        view: View,
        usage: Usage,
        node_cidrs: NodeCIDRs,
        events: Events,
        guard: Guard,
        *,
        now: Callable[[], float] = time.time,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._view = view
        self._usage = usage
        self._node_cidrs = node_cidrs
        self._events = events
        self._guard = guard
        self._now = now
        self._step = step

    def work(self) -> None:
        """Accept or refuse each pool whose decision is due. Raises ApiFails, EngineError.

        A new pool takes three writes, an event, and one list of all pools.
        """
        known = self._view.pools()
        for name, pool in known.items():
            if self._is_due(pool, known):
                self._guard.run(f"pool {name}", self._begin, pool)
        if not any(_is_pending(one) for one in self._view.pools().values()):
            return
        listed, _ = self._client.list(objects.POOLS, deadline_s=_LIST_S)
        pools = {objects.name_of(one): one for one in listed}
        self._step("listed")
        for name in sorted(pools, key=lambda one: _age(pools[one])):
            if _is_pending(pools[name]):
                self._guard.run(f"pool {name}", self._decide, name, pools)

    def _is_due(self, pool: dict[str, Any], known: dict[str, dict[str, Any]]) -> bool:
        """Return whether a pool has to be made pending, by the state the watches last reported."""
        if pool["metadata"].get("deletionTimestamp"):
            return False
        told = condition(pool, ACCEPTED)
        if told.get("observedGeneration") != generation_of(pool):
            return True
        if told.get("status") == "False" and told.get("reason") in _BY_OTHERS:
            return self._refusal(pool, known) is None
        return False

    def _begin(self, pool: dict[str, Any]) -> None:
        """Give a pool the finalizer and make it pending, before the pools are compared."""
        with suppress(Conflict, NotFound):  # it was changed meanwhile: the next turn retries
            held = pool["metadata"].get("finalizers") or []
            if FINALIZER not in held:
                metadata = pool["metadata"] | {"finalizers": [*held, FINALIZER]}
                pool = self._client.replace(
                    objects.POOLS, pool | {"metadata": metadata}, deadline_s=_CALL_S
                )
                self._step("finalizer")
            conditions = with_condition(
                pool, ACCEPTED, "Unknown", PENDING, "it is being compared with the other pools",
                self._now(),
            )  # fmt: skip
            self._write(pool, status_of(pool) | {"conditions": conditions})
            self._step("pending")

    def _decide(self, name: str, pools: dict[str, dict[str, Any]]) -> None:
        """Accept or refuse a pending pool, as listed; put each written pool into ``pools``."""
        pool = pools[name]
        refusal = self._refusal(pool, pools)
        if refusal is None:
            for other in self._rivals(pool, pools):
                if _age(other) < _age(pool):
                    return  # the older pool could not be decided: this pool waits for it
                clash = overlap.conflict(overlap.wanted(other), pool, pool["spec"])
                assert clash is not None
                if not self._refuse(other, clash, pools):
                    return
        refusal = refusal or self._node_cidrs.complete(pool)
        if refusal is not None:
            self._refuse(pool, refusal, pools)
            return
        status = status_of(pool)
        status["accepted"] = {"generation": generation_of(pool), "spec": pool["spec"]}
        status["conditions"] = with_condition(
            pool,
            ACCEPTED,
            "True",
            "Accepted",
            "the nodes use the pool as it is written",
            self._now(),
        )
        status |= self._usage.counts(pool | {"status": status})
        with suppress(Conflict, NotFound):
            pools[name] = self._write(pool, status)
            self._step("accepted")
            cidr = pool["spec"]["cidr"]
            self._events.tell(pool, "Accepted", f"{cidr} is in force", warning=False)

    def _refuse(
        self, pool: dict[str, Any], refusal: Refusal, pools: dict[str, dict[str, Any]]
    ) -> bool:
        """Write why a pool is not accepted, by its version; return False on a conflict."""
        conditions = with_condition(
            pool, ACCEPTED, "False", refusal.reason, refusal.message, self._now()
        )
        try:
            made = self._write(pool, status_of(pool) | {"conditions": conditions})
        except (Conflict, NotFound):
            return False
        pools[objects.name_of(pool)] = made
        self._step("refused")
        self._events.tell(pool, refusal.reason, refusal.message, warning=True)
        return True

    def _refusal(self, pool: dict[str, Any], pools: dict[str, dict[str, Any]]) -> Refusal | None:
        """Return why a pool cannot be in force beside the accepted ones, or None if it can."""
        fault = overlap.own_fault(pool)
        if fault is not None:
            return fault
        one = overlap.wanted(pool)
        for name, other in pools.items():
            spec = overlap.accepted_spec(other)
            if name != one.name and spec is not None:
                clash = overlap.conflict(one, other, spec)
                if clash is not None:
                    return clash
        blocks = self._view.blocks()
        return (
            overlap.strays(one, blocks)
            or overlap.gateway_in_use(one, pools, blocks)
            or self._node_cidrs.refusal(pool)
        )

    @staticmethod
    def _rivals(pool: dict[str, Any], pools: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the other pending pools that cannot be in force beside this one, oldest first."""
        one = overlap.wanted(pool)
        found = [
            other
            for name, other in pools.items()
            if name != one.name
            and _is_pending(other)
            and overlap.own_fault(other) is None
            and overlap.conflict(one, other, other["spec"]) is not None
        ]
        return sorted(found, key=_age)

    def _write(self, pool: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        return replace_status(self._client, self._view, pool, status)


def _age(pool: dict[str, Any]) -> tuple[str, str]:
    """Return a sort key that puts older pools first."""
    return str(pool["metadata"].get("creationTimestamp") or ""), objects.uid_of(pool)


def _is_pending(pool: dict[str, Any]) -> bool:
    """Return whether the current generation of a pool waits for a decision."""
    told = condition(pool, ACCEPTED)
    return (
        told.get("status") == "Unknown"
        and told.get("observedGeneration") == generation_of(pool)
        and not pool["metadata"].get("deletionTimestamp")
    )
