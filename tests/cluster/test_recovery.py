"""A node that lost its store looks into its network namespaces before it assigns anything."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastipam import namespaces
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.node import recovery
from fastipam.errors import AddressInUse
from tests.cluster.memory import MemoryEngine
from tests.e2e.tools import require_root

from .nodes import Machine, assert_settled, init


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace with a dummy of a pod in it: addresses on its loopback."""
    require_root()
    name = f"fastipam-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for address in ("10.40.6.77/20", "192.0.2.9/24", "fd00::9/64"):
            _add_address(name, address)
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _add_address(namespace: str, address: str) -> None:
    command = ["ip", "-n", namespace, "address", "add", address, "dev", "lo"]
    subprocess.run(command, check=True)


def test_addresses_of_a_namespace(namespace: str) -> None:
    """Every address of both families is read, and this process stays where it is."""
    before = os.stat("/proc/self/ns/net").st_ino
    found = recovery.addresses_in(namespace)
    assert (4, 0x0A28064D) in found
    assert (6, (0xFD00 << 112) | 9) in found
    assert os.stat("/proc/self/ns/net").st_ino == before


def test_namespaces_are_found(namespace: str) -> None:
    """A mounted namespace is found by its file; this process's own is left out."""
    found = namespaces.find()
    assert os.stat(namespace).st_ino in found
    assert os.stat("/proc/self/ns/net").st_ino not in found


def test_lost_disk(namespace: str, tmp_path: Path) -> None:
    """The addresses of running pods are entered before the rest of a found block is assigned."""
    # Only this test has these: recovery sees the namespaces of tests that run beside it.
    for address in ("10.32.5.77/20", "10.32.5.78/20"):
        _add_address(Path(namespace).name, address)
    engine = MemoryEngine()
    init(engine)
    old = Machine(tmp_path / "1", "a", engine)
    node = old.joined()
    while (4, 0x0A200500) not in old.active():
        assert node.claim(node.settings.geometries[0], 1, Deadline(5))
    new = Machine(tmp_path / "2", "a", engine)
    node = new.node()
    found = node.join(Deadline(5), agent=True)
    assert sorted(found) == sorted(old.active())
    # A directory of its own: other tests delete namespaces in theirs meanwhile.
    (tmp_path / "netns").mkdir()
    (tmp_path / "netns" / "own").symlink_to(namespace)
    entered = recovery.recover(node, found, (str(tmp_path / "netns"),))
    assert {(4, 0x0A20054D), (4, 0x0A20054E)} <= set(entered)
    assert_settled(engine, new)
    lease = new.network.lookup("10.32.5.77")
    assert lease is not None
    assert lease.netns == str(tmp_path / "netns" / "own")
    with pytest.raises(AddressInUse):
        new.network.allocate("c1", addresses=["10.32.5.78"])
    count = new.network.stats()["free"]
    given = {new.network.allocate(f"p{number}").value for number in range(count)}
    assert not given & {0x0A20054D, 0x0A20054E}


def test_unreadable_namespace(tmp_path: Path) -> None:
    """A namespace that cannot be entered is an error, not an empty one."""
    (tmp_path / "no-namespace").touch()
    with pytest.raises(recovery.NamespacesUnreadable):
        recovery.addresses_in(str(tmp_path / "no-namespace"))
