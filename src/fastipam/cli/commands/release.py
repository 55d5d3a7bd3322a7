"""The command ``fastipam release``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

import fastipam
from fastipam.cli import columns, layout, options, output, rows
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command
from fastipam.ipam import open_with

if TYPE_CHECKING:
    from fastipam.lease import Lease
    from fastipam.storage.store import Store

_COLUMNS = (
    columns.IP,
    columns.POD,
    columns.CONTAINER,
    columns.INTERFACE,
    layout.Column("NETNS", "netns_state", least=12),
    columns.NETWORK,
)


@_command(
    "release",
    examples=(
        (
            "fastipam release 10.32.7.9 --dry-run",
            "who has it, and whether the pod exists",
        ),
        ("fastipam release 10.32.7.9", "asks first"),
        ("fastipam release --container 0a1b2c3d --yes", "all that a container has, from a script"),
    ),
    exits={1: "nothing was released, or an error"},
)
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@options.data_dir
@options.network("Only in this network.")
@click.option(
    "--container", metavar="ID", default="", help="All that this container has; the whole id."
)
@click.option("--ifname", metavar="NAME", default="", help="Only that interface of the container.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@options.dry_run("Say what would be released; change nothing.")
@options.wide
@options.as_json
def command(
    addresses: tuple[str, ...],
    data_dir: str,
    network: str | None,
    container: str,
    ifname: str,
    yes: bool,
    dry_run: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """Release addresses for which no DEL will come, with all other addresses of their owners.

    An owner is an interface of a container: of a dual-stack container both addresses are shown and
    released. A released address cools down before it is assigned again. A container that still runs
    keeps using the address all the same: NETNS says whether its network namespace is there.
    """
    if bool(addresses) == bool(container):
        raise click.UsageError("type addresses or --container ID")
    if ifname and not container:
        raise click.UsageError("--ifname needs --container")
    with open_with(data_dir, create=False, count_boot=not dry_run) as ipam:
        if addresses:
            owners = _owners_of(ipam, network, addresses)
        else:
            owners = _owners_in(ipam, network, container, ifname)
        if not owners:
            what = ", ".join(addresses) or f"container {container} {ifname}".rstrip()
            hint = f"`fastipam show {addresses[0]}` says who had it" if addresses else None
            raise Failure(f"no lease matches {what}", hint)
        shown = [_row(lease, ipam.store) for leases in owners for lease in leases]
        several = rows.are_several(ipam, network)
        if dry_run:
            narrow = output.is_narrow(wide=wide)
            fitting = columns.fitting(_COLUMNS, narrow=narrow, several=several)
            output.rows(fitting, shown, as_json=as_json, wide=wide)
            return
        if not yes:
            _ask(shown, several=several, wide=wide)
        done: list[dict[str, object]] = []
        row = iter(shown)
        for leases in owners:
            # Release only the leases that were shown, not what their owner was assigned since.
            gone = ipam.network(leases[0].network)._release_leases(leases)
            done += [{**next(row), "released": gone} for _ in leases]
    if as_json:
        output.json_array(done)
    else:
        for each in done:
            what = "released" if each["released"] else "left, because its lease has changed:"
            line = f"{what} {each['address']} of {each['pod'] or each['container_id']}"
            output.say(line if wide else output.fitted(line))
    if not any(each["released"] for each in done):
        raise SystemExit(1)


def _owners_of(
    ipam: fastipam.Ipam, only: str | None, addresses: tuple[str, ...]
) -> list[list[Lease]]:
    """Return the leases of each owner of these addresses, in the order of the addresses."""
    found: dict[tuple[str, str, str], list[Lease]] = {}
    names = rows.names(ipam, only)
    nobodys = list(addresses)
    for address in addresses:
        for name in names:
            network = ipam.network(name)
            lease = network.lookup(address)
            if lease is not None:
                nobodys = [one for one in nobodys if one != address]
                owner = (name, lease.container_id, lease.ifname)
                if owner not in found:
                    found[owner] = _siblings(network, lease)
    if found and nobodys:
        output.note(f"not assigned: {', '.join(nobodys)}")
    return list(found.values())


def _siblings(network: fastipam.Network, lease: Lease) -> list[Lease]:
    """Return the lease, and the other leases of its owner."""
    others = (network._lookup(one) for one in network._owned(lease.container_id, lease.ifname))
    return [lease, *(one for one in others if one is not None and one != lease)]


def _owners_in(
    ipam: fastipam.Ipam, only: str | None, container: str, ifname: str
) -> list[list[Lease]]:
    """Return the leases of each interface of a container."""
    found: dict[tuple[str, str], list[Lease]] = {}
    for name in rows.names(ipam, only):
        for lease in ipam.network(name).leases():
            if lease.container_id == container and ifname in ("", lease.ifname):
                found.setdefault((name, lease.ifname), []).append(lease)
    return list(found.values())


def _row(lease: Lease, store: Store) -> dict[str, str]:
    from fastipam.cli.explain import netns_state

    row = rows.lease_row(lease.network, (lease.family, lease.value), lease.record)
    return row | {"netns": lease.netns, "netns_state": netns_state(lease.record, store)}


def _ask(shown: list[dict[str, str]], *, several: bool, wide: bool) -> None:
    """Show what would be released, and ask the operator. Raises Failure, click.Abort."""
    addresses = output.counted(len(shown), "address")
    if not sys.stdin.isatty():
        raise Failure(
            f"{addresses} would be released, and there is no terminal to confirm on",
            "check with --dry-run, then pass --yes",
        )
    narrow = output.is_terminal(sys.stderr) and not wide
    fitting = columns.fitting(_COLUMNS, narrow=narrow, several=several)
    width = output.console(sys.stderr).width if narrow else None
    for line in output.lines(fitting, shown, width=width):
        output.note(line)
    living = [row["address"] for row in shown if row["netns_state"].startswith("there")]
    if living:
        output.note(
            f"the network namespace of {', '.join(living)} exists: its container may still run"
        )
    click.confirm(f"Release {addresses}?", abort=True, err=True)
