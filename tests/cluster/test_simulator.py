"""The simulator's short form meets its bars."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_bars() -> None:
    """Start, growth with restarts and partitions, and demand that moves: every bar is met."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.cluster_sim", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSED" not in done.stdout
    assert done.stdout.count("met ") == 8
