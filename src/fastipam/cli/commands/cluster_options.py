"""Which cluster a command is about: options, the file that they name, and this node in it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

import fastipam
from fastipam.cli import options
from fastipam.errors import ConfigError
from fastipam.storage.store import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node
    from fastipam.configuration.cluster import Settings
    from fastipam.ipam import Ipam

_TIMEOUT_S = 10.0


def where(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which cluster: a file with its settings, or a CNI configuration."""
    for option in (
        click.option(
            "--timeout",
            "timeout_s",
            default=_TIMEOUT_S,
            show_default=True,
            type=options.Seconds(0.1, 3600),
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


def settings_of(path: str, network: str | None, data_dir: str | None) -> tuple[Settings, str, str]:
    """(settings, network, data directory) of a file. Raises ConfigError."""
    from fastipam.cli import cni_configs
    from fastipam.cni import more_blocks
    from fastipam.configuration.cluster import Settings

    content = more_blocks.read_file(path)
    plugin = next(
        (one for one in cni_configs.plugins_of(content) if "cluster" in one["ipam"]), None
    )
    if plugin is None:
        settings = Settings(content, path)
    else:
        ipam = plugin["ipam"]
        name, directory = plugin.get("name", ""), ipam.get("datadir", DEFAULT_DATA_DIR)
        settings = more_blocks.read(ipam["cluster"], name, directory, [])
        network, data_dir = network or name, data_dir or directory
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
def this_node(
    path: str, network: str | None, data_dir: str | None, *, create: bool = False
) -> Iterator[tuple[Ipam | None, Node]]:
    """This node's side of the cluster; without its store when there is none."""
    from fastipam.cluster.engines.connect import connect
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.node.share import Share
    from fastipam.network import Network

    settings, name, directory = settings_of(path, network, data_dir)
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
        yield ipam, Node(Share(store, bound, settings), engine)
    finally:
        engine.close()
        if ipam is not None:
            ipam.close()


class _Named:
    """A network of which there is no store here."""

    def __init__(self, name: str) -> None:
        self.name = name


def within(timeout_s: float) -> Deadline:
    """The moment by which a command has ended."""
    from fastipam.cluster.deadline import CALL_S, Deadline

    # A person waits for an election rather than to be told of it.
    return Deadline(timeout_s, call_s=max(timeout_s / 2, CALL_S))
