"""``python -m bench``: measure, print the report and draw it. Exit 1 when a bar is missed.

``python -m bench compare`` compares two versions. ``python -m bench.workloads`` measures IPAM
plugins, yours beside the others.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench import arguments as command_line
from bench import compare, machine, measure, memory, processes, report
from bench.results import Results, read
from bench.workloads import __main__ as workloads
from bench.workloads import measure as suite
from bench.workloads import report as plugins
from fastipam.cli import streams

if TYPE_CHECKING:
    import argparse

PARTS = ("memory", "peers", "store", "process", "workloads")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line.parser("bench", __doc__, PARTS, command_line.OUTPUT)
    parser.add_argument("--against", type=Path, help="compare with an earlier run's samples.json")
    return parser.parse_args(argv)


def _run(parts: list[str], arguments: argparse.Namespace, scratch: Path) -> Results:
    results = Results(machine.facts())
    quick = arguments.quick
    effort = measure.QUICK if quick else measure.FULL
    results.facts["run"] = f"{effort.text}; {', '.join(parts)}"
    work = {
        "memory": lambda: measure.in_memory(results, effort),
        "peers": lambda: measure.peers(results, effort, scratch),
        "store": lambda: measure.in_store(results, effort, scratch),
        "process": lambda: measure.as_processes(results, effort, scratch),
        "workloads": lambda: _workloads(results, scratch, arguments),
    }
    command_line.run(parts, work)
    return results


def _workloads(results: Results, scratch: Path, arguments: argparse.Namespace) -> None:
    found = suite.run(suite.QUICK if arguments.quick else suite.FULL, scratch)
    workloads.write(found, arguments.output / "workloads")
    results.plugins = plugins.text(found)
    suite.own_failures(found)


def _require(parts: list[str]) -> None:
    """Raise Missing when a program or package is missing, before anything is measured."""
    memory.require("matplotlib")
    if "peers" in parts or "workloads" in parts:
        memory.require()
    if "process" in parts or "workloads" in parts:
        processes.require_peers()


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks; return 0 when all bars are met, else 1. Raises Missing, Failed."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["compare"]:
        return compare.main(words[1:])
    arguments = _arguments(words)
    parts = command_line.chosen(arguments, PARTS)
    _require(parts)
    command_line.prepare(arguments.output)
    before = read(arguments.against) if arguments.against else None
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as scratch:
        results = _run(parts, arguments, Path(scratch))
    found = measure.compare(results, before) if before else []
    text = report.render(results, found)
    print(text)
    _write(results, text, arguments.output)
    print(f"written: {arguments.output / 'report.md'}", file=sys.stderr)
    missed = [verdict.bar.name for verdict in results.verdicts if not verdict.met]
    if missed:
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _write(results: Results, text: str, directory: Path) -> None:
    from bench import plots  # imported late: matplotlib takes seconds

    (directory / "report.md").write_text(text)
    results.write(directory / "samples.json")
    plots.draw(results, directory)


if __name__ == "__main__":
    streams.run(lambda: command_line.to_its_end(main))
