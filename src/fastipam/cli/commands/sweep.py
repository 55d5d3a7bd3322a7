"""The command ``fastipam sweep``."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from fastipam.cli import columns, options, output, progress, rows
from fastipam.cli.click_base import command as _command
from fastipam.cli.layout import Column
from fastipam.ipam import open_with
from fastipam.sweep import DEFAULT_GRACE_S

if TYPE_CHECKING:
    from fastipam.lease import Lease

_COLUMNS = (
    Column("RESULT", "result", 8),
    columns.IP,
    columns.POD,
    columns.CONTAINER,
    Column("NETNS", "netns", least=20, drop=1, middle=True),
    columns.NETWORK,
)


@_command(
    "sweep",
    examples=(
        ("fastipam sweep --dry-run", "what has lost its network namespace"),
        ("fastipam sweep", "check; typed again a minute later, release what is still missing"),
    ),
)
@options.data_dir
@options.network()
@click.option(
    "--grace",
    type=options.Seconds(0, 1e9),
    default=DEFAULT_GRACE_S,
    show_default=True,
    help="Seconds between the check that finds a namespace missing and the one that releases.",
)
@options.dry_run("Say what would be released; change nothing.")
@options.whole
@options.as_json
def command(
    data_dir: str, network: str | None, grace: float, dry_run: bool, wide: bool, as_json: bool
) -> None:
    """Release leases whose network namespace is gone, and those from before the last reboot.

    Addresses whose cool-down is over become free, and so do sticky addresses whose time is over.

    A lease is released when its namespace was missing in two checks, with the grace time in
    between. The agent checks once a minute. Without an agent, type this command twice, a minute
    apart. Missing means that the path of the namespace does not lead to it, and that no process, no
    mount and no open file has its inode. A namespace that cannot be judged from here (for example
    because not all processes can be seen) is left alone and counted as unknown.
    """
    from fastipam.sweep import Sweeper, add_up, give_back

    with open_with(data_dir, create=False, count_boot=not dry_run) as ipam:
        names = rows.names(ipam, network)
        earlier = rows.earlier_boots(ipam, network)  # count first: a call may release some
        if ipam.store.boot_doubt:
            output.note(f"there may be leases from an earlier boot: {ipam.store.boot_doubt}")
        networks = [ipam.network(name) for name in names]
        total = sum(each.stats().assigned for each in networks)
        with progress.bar("leases") as advance:
            report = add_up(
                chain.from_iterable(
                    Sweeper(ipam.store, each, grace_s=grace, dry_run=True)
                    if dry_run
                    else give_back(ipam.store, each, grace_s=grace)
                    for each in networks
                ),
                None if advance is None else lambda done: advance(done, max(done, total)),
            )
    found = [_row("released", lease) for lease in report.released]
    found += [_row("waiting", lease) for lease in report.missing]
    if as_json:
        found += [{**_row("unknown", lease), "why": why} for lease, why in report.unknown]
        output.json_array(found)
        return
    if found:
        narrow = output.is_narrow(wide=wide)
        shown = columns.fitting(_COLUMNS, narrow=narrow, several=len(names) > 1)
        output.table(shown, found, wide=wide)
    verb = "would be released" if dry_run else "released"
    output.note(
        f"{output.counted(report.looked, 'lease')} checked, {len(report.released)} {verb}, "
        f"{len(report.missing)} to be checked again in {grace:g} s"
    )
    if earlier:
        output.note(f"{output.counted(earlier, 'lease')} from an earlier boot {verb}")
    for why, count in report.reasons():
        output.note(f"{output.counted(count, 'lease')} skipped: {why}")
    if report.unknown:
        output.note("skipped leases are kept; type `fastipam release ADDRESS` to release one")


def _row(result: str, lease: Lease) -> dict[str, Any]:
    row = rows.lease_row(lease.network, (lease.family, lease.value), lease.record)
    return {"result": result, **row, "netns": lease.netns}
