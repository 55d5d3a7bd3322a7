"""The command ``fastipam history``."""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING, Any

import click

import fastipam
from fastipam.allocation.history import BEGINNINGS
from fastipam.cli import columns, filters, options, output, rows
from fastipam.cli.click_base import command as _command
from fastipam.cli.follow import event_row
from fastipam.cli.times import MOMENT, Ages, Moment, Stamps, stamp
from fastipam.ipam import open_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.storage.records.event import Event


@_command(
    "history",
    examples=(
        ("fastipam history 10.32.7.9 --at 14:05", "its owner at that time"),
        ("fastipam history 10.32.7.9", "all of its owners, oldest first"),
        ("fastipam history --pod default/web-0", "every address that a pod has had"),
        ("fastipam history --since 10m", "what happened in the last ten minutes"),
        ("fastipam history --since 14:00 --until 14:30 --json", "for a program"),
    ),
    exits={1: "with --at: no owner is recorded; else an error"},
)
@click.argument("address", required=False)
@options.data_dir
@options.network()
@click.option("--pod", metavar="NS/NAME", default="", help="Only this pod's events.")
@click.option(
    "--at", type=MOMENT, metavar="TIME", help="Who had ADDRESS then; 14:05 means that minute."
)
@click.option("--since", type=MOMENT, metavar="TIME", help="Only events at that time or later.")
@click.option("--until", type=MOMENT, metavar="TIME", help="Only events up to that time.")
@options.wide
@options.as_json
def command(
    address: str | None,
    data_dir: str,
    network: str | None,
    pod: str,
    at: Moment | None,
    since: Moment | None,
    until: Moment | None,
    wide: bool,
    as_json: bool,
) -> None:
    """Print what happened to an address or a pod, oldest first; or who had an address at a time.

    A network keeps its last 100,000 events for 7 days ("history" and "historyAge" of the
    configuration). TIME is 14:05, 2026-11-24 14:05, with Z or +01:00, or how long ago: 10m, 2h, 3d.
    """
    if at is not None and (address is None or since or until or pod):
        raise click.UsageError("--at needs an ADDRESS and no other filter")
    if since and until and since.start_ns >= until.end_ns:
        raise click.UsageError("--since is later than --until")
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        narrow = output.is_narrow(wide=wide) and not as_json
        when = Ages(ipam.store.clock()) if narrow else Stamps(local=not as_json)
        several = rows.are_several(ipam, network)
        if at is not None and address is not None:
            documents = list(_holders(ipam, network, address, at, when))
            shown = columns.fitting(columns.HOLDERS, narrow=narrow, several=several)
            output.rows(shown, documents, as_json=as_json, wide=wide)
            if not documents:
                if not as_json:
                    output.note(_nobody(ipam, network, address, at))
                raise SystemExit(1)
            return
        between = (since.start_ns if since else None, until.end_ns - 1 if until else None)
        histories = (
            _history(ipam, name, address, pod, between) for name in rows.names(ipam, network)
        )
        events = (
            event_row(name, event, when)
            for name, event in merge(*histories, key=lambda one: one[1].wall_ns)
        )
        shown = columns.fitting(columns.EVENTS, narrow=narrow, several=several)
        if not output.rows(shown, events, as_json=as_json, wide=wide) and not as_json:
            output.note(f"no event matches: {_begins(ipam, network)}{filters.pod_hint(pod)}")


def _history(
    ipam: fastipam.Ipam,
    name: str,
    address: str | None,
    pod: str,
    between: tuple[int | None, int | None],
) -> Iterator[tuple[str, Event]]:
    """Yield (network, event) of one network, oldest first."""
    if pod and "/" not in pod:
        return  # a pod's name needs its namespace: a note says so
    since_ns, until_ns = between
    network = ipam.network(name)
    for event in network.history(address, pod=pod, since_ns=since_ns, until_ns=until_ns):
        yield name, event


def _holders(
    ipam: fastipam.Ipam, only: str | None, address: str, at: Moment, when: rows.When
) -> Iterator[dict[str, Any]]:
    """Yield a row for each owner of the address at that time."""
    for name in rows.names(ipam, only):
        begun = None
        first = True
        for event in ipam.network(name).history(address):
            if event.kind in BEGINNINGS:
                begun = event
            elif event.kind not in ("reserved", "unreserved", "repaired"):
                # A release also names the owner, in case the history has lost the assignment.
                if (begun or first) and _meets(at, begun.wall_ns if begun else 0, event.wall_ns):
                    yield _holder(name, begun, event, when)
                begun = None
            first = False
        if begun is not None and _meets(at, begun.wall_ns, at.end_ns):
            yield _holder(name, begun, None, when)


def _meets(at: Moment, start_ns: int, end_ns: int) -> bool:
    return start_ns < at.end_ns and end_ns > at.start_ns


def _holder(
    network: str, begun: Event | None, ended: Event | None, when: rows.When
) -> dict[str, Any]:
    event = begun or ended
    assert event is not None
    row = event_row(network, event, when)
    row["from"] = when(begun.wall_ns) if begun else ""
    row["until"] = when(ended.wall_ns) if ended else ""
    row["ended_by"] = ended.kind if ended else ""
    for key in ("time", "event", "sequence"):
        del row[key]
    return row


def _nobody(ipam: fastipam.Ipam, only: str | None, address: str, at: Moment) -> str:
    """Return why no owner was found: the address was free, or the history is too short."""
    first = _first(ipam, only)
    when = stamp(at.start_ns, local=True)
    if first is None:
        return f"no owner of {address} at {when} is recorded: {_begins(ipam, only)}"
    if first > at.start_ns:
        return f"no owner of {address} at {when} is recorded: {_begins(ipam, only)}"
    return f"{address} had no owner at {when}"


def _first(ipam: fastipam.Ipam, only: str | None) -> int | None:
    """Return the time of the oldest event in the history of any network, or None."""
    firsts = (next(iter(ipam.network(name).history()), None) for name in rows.names(ipam, only))
    return min((event.wall_ns for event in firsts if event is not None), default=None)


def _begins(ipam: fastipam.Ipam, only: str | None) -> str:
    first = _first(ipam, only)
    if first is None:
        return "the history is empty"
    return f"the history begins at {stamp(first, local=True)}"
