"""Measure one build once, for a comparison of two: ``python -m bench.turn BUILT SCRATCH``.

It prints a JSON object, subject → nanoseconds, each the median of a few samples. It uses hardly
more of fastipam than the documented interface, because the build may be an old one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench import by_hand, memory, processes, stores
from bench.errors import Missing
from bench.sampling import interleave

if TYPE_CHECKING:
    from bench.sampling import Samples, Subject

_SAMPLES = {"memory": 15, "store": 7, "process": 7}


def _memory() -> list[Subject]:
    fills = (0.0, 0.99)
    return memory.calls_of_a_bitmap() + [memory.pair("fastipam", 12, fill) for fill in fills]


def _store(scratch: Path) -> Samples:
    samples: Samples = {}
    calls_of: dict[stores.Durability, int] = {"relaxed": 200, "durable": 10}
    for durability, calls in calls_of.items():
        beside = by_hand.Beside(scratch / durability, durability, cooldown=True)
        try:
            mine = beside.subjects(calls)[:1]
            samples |= interleave(mine, _SAMPLES["store"])
        finally:
            beside.close()
    return samples


def install(built: Path, scratch: Path) -> Path:
    """Install the entry point of a build into ``scratch``; return its path. Raises Missing."""
    code = "from fastipam.cli.main import main; main()"
    processes.run_python(code, "install", "--bin-dir", str(scratch / "bin"), built=built)
    binary = (scratch / "bin" / "fastipam").with_name("fastipam-direct")
    if str(built) not in binary.read_text():
        raise Missing(f"the entry point does not import from {built}")
    return binary


def _plugin(built: Path, scratch: Path) -> list[Subject]:
    """Return the subjects ADD and DEL of the build's entry point."""
    binary = install(built, scratch)
    plugin = processes.Plugin("plugin", binary, scratch / "data", scratch)
    plugin.try_out()
    return plugin.subjects()


def main(built: Path, scratch: Path) -> None:
    """Measure a build once and print the figures."""
    import fastipam

    if not Path(fastipam.__file__).is_relative_to(built):
        raise SystemExit(f"{fastipam.__file__} is not of {built}")
    with tempfile.TemporaryDirectory(prefix="turn-", dir=scratch) as name:
        here = Path(name)
        samples = interleave(_memory(), _SAMPLES["memory"])
        samples |= _store(here)
        samples |= interleave(_plugin(built, here), _SAMPLES["process"])
    json.dump({name: median(values) for name, values in samples.items()}, sys.stdout)


if __name__ == "__main__":
    os.umask(0o077)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
