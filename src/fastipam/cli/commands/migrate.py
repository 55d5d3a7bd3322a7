"""The commands ``fastipam import`` and ``fastipam export``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

import fastipam
from fastipam import host_local
from fastipam.cli import migration, options, output, progress
from fastipam.cli.click_base import Group
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.ipam import open_with


@click.group("import", cls=Group)
def import_() -> None:
    """Take over the leases of another IPAM plugin."""


@click.group("export", cls=Group)
def export() -> None:
    """Hand the leases over to another IPAM plugin."""


# The texts of the summary for each outcome, in this order.
_COUNTED = (
    (migration.DONE, "done"),
    (migration.WOULD, "would be imported"),
    (migration.PRESENT, "present"),
    (migration.OLDER, "older than the last boot, left out (--keep-older imports them)"),
    (migration.SKIPPED, "skipped"),
    (migration.CONFLICT, "in conflict"),
)

_tree = click.argument(
    "tree",
    metavar="[DIR]",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(host_local.DEFAULT_TREE),
)


@import_.command(
    "host-local",
    examples=(
        ("fastipam import host-local --dry-run", "what would be imported"),
        ("fastipam import host-local", "from /var/lib/cni/networks"),
    ),
    exits={1: "an address has another owner here (it was not changed), or an error"},
)
@_tree
@options.data_dir
@click.option(
    "--keep-older",
    is_flag=True,
    help="Import leases from before the last boot, too: the clock was wrong when they were made.",
)
@options.dry_run()
@options.as_json
def import_host_local(
    tree: Path, data_dir: str, keep_older: bool, dry_run: bool, as_json: bool
) -> None:
    """Read host-local's leases from DIR (default /var/lib/cni/networks), every network.

    Do it before the configuration's type changes: the DELs of running pods go to the new type.
    Leases from before the last boot are counted and left out, since their containers are gone.
    """
    migration.require_tree(tree)  # before a store is created for it
    options.require_parent(Path(data_dir), "--data-dir", DEFAULT_DATA_DIR)
    with fastipam.open(data_dir) as ipam, progress.bar("files of host-local") as advance:
        items = migration.import_host_local(
            ipam,
            tree,
            dry_run=dry_run,
            since_ns=0 if keep_older else None,
            progress=advance,
        )
    _report(items, as_json)


@export.command(
    "host-local",
    examples=(("fastipam export host-local", "to /var/lib/cni/networks"),),
    exits={1: "a file exists with another content (it was not changed), or an error"},
)
@_tree
@options.data_dir
@options.as_json
def export_host_local(tree: Path, data_dir: str, as_json: bool) -> None:
    """Write the leases to DIR (default /var/lib/cni/networks) as host-local keeps them.

    Only the last part of DIR may be missing. Reservations are not written: host-local has none.
    """
    options.require_parent(tree, "DIR", host_local.DEFAULT_TREE)
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        items = migration.export_host_local(ipam, tree)
    _report(items, as_json)


def _report(items: list[migration.Item], as_json: bool) -> None:
    """Print the outcome for each file, and a line that counts each outcome."""
    if as_json:
        output.json_array(item._asdict() for item in items)
    else:
        for item in items:
            name = "/".join(filter(None, (item.network, item.name)))
            output.prose(f"{name}: {item.text}", before=f"{item.outcome:<8} ", indent=9)
        counts = Counter(item.outcome for item in items)
        summary = [f"{counts[outcome]} {text}" for outcome, text in _COUNTED if counts[outcome]]
        output.say(", ".join(summary) or "there is nothing to import")
    if any(item.outcome == migration.CONFLICT for item in items):
        raise SystemExit(1)
