"""The report on a cluster's AddressPools: which pods get each, and what delays a deletion."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.node.node import Node
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.storage.records.reservation import Reservation

_MOST_HOLDERS = 8  # reservations that the report names for a pool that is being deleted


def of_pools(node: Node, has_store: bool) -> list[dict[str, Any]]:
    """Return a dictionary for each AddressPool that this node knows.

    The list is empty without AddressPools. For a pool that is being deleted, ``held_by`` names the
    leases and reservations on this node that keep its blocks; that takes O(leases).
    """
    found = []
    for one in sorted(node.settings.pools, key=lambda one: (-one.priority, one.name)):
        row: dict[str, Any] = {
            "pool": one.name,
            "cidr": one.cidr,
            "block_size": one.block_length,
            "assignment": "manual" if one.manual else "automatic",
            "priority": one.priority,
            "state": _state(one),
            "node_selector": str(one.node_selector),
            "namespace_selector": str(one.namespace_selector),
        }
        if has_store and (one.deleting or one.is_gone):
            row["held_by"] = _holders(node, one)
        found.append(row)
    return found


def _state(pool: AddressPool) -> str:
    if pool.deleting or pool.is_gone:
        return "deleting"
    if pool.disabled:
        return "disabled"
    return "other nodes" if pool.elsewhere else "in use"


def _holders(node: Node, pool: AddressPool) -> list[str]:
    """Return the leases and reservations of this node in a pool, each with the command to type."""
    family, first, last = pool.whole()
    network = node.network
    texts = []
    count = sum(one.family == family and first <= one.value <= last for one in network.leases())
    if count:
        what = "1 address is" if count == 1 else f"{count} addresses are"
        texts.append(f"{what} assigned: fastipam list --network {network.name}")
    kept: list[Reservation] = [
        one for one in network.reservations() if one.family == family and first <= one.value <= last
    ]
    for one in kept[:_MOST_HOLDERS]:
        whom = f" for {one.owner}" if one.owner else ""
        sticky = "sticky, " if one.sticky else ""
        texts.append(f"{one.address} is reserved{whom}: {sticky}fastipam unreserve {one.address}")
    if len(kept) > _MOST_HOLDERS:
        texts.append(f"more reserved addresses: {len(kept) - _MOST_HOLDERS}")
    return texts
