"""The fuzzers' short form: every seed, some thousand damaged ones, and what was once found.

The full form is ``scripts/campaign fuzz``: a million inputs for each target, chosen by what they
reach.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..e2e import tools
from ..options import options
from . import inputs
from .__main__ import ROOT
from .targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.campaign

RUNS = 1_000_000 if options.long else 2_000


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, for the socket."""
    with tempfile.TemporaryDirectory(prefix="fastipam-") as made:
        yield Path(made)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs(name: str, directory: Path) -> None:
    """No input gets an internal error, a wrong number of answers, or changes what it may not."""
    if name == "config":
        seeds = list(inputs.calls())
    else:
        seeds = [b"\0" + one for one in inputs.conversations()]
    with TARGETS[name](directory) as target:
        for data in seeds:
            target(data)
        for data in inputs.mutations(seeds, 3000 if name == "config" else 600, seed=1):
            target(data)


def _fuzz(name: str) -> str:
    """Run a fuzzer; what it printed. It has found nothing."""
    argv = [sys.executable, "-m", "tests.fuzz", name, f"-runs={RUNS}"]
    with tempfile.TemporaryDirectory(prefix="fastipam-") as scratch:
        argv += [f"{scratch}/corpus", f"-artifact_prefix={scratch}/found-"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        inputs_found = [one.read_bytes() for one in Path(scratch).glob("found-*")]
    # From the exception on: what follows it, the fuzzer's own words, may be long.
    reason = done.stderr[max(done.stderr.find("Uncaught"), len(done.stderr) - 10_000) :][:3000]
    assert done.returncode == 0, f"{inputs_found}\n{reason}"
    assert f"Done {RUNS} runs" in done.stderr
    return done.stderr


def test_launcher() -> None:
    """The launcher under the sanitizers: nothing that it is sent or told makes it go wrong."""
    tools.require_tools("clang")
    resources = subprocess.check_output(["clang", "-print-resource-dir"], text=True).strip()
    if not any(Path(resources).rglob("libclang_rt.fuzzer*")):
        tools.lacking("the fuzzer's part of clang is missing (package libclang-rt-dev)")
    _fuzz("launcher")


@pytest.mark.parametrize("name", TARGETS)
def test_atheris(name: str) -> None:
    """The coverage-guided fuzzers run, and find nothing."""
    if sys.version_info >= (3, 14) or platform.machine() != "x86_64":
        tools.unsupported("atheris is not made for this interpreter and processor")
    tools.require_module("atheris")
    _fuzz(name)
