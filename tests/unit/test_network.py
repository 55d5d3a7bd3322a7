"""A network: who gets which address, in what order, and what stays when a call fails."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from tests.counting import counts

from fastipam import (
    DEFAULT_RANGE,
    AddressInUse,
    AddressNotInRange,
    ConfigError,
    DuplicateAllocation,
    FastipamError,
    Lease,
    LeaseMissing,
    Network,
    PoolExhausted,
    StoreCorrupt,
)
from fastipam.configuration.policy import Policy
from fastipam.ipam import Ipam
from fastipam.lease import Requester
from fastipam.namespaces import Netns
from fastipam.owners import Pod
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.store import Store
from fastipam.testing import Clock

from ..ids import NETWORK_ID, POOL_ID

V4 = "10.0.0.0/29"  # serves .2 to .6
V6 = "2001:db8:1::/64"


def take(net: Network, name: str, *addresses: str) -> str:
    """Allocate, and return the address as text."""
    return str(net.allocate(name, addresses=addresses).address.ip)


def last(net: Network, count: int, first: int = 0) -> list[int]:
    """The last octets of the next ``count`` addresses."""
    return [int(take(net, f"c{first + at}").rpartition(".")[2]) for at in range(count)]


def dump(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    """Everything that the store holds."""
    with store.read() as txn:
        return {table.name: list(table.scan(txn)) for table in tables.ALL}


# Round robin ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ("10.0.0.0/29", "10.0.0.2"),
        ("2001:db8:1::/64", "2001:db8:1::2"),
        ("10.0.0.0/30", "10.0.0.2"),
        ("::/0", "::2"),
        ("10.0.0.0/31", "10.0.0.0"),
        ("10.0.0.9/32", "10.0.0.9"),
        ("2001:db8::/127", "2001:db8::"),
    ],
)
def test_first_address(ipam: Ipam, ranges: str, expected: str) -> None:
    """A new network begins at the first address that it serves."""
    lease = ipam.network("n", ranges).allocate("c")
    assert str(lease.address) == f"{expected}/{ranges.partition('/')[2]}"


def test_default_ranges(ipam: Ipam) -> None:
    """The default range is Weave Net's 10.32.0.0/12, and has 1,048,573 addresses."""
    net = ipam.network("n", DEFAULT_RANGE)
    assert net.stats().size == 2**20 - 3
    assert take(net, "c") == "10.32.0.2"


def test_iterate(ipam: Ipam) -> None:
    """A /29 serves five addresses, neither network, gateway nor broadcast, and refuses then."""
    net = ipam.network("n", "192.168.1.0/29")
    assert last(net, 5) == [2, 3, 4, 5, 6]
    with pytest.raises(PoolExhausted) as caught:
        net.allocate("more")
    assert (caught.value.network, caught.value.ranges) == ("n", "192.168.1.1-192.168.1.6")


@pytest.mark.parametrize(
    ("used", "cursor", "expected"),
    [
        ([2], None, 3),
        ([], 5, 6),
        ([4, 5], 3, 6),
        ([6], 5, 2),
        ([2, 4, 5, 6], 3, 3),
    ],
)
def test_round_robin(ipam: Ipam, used: list[int], cursor: int | None, expected: int) -> None:
    """The next address is the first free one behind the last given, round, that one itself last."""
    net = ipam.network("n", V4, cooldown_s=0)
    for at in used:
        net.allocate(f"used{at}", addresses=[f"10.0.0.{at}"])
    if cursor is None:
        move(ipam, "n", 0)
    else:
        net.allocate("cursor", addresses=[f"10.0.0.{cursor}"])
        net.release("cursor")
    assert take(net, "c") == f"10.0.0.{expected}"


def move(ipam: Ipam, name: str, value: int) -> None:
    """Set the cursor of a network's first set to any address, or to none (0)."""
    store = ipam.store
    with store.write() as txn:
        state = txn.pool_state(keys.id_of(tables.POOLS.get(txn, name.encode())))
        state.move_cursor(0, 4 if value else 0, value)
        txn.save(state)


def test_cursor_outside(ipam: Ipam) -> None:
    """A cursor outside the ranges counts as none."""
    net = ipam.network("n", V4)
    take(net, "a", "10.0.0.2")
    move(ipam, "n", 0x0A000080)
    assert take(net, "c") == "10.0.0.3"


