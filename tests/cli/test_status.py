"""``fastipam status``: what a probe and a person are told of each configured network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import fastipam
from fastipam.agent import protocol
from fastipam.cli.commands import cli
from tests.agent.conftest import Start, run_dir, start  # noqa: F401  # fixtures
from tests.agent.processes import FakeAgent

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from click.testing import Result

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration with this ``ipam`` section: ``write("10.conf", subnet=…)``."""
    (tmp_path / "net.d").mkdir()

    def put(name: str, network: str = "podnet", **ipam: Any) -> None:
        section = {"type": "fastipam", "dataDir": str(tmp_path / "store"), **ipam}
        plugin = {"type": "bridge", "ipam": section}
        whole: dict[str, Any] = {"cniVersion": "1.0.0", "name": network}
        if name.endswith(".conflist"):
            whole["plugins"] = [plugin, {"type": "portmap"}]
        else:
            whole |= plugin
        (tmp_path / "net.d" / name).write_text(json.dumps(whole))

    return put


@pytest.fixture
def status(tmp_path: Path) -> Callable[..., Result]:
    """Run the command on these configurations; no agent, unless a socket is named."""

    def run(*words: str) -> Result:
        where = ["--conf-dir", str(tmp_path / "net.d"), "--socket", str(tmp_path / "none.sock")]
        return CliRunner().invoke(cli, ["status", *where, *words])

    return run


def rows(done: Result) -> list[dict[str, Any]]:
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_ready(
    write: Write,
    status: Callable[..., Result],
    start: Start,  # noqa: F811
) -> None:
    """Every network of files and lists has a row, by the agent, or directly without one."""
    write("10.conflist", subnet="10.1.0.0/24")
    write("20.conf", "other", subnet="10.2.0.0/24")
    write("30.conf", "not-ours", type="host-local", subnet="10.3.0.0/24")
    done = status("--json")
    assert done.exit_code == 0, done.output
    assert [(one["network"], one["ready"], one["answered_by"]) for one in rows(done)] == [
        ("podnet", True, "direct"),
        ("other", True, "direct"),
    ]
    running = start()
    done = status("--socket", str(running.path), "--agent")
    assert done.exit_code == 0, done.output
    assert [line.split()[:4] for line in done.stdout.splitlines()[1:]] == [
        ["podnet", "yes", "-", "agent"],
        ["other", "yes", "-", "agent"],
    ]


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_missing_directory(status: Callable[..., Result], tmp_path: Path, words: list[str]) -> None:
    """A probe whose container lacks the mount is not ready, and the directory is named."""
    done = status("--conf-dir", str(tmp_path / "missing"), *words)
    assert done.exit_code == 1
    assert f"{tmp_path / 'missing'}: this directory does not exist" in done.stderr
    (tmp_path / "missing").mkdir()
    assert status("--conf-dir", str(tmp_path / "missing"), *words).exit_code == 0


def test_full(write: Write, status: Callable[..., Result], tmp_path: Path) -> None:
    """A full range is ready, unless the configuration wants the specification's code 50."""
    write("10.conf", subnet="10.1.0.0/30", statusWhenFull="unavailable")
    write("20.conf", "other", subnet="10.2.0.0/24")
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("podnet", "10.1.0.0/30").allocate("c1")
    done = status("--json")
    assert done.exit_code == 1
    full, other = rows(done)
    assert (full["ready"], full["code"]) == (False, 50)
    assert "10.1.0" in full["message"]
    assert other["ready"] is True
    write("10.conf", subnet="10.1.0.0/30")
    done = status("--json")
    assert done.exit_code == 0
    assert "is full" in rows(done)[0]["message"]


def test_unusable_store(write: Write, status: Callable[..., Result], tmp_path: Path) -> None:
    """A store that cannot be opened: code 51, and the path in the message."""
    write("10.conf", subnet="10.1.0.0/24")
    (tmp_path / "store").write_text("no directory")
    done = status("--json")
    assert done.exit_code == 1
    (row,) = rows(done)
    assert (row["ready"], row["code"]) == (False, 51)
    assert str(tmp_path / "store") in row["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ('{"name": "n", "plugins": 3}', "not a list of objects"),
        (None, "cannot be read"),
    ],
)
def test_unusable_file(
    content: str | None,
    words: str,
    write: Write,
    status: Callable[..., Result],
    tmp_path: Path,
) -> None:
    """A file that a runtime cannot use is not ready; those beside it are asked about."""
    broken = tmp_path / "net.d" / "10.conf"
    if content is None:
        broken.mkdir()
    else:
        broken.write_text(content)
    write("20.conf", subnet="10.2.0.0/24")
    done = status("--json")
    assert done.exit_code == 1
    bad, good = rows(done)
    assert (bad["ready"], bad["file"]) == (False, str(broken))
    assert words in bad["message"]
    assert bad["code"] == {"not JSON": 6, "not a list of objects": 7, "cannot be read": 5}[words]
    assert (good["ready"], good["code"]) == (True, 0)


def test_nothing_configured(
    status: Callable[..., Result],
    start: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Before the first configuration a node is ready as soon as its agent answers."""
    (tmp_path / "net.d").mkdir()
    done = status()
    assert (done.exit_code, done.stdout) == (0, "")
    assert 'has "type": "fastipam"' in done.stderr
    assert rows(status("--json")) == []
    assert status("--agent").exit_code == 1
    assert status("--socket", str(start().path), "--agent").exit_code == 0


def test_no_agent(write: Write, status: Callable[..., Result]) -> None:
    """With --agent it is an error that names the socket and the next step."""
    write("10.conf", subnet="10.1.0.0/24")
    done = status("--agent")
    assert done.exit_code == 1
    assert "none.sock" in done.stderr
    assert "hint: systemctl start" in done.stderr


def test_no_agent_in_a_pod(
    write: Write, status: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readiness probe of a pod speaks of pods, not of systemd."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    write("10.conf", subnet="10.1.0.0/24")
    done = status("--agent")
    assert done.exit_code == 1
    assert "no agent answers" in done.stderr
    assert "kubectl logs" in done.stderr
    assert "systemctl" not in done.stderr


def test_agent_that_ends_half_way(
    write: Write,
    status: Callable[..., Result],
    run_dir: Path,  # noqa: F811
) -> None:
    """An agent that answers VERSION and then goes away: an error, not a wrong answer."""
    write("10.conf", subnet="10.1.0.0/24")

    def answer_once(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        connection.sendall(protocol.pack_answer(0, b""))
        FakeAgent.read_request(connection)

    with FakeAgent(run_dir / "s", answer_once):
        done = status("--socket", str(run_dir / "s"), "--agent")
    assert done.exit_code == 1
    assert "without an answer" in done.stderr
    assert "runs, but does not answer STATUS" in done.stderr
    assert "no agent answers" not in done.stderr


def test_agent_that_cannot_serve(
    write: Write,
    status: Callable[..., Result],
    start: Start,  # noqa: F811
) -> None:
    """The probe tells an agent whose network cannot be served from one that is not there."""
    write("10.conf", subnet="10.1.0.0/24", gateway="nowhere")
    done = status("--socket", str(start().path), "--agent")
    assert done.exit_code == 1
    assert "the agent runs, but cannot serve network podnet: " in done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.output
