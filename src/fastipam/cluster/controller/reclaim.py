"""The removal of nodes whose Node object was deleted: their blocks become free.

A deleted Node object means that the machine is gone; a NotReady one proves nothing. A node is
removed in these steps, in this order. Each step changes something in the API, by which another
leader sees that the step was done, and continues:

==  ==============================================================================================
E0  two reads, ``reclaim_after_s`` apart, find no Node of this name; a Node of this name that comes
    between them stops the removal
E1  with fencing: the node's Lease is ended. It is read at t0, and deleted by that version at t0 +
    1.05 of its duration, on this process's own clock. So the node has not renewed it since t0, and
    what the Lease has proved for the node has expired
E2  the tombstone is written, by the version of the entry that was read before a last read of Node
    and Lease
E1  again, if ``cluster release-node --force`` wrote the tombstone
E3  the node's blocks are deleted by their versions, until a list shows none
E4  the node's request is deleted, and a day later the tombstone
==  ==============================================================================================

A block whose node has a tombstone, or no entry at all, is an orphan: it was handed over to a node
that was removed meanwhile, or somebody has deleted the entry. It is deleted in the same way, under
a tombstone.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.cluster.controller.leader import NAME
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import ClusterRefused
from fastipam.cluster.registries.kubernetes import objects, removal
from fastipam.cluster.registries.kubernetes.client import Conflict, NotFound
from fastipam.cluster.registries.kubernetes.lease import MARGIN, UNKNOWN_DURATION_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.controller.guard import Guard
    from fastipam.cluster.controller.view import Entry, View
    from fastipam.cluster.registries.kubernetes.client import Client

log = logging.getLogger("fastipam.controller")

RECLAIM_AFTER_S = 600.0
TOMBSTONE_S = 86400.0  # for which a removed node's entry stays
_NODE_S = 60.0  # for the work on one node in one turn
_CALL_S = 5.0
_TRIES = 2  # in one turn, to write a tombstone: other nodes wait, and the next turn comes soon
_LOOK_AGAIN_S = 10.0  # until a Node that exists, but that no watch has reported, is read again


class _LeaseSeen(NamedTuple):
    version: int
    over_at: float


class Reclaim:
    """Removes nodes whose machine is gone, and frees the blocks of removed nodes."""

    def __init__(
        self,
        client: Client,
        view: View,
        guard: Guard,
        *,
        reclaim_after_s: float = RECLAIM_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.removed = 0  # nodes
        self.freed = 0  # blocks
        self._client = client
        self._view = view
        self._guard = guard
        self._reclaim_after_s = reclaim_after_s
        self._clock = clock
        self._now = now
        self._step = step
        self._absent: dict[str, float] = {}  # node -> when the API was first found without its Node
        self._look_at: dict[str, float] = {}
        self._leases: dict[str, _LeaseSeen] = {}
        self._cleared: dict[str, int] = {}  # removed node -> its epoch, once all is deleted
        kept: list[dict[str, Any]] = [self._absent, self._look_at, self._leases, self._cleared]
        self._kept = kept

    def begin(self) -> None:
        """Forget what this process saw when it led before: other processes have led since."""
        for one in self._kept:
            one.clear()

    @property
    def waiting(self) -> int:
        """How many nodes have no Node object and are not removed yet."""
        return len(self._absent)

    def orphans(self) -> int:
        """Return how many blocks have an owner that was removed or has no entry. O(nodes)."""
        entries, machines = self._view.entries(), self._view.machines()
        count = 0
        for name in self._view.owners():
            entry = entries.get(name)
            if entry is not None and entry.incarnation:
                continue
            # The block of a podCIDR is made before the node's agent has joined.
            expected = machines.get(name, ()) if entry is None else ()
            count += sum(1 for one in self._view.owned_by(name) if one.cidr not in expected)
        return count

    def work(self) -> None:
        """Do the next step for each node that is to be removed. O(nodes). Raises ApiFails."""
        for name in self._view.returned():
            self._absent.pop(name, None)
        entries, owners = self._view.entries(), self._view.owners()
        names = entries.keys() | owners
        for kept in self._kept:
            for name in kept.keys() - names:
                del kept[name]
        for name in sorted(names):
            entry = entries.get(name)
            if entry is not None and not entry.incarnation:
                if self._cleared.get(name) != entry.epoch or name in owners:
                    self._guard.run(f"node {name}", self._clear, name)
                elif _is_old(entry, self._now()):
                    self._guard.run(f"node {name}", self._bury, name)
            elif self._view.has_machine(name):
                self._absent.pop(name, None)
            elif self._is_gone(name):
                self._guard.run(f"node {name}", self._remove, name)

    # E0 -------------------------------------------------------------------------------------

    def _is_gone(self, name: str) -> bool:
        """Make the first read of E0 if it is due; return whether the second read is due."""
        if name not in self._absent:
            if self._clock() < self._look_at.get(name, 0.0):
                return False
            self._guard.run(f"node {name}", self._look, name)
            if name not in self._absent:
                return False
        return self._clock() - self._absent[name] >= self._reclaim_after_s

    def _look(self, name: str) -> None:
        if self._has_machine(name):
            self._look_at[name] = self._clock() + _LOOK_AGAIN_S
        else:
            self._absent[name] = self._clock()
            log.info("node=%s has no Node object", name)
        self._step("absent")

    def _has_machine(self, name: str) -> bool:
        """Return whether the API has a Node of this name now. One read."""
        if self._client.get(objects.MACHINES, name, deadline_s=_CALL_S) is None:
            return False
        self._absent.pop(name, None)
        return True

    # E1 to E4 -------------------------------------------------------------------------------

    def _remove(self, name: str) -> None:
        if not self._end_lease(name) or self._has_machine(name):
            return

        def check() -> None:
            # ``end`` has read the entry before it calls this. A machine that has come back since,
            # or takes a Lease after this, changes the entry: then the tombstone gets a conflict.
            if self._has_machine(name):
                raise ClusterRefused(f"node {name} is back: it has a Node object again")
            if self._client.get(objects.LEASES, name, deadline_s=_CALL_S) is not None:
                raise ClusterRefused(f"node {name} is alive: it has renewed its Lease")

        deadline = Deadline(_NODE_S, call_s=_CALL_S)
        epochs = [one.epoch for one in self._view.owned_by(name)]
        epoch = removal.end(
            self._client,
            name,
            deadline,
            check=check,
            step=self._step,
            orphan_epoch=max(epochs, default=0),
            most_tries=_TRIES,
            now=self._now,
        )
        self._absent.pop(name, None)
        if epoch is not None:
            self.removed += 1
            log.warning("node=%s epoch=%d removed: its Node object is gone", name, epoch)
            self._clear(name)

    def _clear(self, name: str) -> None:
        """Free the blocks of a removed node, after the proof by its Lease has expired."""
        if not self._end_lease(name):
            return
        known = self._view.owned_by(name)
        deadline = Deadline(_NODE_S, call_s=_CALL_S)
        freed = removal.take_back(self._client, name, deadline, step=self._step, now=self._now)
        self.freed += freed
        if freed:
            log.warning("node=%s blocks=%d are free again", name, freed)
        found = self._client.get(objects.NODES, name, deadline_s=_CALL_S)
        if found is None:
            return
        entry = objects.read_node(found)
        if not entry.incarnation:
            self._view.forget(known)
            if self._cleared.get(name) != entry.epoch:
                self._cleared[name] = entry.epoch
                self._tell(name)

    def _tell(self, name: str) -> None:
        """Write into a removed node's status that it has no blocks."""
        status = {"blocks": 0, "used": 0, "free": 0, "pools": [], "state": "Removed"}
        with suppress(NotFound):
            self._client.patch_status(objects.NODES, name, {"status": status}, deadline_s=_CALL_S)

    def _end_lease(self, name: str) -> bool:
        """Return whether a node has no Lease; end it if it was not renewed for its duration."""
        if name == NAME:
            return True  # this is the controller's own Lease, and no node's
        seen = self._leases.get(name)
        if seen is not None:
            if self._clock() < seen.over_at:
                return False
            try:
                self._client.delete(
                    objects.LEASES, name, version=str(seen.version), deadline_s=_CALL_S
                )
            except Conflict:
                del self._leases[name]  # it was renewed: wait for its whole duration again
            else:
                del self._leases[name]
                self._step("lease")
                return True
        found = self._client.get(objects.LEASES, name, deadline_s=_CALL_S)
        if found is None:
            return True
        seconds = int((found.get("spec") or {}).get("leaseDurationSeconds") or UNKNOWN_DURATION_S)
        self._leases[name] = _LeaseSeen(objects.version_of(found), self._clock() + MARGIN * seconds)
        return False

    def _bury(self, name: str) -> None:
        """Delete a tombstone that is a day old, unless its node got a block meanwhile."""
        found = self._client.get(objects.NODES, name, deadline_s=_CALL_S)
        if found is None or objects.read_node(found).incarnation:
            return
        listed, _ = self._client.list(objects.BLOCKS, f"spec.node={name}", deadline_s=_CALL_S)
        if next(listed, None) is not None:
            self._cleared.pop(name, None)
            return
        try:
            self._client.delete(
                objects.NODES, name, version=str(objects.version_of(found)), deadline_s=_CALL_S
            )
        except Conflict:
            return  # the node has come back
        self._step("buried")


def _is_old(entry: Entry, now_s: float) -> bool:
    """Return whether a tombstone was written a day ago."""
    return entry.removed_s is not None and now_s - entry.removed_s >= TOMBSTONE_S