def test_round_robin_over_ranges(ipam: Ipam) -> None:
    """Behind the last address of a range the next one follows, behind the last range the first."""
    net = ipam.network("n", [["10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/30"]], cooldown_s=0)
    given = []
    for at in range(4):
        lease = net.allocate(f"c{at}")
        given.append((str(lease.address), str(lease.gateway)))
        net.release(f"c{at}")
    assert given == [
        ("10.0.0.2/30", "10.0.0.1"),
        ("10.0.1.2/30", "10.0.1.1"),
        ("10.0.2.2/30", "10.0.2.1"),
        ("10.0.0.2/30", "10.0.0.1"),
    ]


def test_round_robin_after_release(ipam: Ipam) -> None:
    """A released address is not the next one, even without a cool-down."""
    net = ipam.network("n", V4, cooldown_s=0)
    assert last(net, 1) == [2]
    net.release("c0")
    assert last(net, 1) == [3]


def test_exhausted_multi_range_set_terminates(ipam: Ipam) -> None:
    """A full set of ranges whose cursor is at the end of one of them is exhausted, not endless."""
    net = ipam.network("n", [["10.0.0.0/30", "10.0.1.0/30"]])
    take(net, "b", "10.0.1.2")
    take(net, "a", "10.0.0.2")
    for call in (lambda: net.allocate("c"), lambda: net.allocate_many([("c", "eth0")])):
        with pytest.raises(PoolExhausted):
            call()


def test_excluded(ipam: Ipam) -> None:
    """Excluded addresses are never assigned, not on request either, and are not counted."""
    net = ipam.network("n", V4, exclude=["10.0.0.2", "10.0.0.4-10.0.0.5"])
    assert net.stats().size == 2
    with pytest.raises(AddressNotInRange, match="excluded by the configuration"):
        take(net, "a", "10.0.0.4")
    assert last(net, 2) == [3, 6]
    with pytest.raises(PoolExhausted):
        net.allocate("more")


def test_ipv6(ipam: Ipam) -> None:
    """An IPv6 /64 and the whole of IPv6 cost what they hold, and count exactly."""
    net = ipam.network("n", V6)
    net.allocate_many([(f"c{at}", "eth0") for at in range(5000)])
    assert net.stats().free == 2**64 - 2 - 5000
    everything = ipam.network("all", "::/0", cooldown_s=0)
    top = "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"  # behind it is multicast
    assert take(everything, "a", top) == top
    assert take(everything, "b") == "::2"
    assert everything.stats().free == 2**128 - 2**120 - 4
    assert everything.release("a") == [ipaddress.ip_address(top)]


# Dual stack, batches -------------------------------------------------------------------------


def test_dual_stack(ipam: Ipam) -> None:
    """Each range set gives one address; the leases know each other; a release frees them all."""
    net = ipam.network("n", [V4, V6])
    lease = net.allocate("c", netns=Netns("/run/netns/x", inode=5), pod=("ns", "p"))
    assert [str(one) for one in lease.addresses] == ["10.0.0.2/29", "2001:db8:1::2/64"]
    assert [str(one.gateway) for one in lease.siblings] == ["10.0.0.1", "2001:db8:1::1"]
    assert (lease.netns, lease.inode, lease.pod_name) == ("/run/netns/x", 5, "p")
    assert net._owned("c", "eth0") == [(one.family, one.value) for one in lease.siblings]
    assert net.release("c") == [one.address.ip for one in lease.siblings]


def test_release_by_address_takes_all_of_the_owner(ipam: Ipam) -> None:
    """Whichever of an owner's addresses is named, all of them go, and the answer lists them."""
    net = ipam.network("n", ["10.0.0.0/24", "2001:db8::/64"])
    for at, other in ((0, 1), (1, 0)):
        leases = net.allocate("a").siblings
        assert net.release_address("10.0.0.2", generation=leases[at].generation + 7) is None
        found = net._release_at((leases[at].family, leases[at].value))
        assert found is not None
        assert found.siblings == (leases[at], leases[other])
        assert list(net.leases()) == []
        assert net._release_at((leases[at].family, leases[at].value)) is None


def test_dual_stack_is_all_or_nothing(ipam: Ipam, clock: Clock) -> None:
    """When the second set is exhausted, the first one's bits and cursor are as they were."""
    net = ipam.network("n", [V4, "2001:db8::/126"], cooldown_s=10)
    net.allocate("a")
    net.allocate("b")
    before = dump(ipam.store)
    clock.advance(1)
    for call in (
        lambda: net.allocate("c"),
        lambda: net.allocate_many([("c", "eth0")]),
        lambda: net.allocate("c", addresses=["10.0.0.6"]),
        lambda: net.allocate("c", addresses=["10.0.0.6", "2001:db8::2"]),
    ):
        with pytest.raises((PoolExhausted, AddressInUse)):
            call()
        assert dump(ipam.store) == before
    net.release("a")
    assert take(net, "c") == "10.0.0.4"


