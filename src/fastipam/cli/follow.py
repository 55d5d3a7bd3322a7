"""The loop of ``list --watch``: redraw a screen, or write a line for each change into a pipe.

The changes are the events of the history since the last reading: O(changes) each time.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from fastipam.addressing import sizes
from fastipam.allocation import history
from fastipam.allocation.lookup import find
from fastipam.cli import columns, filters, layout, output, rows, streams
from fastipam.cli.times import Ages, Stamps
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastipam.cli.filters import Filter
    from fastipam.ipam import Ipam

_BESIDE_ROWS = 4  # lines of the screen besides the rows: heading, a gap, counts, hints


def event_row(network: str, event: event_record.Event, when: rows.When) -> dict[str, Any]:
    """Return the row of an event for ``history`` and ``list --watch``."""
    return {
        "network": network,
        "time": when(event.wall_ns),
        "address": event.address,
        "event": event.kind,
        "pod": filters.pod_of(event),
        "container_id": event.container_id,
        "ifname": event.ifname,
        "pod_namespace": event.pod_namespace,
        "pod_name": event.pod_name,
        "pod_uid": event.pod_uid,
        "netns": event.netns,
        "sequence": event.sequence,
        "generation": event.generation,
    }


class Changes:
    """The events of some networks since the last reading."""

    def __init__(self, ipam: Ipam, only: str | None) -> None:
        self._ipam = ipam
        self._only = only
        self._next = {name: self._end(name) for name in rows.names(ipam, only)}

    def _end(self, name: str) -> int:
        with self._ipam.store.read() as txn:
            found = find(txn, keys.encode("name", name))
            return txn.event_log(found[0]).next if found else 0

    def look(self) -> Iterator[tuple[str, event_record.Event]]:
        """Yield (network, event) for each event since the last reading, in new networks too."""
        for name in [self._only] if self._only else self._ipam.networks():
            more = True
            while more:  # a page is read completely before it is yielded: the reader may be slow
                events, more = self._page(name)
                for event in events:
                    yield name, event

    def _page(self, name: str) -> tuple[list[event_record.Event], bool]:
        """Return the next events of a network, and whether there are more."""
        with self._ipam.store.read() as txn:
            found = find(txn, keys.encode("name", name))
            if found is None:
                return [], False
            first = event_record.event_key(found[0], self._next.get(name, 0))
            items, more = history.page(txn, found[0], first)
        events = [event_record.Event(*item) for item in items]
        if events:
            self._next[name] = events[-1].sequence + 1
        return events, more is not None


def to_pipe(ipam: Ipam, only: str | None, wanted: Filter, *, as_json: bool, every_s: float) -> None:
    """Write the list, then a line for each change. With ``as_json`` each line is an object."""
    from json import dumps

    changes = Changes(ipam, only)
    when = Stamps(local=not as_json)
    if as_json:
        for row in rows.rows(ipam, only, wanted):
            output.say(dumps(row))
    else:
        output.table(columns.LEASES, rows.rows(ipam, only, wanted, when=when))
    while not streams.is_lost():
        for name, event in changes.look():
            if wanted.fits_event(event):
                row = event_row(name, event, when)
                keys = ("time", "event", "address", "pod", "container_id", "ifname", "network")
                output.say(
                    dumps(row) if as_json else "  ".join(str(row[key]) or "-" for key in keys)
                )
        streams.pause(every_s)


def on_screen(ipam: Ipam, only: str | None, wanted: Filter, *, wide: bool, every_s: float) -> None:
    """Draw as much of the list as fits the terminal, every ``every_s`` seconds."""
    from rich.live import Live
    from rich.text import Text

    console = output.console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not streams.is_lost():
            room = max(1, console.height - _BESIDE_ROWS)
            lines = _drawn(ipam, only, wanted, wide=wide, room=room, width=console.width)
            live.update(Text.from_ansi("\n".join(lines)), refresh=True)
            streams.pause(every_s)


def _drawn(
    ipam: Ipam, only: str | None, wanted: Filter, *, wide: bool, room: int, width: int
) -> list[str]:
    """Return the lines of a screen: as many rows as there is room for, then the footer.

    No line is wider than the screen, because it would push the footer off the screen.
    """
    when = Stamps(local=True) if wide else Ages(ipam.store.clock())
    shown = list(islice(rows.rows(ipam, only, wanted, when=when), room + 1))
    more = len(shown) > room
    several = rows.are_several(ipam, only)
    lines = output.lines(
        columns.fitting(columns.LEASES, narrow=not wide, several=several),
        shown[:room],
        width=width,
        colours=output.has_colours(),
    )
    last = "Ctrl-C ends"
    if more:
        last = f"the first {room} rows; a filter shows others   {last}"
    return [*lines, "", layout.cut(_counts(ipam, only, width), width), layout.cut(last, width)]


def _counts(ipam: Ipam, only: str | None, width: int) -> str:
    """Return a line with the counts of the first networks, and how many have no room in it."""
    texts = [
        (
            _name(row),
            f": {row['assigned']} assigned, {row['cooling']} cooling, "
            f"{row['reserved']} reserved, {sizes.power(row['free'])} free",
        )
        for row in rows.stats_table(rows.stats(ipam, only))
    ]
    for count in range(len(texts), 0, -1):
        left = len(texts) - count
        more = f"; {left} more in `fastipam stats`" if left else ""
        line = "; ".join(name + text for name, text in texts[:count]) + more
        if len(line) <= width:
            return line
        if count == 1:
            name, text = texts[0]
            return layout.cut(name, max(1, width - len(text + more))) + text + more
    return ""


def _name(row: Mapping[str, Any]) -> str:
    """Return the network in a row of ``stats``, with the ranges if it has several range sets."""
    name = str(row["network"])
    return f"{name} {row['ranges']}" if row["several"] else name
