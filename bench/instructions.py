"""Count the instructions of a call without an agent: of this tree, and of another commit.

    python -m bench.instructions --base REF

Both are built into directories of their own, as ``python -m bench compare`` does, and installed.
valgrind counts what the entry point executes in user space, so the figure hardly depends on the
machine or on what else it does. The figure is the median of a few calls. Exit status 1: an ADD
takes more than the bar.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench import arguments, bars, pairwise, processes, turn
from bench.errors import Failed, Missing
from bench.tables import table, verdicts
from fastipam.cli import streams

if TYPE_CHECKING:
    from bench.processes import Plugin

CALLS = 5
_COUNT = re.compile(r"Collected : (\d+)")
# The store maps more memory than valgrind can, so a constant is changed in both builds.
_MAP, _SMALLER = "MAP_SIZE = 64 << 30", "MAP_SIZE = 8 << 30"


def _require() -> str:
    found = shutil.which("valgrind")
    if found is None:
        raise Missing("valgrind is missing: install the package valgrind")
    return found


def _make_smaller(built: Path) -> None:
    found = [path for path in built.rglob("*.py") if _MAP in path.read_text()]
    if not found:
        raise Missing(f"no file of {built} has {_MAP!r}")
    for path in found:
        path.write_text(path.read_text().replace(_MAP, _SMALLER))


def count(plugin: Plugin, command: str, valgrind: str) -> int:
    """Return the number of instructions of one call. Raises Failed when the call fails."""
    with plugin.input.open() as source:
        done = subprocess.run(
            [
                *(valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null"),
                *("--trace-children=yes", str(plugin.binary)),
            ],
            env=plugin.environment(command),
            stdin=source,
            capture_output=True,
            text=True,
            check=False,
        )
    found = _COUNT.findall(done.stderr)
    if done.returncode or not found:
        raise Failed(f"{command} under valgrind failed: {done.stdout}{done.stderr[-800:]}")
    return max(map(int, found))


def measure(base: str, head: str | None, calls: int, scratch: Path) -> dict[str, list[float]]:
    """Return the instructions of ADD and of DEL, each for the base and the head."""
    valgrind = _require()
    plugins = []
    for name, ref in (("base", base), ("head", head)):
        print(f"building {ref or 'this tree'} …", file=sys.stderr)
        built = pairwise.build(ref, scratch / name)
        _make_smaller(built)
        binary = turn.install(built, scratch / name)
        plugin = processes.Plugin(name, binary, scratch / name / "data", scratch)
        plugin.try_out()
        plugins.append(plugin)
    found: dict[str, list[float]] = {}
    for command in ("ADD", "DEL"):
        samples: list[list[int]] = [[], []]
        for _ in range(calls):
            for plugin, values in zip(plugins, samples, strict=True):
                plugin.call("DEL")
                if command == "DEL":
                    plugin.call("ADD")
                values.append(count(plugin, command, valgrind))
        found[command] = [median(values) for values in samples]
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the table and the verdict. Raises Missing, Failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", metavar="REF", required=True, help="the commit to compare with")
    parser.add_argument("--head", metavar="REF", help="the commit to judge (default: this tree)")
    parser.add_argument("--calls", type=int, default=CALLS, help="default: %(default)s")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        found = measure(options.base, options.head, options.calls, Path(scratch))
    rows = [
        (command, *(f"{one / 1e6:.2f} M" for one in both), f"{both[1] / both[0]:.3f}")
        for command, both in found.items()
    ]
    print(table(("without an agent", options.base, options.head or "this tree", "ratio"), rows))
    base, head = found["ADD"]
    verdict = bars.Verdict(bars.INSTRUCTIONS, head / base)
    print(f"\n{verdicts([verdict])}")
    return int(not verdict.met)


if __name__ == "__main__":
    streams.run(lambda: arguments.to_its_end(main))
