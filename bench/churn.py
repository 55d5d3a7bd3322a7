"""Churn: one address given back and one assigned, millions of times, on a store that stays full.

    python -m bench.churn                     # ten million pairs at each fill: hours
    python -m bench.churn --pairs 1000000     # the same in less, every window a tenth of it

A pair is a release of a lease chosen at random and an allocation for a new owner, each a commit of
its own, with the default cool-down and history. The table compares the second window (a tenth of
the pairs) with the last: the size of the file, and a pair's time by the wall clock and by the
processor's, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from array import array
from pathlib import Path
from typing import NamedTuple

import fastipam
from fastipam.policy import DEFAULT_HISTORY

FILLS = (0.5, 0.99, 0.9999)
SUBNET = "10.0.0.0/16"
_AT_ONCE = 4096


class Window(NamedTuple):
    """A tenth of the pairs; times in nanoseconds."""

    file_bytes: int
    wall: array[int]
    cpu: array[int]


def percentile(samples: array[int], share: float) -> float:
    """The sample below which this share of them lies, in microseconds."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e3


def churn(
    path: Path, fill: float, pairs: int, *, subnet: str = SUBNET, history: int = DEFAULT_HISTORY
) -> list[Window]:
    """Make a store, fill it, and churn it; ten windows."""
    chance = random.Random(fill)
    with fastipam.open(path, "relaxed") as ipam:
        network = ipam.network("churn", subnet, history=history)
        wanted = round(network.stats()["size"] * fill)
        held = [f"c{at}" for at in range(wanted)]
        for at in range(0, wanted, _AT_ONCE):
            network.allocate_many([(name, "eth0") for name in held[at : at + _AT_ONCE]])
        number = wanted
        windows = []
        for _ in range(10):
            wall, cpu = array("q"), array("q")
            for _ in range(pairs // 10):
                at = chance.randrange(wanted)
                name = f"c{number}"
                number += 1
                begin, begin_cpu = time.perf_counter_ns(), time.thread_time_ns()
                network.release(held[at])
                network.allocate(name)
                cpu.append(time.thread_time_ns() - begin_cpu)
                wall.append(time.perf_counter_ns() - begin)
                held[at] = name
            windows.append(Window(ipam.store.file_bytes(), wall, cpu))
        stats = network.stats()
        assert stats["assigned"] == wanted, stats
    return windows


def row(fill: float, windows: list[Window]) -> str:
    """One line of the table: what the second window and the last have taken."""
    second, last = windows[1], windows[-1]
    cells = [f"{fill:.2%}", *(f"{one.file_bytes >> 10:,}" for one in (windows[0], second, last))]
    for clock in ("wall", "cpu"):
        for share in (0.5, 0.99):
            before = percentile(getattr(second, clock), share)
            after = percentile(getattr(last, clock), share)
            cells.append(f"{before:.1f} → {after:.1f} ({after / before:.2f} x)")
    return "| " + " | ".join(cells) + " |"


HEADING = """| fill | KiB after the first tenth | second | last | wall p50, us a pair | wall p99 | CPU p50 | CPU p99 |
|---|---|---|---|---|---|---|---|"""  # noqa: E501


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000_000, help="at each fill")
    parser.add_argument("--fill", type=float, action="append", help="default: 0.5, 0.99, 0.9999")
    parser.add_argument("--scratch", help="the disk that the stores are on")
    options = parser.parse_args()
    print(
        f"{options.pairs:,} pairs at each fill of {SUBNET}, relaxed, default cool-down and history"
    )
    print(HEADING, flush=True)
    for fill in options.fill or FILLS:
        with tempfile.TemporaryDirectory(
            prefix="fastipam-churn-", dir=options.scratch
        ) as directory:
            print(row(fill, churn(Path(directory) / "store", fill, options.pairs)), flush=True)


if __name__ == "__main__":
    main()
