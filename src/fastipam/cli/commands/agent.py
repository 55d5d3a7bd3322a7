"""The command ``fastipam agent``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastipam.agent import main as process
from fastipam.agent.clusters import ROUTES
from fastipam.agent.loop import Limits
from fastipam.agent.protocol import DEFAULT_SOCKET
from fastipam.cli import options, streams
from fastipam.cli.click_base import command as _command
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from fastipam.agent.conflist import Request

_DEFAULTS = process.Options()
_LARGEST_PORT = 65535


def _conflist(clusters: tuple[Path, ...], target: Path | None, mtu: int | None) -> Request | None:
    """Return the request of --write-conflist. Raises ConfigError and click's usage error."""
    if target is None:
        if mtu is not None:
            raise click.UsageError("--mtu needs --write-conflist")
        return None
    if not clusters:
        raise click.UsageError("--write-conflist needs --cluster FILE: this file is the template")
    from fastipam.agent import conflist

    request = conflist.Request(str(clusters[0].absolute()), target.absolute(), mtu)
    conflist.check(request)
    return request


@_command(
    "agent",
    examples=(
        ("fastipam agent", "in the foreground; systemd units are in deploy/"),
        (
            "fastipam agent --cluster /etc/fastipam/podnet.conflist --routes host-gw",
            "with the routes between nodes on one link",
        ),
        ("fastipam agent --http 9464", "with a page, /metrics and /healthz on 127.0.0.1"),
        (
            "fastipam agent --cluster /etc/fastipam/podnet.conflist "
            "--write-conflist /etc/cni/net.d/10-fastipam.conflist",
            "gives the node its network once it has a block",
        ),
    ),
)
@options.socket
@click.option(
    "--http",
    metavar="[ADDR:]PORT",
    help="Serve the page, /metrics and /healthz there; ADDR is 127.0.0.1 unless given.",
)
@click.option("--http-private", is_flag=True, help="The page names no pod, container or namespace.")
@click.option(
    "--max-connections",
    default=_DEFAULTS.limits.connections,
    show_default=True,
    type=options.Count(1, 65536),
    help="Launchers served at the same time; more have to wait.",
)
@click.option(
    "--client-timeout",
    default=_DEFAULTS.limits.seconds,
    show_default=True,
    type=options.Seconds(0.1, 3600),
    help="Seconds that a client may take to send a request or read an answer.",
)
@click.option(
    "--log-level",
    default="warning",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="debug: one line per request.",
)
@click.option("--quiet", is_flag=True, help="Do not print a line when the agent is ready.")
@click.option(
    "--data-dir",
    "data_dirs",
    type=click.Path(file_okay=False, readable=False),
    default=[DEFAULT_DATA_DIR],
    show_default=True,
    multiple=True,
    envvar="FASTIPAM_DATA_DIR",
    show_envvar=True,
    help="Stores to sweep and show from the start; others once a configuration has named them.",
)
@click.option(
    "--sweep-interval",
    default=_DEFAULTS.sweep_interval_s,
    show_default=True,
    type=options.Seconds(0, 86400),
    help="Seconds between two looks at the network namespaces of all leases; 0: never.",
)
@click.option(
    "--grace",
    default=_DEFAULTS.grace_s,
    show_default=True,
    type=options.Seconds(0, 1e8),
    help="Seconds for which a namespace has to be gone before its lease is released.",
)
@click.option(
    "--cluster",
    "clusters",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    multiple=True,
    help="A file with the settings of a cluster (keys network, dataDir, endpoints, pool, …), or a "
    "CNI configuration that has them: this agent claims blocks for its network from the start, for "
    "other networks once a request has named them.",
)
@click.option(
    "--write-conflist",
    "target",
    metavar="DEST",
    type=click.Path(readable=False, path_type=Path),
    help="Write the first --cluster, a network configuration, to DEST once this node has a block "
    "of each family of the pools, and again when it changes. `fastipam conflist` prints one.",
)
@click.option(
    "--mtu",
    metavar="auto|BYTES",
    default="auto",
    show_default=True,
    type=options.Mtu(auto=True),
    help="The MTU of pods in what --write-conflist writes, unless the file has one; auto is that "
    "of the interface that has the node's address. With an overlay, give its smaller MTU.",
)
@click.option(
    "--routes",
    default=_DEFAULTS.routes,
    show_default=True,
    type=click.Choice(ROUTES),
    help="host-gw: set routes to the other nodes' blocks, for the networks of --cluster; all nodes "
    "have to be on one link. own: somebody else (BGP, a cloud, an overlay) routes between nodes; "
    "the agent only makes unreachable the addresses that no pod has. Both need NET_ADMIN.",
)
@click.option(
    "--masquerade",
    is_flag=True,
    help="Packets that leave all pools of the networks of --cluster get the node's address, by an "
    "nftables table of fastipam's own; in place of a plugin's ipMasq, which knows one pool. It "
    "takes the program nft and the capability NET_ADMIN.",
)
def command(
    socket_path: Path,
    http: str | None,
    http_private: bool,
    max_connections: int,
    client_timeout: float,
    log_level: str,
    quiet: bool,
    data_dirs: tuple[str, ...],
    sweep_interval: float,
    grace: float,
    clusters: tuple[Path, ...],
    target: Path | None,
    mtu: int | None,
    routes: str,
    masquerade: bool,
) -> None:
    """Serve the plugin calls of this node, many in one commit; SIGTERM ends it.

    The launcher works without an agent, too: it then starts Python for every call.
    """
    options.require_parent(socket_path.parent, "--socket", Path(DEFAULT_SOCKET).parent)
    process.ignore_signals()
    streams.never_wait()  # calls must be answered even if no program reads the log
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s level=%(levelname)s %(message)s"
    )
    limits = Limits(max_connections, client_timeout)
    asked = process.Options(
        socket_path,
        host_and_port(http),
        limits,
        data_dirs=data_dirs,
        sweep_interval_s=sweep_interval,
        grace_s=grace,
        http_private=http_private,
        clusters=tuple(str(path.absolute()) for path in clusters),
        conflist=_conflist(clusters, target, mtu),
        routes=routes,
        masquerade=masquerade,
    )
    process.run(asked, _discard if quiet else _announce)


def _discard(_: process.Ready) -> None:
    """Print nothing."""


def _announce(ready: process.Ready) -> None:
    """Print how to reach the agent, and whether its network configuration is written."""
    state = "is ready" if ready.is_written else "serves calls"
    parts = [f"fastipam agent {ready.pid} {state}: socket {ready.socket}"]
    if ready.conflist:
        parts.append(f"{ready.conflist} is {'written' if ready.is_written else 'not written yet'}")
    if ready.url:
        parts.append(f"page {ready.url}/, metrics {ready.url}/metrics, health {ready.url}/healthz")
    click.echo(", ".join(parts))
    sys.stdout.flush()


def host_and_port(text: str | None) -> tuple[str, int] | None:
    """Return (host, port) of the value of --http, or None without one. Raises ConfigError."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal()):
        raise ConfigError(
            f"{text!r} is neither a port nor ADDRESS:PORT",
            field="--http",
            value=text,
            hint="type 9464, or 127.0.0.1:9464",
        )
    if not 0 <= int(port) <= _LARGEST_PORT:
        raise ConfigError(
            f"{port} is not a valid port: the largest is {_LARGEST_PORT}",
            field="--http",
            value=text,
            hint="type a port, for example 9464",
        )
    return host.strip("[]") or "127.0.0.1", int(port)
