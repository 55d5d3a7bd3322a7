"""Agents that end with their test, and launchers built in two ways."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fastipam
from fastipam.cli.commands.install.executables import install

from ..cni.conftest import call, config, held, plugin  # noqa: F401  # fixtures of the same name
from ..cni.plugin import Plugin
from ..e2e import tools
from ..ports import free_ports
from .processes import Agent, Launcher

SOURCE = Path(__file__).parents[2] / "src" / "launcher.c"
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

Start = Callable[..., Agent]  # the fixture ``start``


class Foreign(NamedTuple):
    """A launcher for another processor, and the command line's beginning that runs it here."""

    binary: Path
    prefix: tuple[str, ...]


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
    compiler = tools.require_compiler()
    binary = tmp_path_factory.mktemp("sanitized") / "launcher"
    command = [compiler, *SANITIZE, str(SOURCE), "-o", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tools.lacking(f"the sanitizers cannot be used: {done.stderr.strip()[-200:]}")
    return binary


@pytest.fixture(scope="session")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    """The launcher for 64-bit ARM, built as setup.py builds it, and the emulator that runs it."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        tools.lacking(
            "the cross compiler or qemu-user is missing (packages gcc-aarch64-linux-gnu, "
            "libc6-dev-arm64-cross, qemu-user-static)"
        )
    binary = tmp_path_factory.mktemp("arm64") / "launcher"
    flags = ["-Os", "-Wall", "-Wextra", "-Werror", "-static", "-s"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(binary)], check=True)
    return Foreign(binary, (emulator,))


@pytest.fixture(params=["installed", "sanitized", "arm64"])
def launcher(request: pytest.FixtureRequest, run_dir: Path) -> Launcher:
    """The launcher as installed, with sanitizers, and for ARM; its agent would be at ``socket``."""
    if request.param == "arm64":
        foreign: Foreign = request.getfixturevalue("arm64")
        return Launcher(foreign.binary, run_dir, foreign.prefix)
    binary = Path(fastipam.__file__).parent / "launcher"
    if request.param == "sanitized":
        binary = request.getfixturevalue("sanitized")
    return Launcher(binary, run_dir)


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has."""
    return free_ports(1)[0]
