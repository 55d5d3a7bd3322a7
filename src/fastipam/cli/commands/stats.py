"""``fastipam stats``."""

from __future__ import annotations

import fastipam
from fastipam.cli import options, output, rows
from fastipam.cli.click_base import command as _command


@_command(
    "stats",
    examples=(
        ("fastipam stats", "a line a network"),
        ("fastipam stats --network podnet --json", "for a program"),
    ),
)
@options.data_dir
@options.network()
@options.as_json
def command(data_dir: str, network: str | None, as_json: bool) -> None:
    """Print how many addresses of each network are in which state.

    The counters are stored: it takes the same time however many leases there are. An address
    counts as cooling until an assignment takes it out of the queue.
    """
    with fastipam.open(data_dir, create=False) as ipam:
        output.rows(rows.STATS_COLUMNS, rows.stats(ipam, network), as_json=as_json)
