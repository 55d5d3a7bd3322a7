"""What an operator does to a cluster, from any machine: begin it, look at it, remove a node."""

from __future__ import annotations

from fastipam.addressing.addresses import BITS, format_cidr
from fastipam.cluster import schema
from fastipam.cluster.engine import Compare, Delete, EngineTimeout, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node.joining import ENTRY_TRIES
from fastipam.cluster.schema import BlockEntry, NodeEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import Engine
    from fastipam.cluster.node.claims import Node
    from fastipam.configuration.cluster import Settings

_BLOCKS_AT_ONCE = 32  # two deletions each: within the 128 operations of a transaction


class Removed:
    """What :func:`release_node` has taken back: blocks, and the node's epoch from now on."""

    __slots__ = ("blocks", "epoch")

    def __init__(self, blocks: int, epoch: int) -> None:
        self.blocks = blocks
        self.epoch = epoch


def init(engine: Engine, keys: schema.Keys, settings: Settings, deadline: Deadline) -> bool:
    """Write the settings of a network's cluster, once; False: the same stand there already.

    Idempotent. Raises ClusterRefused when others stand there: blocks are cut by them.
    """
    outcome = engine.transact(
        [Compare(keys.settings, "absent")],
        [Put(keys.settings, settings.text.encode())],
        deadline_s=deadline.call_s(),
    )
    if outcome.succeeded:
        return True
    stored = outcome.existing[0].value.decode("utf-8", "replace")
    if stored != settings.text:
        raise ClusterRefused(
            f"the cluster's pools are {stored!r} already, not {settings.text!r}",
            hint="what is written once stays: use another prefix for another cluster",
        )
    return False


def release_node(node: Node, name: str, deadline: Deadline, *, force: bool = False) -> Removed:
    """Take back all blocks of a node that is gone. Idempotent.

    First its epoch is counted up, so that it can claim nothing more and finds out when it comes
    back; then its blocks are deleted. Refused while its session is kept, unless ``force``.
    Raises ClusterRefused (no such node, alive), EngineError.
    """
    engine, keys = node.engine, node.keys
    epoch = _end_epoch(engine, keys, name, deadline, force=force)
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


def _end_epoch(
    engine: Engine, keys: schema.Keys, name: str, deadline: Deadline, *, force: bool
) -> int:
    key = keys.node(name)
    for _ in range(ENTRY_TRIES):
        stored = engine.get(key, deadline_s=deadline.call_s())
        if stored is None:
            raise ClusterRefused(
                f"the cluster knows no node {name}", hint="see `fastipam cluster nodes`"
            )
        entry = NodeEntry.read(key, stored.value)
        if not entry.incarnation:
            return entry.epoch  # removed before; some blocks may be left
        conditions = [Compare(key, "mod_revision", stored.mod_revision)]
        if not force:
            if engine.get(keys.session(name), deadline_s=deadline.call_s()) is not None:
                raise ClusterRefused(
                    f"node {name} is alive: its agent keeps its session",
                    hint="stop its agent first; with --force its pods keep addresses that "
                    "others may get, too",
                )
            conditions.append(Compare(keys.session(name), "absent"))
        removed = NodeEntry("", entry.epoch + 1, "", entry.addresses)
        try:
            outcome = engine.transact(
                conditions,
                [Put(key, removed.pack()), Delete(keys.want(name))],
                deadline_s=deadline.call_s(),
            )
        except EngineTimeout:
            continue
        if outcome.succeeded:
            return removed.epoch
    raise NoBlock(f"the entry of node {name} changes faster than it can be read")


def read_blocks(
    engine: Engine, keys: schema.Keys, settings: Settings, deadline: Deadline
) -> Iterator[dict[str, Any]]:
    """Every owned block with its owner, in address order."""
    lengths = {each.family: BITS[each.family] - each.host_bits for each in settings.geometries}
    listed, _ = engine.list(keys.blocks, deadline_s=deadline.call_s())
    for one in listed:
        family, base = schema.read_block_key(one.key)
        entry = BlockEntry.read(one.key, one.value)
        yield {
            "block": format_cidr(family, base, lengths.get(family, BITS[family])),
            "node": entry.node,
            "epoch": entry.epoch,
            "claimed_ns": entry.claimed_ns,
            "family": family,
            "base": base,
            "revision": one.mod_revision,
        }


def read_nodes(engine: Engine, keys: schema.Keys, deadline: Deadline) -> list[dict[str, Any]]:
    """Every node that has taken part: epoch, addresses, whether its agent is alive, its blocks."""
    nodes, _ = engine.list(keys.nodes, deadline_s=deadline.call_s())
    alive, _ = engine.list(keys.sessions, deadline_s=deadline.call_s())
    wants, _ = engine.list(keys.wanted, deadline_s=deadline.call_s())
    listed, _ = engine.list(keys.blocks, deadline_s=deadline.call_s())
    counts: dict[str, int] = {}
    for one in listed:
        owner = BlockEntry.read(one.key, one.value).node
        counts[owner] = counts.get(owner, 0) + 1
    sessions = {schema.name_of(one.key) for one in alive}
    needy = {schema.name_of(one.key) for one in wants}
    rows = []
    for one in nodes:
        name = schema.name_of(one.key)
        entry = NodeEntry.read(one.key, one.value)
        state = "alive" if name in sessions else "silent"
        rows.append(
            {
                "node": name,
                "state": state if entry.incarnation else "removed",
                "epoch": entry.epoch,
                "blocks": counts.get(name, 0),
                "wanted": name in needy,
                "addresses": list(entry.addresses),
            }
        )
    return rows
