"""``fastipam cluster …``: begin a cluster, look at it, remove a node, print routes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

import fastipam
from fastipam.cli import output
from fastipam.cli.group import SETTINGS, Entry, Group
from fastipam.cli.group import command as _command
from fastipam.cli.output import Column
from fastipam.errors import ConfigError
from fastipam.store import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam.cluster.claims import Node
    from fastipam.cluster.settings import Settings
    from fastipam.ipam import Ipam

_HERE = "fastipam.cli.commands.cluster"
_TIMEOUT_S = 10.0
_WATCH_S = 30.0

_COMMANDS = {
    "init": Entry(f"{_HERE}:init", "Begin", "Write a cluster's settings, once."),
    "status": Entry(f"{_HERE}:status", "Look", "How this node and its cluster fare."),
    "nodes": Entry(f"{_HERE}:nodes", "Look", "Every node: alive, epoch, blocks."),
    "blocks": Entry(f"{_HERE}:blocks_", "Look", "Every owned block: node, epoch, age, use."),
    "routes": Entry(f"{_HERE}:routes", "Look", "Block to node address, for routing plugins."),
    "check": Entry(f"{_HERE}:check", "Take care", "Do etcd and this node's store agree?"),
    "claim": Entry(f"{_HERE}:claim", "Take care", "Claim blocks for this node now."),
    "release-node": Entry(f"{_HERE}:release_node", "Take care", "Take a gone node's blocks back."),
}


@click.group("cluster", cls=Group, entries=_COMMANDS, context_settings=SETTINGS)
def command() -> None:
    """One pool for many nodes: blocks of it, owned by nodes, kept in etcd."""


def _where(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which cluster: a file with its settings, or a CNI configuration."""
    for option in (
        click.option(
            "--timeout",
            "timeout_s",
            default=_TIMEOUT_S,
            show_default=True,
            type=click.FloatRange(0.1, 3600),
            help="Seconds for the whole command.",
        ),
        click.option(
            "--data-dir",
            type=click.Path(file_okay=False),
            default=None,
            envvar="FASTIPAM_DATA_DIR",
            help=f"The directory of this node's store.  [default: the file's, {DEFAULT_DATA_DIR}]",
        ),
        click.option("--network", metavar="NAME", help="The network.  [default: the file's]"),
        click.option(
            "-c",
            "--config",
            "path",
            type=click.Path(dir_okay=False),
            default="/etc/fastipam/cluster.json",
            show_default=True,
            envvar="FASTIPAM_CLUSTER",
            show_envvar=True,
            help="The cluster's settings, or a CNI configuration that has them.",
        ),
    ):
        function = option(function)
    return function


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _read(path: str, network: str | None, data_dir: str | None) -> tuple[Settings, str, str]:
    """(settings, network, data directory) of a file."""
    from fastipam.cluster.settings import Settings
    from fastipam.cni import sharing

    holder = sharing.read_file(path)
    name = holder.get("name")
    for plugin in (holder, *holder.get("plugins", ())):
        ipam = plugin.get("ipam") if isinstance(plugin, dict) else None
        if isinstance(ipam, dict) and "cluster" in ipam:
            data_dir = data_dir or ipam.get("datadir")
            found = ipam["cluster"]
            holder = sharing.read_file(found) if isinstance(found, str) else found
            network = network or name
            break
    settings = Settings(holder, path)
    network = network or settings.network
    if not network:
        raise ConfigError(
            "the network is not known",
            field="--network",
            value=None,
            hint='name it, or write "network" into the file',
        )
    return settings, network, data_dir or settings.data_dir or DEFAULT_DATA_DIR


@contextmanager
def _node(
    path: str, network: str | None, data_dir: str | None, *, create: bool = False
) -> Iterator[tuple[Ipam | None, Node]]:
    """This node's side of the cluster; without its store when there is none."""
    from fastipam.cluster.claims import Node
    from fastipam.cluster.connect import connect
    from fastipam.network import Network

    settings, name, directory = _read(path, network, data_dir)
    engine = connect(settings)
    ipam: Ipam | None = None
    try:
        try:
            ipam = fastipam.open(directory, create=create)
        except FileNotFoundError:
            ipam = None
        store: Any = ipam.store if ipam is not None else None
        bound: Any = (
            Network(store, name, settings.pool, remember=False)
            if store is not None
            else _Named(name)
        )
        yield ipam, Node(store, bound, settings, engine)
    finally:
        engine.close()
        if ipam is not None:
            ipam.close()


