"""The error that tells an operator who owns the blocks of a pool without a free block."""

from __future__ import annotations

from functools import partial

from fastipam.cluster.errors import NoBlock
from fastipam.configuration.cluster import KUBERNETES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node
    from fastipam.configuration.cluster import Geometry

_NAMED = 3  # nodes that the error names, those with most blocks first


def without_a_free_block(
    node: Node, family: int, deadline: Deadline, among: Sequence[Geometry] = ()
) -> NoBlock:
    """Return the error for pools whose blocks are all owned. O(blocks of all nodes), one read.

    ``among`` has the pools that an ADD has chosen; if it is empty, all pools of the family count.
    Pools whose addresses are assigned on request only do not count.
    """
    pools = among or node.settings.geometries_of(family)
    pools = [one for one in pools if not one.is_single]
    if pools and not any(map(node.settings.may_claim, pools)):
        return _of_its_node_cidr(node, family)
    counts: dict[str, int] = {}
    for (its_family, base), entry in node.registry.blocks(deadline).items():
        if its_family == family and any(map(partial(_can_assign_from, base), pools)):
            counts[entry.node] = counts.get(entry.node, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{name} has {count}" for name, count in ranked[:_NAMED]]
    if len(ranked) > _NAMED:
        rest = sum(count for _, count in ranked[_NAMED:])
        named.append(f"other nodes ({len(ranked) - _NAMED}) have {rest}")
    whole = sum(each.count - len(each.unusable) for each in pools)
    used = sum(counts.values())
    names = _names(node, pools)
    of_which = f"IPv{family} pool" if not among else f"IPv{family} pool {', '.join(names)}"
    if not whole:
        return NoBlock(
            f"no IPv{family} pool of the cluster has an address to assign: each is disabled, or "
            "excluded as a whole",
            hint="kubectl get addresspools shows them; kubectl edit addresspool NAME changes one"
            if node.settings.engine == KUBERNETES
            else 'look at "exclude" in the configuration',
        )
    return NoBlock(
        f"the cluster's {of_which} is used up: no block is free, {used} of {whole} are owned "
        f"({', '.join(named) or 'by nobody'}), and no node has given one up",
        hint=_of_objects(names)
        if node.settings.engine == KUBERNETES
        else "`fastipam cluster nodes` shows which nodes are gone, and `fastipam cluster "
        "release-node NAME` frees the blocks of one; a node gives up only blocks in which no "
        "address is in use; otherwise the cluster needs a larger pool",
    )


def _can_assign_from(base: int, pool: Geometry) -> bool:
    """Return whether a block is one of a pool's blocks that are not wholly excluded."""
    number = pool.number(base)
    return number is not None and number not in pool.unusable


def _names(node: Node, pools: Sequence[Geometry]) -> list[str]:
    """Return the names of these pools' AddressPool objects, without the disabled ones."""
    return [
        one.name
        for one in node.settings.pools
        if not one.is_closed
        and any((one.family, one.range.network) == (each.family, each.base) for each in pools)
    ]


def _of_objects(names: Sequence[str]) -> str:
    """Return the hint for AddressPool objects: how to widen them, and how to see who has blocks."""
    return (
        f"widen spec.cidr: kubectl edit addresspool {' '.join(names)}; or add a pool of the same "
        "blockSize; kubectl get addressnodes shows which nodes have blocks: a node gives up only "
        "blocks in which no address is in use"
    )


def _of_its_node_cidr(node: Node, family: int) -> NoBlock:
    """Return the error for a node that claims no block, but uses its podCIDR. No request."""
    only = f"node {node.name} uses its IPv{family} podCIDR only (claims: NodeCIDRs)"
    if any(one.family == family for one in node.share.blocks()):
        return NoBlock(
            f"{only}, but no address of it is free",
            hint='"claims: Any" in the AddressPool lets nodes claim more blocks, after '
            "kube-controller-manager was started with --allocate-node-cidrs=false",
        )
    return NoBlock(
        f"{only}, but has no block of it yet",
        hint="the controller makes it: kubectl describe addresspools says why it has not",
    )
