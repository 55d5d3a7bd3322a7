"""What a sweep never releases: leases of living containers whose path does not lead to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import fastipam
from fastipam import processes
from fastipam.ipam import open_with
from fastipam.namespaces import Netns
from fastipam.sweep import Report, sweep

from ..agent.processes import until
from ..e2e import tools

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root makes namespaces; and each sweep searches for itself."""
    tools.require_root()
    monkeypatch.setattr(processes, "MAX_AGE_S", 0.0)


@pytest.fixture
def netns() -> Iterator[Path]:
    """A network namespace as a runtime mounts it."""
    name = f"fastipam-alive-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield Path("/run/netns", name)
    subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def running(*command: str) -> Iterator[int]:
    """A process that runs until the block ends; its number."""
    line = (*command, "sh", "-c", "echo ready; read line")
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.stdin.close()


def add(ipam: fastipam.Ipam, path: str, name: str = "a") -> None:
    """An address for what is at a path, as a program that embeds the library takes one."""
    net = ipam.network("n", "10.0.0.0/24")
    net.allocate(name, netns=Netns.of(path))


def twice(ipam: fastipam.Ipam) -> Report:
    """Two checks with no time between them."""
    sweep(ipam, grace_s=0)
    return sweep(ipam, grace_s=0)


EMBEDDER = """
import fastipam, subprocess, sys
path, there = sys.argv[1:]
with fastipam.open(path) as ipam:
    net = ipam.network("n", "10.0.0.0/24")
    lease = net.allocate("box", netns=fastipam.Netns.of(there), pod=fastipam.Pod("ns", "web", "u"))
    print(lease.address.ip, flush=True)
    sys.stdin.read()
"""


def test_an_embedder_that_died(ipam: fastipam.Ipam, netns: Path) -> None:
    """The lease of a killed program stays while its namespace lives, and is swept when it ended.

    The record is what the plugin writes for the same namespace.
    """
    path = str(ipam.path)
    program = [sys.executable, "-c", EMBEDDER, path, str(netns)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as embedder:
        assert embedder.stdout is not None
        address = embedder.stdout.readline().decode().strip()
        embedder.kill()
    status, answer = fastipam.cni.handle(
        {
            "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "plugin", "CNI_IFNAME": "eth0",
            "CNI_NETNS": str(netns), "CNI_PATH": "/opt/cni/bin",
        },
        json.dumps(
            {
                "cniVersion": "1.0.0", "name": "n", "type": "bridge",
                "ipam": {"type": "fastipam", "subnet": "10.0.0.0/24", "dataDir": path},
            }
        ).encode(),
    )  # fmt: skip
    assert status == 0, answer
    ours, theirs = ipam.network("n").get("box"), ipam.network("n").get("plugin")
    assert ours is not None
    assert theirs is not None
    assert (ours.netns, ours.inode, ours.mount_ns, ours.born_ns) == (
        theirs.netns, theirs.inode, theirs.mount_ns, theirs.born_ns,
    )  # fmt: skip
    assert min(ours.inode, ours.mount_ns, ours.born_ns) > 0
    assert ours.pod == fastipam.Pod("ns", "web", "u")
    assert twice(ipam).released == []
    subprocess.run(["ip", "netns", "delete", netns.name], check=True)
    released = {lease.container_id for lease in twice(ipam).released}
    assert released == {"box", "plugin"}
    assert address not in ipam.network("n")


def test_path_is_deleted(ipam: fastipam.Ipam, netns: Path) -> None:
    """A namespace whose path was deleted lives as long as a process runs in it."""
    add(ipam, str(netns))
    with running("nsenter", f"--net={netns}"):
        subprocess.run(["ip", "netns", "delete", netns.name], check=True)
        report = twice(ipam)
        assert report.released == []
        assert "still exists; process" in report.unknown[0][1]
    # The kernel frees a namespace some time after its last process.
    until(lambda: [lease.container_id for lease in twice(ipam).released] == ["a"], "it is released")


def test_first_process_has_ended(ipam: fastipam.Ipam) -> None:
    """With a path in /proc the first process may end, and another one live in the namespace."""
    with running("unshare", "-n") as first:
        add(ipam, f"/proc/{first}/ns/net")
        second = running("nsenter", f"--net=/proc/{first}/ns/net")
        second.__enter__()
    try:
        assert twice(ipam).released == []
    finally:
        second.__exit__(None, None, None)
    assert len(twice(ipam).released) == 1


def test_path_is_covered(ipam: fastipam.Ipam, netns: Path) -> None:
    """A sweep that sees another file system over the namespaces' directory releases nothing.

    Its mount namespace has the number that the lease notes: an inode is given again, and says
    nothing of a container that is started anew.
    """
    code = (
        "import fastipam, sys\n"
        "from fastipam import Netns\n"
        "from fastipam.namespaces import mount_namespace\n"
        "from fastipam.sweep import sweep\n"
        "with fastipam.open(sys.argv[1]) as ipam:\n"
        "    net = ipam.network('n', '10.0.0.0/24')\n"
        "    net.allocate('a', netns=Netns(sys.argv[2], inode=int(sys.argv[3]),\n"
        "                 born_ns=int(sys.argv[4]), mount_ns=mount_namespace()))\n"
        "    for _ in range(2):\n"
        "        report = sweep(ipam, grace_s=0)\n"
        "    print(len(report.released), len(report.unknown))\n"
    )
    status = os.stat(netns)
    with running("nsenter", f"--net={netns}"):
        numbers = str(status.st_ino), str(status.st_mtime_ns)
        arguments = (str(ipam.path), str(netns), *numbers)
        script = 'mount -t tmpfs none /run/netns && exec "$@"'
        private = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh")
        done = subprocess.run(
            [*private, sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "0 1\n", done.stderr


def test_grace_time_and_the_wall_clock(tmp_path: Path, netns: Path) -> None:
    """A wall clock that is set forward does not end the grace time; the clock of the boot does."""
    wall_s, boot_s = 1_800_000_000, 100
    with open_with(
        tmp_path / "clocks",
        "relaxed",
        clock=lambda: wall_s * 10**9,
        boottime=lambda: boot_s * 10**9,
    ) as ipam:
        add(ipam, str(netns))
        subprocess.run(["ip", "netns", "delete", netns.name], check=True)
        assert len(sweep(ipam).missing) == 1
        wall_s += 86_400
        assert len(sweep(ipam).missing) == 1
        boot_s += 60
        wall_s -= 2 * 86_400
        assert len(sweep(ipam).released) == 1