class _Named:
    """A network of which there is no store here."""

    def __init__(self, name: str) -> None:
        self.name = name


def _deadline(timeout_s: float) -> Any:
    from fastipam.cluster.deadlines import Deadline

    return Deadline(timeout_s)


@_command("init", examples=(("fastipam cluster init -c cluster.json", "once, on any node"),))
@_where
def init(path: str, network: str | None, data_dir: str | None, timeout_s: float) -> None:
    """Write the pools and the block size of a network, once.

    A node whose settings differ is refused from then on. Run again with the same settings it
    changes nothing.
    """
    from fastipam.cluster import operator

    with _node(path, network, data_dir) as (_, node):
        made = operator.init(node.engine, node.keys, node.settings, _deadline(timeout_s))
        word = "written" if made else "there already"
        output.say(f"network {node.network.name}: {node.settings.text}: {word}")


_NODE_COLUMNS = (
    Column("NODE", "node", 16),
    Column("STATE", "state", 7),
    Column("EPOCH", "epoch", 5, number=True),
    Column("BLOCKS", "blocks", 6, number=True),
    Column("WANTED", "wanted", 6),
    Column("ADDRESSES", "addresses_text", 15),
)


@_command(
    "nodes",
    examples=(("fastipam cluster nodes -c cluster.json", "who takes part, and who is alive"),),
)
@_where
@_as_json
def nodes(
    path: str, network: str | None, data_dir: str | None, timeout_s: float, as_json: bool
) -> None:
    """Print every node that has taken part, whether its agent is alive, and what it owns."""
    from fastipam.cluster import operator

    with _node(path, network, data_dir) as (_, node):
        rows = operator.read_nodes(node.engine, node.keys, _deadline(timeout_s))
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
        )


_BLOCK_COLUMNS = (
    Column("BLOCK", "block", 18),
    Column("NODE", "node", 16),
    Column("EPOCH", "epoch", 5, number=True),
    Column("AGE", "age", 6, number=True),
    Column("USED", "used_text", 9, number=True),
    Column("STATE", "state", 9),
)


@_command("blocks", examples=(("fastipam cluster blocks -c cluster.json", "who owns what"),))
@click.option("--node", "only", metavar="NODE", help="Only this node's.")
@_where
@_as_json
def blocks_(
    path: str,
    network: str | None,
    data_dir: str | None,
    timeout_s: float,
    only: str | None,
    as_json: bool,
) -> None:
    """Print every owned block; how full it is only for this node's own.

    How full the others' are, their nodes know: no address is written into the cluster's store.
    """
    from fastipam.cluster import operator, report

    with _node(path, network, data_dir) as (ipam, node):
        deadline = _deadline(timeout_s)
        local = {} if ipam is None else report.use_of_blocks(node)
        rows = []
        for row in operator.read_blocks(node.engine, node.keys, node.settings, deadline):
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
        output.table(
            _BLOCK_COLUMNS,
            [
                row
                | {
                    "age": _age((now_ns - row["claimed_ns"]) / 1e9),
                    "used_text": "" if row["used"] is None else f"{row['used']}/{row['size']}",
                }
                for row in rows
            ],
        )


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


@_command(
    "status", examples=(("fastipam cluster status -c cluster.json", "is all well, in one screen"),)
)
@_where
@_as_json
def status(
    path: str, network: str | None, data_dir: str | None, timeout_s: float, as_json: bool
) -> None:
    """Print how this node and its cluster fare; exit 1 when the store does not answer."""
    from fastipam.cluster import report
    from fastipam.cluster.engine import EngineError

    with _node(path, network, data_dir) as (ipam, node):
        document: dict[str, Any] = report.of_node(node, ipam is not None)
        try:
            document |= report.of_cluster(node, _deadline(timeout_s))
            reachable = True
        except EngineError as error:
            document |= {"reachable": False, "reason": error.message}
            reachable = False
        if as_json:
            output.json_object(document)
        else:
            for key, value in document.items():
                output.say(f"{key.replace('_', ' '):<16} {_words(value)}")
    if not reachable:
        raise SystemExit(1)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


