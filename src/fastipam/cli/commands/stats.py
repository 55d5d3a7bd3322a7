"""The command ``fastipam stats``."""

from __future__ import annotations

from fastipam.cli import columns, options, output, rows
from fastipam.cli.click_base import command as _command
from fastipam.ipam import open_with


@_command(
    "stats",
    examples=(
        ("fastipam stats", "one line per range set"),
        ("fastipam stats --network podnet --json", "for a program"),
    ),
)
@options.data_dir
@options.network()
@options.wide
@options.as_json
def command(data_dir: str, network: str | None, wide: bool, as_json: bool) -> None:
    """Print how many addresses of each range set are in which state.

    SIZE counts what the set can assign: not its gateways, exclusions, network and broadcast
    addresses. In each line it is ASSIGNED + COOLING + RESERVED + FREE, and USED is the share that
    is not FREE. A line "static" counts the addresses that are assigned on request only, a line
    "outside" those in use that no range has any longer.

    A network is as full as its fullest range set: a pod needs an address of each set. On a node of
    a cluster the addresses of its own blocks are counted. An address counts as cooling until an
    assignment takes it out of the queue. On a terminal the numbers of IPv6 are powers of two, ~2^64
    for nearly all of a /64; --wide has the digits.
    """
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        found = rows.stats(ipam, network)
        output.rows(
            columns.STATS,
            found if as_json else rows.stats_table(found),
            as_json=as_json,
            wide=wide,
        )
