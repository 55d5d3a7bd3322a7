"""``python -m bench``: measure, print the report and draw it. Exit 1 when a bar is missed.

``python -m bench compare`` compares two versions.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench import arguments as command_line
from bench import compare, machine, measure, memory, processes, report
from bench.results import Results, read
from bench.workloads import measure as workloads
from fastipam.cli import streams

if TYPE_CHECKING:
    import argparse

PARTS = ("memory", "peers", "store", "process", "workloads")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line.parser("bench", __doc__, PARTS, command_line.OUTPUT)
    parser.add_argument("--against", type=Path, help="compare with an earlier run's samples.json")
    guest = parser.add_argument_group("your own IPAM binary in the workloads")
    guest.add_argument("--plugin", type=Path, help="the executable")
    guest.add_argument("--type", help="its name, the `type` of its section (default: the file's)")
    guest.add_argument(
        "--config",
        type=Path,
        help="a network configuration whose `ipam` section it gets, with {data} where a directory "
        "of its own is to stand (default: host-local's keys `ranges` and `dataDir`)",
    )
    arguments = parser.parse_args(argv)
    given = [f"--{name}" for name in ("plugin", "type", "config") if getattr(arguments, name)]
    if given and "workloads" not in command_line.chosen(arguments, PARTS):
        parser.error(f"{given[0]} is for the part workloads, which --only leaves out")
    if given and arguments.plugin is None:
        parser.error(f"{given[0]} goes with --plugin")
    return arguments


def _guest(arguments: argparse.Namespace) -> workloads.Guest | None:
    if arguments.plugin is None:
        return None
    return workloads.guest(arguments.plugin, arguments.type, arguments.config)


def _run(parts: list[str], arguments: argparse.Namespace, scratch: Path) -> Results:
    results = Results(machine.facts())
    quick = arguments.quick
    effort = measure.QUICK if quick else measure.FULL
    results.facts["run"] = f"{effort.text}; {', '.join(parts)}"
    guest = _guest(arguments)
    work = {
        "memory": lambda: measure.in_memory(results, effort),
        "peers": lambda: measure.peers(results, effort, scratch),
        "store": lambda: measure.in_store(results, effort, scratch),
        "process": lambda: measure.as_processes(results, effort, scratch),
        "workloads": lambda: workloads.run(
            results, workloads.QUICK if quick else workloads.FULL, scratch, guest
        ),
    }
    command_line.run(parts, work)
    return results


def _require(parts: list[str]) -> None:
    """Raise Missing for everything that is missing, before anything is measured."""
    memory.require("matplotlib")
    if "peers" in parts or "workloads" in parts:
        memory.require()
    if "process" in parts or "workloads" in parts:
        processes.require_peers()


def main(argv: list[str] | None = None) -> int:
    """Return exit status 0 when all bars are met, 1 when one is missed. Raises Missing, Failed."""
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
