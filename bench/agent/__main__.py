"""``python -m bench.agent``: measure the agent and its peers. Exit 1 when a bar is missed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench import arguments as command_line
from bench import machine, processes
from bench.agent import measure, report
from bench.results import Results
from fastipam.cli import streams

PARTS = ("process", "pause", "crowd", "request", "socket", "memory")


def _run(parts: list[str], effort: measure.Effort, scratch: Path) -> Results:
    results = Results(machine.facts())
    work = {
        "process": lambda: measure.as_processes(results, effort, scratch),
        "pause": lambda: measure.after_a_pause(results, effort, scratch),
        "crowd": lambda: measure.as_crowds(results, effort, scratch),
        "request": lambda: measure.requests_alone(results, effort, scratch),
        "socket": lambda: measure.over_the_socket(results, effort, scratch),
        "memory": lambda: measure.memory(results, scratch),
    }
    command_line.run(parts, work)
    return results


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks; return 0 when all bars are met, else 1. Raises Missing, Failed."""
    output = command_line.OUTPUT / "agent"
    arguments = command_line.parser("bench.agent", __doc__, PARTS, output).parse_args(argv)
    parts = command_line.chosen(arguments, PARTS)
    effort = measure.QUICK if arguments.quick else measure.FULL
    processes.require_host_local()
    command_line.prepare(arguments.output)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as scratch:
        results = _run(parts, effort, Path(scratch))
    text = report.render(results)
    print(text)
    (arguments.output / "report.md").write_text(text)
    results.write(arguments.output / "samples.json")
    print(f"written: {arguments.output / 'report.md'}", file=sys.stderr)
    missed = [verdict.bar.name for verdict in results.verdicts if not verdict.met]
    if missed:
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    streams.run(lambda: command_line.to_its_end(main))
