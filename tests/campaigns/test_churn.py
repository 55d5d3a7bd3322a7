"""Churn does not make a store grow: the short form of ``python -m bench.churn``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.churn import FILLS, churn, row

from ..agent.processes import LONG

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = 1_000_000 if LONG else 15_000


@pytest.mark.parametrize("fill", FILLS)
def test_file_stops_growing(fill: float, tmp_path: Path) -> None:
    """At any fill the file has its size when the history has its length; then it keeps it."""
    windows = churn(tmp_path / "store", fill, PAIRS, subnet="10.0.0.0/22", history=500)
    print(row(fill, windows))
    sizes = [window.file_bytes for window in windows]
    assert sizes[-1] == sizes[len(sizes) // 2], sizes
