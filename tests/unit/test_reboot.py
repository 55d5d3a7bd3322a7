"""After a reboot: what an earlier boot has left is given back, a little at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.counting import counts

import fastipam
from fastipam import PoolExhausted
from fastipam._ledger import WriterLock
from fastipam.addressing.ranges import Pool
from fastipam.allocation import previous_boot
from fastipam.backup import backup, restore
from fastipam.errors import AddressInUse, DuplicateAllocation, StoreUnavailable
from fastipam.ipam import Ipam, open_with
from fastipam.lease import Requester
from fastipam.network import Network
from fastipam.repair import repair
from fastipam.storage import boot as boot_module
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys
from fastipam.storage.store import Store
from fastipam.sweep import finish_reboot
from fastipam.testing import Clock
from fastipam.verify import verify

from ..ids import NETWORK_ID, POOL_ID

POOL = "10.0.0.0/16"
Boot = Callable[[str], AbstractContextManager[Ipam]]


@pytest.fixture
def boot(data_dir: Path, clock: Clock) -> Boot:
    """Open the store in the boot of a name; it is consistent when that ends."""

    @contextmanager
    def begin(name: str) -> Iterator[Ipam]:
        with open_with(data_dir, "relaxed", clock=clock, boot_id=lambda: name) as ipam:
            yield ipam
            assert not verify(ipam.store)

    return begin


def test_same_boot(boot: Boot) -> None:
    """Closing and opening again is no reboot."""
    with boot("one") as ipam:
        lease = ipam.network("n", POOL).allocate("a")
    with boot("one") as ipam:
        assert ipam.network("n")._lookup((4, lease.value)) == lease
        assert not ipam.store.unswept


def test_reading_after_a_reboot(boot: Boot) -> None:
    """Nobody has an address that was assigned in an earlier boot."""
    with boot("one") as ipam:
        net = ipam.network("n", [POOL, "2001:db8::/64"])
        lease = net.allocate("a")
    with boot("two") as ipam:
        net = ipam.network("n")
        assert net._lookup((4, lease.value)) is None
        assert list(net.leases()) == []
        assert net._owned("a", "eth0") == []
        assert net.stats().assigned == 0
        assert [event.kind for event in net.history(lease.address)] == ["assigned", "rebooted"]
        assert not ipam.store.unswept


def test_opening_costs_nothing(boot: Boot) -> None:
    """Opening only counts the boot: the leases are given back by what comes after."""
    with boot("one") as ipam:
        ipam.network("n", POOL).allocate_many([(f"c{at}", "eth0") for at in range(3000)])
    with boot("two") as ipam:
        state = ipam.network("n")
        with ipam.store.read() as txn:
            assert tables.OWNERS.count(txn) == 3000
        state.allocate("new")
        with ipam.store.read() as txn:
            left = tables.OWNERS.count(txn)
        assert left == 3000 - previous_boot.BESIDE_A_CALL + 1


def test_many_calls_sweep_all(boot: Boot) -> None:
    """Allocations and releases give back everything of the earlier boot, and nothing of this."""
    with boot("one") as ipam:
        ipam.network("n", POOL).allocate_many([(f"c{at}", "eth0") for at in range(1000)])
    with boot("two") as ipam:
        net = ipam.network("n", cooldown_s=0)
        mine = {net.allocate(f"new{at}").value for at in range(100)}
        assert net.stats().assigned == 100
        assert {lease.value for lease in net.leases()} == mine


def test_interrupted_sweep_goes_on(boot: Boot) -> None:
    """How far the search has come is stored; a third boot begins it anew."""
    with boot("one") as ipam:
        ipam.network("n", POOL).allocate_many([(f"c{at}", "eth0") for at in range(200)])
    with boot("two") as ipam:
        ipam.network("n").allocate("two")
    with boot("three") as ipam:
        assert finish_reboot(ipam) >= 1
        net = ipam.network("n")
        assert net.stats().assigned == 0
        assert finish_reboot(ipam) == 0


def test_same_container_after_a_reboot(boot: Boot) -> None:
    """A container that comes back under its old id is no duplicate of itself."""
    with boot("one") as ipam:
        net = ipam.network("n", POOL)
        net.allocate_many([(f"c{at}", "eth0") for at in range(2000)])
    with boot("two") as ipam:
        net = ipam.network("n")
        with ipam.transaction() as txn:  # not swept by a look before
            lease = txn.network("n").allocate("c1999", existing="return")
        assert lease.record.boot == ipam.store.boot
        with pytest.raises(DuplicateAllocation):
            net.allocate("c1999")
    with boot("three") as ipam:
        net = ipam.network("n")
        assert len(net.allocate_many([("c1999", "eth0"), ("c1998", "eth0")])) == 2


def test_requested_address_of_an_earlier_boot(boot: Boot) -> None:
    """Whoever asks for an address that a container of an earlier boot had gets it."""
    with boot("one") as ipam:
        net = ipam.network("n", POOL)
        leases = net.allocate_many([(f"c{at}", "eth0") for at in range(500)])
    with boot("two") as ipam:
        net = ipam.network("n")
        assert net.allocate("new", addresses=[leases[-1].address]).value == leases[-1].value
        with pytest.raises(AddressInUse, match="assigned to new"):
            net.allocate("newer", addresses=[leases[-1].address])


@pytest.mark.parametrize("reserved", [False, True])
def test_what_becomes_of_the_holder_of_an_earlier_boot(reserved: bool, boot: Boot) -> None:
    """His lease ended by the reboot; if the address is kept for who asks for it, he gets it."""
    with boot("one") as ipam:
        net = ipam.network("n", POOL)
        address = net.allocate_many([(f"c{at}", "eth0") for at in range(500)])[-1].address.ip
        if reserved:
            net.reserve(str(address), owner="new")
    with boot("two") as ipam:
        net = ipam.network("n")
        assert net.allocate("new", addresses=[address]).address.ip == address
        kinds = [event.kind for event in net.history(address)]
        assert kinds == ["assigned", *["reserved"] * reserved, "rebooted", "assigned"]


def test_full_pool_after_a_reboot(boot: Boot) -> None:
    """A pool that an earlier boot has filled serves this one from the first call on."""
    pool = [["10.0.0.0/22"], ["10.1.0.0/29"]]  # the second one is behind the first in the search
    with boot("one") as ipam:
        net = ipam.network("n", ["10.0.0.0/21"])
        net.allocate_many([(f"c{at}", "eth0") for at in range(2000)])
        other = ipam.network("two", pool)
        for at in range(5):
            other.allocate(f"c{at}")
    with boot("two") as ipam:
        other = ipam.network("two")
        for at in range(5):
            other.allocate(f"new{at}")
        with pytest.raises(PoolExhausted):
            other.allocate("new5")


def test_cooldown_after_a_reboot(boot: Boot, clock: Clock) -> None:
    """The cool-down outlives a restart and a reboot, also that of leases which ended by it."""
    with boot("one") as ipam:
        net = ipam.network("n", "10.0.0.0/29", cooldown_s=30)
        held = net.allocate("held")
        net.allocate("freed")
        net.release("freed")
    with boot("two") as ipam:
        net = ipam.network("n", cooldown_s=30, cooldown_policy="strict")
        for at in range(3):
            net.allocate(f"c{at}")
        with pytest.raises(PoolExhausted) as caught:
            net.allocate("late")
        assert caught.value.retry_after_s == 30
        clock.advance(30)
        assert net.allocate("late").value == held.value


def test_reservations_stay(boot: Boot) -> None:
    """A reservation outlives a boot, and so does an address that is kept for its pod."""
    with boot("one") as ipam:
        net = ipam.network("n", POOL, sticky_s=600)
        net.reserve("10.0.0.77", reason="printer")
        lease = net.allocate("a", pod=("ns", "db-0"))
    with boot("two") as ipam:
        net = ipam.network("n")
        assert counts(net) | {"size": 0, "free": 0} == {
            "size": 0,
            "assigned": 0,
            "cooling": 0,
            "reserved": 2,
            "free": 0,
        }
        assert net.allocate("b", pod=("ns", "db-0")).value == lease.value


@pytest.mark.parametrize("kept", ["sticky", "reserved"])
def test_what_is_kept_for_a_pod_is_found_among_many(boot: Boot, kept: str) -> None:
    """A pod gets its address again, however many leases an earlier boot has left before it."""
    sticky_s = 600 if kept == "sticky" else None
    with boot("one") as ipam:
        net = ipam.network("n", POOL, sticky_s=sticky_s)
        net.allocate_many([(f"c{at}", "eth0") for at in range(3 * previous_boot.BATCH)])
        mine = net.allocate("mine", pod=("ns", "db-0"))
        if kept == "reserved":
            net.reserve(str(mine.address.ip), owner="ns/db-0")
    with boot("two") as ipam:
        net = ipam.network("n", POOL, sticky_s=sticky_s)
        assert net.allocate("other", pod=("ns", "db-1")).value != mine.value
        assert net.allocate("new", pod=("ns", "db-0")).value == mine.value


def test_store_restored_by_another_process(boot: Boot, tmp_path: Path) -> None:
    """Who has the store open learns nothing of a restore, and yet serves a full pool at once."""
    with boot("one") as ipam:
        net = ipam.network("n", "10.0.0.0/22")
        net.allocate_many([(f"c{at}", "eth0") for at in range(1021)])
        backup(ipam.store, tmp_path / "backup")
    with boot("two") as ipam:
        net = ipam.network("n")
        while net._sweep_reboot():
            pass
        many = [(f"new{at}", "eth0") for at in range(100)]
        for way in ("exhausted", "allocate", "allocate_many"):
            restore(ipam.store, tmp_path / "backup", replace=True)
            ipam.store.unswept = False  # as it is in a process that did not restore
            strict = ipam.network("n", cooldown_s=0)
            if way == "exhausted":
                assert strict._exhausted() is None
            elif way == "allocate":
                strict.allocate("new", addresses=["10.0.0.2"])
                strict.allocate("newer")
            else:
                assert len(strict.allocate_many(many)) == 100


def test_import_for_a_container_of_an_earlier_boot(boot: Boot, clock: Clock) -> None:
    """What is imported is of this boot, and stays when the rest of the owner's is given back."""
    with boot("one") as ipam:
        net = ipam.network("n", POOL)
        net.allocate_many([(f"c{at}", "eth0") for at in range(100)])
    with boot("two") as ipam:
        net = ipam.network("n")
        assert net._adopt(Requester("c99", "eth0"), 4, 0x0A000909, clock.now_ns)
        assert net._adopt(Requester("c50", "eth0"), 4, 0x0A000002 + 50, clock.now_ns)
        finish_reboot(ipam)
        assert [lease.container_id for lease in net.leases()] == ["c50", "c99"]


