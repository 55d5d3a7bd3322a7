"""The recorded requests of host-local and of users, replayed through the installed plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .vectors import CASES, replay

if TYPE_CHECKING:
    from pathlib import Path

    from .plugin import Plugin


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_answers(case: dict[str, Any], plugin: Plugin, tmp_path: Path) -> None:
    """Each step has the recorded exit status and result, with the variables in any order."""
    replay(case, plugin, tmp_path)
