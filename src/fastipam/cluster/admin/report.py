"""The reports on blocks: their use, and whether a node's store agrees with the shared store."""

from __future__ import annotations

from collections import Counter

from fastipam.cluster.admin import admin
from fastipam.cluster.engine import EngineDenied
from fastipam.cluster.errors import NoBlock, in_words
from fastipam.cluster.keeper import usage
from fastipam.cluster.node import owners
from fastipam.storage.records.block import ACTIVE, LOST, STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.schema import BlockEntry, BlockId

AGREED = "as configured"


def use_of_blocks(node: Node) -> dict[BlockId, dict[str, Any]]:
    """Return state, used addresses and size of each block in this node's store. O(blocks)."""
    return {
        (block.family, block.base): {"state": STATES[block.state], "used": used, "size": size}
        for block, used, size in usage.count(node.share)
    }


def of_node(node: Node, has_store: bool) -> dict[str, Any]:
    """Return the state of this node's blocks, from its own store."""
    document: dict[str, Any] = {
        "network": node.network.name,
        "node": node.name,
        "pools": node.settings.text,
    }
    if not has_store:
        return document | {"registered": False, "blocks": {}}
    states: dict[str, int] = {}
    used = size = 0
    free = dict.fromkeys((f"IPv{each.family}" for each in node.settings.pool.sets), 0)
    for (family, _), one in use_of_blocks(node).items():
        states[one["state"]] = states.get(one["state"], 0) + 1
        if one["state"] == STATES[ACTIVE]:
            used += one["used"]
            size += one["size"]
            name = f"IPv{family}"
            free[name] = free.get(name, 0) + one["size"] - one["used"]
    member = node.share.member()
    document |= {
        "registered": member is not None and member.revision > 0,
        "epoch": member.epoch if member is not None else 0,
        "blocks": states,
        "addresses": size,
        "used": used,
        "free": size - used,
        "free_by_family": free,
    }
    if doubt := node.share.doubt():
        document["assigns_nothing"] = doubt
    return document


def of_cluster(node: Node, deadline: Deadline) -> dict[str, Any]:
    """Return the state of the cluster, from the shared store: its nodes, and its owned blocks.

    ``not_seen`` names the objects that the credentials may not read; the parts of the document that
    depend on them are left out.
    """
    try:
        rows: list[dict[str, Any]] | None = admin.read_nodes(node, deadline)
        not_seen = ""
    except EngineDenied as error:
        rows, not_seen = None, f"nodes: {in_words(error)}"
    unowned = dict.fromkeys((f"IPv{each.family}" for each in node.settings.pool.sets), 0)
    for each in node.settings.geometries:
        unowned[f"IPv{each.family}"] += each.count - len(each.unusable)
    total = sum(unowned.values())
    owned = Counter(family for family, _ in node.registry.blocks(deadline))
    for family, blocks in owned.items():
        unowned[f"IPv{family}"] = unowned.get(f"IPv{family}", 0) - blocks
    try:
        problem = node.registry.problem(deadline_s=deadline.call_s())
    except EngineDenied:
        problem = ""  # etcd's status needs a permission that a node need not have
    document: dict[str, Any] = {
        "reachable": True,
        "problem": problem,
        "not_seen": not_seen,
        "settings": _compare_settings(node, deadline),
    }
    if rows is not None:
        document |= {
            "cluster_nodes": len(rows),
            "alive": sum(row["state"] == "alive" for row in rows),
            "in_need": sum(row["wanted"] for row in rows),
        }
    return document | {
        "cluster_blocks": total,
        "owned": owned.total(),
        "unowned": total - owned.total(),
        "unowned_by_family": unowned,
    }


def _compare_settings(node: Node, deadline: Deadline) -> str:
    """Return in words whether the cluster has the same settings as this node."""
    stored = node.registry.settings_text(deadline)
    if stored is None:
        return "none: run `fastipam cluster init`"
    if stored != node.settings.text:
        return f"the cluster has other settings: {stored}"
    return AGREED


def claim(node: Node, family: int, count: int, deadline: Deadline) -> list[str]:
    """Claim an aligned run of up to ``count`` blocks; return them as CIDRs. Raises NoBlock."""
    share = node.share
    if (share.doubt() or share.has_begun()) and node.join(deadline):
        raise NoBlock(
            f"node {node.name} has lost its store, and its agent must first find the addresses in "
            "use",
            hint="start the agent",
        )
    before = {(each.family, each.base) for each in share.blocks()}
    if not node.claim_family(family, count, deadline):
        raise owners.without_a_free_block(node, family, deadline)
    return [
        admin.block_text(node.settings, each.family, each.base)
        for each in share.blocks()
        if (each.family, each.base) not in before
    ]


def compare(node: Node, has_store: bool, deadline: Deadline) -> list[dict[str, str]]:
    """Return every contradiction in the shared store, and every difference from this node's store.

    O(blocks of all nodes).
    """
    entries = node.registry.blocks(deadline)
    found = [_difference(node, *one) for one in node.registry.contradictions(entries, deadline)]
    known = {one.name: one.entry for one in node.registry.nodes(deadline)}
    for block, entry in entries.items():
        owner = known.get(entry.node)
        if owner is None:
            text = f"the block's owner {entry.node} never registered"
            found.append(_difference(node, entry.node, block, text))
        elif not owner.incarnation:
            text = f"the block's owner {entry.node} was removed"
            found.append(_difference(node, entry.node, block, text))
        if node.settings.geometry_of(*block) is None:
            found.append(_difference(node, entry.node, block, "the block is in no pool"))
    if has_store:
        found += _compare_local(node, entries)
    return found


def _difference(node: Node, whose: str, block: BlockId, text: str) -> dict[str, str]:
    return {"node": whose, "block": admin.block_text(node.settings, *block), "text": text}


def _owner_of(entry: BlockEntry | None) -> str:
    return "no node" if entry is None else f"node {entry.node}"


def _compare_local(node: Node, entries: Mapping[BlockId, BlockEntry]) -> list[dict[str, str]]:
    """Return the differences between the shared store and this node's own store."""
    where = node.registry.store_name
    found = []
    mine = {block: entry for block, entry in entries.items() if entry.node == node.name}
    for record in node.share.blocks():
        block = record.family, record.base
        theirs = mine.pop(block, None)
        text = ""
        if record.state == LOST:
            text = "another node owns the block, but addresses of it are in use here"
        elif record.state != ACTIVE:
            text = f"the block is in state {STATES[record.state]}: the change was not finished"
        elif theirs is None:
            text = f"active here, but in {where} {_owner_of(entries.get(block))} owns it"
        elif theirs.revision != record.revision:
            text = (
                f"the block's revision is {record.revision} here, but {theirs.revision} in {where}"
            )
        if text:
            found.append(_difference(node, node.name, block, text))
    unknown = f"{where} says that this node owns it, but the node's own store does not have it"
    return found + [_difference(node, node.name, block, unknown) for block in mine]
