"""A damaged store gives no address a second owner, also before it is repaired."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import fastipam
from fastipam import errors
from fastipam.errors import StoreCorrupt
from fastipam.ipam import Ipam, open_with
from fastipam.network import Network
from fastipam.repair import repair
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.testing import Clock
from fastipam.verify import verify

from ..ids import NETWORK_ID, POOL_ID

POOL = "10.0.0.0/29"  # .2 to .6


def clear_all_bits(ipam: Ipam) -> None:
    """Every address looks free."""
    store = ipam.store
    with store.write() as txn:
        tables.PAGES.clear(txn)


def queue_all(ipam: Ipam) -> None:
    """Every address looks as if it had cooled since the beginning of time."""
    store = ipam.store
    with store.write() as txn:
        for key, _ in list(tables.LEASES.scan(txn)):
            pool_id, family, value = keys.read_address_key(key)
            queued = keys.cooldown_key(pool_id, 0, 1, family, value)
            tables.COOLDOWN.put(txn, queued, b"")


@pytest.mark.parametrize(
    "ask",
    [
        lambda net: net.allocate("new"),
        lambda net: net.allocate("new", addresses=["10.0.0.3"]),
        lambda net: net.allocate_many([("new", "eth0"), ("newer", "eth0")]),
    ],
    ids=["chosen", "requested", "many"],
)
@pytest.mark.parametrize("damage", [clear_all_bits, queue_all])
@pytest.mark.parametrize("cooling", [False, True])
def test_no_second_owner(
    tmp_path: Path,
    clock: Clock,
    damage: Callable[[Ipam], None],
    ask: Callable[[Network], object],
    cooling: bool,
) -> None:
    """What looks free and is not is refused or left alone; a repair brings service back."""
    with open_with(tmp_path / "store", clock=clock) as ipam:
        net = ipam.network("n", POOL, cooldown_s=30)
        held = {name: net.allocate(name).value for name in ("a", "b", "c", "d", "e")}
        if cooling:  # the pool is as full, and something may be taken early
            net.release("e")
            del held["e"]
        damage(ipam)
        with suppress(StoreCorrupt, fastipam.PoolExhausted, fastipam.AddressInUse):
            ask(net)
        for name, value in held.items():
            lease = net._lookup((4, value))
            assert lease is not None
            assert lease.container_id == name
        repair(ipam.store)
        assert not verify(ipam.store)
        assert {one.container_id: one.value for one in net.leases()}.items() >= held.items()
        gone = held.pop("a")
        net.release("a")
        again = net.allocate("again").value
        assert again not in held.values()
        assert cooling or again == gone
        assert not verify(ipam.store)


@pytest.mark.parametrize("cooling", [False, True])
def test_what_to_do(tmp_path: Path, clock: Clock, cooling: bool) -> None:
    """The refusal names the address, who has it or had it last, and the command that repairs."""
    with open_with(tmp_path / "store", clock=clock) as ipam:
        net = ipam.network("n", "10.0.0.2/32")
        net.allocate("a")
        if cooling:  # it is still queued: what would be taken now would be freed one day
            net.release("a")
        clear_all_bits(ipam)
        with pytest.raises(StoreCorrupt) as caught:
            net.allocate("b")
        error = caught.value
        assert error.message == (
            "10.0.0.2 is assigned to a eth0, but another record of the store says that it is free"
        )
        assert (error.path, error.hint) == (ipam.store.path, errors.CHECK_HINT)
        repair(ipam.store)


def test_entry_of_a_free_address(tmp_path: Path, clock: Clock) -> None:
    """An owner who is entered for an address that is free gets it by no call, alone or of many."""
    with open_with(tmp_path / "store", clock=clock) as ipam:
        net = ipam.network("n", POOL)
        net.allocate("a")
        store = ipam.store
        key = keys.owner_key(keys.id_prefix(NETWORK_ID), keys.owner_name("ghost", "eth0"))
        with store.write() as txn:
            value = keys.pack_held(POOL_ID, [(4, 0x0A000003)])
            tables.OWNERS.put(txn, key, value)
        with pytest.raises(StoreCorrupt) as caught:
            net.allocate_many([("ghost", "eth0"), ("x", "eth0")])
        assert (caught.value.message, caught.value.path, caught.value.hint) == (
            "an owner in network n is recorded with an address that has no lease",
            store.path,
            errors.CHECK_HINT,
        )
        with pytest.raises(fastipam.DuplicateAllocation):
            net.allocate("ghost")
        assert net.stats().assigned == 1
        repair(store)
        assert len(net.allocate_many([("ghost", "eth0"), ("x", "eth0")])) == 2
        assert not verify(store)
