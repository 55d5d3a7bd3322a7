"""``python -m bench compare``: is the head slower than the base?

It compares two reports' ``samples.json``, or two commits: ``--base REF`` and ``--head REF``
(default: the tree as it is) are built into directories of their own, and measured alternately, in
fresh processes.

Exit status 0: no subject is slower; 1: one is; 2: something is missing, or no subject is in both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import pairwise
from bench.errors import Missing
from bench.judging import Change, from_rounds, from_samples, slower
from bench.results import read
from bench.tables import duration, table

LIMIT = 1.1
ROUNDS = 15


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="BASE.json HEAD.json")
    parser.add_argument("--base", metavar="REF", help="the commit to measure against")
    parser.add_argument("--head", metavar="REF", help="the commit to judge (default: this tree)")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="times the base's cost (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="turns of each commit (default: %(default)s)"
    )
    parser.add_argument("--scratch", type=Path, help="a directory on the disk to measure")
    arguments = parser.parse_args(argv)
    if (len(arguments.files) == 2) is (arguments.base is not None) or len(arguments.files) % 2:
        parser.error("give two files, or --base REF")
    if arguments.limit <= 1:
        parser.error("--limit: a factor above 1")
    if arguments.rounds < pairwise.FEWEST:
        parser.error(f"--rounds: at least {pairwise.FEWEST}")
    return arguments


def _from_files(base: Path, head: Path) -> list[Change]:
    one, other = read(base), read(head)
    for fact in ("machine", "python"):
        if one.facts.get(fact) != other.facts.get(fact):
            print(
                f"note: {fact}: {one.facts.get(fact)} / {other.facts.get(fact)}: "
                "the ratios say little of the versions",
                file=sys.stderr,
            )
    shared = {
        name: (values, other.samples[name])
        for name, values in one.samples.items()
        if values and other.samples.get(name)
    }
    if not shared:
        raise Missing("the two files share no subject")
    return [from_samples(name, *pair) for name, pair in shared.items()]


def _from_commits(arguments: argparse.Namespace) -> list[Change]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as scratch:
        rounds = pairwise.measure(arguments.base, arguments.head, arguments.rounds, Path(scratch))
    return [from_rounds(name, *pair) for name, pair in rounds.items()]


def _row(change: Change, limit: float) -> tuple[str, ...]:
    verdict = "SLOWER" if slower(change, limit) else "faster" if change.high < 1 else "-"
    return (
        change.name,
        duration(change.base_ns),
        duration(change.head_ns),
        f"{change.ratio:.3f}",
        f"{change.low:.3f} to {change.high:.3f}",
        verdict,
    )


def main(argv: list[str]) -> int:
    """Print the change of every subject and return the exit status."""
    arguments = _arguments(argv)
    try:
        changes = _from_files(*arguments.files) if arguments.files else _from_commits(arguments)
    except Missing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    head = ("subject", "base", "head", "head / base", "95 % interval", "verdict")
    print(table(head, [_row(change, arguments.limit) for change in changes]))
    found = [change.name for change in changes if slower(change, arguments.limit)]
    if found:
        print(
            f"slower than {arguments.limit:g} times the base: {'; '.join(found)}", file=sys.stderr
        )
    return 1 if found else 0