def test_allocate_many_is_as_single_calls(ipam: Ipam) -> None:
    """A batch gives the addresses, gateways and siblings that single calls would have given."""
    ranges = [["10.0.0.0/29", "10.0.1.0/29"], V6]
    one, many = ipam.network("one", ranges), ipam.network("many", ranges)
    for net in (one, many):
        take(net, "x", "10.0.0.5", "2001:db8:1::3")
    owners = [(f"c{at}", f"eth{at % 2}") for at in range(9)]
    singles = [one.allocate(*owner) for owner in owners]
    batch = many.allocate_many(iter(owners))
    assert [lease.addresses for lease in batch] == [lease.addresses for lease in singles]
    assert [lease.gateway for lease in batch] == [lease.gateway for lease in singles]
    assert [(lease.container_id, lease.ifname) for lease in batch] == owners
    assert len({each.generation for lease in batch for each in lease.siblings}) == 18
    assert many.allocate_many([]) == []
    with pytest.raises(PoolExhausted) as caught:
        many.allocate_many([("y", "eth0"), ("z", "eth0")])
    assert caught.value.wanted == 2


@pytest.mark.parametrize(
    "owners",
    [
        [("new", "eth0"), ("a", "eth0")],
        [("new", "eth0"), ("newer", "eth0"), ("new", "eth0")],
    ],
)
def test_allocate_many_with_a_duplicate(ipam: Ipam, owners: list[tuple[str, str]]) -> None:
    """An owner that has an address, or stands in the batch twice, fails all of it."""
    net = ipam.network("n", "10.0.0.0/24")
    net.allocate("a")
    before = dump(ipam.store)
    with pytest.raises(DuplicateAllocation):
        net.allocate_many(owners)
    assert dump(ipam.store) == before


# Requests, duplicates ------------------------------------------------------------------------


def test_requests(ipam: Ipam) -> None:
    """A wanted address is given when it is free; the cursor follows it."""
    net = ipam.network("n", [V4, V6])
    assert take(net, "a", "10.0.0.4/8") == "10.0.0.4"
    lease = net.allocate("b", addresses=[ipaddress.ip_address("2001:db8:1::999")])
    assert [str(one.ip) for one in lease.addresses] == ["10.0.0.5", "2001:db8:1::999"]
    lease = net.allocate("c", addresses=["2001:db8:1::5", "10.0.0.2", "10.0.0.2"])
    assert [str(one.ip) for one in lease.addresses] == ["10.0.0.2", "2001:db8:1::5"]
    assert take(net, "d") == "10.0.0.3"


@pytest.mark.parametrize(
    ("addresses", "kind", "text"),
    [
        (["10.0.0.2"], AddressInUse, "10.0.0.2 is assigned to a eth0"),
        (["10.0.0.1"], AddressNotInRange, "10.0.0.1 is the gateway of its range"),
        (["10.0.0.7"], AddressNotInRange, "10.0.0.7"),
        (["10.0.0.0"], AddressNotInRange, "10.0.0.0"),
        (["10.0.0.3", "10.0.0.4"], AddressNotInRange, "10.0.0.4"),
        (["2001:db8::1"], AddressNotInRange, "2001:db8::1"),
        (["nonsense"], ConfigError, "'nonsense' is not an IP address"),
        (["10.0.0.300/8"], ConfigError, "10.0.0.300"),
    ],
)
def test_request_refused(
    ipam: Ipam, addresses: list[str], kind: type[FastipamError], text: str
) -> None:
    """A wanted address that cannot be given is named, and nothing changes."""
    net = ipam.network("n", V4)
    net.allocate("a")
    before = dump(ipam.store)
    with pytest.raises(kind, match=text):
        net.allocate("b", addresses=addresses)
    assert dump(ipam.store) == before


def test_duplicate(ipam: Ipam) -> None:
    """An owner that has an address gets no second one: an error that says which, or that one."""
    net = ipam.network("n", [V4, V6])
    lease = net.allocate("a")
    with pytest.raises(DuplicateAllocation) as caught:
        net.allocate("a")
    assert caught.value.addresses == ("10.0.0.2", "2001:db8:1::2")
    assert caught.value.owner == ("a", "eth0")
    for wanted in ([], ["10.0.0.2"], ["2001:db8:1::2", "10.0.0.2"]):
        again = net.allocate("a", existing="return", addresses=wanted)
        assert again.addresses == lease.addresses
        assert [one.gateway for one in again.siblings] == [one.gateway for one in lease.siblings]
    assert again == net.lookup("10.0.0.2")
    assert hash(again) == hash(net.lookup("10.0.0.2"))
    with pytest.raises(DuplicateAllocation, match=r"requests 10\.0\.0\.6$"):
        net.allocate("a", existing="return", addresses=["10.0.0.6", "10.0.0.2"])
    assert net.allocate("a", "eth1") != lease
    with pytest.raises(ConfigError, match="neither 'error' nor 'return'"):
        net.allocate("a", existing="both")  # type: ignore[arg-type]


