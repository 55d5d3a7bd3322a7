"""An operator's commands for a cluster: initialise it, list blocks and nodes, remove a node."""

from __future__ import annotations

from collections import Counter

from fastipam.addressing.addresses import BITS, format_cidr
from fastipam.cluster.errors import ClusterRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node
    from fastipam.configuration.cluster import Settings


class Removed:
    """The result of :func:`release_node`: how many blocks are free again, and the node's epoch."""

    __slots__ = ("blocks", "epoch")

    def __init__(self, blocks: int, epoch: int) -> None:
        self.blocks = blocks
        self.epoch = epoch


def init(node: Node, deadline: Deadline) -> bool:
    """Write a cluster's settings into the shared store; return False if it already has them.

    Idempotent. Raises ClusterRefused if the shared store has other settings: its blocks are cut by
    them, so they cannot be changed.
    """
    text = node.settings.text
    there = node.registry.found_cluster(deadline)
    if there not in (None, text):
        raise ClusterRefused(
            f"the cluster already has the pools {there!r}, not {text!r}",
            hint="the settings of a cluster cannot be changed: give another cluster its own prefix",
        )
    return there is None


def release_node(node: Node, name: str, deadline: Deadline, *, force: bool = False) -> Removed:
    """Reclaim all blocks of a node that is gone. Idempotent.

    The node's epoch is increased first, so that the node can claim nothing more and, when it comes
    back, notices that it was removed. Then its blocks are deleted. Raises EngineError, and
    ClusterRefused if there is no such node or, without ``force``, if it is alive.
    """
    try:
        epoch = node.registry.end(name, deadline, force=force)
    except ClusterRefused as error:
        error.hint = (
            f"{node.registry.alive_hint}; with --force its pods keep addresses that other nodes "
            "may assign again"
        )
        raise
    if epoch is None:
        raise ClusterRefused(
            f"the cluster has no node {name}", hint="`fastipam cluster nodes` lists them"
        )
    return Removed(_take_back(node, name, deadline), epoch)


def _take_back(node: Node, name: str, deadline: Deadline) -> int:
    """Free all blocks of a removed node; return how many."""
    freed = 0
    while some := node.registry.take_back(name, deadline):
        freed += some
        node.step("some released")
    return freed


def leave(node: Node, deadline: Deadline, *, force: bool = False, offline: bool = False) -> int:
    """Take this node out of its cluster; return how many blocks it gives up. Idempotent.

    Call it while :class:`NodeLock` is held. The node's store stops assigning addresses before the
    blocks become free in the shared store. With ``offline`` the shared store is not called, for a
    cluster that is gone. Raises ClusterRefused if the node is alive, or if addresses are in use and
    ``force`` is not set. After such an error the next claim registers the node again.
    """
    has_signs = node.registry.has_signs
    if not offline and has_signs and node.registry.is_alive(node.name, deadline):
        raise ClusterRefused(
            f"node {node.name} is alive: {node.registry.alive_text}",
            hint=(
                f"{node.registry.alive_hint}; --offline removes the cluster from this node's store "
                "only"
            ),
        )
    while node.share.network.tidy():  # an address whose cool-down is over is not in use
        pass
    if not node.share.begin_leaving(force=force):
        return 0
    force_end = not has_signs  # without signs of life the operator has to know that the agent ended
    if not offline and node.registry.end(node.name, deadline, force=force_end) is not None:
        _take_back(node, node.name, deadline)
    return node.share.forget_cluster()


def block_text(settings: Settings, family: int, base: int) -> str:
    """Return a block as a CIDR."""
    pool = settings.geometry_of(family, base)
    return format_cidr(family, base, BITS[family] - (0 if pool is None else pool.host_bits))


def read_blocks(node: Node, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Return every owned block with its owner, in address order."""
    for (family, base), entry in node.registry.blocks(deadline).items():
        yield {
            "block": block_text(node.settings, family, base),
            "node": entry.node,
            "epoch": entry.epoch,
            "claimed_ns": entry.claimed_ns,
            "family": family,
            "base": base,
            "revision": entry.revision,
        }


def read_nodes(node: Node, deadline: Deadline) -> list[dict[str, Any]]:
    """Return every node that ever registered: state, epoch, blocks, need and addresses."""
    nodes = node.registry.nodes(deadline)
    counts: Counter[tuple[str, int]] = Counter(
        (entry.node, family) for (family, _), entry in node.registry.blocks(deadline).items()
    )
    rows = []
    for one in nodes:
        state = "alive" if one.alive else "silent"
        rows.append(
            {
                "node": one.name,
                "state": state if one.entry.incarnation else "removed",
                "epoch": one.entry.epoch,
                "blocks": sum(counts[one.name, family] for family in BITS),
                "blocks_by_family": {
                    f"IPv{family}": counts[one.name, family]
                    for family in sorted({each.family for each in node.settings.geometries})
                },
                "wanted": one.needy,
                "addresses": list(one.entry.addresses),
            }
        )
    return rows
