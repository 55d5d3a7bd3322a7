"""Churn does not make a store grow: the short form of ``python -m bench.churn``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.churn import FILLS, churn, row

from ..options import options

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.campaign

PAIRS = 1_000_000 if options.long else 9_000
# How many addresses cool at a moment depends on how fast the machine is; a leak of a page in a
# hundred pairs would be ten times as much in the short form.
_SLACK = 8 * 4096


@pytest.mark.parametrize("fill", FILLS)
def test_file_stops_growing(fill: float, tmp_path: Path) -> None:
    """At any fill the file has its size when the history has its length; then it keeps it."""
    outcome = churn(tmp_path, fill, PAIRS, subnet="10.0.0.0/22", history=500)
    print(row(fill, outcome))
    half, end = outcome.sizes[-2:]
    assert end <= half + _SLACK, outcome.sizes
    assert len(outcome.old.cpu) == len(outcome.young.wall) == PAIRS // 10