def test_existing_after_a_change_of_ranges(ipam: Ipam) -> None:
    """The owner's own address is returned, and counted, though the ranges have left it behind."""
    ipam.network("n", V4).allocate("a")
    changed = ipam.network("n", "10.0.9.0/29")
    lease = changed.allocate("a", existing="return")
    assert (str(lease.address), lease.gateway) == ("10.0.0.2/29", None)
    assert counts(changed) == {"size": 6, "assigned": 1, "cooling": 0, "reserved": 0, "free": 5}


@pytest.mark.parametrize(
    "arguments",
    [
        {"container_id": ""},
        {"container_id": "a\0"},
        {"container_id": "\ud800"},
        {"container_id": "a", "ifname": "\0"},
        {"container_id": "a", "netns": Netns("\0")},
        {"container_id": "a", "pod": ("ns", "x\0y")},
        {"container_id": "a", "pod": Pod("ns", "x", "\ud800")},
    ],
)
def test_bad_owner(ipam: Ipam, arguments: dict[str, Any]) -> None:
    """What a lease cannot hold is refused, and nothing changes."""
    net = ipam.network("n", V4)
    with pytest.raises(ConfigError):
        net.allocate(**arguments)
    assert ipam.networks() == []


@pytest.mark.parametrize("name", ["", "x" * 256, "\ud800", "ä" * 128])
def test_bad_network_name(ipam: Ipam, name: str) -> None:
    """A network's name is 1 to 255 bytes of text."""
    with pytest.raises(ConfigError) as caught:
        ipam.network(name, V4)
    assert caught.value.field == "name"


@pytest.mark.parametrize("cooldown", [-1, 1e9, float("nan"), float("inf")])
def test_bad_cooldown(ipam: Ipam, cooldown: float) -> None:
    """A cool-down is a number of seconds."""
    with pytest.raises(ConfigError) as caught:
        ipam.network("n", V4, cooldown_s=cooldown)
    assert caught.value.field == "cooldown"


# Release -------------------------------------------------------------------------------------


def test_release_is_idempotent_and_the_owners_own(ipam: Ipam) -> None:
    """A release frees what exactly this owner of this network has, once."""
    net, other = ipam.network("n", V4), ipam.network("other", V4)
    assert net.release("a") == []
    for each in (net, other):
        each.allocate("a")
        each.allocate("a", "eth1")
        each.allocate("ab")
    assert net.release("a", "eth2") == []
    assert net.release("b") == []
    assert net.release("a", "eth1") == [ipaddress.ip_address("10.0.0.3")]
    assert net.release("a", "eth1") == []
    assert net.stats().assigned == 2
    assert other.stats().assigned == 3


def test_release_without_interface(ipam: Ipam) -> None:
    """A lease that names no interface goes with the first interface that has none of its own."""
    net = ipam.network("n", V4)
    net._assign(Requester("a", ""))
    net.allocate("a", "eth0")
    assert net._owned("a", "eth1") == net._owned("a", "")
    assert net.release("a", "eth0") == [ipaddress.ip_address("10.0.0.3")]
    assert net.release("a", "eth0") == [ipaddress.ip_address("10.0.0.2")]
    assert net.release("a", "eth0") == []


def test_release_of_an_address_that_has_another_owner(ipam: Ipam) -> None:
    """An owner entry that contradicts the lease frees nothing: it is damage."""
    net = ipam.network("n", V4)
    net.allocate("a")
    net.allocate("b")
    store = ipam.store
    with store.read() as txn:
        owners = list(tables.OWNERS.scan(txn))
    with store.write() as txn:
        tables.OWNERS.put(txn, owners[0][0], owners[1][1])
        tables.OWNERS.put(txn, owners[1][0], owners[0][1])
    for name in ("a", "b"):
        with pytest.raises(StoreCorrupt, match="but its lease names another owner"):
            net.release(name)
    with store.write() as txn:
        for key, value in owners:
            tables.OWNERS.put(txn, key, value)


# Cool-down -----------------------------------------------------------------------------------


