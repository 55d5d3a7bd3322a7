"""Blocks as routes: the address of the node that owns each block."""

from __future__ import annotations

import time

from fastipam.addressing.addresses import BITS, format_cidr, parse_ip
from fastipam.cluster import schema
from fastipam.cluster.engine import Compacted, EngineError
from fastipam.cluster.planner import backoff_s, runs
from fastipam.cluster.schema import NodeEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node

    # prefix -> (node, its address in the prefix's family)
    Table = dict[str, tuple[str, str]]

_CALL_S = 5.0  # for one call while a table is followed: longer than an election


def read(node: Node, deadline: Deadline, *, without: str | None = None) -> Table:
    """Return the routes now. O(blocks of all). Raises EngineError.

    Adjacent blocks of a node are one route. ``without`` leaves out the blocks of that node.
    """
    return _read(node, deadline.call_s(), without)[0]


def _read(node: Node, seconds: float, without: str | None) -> tuple[Table, int]:
    engine, keys = node.engine, node.keys
    nodes, revision = engine.list(keys.nodes, deadline_s=seconds)
    addresses: dict[tuple[str, int], str] = {}
    for one in nodes:
        for text in NodeEntry.read(one.key, one.value).addresses:
            addresses.setdefault((schema.name_of(one.key), parse_ip(text)[0]), text)
    listed, _ = engine.list(keys.blocks, deadline_s=seconds)
    numbers: dict[tuple[str, int], list[int]] = {}
    for (family, base), block in schema.read_blocks(listed).items():
        for index, pool in enumerate(node.settings.geometries):
            number = pool.number(base) if pool.family == family else None
            if number is not None and block.node != without:
                numbers.setdefault((block.node, index), []).append(number)
    table: Table = {}
    for (owner, index), owned in numbers.items():
        pool = node.settings.geometries[index]
        via = addresses.get((owner, pool.family))
        if via is None:
            continue
        for run in runs(owned):
            length = BITS[pool.family] - pool.host_bits - (len(run).bit_length() - 1)
            table[format_cidr(pool.family, pool.address(run.start), length)] = owner, via
    return table, revision


def follow(
    node: Node, *, without: str | None = None, wait_s: float = 30.0
) -> Iterator[tuple[Table, Table]]:
    """Return (routes before, routes after) at each change, for ever; at first none before.

    After a lost watch the whole table is read again, so no change is missed.
    """
    before: Table = {}
    failures = 0
    while True:
        try:
            table, revision = _read(node, _CALL_S, without)
            if table != before or not failures:
                yield before, table
                before = table
            failures = 0
            while True:
                events, revision = node.engine.watch(node.keys.prefix, revision, deadline_s=wait_s)
                if any(_matters(node, event.key) for event in events):
                    break
        except Compacted:
            continue
        except EngineError:
            failures += 1
            time.sleep(backoff_s(node.name, failures))


def _matters(node: Node, key: bytes) -> bool:
    return key.startswith((node.keys.blocks, node.keys.nodes))


def documents(table: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the routes as documents for JSON."""
    return [{"dst": prefix, "gw": via, "node": owner} for prefix, (owner, via) in _sorted(table)]


def _sorted(table: Mapping[str, tuple[str, str]]) -> list[tuple[str, tuple[str, str]]]:
    return sorted(table.items(), key=lambda item: parse_ip(item[0].partition("/")[0]))


def commands(
    before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]
) -> list[str]:
    """Return lines for ``ip -batch`` that turn one table into the other, new routes first."""
    lines = [
        f"route replace {prefix} via {via}"
        for prefix, (owner, via) in _sorted(after)
        if before.get(prefix, ("", ""))[1] != via
    ]
    return lines + [
        f"route del {prefix} via {via}"
        for prefix, (_, via) in _sorted(before)
        if prefix not in after
    ]


def changes(
    before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]
) -> list[str]:
    """Return a JSON object a line: what was added or changed, then what is gone."""
    from json import dumps

    lines = [
        dumps({"event": "set", "dst": prefix, "gw": via, "node": owner})
        for prefix, (owner, via) in _sorted(after)
        if before.get(prefix) != (owner, via)
    ]
    return lines + [
        dumps({"event": "gone", "dst": prefix, "gw": via, "node": owner})
        for prefix, (owner, via) in _sorted(before)
        if prefix not in after
    ]
