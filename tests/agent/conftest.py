"""Agents that end with their test, and launchers built in two ways."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam.cli.install import install

from ..cni.conftest import call, config, held, plugin  # noqa: F401  # fixtures of the same name
from ..cni.plugin import Plugin
from .processes import Agent, Launcher

SOURCE = Path(__file__).parents[2] / "src" / "launcher.c"
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

Start = Callable[..., Agent]  # the fixture ``start``


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A directory for sockets: its path is short, and others may enter it."""
    with tempfile.TemporaryDirectory(prefix="fastipam-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def start(run_dir: Path) -> Iterator[Start]:
    """Start agents on the socket ``run_dir``/s: ``start(*options)``; they end with the test."""
    started: list[Agent] = []

    def begin(*options: str, name: str = "s", **keywords: Any) -> Agent:
        made = Agent(run_dir / name, *options, **keywords)
        started.append(made)
        return made

    yield begin
    for one in started:
        one.finish()


@pytest.fixture
def agent(start: Start) -> Agent:
    """An agent with the usual options."""
    return start()


@pytest.fixture(scope="session")
def launcher_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher with no entry point beside it: what it answers, an agent has answered."""
    return install(tmp_path_factory.mktemp("only"), launcher_only=True)


@pytest.fixture
def through(agent: Agent, launcher_only: Path) -> Plugin:
    """The plugin as a runtime calls it while an agent runs."""
    return Plugin(launcher_only, agent.path)


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, built with the address and undefined-behaviour sanitizers."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    binary = tmp_path_factory.mktemp("sanitized") / "launcher"
    command = [compiler, *SANITIZE, str(SOURCE), "-o", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the sanitizers cannot be used: {done.stderr.strip()[-200:]}")
    return binary


@pytest.fixture(params=["installed", "sanitized"])
def launcher(request: pytest.FixtureRequest, run_dir: Path) -> Launcher:
    """The launcher as it is installed, and with sanitizers; its agent would be at ``socket``."""
    binary = Path(fastipam.__file__).parent / "launcher"
    if request.param == "sanitized":
        binary = request.getfixturevalue("sanitized")
    return Launcher(binary, run_dir)


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