def test_cooldown(ipam: Ipam, clock: Clock) -> None:
    """A released address is assigned again only when its cool-down is over."""
    net = ipam.network("n", V4, cooldown_s=30)
    assert last(net, 5) == [2, 3, 4, 5, 6]
    net.release("c1")
    net.release("c3")
    assert counts(net) == {"size": 5, "assigned": 3, "cooling": 2, "reserved": 0, "free": 0}
    assert net.lookup("10.0.0.3") is None
    clock.advance(30)
    assert take(net, "x") == "10.0.0.3"
    assert counts(net) == {"size": 5, "assigned": 4, "cooling": 0, "reserved": 0, "free": 1}


def test_cooling_addresses_are_passed_over(ipam: Ipam, clock: Clock) -> None:
    """While others are free, cooling addresses are not taken."""
    net = ipam.network("n", V4, cooldown_s=30)
    last(net, 4)
    net.release("c0")
    assert take(net, "x") == "10.0.0.6"
    clock.advance(29)
    net.release("x")
    clock.advance(2)
    assert take(net, "y") == "10.0.0.2"


def test_early_reuse_takes_the_longest_idle(ipam: Ipam, clock: Clock) -> None:
    """When nothing else is free, cooling addresses are taken in the order of their release."""
    net = ipam.network("n", V4, cooldown_s=1000)
    last(net, 5)
    for at in (2, 0, 3):
        net.release(f"c{at}")
        clock.advance(1)
    assert last(net, 2, first=10) == [4, 2]
    assert [str(lease.address.ip) for lease in net.allocate_many([("z", "eth0")])] == ["10.0.0.5"]
    with pytest.raises(PoolExhausted):
        net.allocate("more")
    assert counts(net) == {"size": 5, "assigned": 5, "cooling": 0, "reserved": 0, "free": 0}


def test_early_reuse_of_many(ipam: Ipam, clock: Clock) -> None:
    """A batch takes what is free, then what cools, longest idle first."""
    net = ipam.network("n", V4, cooldown_s=1000)
    last(net, 4)
    for at in (3, 1):
        net.release(f"c{at}")
        clock.advance(1)
    leases = net.allocate_many([(f"x{at}", "eth0") for at in range(3)])
    assert [str(lease.address.ip)[-1] for lease in leases] == ["6", "5", "3"]


def test_early_reuse_after_sets_changed_places(ipam: Ipam) -> None:
    """A cooling address is found when its range set stands at another place now."""
    small, large, more = "10.0.1.0/30", "10.0.0.0/24", "10.0.2.0/24"
    ipam.network("n", [large, small], cooldown_s=1000).allocate("a")
    ipam.network("n", cooldown_s=1000).release("a")
    changed = ipam.network("n", [small, large], cooldown_s=1000)
    lease = changed.allocate("b")
    assert str(lease.address.ip) == "10.0.1.2"
    changed.release("b")
    with pytest.raises(PoolExhausted):
        ipam.network("n", [more, "10.0.1.4/30", small], cooldown_s=1000).allocate_many(
            [("d", "eth0"), ("e", "eth0")]
        )
    lease = ipam.network("n", [more, "10.0.1.4/30", small], cooldown_s=1000).allocate("d")
    assert str(lease.siblings[2].address.ip) == "10.0.1.2"


def test_request_of_a_cooling_address(ipam: Ipam, clock: Clock) -> None:
    """A wanted address is given though it is cooling."""
    net = ipam.network("n", V4, cooldown_s=1000)
    last(net, 2)
    net.release("c0")
    clock.advance(1)
    assert take(net, "x", "10.0.0.2") == "10.0.0.2"
    assert net.stats().cooling == 0


def test_clock_steps_back(ipam: Ipam, clock: Clock) -> None:
    """A wall clock that steps back freezes no address and frees none early."""
    net = ipam.network("n", V4, cooldown_s=30)
    last(net, 4)
    net.release("c0")
    clock.advance(-100000)
    assert take(net, "x") == "10.0.0.6"
    net.release("x")
    clock.advance(29)
    with ipam.transaction() as txn:
        assert txn.network("n").stats().cooling == 2
    assert net.allocate("y").generation == 6  # early: nothing is free, the longest idle first
    assert str(net.allocate("y", existing="return").address.ip) == "10.0.0.2"
    clock.advance(1)
    assert take(net, "z") == "10.0.0.6"


def test_clock_steps_forward(ipam: Ipam, clock: Clock) -> None:
    """A wall clock that steps forward by n seconds ends a cool-down n seconds early at most."""
    net = ipam.network("n", "10.0.0.0/24", cooldown_s=30)
    last(net, 1)
    net.release("c0")
    clock.advance(29)
    net.allocate("a")
    assert net.stats().cooling == 1
    clock.advance(1)
    net.allocate("b")
    assert net.stats().cooling == 0


