"""Containers whose runtime dies before the DEL, with real network namespaces and the real plugin.

Every third of two hundred loses its namespace and gets no DEL; some of the names are taken by new
containers. After one grace time the addresses of the lost are back, and nobody else's.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import fastipam
from fastipam.ipam import open_with
from fastipam.sweep import sweep
from fastipam.verify import verify

from ..agent.processes import until
from ..cni.plugin import Make, Plugin
from ..e2e import tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..agent.conftest import Start

pytestmark = pytest.mark.campaign

CONTAINERS = 200
_MOST_LOWER = 1000  # namespaces that are made to take what is free
DIRECT_EVERY = 20  # containers; the others go through the agent
GRACE_S = 60.0


def _ip(lines: list[str]) -> None:
    """Run many ``ip`` commands at once."""
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(
        ["ip", "-batch", "-"], input=text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def _namespaces() -> Iterator[list[str]]:
    """The names of new network namespaces, removed at the end."""
    prefix = f"fastipam-leak-{uuid4().hex[:8]}"
    names = [f"{prefix}-{at}" for at in range(CONTAINERS)]
    try:
        _ip([f"netns add {name}" for name in names])
        yield names
    finally:
        every = [*names, *(f"{name}-new" for name in names)]
        _ip([f"netns delete {name}" for name in every if Path("/run/netns", name).exists()])


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Real ones."""
    tools.require_root()
    with _namespaces() as names:
        yield names


class Node:
    """What a runtime knows: the container in each namespace, and its address."""

    def __init__(self, through: Plugin, direct: Plugin, made: dict[str, object]) -> None:
        self._ways = through, direct
        self._config = made
        self.told: dict[str, str] = {}

    def add(self, at: int, name: str, container: str) -> None:
        """ADD, one way or the other."""
        way = self._ways[at % DIRECT_EVERY == 0]
        answer = way("ADD", self._config, container, netns=f"/run/netns/{name}")
        assert answer.status == 0, answer
        self.told[container] = answer.addresses[0].partition("/")[0]

    def lose(self, names: list[str]) -> set[str]:
        """Every third namespace goes; new containers take some of the names. Who is lost."""
        lost = range(0, len(names), 3)
        again = lost[::6]
        # Made while the old ones are there: the kernel gives an inode that is free to the next.
        _ip([f"netns add {names[at]}-new" for at in again])
        _ip([f"netns delete {names[at]}" for at in lost])
        for at in again:
            path = Path("/run/netns", names[at])
            path.touch()
            subprocess.run(["mount", "--bind", f"{path}-new", path], check=True)
        _ip([f"netns delete {names[at]}-new" for at in again])
        for at in again:
            self.add(at, names[at], f"again{at}")
        return {f"c{at}" for at in lost}


def _owners(ipam: fastipam.Ipam) -> dict[str, str]:
    """Owner -> address."""
    leases = ipam.network("mynet").leases()
    return {lease.container_id: str(lease.address.ip) for lease in leases}


@pytest.fixture
def node(start: Start, plugin: Plugin, launcher_only: Path, config: Make) -> Node:
    """A node whose agent does not sweep by itself."""
    agent = start("--sweep-interval", "0")
    made = config(ipam={"subnet": "10.1.0.0/23", "cooldown": 0})
    return Node(Plugin(launcher_only, agent.path), plugin, made)


