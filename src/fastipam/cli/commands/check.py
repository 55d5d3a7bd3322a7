"""The command ``fastipam check``."""

from __future__ import annotations

from dataclasses import asdict

import click

import fastipam
from fastipam.cli import layout, options, output, progress
from fastipam.cli.apart import apart
from fastipam.cli.click_base import command as _command
from fastipam.ipam import open_with


@_command(
    "check",
    examples=(
        ("fastipam check", "while everything runs: it reads one moment's state"),
        ("fastipam check --repair", "repair what it finds, in one transaction"),
    ),
    exits={
        0: "the store is consistent (with --repair: it is now)",
        1: "findings were printed, or an error",
    },
)
@options.data_dir
@click.option(
    "--repair",
    "mend",
    is_flag=True,
    help="Repair it, in one transaction. No address that a container has is freed.",
)
@options.as_json
def command(data_dir: str, mend: bool, as_json: bool) -> None:
    """Verify the store: compare its records with each other, and print each contradiction.

    Pages, leases, owners, cool-down queue, reservations, history and counters are read, in
    one read transaction: nothing has to be stopped.
    """
    found = apart(lambda: _look(data_dir, mend=mend), data_dir)
    if as_json:
        output.json_array(found)
    else:
        for one in found:
            place = ": ".join(str(one[key]) for key in ("network", "where") if one[key])
            output.prose(layout.printable(f"{place}: {one['text']}"))
        if not found:
            output.say(f"{data_dir}: consistent")
        elif mend:
            output.say(f"{data_dir}: repaired: {output.counted(len(found), 'change')}")
    if found and not mend:
        if not as_json:
            count = output.counted(len(found), "finding")
            output.note(f"{count}; type `fastipam backup FILE`, then `fastipam check --repair`")
        raise SystemExit(1)


def _look(data_dir: str, *, mend: bool) -> list[dict[str, str]]:
    with open_with(data_dir, create=False, count_boot=mend) as ipam:
        return _repair(ipam) if mend else _verify(ipam)


def _verify(ipam: fastipam.Ipam) -> list[dict[str, str]]:
    from fastipam.verify import verify

    with progress.bar("records") as advance:
        return [asdict(finding) for finding in verify(ipam.store, advance)]


def _repair(ipam: fastipam.Ipam) -> list[dict[str, str]]:
    from fastipam.repair import repair

    with progress.bar("records") as advance:
        return [asdict(action) for action in repair(ipam.store, advance)]