def test_queue_shrinks(ipam: Ipam, clock: Clock) -> None:
    """A burst of releases is worked off by the assignments that follow it, a few each."""
    net = ipam.network("n", [["10.0.0.0/24"], V6], cooldown_s=30)
    net.allocate_many([(f"c{at}", "eth0") for at in range(20)])
    for at in range(20):
        net.release(f"c{at}")
    clock.advance(31)
    before = 40
    for at in range(10):
        net.allocate(f"x{at}")
        assert net.stats().cooling == before - 4
        before -= 4


def test_no_cooldown(ipam: Ipam) -> None:
    """Without a cool-down a released address is free at once, and leaves no trace."""
    net = ipam.network("n", V4, cooldown_s=0)
    net.allocate("a")
    net.release("a")
    with ipam.store.read() as txn:
        counts = [
            getattr(tables, name.upper()).count(txn)
            for name in ("pages", "leases", "owners", "cooldown")
        ]
    assert counts == [0, 0, 0, 0]


# Changed ranges ------------------------------------------------------------------------------


def test_changed_ranges(ipam: Ipam, clock: Clock) -> None:
    """Leases outside the new ranges are kept, counted and released; the search is in the new."""
    old = ipam.network("n", V4, cooldown_s=10)
    last(old, 3)
    old.release("c2")
    new = ipam.network("n", "10.0.0.0/30", cooldown_s=10)
    assert old.stats().size == 5
    with pytest.raises(PoolExhausted):
        new.allocate("x")
    assert old.stats().size == 5, "a failing call has not changed the ranges"
    new = ipam.network("n", "10.0.9.0/29", cooldown_s=10)
    assert take(new, "x") == "10.0.9.2"
    assert counts(new) == {"size": 8, "assigned": 3, "cooling": 1, "reserved": 0, "free": 4}
    lease = new.lookup("10.0.0.3")
    assert lease is not None
    assert lease.gateway is None
    assert new.release("c1") == [ipaddress.ip_address("10.0.0.3")]
    clock.advance(11)
    take(new, "y")
    assert counts(new) == {"size": 6, "assigned": 3, "cooling": 0, "reserved": 0, "free": 3}
    known = ipam.network("n")
    assert str(known._current_pool().sets[0]) == "10.0.9.1-10.0.9.6"  # type: ignore[union-attr]


def test_remembered_ranges_and_new_exclusions(ipam: Ipam) -> None:
    """Exclusions without ranges are taken out of the ranges that the store remembers."""
    ipam.network("n", V4).allocate("a")
    net = ipam.network("n", exclude=["10.0.0.3"])
    assert take(net, "b") == "10.0.0.4"
    assert net.stats().size == 4


def test_ranges_that_are_not_remembered(ipam: Ipam) -> None:
    """A caller whose ranges are not to be remembered counts its addresses as outside."""
    ipam.network("n", V4, cooldown_s=0).allocate("a")
    pool = ipam.network("other", "10.0.9.0/29").pool
    guest = Network(ipam.store, "n", pool, remember=False)
    guest.allocate("b")
    guest.allocate_many([("c", "eth0")])
    guest.allocate("d", addresses=["10.0.9.6"])
    host = ipam.network("n", V4, cooldown_s=0)
    assert counts(host) == {"size": 8, "assigned": 4, "cooling": 0, "reserved": 0, "free": 4}
    for owner in "bcd":
        host.release(owner)
    assert host.stats().size == 5


def test_unknown_network(ipam: Ipam) -> None:
    """A network that the store does not know can be asked and released from, not allocated."""
    net = Network(ipam.store, "n", None)
    assert (net.release("a"), list(net.leases()), net._owned("a", "e")) == ([], [], [])
    assert net.lookup("10.0.0.2") is None
    assert net.stats().size == 0
    assert net._exhausted() is None
    with pytest.raises(ConfigError, match="no ranges are given"):
        net.allocate("a")
    assert ipam.networks() == []


# Looking -------------------------------------------------------------------------------------


