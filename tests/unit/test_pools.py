"""Networks that share a pool: an address is unique in it, and each keeps to its own leases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fastipam
from fastipam import AddressInUse, AddressNotInRange, ConfigError, PoolExhausted
from fastipam.addressing.parsing import parse_ranges
from fastipam.addressing.ranges import Pool
from fastipam.addressing.union import is_within, overlap, spare, union
from fastipam.allocation import pools
from fastipam.backup import backup, restore
from fastipam.ipam import Ipam, open_with
from fastipam.network import Network
from fastipam.repair import repair
from fastipam.storage import tables
from fastipam.storage.records import keys, own_ranges
from fastipam.sweep import release_dead
from fastipam.testing import Clock
from fastipam.verify import verify

from ..ids import NETWORK_ID, POOL_ID

NARROW, WIDE = "10.1.0.0/24", "10.1.0.0/16"


@pytest.fixture
def ipam(data_dir: Path, clock: Clock) -> Iterator[Ipam]:
    """A store that is consistent at the end of the test."""
    with open_with(data_dir, "relaxed", clock=clock) as found:
        yield found
        assert not verify(found.store)


def _two(ipam: Ipam, first: str = NARROW, second: str = NARROW) -> tuple[Network, Network]:
    return ipam.network("a", first, pool="blue"), ipam.network("b", second, pool="blue")


def _ip(lease: fastipam.Lease) -> str:
    return str(lease.address.ip)


# One address once -----------------------------------------------------------------------------


def test_the_same_ranges(ipam: Ipam) -> None:
    """One owner may have an address in each network, and they differ."""
    a, b = _two(ipam)
    got = [_ip(net.allocate(name)) for name in ("x", "y") for net in (a, b)]
    assert got == ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"]
    assert [one.container_id for one in a.leases()] == ["x", "y"]
    assert a.get("x") != b.get("x")


@pytest.mark.parametrize(("first", "second"), [(NARROW, WIDE), (WIDE, NARROW)])
def test_ranges_that_overlap(ipam: Ipam, first: str, second: str) -> None:
    """Each network assigns from its own ranges, with their prefix length."""
    a, b = _two(ipam, first, second)
    leases = [net.allocate(f"c{at}") for at in range(4) for net in (a, b)]
    assert len({_ip(one) for one in leases}) == 8
    assert {one.address.network.with_prefixlen for one in leases[::2]} == {first}
    assert {one.address.network.with_prefixlen for one in leases[1::2]} == {second}


def test_ranges_apart(ipam: Ipam) -> None:
    """In ranges that do not overlap each network goes on behind its own last address."""
    a, b = _two(ipam, "10.1.0.0/24", "10.2.0.0/24")
    got = [_ip(net.allocate(f"c{at}")) for at in range(3) for net in (a, b)]
    assert got[::2] == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]
    assert got[1::2] == ["10.2.0.2", "10.2.0.3", "10.2.0.4"]
    assert a.stats().size == 253


@pytest.mark.parametrize("second", [NARROW, WIDE])
def test_many_at_once(ipam: Ipam, second: str) -> None:
    """64 threads and two networks: no address twice."""
    nets = _two(ipam, NARROW, second)
    got: list[str] = []

    def allocate(at: int) -> None:
        got.append(_ip(nets[at % 2].allocate(f"c{at}")))

    threads = [threading.Thread(target=allocate, args=(at,)) for at in range(64)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set(got)) == len(got) == 64


def test_many_in_one_call(ipam: Ipam) -> None:
    """allocate_many and release_many know whose addresses they are."""
    a, b = _two(ipam, NARROW, WIDE)
    owners = [(f"c{at}", "eth0") for at in range(50)]
    got = [*a.allocate_many(owners), *b.allocate_many(owners)]
    assert len({_ip(one) for one in got}) == 100
    assert a.release_many(owners) == 50
    assert len(list(b.leases())) == 50


def test_a_pool_is_full_for_both(ipam: Ipam) -> None:
    """What one network has taken the other cannot assign."""
    a, b = _two(ipam, "10.1.0.0/29", "10.1.0.0/29")
    for at in range(5):
        a.allocate(f"c{at}")
    with pytest.raises(PoolExhausted, match="5 assigned"):
        b.allocate("late")
    assert b.stats().free == 0
    assert not b.stats().can_serve


def test_requested_address_of_another_network(ipam: Ipam) -> None:
    """A refusal says who has an address, and where."""
    a, b = _two(ipam)
    b.allocate("x", addresses=["10.1.0.9"])
    with pytest.raises(AddressInUse, match=r"10\.1\.0\.9 is assigned to x eth0 in network b"):
        a.allocate("y", addresses=["10.1.0.9"])


def test_gateway_of_a_network_that_comes_later(ipam: Ipam) -> None:
    """Its range lies in a part of another that was never used: none assigns its gateway."""
    wide = ipam.network("wide", WIDE, pool="blue")
    wide.allocate("w1")
    ranges = [{"subnet": "10.1.5.0/29", "gateway": "10.1.5.5"}]
    narrow = ipam.network("narrow", ranges, pool="blue")
    narrow.allocate("n1")
    given = [wide.allocate(f"w{at}").address for at in range(2, 9)]
    assert "10.1.5.4/16" in map(str, given)
    assert "10.1.5.5/16" not in map(str, given)
    with pytest.raises(AddressNotInRange):
        wide.allocate("w9", addresses=["10.1.5.5"])
    assert narrow.release("n1")
    assert str(narrow.allocate("n2").address) != "10.1.5.5/29"
    assert [str(one) for one in verify(ipam.store)] == []


def test_gateway_of_another_network(ipam: Ipam) -> None:
    """A gateway of one network is assigned by none, and counts as free in none."""
    a, b = _two(ipam, "10.1.0.0/24", "10.1.0.0/30")
    b.allocate("b")
    other = [{"subnet": NARROW, "gateway": "10.1.0.77"}]
    ipam.network("c", other, pool="blue").allocate("c")
    a.allocate_many([(f"c{at}", "eth0") for at in range(250)])
    assert a.lookup("10.1.0.77") is None
    with pytest.raises(PoolExhausted):
        a.allocate("late")
    assert a.stats().free == 0


# Each keeps to its own ------------------------------------------------------------------------


def test_release_and_look_up(ipam: Ipam) -> None:
    """A network sees, and releases, its own leases alone."""
    a, b = _two(ipam)
    mine, theirs = a.allocate("x"), b.allocate("x")
    assert a.lookup(_ip(theirs)) is None
    assert a.release_address(_ip(theirs)) is None
    assert [str(one) for one in a.release("x")] == [_ip(mine)]
    assert b.get("x") == theirs


def test_gc_of_one_network(ipam: Ipam, clock: Clock) -> None:
    """GC of one network releases nothing of another in the same pool."""
    a, b = _two(ipam)
    a.allocate("x")
    theirs = b.allocate("x")
    clock.advance(1)
    assert len(a.retain([], ipam.store.clock())) == 1
    assert list(b.leases()) == [theirs]


def test_history_and_stats(ipam: Ipam) -> None:
    """Events are a network's; the counts of its ranges are the pool's, and add up."""
    a, b = _two(ipam, NARROW, WIDE)
    a.allocate("x")
    b.allocate("y")
    b.release("y")
    assert [one.container_id for one in a.history()] == ["x"]
    assert [one.kind for one in b.history()] == ["assigned", "released"]
    for stats in (a.stats(), b.stats()):
        assert (stats.pool, stats.assigned, stats.cooling) == ("blue", 1, 1)
        assert stats.size == stats.assigned + stats.cooling + stats.reserved + stats.free


def test_earlier_boot(data_dir: Path, clock: Clock) -> None:
    """One network's calls release what an earlier boot left in the other."""
    with open_with(data_dir, "relaxed", clock=clock, boot_id=lambda: "one") as ipam:
        a, b = _two(ipam, NARROW, WIDE)
        a.allocate("x")
        b.allocate("y", addresses=["10.1.0.200"])
    with open_with(data_dir, "relaxed", clock=clock, boot_id=lambda: "two") as ipam:
        a, b = _two(ipam, NARROW, WIDE)
        assert list(b.leases()) == []
        assert _ip(a.allocate("z", addresses=["10.1.0.200"])) == "10.1.0.200"
        assert "rebooted" in [one.kind for one in b.history()]
        assert b.get("y") is None
        assert not verify(ipam.store)


