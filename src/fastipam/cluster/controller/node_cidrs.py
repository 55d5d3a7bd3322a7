"""The blocks of Nodes' podCIDRs, in pools with ``claims: NodeCIDRs``.

kube-controller-manager gives each Node a podCIDR, and pods may have addresses of it. In such a pool
a node uses the block that is its podCIDR, and claims no other. The controller creates these blocks,
each owned by its node, and does not accept ``claims: Any`` before all of them exist. In the node's
store such a block is ``found``: the node assigns from it only after it has read which addresses its
network namespaces use.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.addressing.addresses import parse_cidr, prefix_bounds
from fastipam.cluster.controller.conditions import (
    condition,
    replace_status,
    status_of,
    with_condition,
)
from fastipam.cluster.controller.overlap import Refusal, accepted_spec
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import AlreadyExists, Conflict, NotFound
from fastipam.cluster.registries.kubernetes.objects import Place
from fastipam.configuration.address_pools import NODE_CIDRS, AddressPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastipam.cluster.controller.conditions import Events
    from fastipam.cluster.controller.guard import Guard
    from fastipam.cluster.controller.view import View
    from fastipam.cluster.registries.kubernetes.client import Client

NODE_BLOCKS = "NodeBlocks"  # a condition: each Node has the block of its podCIDR
REFUSED = "NodeCIDRs"  # why ``claims: Any`` is not accepted yet
_CALL_S, _LIST_S = 5.0, 20.0
_SHOWN = 5  # problems in a message
# While one of these problems lasts, a node could claim a block with addresses of another node's
# pods.
_UNSAFE = frozenset({"OtherLength", "SharedPodCIDR", "Owned", "Removed"})


class Problem(NamedTuple):
    """Why a Node has no block for its podCIDR: one word for programs, and a sentence for people."""

    reason: str
    text: str


class Missing(NamedTuple):
    """A block that is to be created for a node."""

    node: str
    place: Place
    epoch: int


class NodeCIDRs:
    """Creates the blocks, and writes into each pool's conditions which Nodes have none."""

    def __init__(
        self,
        client: Client,
        view: View,
        events: Events,
        guard: Guard,
        *,
        now: Callable[[], float] = time.time,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._view = view
        self._events = events
        self._guard = guard
        self._now = now
        self._step = step

    def work(self) -> None:
        """Create the blocks that are missing. O(nodes); two requests per block. Raises ApiFails."""
        for name, found in self._view.pools().items():
            pool = objects.read_pool(found)
            if pool is not None and not pool.claims_any:
                self._guard.run(f"blocks of {name}", self._keep, found, pool)
            elif condition(found, NODE_BLOCKS):
                self._guard.run(f"blocks of {name}", self._drop, found)

    def refusal(self, pool: dict[str, Any]) -> Refusal | None:
        """Return why a pool's ``claims: Any`` cannot be accepted yet, or None if it can.

        No request: the watches report the Nodes and blocks.
        """
        return self._refusal(pool, self._view.machines())

    def complete(self, pool: dict[str, Any]) -> Refusal | None:
        """Create every block that ``claims: Any`` needs; return why that is impossible, or None.

        Sends one request, which lists the Nodes, and at least one for each block that it creates.
        Does nothing for a pool whose nodes claim blocks already.
        """
        if not _opens(pool):
            return None
        listed, _ = self._client.list(objects.MACHINES, deadline_s=_LIST_S)
        machines = {objects.name_of(one): objects.pod_cidrs(one) for one in listed}
        refusal = self._refusal(pool, machines)
        if refusal is None:
            one = AddressPool(objects.name_of(pool), pool["spec"])
            for missing in self._compare(one, machines)[0]:
                self._make(missing)
            refusal = self._refusal(pool, machines)
        return refusal

    def _refusal(
        self, pool: dict[str, Any], machines: Mapping[str, Sequence[str]]
    ) -> Refusal | None:
        if not _opens(pool):
            return None
        one = AddressPool(objects.name_of(pool), pool["spec"])
        unsafe = [each for each in self._compare(one, machines)[1] if each.reason in _UNSAFE]
        return Refusal(REFUSED, _in_words(unsafe)) if unsafe else None

    def _keep(self, found: dict[str, Any], pool: AddressPool) -> None:
        machines = self._view.machines()
        for missing in self._compare(pool, machines)[0]:
            there = self._client.get(objects.MACHINES, missing.node, deadline_s=_CALL_S)
            if there is not None and missing.place.cidr in objects.pod_cidrs(there):
                self._make(missing)
        left, problems = self._compare(pool, machines)
        if problems:
            self._tell(found, "False", problems[0].reason, _in_words(problems))
        elif not left:
            self._tell(found, "True", "Complete", "each Node has the block of its podCIDR")

    def _compare(
        self, pool: AddressPool, machines: Mapping[str, Sequence[str]]
    ) -> tuple[list[Missing], list[Problem]]:
        """Return the blocks that are missing, and why other Nodes get none."""
        entries, blocks = self._view.entries(), self._view.by_name()
        owners: dict[str, str] = {}
        missing: list[Missing] = []
        problems: list[Problem] = []
        for node in sorted(machines):
            cidr = next((one for one in machines[node] if _family(one) == pool.family), "")
            fault = self._fault(pool, node, cidr)
            if fault is None and cidr in owners:
                text = f"{cidr} is the podCIDR of two Nodes, {owners[cidr]} and {node}"
                fault = Problem("SharedPodCIDR", f"{text}: delete one of them, and add it again")
            if fault is not None:
                problems.append(fault)
            if fault is not None or not _holds(pool, cidr):
                continue
            owners[cidr] = node
            there, entry = blocks.get(objects.block_name(cidr)), entries.get(node)
            if there is not None and there.node != node:
                text = f"{cidr}, the podCIDR of Node {node}, is a block of node {there.node}"
                hint = f"drain {there.node}; its agent releases the block when it is empty"
                problems.append(Problem("Owned", f"{text}: {hint}"))
            elif there is None and entry is not None and not entry.incarnation:
                text = f"node {node} was removed, and its agent has not joined again"
                problems.append(Problem("Removed", text))
            elif there is None:
                family, base, length = parse_cidr(cidr)
                place = Place(family, base, length, pool.name)
                missing.append(Missing(node, place, entry.epoch if entry else 1))
        for one in blocks.values():
            foreign = one.node in machines and owners.get(one.cidr) != one.node
            if one.pool == pool.name and foreign:
                text = f"node {one.node} owns {one.cidr}, which is not the podCIDR of its Node"
                problems.append(Problem("OtherPodCIDR", f"{text}: drain the node"))
        return missing, problems

    def _fault(self, pool: AddressPool, node: str, cidr: str) -> Problem | None:
        """Return why a podCIDR cannot be a block of a pool, or None if it can.

        None also if the podCIDR lies in another pool with ``claims: NodeCIDRs``.
        """
        if not cidr:
            text = f"Node {node} has no IPv{pool.family} podCIDR"
            hint = "check that kube-controller-manager runs with --allocate-node-cidrs"
            return Problem("NoPodCIDR", f"{text}: {hint}")
        if not _holds(pool, cidr):
            others = filter(None, map(objects.read_pool, self._view.pools().values()))
            if any(_holds(one, cidr) and not one.claims_any for one in others):
                return None
            text = f"{cidr}, the podCIDR of Node {node}, lies outside of {pool.cidr}"
            return Problem("OutsidePool", f"{text}: widen the pool, or add one for it")
        if parse_cidr(cidr)[2] != pool.block_length:
            text = f"{cidr}, the podCIDR of Node {node}, is not a block of /{pool.block_length}"
            hint = "make the pool with the mask of the Nodes' podCIDRs as its blockSize"
            return Problem("OtherLength", f"{text}: {hint}")
        return None

    def _make(self, missing: Missing) -> None:
        """Create a block that a node owns; one request, and a read if the block exists."""
        claimed_ns = int(self._now() * 1e9)
        body = objects.block(missing.place, missing.node, missing.epoch, claimed_ns)
        try:
            made = self._client.create(objects.BLOCKS, body, deadline_s=_CALL_S)
        except AlreadyExists:
            there = self._client.get(objects.BLOCKS, missing.place.name, deadline_s=_CALL_S)
            if there is not None:
                self._view.see(objects.BLOCKS, "MODIFIED", there)
            return
        self._view.see(objects.BLOCKS, "ADDED", made)
        self._step("block")

    def _tell(self, pool: dict[str, Any], status: str, reason: str, message: str) -> None:
        """Write the condition and an event, if the condition has changed. Two requests at most."""
        conditions = with_condition(pool, NODE_BLOCKS, status, reason, message, self._now())
        if conditions != status_of(pool).get("conditions"):
            made = self._write(pool, conditions)
            if made is not None:
                self._step("node blocks")
                told = str(condition(made, NODE_BLOCKS).get("message"))
                self._events.tell(made, reason, told, warning=status != "True")

    def _drop(self, pool: dict[str, Any]) -> None:
        """Remove the condition from a pool whose nodes claim blocks."""
        listed = status_of(pool).get("conditions") or ()
        self._write(pool, [one for one in listed if one.get("type") != NODE_BLOCKS])

    def _write(
        self, pool: dict[str, Any], conditions: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        with suppress(Conflict, NotFound):  # changed meanwhile: the next turn retries
            status = status_of(pool) | {"conditions": conditions}
            return replace_status(self._client, self._view, pool, status)
        return None


def _opens(pool: dict[str, Any]) -> bool:
    """Return whether a pool's spec lets nodes claim blocks, and its spec in force does not."""
    before = accepted_spec(pool)
    return (
        before is not None
        and before.get("claims") == NODE_CIDRS
        and pool["spec"].get("claims") != NODE_CIDRS
    )


def _holds(pool: AddressPool, cidr: str) -> bool:
    family, first, last = pool.whole()
    its_family, base, length = parse_cidr(cidr)
    low, high = prefix_bounds(its_family, base, length)
    return family == its_family and first <= low and high <= last


def _family(cidr: str) -> int:
    return parse_cidr(cidr)[0]


def _in_words(problems: Sequence[Problem]) -> str:
    shown = [one.text for one in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        shown.append(f"and {len(problems) - _SHOWN} more")
    return "; ".join(shown)
