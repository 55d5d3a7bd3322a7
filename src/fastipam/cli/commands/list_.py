"""The command ``fastipam list``."""

from __future__ import annotations

import click

import fastipam
from fastipam.cli import columns, filters, options, output, rows
from fastipam.cli.click_base import command as _command
from fastipam.cli.times import MOMENT, Ages, Moment, Stamps
from fastipam.ipam import open_with


@_command(
    "list",
    examples=(
        ("fastipam list", "every address that is in use, with its pod"),
        ("fastipam list --pod default/web-0", "what a pod has"),
        ("fastipam list --wide", "every column, however narrow the terminal"),
        ("fastipam list --since 10m", "what was assigned in the last ten minutes"),
        ("fastipam list --address 10.32.7.0/24 --all", "a part of the pool, free addresses, too"),
        ("fastipam list --state RESERVED --json", "for a program"),
        ("fastipam list --watch", "a screen that follows what happens; into a pipe, line by line"),
    ),
)
@options.data_dir
@options.network()
@click.option("--all", "with_free", is_flag=True, help="Free addresses, too.")
@click.option(
    "--address", metavar="IP|CIDR|A-B", default="", help="Only these addresses. An index is used."
)
@click.option("--pod", metavar="NS/NAME", default="", help="Only this pod's.")
@click.option(
    "--container",
    metavar="ID",
    default="",
    help="Only this container's; the beginning of its id is enough.",
)
@click.option(
    "--ifname",
    metavar="NAME",
    default="",
    help="Only this interface's; with a whole --container an index is used.",
)
@click.option(
    "--owner",
    metavar="KEY",
    default="",
    help="Only what this pod (NS/NAME) or container has, or what is reserved for it.",
)
@click.option(
    "--since",
    type=MOMENT,
    metavar="TIME",
    help="Only what was assigned at that time or later: 14:05, 2h, 2026-11-24. "
    "The history is used as far as it goes back.",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(filters.STATES, case_sensitive=False),
    metavar="STATE",
    help="Only this state: ASSIGNED, COOLING, RESERVED or FREE, in capitals or not; may be given "
    "several times. An index is used for COOLING and RESERVED.",
)
@click.option("--watch", is_flag=True, help="Keep running and show what changes, until Ctrl-C.")
@click.option(
    "--interval",
    type=options.Seconds(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two updates of --watch.",
)
@options.wide
@options.as_json
def command(
    data_dir: str,
    network: str | None,
    with_free: bool,
    address: str,
    pod: str,
    container: str,
    ifname: str,
    owner: str,
    since: Moment | None,
    states: tuple[str, ...],
    watch: bool,
    interval: float,
    wide: bool,
    as_json: bool,
) -> None:
    """Print IP, STATUS and POD of every used address: network by network, in address order.

    On a terminal AGE says for how long, and columns for which there is no room are left out.

    STATUS is ASSIGNED, COOLING (given back, not yet to be assigned again), RESERVED or, with
    --all, FREE. Rows are printed as they are read: a million need no more memory than one.
    """
    from fastipam.addressing.parsing import parse_exclusion

    wanted = filters.Filter(
        parse_exclusion(address, field="--address") if address else None,
        container,
        ifname,
        pod,
        owner,
        since.start_ns if since else 0,
        frozenset(states),
    )
    with_free = with_free or filters.FREE in wanted.states
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        earlier = rows.earlier_boots(ipam, network)
        if ipam.store.boot_doubt:
            output.note(f"there may be leases from an earlier boot: {ipam.store.boot_doubt}")
        if earlier:
            output.note(
                f"the list has {output.counted(earlier, 'lease')} from an earlier boot: `fastipam "
                "sweep` releases them"
            )
        if watch:
            _watch(ipam, network, wanted, as_json=as_json, wide=wide, every_s=interval)
            return
        narrow = output.is_narrow(wide=wide) and not as_json
        when = Ages(ipam.store.clock()) if narrow else Stamps(local=not as_json)
        documents = rows.rows(ipam, network, wanted, with_free=with_free, when=when)
        shown = columns.fitting(
            columns.LEASES, narrow=narrow, several=rows.are_several(ipam, network)
        )
        if not output.rows(shown, documents, as_json=as_json, wide=wide) and not as_json:
            everything = wanted == filters.EVERYTHING
            what = "no address is in use" if everything else "no address matches the filter"
            output.note(f"{what}{filters.pod_hint(pod)}")


def _watch(
    ipam: fastipam.Ipam,
    network: str | None,
    wanted: filters.Filter,
    *,
    as_json: bool,
    wide: bool,
    every_s: float,
) -> None:
    from fastipam.cli import follow

    try:
        if output.is_terminal() and not as_json:
            follow.on_screen(ipam, network, wanted, wide=wide, every_s=every_s)
        else:
            follow.to_pipe(ipam, network, wanted, as_json=as_json, every_s=every_s)
    except KeyboardInterrupt:
        pass  # Ctrl-C ends it
