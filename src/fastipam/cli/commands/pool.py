"""The command ``fastipam pool``: list, show and remove the pools of this node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastipam.cli import columns, options, output, rows
from fastipam.cli.click_base import SETTINGS, Entry, Failure, Group
from fastipam.cli.click_base import command as _command
from fastipam.cli.layout import Column
from fastipam.ipam import open_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.ipam import Ipam

_HERE = "fastipam.cli.commands.pool"
_COMMANDS = {
    "list": Entry(f"{_HERE}:list_", "Look", "Every pool: its networks, how full it is."),
    "show": Entry(f"{_HERE}:show", "Look", "One pool: ranges, and each network's share."),
    "remove": Entry(f"{_HERE}:remove", "Change", "Remove a pool without addresses in use."),
}
_COLUMNS = (
    Column("POOL", "pool", least=10, middle=True),
    Column("NETWORKS", "names", least=10),
    *columns.COUNTS,
)
_SHARES = (
    Column("NETWORK", "network", least=10, middle=True),
    Column("RANGES", "ranges", least=15, middle=True),
    Column("ASSIGNED", "assigned", number=True),
)


@click.group("pool", cls=Group, entries=_COMMANDS, context_settings=SETTINGS)
def command() -> None:
    """The pools of this node: in each an address is unique, and several networks may share one."""


@_command(
    "list",
    examples=(
        ("fastipam pool list", "one line per pool"),
        ("fastipam pool list --json", "for a program: an array with one object per pool"),
    ),
)
@options.data_dir
@options.whole
@options.as_json
def list_(data_dir: str, wide: bool, as_json: bool) -> None:
    """Print the networks of each pool, and how many addresses are in which state.

    SIZE counts the addresses of all its networks' ranges, each once, without gateways, exclusions,
    network and broadcast addresses: in JSON they are "excluded". A line "static" counts those that
    are assigned on request only, a line "outside" those in use that no range has any longer. In
    each line SIZE is ASSIGNED + COOLING + RESERVED + FREE. USED is the share of SIZE that is not
    FREE; with two families, the share of the fuller one.
    """
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        found = _pools(ipam)
        shown = found if as_json else rows.pool_table(found)
        output.rows(_COLUMNS, shown, as_json=as_json, wide=wide)


@_command("show", examples=(("fastipam pool show blue", "which networks share it, and how much"),))
@click.argument("name")
@options.data_dir
@options.whole
@options.as_json
def show(name: str, data_dir: str, wide: bool, as_json: bool) -> None:
    """Print the networks of the pool NAME, each with its ranges and what it has assigned.

    O(addresses in use).
    """
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        found = next((one for one in _pools(ipam) if one["pool"] == name), None)
        if found is None:
            raise _unknown(ipam, name)
        shares = [_share(ipam, network) for network in found["networks"]]
    if as_json:
        output.json_array([found | {"shares": shares}])
        return
    output.table(_COLUMNS, list(rows.pool_table([found])), wide=wide)
    output.say("")
    output.table(_SHARES, shares, wide=wide)


@_command(
    "remove",
    examples=(("fastipam pool remove blue", "its networks are forgotten, too"),),
    exits={1: "an address of it is in use, or an error"},
)
@click.argument("name")
@options.data_dir
@options.as_json
def remove(name: str, data_dir: str, as_json: bool) -> None:
    """Remove the pool NAME and its networks, in one transaction, if no address is in use.

    Their history goes, too, and addresses that cool down can be assigned at once. A pool with
    reservations or with blocks of a cluster stays. The next ADD of a configuration that names it
    creates it again.
    """
    from fastipam.allocation import removal

    with open_with(data_dir, create=False) as ipam, ipam.store.write() as txn:
        networks = removal.remove_pool(txn, name)
    if as_json:
        output.json_array([{"pool": name, "networks": networks}])
        return
    output.say(f"pool {name} is removed, with {output.counted(len(networks), 'network')}")


def _pools(ipam: Ipam) -> Iterator[dict[str, Any]]:
    """Yield a document for each pool."""
    from fastipam.allocation import pools

    with ipam.store.read() as txn:
        names = pools.names(txn)
    for name in names:
        with ipam.store.read() as txn:
            found = pools.describe(txn, name)
        if found is not None:
            yield found


def _share(ipam: Ipam, name: str) -> dict[str, Any]:
    network = ipam.network(name)
    ranges = [str(each) for each in network.ranges]
    count = sum(1 for _ in network.leases())
    return {"network": name, "ranges": ",".join(ranges), "assigned": count}


def _unknown(ipam: Ipam, name: str) -> Failure:
    known = ", ".join(one["pool"] for one in _pools(ipam))
    return Failure(
        f"the store {ipam.path} has no pool {name!r}", f"the pools of the store: {known or 'none'}"
    )
