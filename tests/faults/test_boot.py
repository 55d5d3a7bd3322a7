"""What is a new boot of a node, and what only looks like one: mounts, pid and time namespaces."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import fastipam
from fastipam.ipam import open_with
from fastipam.storage import boot

from ..e2e import tools

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., str]

COMMAND = (sys.executable, "-c", "from fastipam.cli.main import main; main()")
# A node that is itself a container: everything in it ends with its init.
CONTAINER = ("unshare", "-pf", "--kill-child", "--mount-proc")
PLUGIN = """
import os
from fastipam.cni import handle
import json
config = {"cniVersion": "1.1.0", "name": "n", "ipam": {"type": "fastipam", "dataDir": "%s",
          "subnet": "10.5.0.0/29", "cooldown": 0}}
for name in "%s".split():
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0",
                 "CNI_PATH": "/", "CNI_NETNS": "%s"}
    print(handle(variables, json.dumps(config).encode()))
"""


@pytest.fixture(autouse=True)
def root() -> None:
    """Only root makes namespaces."""
    tools.require_root()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store in which the host has given three addresses."""
    with fastipam.open(tmp_path / "store", "relaxed") as ipam:
        net = ipam.network("n", "10.5.0.0/29", cooldown_s=0)
        for name in ("a", "b", "c"):
            net.allocate(name)
    return tmp_path / "store"


def owners(path: Path) -> list[str]:
    """Who has an address, as a process on the host sees it."""
    with open_with(path, create=False, count_boot=False) as ipam:
        return [lease.container_id for lease in ipam.network("n").leases()]


