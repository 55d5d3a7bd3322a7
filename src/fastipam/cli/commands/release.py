"""``fastipam release``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

import fastipam
from fastipam.addressing.addresses import format_ip
from fastipam.cli import options, output, rows
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.lease import Lease

_COLUMNS = (
    rows.IP,
    rows.POD,
    rows.CONTAINER,
    rows.INTERFACE,
    output.Column("NETNS", "netns_state"),
    rows.NETWORK,
)


@_command(
    "release",
    examples=(
        ("fastipam release 10.32.7.9 --dry-run", "whose it is, and whether that still lives"),
        ("fastipam release 10.32.7.9", "asks first"),
        ("fastipam release --container 0a1b2c3d --yes", "all that a container has, from a script"),
    ),
    exits={1: "nothing was released: nobody has it, or an error"},
)
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@options.data_dir
@options.network("Only in this network.")
@click.option(
    "--container", metavar="ID", default="", help="All that this container has; the whole id."
)
@click.option("--ifname", metavar="NAME", default="", help="Only that interface of the container.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.dry_run("Say what would be released; change nothing.")
@options.as_json
def command(
    addresses: tuple[str, ...],
    data_dir: str,
    network: str | None,
    container: str,
    ifname: str,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give addresses back that nobody will ever DEL. Everything that their owner has goes.

    A released address cools down before it is assigned again. A container that still runs keeps
    using the address all the same: NETNS says whether its network namespace is there.
    """
    if bool(addresses) == bool(container):
        raise click.UsageError("name addresses, or a --container")
    if ifname and not container:
        raise click.UsageError("--ifname goes with --container")
    with fastipam.open(data_dir, create=False) as ipam:
        leases = list(_leases(ipam, network, addresses, container, ifname))
        if not leases:
            what = ", ".join(addresses) or f"container {container} {ifname}".rstrip()
            raise Failure(f"nobody has {what}", "`fastipam show ADDRESS` says what became of it")
        shown = [_row(lease) for lease in leases]
        if dry_run:
            output.rows(_COLUMNS, shown, as_json=as_json)
            return
        if not yes:
            _ask(shown)
        done: list[dict[str, object]] = []
        for lease, row in zip(leases, shown, strict=True):
            where = ipam.network(lease.network)
            gone = where.release_address((lease.family, lease.value), generation=lease.generation)
            # The generation keeps an address from being released that has a new owner by now.
            done.append({**row, "released": gone is not None or _is_gone(where, lease)})
    if as_json:
        output.json_array(done)
    else:
        for each in done:
            what = "released" if each["released"] else "left (it has a new owner)"
            output.say(f"{what} {each['address']} of {each['pod'] or each['container_id']}")


def _is_gone(network: fastipam.Network, lease: Lease) -> bool:
    """Return whether the lease was released together with another address of its owner."""
    return network.lookup(format_ip(lease.family, lease.value)) is None


def _leases(
    ipam: fastipam.Ipam, only: str | None, addresses: tuple[str, ...], container: str, ifname: str
) -> Iterator[Lease]:
    """Yield the leases of the addresses and of the container."""
    for name in rows.names(ipam, only):
        network = ipam.network(name)
        for address in addresses:
            lease = network.lookup(address)
            if lease is not None:
                yield lease
        if container:
            yield from (
                lease
                for lease in network.leases()
                if lease.container_id == container and ifname in ("", lease.ifname)
            )


def _row(lease: Lease) -> dict[str, str]:
    from fastipam.cli.explain import netns_state

    row = rows.lease_row(lease.network, (lease.family, lease.value), lease.record)
    return row | {"netns": lease.netns, "netns_state": netns_state(lease.record)}


def _ask(shown: list[dict[str, str]]) -> None:
    """Show what would be released, and ask the operator. Raises Failure, click.Abort."""
    addresses = output.counted(len(shown), "address")
    if not sys.stdin.isatty():
        raise Failure(
            f"{addresses} would be released, and there is nobody to ask",
            "say --yes, after a look with --dry-run",
        )
    for line in output.lines(_COLUMNS, shown):
        output.note(line)
    living = [row["address"] for row in shown if row["netns_state"] == "there"]
    if living:
        output.note(f"the network namespace of {', '.join(living)} is there: its owner may run")
    click.confirm(f"Release {addresses}?", abort=True, err=True)
