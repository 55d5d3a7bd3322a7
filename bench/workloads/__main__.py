"""``python -m bench.workloads``: measure IPAM plugins on the same work, yours beside the others.

It writes a page, report.html, and all figures, report.json. It works in a directory of its own
below --scratch, and never on the store of a node.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench import arguments as command_line
from bench import memory, processes
from bench.errors import Missing
from bench.workloads import measure, report
from bench.workloads.guests import guests, refuse_live
from fastipam.cli import streams

if TYPE_CHECKING:
    from bench.workloads.suite import Suite

OUTPUT = command_line.OUTPUT / "workloads"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line.parser("bench.workloads", __doc__, measure.NAMES, OUTPUT)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    guest = parser.add_argument_group("your own IPAM binaries, each option several times")
    for option, metavar, text in (
        ("--plugin", "NAME=PATH", "an executable, and its name in the report"),
        (
            "--config",
            "NAME=FILE",
            "a network configuration whose `ipam` section it gets, with {data}, {subnet} and "
            "{subnet6} where a directory of its own and its pools are to stand (default: "
            "host-local's keys `ranges` and `dataDir`)",
        ),
        ("--durability", "NAME=TEXT", "what its answer promises after a crash, for the report"),
        ("--elsewhere", "NAME", "it keeps nothing in a directory of this machine"),
    ):
        guest.add_argument(option, metavar=metavar, action="append", default=[], help=text)
    parser.add_argument(
        "--whereabouts",
        action="store_true",
        help="measure whereabouts, too: it is built if it is not in the cache (Go, some minutes), "
        "and gets a real API server (scripts/kubernetes-tools kube-apiserver)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the workloads; return 1 when a contender gave an address that was in use, else 0.

    Raises Missing, and Failed when a call of fastipam failed.
    """
    arguments = _arguments(argv)
    if arguments.scratch is not None:
        if not arguments.scratch.is_dir():
            raise Missing(f"--scratch {arguments.scratch} is not a directory")
        refuse_live(arguments.scratch, "--scratch")
    found = guests(
        arguments.plugin,
        arguments.config,
        arguments.durability,
        measure.TAKEN,
        arguments.elsewhere,
    )
    memory.require("matplotlib")
    memory.require()
    processes.require_peers()
    command_line.prepare(arguments.output)
    only = command_line.chosen(arguments, measure.NAMES)
    effort = measure.QUICK if arguments.quick else measure.FULL
    with ExitStack() as stack:
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch)
        )
        more = {}
        if arguments.whereabouts:
            from bench.workloads.whereabouts import contender  # imported late: it needs the tests

            more[contender.NAME] = stack.enter_context(contender.running(Path(scratch)))
        suite = measure.run(effort, Path(scratch), found, only, more)
    print(report.text(suite))
    write(suite, arguments.output)
    print(f"written: {arguments.output / 'report.html'}", file=sys.stderr)
    measure.own_failures(suite)
    return 1 if suite.withdrawn else 0


def write(suite: Suite, directory: Path) -> None:
    """Write the page, its pictures and the figures."""
    from bench.workloads import page, plots  # imported late: matplotlib takes seconds

    directory.mkdir(parents=True, exist_ok=True)
    pictures = plots.draw(suite)
    for name, picture in pictures.items():
        (directory / f"{name}.svg").write_text(picture)
    (directory / "report.md").write_text(report.text(suite, level=1))
    text = page.render(suite, pictures, plots.colours(suite))
    (directory / "report.html").write_text(text)
    suite.write(directory / "report.json")


if __name__ == "__main__":
    streams.run(lambda: command_line.to_its_end(main))
