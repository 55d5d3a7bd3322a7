"""What a sweep never releases: leases of living containers whose path does not lead to them."""

from __future__ import annotations

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
from fastipam.namespaces import Netns, look, mount_namespace
from fastipam.sweep import Report, sweep

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
    """An ADD for the namespace at a path."""
    _, inode, born_ns = look(path)
    here = mount_namespace()
    net = ipam.network("n", "10.0.0.0/24")
    net.allocate(name, netns=Netns(path, inode=inode, mount_ns=here, born_ns=born_ns))


def twice(ipam: fastipam.Ipam) -> Report:
    """Two checks with no time between them."""
    sweep(ipam, grace_s=0)
    return sweep(ipam, grace_s=0)


def test_path_is_deleted(ipam: fastipam.Ipam, netns: Path) -> None:
    """A namespace whose path was deleted lives as long as a process runs in it."""
    add(ipam, str(netns))
    with running("nsenter", f"--net={netns}"):
        subprocess.run(["ip", "netns", "delete", netns.name], check=True)
        report = twice(ipam)
        assert report.released == []
        assert "that lives; process" in report.unknown[0][1]
    assert [lease.container_id for lease in twice(ipam).released] == ["a"]


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
        "from fastipam.namespaces import mount_namespace\n"
        "from fastipam.sweep import sweep\n"
        "with fastipam.open(sys.argv[1]) as ipam:\n"
        "    net = ipam.network('n', '10.0.0.0/24')\n"
        "    net.allocate('a', netns=sys.argv[2], inode=int(sys.argv[3]),\n"
        "                 born_ns=int(sys.argv[4]), mount_ns=mount_namespace())\n"
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
