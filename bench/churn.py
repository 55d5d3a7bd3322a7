"""Churn: release an address and assign one, millions of times, on a store that stays full.

    python -m bench.churn                     # ten million pairs at each fill: an hour
    python -m bench.churn --pairs 1000000     # the same in less, every window a tenth of it

A pair is a release of a random lease and an allocation for a new owner, each with its own commit,
with the default cool-down and history. An old store in its last tenth of the pairs is compared with
a young one of the same kind in its second tenth. They alternate every few pairs, so that other work
on the machine affects both. The table has the median and the 99th percentile of a pair's time of
each, and the size of the old store's file after the first tenth, the second, half and all of the
pairs.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fastipam
from fastipam.configuration.policy import DEFAULT_HISTORY

if TYPE_CHECKING:
    from typing import Self

FILLS = (0.5, 0.99, 0.9999)
SUBNET = "10.0.0.0/16"
_AT_ONCE = 4096
_TURN = 64  # pairs before it is the other store's turn: a few milliseconds


def _name(number: int) -> str:
    """Return a container id. All have the same length, like a runtime's: others split pages."""
    return f"c{number:09}"


class Times(NamedTuple):
    """The times of pairs in nanoseconds, by wall clock and by processor time."""

    wall: array[int]
    cpu: array[int]

    @classmethod
    def none(cls) -> Self:
        """Return an object without times."""
        return cls(array("q"), array("q"))


class Churn:
    """A store that stays filled to the share ``fill``, for a ``with`` block."""

    def __init__(self, path: Path, fill: float, *, subnet: str, history: int) -> None:
        self._chance = random.Random(fill)
        self._ipam = fastipam.open(path, "relaxed")
        self._network = self._ipam.network("churn", subnet, history=history)
        wanted = round(self._network.stats().size * fill)
        self._held = [_name(at) for at in range(wanted)]
        for at in range(0, wanted, _AT_ONCE):
            names = self._held[at : at + _AT_ONCE]
            self._network.allocate_many([(name, "eth0") for name in names])
        self._number = wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        stats = self._network.stats().to_dict()
        self._ipam.close()
        assert stats["assigned"] == len(self._held), stats

    def file_bytes(self) -> int:
        """Return the size of the store's file on disk."""
        return self._ipam.store.file_bytes()

    def run(self, pairs: int, times: Times | None = None) -> None:
        """Make ``pairs`` pairs, and add their times to ``times``."""
        network, held = self._network, self._held
        for _ in range(pairs):
            at = self._chance.randrange(len(held))
            name = _name(self._number)
            self._number += 1
            begin, begin_cpu = time.perf_counter_ns(), time.thread_time_ns()
            network.release(held[at])
            network.allocate(name)
            if times is not None:
                times.cpu.append(time.thread_time_ns() - begin_cpu)
                times.wall.append(time.perf_counter_ns() - begin)
            held[at] = name


class Outcome(NamedTuple):
    """The times of pairs, and the old store's ``sizes`` after 1, 2, 5 and 10 tenths of them."""

    sizes: tuple[int, ...]
    young: Times
    old: Times


def churn(
    path: Path, fill: float, pairs: int, *, subnet: str = SUBNET, history: int = DEFAULT_HISTORY
) -> Outcome:
    """Make the old and the young store, and compare them."""
    tenth = pairs // 10
    with ExitStack() as stack:
        old, young = (
            stack.enter_context(Churn(path / name, fill, subnet=subnet, history=history))
            for name in ("old", "young")
        )
        sizes = []
        for tenths in (1, 1, 3, 4):
            old.run(tenths * tenth)
            sizes.append(old.file_bytes())
        young.run(tenth)
        outcome = Outcome((), Times.none(), Times.none())
        left = tenth
        while left > 0:
            now = min(left, _TURN)
            young.run(now, outcome.young)
            old.run(now, outcome.old)
            left -= now
        return outcome._replace(sizes=(*sizes[:-1], old.file_bytes()))


def percentile(samples: array[int], share: float) -> float:
    """Return the sample below which this share of the samples lies, in microseconds."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e3


def row(fill: float, outcome: Outcome) -> str:
    """Return the line of the table for one fill."""
    cells = [f"{fill:.2%}", *(f"{size >> 10:,}" for size in outcome.sizes)]
    for clock in ("wall", "cpu"):
        for share in (0.5, 0.99):
            before = percentile(getattr(outcome.young, clock), share)
            after = percentile(getattr(outcome.old, clock), share)
            cells.append(f"{before:.1f} → {after:.1f} ({after / before:.2f} x)")
    return "| " + " | ".join(cells) + " |"


HEADING = """| fill | KiB after 1/10 | 2/10 | 5/10 | all | wall p50, us a pair | wall p99 | CPU p50 | CPU p99 |
|---|---|---|---|---|---|---|---|---|"""  # noqa: E501


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
            print(row(fill, churn(Path(directory), fill, options.pairs)), flush=True)


if __name__ == "__main__":
    main()
