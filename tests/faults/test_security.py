"""What docs/security.md promises: whose files are used, who is served, what is never said."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.cli import migration

from ..agent.processes import FASTIPAM
from ..cni.plugin import COMMANDS, Make, Plugin, environment
from ..e2e import tools

if TYPE_CHECKING:
    from pathlib import Path

    from ..agent.conftest import Start

SUBNET = {"subnet": "10.1.0.0/24"}
NOBODY = 65534
FILES = ("data.mdb", "lock.mdb", "turn.lock")


# Modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", ["0000", "0777"])
@pytest.mark.parametrize("by", ["direct", "agent"])
def test_modes(
    by: str,
    umask: str,
    plugin: Plugin,
    launcher_only: Path,
    start: Start,
    config: Make,
    tmp_path: Path,
) -> None:
    """Directory 0700, files 0600, socket and its lock 0600, whatever the umask."""
    masked = ["/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh"]
    stdin = json.dumps(config(ipam=SUBNET)).encode()
    if by == "agent":
        agent = start(prefix=masked)
        for path in (agent.path, agent.path.with_name("s.lock")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o177 == 0
        plugin = Plugin(launcher_only, agent.path)
    env = environment("ADD") | {"FASTIPAM_SOCKET": str(plugin.socket)}
    done = subprocess.run(
        [*masked, plugin.path], env=env, input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    store = tmp_path / "store"
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in store.iterdir()}
    assert modes == dict.fromkeys(FILES, 0o600)


# Whose files ----------------------------------------------------------------------------------


def _made(tmp_path: Path) -> Path:
    """A store with one lease."""
    store = tmp_path / "store"
    with fastipam.open(store) as ipam:
        ipam.network("mynet", "10.1.0.0/24").allocate("c0")
    return store


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("there", [True, False])
def test_symbolic_links(name: str, there: bool, way: Plugin, config: Make, tmp_path: Path) -> None:
    """A link in the place of a file is refused, and what it leads to is neither read nor made."""
    store = _made(tmp_path)
    target = tmp_path / "precious"
    (store / name).rename(tmp_path / "kept")
    if there:
        target.write_text("precious")
    (store / name).symlink_to(target)
    for command in ("ADD", "DEL"):
        answer = way(command, config(ipam=SUBNET), "c0")
        assert answer.code == 5
        assert f"{store / name} is a symbolic link" in answer.message
    assert way("STATUS", config(ipam=SUBNET)).code == 51
    assert (target.read_text() if there else target.exists()) == ("precious" if there else False)
    (tmp_path / "kept").replace(store / name)
    assert way("DEL", config(ipam=SUBNET), "c0").status == 0


@pytest.mark.parametrize("name", ["", *FILES])
def test_foreign_owner(name: str, way: Plugin, config: Make, tmp_path: Path) -> None:
    """A directory or file of another user is refused, and the error names its owner."""
    tools.require_root()
    store = _made(tmp_path)
    os.chown(store / name, NOBODY, NOBODY)
    answer = way("ADD", config(ipam=SUBNET))
    assert answer.code == 5
    assert f"belongs to uid {NOBODY}" in answer.message
    assert "chown" in answer.document["details"]
    os.chown(store / name, 0, 0)
    assert way("ADD", config(ipam=SUBNET)).status == 0


@pytest.mark.parametrize("name", ["", *FILES])
def test_writable_by_everybody(name: str, way: Plugin, config: Make, tmp_path: Path) -> None:
    """Where everybody may write nothing is read."""
    store = _made(tmp_path)
    path = store / name
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode | 0o002)
    answer = way("ADD", config(ipam=SUBNET))
    assert answer.code == 5
    assert "can be written by every user" in answer.message
    assert answer.document["details"].startswith("chmod o-w")
    path.chmod(mode)
    assert way("ADD", config(ipam=SUBNET)).status == 0


def test_directory_behind_a_link(way: Plugin, config: Make, tmp_path: Path) -> None:
    """The data directory itself may be reached through a link: its name is the administrator's."""
    store = _made(tmp_path)
    (tmp_path / "link").symlink_to(store)
    made = config(ipam=SUBNET | {"dataDir": str(tmp_path / "link")})
    assert way("ADD", made, "c1").status == 0
    assert way("ADD", config(ipam=SUBNET), "c1").code == 102, "it is the same store"


