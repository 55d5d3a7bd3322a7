"""What an operator wants to know of a node's share: its use, and whether both stores agree."""

from __future__ import annotations

from fastipam.addressing.addresses import BITS, format_cidr
from fastipam.allocation import blocks
from fastipam.cluster import schema
from fastipam.cluster.admin import admin
from fastipam.cluster.errors import NoBlock
from fastipam.cluster.keeper.on_demand import claim_family
from fastipam.cluster.schema import BlockEntry, NodeEntry
from fastipam.storage.records import block as block_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.claims import Node
    from fastipam.cluster.node.localnode import Pair

AGREED = "as configured"


def _text(node: Node, family: int, base: int) -> str:
    length = next(
        (BITS[family] - each.host_bits for each in node.settings.geometries_of(family)),
        BITS[family],
    )
    return format_cidr(family, base, length)


def use_of_blocks(node: Node) -> dict[Pair, dict[str, Any]]:
    """State, used addresses and size of each block in this node's store. O(blocks)."""
    sets = {each.family: each for each in node.settings.pool.sets}
    found = {}
    local = node.local()
    with node.store.read() as txn:
        network_id = node.network.id_in(txn)
        if network_id is None:
            return {}
        for block in local:
            range_set = sets[block.family]
            pages = txn.pages(network_id, block.family)
            found[block.family, block.base] = {
                "state": block_record.STATES[block.state],
                "used": blocks.used_in(pages, range_set, block.base),
                "size": blocks.capacity(range_set, block.base),
            }
    return found


def of_node(node: Node, has_store: bool) -> dict[str, Any]:
    """What this node's store says of its share."""
    document: dict[str, Any] = {
        "network": node.network.name,
        "node": node.name,
        "pools": node.settings.text,
    }
    if not has_store:
        return document | {"registered": False, "blocks": {}}
    states: dict[str, int] = {}
    used = size = 0
    for one in use_of_blocks(node).values():
        states[one["state"]] = states.get(one["state"], 0) + 1
        if one["state"] == "active":
            used += one["used"]
            size += one["size"]
    member = node.member()
    document |= {
        "registered": member is not None and member.revision > 0,
        "epoch": member.epoch if member is not None else 0,
        "blocks": states,
        "addresses": size,
        "used": used,
        "free": size - used,
    }
    with node.store.read() as txn:
        network_id = node.network.id_in(txn)
        doubt = "" if network_id is None else blocks.doubt(txn, network_id)
    if doubt:
        document["assigns_nothing"] = doubt
    return document


def of_cluster(node: Node, deadline: Deadline) -> dict[str, Any]:
    """What the shared store says: nodes, and how much of the pool is owned."""
    rows = admin.read_nodes(node.engine, node.keys, deadline)
    total = sum(each.count - len(each.unusable) for each in node.settings.geometries)
    owned = sum(row["blocks"] for row in rows)
    return {
        "reachable": True,
        "settings": _settings_there(node, deadline),
        "cluster_nodes": len(rows),
        "alive": sum(row["state"] == "alive" for row in rows),
        "in_need": sum(row["wanted"] for row in rows),
        "cluster_blocks": total,
        "owned": owned,
        "unowned": total - owned,
    }


def _settings_there(node: Node, deadline: Deadline) -> str:
    """Whether the cluster's settings are this node's, in words."""
    stored = node.engine.get(node.keys.settings, deadline_s=deadline.call_s())
    if stored is None:
        return "none: run `fastipam cluster init`"
    if stored.value != node.settings.text.encode():
        return f"others: {stored.value.decode('utf-8', 'replace')}"
    return AGREED


