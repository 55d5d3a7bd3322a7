"""Compare two commits on one machine: build both, and measure them alternately.

Each commit is built into a directory of its own, by the same toolchain and with the same packages.
A turn is a fresh process that imports one build. The order of the builds changes every round, so
that slow phases of the machine, and the caches that the other build leaves, affect both alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import Missing
from bench.judging import FEWEST

if TYPE_CHECKING:
    from bench.sampling import Samples

__all__ = ["FEWEST", "build", "environment", "measure", "run"]

_ROOT = Path(__file__).parent.parent
_TREE = "this tree"


def run(command: list[str], what: str, **options: object) -> str:
    """Run a program and return its output. Raises Missing when it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        raise Missing(f"{what}: {done.stderr.strip()[-600:]}")
    return str(done.stdout)


def _source(ref: str | None, scratch: Path) -> Path:
    """Return the directory with the sources of a commit, or of the tree as it is."""
    if ref is None:
        return _ROOT
    target = scratch / "source"
    target.mkdir(parents=True)
    archive = scratch / "source.tar"
    git = ["git", "-C", str(_ROOT)]
    run([*git, "rev-parse", "--verify", f"{ref}^{{commit}}"], f"no commit {ref!r}")
    run([*git, "archive", f"--output={archive}", ref], f"the sources of {ref!r}")
    run(["tar", "-xf", str(archive), "-C", str(target)], f"the sources of {ref!r}")
    return target


def build(ref: str | None, scratch: Path) -> Path:
    """Build a commit, and return the directory to import it from. Raises Missing."""
    target = scratch / "built"
    scratch.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    how = ["--no-deps", "--no-warn-script-location"]
    source = str(_source(ref, scratch))
    name = _TREE if ref is None else ref
    run([*pip, *how, "--target", str(target), source], f"{name} cannot be built")
    return target


def environment(built: Path) -> dict[str, str]:
    """Return environment variables with which Python imports a build and these benchmarks."""
    path = os.pathsep.join((str(built), str(_ROOT)))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _turn(built: Path, scratch: Path) -> dict[str, float]:
    """Run one fresh process on a build, and return the nanoseconds of every subject."""
    command = [sys.executable, "-m", "bench.turn", str(built), str(scratch)]
    text = run(command, f"a turn of {built}", env=environment(built), cwd=str(scratch))
    found: dict[str, float] = json.loads(text)
    return found


def measure(
    base: str, head: str | None, rounds: int, scratch: Path
) -> dict[str, tuple[list[float], list[float]]]:
    """Return the nanoseconds of each subject in every round, for the base and for the head.

    The first round fills the disk's caches and is dropped. Subjects that only one build has are
    left out.
    """
    builds = []
    for name, ref in (("base", base), ("head", head)):
        print(f"building {ref or _TREE} …", file=sys.stderr)
        builds.append(build(ref, scratch / name))
    both: tuple[Samples, Samples] = ({}, {})
    for number in range(rounds + 1):
        print(f"\rround {number} of {rounds}", end="", file=sys.stderr, flush=True)
        for which in (0, 1) if number % 2 else (1, 0):
            for subject, cost in _turn(builds[which], scratch).items():
                if number:
                    both[which].setdefault(subject, []).append(cost)
    print(file=sys.stderr)
    shared = [name for name in both[0] if name in both[1]]
    if not shared:
        raise Missing("the two commits share no subject")
    return {name: (both[0][name], both[1][name]) for name in shared}