def test_directory_behind_a_strangers_link(way: Plugin, config: Make, tmp_path: Path) -> None:
    """A link of another user in the place of the directory is refused, and left alone."""
    tools.require_root()
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "store").symlink_to(tmp_path / "target")
    os.chown(tmp_path / "store", NOBODY, NOBODY, follow_symlinks=False)
    for command, code in (("ADD", 5), ("STATUS", 51)):
        answer = way(command, config(ipam=SUBNET))
        assert answer.code == code
        assert f"is a symbolic link of uid {NOBODY}" in answer.message
    assert not list((tmp_path / "target").iterdir())
    os.chown(tmp_path / "store", 0, 0, follow_symlinks=False)
    assert way("ADD", config(ipam=SUBNET)).status == 0


# Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../escaped", "..", "/escaped", "a/b", "a\0b", "", ".hidden"])
def test_names_stay_inside(name: str, way: Plugin, config: Make, tmp_path: Path) -> None:
    """Names of networks and containers that could be paths are refused, and nothing is made."""
    assert way("ADD", config(name=name, ipam=SUBNET)).code == 7
    if "\0" not in name:
        assert way("ADD", config(ipam=SUBNET), name).code == 4
        assert way("ADD", config(ipam=SUBNET), ifname=name).code in (4, None)
    assert {each.name for each in tmp_path.iterdir()} <= {"store"}


def test_export_stays_inside(tmp_path: Path) -> None:
    """A network that a program has named like a path is not exported; links are not followed."""
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.mkdir()
    (outside / "10.1.0.3").write_text("precious")
    with fastipam.open(tmp_path / "store") as ipam:
        for name in ("../outside", "..", "linked", "files"):
            network = ipam.network(name, "10.1.0.0/24")
            network.allocate("c0")
            network.allocate("c1")
        (tree / "linked").symlink_to(outside)
        (tree / "files").mkdir()
        (tree / "files" / "10.1.0.2").symlink_to(outside / "made")
        (tree / "files" / ".10.1.0.3.new").symlink_to(outside / "10.1.0.3")
        items = migration.export_host_local(ipam, tree)
    outcomes = {(item.network, item.name): item.outcome for item in items}
    assert outcomes["../outside", ""] == outcomes["..", ""] == migration.SKIPPED
    assert outcomes["linked", ""] == outcomes["files", "10.1.0.2"] == migration.CONFLICT
    assert outcomes["files", "10.1.0.3"] == migration.DONE
    assert [each.name for each in outside.iterdir()] == ["10.1.0.3"]
    assert (outside / "10.1.0.3").read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("backup {tmp}/x", "x"),
        ("backup {tmp}/x --force", "x"),
        ("map -o {tmp}/x.png", "x.png"),
        ("conflist -o {tmp}/x", "x"),
        ("conflist -o {tmp}/x/file", "x"),
        ("install --bin-dir {tmp}", "fastipam"),
        ("install --bin-dir {tmp}", "fastipam-direct"),
        ("export host-local {tmp}", "n"),
        ("backup {tmp}/x/file", "x"),
        ("map -o {tmp}/x/file.png", "x"),
    ],
)
@pytest.mark.parametrize("target", ["file", "directory"])
def test_root_follows_no_link(words: str, name: str, target: str, tmp_path: Path) -> None:
    """Root writes into a directory in which another user has made a link: it is not followed."""
    tools.require_root()
    with fastipam.open(tmp_path / "store", "relaxed") as ipam:
        ipam.network("n", "10.0.0.0/24").allocate("c")
    shared, victim, held = tmp_path / "shared", tmp_path / "victim", tmp_path / "held"
    shared.mkdir()
    shared.chmod(0o1777)
    victim.write_text("precious, root's")
    held.mkdir()
    (shared / name).symlink_to(victim if target == "file" else held)
    os.chown(shared / name, NOBODY, NOBODY, follow_symlinks=False)
    command = [str(FASTIPAM), *words.format(tmp=shared).split()]
    if command[1] != "install":
        command += ["--data-dir", str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert victim.read_text() == "precious, root's"
    assert not list(held.iterdir())
    written = (shared / name).is_file() and not (shared / name).is_symlink()
    assert written == (done.returncode == 0), done.stderr


def test_import_follows_no_link(tmp_path: Path) -> None:
    """Links in a tree, to directories and to files, are skipped."""
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "net").mkdir(parents=True)
    outside.mkdir()
    (outside / "10.1.0.9").write_text("secret\r\neth0")
    (tree / "linked").symlink_to(outside)
    (tree / "net" / "10.1.0.9").symlink_to(outside / "10.1.0.9")
    with fastipam.open(tmp_path / "store") as ipam:
        items = migration.import_host_local(ipam, tree)
        assert {item.outcome for item in items} == {migration.SKIPPED}
        assert "secret" not in str(items)


