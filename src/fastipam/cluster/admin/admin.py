"""What an operator does to a cluster, from any machine: initialise it, read it, remove a node."""

from __future__ import annotations

from collections import Counter

from fastipam.addressing.addresses import BITS, format_cidr
from fastipam.cluster import schema
from fastipam.cluster.engine import Compare, Delete, EngineTimeout, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node.registration import ENTRY_TRIES
from fastipam.cluster.schema import NodeEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node
    from fastipam.configuration.cluster import Settings

_BLOCKS_AT_ONCE = 32  # two deletions each stay within the 128 operations of a transaction


class Removed:
    """What :func:`release_node` has done: how many blocks are free again, and the node's epoch."""

    __slots__ = ("blocks", "epoch")

    def __init__(self, blocks: int, epoch: int) -> None:
        self.blocks = blocks
        self.epoch = epoch


def init(node: Node, deadline: Deadline) -> bool:
    """Write the settings of a network's cluster; return False if they are there already.

    Idempotent. Raises ClusterRefused if the cluster has other settings: its blocks are cut by them.
    """
    key, text = node.keys.settings, node.settings.text
    outcome = node.engine.transact(
        [Compare(key, "absent")], [Put(key, text.encode())], deadline_s=deadline.call_s()
    )
    if outcome.succeeded:
        return True
    stored = outcome.existing[0].value.decode("utf-8", "replace")
    if stored != text:
        raise ClusterRefused(
            f"the cluster's pools are {stored!r} already, not {text!r}",
            hint="what is written once stays: use another prefix for another cluster",
        )
    return False


def release_node(node: Node, name: str, deadline: Deadline, *, force: bool = False) -> Removed:
    """Reclaim all blocks of a node that is gone. Idempotent.

    First its epoch is counted up: it can claim nothing more, and learns it when it comes back.
    Then its blocks are deleted. Without ``force`` a node whose session is kept is refused.
    Raises ClusterRefused (no such node, or alive), EngineError.
    """
    engine, keys = node.engine, node.keys
    epoch = _end_epoch(node, name, deadline, force=force)
    freed = 0
    while True:
        listed, _ = engine.list(
            keys.owned_by(name), limit=_BLOCKS_AT_ONCE, deadline_s=deadline.call_s()
        )
        if not listed:
            return Removed(freed, epoch)
        conditions = [Compare(one.key, "mod_revision", one.mod_revision) for one in listed]
        operations: list[Put | Delete] = [Delete(one.key) for one in listed]
        operations += [Delete(keys.block(*schema.read_block_key(one.key))) for one in listed]
        if engine.transact(conditions, operations, deadline_s=deadline.call_s()).succeeded:
            freed += len(listed)
            node.step("some released")


def leave(node: Node, deadline: Deadline, *, force: bool = False, offline: bool = False) -> int:
    """Take this node out of its cluster; return how many blocks it gives up. Idempotent.

    Call it while :class:`NodeLock` is held. The store assigns nothing more before the shared store
    is told that the blocks are free. ``offline`` does not tell it, for a cluster that is gone.
    Raises ClusterRefused: an agent keeps the node's session, or addresses are in use and not
    ``force``. Then the node is registered again by its next claim.
    """
    entry = None
    if not offline:
        _refuse_alive(
            node, node.name, deadline, "stop the agent; its session ends sessionTTL later"
        )
        entry = node.engine.get(node.keys.node(node.name), deadline_s=deadline.call_s())
    if not node.share.begin_leaving(force=force):
        return 0
    if entry is not None:
        release_node(node, node.name, deadline)
    return node.share.forget_cluster()


def _end_epoch(node: Node, name: str, deadline: Deadline, *, force: bool) -> int:
    """Mark a node as removed; return its new epoch."""
    engine, keys = node.engine, node.keys
    key = keys.node(name)
    for _ in range(ENTRY_TRIES):
        stored = engine.get(key, deadline_s=deadline.call_s())
        if stored is None:
            raise ClusterRefused(
                f"the cluster knows no node {name}", hint="see `fastipam cluster nodes`"
            )
        entry = NodeEntry.read(key, stored.value)
        if not entry.incarnation:
            return entry.epoch  # it was removed before; some of its blocks may be left
        conditions = [Compare(key, "mod_revision", stored.mod_revision)]
        if not force:
            hint = (
                "stop its agent; its session ends sessionTTL later; with --force its pods keep "
                "addresses that others may get, too"
            )
            _refuse_alive(node, name, deadline, hint)
            conditions.append(Compare(keys.session(name), "absent"))
        removed = NodeEntry("", entry.epoch + 1, "", entry.addresses)
        try:
            outcome = engine.transact(
                conditions,
                [Put(key, removed.pack()), Delete(keys.mark(name))],
                deadline_s=deadline.call_s(),
            )
        except EngineTimeout:
            continue
        if outcome.succeeded:
            return removed.epoch
    raise NoBlock(f"the entry of node {name} changes faster than it can be read")


def _refuse_alive(node: Node, name: str, deadline: Deadline, hint: str) -> None:
    """Raise ClusterRefused when a node's session is kept."""
    if node.engine.get(node.keys.session(name), deadline_s=deadline.call_s()) is not None:
        raise ClusterRefused(f"node {name} is alive: its agent keeps its session", hint=hint)


def block_text(settings: Settings, family: int, base: int) -> str:
    """Return a block as a CIDR."""
    bits = BITS[family]
    pools = settings.geometries_of(family)
    return format_cidr(family, base, bits - pools[0].host_bits if pools else bits)


def read_blocks(node: Node, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Return every owned block with its owner, in address order."""
    listed, _ = node.engine.list(node.keys.blocks, deadline_s=deadline.call_s())
    for (family, base), entry in schema.read_blocks(listed).items():
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
    """Return every node that ever registered: state, epoch, blocks, need, addresses."""
    engine, keys = node.engine, node.keys
    nodes, _ = engine.list(keys.nodes, deadline_s=deadline.call_s())
    sessions, _ = engine.list(keys.sessions, deadline_s=deadline.call_s())
    marks, _ = engine.list(keys.wanted, deadline_s=deadline.call_s())
    listed, _ = engine.list(keys.blocks, deadline_s=deadline.call_s())
    counts: Counter[tuple[str, int]] = Counter(
        (entry.node, family) for (family, _), entry in schema.read_blocks(listed).items()
    )
    alive = {schema.name_of(one.key) for one in sessions}
    needy = {schema.name_of(one.key) for one in marks}
    rows = []
    for one in nodes:
        name = schema.name_of(one.key)
        entry = NodeEntry.read(one.key, one.value)
        state = "alive" if name in alive else "silent"
        rows.append(
            {
                "node": name,
                "state": state if entry.incarnation else "removed",
                "epoch": entry.epoch,
                "blocks": sum(counts[name, family] for family in BITS),
                "blocks_by_family": {
                    f"IPv{family}": counts[name, family]
                    for family in sorted({each.family for each in node.settings.geometries})
                },
                "wanted": name in needy,
                "addresses": list(entry.addresses),
            }
        )
    return rows
