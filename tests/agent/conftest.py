"""Agents that end with their test, and launchers built in two ways."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

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
    """Start agents, all on the socket ``run``/s: ``start(*options)``; they end with the test."""
    started: list[Agent] = []

    def begin(*options: str, **keywords: object) -> Agent:
        made = Agent(run_dir / "s", *options, **keywords)  # type: ignore[arg-type]
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
    path = install(tmp_path_factory.mktemp("only"))
    path.with_name("fastipam-direct").unlink()
    return path


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
def launcher(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run_dir: Path
) -> Launcher:
    """The launcher as it is installed, and with sanitizers."""
    if request.param == "sanitized":
        binary = request.getfixturevalue("sanitized")
    else:
        binary = Path(fastipam.__file__).parent / "launcher"
    copy = tmp_path_factory.mktemp("binary") / "launcher"
    shutil.copy(binary, copy)
    directory = run_dir / request.param
    directory.mkdir()
    shutil.copy(copy, directory / "original")
    return Launcher(directory / "original", directory)
