"""``fastipam show``."""

from __future__ import annotations

from typing import Any

import click

import fastipam
from fastipam.cli import explain, options, output, rows
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command
from fastipam.network.reading import parse_wanted

# The fields of an explanation in the order in which they are printed, unless they are empty.
_FIELDS = (
    ("network", "network"),
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
        ("fastipam show 10.32.7.9 --json", "for a program: an array, an object a network"),
    ),
    exits={1: "no network of the store has such an address, or an error"},
)
@click.argument("address")
@options.data_dir
@options.network("Only in this network.")
@options.as_json
def command(address: str, data_dir: str, network: str | None, as_json: bool) -> None:
    """Print the lease of ADDRESS, or why it is reserved, cooling or free; and its history."""
    wanted = parse_wanted(address)
    with fastipam.open(data_dir, create=False) as ipam:
        explained = [
            explain.explain(ipam, name, wanted, local=not as_json)
            for name in rows.names(ipam, network)
        ]
    found = [one for one in explained if one is not None]
    if as_json:
        output.json_array(found)
        if not found:
            raise SystemExit(1)
        return
    if not found:
        raise Failure(
            f"no network of {data_dir} has an address {address}", "`fastipam stats` names them"
        )
    for number, one in enumerate(found):
        if number:
            output.say("")
        _print(one)


def _print(explained: dict[str, Any]) -> None:
    pairs = [("address", explained.get("cidr", explained["address"]))]
    pairs += [(title, str(explained[key])) for key, title in _FIELDS if explained.get(key)]
    width = max(len(title) for title, _ in pairs)
    for title, text in pairs:
        output.say(f"{title:>{width}}  {output.printable(text)}")
    for event in explained["history"]:
        whose = event["pod"] or event["container_id"] or "-"
        line = f"{event['time']}  {event['event']:<10}  {whose} {event['ifname']}"
        output.say(f"{'history':>{width}}  {output.printable(line).rstrip()}")