def test_damaged_lease_of_an_earlier_boot(data_dir: Path, clock: Clock) -> None:
    """It keeps nobody from being served, and its address from everybody, until it is repaired."""
    with open_with(data_dir, "relaxed", clock=clock, boot_id=lambda: "one") as ipam:
        net = ipam.network("n", "10.0.0.0/28")
        for at in range(4):
            net.allocate(f"c{at}")
        astray = keys.owner_key(keys.id_prefix(NETWORK_ID), keys.owner_name("c1", "eth0"))
        unreadable = keys.address_key(POOL_ID, 4, 0x0A000004)
        with ipam.store.write() as txn:
            tables.OWNERS.delete(txn, astray)
            raw = tables.LEASES.get(txn, unreadable) or b""
            tables.LEASES.put(txn, unreadable, raw[:6])
    with open_with(data_dir, "relaxed", clock=clock, boot_id=lambda: "two") as ipam:
        net = ipam.network("n", "10.0.0.0/28")
        with pytest.raises(AddressInUse, match="assigned to c1"):
            net.allocate("new", addresses=["10.0.0.3"])
        net.allocate("new")
        net.release("new")
        assert net.stats().assigned == 2
        finish_reboot(ipam)
        repair(ipam.store)
        assert not verify(ipam.store)
        assert net.lookup("10.0.0.3") is not None, "it may be there: the sweeper finds out"


