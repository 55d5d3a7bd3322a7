"""``python -m bench``: measure, print the report, draw it; exit 1 when a bar is missed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench import machine, measure, memory, processes, report
from bench.errors import Missing
from bench.results import Results, read

PARTS = ("memory", "peers", "store", "process")
_DEFAULT_OUTPUT = Path(__file__).parent.parent / "docs" / "bench"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under two minutes")
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        help="measure this part only; may be given several times",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=_DEFAULT_OUTPUT,
        help="where report.md, samples.json and the pictures go",
    )
    parser.add_argument("--against", type=Path, help="compare with an earlier run's samples.json")
    parser.add_argument(
        "--scratch", type=Path, help="a directory on the disk to measure (default: the system's)"
    )
    return parser.parse_args(argv)


def _run(parts: list[str], effort: measure.Effort, scratch: Path) -> Results:
    results = Results(machine.facts())
    work = {
        "memory": lambda: measure.in_memory(results, effort),
        "peers": lambda: measure.peers(results, effort, scratch),
        "store": lambda: measure.in_store(results, effort, scratch),
        "process": lambda: measure.as_processes(results, effort, scratch),
    }
    for part in parts:
        start = time.perf_counter()
        print(f"measuring: {part} … ", end="", file=sys.stderr, flush=True)
        work[part]()
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return results


def _require(parts: list[str]) -> None:
    """What is missing is said before anything is measured."""
    if "peers" in parts:
        memory.require_peers()
    if "process" in parts:
        processes.require_host_local()


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all bars met, 1 one missed, 2 something is missing."""
    arguments = _arguments(argv)
    parts = [part for part in PARTS if part in (arguments.only or PARTS)]
    effort = measure.QUICK if arguments.quick else measure.FULL
    try:
        _require(parts)
        before = read(arguments.against) if arguments.against else None
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as scratch:
            results = _run(parts, effort, Path(scratch))
        found = measure.compare(results, before) if before else []
    except Missing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = report.render(results, found)
    print(text)
    _write(results, text, arguments.output)
    missed = [verdict.bar.name for verdict in results.verdicts if not verdict.met]
    if missed:
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _write(results: Results, text: str, directory: Path) -> None:
    from bench import plots  # matplotlib takes a while: not before it is wanted

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.md").write_text(text)
    results.write(directory / "samples.json")
    plots.draw(results, directory)


if __name__ == "__main__":
    sys.exit(main())