def run(*command: str, **variables: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def plugin(path: Path, *names: str, prefix: tuple[str, ...] = (), netns: str = "/none") -> None:
    """ADDs, as a runtime's child makes them: with CNI_COMMAND in its environment."""
    code = PLUGIN % (path, " ".join(names), netns)
    answer = run(*prefix, sys.executable, "-c", code, CNI_COMMAND="ADD")
    assert answer.count('"ips"') == len(names), answer


def embed(path: Path, code: str, *prefix: str) -> str:
    """Run some lines with the store open, in a process that no runtime has started."""
    whole = f"import fastipam\nwith fastipam.open({str(path)!r}) as ipam:\n    {code}"
    return run(*prefix, sys.executable, "-c", whole)


ALLOCATE = "ipam.network('n').allocate('more'); print(ipam.store.boot, ipam.store.boot_doubt)"


def covered(tmp_path: Path, *command: str) -> tuple[str, ...]:
    """A command that sees another boot id, as in containers of systemd-nspawn and LXC."""
    (tmp_path / "id").write_text(f"{uuid4()}\n")
    script = f"mount --bind {tmp_path / 'id'} {boot.BOOT_ID} && exec {shlex.join(command)}"
    return ("unshare", "-m", "sh", "-c", script)


@pytest.mark.parametrize("what", ["list", "sweep", "allocate"])
def test_covered_boot_id(path: Path, tmp_path: Path, what: str) -> None:
    """A process under a mount of another boot id counts no boot, whatever it does."""
    code = f"import fastipam\nwith fastipam.open({str(path)!r}) as ipam:\n    {ALLOCATE}"
    command = {
        "list": (*COMMAND, "list", "--data-dir", str(path)),
        "sweep": (*COMMAND, "sweep", "--grace", "0", "--data-dir", str(path)),
        "allocate": (sys.executable, "-c", code),
    }[what]
    for _ in range(2):
        run(*covered(tmp_path, *command))
        if what == "allocate":
            break
    assert owners(path)[:3] == ["a", "b", "c"]


def test_reading_counts_no_boot(tmp_path: Path) -> None:
    """After a real reboot a command that reads leaves the store as it is, and shows no owner."""
    with open_with(tmp_path / "store", "relaxed", boot_id=lambda: "before") as ipam:
        ipam.network("n", "10.5.0.0/29").allocate("a")
        before = ipam.store.boot
    for command in (("stats",), ("show", "10.5.0.2"), ("check",), ("history",), ("map",)):
        run(*COMMAND, *command, "--data-dir", str(tmp_path / "store"))
    assert owners(tmp_path / "store") == []
    with open_with(tmp_path / "store", boot_id=lambda: "before") as ipam:
        assert ipam.store.boot == before
        assert len(list(ipam.network("n").leases())) == 1
    with fastipam.open(tmp_path / "store") as ipam:
        assert ipam.store.boot == before + 1


def test_process_in_a_container_of_the_node(path: Path) -> None:
    """A pid namespace of its own makes no process count a boot on a node that is no container."""
    assert embed(path, ALLOCATE, *CONTAINER) == "1 \n"
    plugin(path, "plugged", prefix=CONTAINER)
    assert owners(path) == ["a", "b", "c", "more", "plugged"]


def test_node_that_is_a_container(tmp_path: Path) -> None:
    """When the container that is the node starts again, its leases are of an earlier boot."""
    path = tmp_path / "store"
    plugin(path, "a", "b", "c", "d", "e", prefix=CONTAINER)
    assert owners(path) == ["a", "b", "c", "d", "e"]
    plugin(path, "f", "g", prefix=CONTAINER)
    assert owners(path) == ["f", "g"]


def test_container_in_a_node_that_is_a_container(tmp_path: Path) -> None:
    """A process in a pid namespace of its own inside such a node keeps the leases, and says so."""
    path = tmp_path / "store"
    inside = f"import fastipam\nwith fastipam.open({str(path)!r}) as ipam:\n    {ALLOCATE}"
    # LMDB refuses two processes with one number, and each would be the first of its namespace.
    script = f"{shlex.join((sys.executable, '-c', inside))}; exit $?"
    code = (
        PLUGIN % (path, "a b", "/none")
        + "import subprocess, sys\n"
        + f"command = {[*CONTAINER, 'sh', '-c', script]!r}\n"
        + "variables = {k: v for k, v in os.environ.items() if k != 'CNI_COMMAND'}\n"
        + "print(subprocess.run(command, env=variables, capture_output=True, text=True))\n"
    )
    answer = run(*CONTAINER, sys.executable, "-c", code, CNI_COMMAND="ADD")
    assert "1 this process runs in a pid namespace that the store does not know" in answer
    assert owners(path) == ["a", "b", "more"]


def test_agent_in_a_node_that_is_a_container(tmp_path: Path, launcher_only: Path) -> None:
    """An agent waits for the first plugin of its runtime, which shows that the node is another."""
    path = tmp_path / "store"
    agent = shlex.join(
        (*COMMAND, "agent", "--socket", str(tmp_path / "s"), "--data-dir", str(path))
    )
    config = (
        '{"cniVersion":"1.1.0","name":"n","ipam":{"type":"fastipam","cooldown":0,'
        f'"dataDir":"{path}","subnet":"10.5.0.0/29"}}}}'
    )
    script = (
        f"{agent} & for i in $(seq 200); do [ -S {tmp_path}/s ] && break; sleep .05; done; "
        "for name in $NAMES; do "
        f"echo '{config}' | FASTIPAM_SOCKET={tmp_path}/s CNI_COMMAND=ADD CNI_CONTAINERID=$name "
        f"CNI_IFNAME=eth0 CNI_PATH=/ CNI_NETNS=/none {launcher_only}; done; kill $!; wait"
    )
    for names in ("a b c d e", "f g"):
        answer = run(*CONTAINER, "sh", "-c", script, NAMES=names)
        assert answer.count('"ips"') == len(names.split()), answer
        assert owners(path) == names.split()


def test_living_containers_outlive_their_runtime(tmp_path: Path) -> None:
    """A plugin in a new pid namespace counts no boot as long as a lease's namespace is there."""
    path, name = tmp_path / "store", f"fastipam-boot-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        plugin(path, "a", prefix=CONTAINER, netns=f"/run/netns/{name}")
        plugin(path, "b", prefix=CONTAINER)
        assert owners(path) == ["a", "b"]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    plugin(path, "c", prefix=CONTAINER)
    assert owners(path) == ["c"]


def test_time_namespace(path: Path) -> None:
    """The clock that nobody sets is the same in every time namespace."""
    own = boot.boottime_ns()
    there = run(
        *("unshare", "-T", "--boottime", "100000", "--fork", sys.executable, "-c"),
        "from fastipam.storage import boot; print(boot.boottime_ns())",
    )
    assert own < int(there) < boot.boottime_ns()
    assert path.exists()


def test_gc_by_an_agent_of_another_time_namespace(tmp_path: Path, launcher_only: Path) -> None:
    """An agent whose clocks are ahead of the launcher's knows how old a lease is all the same."""
    path, config = tmp_path / "store", tmp_path / "config"
    options = ("--socket", str(tmp_path / "s"), "--data-dir", str(path))
    agent = shlex.join((*COMMAND, "agent", *options))
    config.write_text(
        '{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[],'
        f'"ipam":{{"type":"fastipam","dataDir":"{path}","subnet":"10.5.0.0/29"}}}}'
    )
    script = (
        f"unshare -T --monotonic 100000 --boottime 100000 --fork --kill-child {agent} & "
        f"for i in $(seq 200); do [ -S {tmp_path}/s ] && break; sleep .05; done; "
        f"export FASTIPAM_SOCKET={tmp_path}/s CNI_PATH=/ CNI_NETNS=/none CNI_IFNAME=eth0; "
        f"CNI_COMMAND=ADD CNI_CONTAINERID=a {launcher_only} < {config}; "
        f"CNI_COMMAND=GC {launcher_only} < {config}; kill -KILL $!; wait"
    )
    answer = run("sh", "-c", script)
    assert answer.count('"ips"') == 1, answer
    assert owners(path) == []