# The socket -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s", "s.lock"])
@pytest.mark.parametrize("there", [True, False])
def test_socket_path_is_a_link(name: str, there: bool, start: Start, run_dir: Path) -> None:
    """A link in the place of the socket or its lock ends the agent in one line; it stays."""
    target = run_dir / "precious"
    if there:
        target.write_text("precious")
    (run_dir / name).symlink_to(target)
    agent = start(wait=False)
    assert agent.wait() == 1
    assert "--socket" in agent.log
    assert "symbolic link" in agent.log
    assert (run_dir / name).is_symlink()
    assert target.exists() == there
    if there:
        assert target.read_text() == "precious"


_CONNECT = f"""
import os, socket, sys
client = socket.socket(socket.AF_UNIX)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
try:
    client.connect(sys.argv[1])
    print("connected")
except PermissionError:
    print("refused")
"""


def test_another_user_cannot_connect(start: Start, run_dir: Path) -> None:
    """The socket's mode keeps other users out; who gets past it is cut off (test_agent.py)."""
    tools.require_root()
    run_dir.chmod(0o755)
    argv = [sys.executable, "-IS", "-c", _CONNECT, str(start().path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


# What is said ---------------------------------------------------------------------------------

SECRET = "hunter2-of-the-administrator"


def _documents(made: dict[str, Any]) -> list[bytes]:
    """Configurations that are served and that are wrong, all with a secret of somebody else's."""
    kept = {
        "password": SECRET,
        "kubernetes": {"token": SECRET, SECRET: SECRET},
        "prevResult": {"interfaces": [{"sandbox": SECRET}], "ips": []},
    }
    documents = [made | kept, made | kept | {"cniVersion": "9.9.9"}, made | kept | {"name": 5}]
    sections: list[dict[str, Any]] = [
        {"subnet": "x"},
        {"subnet": "10.1.0.0/33"},
        {"ranges": [[]]},
        {"routes": 5},
        {"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"},
        {"subnet": "10.1.0.0/24", "unknown": SECRET, "auth": {"key": SECRET}},
        {"subnet": "10.1.0.0/24", "resolvConf": "/nonexistent"},
    ]
    for section in sections:
        ipam = made["ipam"] | section | {"apiKey": SECRET}
        documents.append(made | kept | {"ipam": ipam})
    raw = [json.dumps(document).encode() for document in documents]
    first = raw[0]
    broken = (first[:-1], first + b"}", first.replace(b'"name"', b"name"), b"\xff" + first)
    return [*raw, *broken]


@pytest.mark.parametrize("by", ["direct", "agent"])
def test_no_secrets(
    by: str, plugin: Plugin, launcher_only: Path, start: Start, config: Make
) -> None:
    """What a configuration holds for others is in no answer, no log and no metric, in no case."""
    agent = start("--log-level", "debug") if by == "agent" else None
    way = plugin if agent is None else Plugin(launcher_only, agent.path)
    for stdin in _documents(config(ipam=SUBNET)):
        for command in (*COMMANDS, "NONE"):
            answer = way.raw(environment(command), stdin)
            assert SECRET not in answer.stderr
            assert SECRET not in json.dumps(answer.document)
    if agent is not None:
        assert "verb=ADD" in agent.log
        assert SECRET not in agent.log


def test_command_line_says_no_more(config: Make, plugin: Plugin, tmp_path: Path) -> None:
    """Listings show owners and addresses, and nothing of the configuration they came from."""
    stdin = _documents(config(ipam=SUBNET))[0]
    assert plugin.raw(environment("ADD"), stdin).status == 0
    for command in (["list", "--json"], ["stats", "--json"], ["check"]):
        done = subprocess.run(
            [FASTIPAM, *command, "--data-dir", tmp_path / "store"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert SECRET not in done.stdout + done.stderr
    assert SECRET.encode() not in (tmp_path / "store" / "data.mdb").read_bytes()
