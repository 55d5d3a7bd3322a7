"""``python -m bench.agent``: measure the agent beside its peers; exit 1 when a bar is missed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench import machine, processes
from bench.agent import measure, report
from bench.errors import Missing
from bench.results import Results

PARTS = ("process", "crowd", "socket", "memory")
_DEFAULT_OUTPUT = Path(__file__).parent.parent.parent / "docs" / "bench" / "agent"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.agent", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about two minutes")
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
        help="where report.md and samples.json go",
    )
    parser.add_argument(
        "--scratch", type=Path, help="a directory on the disk to measure (default: the system's)"
    )
    return parser.parse_args(argv)


def _run(parts: list[str], effort: measure.Effort, scratch: Path) -> Results:
    results = Results(machine.facts())
    work = {
        "process": lambda: measure.as_processes(results, effort, scratch),
        "crowd": lambda: measure.as_crowds(results, effort, scratch),
        "socket": lambda: measure.over_the_socket(results, effort, scratch),
        "memory": lambda: measure.memory(results, scratch),
    }
    for part in parts:
        start = time.perf_counter()
        print(f"measuring: {part} … ", end="", file=sys.stderr, flush=True)
        work[part]()
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return results


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all bars met, 1 one missed, 2 something is missing."""
    arguments = _arguments(argv)
    parts = [part for part in PARTS if part in (arguments.only or PARTS)]
    effort = measure.QUICK if arguments.quick else measure.FULL
    try:
        processes.require_host_local()
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as scratch:
            results = _run(parts, effort, Path(scratch))
    except Missing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = report.render(results)
    print(text)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "report.md").write_text(text)
    results.write(arguments.output / "samples.json")
    missed = [verdict.bar.name for verdict in results.verdicts if not verdict.met]
    if missed:
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
