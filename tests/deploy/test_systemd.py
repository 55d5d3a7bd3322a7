"""The systemd units: systemd's own check, what they say of the command line, and activation."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import fastipam
from fastipam.agent import listening, main
from fastipam.agent.protocol import DEFAULT_SOCKET
from fastipam.configuration.policy import DEFAULT_DATA_DIR

from ..cni.plugin import environment
from ..e2e import tools
from .support import FASTIPAM, SERVICE, SOCKET, ask, config, finish, read_unit, subcommand, until

_EXPOSURE = "30"  # tenths of systemd's scale from 0 to 10; up to 2.9 it says OK


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Copies of the units whose program exists here."""
    copies = []
    for path in (SERVICE, SOCKET):
        copy = tmp_path / path.name
        program = shlex.split(read_unit(SERVICE)["ExecStart"][0])[0]
        copy.write_text(path.read_text().replace(program, str(FASTIPAM)))
        copies.append(str(copy))
    return copies


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    tools.require_tools("systemd-analyze")
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


def test_verify(units: list[str]) -> None:
    """systemd knows every setting and value of both units, and has no remark."""
    done = _analyze("verify", "--man=no", "--recursive-errors=no", *units)
    assert (done.returncode, done.stderr) == (0, "")


def test_security(units: list[str]) -> None:
    """systemd's own measure of what a service could do stays at "OK"."""
    done = _analyze("security", "--offline=yes", f"--threshold={_EXPOSURE}", units[0])
    assert done.returncode == 0, done.stdout


def test_command_line() -> None:
    """ExecStart is a command line that ``fastipam agent`` takes."""
    _, command, *options = shlex.split(read_unit(SERVICE)["ExecStart"][0])
    agent = subcommand(command)
    assert command == "agent"
    agent.make_context("agent", options)


def test_socket() -> None:
    """The socket is where the launcher looks, for root alone, with the agent's own queue."""
    unit = read_unit(SOCKET)
    assert unit["ListenStream"] == [DEFAULT_SOCKET]
    assert unit["SocketMode"] == ["0600"]
    assert unit["Backlog"] == [str(listening._BACKLOG)]
    assert "RuntimeDirectory" not in read_unit(SERVICE), "it would go, with the socket in it"


def test_service() -> None:
    """It comes back whatever happens, has its socket, and may write where stores are by default."""
    unit = read_unit(SERVICE)
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["always"]
    assert SOCKET.name in unit["Requires"] + unit["After"]
    assert any(DEFAULT_DATA_DIR.startswith(f"{one}/") for one in unit["ReadWritePaths"][0].split())
    drain_s = main.Options().drain_s
    assert int(unit["TimeoutStopSec"][0]) > drain_s
    wanted = main.Options().limits.connections
    assert int(unit["LimitNOFILE"][0]) > wanted


def _is_listening(path: Path) -> bool:
    """Whether a socket of this path takes connections: it has its name a moment earlier."""
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()]
    return any(row[-1] == str(path) and int(row[3], 16) & _ACCEPTS for row in rows[1:])


_ACCEPTS = 1 << 16  # the kernel's __SO_ACCEPTCON


def test_activation(run_dir: Path, tmp_path: Path) -> None:
    """The socket is there before the agent, which takes it over, says so, and leaves it."""
    tools.require_tools("systemd-socket-activate")
    path, told = run_dir / "agent.sock", run_dir / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(told))
        manager.settimeout(20)
        command = [
            *("systemd-socket-activate", f"--listen={path}", f"--setenv=NOTIFY_SOCKET={told}"),
            *(str(FASTIPAM), "agent", "--socket", str(path)),
        ]
        with (tmp_path / "log").open("wb") as log:
            started = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: _is_listening(path), "systemd listens")
            # The connection starts the agent, and the request waits for it.
            assert ask(path, "ADD", config(tmp_path / "store"))[0] == 0
            assert manager.recv(64) == b"READY=1"
            assert ask(path, "DEL", config(tmp_path / "store")) == (0, None)
            assert not path.with_name("agent.sock.lock").exists(), "the socket is systemd's"
        finally:
            status = finish(started)
        assert status == 0, (tmp_path / "log").read_text()
        assert manager.recv(64) == b"STOPPING=1"
    assert stat.S_ISSOCK(path.stat().st_mode), "systemd's socket is not the agent's to remove"


def test_capabilities(run_dir: Path, tmp_path: Path) -> None:
    """Without a capability requests are served, and a caller's network namespace is known."""
    tools.require_root()
    tools.require_tools("setpriv")
    assert read_unit(SERVICE)["CapabilityBoundingSet"] == ["CAP_SYS_PTRACE"]
    path = run_dir / "agent.sock"
    command = [
        *(shutil.which("setpriv") or "", "--no-new-privs", "--inh-caps=-all"),
        *("--bounding-set=-all", str(FASTIPAM), "agent", "--socket", str(path)),
    ]
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: started.poll() is not None or _listens(path), "the agent listens")
        made = config(tmp_path / "store")
        assert ask(path, "ADD", made)[0] == 0
        variables = environment("ADD", "c2", netns="/proc/self/ns/net")
        done = subprocess.run(
            [Path(fastipam.__file__).with_name("launcher")],
            env=variables | {"FASTIPAM_SOCKET": str(path)},
            input=json.dumps(made).encode(),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1
        assert json.loads(done.stdout)["code"] == 8, "the caller's own namespace is refused"
        assert ask(path, "DEL", made) == (0, None)
    finally:
        status = finish(started)
    assert status == 0, (tmp_path / "log").read_text()


def test_search_with_the_capabilities_of_the_unit() -> None:
    """With what the unit leaves it the agent sees the namespaces of all processes."""
    tools.require_root()
    tools.require_tools("setpriv", "unshare")
    (kept,) = read_unit(SERVICE)["CapabilityBoundingSet"]
    code = "from fastipam import processes; print(processes.search().blind)"
    bounds = f"--bounding-set=-all,+{kept.removeprefix('CAP_').lower()}"
    with subprocess.Popen(["unshare", "-n", "sleep", "60"]) as other:
        try:
            done = subprocess.run(
                [
                    "setpriv",
                    "--no-new-privs",
                    "--inh-caps=-all",
                    bounds,
                    sys.executable,
                    "-c",
                    code,
                ],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            other.kill()
    assert done.stdout == "\n"


def _listens(path: Path) -> bool:
    try:
        return ask(path, "VERSION")[0] == 0
    except OSError:
        return False