def claim(node: Node, family: int, count: int, deadline: Deadline) -> list[str]:
    """Claim an aligned run for this node; the blocks as CIDRs. Raises NoBlock."""
    member = node.member()
    if (member is None or not member.revision or node.has_begun()) and node.join(deadline):
        raise NoBlock(
            f"node {node.name} has lost its store: its agent looks for what is in use first",
            hint="start the agent",
        )
    before = {(each.family, each.base) for each in node.local()}
    if not claim_family(node, family, count, deadline):
        raise NoBlock("no block of the cluster's pool is free")
    return [
        _text(node, each.family, each.base)
        for each in node.local()
        if (each.family, each.base) not in before
    ]


def compare(node: Node, has_store: bool, deadline: Deadline) -> list[dict[str, str]]:
    """Every disagreement: inside the shared store, and with this node's. O(blocks of all)."""
    engine, keys = node.engine, node.keys
    owned, _ = engine.list(keys.blocks, deadline_s=deadline.call_s())
    second, _ = engine.list(keys.prefix + b"owned/", deadline_s=deadline.call_s())
    entries = {
        schema.read_block_key(one.key): BlockEntry.read(one.key, one.value, one.mod_revision)
        for one in owned
    }
    found = _compare_lists(node, entries, second)
    nodes, _ = engine.list(keys.nodes, deadline_s=deadline.call_s())
    known = {schema.name_of(one.key): NodeEntry.read(one.key, one.value) for one in nodes}
    for (family, base), entry in entries.items():
        owner = known.get(entry.node)
        block = _text(node, family, base)
        if owner is None:
            found.append(_finding(entry.node, block, f"its owner {entry.node} never registered"))
        elif not owner.incarnation:
            found.append(_finding(entry.node, block, f"its owner {entry.node} was removed"))
        if node.settings.geometry_of(family, base) is None:
            found.append(_finding(entry.node, block, "it lies in no pool"))
    if has_store:
        found += _compare_local(node, entries)
    return found


def _finding(node: str, block: str, text: str) -> dict[str, str]:
    return {"node": node, "block": block, "text": text}


def _compare_lists(
    node: Node, entries: dict[Pair, BlockEntry], second: list[Any]
) -> list[dict[str, str]]:
    """Both lists of owners have to be one."""
    found = []
    listed: dict[Pair, str] = {}
    start = len(node.keys.prefix + b"owned/")
    for one in second:
        name = one.key[start:].split(b"/")[0].decode("utf-8", "replace")
        pair = schema.read_block_key(one.key)
        listed[pair] = name
        owner = entries.get(pair)
        if owner is None or owner.node != name:
            whose = "nobody's" if owner is None else f"{owner.node}'s"
            text = f"node {name} lists it, and it is {whose}"
            found.append(_finding(name, _text(node, *pair), text))
    for pair, entry in entries.items():
        if pair not in listed:
            text = f"node {entry.node} owns it and does not list it"
            found.append(_finding(entry.node, _text(node, *pair), text))
    return found


def _compare_local(node: Node, entries: dict[Pair, BlockEntry]) -> list[dict[str, str]]:
    found = []
    mine = {pair: entry for pair, entry in entries.items() if entry.node == node.name}
    for block in node.local():
        pair = block.family, block.base
        theirs = mine.pop(pair, None)
        text = _text(node, *pair)
        state = block_record.STATES[block.state]
        if block.state == block_record.ACTIVE and theirs is None:
            owner = entries.get(pair)
            whose = "nobody's" if owner is None else f"{owner.node}'s"
            found.append(_finding(node.name, text, f"active here, and in etcd it is {whose}"))
        elif block.state == block_record.ACTIVE and theirs is not None:
            if theirs.revision != block.revision:
                found.append(_finding(node.name, text, "its revision here is not etcd's"))
        elif block.state == block_record.LOST:
            text_of_use = "another node has it, and addresses of it are in use here"
            found.append(_finding(node.name, text, text_of_use))
        else:
            found.append(_finding(node.name, text, f"{state}: begun and not finished"))
    unknown = "in etcd it is ours, and it is not known here"
    return found + [_finding(node.name, _text(node, *pair), unknown) for pair in mine]
