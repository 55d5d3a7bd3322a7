"""The options that name the cluster of a command, and how to reach it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import fastipam
from fastipam.cli import options
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.registry import Registry
    from fastipam.configuration.cluster import Settings
    from fastipam.ipam import Ipam

_TIMEOUT_S = 10.0


class Where(NamedTuple):
    """The values of the options: the cluster of a command, and how long the command may take."""

    path: str
    network: str | None
    data_dir: str | None
    timeout_s: float

    def directory(self) -> str:
        """Return the directory of this node's store."""
        return settings_of(self.path, self.network, self.data_dir)[2]

    def deadline(self) -> Deadline:
        """Return the deadline of the whole command, starting now."""
        from fastipam.cluster.deadline import CALL_S, Deadline

        # One call may take half of the time: an election of etcd can take long, and the operator
        # who has typed the command can wait for it.
        return Deadline(self.timeout_s, call_s=max(self.timeout_s / 2, CALL_S))

    @contextmanager
    def node(self, *, create: bool = False) -> Iterator[tuple[Ipam | None, Node]]:
        """Yield (store, this node). The store is None when it does not exist."""
        from fastipam.cluster.node.node import Node
        from fastipam.cluster.node.share import Share
        from fastipam.cluster.registries.connect import open_registry
        from fastipam.network import Network

        settings, name, directory = settings_of(self.path, self.network, self.data_dir)
        ipam: Ipam | None = None
        registry: Registry | None = None
        try:
            with suppress(FileNotFoundError):
                ipam = fastipam.open(directory, create=create)
            store: Any = None
            network: Any = _Named(name)
            if ipam is not None:
                store = ipam.store
                network = Network(store, name, settings.pool, remember=False)
            share = Share(store, network, settings)
            registry = open_registry(share)
            if settings.is_founded_by_agent and not settings.pools:
                pools = registry.pools(self.deadline())
                share.settings = settings.with_pools(pools or [])
            yield ipam, Node(share, registry)
        finally:
            if registry is not None:
                registry.close()
            if ipam is not None:
                ipam.close()


class _Named:
    """A stand-in for a network that has no store on this node."""

    def __init__(self, name: str) -> None:
        self.name = name


def where(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name the cluster; the command gets them as one :class:`Where`."""

    @wraps(function)
    def command(
        *, path: str, network: str | None, data_dir: str | None, timeout_s: float, **others: Any
    ) -> Any:
        return function(Where(path, network, data_dir, timeout_s), **others)

    decorated: Callable[..., Any] = command
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
        decorated = option(decorated)
    return decorated


def settings_of(path: str, network: str | None, data_dir: str | None) -> tuple[Settings, str, str]:
    """Return (settings, network, data directory) from a file. Raises ConfigError."""
    from fastipam.cni import more_blocks

    settings, name, directory = more_blocks.read_any(path)
    network, data_dir = network or name, data_dir or directory
    network = network or settings.network
    if not network:
        raise ConfigError(
            "the name of the network is missing",
            field="--network",
            value=None,
            hint='type --network NAME, or write the key "network" into the file',
        )
    return settings, network, data_dir or settings.data_dir or DEFAULT_DATA_DIR