def test_leases_and_lookup(ipam: Ipam) -> None:
    """Leases come in address order, IPv4 first; a lookup finds exactly the assigned ones."""
    net = ipam.network("n", [V4, V6])
    for name, wanted in (("a", "10.0.0.6"), ("b", "10.0.0.3"), ("c", "10.0.0.4")):
        net.allocate(name, "eth1", addresses=[wanted])
    net.release("c", "eth1")
    assert [(lease.cidr, lease.container_id) for lease in net.leases()] == [
        ("10.0.0.3/29", "b"),
        ("10.0.0.6/29", "a"),
        ("2001:db8:1::2/64", "a"),
        ("2001:db8:1::3/64", "b"),
    ]
    lease = net.lookup("10.0.0.6")
    assert isinstance(lease, Lease)
    assert (lease.container_id, lease.ifname, lease.network) == ("a", "eth1", "n")
    assert (str(lease.gateway), lease.router_text) == ("10.0.0.1", "10.0.0.1")
    assert lease.siblings == (lease,)
    assert "10.0.0.6/29" in repr(lease)
    assert lease != "10.0.0.6"
    assert net.lookup(ipaddress.ip_address("2001:db8:1::3")).container_id == "b"  # type: ignore[union-attr]
    assert net.lookup("10.0.0.4") is None
    assert net.lookup("10.9.9.9") is None
    with pytest.raises(ConfigError):
        net.lookup("x")


def test_networks_are_told_apart(ipam: Ipam) -> None:
    """Two networks with the same ranges know nothing of each other."""
    names = ["b", "a", "ä", "a b"]
    for name in names:
        assert take(ipam.network(name, V4), "c") == "10.0.0.2"
    assert ipam.networks() == sorted(names)
    ipam.network("a", V4).release("c")
    assert [ipam.network(name).stats().assigned for name in names] == [1, 0, 1, 1]


def test_check(ipam: Ipam) -> None:
    """CHECK wants a lease, and the addresses of the ranges among the owner's own."""
    net = ipam.network("n", V4)
    net.allocate("a")
    net.check("a", "eth0", ["10.0.0.2/29", "192.0.2.1"])
    with pytest.raises(LeaseMissing) as caught:
        net.check("a", "eth0", ["10.0.0.3"])
    assert (caught.value.address, caught.value.owner) == ("10.0.0.3", ("a", "eth0"))
    with pytest.raises(LeaseMissing):
        net.check("b", "eth0")


def test_exhausted(ipam: Ipam) -> None:
    """The first set that could not serve is named; cooling addresses can serve."""
    net = ipam.network("n", [V6, V4], cooldown_s=100)
    assert net._exhausted() is None
    net.allocate("c0")
    assert net._exhausted() is None
    for at in range(1, 5):
        net.allocate(f"c{at}")
    full = net._exhausted()
    assert str(full) == "10.0.0.1-10.0.0.6"
    net.release("c3")
    assert net._exhausted() is None


@pytest.mark.parametrize("address", [(4, 1 << 32), (4, -1), (6, 1 << 128), (5, 1)])
def test_pair_that_is_no_address(ipam: Ipam, address: tuple[int, int]) -> None:
    """A family and a number are checked like a text."""
    net = ipam.network("n", "10.0.0.0/24")
    net.allocate("a")
    for call in (net.lookup, net.release_address, net.reservation, net.history):
        with pytest.raises(ConfigError, match="is not an address"):
            list(call(address))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("db", "key", "raw", "error", "left"),
    [
        (
            "leases",
            keys.address_key(POOL_ID, 4, 0x0A000003),
            b"?",
            "a lease's record cannot be read",
            ["c0", "c1"],
        ),
        (
            "owners",
            keys.owner_key(keys.id_prefix(NETWORK_ID), keys.owner_name("c4", "eth0")),
            keys.pack_held(POOL_ID, [(4, 0x0A0000FE)]),
            "10.0.0.254 is recorded for c4",
            ["c0", "c4"],
        ),
    ],
)
def test_retain_goes_on_behind_what_is_damaged(  # a case
    ipam: Ipam, clock: Clock, db: str, key: bytes, raw: bytes, error: str, left: list[str]
) -> None:
    """What cannot be freed keeps nothing else from being freed, and is an error all the same."""
    net = ipam.network("n", "10.0.0.0/24")
    net.allocate_many([(f"c{at}", "eth0") for at in range(9)])
    handle = getattr(tables, db.upper())
    with ipam.store.write() as txn:
        before = handle.get(txn, key)
        assert before is not None
        handle.put(txn, key, raw)
    with pytest.raises(StoreCorrupt, match=error):
        net.retain({("c0", "eth0")}, clock.now_ns + 1)
    with ipam.store.write() as txn:
        handle.put(txn, key, before)
    assert [lease.container_id for lease in net.leases()] == left