def test_leases_without_namespace(ipam: Ipam, tmp_path: Path) -> None:
    """What an ADD of one network finds dead in its pool is released where it belongs."""
    gone = tmp_path / "netns"
    gone.touch()
    a, b = _two(ipam, NARROW, WIDE)
    a.allocate("alive")
    b.allocate("dead", netns=fastipam.Netns.of(str(gone)))
    gone.unlink()
    assert release_dead(a).looked == 2
    assert [one.container_id for one in b.leases()] == ["dead"]  # a second look is due
    released = release_dead(a, grace_s=0.0).released
    assert [(one.network, one.container_id) for one in released] == [("b", "dead")]
    assert list(b.leases()) == []
    assert [one.kind for one in b.history()][-1] == "swept"


def test_backup(ipam: Ipam, tmp_path: Path) -> None:
    """A backup has the pool with both networks."""
    a, b = _two(ipam, NARROW, WIDE)
    a.allocate("x")
    kept = b.allocate("x")
    backup(ipam.store, tmp_path / "copy")
    with open_with(tmp_path / "other", "relaxed") as other:
        restore(other.store, tmp_path / "copy")
        again = other.network("b").get("x")
        assert again is not None
        assert again.address == kept.address
        assert other.network("a").stats().pool == "blue"
        assert not verify(other.store)


