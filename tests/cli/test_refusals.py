"""What is refused, to whom, and what the message says to do next; never with a traceback."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastipam
from fastipam.cli.commands import cli
from fastipam.storage import tables
from fastipam.storage.store import Store

from ..e2e import tools

FASTIPAM = str(Path(sys.executable).with_name("fastipam"))

# Every command that opens a store, with what it wants besides.
COMMANDS = (
    "list", "list --json", "list --all", "list --watch", "stats", "stats --json", "map",
    "map --json", "map -o {tmp}/x.png", "show 10.32.0.2", "history 10.32.0.2", "history --since 2h",
    "release 10.32.0.2 --yes", "reserve 10.32.0.9", "unreserve 10.32.0.9",
    "gc --network podnet --allow-empty -", "sweep", "sweep --dry-run", "check", "check --repair",
    "backup {tmp}/copy", "export host-local {tmp}/tree", "pool list", "pool show podnet",
    "pool remove podnet", "network remove podnet", "release --container c --dry-run",
)  # fmt: skip


@pytest.fixture
def filled(data_dir: Path) -> Path:
    """A store with a lease."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("podnet", "10.32.0.0/24").allocate("c", pod=("web", "web-0"))
    return data_dir


def _run(*words: str, by: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*by, FASTIPAM, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("command", COMMANDS)
def test_no_store(tmp_path: Path, command: str) -> None:
    """Without a store nothing is made of it, and the message says where one comes from."""
    words = command.format(tmp=tmp_path).split()
    done = _run(*words, "--data-dir", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "there is no store" in done.stderr
    assert "hint: the first ADD creates it" in done.stderr
    assert done.stdout == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_another_version(filled: Path, tmp_path: Path, command: str) -> None:
    """A store of a newer fastipam is refused and named, with what to do."""
    store = Store(filled)
    with store.write() as txn:
        tables.META.put(txn, b"schema", b"\xff\0\0\0")
    store.close()
    before = (filled / "data.mdb").read_bytes()
    done = _run(*command.format(tmp=tmp_path).split(), "--data-dir", str(filled))
    assert done.returncode == 1
    assert str(filled) in done.stderr
    assert "schema" in done.stderr
    assert "hint: " in done.stderr
    assert (filled / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_another_user(filled: Path, tmp_path: Path, command: str) -> None:
    """Whoever may not read the store is told that root may, not that there is none."""
    nobody = tools.as_another_user()
    for path in filled.parents[:3]:
        path.chmod(0o755)
    words = command.format(tmp=tmp_path).split()
    done = _run(*words, "--data-dir", str(filled), by=nobody)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "hint: as root" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["status", "nodes", "blocks", "check", "routes", "leave"])
def test_settings_of_a_cluster(tmp_path: Path, command: str) -> None:
    """Without its file a command of a cluster says who names it; another user reads of root."""
    nobody = tools.as_another_user()
    missing = _run("cluster", command, "-c", str(tmp_path / "none.json"))
    assert missing.returncode == 1
    assert f"{tmp_path}/none.json cannot be read: No such file or directory" in missing.stderr
    assert "hint: the file has the settings of a cluster" in missing.stderr
    for path in tmp_path.parents[:3]:
        path.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    (closed / "cluster.json").write_text("{}")
    refused = _run("cluster", command, "-c", str(closed / "cluster.json"), by=nobody)
    assert refused.returncode == 1
    assert "Permission denied" in refused.stderr
    assert f"hint: as root: sudo {FASTIPAM} cluster {command}" in refused.stderr


def test_doctor_of_another_user(filled: Path, tmp_path: Path) -> None:
    """It says what it could not see, and how to: that is no problem of the node's."""
    nobody = tools.as_another_user()
    for path in filled.parents[:3]:
        path.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(closed / "agent.sock"))
        listening.listen()
        words = ["--socket", str(closed / "agent.sock"), "--conf-dir", str(closed)]
        done = _run("doctor", *words, "--data-dir", str(filled), by=nobody)
    lines = done.stdout.splitlines()
    assert any("run as root to examine everything" in line for line in lines)
    for check, text in (
        ("agent", "only root and the agent's user may connect"),
        ("configuration", "cannot be read: Permission denied"),
        ("store", f"{filled} cannot be read by this user"),
    ):
        (at,) = (
            number
            for number, line in enumerate(lines)
            if line.split()[:2] == ["warning", check] and text in line
        )
        assert lines[at + 1].strip().startswith("$ ")


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    """A backup or a tree that does not exist makes no store."""
    none = str(tmp_path / "none")
    for words, reason in (
        (["restore", none], f"{none}: No such file or directory"),
        (["import", "host-local", none], f"{none} does not exist"),
    ):
        done = _run(*words, "--data-dir", str(tmp_path / "store"))
        assert done.returncode == 1
        assert reason in done.stderr
    assert os.listdir(tmp_path) == []


def test_nothing_is_explained(filled: Path) -> None:
    """An answer without a row says why, on standard error; JSON is an empty array."""
    for words, reason in (
        (["list", "--pod", "web-0"], "a pod is NAMESPACE/NAME, such as default/web-0"),
        (["list", "--container", "x"], "no address matches the filter"),
        (["history", "10.32.0.77"], "the history begins at"),
        (["history", "--pod", "web-0"], "default/web-0"),
    ):
        done = _run(*words, "--data-dir", str(filled))
        assert done.returncode == 0
        assert reason in done.stderr
        assert _run(*words, "--json", "--data-dir", str(filled)).stdout == "[]\n"


USAGE = [
    ("history --since 1h --until 2h", "--since is later than --until"),
    ("history --at 14:05", "--at needs an ADDRESS and no other filter"),
    ("history 10.32.0.2 --at 14:05 --pod web/web-0", "--at needs an ADDRESS and no other filter"),
    ("history 10.32.0.2 --at 14:05 --until 2h", "--at needs an ADDRESS and no other filter"),
    ("release", "type addresses or --container ID"),
    ("release 10.32.0.2 --container c", "type addresses or --container ID"),
    ("release 10.32.0.2 --ifname eth0", "--ifname needs --container"),
]


@pytest.mark.parametrize(("command", "reason"), USAGE)
def test_wrong_usage(data_dir: Path, command: str, reason: str) -> None:
    """Options that do not go together are refused before a store is looked for: status 2."""
    done = CliRunner().invoke(cli, [*command.split(), "--data-dir", str(data_dir)])
    assert done.exit_code == 2
    assert reason in done.stderr
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("history", "at", "reason"),
    [
        (100, "2099-01-01", "10.32.0.77 had no owner at 2099-01-01"),
        (100, "2001-01-01", "no owner of 10.32.0.77 at 2001-01-01"),
        (0, "2099-01-01", "no owner of 10.32.0.77 at 2099-01-01"),
    ],
)
def test_nobody_had_it(data_dir: Path, history: int, at: str, reason: str) -> None:
    """That nobody had an address is not what is said when the history does not go back so far."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("podnet", "10.32.0.0/24", history=history).allocate("c")
    words = ["history", "10.32.0.77", "--at", at, "--data-dir", str(data_dir)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert reason in done.stderr
    assert ("the history begins at" in done.stderr) == (at == "2001-01-01")
    assert ("the history is empty" in done.stderr) == (not history)
    done = CliRunner().invoke(cli, [*words, "--json"])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "[]\n", "")


def test_show_knows_the_cool_down(filled: Path) -> None:
    """Why an address is not free: with the cool-down of its network, not the default one."""
    with fastipam.open(filled) as ipam:
        net = ipam.network("podnet", "10.32.0.0/24", cooldown_s=900, cooldown_policy="strict")
        net.allocate("d")
        net.release("d")
    done = _run("show", "10.32.0.3", "--data-dir", str(filled))
    assert re.search("assigned again in 1[45]m", done.stdout)
    assert "not earlier" in done.stdout