def test_retain(ipam: Ipam, clock: Clock) -> None:
    """GC frees what is not listed, spares what is newer than the list, and matches old leases."""
    net = ipam.network("n", "10.0.0.0/24")
    for owner in (("a", "eth0"), ("a", "eth1"), ("b", ""), ("d", "")):
        net._assign(Requester(*owner))
    listed_at = clock.now_ns + 1
    clock.advance(1)
    net.allocate("new", "eth0")
    freed = net.retain({("a", "eth0"), ("b", "eth9")}, listed_at)
    assert [int(one) & 0xFF for one in freed] == [3, 5]
    assert [lease.container_id for lease in net.leases()] == ["a", "b", "new"]
    assert Network(ipam.store, "unknown", None).retain(set(), clock.now_ns) == []


# Transactions --------------------------------------------------------------------------------


def test_a_failing_call_leaves_no_trace(ipam: Ipam) -> None:
    """In a group of calls one that raises has not happened, and the others have."""
    net = ipam.network("n", [V4, "2001:db8::/126"])
    with ipam.transaction() as txn:
        inside = txn.network("n")
        inside.allocate("a")
        inside.allocate("b")
        with pytest.raises(PoolExhausted):
            inside.allocate("c")
        with pytest.raises(DuplicateAllocation):
            inside.allocate("a")
        assert inside.stats().assigned == 4
        assert inside.lookup("10.0.0.4") is None
        inside.release("a")
        assert [lease.container_id for lease in inside.leases()] == ["b", "b"]
        assert net.stats().assigned == 0, "outside it is as before"
    assert counts(net) == {"size": 7, "assigned": 2, "cooling": 2, "reserved": 0, "free": 3}


def test_leaving_a_block_by_an_exception_undoes_all(ipam: Ipam) -> None:
    """An exception that leaves the block undoes every call in it."""
    net = ipam.network("n", V4, cooldown_s=0)
    net.allocate("a")
    before = dump(ipam.store)
    with pytest.raises(KeyError), ipam.transaction() as txn:  # noqa: PT012
        inside = txn.network("n")
        inside.release("a")
        last(inside, 4)
        raise KeyError
    assert dump(ipam.store) == before
    assert take(net, "x") == "10.0.0.3"


def test_pages_are_those_of_the_transaction(ipam: Ipam) -> None:
    """Nested calls see each other's bits over page borders, filled and emptied in one block."""
    net = ipam.network("n", "10.0.0.0/18", cooldown_s=0)
    with ipam.transaction() as txn:
        inside = txn.network("n", cooldown_s=0)
        for batch in range(4):
            inside.allocate_many([(f"c{batch}.{at}", "eth0") for at in range(4000)])
        with pytest.raises(PoolExhausted):
            inside.allocate_many([(f"d{at}", "eth0") for at in range(400)])
        for at in range(4000):
            inside.release(f"c1.{at}")
    assert net.stats().assigned == 12000


def test_iterating_while_releasing(ipam: Ipam) -> None:
    """An iteration shows one moment, whatever is released meanwhile."""
    net = ipam.network("n", "10.0.0.0/20")
    net.allocate_many([(f"c{at}", "eth0") for at in range(3000)])
    assert sum(len(net.release(lease.container_id)) for lease in net.leases()) == 3000


def test_generations_are_unique(ipam: Ipam) -> None:
    """No two assignments of a network have one generation, whatever was released between."""
    net = ipam.network("n", [V4, V6], cooldown_s=0)
    seen: list[int] = []
    for at in range(20):
        lease = net.allocate(f"c{at}")
        seen += [one.generation for one in lease.siblings]
        net.release(f"c{at}")
    assert len(set(seen)) == 40


@pytest.mark.parametrize(
    "call",
    [
        lambda net: net.allocate("x"),
        lambda net: net.lookup("10.0.0.2"),
        lambda net: list(net.leases()),
        lambda net: net.stats(),
    ],
)
def test_unreadable_ranges(ipam: Ipam, call: Callable[[Network], object]) -> None:
    """Stored ranges that cannot be read are damage, with the network's name; release needs none."""
    ipam.network("n", V4, cooldown_s=0).allocate("a")
    store = ipam.store
    with store.write() as txn:
        raw = bytes(tables.POOLS.get(txn, b"n") or b"")
        tables.POOLS.put(txn, b"n", raw[:4] + b"nonsense")
    net = Network(store, "n", None, policy=Policy(cooldown_s=0))
    with pytest.raises(StoreCorrupt) as caught:
        call(net)
    error = caught.value
    assert error.message == "the ranges of network n cannot be read: 'nonsense'"
    assert (error.path, error.hint) == (store.path, "run `fastipam check`")
    assert len(net.release("a")) == 1
    with store.write() as txn:
        tables.POOLS.put(txn, b"n", raw)