def test_boot_that_cannot_be_told(boot: Boot, data_dir: Path, clock: Clock) -> None:
    """A process that does not see the boot's id is refused: it would end all leases of the node."""
    with boot("one") as ipam:
        lease = ipam.network("n", POOL).allocate("a")
    with pytest.raises(StoreUnavailable, match="cannot read /proc") as caught:
        open_with(data_dir, clock=clock, boot_id=lambda: "")
    assert "ProcSubset" in str(caught.value.hint)
    with boot("one") as ipam:
        assert ipam.network("n")._lookup((4, lease.value)) == lease


def test_boot_that_nobody_knows(boot: Boot) -> None:
    """Where there are no boot ids a store serves all the same, and takes the first that comes."""
    with boot("") as ipam:
        lease = ipam.network("n", POOL).allocate("a")
    for name in ("", "one"):
        with boot(name) as ipam:
            assert ipam.network("n")._lookup((4, lease.value)) == lease
    with boot("two") as ipam:
        assert ipam.network("n")._lookup((4, lease.value)) is None


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_unreadable_boot_id(
    content: str | None, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A /proc without the file, or with nothing in it, is no boot of its own."""
    fastipam.open(data_dir).close()
    if content is not None:
        (tmp_path / "boot_id").write_text(content)
    monkeypatch.setattr(boot_module, "BOOT_ID", str(tmp_path / "boot_id"))
    with pytest.raises(StoreUnavailable, match="cannot read"):
        fastipam.open(data_dir)


def test_networks_one_after_the_other(boot: Boot) -> None:
    """Each network's leases are given back, whatever comes behind them in the store."""
    names = ("one", "two", "three")
    with boot("one") as ipam:
        for name in names:
            ipam.network(name, POOL).allocate_many([(f"c{at}", "eth0") for at in range(40)])
    with boot("two") as ipam:
        for name in names:
            ipam.network(name).allocate("new")
            ipam.network(name).allocate("newer")
        assert [ipam.network(name).stats().assigned for name in names] == [2, 2, 2]
        assert not ipam.store.unswept


def test_where_the_search_goes_on(boot: Boot) -> None:
    """The next step begins at the lease that the limit spared, also at address 0; then it ends."""
    # No configuration can have the address 0, but a store of an earlier version may have it.
    pool = Pool.read("10.0.0.0/24 10.0.0.1 10.0.0.254 10.0.0.1\n::/64 :: ::ffff ::1")
    with boot("one") as ipam:
        net = Network(ipam.store, "n", pool)
        net.allocate_many([(f"c{at}", "eth0") for at in range(3)])
    with boot("two") as ipam:
        net = ipam.network("n")
        found = []
        for _ in range(2):
            assert sweep_some(net, 3)
            with ipam.store.read() as txn:
                state = txn.pool_state(POOL_ID)
            found.append((state.sweep, state.swept == ipam.store.boot))
        assert found == [((6, 0), False), ((0, 0), True)]
        assert not sweep_some(net, 3)


def sweep_some(net: Network, limit: int) -> bool:
    """Look at up to ``limit`` leases for those of an earlier boot; False: none is left."""
    with net.store.write() as txn:
        ledger = net._books(txn)
        assert ledger is not None
        before = ledger.state.swept
        previous_boot.step(ledger, limit)
        ledger.save()
        return before != net.store.boot


def test_progress_of_the_search(boot: Boot) -> None:
    """How many leases were looked at, about, over all networks."""
    with boot("one") as ipam:
        for name in ("one", "two"):
            ipam.network(name, POOL).allocate("a")
    with boot("two") as ipam:
        steps: list[int] = []
        assert finish_reboot(ipam, steps.append) == 2 * previous_boot.BATCH
        assert steps == [previous_boot.BATCH, 2 * previous_boot.BATCH]
        assert finish_reboot(ipam, steps.append) == 0
        assert len(steps) == 2


def test_adopting_what_an_earlier_boot_had(boot: Boot) -> None:
    """A lease of an earlier boot is none: what is taken over for its owner is a lease of this."""
    owner = Requester("a", "eth0")
    with boot("one") as ipam:
        ipam.network("n", POOL)._adopt(owner, 4, 0x0A000005, 1)
    with boot("two") as ipam:
        net = ipam.network("n")
        assert net._adopt(owner, 4, 0x0A000005, 1)
        assert not net._adopt(owner, 4, 0x0A000005, 1)
        assert [lease.cidr for lease in net.leases()] == ["10.0.0.5/16"]


def test_the_inode_of_a_runtimes_pid_namespace_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process whose pid namespace has the inode of a runtime's that has ended sees no node."""
    monkeypatch.setattr(boot_module, "read_node", lambda: "4026532200:50")
    assert boot_module.runtime_pid_ns(b"4026532300:9 4026532200:50:r") == {4026532200}
    assert boot_module.runtime_pid_ns(b"4026532300:9 4026532200:49:r") == frozenset()
    assert boot_module.runtime_pid_ns(b"4026532200:50") == frozenset()


@pytest.mark.parametrize(
    "seen", ["while the boot is recorded", "before it is kept", "later", "while a doubt is settled"]
)
def test_a_plugin_is_seen_while_the_store_is_opened(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """Whenever an agent sees a plugin, its store records that a runtime runs beside it."""
    monkeypatch.delenv("CNI_COMMAND", raising=False)
    monkeypatch.setattr(boot_module, "saw_plugin", False)
    open_it = open_stores._open
    recording = "while the boot is recorded"

    def see(moment: str) -> None:
        if moment == seen:
            boot_module.saw_plugin = True
            for store in open_stores.all_open():
                store.note_plugin()

    def read_node() -> str:
        see(recording)
        return "4026532200:50"

    def open_and_see(*given: Any) -> Store:
        store = open_it(*given)
        see("before it is kept")
        return store

    monkeypatch.setattr(boot_module, "read_node", read_node)
    monkeypatch.setattr(open_stores, "_open", open_and_see)
    store = open_stores.get(str(data_dir), None)
    try:
        see("later")
        recording = "while a doubt is settled"
        store.boot_doubt = boot_module.UNCOUNTED
        net = Network(store, "n", Pool.read("10.0.0.0/24 10.0.0.1 10.0.0.254 10.0.0.1"))
        for name in "abc":
            net.allocate(name)
        assert store.runtime_pid_ns() == {4026532200}
        assert store.boot_doubt == ""
    finally:
        open_stores.close_all()


def test_a_reader_waits_for_no_writer(boot: Boot, data_dir: Path) -> None:
    """While another has the lock, a reader does not wait, and releases nothing of before."""
    with boot("one") as ipam:
        ipam.network("n", POOL).allocate("old")
    with boot("two") as ipam:
        net = ipam.network("n")
        with WriterLock(str(data_dir / "data.mdb")):
            began = time.monotonic()
            assert list(net.leases()) == []
            assert net.get("old") is None
            assert time.monotonic() - began < 4, "it waited for the writer"
            assert net.stats().assigned == 1
        assert list(net.leases()) == []
        assert net.stats().assigned == 0
