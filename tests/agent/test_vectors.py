"""The recorded requests of host-local and of users, replayed through launcher and agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ..cni.plugin import Plugin
from ..cni.vectors import CASES, replay
from .processes import Agent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def lasting(
    tmp_path_factory: pytest.TempPathFactory, launcher_only: Path
) -> Iterator[tuple[Plugin, Agent]]:
    """One agent for all of them, which no case may disturb."""
    agent = Agent(tmp_path_factory.mktemp("agent") / "s")
    yield Plugin(launcher_only, agent.path), agent
    agent.finish()


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_answers(
    case: dict[str, Any], lasting: tuple[Plugin, Agent], tmp_path: Path
) -> None:
    """Each step has the recorded exit status and result, as it has directly."""
    plugin, _ = lasting
    replay(case, plugin, tmp_path)
