"""What the agent does between requests, slice by slice, and in a real agent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam import sweep
from fastipam._ledger import WriterLock
from fastipam.agent import housekeeping
from fastipam.agent.housekeeping import Housekeeping
from fastipam.allocation import removal
from fastipam.ipam import open_with
from fastipam.namespaces import Netns, mount_namespace
from fastipam.network import Network
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys
from fastipam.storage.store import Store
from fastipam.sweep import Report
from fastipam.testing import Clock

from ..ids import POOL_ID

POOL = "10.0.0.0/16"


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def net(data_dir: Path) -> Iterator[Network]:
    """A network of a store that requests have named."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("n", POOL)
        net.allocate("first")
        open_stores.get(str(data_dir), None)
        yield net
        open_stores.close_all()


def round_of(chores: Housekeeping) -> int:
    """One round to its end; how many slices it took."""
    slices = 0
    while chores.wait_s() == 0.0:
        chores.step()
        slices += 1
    return slices


def test_round_by_round(net: Network, data_dir: Path, tmp_path: Path, clock: Seconds) -> None:
    """Between two rounds there is the interval; the second one gives back what the first noted."""
    gone = tmp_path / "gone"
    for at in range(600):
        net.allocate(f"c{at}", netns=Netns(str(gone), inode=1, mount_ns=mount_namespace()))
    chores = Housekeeping(str(data_dir), interval_s=10, grace_s=0, clock=clock)
    assert round_of(chores) > 3
    assert net.stats().assigned == 601
    assert chores.wait_s() == 10.0
    chores.step()  # it is not time
    clock.now = 4.0
    assert chores.wait_s() == 6.0
    clock.now = 10.0
    assert round_of(chores) > 3
    assert [lease.container_id for lease in net.leases()] == ["first"]


def test_reboot(data_dir: Path, clock: Seconds) -> None:
    """The leases of an earlier boot are given back before anybody asks."""
    with open_with(data_dir, "relaxed", boot_id=lambda: "before") as ipam:
        ipam.network("n", POOL).allocate_many([(f"c{at}", "eth0") for at in range(3000)])
    chores = Housekeeping(str(data_dir), clock=clock)
    try:
        assert round_of(chores) > 2
        with fastipam.open(data_dir) as ipam:
            assert not ipam.store.unswept
            assert ipam.network("n").stats().assigned == 0
    finally:
        open_stores.close_all()


def test_cooled_down(data_dir: Path, clock: Seconds) -> None:
    """On a node without requests, too, an address is free when its cool-down is over."""
    wall = Clock()
    with open_with(data_dir, "relaxed", clock=wall) as ipam:
        net = ipam.network("n", POOL, cooldown_s=30)
        for lease in net.allocate_many([(f"c{at}", "eth0") for at in range(600)]):
            net.release(lease.container_id)
        chores = Housekeeping(str(data_dir), interval_s=10, clock=clock)
        try:
            round_of(chores)
            assert net.stats().cooling == 600
            wall.advance(31)
            clock.now = 10.0
            assert round_of(chores) > 2
            stats = net.stats().to_dict()
            assert (stats["cooling"], stats["free"]) == (0, stats["size"])
        finally:
            open_stores.close_all()


