"""The suite's own options: what ``--require-all`` and its like make of a skipped test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SKIPS = """
import pytest
from tests.e2e import tools

def test_to_install():
    tools.lacking("not installed: everything")

def test_to_build():
    tools.not_built("somebody has to build it")

def test_kernel():
    tools.unsupported("the kernel has no such thing")

@pytest.mark.skip(reason="somebody forgot it")
def test_forgotten(): ...
"""


def _run(path: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-rs", "-v"]
    done = subprocess.run(
        [*command, "-p", "tests.conftest", *options, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_skipped_test_says_why_and_fails_if_all_is_required(tmp_path: Path) -> None:
    """Only what nobody can install is skipped then."""
    path = tmp_path / "test_skips.py"
    path.write_text(SKIPS)
    said = _run(path)
    assert "4 skipped" in said
    for reason in (
        "not installed: everything",
        "somebody has to build it",
        "the kernel has no such",
        "somebody forgot it",
    ):
        assert reason in said
    said = _run(path, "--require-all")
    assert "1 failed, 2 skipped, 1 error" in said
    assert "required here: not installed: everything" in said
    assert "required here: somebody forgot it" in said


def test_what_has_to_be_built_is_required_by_an_option_of_its_own(tmp_path: Path) -> None:
    """It takes minutes, so a run of all tests does not demand it."""
    path = tmp_path / "test_skips.py"
    path.write_text(SKIPS)
    said = _run(path, "--require-kubernetes")
    assert "1 failed, 3 skipped" in said
    assert "required here: somebody has to build it" in said
