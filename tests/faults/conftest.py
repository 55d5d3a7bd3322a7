"""The two ways to the plugin, and small disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import fastipam
from fastipam.verify import verify

from ..agent.conftest import launcher_only, run_dir, start  # noqa: F401  # fixtures of that name
from ..cni.conftest import call, config, plugin  # noqa: F401
from ..cni.plugin import Plugin
from ..e2e import tools
from . import disks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..agent.conftest import Start


@pytest.fixture(params=["direct", "agent"])
def way(request: pytest.FixtureRequest) -> Plugin:
    """The plugin as a runtime calls it: without an agent, and with nothing but an agent."""
    if request.param == "direct":
        made: Plugin = request.getfixturevalue("plugin")
        return made
    begin: Start = request.getfixturevalue("start")
    return Plugin(request.getfixturevalue("launcher_only"), begin().path)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[disks.Disk]:
    """A small file system: one whose room is counted at once, and one that allocates late."""
    tools.require_root()
    if request.param == "tmpfs":
        with disks.tmpfs(tmp_path / "small") as disk:
            yield disk
    else:
        with disks.ext4(tmp_path / "small", tmp_path / "small.image") as disk:
            yield disk


@pytest.fixture
def ext4_disk(tmp_path: Path) -> Iterator[disks.Ext4]:
    """A file system that can fail."""
    tools.require_root()
    with disks.ext4(tmp_path / "ext4", tmp_path / "image") as disk:
        yield disk


Stored = "Callable[[Path], dict[str, str]]"


@pytest.fixture
def stored() -> Callable[[Path], dict[str, str]]:
    """A function that finds a store consistent and returns owner -> address."""

    def look(path: Path) -> dict[str, str]:
        with fastipam.open(path, create=False) as ipam:
            assert [str(finding) for finding in verify(ipam.store)] == []
            leases = [one for name in ipam.networks() for one in ipam.network(name).leases()]
        return {lease.container_id: str(lease.address.ip) for lease in leases}

    return look
