"""The routes to all blocks, each via the address of the node that owns the block."""

from __future__ import annotations

import time

from fastipam import rtnetlink
from fastipam.addressing.addresses import BITS, format_cidr, parse_ip
from fastipam.cluster.engine import EngineError
from fastipam.cluster.planner import backoff_s
from fastipam.cluster.routing.kernel import GATEWAY_METRIC
from fastipam.cluster.routing.table import PROTOCOL, merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node

    # prefix -> (node, its address in the prefix's family)
    Table = dict[str, tuple[str, str]]

_CALL_S = 5.0  # for one call of :func:`follow`: longer than an election of etcd


def read(
    node: Node,
    deadline: Deadline,
    *,
    without: str | None = None,
    left_out: set[tuple[str, int]] | None = None,
) -> Table:
    """Return the routes as they are now. O(blocks of all nodes). Raises EngineError.

    Adjacent blocks of a node are one route. ``without`` leaves out the blocks of that node.
    ``left_out`` receives (node, family) of each node that owns blocks of a family in which it has
    no address.
    """
    return _read(node, deadline.call_s(), without, left_out)[0]


def installed() -> Table:
    """Return the routes of :data:`PROTOCOL` that this machine has. Raises OSError.

    Routes that an agent has set (`--routes`) are left out: they have a metric of their own, and the
    agent deletes them itself.
    """
    found = rtnetlink.routes(PROTOCOL, without_metric=GATEWAY_METRIC)
    return {prefix: ("", via) for prefix, via in found.items()}


def _read(
    node: Node,
    seconds: float,
    without: str | None,
    left_out: set[tuple[str, int]] | None = None,
) -> tuple[Table, int]:
    layout = node.registry.layout(seconds)
    addresses: dict[tuple[str, int], str] = {}
    for name, texts in layout.addresses.items():
        for text in texts:
            addresses.setdefault((name, parse_ip(text)[0]), text)
    owned = []
    for (family, base), block in layout.blocks.items():
        pool = node.settings.geometry_of(family, base)
        if pool is not None and block.node != without:
            owned.append(((family, base, BITS[family] - pool.host_bits), block.node))
    table: Table = {}
    for (family, base, length), owner in merged(owned):
        via = addresses.get((owner, family))
        if via is not None:
            table[format_cidr(family, base, length)] = owner, via
        elif left_out is not None:
            left_out.add((owner, family))
    return table, layout.revision


def follow(
    node: Node,
    *,
    without: str | None = None,
    wait_s: float = 30.0,
    have: Callable[[], Table] = dict,
) -> Iterator[tuple[Table, Table]]:
    """Yield (routes before, routes after) at each change, without end.

    ``have`` returns the routes that are installed, by default none. They are compared with the
    cluster's routes at the start, and whenever nothing has changed for ``wait_s`` seconds. After a
    lost watch all routes are read again, so no change is missed.
    """
    before = have()
    failures = 0
    while True:
        try:
            table, revision = _read(node, _CALL_S, without)
            if table != before or not failures:
                yield before, table
                before = table
            failures = 0
            for has_changed, _ in node.registry.changes(revision, wait_s):
                if has_changed:
                    break
                if have is not dict:
                    before = _restored(table, have())
                    if before != table:
                        break
        except EngineError:
            failures += 1
            time.sleep(backoff_s(node.name, failures))


def _restored(table: Table, there: Table) -> Table:
    """Return the installed routes ``there``, each with the node that ``table`` names for it.

    A route that ``table`` does not have, or has with another gateway, is returned as it is.
    """
    return {
        prefix: table[prefix] if table.get(prefix, ("", ""))[1] == via else (owner, via)
        for prefix, (owner, via) in there.items()
    }


def documents(table: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the routes as documents for JSON."""
    return [{"dst": prefix, "gw": via, "node": owner} for prefix, (owner, via) in _sorted(table)]


def _sorted(table: Mapping[str, tuple[str, str]]) -> list[tuple[str, tuple[str, str]]]:
    return sorted(table.items(), key=lambda item: parse_ip(item[0].partition("/")[0]))


def commands(
    before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]
) -> list[str]:
    """Return ``ip -batch`` lines that change table ``before`` to ``after``, new routes first."""
    lines = [
        f"route replace {prefix} via {via} proto {PROTOCOL}"
        for prefix, (owner, via) in _sorted(after)
        if before.get(prefix, ("", ""))[1] != via
    ]
    return lines + [
        f"route del {prefix} via {via} proto {PROTOCOL}"
        for prefix, (_, via) in _sorted(before)
        if prefix not in after
    ]


def whole(table: Mapping[str, tuple[str, str]], there: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return lines for ``ip -batch`` that set every route of a table and delete all others."""
    stale = {prefix: one for prefix, one in there.items() if prefix not in table}
    return commands({}, table) + commands(stale, {})


def changes(
    before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]
) -> list[str]:
    """Return one JSON object per line: first the added or changed routes, then the deleted ones."""
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