# Which pool -----------------------------------------------------------------------------------


def test_a_pool_of_its_own(ipam: Ipam) -> None:
    """Without a name each network has a pool of its own, and both may have an address."""
    assert _ip(ipam.network("a", NARROW).allocate("x")) == "10.1.0.2"
    assert _ip(ipam.network("b", NARROW).allocate("x")) == "10.1.0.2"
    assert ipam.network("a").stats().pool == "a"


def test_the_pool_of_another_network(ipam: Ipam) -> None:
    """A network may name the pool that another network has of its own."""
    own = ipam.network("blue", NARROW)
    own.allocate("x")
    guest = ipam.network("a", WIDE, pool="blue")
    assert _ip(guest.allocate("x")) == "10.1.0.3"
    assert own.stats().size == 253
    own.release("x")
    assert own.stats().cooling == guest.stats().cooling == 1


def test_another_pool_with_addresses(ipam: Ipam) -> None:
    """A network that has addresses stays where they are; the refusal says what to do."""
    a, _ = _two(ipam)
    a.allocate("x")
    moved = ipam.network("a", NARROW, pool="green")
    with pytest.raises(ConfigError, match="has addresses in pool blue") as caught:
        moved.allocate("y")
    assert caught.value.field == "ipam.pool"
    a.release("x")
    assert _ip(moved.allocate("y")) == "10.1.0.2"
    assert ipam.network("a").stats().pool == "green"


def test_another_pool_leaves_nothing_behind(ipam: Ipam) -> None:
    """The pool that a network has left goes with its last network."""
    a, b = _two(ipam, NARROW, WIDE)
    for net in (a, b):
        net.allocate("x")
        net.release("x")
    ipam.network("a", NARROW, pool="green").allocate("x")
    with ipam.store.read() as txn:
        assert pools.names(txn) == ["blue", "green"]
    assert b.stats().cooling == 2
    ipam.network("b", WIDE, pool="green").allocate("x")
    with ipam.store.read() as txn:
        assert pools.names(txn) == ["green"]


def test_reservations_keep_a_pool(ipam: Ipam) -> None:
    """A pool with reservations is not given up for another one."""
    a = ipam.network("a", NARROW, pool="blue")
    a.reserve("10.1.0.9")
    with pytest.raises(ConfigError, match="the only network of pool blue, which has reservations"):
        ipam.network("a", NARROW, pool="green").allocate("x")


def test_ranges_that_change(ipam: Ipam) -> None:
    """The pool follows its networks' ranges, and what is outside is counted once."""
    a, b = _two(ipam, NARROW, "10.2.0.0/24")
    a.allocate("x", addresses=["10.1.0.9"])
    b.allocate("y")
    changed = ipam.network("a", "10.3.0.0/24", pool="blue")
    changed.allocate("z")
    with ipam.store.read() as txn:
        raw = tables.POOLS.get(txn, b"blue")
        assert raw is not None
        pool_id, text = keys.unpack_pool(raw)
        assert txn.pool_state(pool_id).outside == 1
    assert [str(each) for each in Pool.read(text).sets] == [
        "10.2.0.1-10.2.0.254",
        "10.3.0.1-10.3.0.254",
    ]


def test_bad_pool_name(ipam: Ipam) -> None:
    """A name that no record can hold is refused with its field."""
    for name in ("", "x\0y", "p" * 256):
        with pytest.raises(ConfigError) as caught:
            ipam.network("a", NARROW, pool=name).allocate("x")
        assert caught.value.field == "pool"


# Overlaps -------------------------------------------------------------------------------------


def test_overlaps(ipam: Ipam) -> None:
    """Pools that overlap are told, unless somebody has named one of them."""
    ipam.network("a", NARROW).allocate("x")
    ipam.network("b", WIDE).allocate("x")
    ipam.network("c", WIDE, pool="c").allocate("x")
    ipam.network("d", "10.9.0.0/24").allocate("x")
    with ipam.store.read() as txn:
        assert [list(pools.overlaps(txn, one)) for one in ("a", "b", "c", "d")] == [
            [("b", 4, 0x0A010002)],
            [("a", 4, 0x0A010002)],
            [],
            [],
        ]


