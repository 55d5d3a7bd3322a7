"""``fastipam list``."""

from __future__ import annotations

import click

import fastipam
from fastipam.cli import listing, options, output
from fastipam.cli.group import command as _command


@_command(
    "list",
    examples=(
        ("fastipam list", "every address that is in use, with its pod"),
        ("fastipam list --network podnet --json", "for a program"),
    ),
)
@options.data_dir
@options.network()
@click.option("--all", "with_free", is_flag=True, help="Free addresses, too.")
@options.as_json
def command(data_dir: str, network: str | None, with_free: bool, as_json: bool) -> None:
    """Print IP, STATUS and POD of every used address, in address order."""
    with fastipam.open(data_dir, create=False) as ipam:
        documents = listing.rows(ipam, network, with_free=with_free)
        output.rows(listing.COLUMNS, documents, as_json=as_json)
