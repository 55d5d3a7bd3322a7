"""A test with a cluster is ended from outside: nothing of the cluster stays on the machine.

It is the last file of its directory. A cluster that starts removes what a killed one has left, and
the tests of ``tests/kubernetes/e2e``, which run at the same time, start theirs at the beginning.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ...options import options
from ..server import until
from . import leftovers
from .network import Link
from .node import require

_ROOT = Path(__file__).parents[3]
_TEST = """
import time
from tests.kubernetes.nodes.cluster import Cluster

def test_waits(tmp_path):
    with Cluster(tmp_path / "cluster", nodes=1) as cluster:
        print(f"runs: {cluster.identity}", flush=True)
        time.sleep(600)
"""


@dataclass
class _Run:
    """A pytest whose cluster runs."""

    process: subprocess.Popen[bytes]
    identity: str
    directory: Path
    output: Path

    def left(self) -> list[str]:
        return leftovers.left(self.identity, self.directory)


@contextmanager
def _running(place: Path) -> Iterator[_Run]:
    require()
    test, output, directory = place / "test_waits.py", place / "output", place / "made"
    test.write_text(_TEST)
    command = [
        *(sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"),
        *(f"--rootdir={place}", f"--basetemp={directory}", str(test)),
    ]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )

    def said() -> list[str]:
        text = output.read_text()
        assert process.poll() is None, text
        return [line for line in text.splitlines() if "runs: " in line]

    try:
        until(said, "its cluster runs")
        yield _Run(process, said()[0].rpartition(" ")[2], directory, output)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
            leftovers.remove_old()


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"] if options.long else ["SIGTERM"])
def test_by_a_signal(tmp_path: Path, number: str) -> None:
    """The test takes its cluster down and pytest says that it was interrupted."""
    with _running(tmp_path) as run:
        assert run.left()
        run.process.send_signal(signal.Signals[number])
        assert run.process.wait(60) == pytest.ExitCode.INTERRUPTED, run.output.read_text()
        assert not run.left()
        assert not (leftovers.MARKS / run.identity).exists()


def test_killed(tmp_path: Path) -> None:
    """Its cluster stays until the next one starts, which removes it; never while it is used."""
    with _running(tmp_path) as run:
        link = Link()
        link.make()
        link.remove()
        assert any("process" in each for each in run.left()), "it was not the killed one's"
        run.process.kill()
        run.process.wait()
        assert any("process" in each for each in run.left())
        link = Link()
        link.make()
        link.remove()
        assert not run.left()
        assert not (leftovers.MARKS / run.identity).exists()
