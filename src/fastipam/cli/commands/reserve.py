"""``fastipam reserve`` and ``fastipam unreserve``."""

from __future__ import annotations

import click

import fastipam
from fastipam.addressing.addresses import format_ip
from fastipam.addressing.parsing import parse_exclusion
from fastipam.cli import options, output, rows
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command
from fastipam.errors import ConfigError

_COLUMNS = (rows.IP, output.Column("NOW", "status"), rows.WHOLE_NETWORK)


def _network(ipam: fastipam.Ipam, name: str | None) -> fastipam.Network:
    """Return the network that is named, or the only one there is. Raises ConfigError."""
    known = rows.names(ipam, name)
    if len(known) == 1:
        return ipam.network(known[0])
    raise ConfigError(
        f"the store {ipam.path} has {len(known)} networks",
        field="--network",
        value=None,
        hint=f"name one: {', '.join(known) or 'the first ADD makes it'}",
    )


def _print(ipam: fastipam.Ipam, name: str, found: list[tuple[int, int]], *, as_json: bool) -> None:
    """Print the status of each address after the change."""
    from fastipam.cli.explain import statuses

    shown = (
        {"network": name, "address": format_ip(*one), "status": status}
        for one, status in zip(found, statuses(ipam, name, found), strict=True)
    )
    output.rows(_COLUMNS, shown, as_json=as_json)


@_command(
    "reserve",
    examples=(
        ("fastipam reserve 10.32.7.9 --reason 'printer'", "nobody gets it"),
        ("fastipam reserve 10.32.7.9 --owner default/db-0", "only this pod gets it, and always"),
        ("fastipam reserve 10.32.8.0/28", "sixteen addresses at once"),
    ),
)
@click.argument("target", metavar="IP|CIDR|A-B")
@options.data_dir
@options.network("In this network; not needed where there is one.")
@click.option(
    "--owner",
    metavar="KEY",
    default="",
    help="The pod (namespace/name) or container id that may have it. Without: nobody.",
)
@click.option("--reason", metavar="TEXT", default="", help="What it is for; `show` prints it.")
@options.as_json
def command(
    target: str, data_dir: str, network: str | None, owner: str, reason: str, as_json: bool
) -> None:
    """Keep addresses from every allocation, or for one owner. Who has one now keeps it."""
    with fastipam.open(data_dir, create=False) as ipam:
        where = _network(ipam, network)
        found = where.reserve(target, owner=owner, reason=reason)
        _print(ipam, where.name, found, as_json=as_json)


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
@options.as_json
def unreserve(target: str, data_dir: str, network: str | None, as_json: bool) -> None:
    """End reservations. Who has such an address keeps it.

    Those that keep an address for a sticky pod end, too: such an address cools down.
    """
    parse_exclusion(target, field="IP|CIDR|A-B")
    with fastipam.open(data_dir, create=False) as ipam:
        where = _network(ipam, network)
        found = where.unreserve(target)
        if not found:
            raise Failure(
                f"nothing is reserved in {target}",
                "`fastipam list --state RESERVED` lists what is reserved",
            )
        _print(ipam, where.name, found, as_json=as_json)
