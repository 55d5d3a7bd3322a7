"""The read-only commands of ``fastipam cluster``: status, nodes, blocks, routes, check."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from fastipam.addressing.sizes import power
from fastipam.cli import options, output, streams
from fastipam.cli.click_base import command
from fastipam.cli.commands.cluster.options import Where, where
from fastipam.cli.layout import EXTRA, Column

if TYPE_CHECKING:
    from collections.abc import Callable

_WATCH_S = 30.0

_NODE_COLUMNS = (
    Column("NODE", "node", 16, least=16, middle=True),
    Column("STATE", "state", 7),
    Column("EPOCH", "epoch", 5, number=True, drop=2),
    Column("BLOCKS", "blocks", 6, number=True),
    Column("WANTED", "wanted", 6, drop=1),
    Column("ADDRESSES", "addresses_text", 15, least=15, drop=EXTRA),
)


@command(
    "nodes",
    examples=(("fastipam cluster nodes -c cluster.json", "who takes part, and who is alive"),),
)
@where
@options.whole
@options.as_json
def nodes(cluster: Where, wide: bool, as_json: bool) -> None:
    """Print every node that has taken part, whether its agent is alive, and what it owns."""
    from fastipam.cluster.admin import admin

    with cluster.node() as (_, node):
        rows = admin.read_nodes(node, cluster.deadline())
        if as_json:
            output.json_array(rows)
            return
        output.table(
            _NODE_COLUMNS,
            [
                row
                | {
                    "addresses_text": ",".join(row["addresses"]),
                    "wanted": "yes" if row["wanted"] else "no",
                }
                for row in rows
            ],
            wide=wide,
        )


_BLOCK_COLUMNS = (
    Column("BLOCK", "block", 18),  # never cut, as an address
    Column("NODE", "node", 16, least=16, middle=True),
    Column("EPOCH", "epoch", 5, number=True, drop=4),
    Column("AGE", "age", 6, number=True, drop=3),
    Column("USED", "used_text", 9, number=True, drop=1),
    Column("STATE", "state", 9, drop=2),
)


@command("blocks", examples=(("fastipam cluster blocks -c cluster.json", "who owns what"),))
@click.option("--node", "only", metavar="NODE", help="Only this node's.")
@where
@options.whole
@options.as_json
def blocks_(cluster: Where, only: str | None, wide: bool, as_json: bool) -> None:
    """Print every owned block, and how full this node's own blocks are.

    Only its own node knows how full a block is: no address is written into the cluster's store.
    """
    from fastipam.cluster.admin import admin, report

    with cluster.node() as (ipam, node):
        deadline = cluster.deadline()
        local = {} if ipam is None else report.use_of_blocks(node)
        rows = []
        for row in admin.read_blocks(node, deadline):
            if only not in (None, row["node"]):
                continue
            pair = row.pop("family"), row.pop("base")
            row.pop("revision")
            mine = local.get(pair) if row["node"] == node.name else None
            rows.append(row | (mine or {"state": "", "used": None, "size": None}))
        if as_json:
            output.json_array(rows)
            return
        now_ns = time.time_ns()
        written = power if output.is_narrow(wide=wide) else str
        output.table(
            _BLOCK_COLUMNS,
            [
                row
                | {
                    "age": _age((now_ns - row["claimed_ns"]) / 1e9),
                    "used_text": _used(row, written),
                }
                for row in rows
            ],
            wide=wide,
        )


def _used(row: dict[str, Any], written: Callable[[int], str]) -> str:
    return "" if row["used"] is None else f"{written(row['used'])}/{written(row['size'])}"


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


_POOL_COLUMNS = (
    Column("POOL", "pool", 12, least=10, middle=True),
    Column("CIDR", "cidr", 14, least=14),
    Column("BLOCK", "block_size", 5, number=True, drop=2),
    Column("ASSIGNMENT", "assignment", 10),
    Column("PRIORITY", "priority", 8, number=True, drop=1),
    Column("STATE", "state", 8),
    Column("FOR", "for", least=10),
)


@command(
    "status", examples=(("fastipam cluster status -c cluster.json", "is all well, in one screen"),)
)
@where
@options.whole
@options.as_json
def status(cluster: Where, wide: bool, as_json: bool) -> None:
    """Print the state of this node and its cluster; exit 1 when this node cannot take part.

    On Kubernetes a table follows with the AddressPools: whether a pod has to name the pool (manual)
    or not, which comes first (priority), and for which nodes and namespaces it is. For a pool that
    is being deleted, a line below says what on this node keeps it.
    """
    from fastipam.cluster.admin import pool_report, report
    from fastipam.cluster.engine import EngineError
    from fastipam.cluster.errors import in_words

    with cluster.node() as (ipam, node):
        pools = pool_report.of_pools(node, ipam is not None)
        document: dict[str, Any] = report.of_node(node, ipam is not None)
        try:
            document |= report.of_cluster(node, cluster.deadline())
            well = document["settings"] == report.AGREED and not document["problem"]
        except EngineError as error:
            document |= {"reachable": False, "reason": in_words(error)}
            well = False
        if as_json:
            output.json_object(document | ({"address_pools": pools} if pools else {}))
        else:
            for key, value in document.items():
                if (key in ("problem", "not_seen") and not value) or (key == "pools" and pools):
                    continue
                title = f"{key.replace('_', ' '):<16} "
                output.prose(_words(value), before=title, indent=len(title), wide=wide)
            _print_pools(pools, wide=wide)
    if not well:
        raise SystemExit(1)


def _print_pools(pools: list[dict[str, Any]], *, wide: bool) -> None:
    """Print a row for each pool, and below what keeps the pools that are being deleted."""
    if not pools:
        return
    output.say("")
    rows = [
        row | {"for": ", ".join(filter(None, (_of(row, "node"), _of(row, "namespace")))) or "all"}
        for row in pools
    ]
    output.table(_POOL_COLUMNS, rows, wide=wide)
    for row in pools:
        for text in row.get("held_by", ()):
            output.prose(f"pool {row['pool']} keeps its blocks on this node: {text}", wide=wide)


def _of(row: dict[str, Any], kind: str) -> str:
    selector = row[f"{kind}_selector"]
    return f"{kind}s {selector}" if selector else ""


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


@command(
    "check",
    examples=(("fastipam cluster check -c cluster.json", "after an accident"),),
    exits={0: "both stores agree", 1: "findings were printed, or an error"},
)
@where
@options.as_json
def check(cluster: Where, as_json: bool) -> None:
    """Compare the cluster's store with this node's; print what disagrees. Changes nothing.

    A change that an agent makes at this moment may be printed as a difference: run it again.
    """
    from fastipam.cluster.admin import report

    with cluster.node() as (ipam, node):
        found = report.compare(node, ipam is not None, cluster.deadline())
        if as_json:
            output.json_array(found)
        else:
            for one in found:
                output.prose(f"{one['block'] or one['node']}: {one['text']}")
            if not found:
                output.note("the cluster's store and this node's agree")
    if found:
        raise SystemExit(1)


@command(
    "routes",
    examples=(
        ("fastipam cluster routes --format iproute2 | ip -force -batch -", "on each node"),
        ("fastipam cluster routes --watch", "JSON, one line per change"),
    ),
)
@click.option("--watch", is_flag=True, help="Keep running and print every change, one per line.")
@click.option(
    "--format",
    "form",
    default="json",
    show_default=True,
    type=click.Choice(["json", "iproute2"]),
    help="What to print.",
)
@options.as_json
@click.option("--all", "with_own", is_flag=True, help="This node's own blocks, too.")
@where
def routes(cluster: Where, watch: bool, form: str, as_json: bool, with_own: bool) -> None:
    """Print the node address of each block, for programs that set routes.

    Adjacent blocks of one node are printed as one route. ``iproute2`` prints lines for ``ip -force
    -batch -``: "route replace …" for every route, and "route del …" for routes that an earlier run
    on this machine set and that are gone from the cluster. The routes have a protocol of their own
    (147), by which they are found. With --watch only differences are printed, and the machine's
    routes are compared again every half minute. A node has an address when its settings say so
    ("address"), or when it reaches the store from an address that other nodes can use; nodes
    without an address are left out.
    """
    from fastipam.cluster.admin import routes as routing

    as_commands = form == "iproute2"
    if as_commands and as_json:
        raise click.UsageError("--json and --format iproute2 cannot be used together")
    with cluster.node() as (_, node):
        shown = None if with_own else node.name
        if not watch:
            left_out: set[tuple[str, int]] = set()
            table = routing.read(node, cluster.deadline(), without=shown, left_out=left_out)
            if as_commands:
                for line in routing.whole(table, routing.installed()):
                    output.say(line)
            else:
                output.json_array(routing.documents(table))
            _explain(table, left_out, with_own=with_own)
            return
        have = routing.installed if as_commands else dict
        lines_of = routing.commands if as_commands else routing.changes
        for before, after in routing.follow(node, without=shown, wait_s=_WATCH_S, have=have):
            for line in lines_of(before, after):
                click.echo(line)
            if streams.is_lost():
                break


def _explain(table: Any, left_out: set[tuple[str, int]], *, with_own: bool) -> None:
    """Print on standard error why there are no routes at all, or none to a node."""
    for name, family in sorted(left_out):
        output.note(
            f"no route leads to node {name}: it has blocks and no IPv{family} address that others "
            'could use; set "address" in its settings'
        )
    if not table and not left_out:
        own = "" if with_own else "other "
        output.note(f"no routes: no {own}node owns a block")