def test_damage_stops_nothing_else(
    net: Network, data_dir: Path, tmp_path: Path, clock: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a lease that cannot be read nor such a network keeps the rest from being swept."""
    gone = Netns(str(tmp_path / "gone"), inode=1, mount_ns=mount_namespace())
    with fastipam.open(data_dir) as ipam:
        other, damaged = ipam.network("o", POOL), ipam.network("a", POOL)
        for each in (net, other, damaged):
            each.allocate("c1", netns=gone)
        with ipam.store.write() as txn:
            first = keys.address_key(POOL_ID, 4, 0x0A000002)
            tables.LEASES.put(txn, first, b"?")
            tables.NETWORKS.put(txn, b"a", b"\4\0\0\3?")
        no_store = tmp_path / "other"
        no_store.mkdir()
        (no_store / "data.mdb").write_bytes(b"something else" * 1000)
        chores = Housekeeping(str(data_dir), interval_s=10, grace_s=0, clock=clock)
        with caplog.at_level(logging.WARNING):
            round_of(Housekeeping(str(no_store), clock=clock))
            round_of(chores)
            clock.now = 10.0
            round_of(chores)
        assert "network a in" in caplog.text
        assert str(no_store) in caplog.text
        assert other.stats().assigned == 0
        assert net.stats().assigned == 1, "that of the damaged lease"


def test_never(clock: Seconds) -> None:
    """With an interval of 0 nothing is done, and nothing is waited for."""
    chores = Housekeeping("/nonexistent", interval_s=0, clock=clock)
    assert chores.wait_s() is None
    chores.step()


def test_fault(
    net: Network,
    data_dir: Path,
    clock: Seconds,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A store that fails is told of once, and tried again in the next round."""
    assert net.stats().assigned == 1

    def fail(_: object) -> None:
        raise fastipam.StoreError("broken")

    monkeypatch.setattr("fastipam.sweep.Sweeper.__iter__", fail)
    chores = Housekeeping(str(data_dir), interval_s=10, clock=clock)
    with caplog.at_level(logging.WARNING):
        assert round_of(chores) == 2
    assert "broken" in caplog.text
    assert chores.wait_s() == 10.0


def test_thousands_of_networks(
    data_dir: Path, clock: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice looks at two networks at most, however many there are: a request waits for one."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        with ipam.transaction() as txn:
            for number in range(2000):
                txn.network(f"n{number}", "10.0.0.0/24").allocate("c1")
        begun = []
        whole = sweep.give_back

        def give_back(store: Store, network: Network, **options: Any) -> Iterator[Report]:
            begun.append(network.name)
            return whole(store, network, **options)

        monkeypatch.setattr(housekeeping, "give_back", give_back)
        chores = Housekeeping(str(data_dir), interval_s=10, grace_s=0, clock=clock)
        try:
            while chores.wait_s() == 0.0:
                before = len(begun)
                chores.step()
                assert len(begun) <= before + 2
        finally:
            open_stores.close_all()
    assert sorted(begun) == sorted(f"n{number}" for number in range(2000))


def test_a_store_that_is_held_at_the_start(
    net: Network, data_dir: Path, clock: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is not open yet is not opened while another has its lock: nobody waits twice."""
    monkeypatch.setattr(clock, "now", 1.0)
    assert net.stats().assigned == 1
    open_stores.close_all()
    chores = Housekeeping(str(data_dir), interval_s=10, grace_s=0, clock=clock)
    with WriterLock(str(data_dir / "data.mdb")):
        for _ in range(3):
            chores.step()
            wait_s = chores.wait_s()
            assert wait_s
            clock.now += wait_s
        assert not open_stores.is_open(str(data_dir))
    assert round_of(chores) >= 2
    assert open_stores.is_open(str(data_dir))


def test_a_store_that_is_held(
    net: Network, data_dir: Path, clock: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another writer has the lock nothing is done: requests do not wait for the sweep."""
    monkeypatch.setattr(clock, "now", 1.0)
    assert net.stats().assigned == 1
    chores = Housekeeping(str(data_dir), interval_s=10, grace_s=0, clock=clock)
    chores.step()
    released = threading.Event()
    taken = threading.Event()

    def hold() -> None:
        with fastipam.open(data_dir) as ipam, ipam.store.write():
            taken.set()
            assert released.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(20)
    for _ in range(5):
        chores.step()
        wait_s = chores.wait_s()
        assert wait_s
        clock.now += wait_s
    released.set()
    holder.join()
    assert chores.wait_s() == 0.0
    assert round_of(chores) >= 2
    assert chores.wait_s() == 10.0


def test_forgotten_network(data_dir: Path) -> None:
    """A network without addresses goes a month after its last event, others stay."""
    wall = Clock()
    with open_with(data_dir, "relaxed", clock=wall) as ipam:
        for name in ("empty", "kept", "used"):
            ipam.network(name, POOL).allocate("c")
        ipam.network("kept").reserve("10.0.0.9")
        for name in ("empty", "kept"):
            ipam.network(name).release("c")
        store = open_stores.open_store(data_dir, "relaxed", clock=wall)
        wall.advance(29 * 86_400)
        for name, left in (("empty", 3), ("kept", 3)):
            assert not removal.remove_if_idle(store, name, wall() - housekeeping.FORGOTTEN_NS)
            assert len(ipam.networks()) == left
        wall.advance(2 * 86_400)
        for name in ipam.networks():
            removal.remove_if_idle(store, name, wall() - housekeeping.FORGOTTEN_NS)
        assert ipam.networks() == ["kept", "used"]
        open_stores.close_store(store)


def test_forgotten_in_a_round(
    net: Network, data_dir: Path, clock: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round removes it, and sweeps the others."""
    monkeypatch.setattr(housekeeping, "FORGOTTEN_NS", -3600 * 10**9)
    with fastipam.open(data_dir) as ipam:
        ipam.network("empty", POOL, cooldown_s=0).allocate("c")
        ipam.network("empty").release("c")
        assert ipam.networks() == ["empty", "n"]
        round_of(Housekeeping(str(data_dir), clock=clock))
        assert ipam.networks() == ["n"]
    assert net.get("first") is not None
