"""``release_many`` does what single releases do, for all of its owners or for none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastipam import Ipam, Network, Pod
from fastipam.errors import StoreCorrupt, StoreFull
from fastipam.lease import Requester
from fastipam.storage import tables
from fastipam.testing import failing, temporary_store

OWNERS = [(f"c{number}", "eth0") for number in range(40)]
DUAL = ["10.1.0.0/24", "fd00::/64"]


def state(net: Network) -> tuple[Any, ...]:
    """Return all that a release changes, but for the time."""
    leases = {(one.owner, str(one.address)) for one in net.leases()}
    reserved = {(one.family, one.value) for one in net.reservations()}
    events = sorted((one.kind, one.family, one.value, one.container_id) for one in net.history())
    return leases, reserved, events, net.stats().to_dict()


def plain(net: Network) -> None:
    net.allocate_many(OWNERS)


def with_siblings(net: Network) -> None:
    for number in range(0, 40, 3):
        net.allocate(f"c{number}")


def reserved(net: Network) -> None:
    plain(net)
    net.reserve("10.1.0.5", owner="c3")
    net.reserve("10.1.0.9")


def sticky(net: Network) -> None:
    for number in range(10):
        net.allocate(f"c{number}", pod=Pod("default", f"web-{number}"))


def without_interface(net: Network) -> None:
    plain(net)
    net.release("c7")
    net._adopt(Requester("c7", ""), 4, 0x0A0100C8, 1)


@pytest.mark.parametrize(
    ("ranges", "fill", "options"),
    [
        ("10.1.0.0/24", plain, {}),
        ("10.1.0.0/24", plain, {"cooldown_s": 0}),
        ("10.1.0.0/24", plain, {"history": 5}),
        ("10.1.0.0/24", plain, {"history": 0}),
        (DUAL, plain, {}),
        (DUAL, with_siblings, {"cooldown_s": 0}),
        (["10.1.0.0/27", "10.2.0.0/24", "fd00::/64"], lambda net: net.allocate("c5"), {}),
        ([[{"subnet": "10.1.0.0/29"}, {"subnet": "10.1.1.0/24"}]], plain, {}),
        ("10.1.0.0/24", reserved, {}),
        ("10.1.0.0/24", sticky, {"sticky_s": 60}),
        (DUAL, sticky, {"sticky_s": 60}),
        ("10.1.0.0/24", without_interface, {}),
    ],
)
def test_as_single_releases(
    ranges: Any, fill: Callable[[Network], object], options: dict[str, Any]
) -> None:
    """Owners that nobody knows, and those named twice, change nothing."""
    found = []
    for at_once in (True, False):
        with temporary_store() as store, store.open() as ipam:
            net = ipam.network("n", ranges, **options)
            fill(net)
            listed = [*OWNERS, ("nobody", "eth0"), OWNERS[3]]
            if at_once:
                count = net.release_many(listed)
            else:
                count = sum(len(net.release(*one)) for one in listed)
            found.append((count, state(net)))
    assert found[0][0] > 0
    if "history" in options:  # how many are kept beside those depends on the calls
        found = [(count, (*one[:2], one[3])) for count, one in found]
    assert found[0] == found[1]


def test_leases_of_an_earlier_policy() -> None:
    """Those that were sticky when they were given stay so, all addresses of a pod together."""
    with temporary_store() as store, store.open() as ipam:
        sticky(ipam.network("n", DUAL, sticky_s=60))
        net = ipam.network("n", DUAL, sticky_s=0)
        net.allocate("late")
        assert net.release_many([*OWNERS, ("late", "eth0")]) == 22
        assert net.stats().assigned == 0
        assert len(list(net.reservations())) == 20


def test_in_a_block() -> None:
    """A call that fails is taken back, and the block goes on."""
    with temporary_store() as store, store.open() as ipam:
        net = ipam.network("n", "10.1.0.0/24")
        plain(net)
        before = state(net)
        with ipam.transaction() as txn:
            inside = txn.network("n")
            assert inside.release_many(OWNERS[:9]) == 9
            raw = tables.LEASES.get(txn, _key_of(net, txn, "c20"))
            assert raw is not None
            tables.LEASES.delete(txn, _key_of(net, txn, "c20"))
            with pytest.raises(StoreCorrupt):
                inside.release_many(OWNERS[9:])
            assert len(list(inside.leases())) == 30
            tables.LEASES.put(txn, _key_of(net, txn, "c20"), raw)
            assert inside.release_many(OWNERS[9:12]) == 3
        assert {one.container_id for one in net.leases()} == {f"c{at}" for at in range(12, 40)}
        assert before != state(net)


def _key_of(net: Network, txn: Any, container: str) -> bytes:
    ledger = net._books(txn)
    assert ledger is not None
    return bytes(
        ledger.txn.get(
            ledger.owner_key(container.encode() + b"\0eth0"), b"", ledger.txn.databases[6]
        )
    )


@pytest.mark.parametrize("cooldown_s", [0, 30])
def test_a_damaged_lease_releases_nothing(cooldown_s: float) -> None:
    """Of an owner in the middle; afterwards all can be released but that one."""
    with temporary_store() as store, store.open() as ipam:
        net = ipam.network("n", "10.1.0.0/24", cooldown_s=cooldown_s)
        plain(net)
        with ipam.store.write() as txn:
            key = _key_of(net, txn, "c20")
            raw = tables.LEASES.get(txn, key)
            assert raw is not None
            tables.LEASES.delete(txn, key)
        before = state(net)
        with pytest.raises(StoreCorrupt, match="c20"):
            net.release_many(OWNERS)
        assert state(net) == before
        assert net.release_many([one for one in OWNERS if one[0] != "c20"]) == 39
        with ipam.store.write() as txn:
            tables.LEASES.put(txn, key, raw)


def test_in_a_full_store(ipam_and_net: tuple[Ipam, Network]) -> None:
    """There is no room for events: they are left out, and the addresses are released."""
    ipam, net = ipam_and_net
    with failing(ipam, StoreFull("no space is left"), call=1):
        assert net.release_many(OWNERS) == 40
    assert {one.kind for one in net.history()} == {"assigned"}


@pytest.fixture
def ipam_and_net() -> Any:
    """A store with a network of 40 leases."""
    with temporary_store() as store, store.open() as ipam:
        net = ipam.network("n", "10.1.0.0/24")
        plain(net)
        yield ipam, net
