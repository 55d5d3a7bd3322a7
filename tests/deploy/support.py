"""Where the deployment files are, and how the tests speak to an agent."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastipam.agent import protocol
from fastipam.cli.commands import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICE = DEPLOY / "systemd" / "fastipam-agent.service"
SOCKET = DEPLOY / "systemd" / "fastipam-agent.socket"
DROP_IN = DEPLOY / "systemd" / "cluster.conf"
CHART = DEPLOY / "chart"
CONTAINERFILE = DEPLOY / "Containerfile"
FASTIPAM = Path(sys.executable).with_name("fastipam")
_PATIENCE_S = 20.0  # for what is expected at once, on a machine that may be busy

Unit = dict[str, list[str]]


def read_unit(path: Path) -> Unit:
    """The settings of a unit file, each with its values in order, whatever section they are in."""
    found: Unit = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def until(true: Callable[[], object], what: str) -> None:
    """Wait until it is the case; fail when it takes too long."""
    end = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"not within {_PATIENCE_S:g} s: {what}"
        time.sleep(0.01)


def ask(
    path: Path, command: str, config: Mapping[str, Any] | None = None, **variables: str
) -> tuple[int, Any]:
    """One request to an agent: exit status and document (None: there was no output)."""
    environ = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/none-of-this-name",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        **variables,
    }
    stdin = b"" if config is None else json.dumps(config).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_S)
        connection.connect(str(path))
        connection.sendall(protocol.pack_request(environ, stdin))
        with connection.makefile("rb") as answer:
            status, size, _ = protocol.read_answer(answer.read(protocol.ANSWER.size))
            output = answer.read(size)
    return status, json.loads(output) if output else None


def finish(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM if it still runs; its exit status."""
    process.terminate()
    try:
        return process.wait(_PATIENCE_S)
    finally:
        process.kill()


def config(data_dir: Path) -> dict[str, Any]:
    """A configuration with a store of its own."""
    ipam = {"type": "fastipam", "subnet": "10.1.2.0/24", "dataDir": str(data_dir)}
    return {"cniVersion": "1.0.0", "name": "podnet", "type": "bridge", "ipam": ipam}


def subcommand(name: str) -> click.Command:
    """The command line's command of this name."""
    found = cli.get_command(click.Context(cli), name)
    assert found is not None, name
    return found
