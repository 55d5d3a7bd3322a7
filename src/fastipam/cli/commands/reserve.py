"""The commands ``fastipam reserve`` and ``fastipam unreserve``."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

import fastipam
from fastipam.addressing.addresses import format_ip
from fastipam.addressing.parsing import parse_exclusion
from fastipam.cli import columns, options, output, rows
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command
from fastipam.cli.layout import Column
from fastipam.configuration.network import Config
from fastipam.errors import ConfigError, FastipamError
from fastipam.ipam import open_with
from fastipam.storage.tables import DURABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fastipam.network.reading import AnyIP

_COLUMNS = (columns.IP, Column("NOW", "status"), columns.NETWORK)


def _network(ipam: fastipam.Ipam, name: str | None) -> fastipam.Network:
    """Return the named network, or the only one in the store. Raises ConfigError."""
    known = rows.names(ipam, name)
    if len(known) == 1:
        return ipam.network(known[0])
    raise ConfigError(
        f"the store {ipam.path} has {len(known)} networks",
        field="--network",
        value=None,
        hint=f"name one: {', '.join(known) or 'the first ADD makes it'}",
    )


def _only_one_with(ipam: fastipam.Ipam, target: str) -> str | None:
    """Return the only network whose ranges contain some of these addresses, else None."""
    family, first, last = parse_exclusion(target, field="IP|CIDR|A-B")
    found = [
        name
        for name in ipam.networks()
        if any(
            each.family == family and each.start <= last and first <= each.end
            for whole in ipam.network(name).ranges
            for each in whole.ranges
        )
    ]
    return found[0] if len(found) == 1 else None


@contextmanager
def _opened(
    data_dir: str, name: str | None, conf_dir: Path, target: str
) -> Iterator[tuple[fastipam.Ipam, fastipam.Network]]:
    """Open the store and yield it with the network in which to reserve.

    If the store or the network does not exist yet, it is created from the runtime's configuration.
    Raises ConfigError when the configuration does not have the network either.
    """
    try:
        ipam = fastipam.open(data_dir, create=False)
    except FileNotFoundError:
        config = _configured(data_dir, name, conf_dir)
        if config is None:
            raise
        ipam = open_with(data_dir, config.durability or DURABLE)
    with ipam:
        known = ipam.networks()
        if known and (name is None or name in known):
            yield ipam, _network(ipam, name or _only_one_with(ipam, target))
            return
        config = _configured(data_dir, name, conf_dir)
        if config is None:
            yield ipam, _network(ipam, name)
            return
        yield (
            ipam,
            fastipam.Network(
                ipam.store,
                config.name,
                config.pool,
                policy=config.policy,
                pool_name=config.pool_name or config.name,
                names_pool=config.names_pool,
            ),
        )


def _configured(data_dir: str, name: str | None, conf_dir: Path) -> Config | None:
    """Return the configuration of a network with this data directory, or None.

    Without ``name`` it is the only such network.
    """
    from fastipam.cni import configs as cni_configs
    from fastipam.cni import more_blocks, versions

    found: dict[str, Config] = {}
    try:
        files = cni_configs.files(conf_dir)
    except OSError:
        return None
    for path in files:
        try:
            for plugin in cni_configs.with_ipam(path):
                if plugin["ipam"]["type"] == "fastipam" and name in (None, plugin.get("name")):
                    config = Config(plugin, versions.agree(plugin, "ADD"), more_blocks.read)
                    found.setdefault(config.name, config)
        except (FastipamError, OSError):
            continue  # `fastipam doctor` reports the error
    usable = [
        one
        for one in found.values()
        # In a cluster the first ADD has to claim a block, so nothing can be reserved before it.
        if one.cluster is None
        and one.pool.sets
        and os.path.realpath(one.data_dir) == os.path.realpath(data_dir)
    ]
    return usable[0] if len(usable) == 1 else None


def _print(
    ipam: fastipam.Ipam, name: str, changed: Iterable[AnyIP], *, wide: bool, as_json: bool
) -> None:
    """Print the status of each address after the change."""
    from fastipam.cli.explain import statuses

    found = [(one.version, int(one)) for one in changed]
    shown = (
        {"network": name, "address": format_ip(*one), "status": status}
        for one, status in zip(found, statuses(ipam, name, found), strict=True)
    )
    output.rows(_COLUMNS, shown, as_json=as_json, wide=wide)


@_command(
    "reserve",
    examples=(
        ("fastipam reserve 10.32.7.9 --reason 'printer'", "no pod gets it"),
        ("fastipam reserve 10.32.7.9 --owner default/db-0", "only this pod gets it, and always"),
        ("fastipam reserve 10.32.8.0/28", "sixteen addresses at once"),
    ),
)
@click.argument("target", metavar="IP|CIDR|A-B")
@options.data_dir
@options.network("In this network; not needed where there is one.")
@options.conf_dir
@click.option(
    "--owner",
    metavar="KEY",
    default="",
    help="The pod (namespace/name) or container id that may have it. Without it no owner may.",
)
@click.option("--reason", metavar="TEXT", default="", help="What it is for; `show` prints it.")
@options.whole
@options.as_json
def command(
    target: str,
    data_dir: str,
    network: str | None,
    conf_dir: Path,
    owner: str,
    reason: str,
    wide: bool,
    as_json: bool,
) -> None:
    """Keep addresses from every allocation, or for one owner. A current owner keeps its address.

    Before its first ADD, a network has the ranges of its configuration in --conf-dir.
    """
    with _opened(data_dir, network, conf_dir, target) as (ipam, where):
        found = where.reserve(target, owner=owner, reason=reason)
        _print(ipam, where.name, found, wide=wide, as_json=as_json)


@_command(
    "unreserve",
    examples=(
        ("fastipam unreserve 10.32.7.9", "it can be assigned again"),
        ("fastipam unreserve 10.32.8.0/28", "whatever is reserved there"),
    ),
    exits={1: "nothing is reserved there, or an error"},
)
@click.argument("target", metavar="IP|CIDR|A-B")
@options.data_dir
@options.network("In this network; not needed where there is one.")
@options.whole
@options.as_json
def unreserve(target: str, data_dir: str, network: str | None, wide: bool, as_json: bool) -> None:
    """End reservations. A current owner keeps its address.

    The reservation of a sticky address ends, too: the address then cools down.
    """
    parse_exclusion(target, field="IP|CIDR|A-B")
    with fastipam.open(data_dir, create=False) as ipam:
        where = _network(ipam, network or _only_one_with(ipam, target))
        found = where.unreserve(target)
        if not found:
            raise Failure(
                f"nothing is reserved in {target}",
                "`fastipam list --state RESERVED` lists reservations",
            )
        _print(ipam, where.name, found, wide=wide, as_json=as_json)