def test_sweep(node: Node, namespaces: list[str], tmp_path: Path) -> None:
    """Two looks with the grace time between them: all of the lost are back, none of the living."""
    for at, name in enumerate(namespaces):
        node.add(at, name, f"c{at}")
    ahead_ns = 0
    with open_with(tmp_path / "store", clock=lambda: time.time_ns() + ahead_ns) as ipam:
        report = sweep(ipam, grace_s=GRACE_S)
        assert (report.looked, report.missing, report.released) == (CONTAINERS, [], [])
        lost = node.lose(namespaces)
        report = sweep(ipam, grace_s=GRACE_S)
        assert {lease.container_id for lease in report.missing} == lost
        assert report.released == [], "one look is not enough"
        ahead_ns = int((GRACE_S - 5) * 1e9)
        assert sweep(ipam, grace_s=GRACE_S).released == [], "the grace time is not over"
        ahead_ns = int((GRACE_S + 5) * 1e9)
        report = sweep(ipam, grace_s=GRACE_S)
        assert {lease.container_id for lease in report.released} == lost
        living = {owner: told for owner, told in node.told.items() if owner not in lost}
        assert _owners(ipam) == living
        states = ipam.network("mynet").stats().to_dict()
        assert states["assigned"] == len(living)
        assert states["assigned"] + states["free"] + states["cooling"] == states["size"]
        assert [str(finding) for finding in verify(ipam.store)] == []


@contextmanager
def _lower_taken(inode: int) -> Iterator[None]:
    """Have a namespace in every number below that is free: the kernel gives the lowest one."""
    made: list[str] = []
    try:
        while len(made) < _MOST_LOWER:
            made.append(f"fastipam-lower-{os.getpid()}-{len(made)}")
            _ip([f"netns add {made[-1]}"])
            if Path("/run/netns", made[-1]).stat().st_ino > inode:
                break
        yield
    finally:
        _ip([f"netns delete {each}" for each in made])


def _made_anew(name: str) -> bool:
    """Put another namespace in the place of one; whether the kernel has given it the same inode.

    The kernel frees those of a namespace a moment after its end, or later when many end.
    """
    path = Path("/run/netns", name)
    inode = path.stat().st_ino
    for at in range(8):
        _ip([f"netns delete {name}"])
        time.sleep(min(0.02 * 2**at, 0.3))
        _ip([f"netns add {name}"])
        if path.stat().st_ino == inode:
            return True
    return False  # somebody else has it


def test_inode_used_again(node: Node, namespaces: list[str], tmp_path: Path) -> None:
    """A lost container's address is back though a new namespace has its path and its inode."""
    ahead_ns = 0
    with open_with(tmp_path / "store", clock=lambda: time.time_ns() + ahead_ns) as ipam:
        lost = set()
        highest = max(Path("/run/netns", name).stat().st_ino for name in namespaces)
        with _lower_taken(highest):
            for at, name in enumerate(namespaces):  # other tests make namespaces, too
                node.add(at, name, f"c{at}")
                if _made_anew(name):
                    lost.add(f"c{at}")
                    node.add(at, name, f"again{at}")
                if at >= 9 and (lost or at >= 30):
                    break
        assert lost, "the kernel has given no inode again"
        missing = {lease.container_id for lease in sweep(ipam, grace_s=GRACE_S).missing}
        assert missing >= lost
        ahead_ns = int((GRACE_S + 5) * 1e9)
        released = {lease.container_id for lease in sweep(ipam, grace_s=GRACE_S).released}
        assert released == missing
        assert _owners(ipam).keys() == node.told.keys() - missing
        assert _owners(ipam).keys() >= {owner for owner in node.told if owner.startswith("again")}


def test_agent_sweeps(
    start: Start,
    plugin: Plugin,
    launcher_only: Path,
    config: Make,
    namespaces: list[str],
    tmp_path: Path,
) -> None:
    """The agent does it by itself, on its timer, while it serves."""
    agent = start("--sweep-interval", "0.2", "--grace", "0.5")
    made = config(ipam={"subnet": "10.1.0.0/23", "cooldown": 0})
    node = Node(Plugin(launcher_only, agent.path), plugin, made)
    few = namespaces[:60]
    for at, name in enumerate(few):
        node.add(at, name, f"c{at}")
    lost = node.lose(few)
    living = {owner: told for owner, told in node.told.items() if owner not in lost}
    with fastipam.open(tmp_path / "store") as ipam:
        until(lambda: _owners(ipam).keys().isdisjoint(lost), "the lost addresses are back")
        assert _owners(ipam) == living
