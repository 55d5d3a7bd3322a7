"""Fill a /12, durably: this tree and another commit, in turns.

    python -m bench.fill --base REF

Both are built into directories of their own, as ``python -m bench compare`` does; each fill is a
process of its own. The other commit fills in commits of 8,192 owners, as its benchmark did, and in
commits as large as this tree's. A figure is the median of the rounds, a ratio the median of the
rounds' ratios. Exit status 1: the bar, which is for the first of the two, is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench import arguments, bars, pairwise, stores
from bench.sampling import ratio
from bench.tables import table, verdicts
from fastipam.cli import streams

if TYPE_CHECKING:
    from bench.sampling import Samples

BEFORE = 8192  # owners in a commit, as the other commit's benchmark had them
ROUNDS = 3
_CODE = (
    "import sys; from pathlib import Path; from bench import stores; "
    "print(stores.fill(Path(sys.argv[1]), 'durable', int(sys.argv[2])))"
)


def measure(base: str, head: str | None, rounds: int, scratch: Path) -> Samples:
    """Return the seconds of this tree's fills, and of the base's in small and large commits."""
    builds: dict[str | None, Path] = {}
    for name in (base, head):
        print(f"building {name or 'this tree'} …", file=sys.stderr)
        builds[name] = pairwise.build(name, scratch / str(len(builds)))
    kinds = [
        (f"{name or 'this tree'}, {batch:,} a commit", builds[name], batch)
        for name, batch in ((head, stores.BATCH), (base, BEFORE), (base, stores.BATCH))
    ]
    samples: Samples = {name: [] for name, _, _ in kinds}
    for number in range(rounds):
        for name, built, batch in kinds[number % 3 :] + kinds[: number % 3]:
            path = scratch / "store"
            environment = pairwise.environment(built)
            command = [sys.executable, "-c", _CODE, str(path), str(batch)]
            taken = pairwise.run(command, name, env=environment, cwd=os.fspath(scratch))
            samples[name].append(float(taken))
            shutil.rmtree(path)
    return samples


def main(argv: list[str] | None = None) -> int:
    """Print the table and the verdict. Raises Missing."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", metavar="REF", required=True, help="the commit to compare with")
    parser.add_argument("--head", metavar="REF", help="the commit to judge (default: this tree)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--scratch", type=Path, help="a directory on the disk to measure")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch) as scratch:
        samples = measure(options.base, options.head, options.rounds, Path(scratch))
    ours, before, _ = samples
    rows = [
        (name, f"{median(values):.2f} s", f"{ratio(samples, name, before):.2f}")
        for name, values in samples.items()
    ]
    print(table((f"{stores.LEASES:,} leases, durable", "median", f"x {before}"), rows))
    verdict = bars.Verdict(bars.FILL_AGAINST, ratio(samples, ours, before))
    print(f"\n{verdicts([verdict])}")
    return int(not verdict.met)


if __name__ == "__main__":
    streams.run(lambda: arguments.to_its_end(main))
