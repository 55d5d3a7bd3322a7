"""The launcher for 64-bit ARM under an emulator: with a real agent, and with the entry point.

What it makes of agents that misbehave is in test_launcher.py, which runs it as well.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from typing import TYPE_CHECKING, Any

from fastipam.cli.commands.install.executables import install

from ..cni.plugin import Held, Make, environment
from .test_build import PT_INTERP, PT_LOAD, segment_types

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Foreign
    from .processes import Agent

EM_AARCH64 = 183


def _call(
    foreign: Foreign, binary: Path, socket: Path, command: str, config: dict[str, Any]
) -> Any:
    """One process under the emulator; what it printed, decoded; it succeeds and says nothing."""
    base = {"PATH": os.environ["PATH"], "FASTIPAM_SOCKET": str(socket)}
    done = subprocess.run(
        [*foreign.prefix, binary],
        env=base | environment(command),
        input=json.dumps(config).encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    return json.loads(done.stdout) if done.stdout else None


def _life(foreign: Foreign, binary: Path, socket: Path, config: dict[str, Any], held: Held) -> None:
    """Every verb of a container's life, in a runtime's order."""

    def call(command: str, **keys: Any) -> Any:
        return _call(foreign, binary, socket, command, config | keys)

    assert "1.1.0" in call("VERSION")["supportedVersions"]
    assert call("STATUS") is None
    result = call("ADD")
    assert result["ips"][0]["address"] == "10.1.0.2/24"
    assert held() == {"10.1.0.2": ("c1", "eth0")}
    assert call("CHECK", prevResult=result) is None
    assert call("DEL") is None
    assert call("DEL") is None
    assert held() == {}


def test_file(arm64: Foreign) -> None:
    """It is an ARM executable that needs no loader, below 1 MiB."""
    image = arm64.binary.read_bytes()
    assert struct.unpack_from("<H", image, 18) == (EM_AARCH64,)
    types = segment_types(image)
    assert PT_LOAD in types
    assert PT_INTERP not in types
    assert len(image) < 1 << 20


def test_with_an_agent(
    arm64: Foreign, agent: Agent, config: Make, held: Held, tmp_path: Path
) -> None:
    """A real agent serves it: no entry point is beside it that could have."""
    binary = tmp_path / "bin" / "fastipam"
    binary.parent.mkdir()
    binary.write_bytes(arm64.binary.read_bytes())
    binary.chmod(0o755)
    _life(arm64, binary, agent.path, config(ipam={"subnet": "10.1.0.0/24"}), held)


def test_without_an_agent(arm64: Foreign, config: Make, held: Held, tmp_path: Path) -> None:
    """It hands over to the real entry point, standard input untouched."""
    binary = install(tmp_path / "bin")
    binary.write_bytes(arm64.binary.read_bytes())
    _life(arm64, binary, tmp_path / "no-agent", config(ipam={"subnet": "10.1.0.0/24"}), held)
