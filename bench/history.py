"""Measure what the history costs: a release and an allocation with it and without, in one run.

    python -m bench.history [--pairs N] [--rounds N]

The stores are relaxed, in a temporary directory, with a /12, some leases and some cooling
addresses. Rounds with and without history alternate; the ratio is the median of the rounds' ratios.
It is processor time, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

import fastipam

if TYPE_CHECKING:
    from fastipam.network import Network

_LIVE = 20  # leases at any moment


def _round(network: Network, pairs: int, begin: int) -> float:
    """Return the processor time of a pair in microseconds."""
    start = time.process_time()
    for at in range(begin, begin + pairs):
        network.allocate(f"c{at}")
        network.release(f"c{at - _LIVE}")
    return (time.process_time() - start) / pairs * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=2000, help="pairs in a round")
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        fastipam.open(one, "relaxed") as noting,
        fastipam.open(other, "relaxed") as silent,
    ):
        # The history is short, so that after the first rounds every event also deletes an old one.
        on = noting.network("n", "10.32.0.0/12", history=10_000)
        off = silent.network("n", "10.32.0.0/12", history=0)
        rows = [
            (_round(on, asked.pairs, begin), _round(off, asked.pairs, begin))
            for begin in range(0, asked.rounds * asked.pairs, asked.pairs)
        ]
    with_history, without = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(one / other for one, other in rows)
    print(f"a pair with history   {with_history:6.1f} us")
    print(f"a pair without        {without:6.1f} us")
    print(f"ratio                 {ratio:6.2f}")


if __name__ == "__main__":
    main()
