"""The command ``fastipam show``."""

from __future__ import annotations

from typing import Any

import click

from fastipam.cli import explain, layout, options, output, rows
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command
from fastipam.ipam import open_with
from fastipam.network.reading import parse_wanted

_MOST_NAMED = 4  # networks that a hint names
# The fields of an explanation, in the order in which they are printed; empty ones are left out.
_FIELDS = (
    ("network", "network"),
    ("pool", "pool"),
    ("status", "status"),
    ("why", "because"),
    ("pod", "pod"),
    ("container_id", "container"),
    ("ifname", "interface"),
    ("allocated_at", "since"),
    ("released_at", "released"),
    ("netns", "netns"),
    ("netns_state", "netns is"),
    ("reserved_for", "reserved for"),
    ("reserved_until", "until"),
    ("reason", "reason"),
    ("range", "range"),
    ("gateway", "gateway"),
)


@_command(
    "show",
    examples=(
        ("fastipam show 10.32.7.9", "who has it, since when; or why it is not free"),
        ("fastipam show 10.32.7.9 --json", "for a program: an array with one object per network"),
    ),
    exits={1: "no network of the store has such an address, or an error"},
)
@click.argument("address")
@options.data_dir
@options.network("Only in this network.")
@options.whole
@options.as_json
def command(address: str, data_dir: str, network: str | None, wide: bool, as_json: bool) -> None:
    """Print the lease of ADDRESS, or why it is reserved, cooling or free; and its history."""
    wanted = parse_wanted(address)
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        explained = [
            explain.explain(ipam, name, wanted, local=not as_json)
            for name in rows.names(ipam, network)
        ]
        found = [one for one in explained if one is not None]
        known = [] if found else list(rows.stats(ipam, network))
    if as_json:
        output.json_array(found)
    if not found:
        where = f"network {network}" if network else f"no network of {data_dir}"
        has = "does not have" if network else "has"
        raise Failure(f"{where} {has} the address {address}", _hint(known))
    if as_json:
        return
    for number, one in enumerate(found):
        if number:
            output.say("")
        _print(one, wide=wide)


def _hint(known: list[dict[str, Any]]) -> str:
    """Return the names and ranges of the networks that exist."""
    if not known:
        return "the store has no network yet: the first ADD creates one"
    named = []
    for one in known[:_MOST_NAMED]:
        ranges = "; ".join(row["ranges"] for row in rows.stats_table([one]))
        named.append(f"{one['network']} ({ranges})")
    more = len(known) - len(named)
    rest = f", and {more} more: `fastipam stats` has them all" if more else ""
    return f"the networks are {', '.join(named)}{rest}"


def _print(explained: dict[str, Any], *, wide: bool) -> None:
    pairs = [("address", explained.get("cidr", explained["address"]))]
    pairs += [(title, str(explained[key])) for key, title in _FIELDS if explained.get(key)]
    width = max(len(title) for title, _ in pairs)
    pairs = [(title, layout.printable(text)) for title, text in pairs]
    for event in explained["history"]:
        whose = event["pod"] or event["container_id"] or "-"
        line = f"{event['time']}  {event['event']:<10}  {whose} {event['ifname']}"
        pairs.append(("history", layout.printable(line).rstrip()))
    for title, text in pairs:
        output.prose(text, before=f"{title:>{width}}  ", indent=width + 2, wide=wide)