@_command(
    "claim", examples=(("fastipam cluster claim --blocks 4", "an aligned run, if one is free"),)
)
@click.option(
    "--blocks",
    "count",
    default=1,
    show_default=True,
    type=click.IntRange(1, 32),
    help="How many.",
)
@click.option(
    "--family", type=click.Choice(["4", "6"]), help="IPv4 or IPv6.  [default: the first pool's]"
)
@_where
def claim(
    path: str,
    network: str | None,
    data_dir: str | None,
    timeout_s: float,
    count: int,
    family: str | None,
) -> None:
    """Claim an aligned run of free blocks for this node now, before anybody needs them."""
    from fastipam.cluster import report
    from fastipam.cluster.nodelock import NodeLock

    with _node(path, network, data_dir, create=True) as (_, node):
        deadline = _deadline(timeout_s)
        which = int(family) if family else node.settings.geometries[0].family
        lock = NodeLock(node.store)
        with lock:
            for block in report.claim(node, which, count, deadline):
                output.say(block)


@_command(
    "release-node",
    examples=(
        ("fastipam cluster release-node worker-7", "after the machine is gone, or its agent ended"),
    ),
)
@click.argument("name", metavar="NODE")
@click.option(
    "--force",
    is_flag=True,
    help="Even while its agent is alive: its pods then keep addresses that others may get, too.",
)
@_where
def release_node(
    path: str, network: str | None, data_dir: str | None, timeout_s: float, name: str, force: bool
) -> None:
    """Take all blocks of a node back that is gone. It finds out when it returns."""
    from fastipam.cluster import operator

    with _node(path, network, data_dir) as (_, node):
        removed = operator.release_node(node, name, _deadline(timeout_s), force=force)
        output.say(f"node {name}: {removed.blocks} blocks released, epoch {removed.epoch}")


@_command(
    "check",
    examples=(("fastipam cluster check -c cluster.json", "after an accident"),),
    exits={0: "both stores agree", 1: "findings were printed, or an error"},
)
@_where
@_as_json
def check(
    path: str, network: str | None, data_dir: str | None, timeout_s: float, as_json: bool
) -> None:
    """Compare the cluster's store with this node's; print what disagrees. Changes nothing.

    What an agent is doing at this moment may show as a difference: run it again.
    """
    from fastipam.cluster import report

    with _node(path, network, data_dir) as (ipam, node):
        found = report.compare(node, ipam is not None, _deadline(timeout_s))
        if as_json:
            output.json_array(found)
        else:
            for one in found:
                output.say(f"{one['block'] or one['node']}: {one['text']}")
            if not found:
                output.note("the cluster's store and this node's agree")
    if found:
        raise SystemExit(1)


@_command(
    "routes",
    examples=(
        ("fastipam cluster routes --format iproute2 | ip -batch -", "on each node"),
        ("fastipam cluster routes --watch", "JSON, a line a change"),
    ),
)
@click.option("--watch", is_flag=True, help="Go on with every change, a line each.")
@click.option(
    "--format",
    "form",
    default="json",
    show_default=True,
    type=click.Choice(["json", "iproute2"]),
    help="What to print.",
)
@click.option("--all", "with_own", is_flag=True, help="This node's own blocks, too.")
@_where
def routes(
    path: str,
    network: str | None,
    data_dir: str | None,
    timeout_s: float,
    watch: bool,
    form: str,
    with_own: bool,
) -> None:
    """Print block → node address, runs of blocks as one route, for plugins that route.

    ``iproute2`` prints lines for ``ip -batch``: "route replace …", and "route del …" for what is
    gone. A node has an address when its settings say so ("address"); others are left out.
    """
    from fastipam.cluster import routing

    with _node(path, network, data_dir) as (_, node):
        shown = None if with_own else node.name
        if not watch:
            table = routing.read(node, _deadline(timeout_s), without=shown)
            if form == "json":
                output.json_array(routing.documents(table))
            else:
                for line in routing.commands({}, table):
                    output.say(line)
            return
        for before, after in routing.follow(node, without=shown, wait_s=_WATCH_S):
            lines = routing.commands(before, after) if form == "iproute2" else None
            if lines is None:
                lines = routing.changes(before, after)
            for line in lines:
                click.echo(line)