def _pool(*ranges: str) -> Pool:
    return parse_ranges(list(ranges), ())


def test_union() -> None:
    """A union has each address once."""
    joined = union([_pool("10.1.0.0/25"), _pool("10.1.0.0/24", "2001:db8::/64"), _pool(NARROW)])
    assert joined.size == _pool(NARROW, "2001:db8::/64").size
    assert Pool.read(joined.text).text == joined.text
    assert is_within(_pool("10.1.0.0/26"), joined)
    assert not is_within(_pool("10.1.0.64/26"), joined), "its gateway is news"
    assert union([joined, _pool("10.1.0.64/26")]).size == joined.size - 1
    assert not is_within(_pool("10.1.1.0/24"), joined)
    assert overlap(_pool("10.2.0.0/24"), joined) is None
    assert overlap(_pool("2001:db8::/120"), joined) == (6, 0x20010DB8 << 96 | 2)
    spared = spare(_pool("10.1.0.0/24"), _pool("10.1.0.128/25"))
    assert not spared.holds(4, 0x0A010081)
    assert spared.size == 252


# Damage ---------------------------------------------------------------------------------------


def _lose_queue(ipam: Ipam) -> None:
    with ipam.store.write() as txn:
        tables.COOLDOWN.clear(txn)


def _lose_owners(ipam: Ipam) -> None:
    with ipam.store.write() as txn:
        tables.OWNERS.clear(txn)


def _lose_numbers(ipam: Ipam) -> None:
    with ipam.store.write() as txn:
        for mark in (keys.STATE_MARK, keys.LOG_MARK):
            for key in list(tables.MAIN.scan_keys(txn, mark)):
                tables.MAIN.delete(txn, key)


def _lose_own_ranges(ipam: Ipam) -> None:
    with ipam.store.write() as txn:
        tables.META.put(
            txn, own_ranges.key(NETWORK_ID), own_ranges.pack("10.9.0.0/24 x", named=True)
        )


def _lose_bits(ipam: Ipam) -> None:
    with ipam.store.write() as txn:
        tables.PAGES.clear(txn)


def _lose_pool(ipam: Ipam) -> None:
    with ipam.store.write() as txn:
        tables.POOLS.put(txn, b"blue", b"\0\0\0\1garbage")


@pytest.mark.parametrize(
    "damage",
    [_lose_queue, _lose_owners, _lose_numbers, _lose_own_ranges, _lose_bits, _lose_pool],
)
def test_repair(ipam: Ipam, damage: Callable[[Ipam], None]) -> None:
    """A repair of a shared pool takes no address from either network."""
    a, b = _two(ipam, NARROW, WIDE)
    kept = [net.allocate("x") for net in (a, b)]
    for net in (a, b):
        net.allocate("y")
        net.release("y")
    damage(ipam)
    assert verify(ipam.store)
    assert repair(ipam.store)
    assert not verify(ipam.store)
    assert [net.get("x") for net in (a, b)] == kept
    assert len({_ip(net.allocate("z")) for net in (a, b)} | {_ip(one) for one in kept}) == 4


def test_damage_of_one_is_named(ipam: Ipam) -> None:
    """A lease that names a network of another pool is a finding."""
    a, b = _two(ipam)
    lease = a.allocate("x")
    b.allocate("x")
    other = ipam.network("c", "10.5.0.0/24").allocate("x")
    with ipam.store.write() as txn:
        key = keys.address_key(POOL_ID, 4, lease.value)
        tables.LEASES.put(txn, key, _renamed(tables.LEASES.get(txn, key), NETWORK_ID + 2))
    assert {one.kind for one in verify(ipam.store)} == {"lease-network"}
    repair(ipam.store)
    assert a.get("x") is not None
    assert ipam.network("c").get("x") == other


def _renamed(raw: bytes | None, network_id: int) -> bytes:
    from fastipam.storage.records.lease import Record

    assert raw is not None
    record = Record.read(raw)
    record.network_id = network_id
    return record.pack()


def test_pool_of_an_earlier_call(ipam: Ipam) -> None:
    """A network that has no address yet is in the pool that the call with its ranges has named."""
    ipam.network("a", "10.9.0.0/28", pool="blue").allocate("one", addresses=["10.9.0.3"])
    ipam.network("b", "10.9.0.0/28", pool="blue")
    with pytest.raises(fastipam.AddressInUse):
        ipam.network("b").allocate("two", addresses=["10.9.0.3"])
    with ipam.transaction() as txn, pytest.raises(fastipam.AddressInUse):
        txn.network("b").allocate("two", addresses=["10.9.0.3"])
    ipam.network("b", pool="green").allocate("two", addresses=["10.9.0.3"])
