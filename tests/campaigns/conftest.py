"""The fixtures of the agent's and the plugin's tests."""

from __future__ import annotations

from ..agent.conftest import agent, launcher_only, run_dir, start  # noqa: F401
from ..cni.conftest import call, config, held, plugin  # noqa: F401
