"""Fixtures of the end-to-end tests: namespaces, directories, and the check after every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from . import netns as namespaces
from . import tools
from .backend import assigned, backend
from .netns import NetNS
from .scratch import scratch_dir

NewNetNS = Callable[[str], NetNS]


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the tests away from an agent that serves this machine."""
    monkeypatch.setenv("FASTIPAM_SOCKET", str(tmp_path / "no-agent.sock"))


@pytest.fixture(scope="session")
def plugin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CNI plugin directory: the installed plugins, and the one under test."""
    directory = tmp_path_factory.mktemp("cni-bin")
    for plugin in tools.cni_plugins_dir().iterdir():
        (directory / plugin.name).symlink_to(plugin)
    backend().install(directory)
    return directory


@pytest.fixture
def new_netns() -> Iterator[NewNetNS]:
    """Return a function that makes network namespaces, deleted after the test."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "ping")
    with ExitStack() as stack:
        yield lambda label: stack.enter_context(namespaces.temporary(label))


@pytest.fixture
def host(new_netns: NewNetNS) -> NetNS:
    """Return the namespace that plays the node: bridges and routes are made in here."""
    return new_netns("host")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Return a directory whose path is short enough for sockets, emptied of mounts at the end."""
    with scratch_dir() as directory:
        yield directory


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Return the IPAM plugin's store; a lease left assigned in it fails the test."""
    directory = tmp_path / "ipam"
    directory.mkdir()
    yield directory
    assert assigned(directory) == [], "leases were left assigned"
    backend().verify(directory)
