"""Reserved and sticky addresses, and the strict cool-down: what an allocation may not take."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from tests.conftest import assert_consistent
from tests.counting import counts

from fastipam import AddressInUse, ConfigError, PoolExhausted, StoreCorrupt, errors
from fastipam.allocation import reservations
from fastipam.configuration.policy import Policy
from fastipam.ipam import Ipam
from fastipam.lease import Requester
from fastipam.network import Network
from fastipam.owners import Pod
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import policy as policy_record
from fastipam.storage.records.reservation import Reservation
from fastipam.testing import Clock

from ..ids import POOL_ID

POOL = "10.0.0.0/29"  # .2 to .6


def last(net: Network, container: str, ifname: str = "eth0", pod: Pod | None = None) -> int:
    """The last byte of the address that a container gets."""
    return net.allocate(container, ifname, pod=pod).value & 0xFF


# Reservations ---------------------------------------------------------------------------------


def test_reserved_is_not_allocated(ipam: Ipam) -> None:
    """No allocation gets a reserved address, whether it chooses, asks, or takes many."""
    net = ipam.network("n", POOL)
    assert net.reserve("10.0.0.2-10.0.0.4", reason="printers") == [
        ip_address("10.0.0.2"),
        ip_address("10.0.0.3"),
        ip_address("10.0.0.4"),
    ]
    assert net.stats().reserved == 3
    with pytest.raises(AddressInUse, match=r"10.0.0.3 is reserved: printers"):
        net.allocate("x", addresses=["10.0.0.3"])
    assert [last(net, "a"), last(net, "b")] == [5, 6]
    with pytest.raises(PoolExhausted):
        net.allocate("c")
    with pytest.raises(PoolExhausted):
        net.allocate_many([("c", "eth0")])


def test_unreserve(ipam: Ipam) -> None:
    """An address whose reservation ends is free."""
    net = ipam.network("n", POOL)
    net.reserve("10.0.0.0/29")
    assert net.unreserve("10.0.0.3") == [ip_address("10.0.0.3")]
    assert net.unreserve("10.0.0.3") == []
    assert last(net, "a") == 3
    assert len(net.unreserve("10.0.0.0/29")) == 4
    assert net.stats().reserved == 0
    assert ipam.network("unknown", POOL).unreserve("10.0.0.0/29") == []


def test_reserve_again(ipam: Ipam) -> None:
    """The last owner and reason count; the address is reserved once."""
    net = ipam.network("n", POOL)
    net.reserve("10.0.0.3", reason="first")
    net.reserve("10.0.0.3", owner="ns/pod", reason="second")
    net.reserve("10.0.0.3", owner="ns/other", reason="third")
    (one,) = net.reservations()
    assert (one.address, one.owner, one.reason, one.sticky) == (
        "10.0.0.3",
        "ns/other",
        "third",
        False,
    )
    found = net.reservation("10.0.0.3")
    assert found is not None
    assert found.reason == "third"
    assert net.reservation("10.0.0.4") is None


@pytest.mark.parametrize(
    ("owner", "pod"),
    [
        ("box", None),
        ("ns/db-0", Pod("ns", "db-0")),
    ],
)
def test_reserved_for_an_owner(ipam: Ipam, owner: str, pod: Pod | None) -> None:
    """The owner gets the address that is reserved for him, each time; nobody else ever does."""
    net = ipam.network("n", POOL)
    net.reserve("10.0.0.5", owner=owner)
    assert last(net, "other") == 2
    for _ in range(3):
        assert last(net, "box", pod=pod) == 5
        assert net.stats().reserved == 0
        net.release("box")
        assert net.stats().reserved == 1
    with pytest.raises(AddressInUse, match="reserved for"):
        net.allocate("other2", addresses=["10.0.0.5"])
    assert net.allocate("box", addresses=["10.0.0.5"], pod=pod).value & 0xFF == 5


def test_reserving_what_is_assigned(ipam: Ipam) -> None:
    """Who has the address keeps it; afterwards it is reserved."""
    net = ipam.network("n", POOL)
    assert last(net, "a") == 2
    net.reserve("10.0.0.2")
    assert net.stats().assigned == 1
    assert net.lookup("10.0.0.2") is not None
    net.release("a")
    assert counts(net) == {"size": 5, "assigned": 0, "cooling": 0, "reserved": 1, "free": 4}
    assert last(net, "b") == 3


def test_ending_a_reservation_of_what_is_assigned(ipam: Ipam) -> None:
    """The lease stays a lease."""
    net = ipam.network("n", POOL, cooldown_s=0)
    net.reserve("10.0.0.2", owner="a")
    net.allocate("a")
    assert net.unreserve("10.0.0.2") == [ip_address("10.0.0.2")]
    assert net.stats().assigned == 1
    net.release("a")
    assert net.stats().free == 5


def test_reserving_what_cools(ipam: Ipam) -> None:
    """A cooling address is reserved at once."""
    net = ipam.network("n", POOL)
    net.allocate("a")
    net.release("a")
    net.reserve("10.0.0.2")
    assert counts(net) == {"size": 5, "assigned": 0, "cooling": 0, "reserved": 1, "free": 4}


@pytest.mark.parametrize(
    ("target", "owner", "field"),
    [
        ("10.0.0.1", "", "target"),  # the gateway
        ("10.9.0.0/24", "", "target"),
        ("nonsense", "", "target"),
        ("2001:db8::1", "", "target"),
        ("10.0.0.2", "a\0b", "owner"),
        ("10.0.0.2", "a\ud800", "owner or reason"),
    ],
)
def test_refused_reservation(ipam: Ipam, target: str, owner: str, field: str) -> None:
    """What cannot be reserved is refused with field and value, and nothing changes."""
    net = ipam.network("n", POOL)
    net.allocate("a")
    with pytest.raises(ConfigError) as caught:
        net.reserve(target, owner=owner)
    assert caught.value.field == field
    assert net.stats().reserved == 0


def test_too_many(ipam: Ipam) -> None:
    """A reservation of a whole IPv6 network is refused with the way to do it."""
    net = ipam.network("n", "2001:db8::/64")
    with pytest.raises(ConfigError, match="65536") as caught:
        net.reserve("2001:db8::/64")
    assert "exclude" in str(caught.value.hint)


def test_reservation_outside_after_a_change(ipam: Ipam) -> None:
    """Reservations that new ranges leave outside are counted, with a lease or without."""
    net = ipam.network("n", "10.0.0.0/24")
    net.reserve("10.0.0.8-10.0.0.9", owner="a")
    net.allocate("a")
    other = ipam.network("n", "10.0.1.0/24")
    other.allocate("b")
    assert counts(other) == {"size": 255, "assigned": 2, "cooling": 0, "reserved": 1, "free": 252}


# By hand: which addresses, and what the refusals say ------------------------------------------


def test_every_address_of_a_target(ipam: Ipam) -> None:
    """Of a target those that the ranges can assign, the first and the last of each range, too."""
    net = ipam.network("n", [[POOL, "10.0.1.0/29"], "2001:db8::/126"])
    assert [int(one) & 0xFFF for one in net.reserve("10.0.0.6-10.0.1.2")] == [0x006, 0x102]
    assert net.reserve("10.0.0.2") == [ip_address("10.0.0.2")]
    assert net.reserve("10.0.1.6") == [ip_address("10.0.1.6")]
    assert [int(one) & 0xFF for one in net.reserve("2001:db8::/64")] == [2, 3]
    assert [int(one) & 0xF for one in net.unreserve("::/0")] == [2, 3]
    assert net.stats().reserved == 4


def test_most_at_once(ipam: Ipam, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many addresses as are allowed at once are reserved; one more is refused with the way."""
    monkeypatch.setattr(reservations, "_MOST_AT_ONCE", 4)
    net = ipam.network("n", [POOL, "10.0.1.0/29"])
    with pytest.raises(ConfigError) as caught:
        net.reserve("10.0.0.5-10.0.1.4")
    error = caught.value
    assert (error.message, error.field, error.value, error.hint) == (
        "10.0.0.5-10.0.1.4 has 5 addresses, but at most 4 can be reserved at once",
        "target",
        "10.0.0.5-10.0.1.4",
        "add them to ipam.exclude in the configuration instead",
    )
    assert net.stats().reserved == 0
    assert len(net.reserve("10.0.0.5-10.0.1.3")) == 4


def test_target_outside(ipam: Ipam) -> None:
    """A target that the ranges cannot assign is refused with the ranges there are."""
    net = ipam.network("n", [POOL, "2001:db8::/126"])
    with pytest.raises(ConfigError) as caught:
        net.reserve("10.0.0.0/31")
    error = caught.value
    assert (error.message, error.field, error.value, error.hint) == (
        "no address of 10.0.0.0/31 can be assigned: only the gateway is in a range",
        "target",
        "10.0.0.0/31",
        "the ranges are 10.0.0.1-10.0.0.6; 2001:db8::1-2001:db8::3",
    )


def test_several_that_cool_or_are_given_back(ipam: Ipam) -> None:
    """Each cooling address that is reserved, and each reserved one given back, is counted."""
    net = ipam.network("n", POOL)
    for name in "abcd":
        net.allocate(name)
    net.release("a")
    net.release("b")
    net.reserve("10.0.0.2-10.0.0.5")
    assert counts(net) == {"size": 5, "assigned": 2, "cooling": 0, "reserved": 2, "free": 1}
    net.release("c")
    net.release("d")
    assert counts(net) == {"size": 5, "assigned": 0, "cooling": 0, "reserved": 4, "free": 1}


def test_events_of_reservations(ipam: Ipam) -> None:
    """A reservation is no assignment: its events have no generation."""
    net = ipam.network("n", POOL)
    net.reserve("10.0.0.3", owner="ns/db-0")
    net.unreserve("10.0.0.3")
    events = [(one.kind, one.generation, one.container_id) for one in net.history()]
    assert events == [("reserved", 0, ""), ("unreserved", 0, "")]
    assert {(one.pod_namespace, one.pod_name) for one in net.history()} == {("ns", "db-0")}


def test_one_of_an_owners_reservations_ends(ipam: Ipam) -> None:
    """The others stay his: he gets them, in their order, as long as there is one."""
    net = ipam.network("n", POOL, cooldown_s=0)
    net.reserve("10.0.0.4-10.0.0.6", owner="box")
    net.unreserve("10.0.0.5")
    assert last(net, "box") == 4
    net.release("box")
    net.unreserve("10.0.0.4")
    assert last(net, "box") == 6
    net.release("box")
    net.unreserve("10.0.0.6")
    assert last(net, "box") == 2


def test_kept_under_several_names(ipam: Ipam) -> None:
    """An owner has what is kept for its container and what is kept for its pod, in every set."""
    net = ipam.network("n", [POOL, "10.0.1.0/29"])
    net.reserve("10.0.0.5", owner="ns/db-0")
    net.reserve("10.0.1.6", owner="box")
    lease = net.allocate("box", pod=POD)
    assert [one.value & 0xFFF for one in lease.siblings] == [0x005, 0x106]


def test_reservation_as_text() -> None:
    """What a debugger shows: the address, and for whom it is."""
    assert repr(Reservation(4, 0x0A000002, "ns/a")) == "<Reservation 10.0.0.2 for 'ns/a'>"
    assert repr(Reservation(6, 1, "")) == "<Reservation ::1 for 'nobody'>"


def _without_a_record(ipam: Ipam, db: str, call: Callable[[Network], object]) -> None:
    """Make a call while a database lacks 10.0.0.2; it fails, and the store is whole again."""
    with ipam.transaction() as txn:
        key = keys.address_key(POOL_ID, 4, 0x0A000002)
        assert getattr(tables, db.upper()).delete(txn, key)
        call(txn.network("n"))


def test_reserving_what_nobody_knows(ipam: Ipam) -> None:
    """An address whose bit is set and that has no record is refused, with the command to run."""
    net = ipam.network("n", POOL)
    net.allocate("a")
    with pytest.raises(AddressInUse) as caught:
        _without_a_record(ipam, "leases", lambda net: net.reserve("10.0.0.2"))
    error = caught.value
    assert (error.message, error.address, error.hint) == (
        "10.0.0.2 is marked as used, but the store has no lease for it",
        "10.0.0.2",
        errors.CHECK_HINT,
    )


def test_kept_without_a_reservation(ipam: Ipam, clock: Clock) -> None:
    """An address whose time is over and that has no reservation is damage: nothing is freed."""
    net = ipam.network("n", POOL, sticky_s=100)
    net.allocate("one", pod=POD)
    net.release("one")
    clock.advance(101)
    with pytest.raises(StoreCorrupt) as caught:
        _without_a_record(ipam, "reservations", lambda net: net.allocate("two"))
    error = caught.value
    assert (error.message, error.path, error.hint) == (
        "10.0.0.2 is kept for an owner, but has no reservation",
        ipam.store.path,
        errors.CHECK_HINT,
    )
    assert [one.address for one in net.reservations()] == ["10.0.0.2"]


# What the store remembers -----------------------------------------------------------------------


def test_policy_is_remembered(ipam: Ipam) -> None:
    """Who gives back without a configuration does it as the last assignment's said."""
    net = ipam.network("n", POOL, cooldown_s=0, history=0, sticky_s=7, cooldown_policy="strict")
    net.allocate("a")
    known = ipam.network("n")
    assert policy_record.pack(known.policy) == policy_record.pack(net.policy)
    assert (known.policy.strict, known.policy.sticky_s) == (True, 7)
    known.release_address("10.0.0.2")
    assert net.stats().cooling == 0
    assert list(net.history()) == []
    assert ipam.network("n", cooldown_s=5).policy.history == 100_000
    other = ipam.network("n", POOL)
    other.allocate("b")
    assert policy_record.pack(ipam.network("n").policy) == policy_record.pack(other.policy)
    assert ipam.network("unknown", POOL).policy.cooldown_ns == 30 * 10**9


# Sticky ---------------------------------------------------------------------------------------

POD = Pod("ns", "db-0")


def test_sticky(ipam: Ipam, clock: Clock) -> None:
    """A pod gets its address back, under another container id, for as long as it is kept."""
    net = ipam.network("n", POOL, sticky_s=100)
    assert last(net, "one", pod=POD) == 2
    net.release("one")
    assert net.stats().reserved == 1
    clock.advance(99)
    assert last(net, "other", pod=Pod("ns", "db-1")) == 3
    assert last(net, "two", pod=POD) == 2
    assert net.stats().reserved == 0
    net.release("two")
    (kept,) = net.reservations()
    assert (kept.owner, kept.ifname, kept.sticky) == ("ns/db-0", "eth0", True)
    with pytest.raises(AddressInUse, match="reserved for ns/db-0"):
        net.allocate("x", addresses=["10.0.0.2"])


def test_sticky_ends(ipam: Ipam, clock: Clock) -> None:
    """After its time the address is free for everybody."""
    net = ipam.network("n", POOL, sticky_s=100)
    net.allocate("one", pod=POD)
    net.release("one")
    clock.advance(101)
    for at in range(5):
        net.allocate(f"c{at}")
    assert net.stats().assigned == 5
    assert list(net.reservations()) == []


def test_sticky_ends_at_its_time(ipam: Ipam, clock: Clock) -> None:
    """Not a moment before it, and not one after."""
    net = ipam.network("n", POOL, sticky_s=100)
    net.allocate("one", pod=POD)
    net.release("one")
    clock.now_ns += 100 * 10**9 - 1
    net.tidy()
    assert [one.address for one in net.reservations()] == ["10.0.0.2"]
    clock.now_ns += 1
    net.tidy()
    assert list(net.reservations()) == []


def test_sticky_keeps_one_address(ipam: Ipam) -> None:
    """Two containers of one pod, one after the other: only the later one's address is kept."""
    net = ipam.network("n", POOL, sticky_s=100)
    assert last(net, "old", pod=POD) == 2
    assert last(net, "new", pod=POD) == 3
    net.release("old")
    net.release("new")
    assert [one.address for one in net.reservations()] == ["10.0.0.3"]
    assert last(net, "again", pod=POD) == 3


def test_what_was_kept_for_a_pod_cools(ipam: Ipam, clock: Clock) -> None:
    """An address that a later one of its pod replaces cools before somebody else gets it."""
    net = ipam.network("n", POOL, sticky_s=100, cooldown_policy="strict")
    assert (last(net, "old", pod=POD), last(net, "new", pod=POD)) == (2, 3)
    net.release("old")
    clock.advance(1)
    net.release("new")
    assert counts(net) == {"size": 5, "assigned": 0, "cooling": 1, "reserved": 1, "free": 3}
    for at in range(3):
        net.allocate(f"c{at}")
    with pytest.raises(PoolExhausted, match="is free in 30 s"):
        net.allocate("x")
    clock.advance(30)
    assert last(net, "x") == 2


@pytest.mark.parametrize("end", ["a later address", "an operator"])
def test_what_is_kept_no_longer_has_cooled(ipam: Ipam, clock: Clock, end: str) -> None:
    """It does not cool once more, though nobody has freed it yet, whoever ends it then."""
    net = ipam.network("n", POOL, sticky_s=100, cooldown_policy="strict")
    assert (last(net, "old", pod=POD), last(net, "new", pod=POD)) == (2, 3)
    net.release("old")
    clock.advance(100)
    if end == "an operator":
        assert net.unreserve("10.0.0.2") == [ip_address("10.0.0.2")]
    net.release("new")
    assert counts(net) == {"size": 5, "assigned": 0, "cooling": 0, "reserved": 1, "free": 4}
    assert [last(net, f"c{at}") for at in range(4)] == [4, 5, 6, 2]


def test_ending_what_is_kept_for_a_pod(ipam: Ipam, clock: Clock) -> None:
    """An operator who ends it does not end the cool-down."""
    net = ipam.network("n", POOL, sticky_s=100)
    net.allocate("one", pod=POD)
    net.release("one")
    assert net.unreserve("10.0.0.2") == [ip_address("10.0.0.2")]
    assert counts(net) == {"size": 5, "assigned": 0, "cooling": 1, "reserved": 0, "free": 4}
    assert net.lookup("10.0.0.2") is None
    clock.advance(30)
    net.allocate("x")
    assert net.stats().cooling == 0


def test_sticky_for_less_than_it_cools(ipam: Ipam, clock: Clock) -> None:
    """The time for which an address is kept for its pod cannot cut its cool-down short."""
    net = ipam.network("n", POOL, sticky_s=5, cooldown_s=30)
    net.allocate("one", pod=POD)
    net.release("one")
    clock.advance(29)
    assert [last(net, f"c{at}") for at in range(4)] == [3, 4, 5, 6]
    with pytest.raises(PoolExhausted):
        net.allocate("x")
    clock.advance(1)
    assert last(net, "x") == 2


def test_sticky_in_a_containers_own_ranges(ipam: Ipam) -> None:
    """All of a pod's addresses are kept, also that of ranges which only its containers have."""
    ipam.network("n", [POOL, "2001:db8::/64"]).allocate("first")
    pool = ipam.network("other", ["10.9.0.0/29", POOL, "2001:db8::/64"]).pool
    guest = Network(ipam.store, "n", pool, policy=Policy(sticky_s=100), remember=False)
    for round_ in range(3):
        lease = guest.allocate(f"one{round_}", pod=POD)
        assert [str(one.ip) for one in lease.addresses] == ["10.9.0.2", "10.0.0.3", "2001:db8::3"]
        ipam.network("n", sticky_s=100).release(f"one{round_}")
        assert ipam.network("n").stats().reserved == 3


def test_pool_full_of_what_is_kept_no_longer(ipam: Ipam, clock: Clock) -> None:
    """Addresses whose time is over serve, also when many of other ranges were due before."""
    old = ipam.network("n", "10.1.0.0/24", sticky_s=100)
    for at in range(20):
        old.allocate(f"old{at}", pod=("ns", f"old{at}"))
    for at in range(20):
        old.release(f"old{at}")
    net = ipam.network("n", POOL, sticky_s=100)
    for at in range(5):
        net.allocate(f"c{at}", pod=("ns", f"p{at}"))
    for at in range(5):
        net.release(f"c{at}")
    assert net._exhausted() is not None
    with pytest.raises(PoolExhausted):
        net.allocate("x")
    clock.advance(101)
    assert net._exhausted() is None
    assert last(net, "x") == 2


def test_kept_no_longer_comes_before_what_cools(ipam: Ipam, clock: Clock) -> None:
    """Nothing is taken early while an address is kept whose time is over; it can be asked for."""
    old = ipam.network("n", "10.1.0.0/24", sticky_s=100)
    for at in range(9):
        old.allocate(f"old{at}", pod=("ns", f"old{at}"))
        old.release(f"old{at}")
    net = ipam.network("n", POOL, sticky_s=100)
    for at in range(5):
        net.allocate(f"c{at}", pod=("ns", f"p{at}") if at > 2 else None)
    for at in (3, 4):
        net.release(f"c{at}")
    clock.advance(101)
    net.release("c0")  # it cools
    assert net.allocate("asked", addresses=["10.0.0.6"]).value & 0xFF == 6
    assert last(net, "x") == 5
    assert last(net, "y") == 2


def test_many_for_one_owner(ipam: Ipam, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses are reserved for an owner, his list is read once a call."""
    net = ipam.network("n", "10.0.0.0/16")
    read: list[int] = []
    real = keys.read_addresses

    def counted(raw: bytes) -> list[tuple[int, int]]:
        read.append(len(raw))
        return real(raw)

    monkeypatch.setattr(keys, "read_addresses", counted)
    for target, owner in (("10.0.0.0/23", "box"), ("10.0.0.0/23", "box"), ("10.0.1.0/24", "other")):
        read.clear()
        assert len(net.reserve(target, owner=owner)) >= 256
        assert len(read) <= 2
    read.clear()
    assert len(net.unreserve("10.0.0.0/22")) == 510
    assert len(read) <= 2
    assert net.stats().reserved == 0


def test_sticky_by_interface(ipam: Ipam) -> None:
    """A pod with two interfaces in one network keeps an address for each."""
    net = ipam.network("n", [POOL, "2001:db8::/64"], sticky_s=100)
    before = [str(net.allocate("a", name, pod=POD).addresses) for name in ("eth0", "eth1")]
    for name in ("eth0", "eth1"):
        net.release("a", name)
    assert net.stats().reserved == 4
    after = [str(net.allocate("b", name, pod=POD).addresses) for name in ("eth1", "eth0")]
    assert after == before[::-1]


def test_sticky_begins_anew(ipam: Ipam, clock: Clock) -> None:
    """Who has a kept address again has no reservation; its time begins with the next release."""
    net = ipam.network("n", POOL, sticky_s=100)
    net.allocate("one", pod=POD)
    net.release("one")
    clock.advance(60)
    assert last(net, "two", pod=POD) == 2
    assert list(net.reservations()) == []
    clock.advance(60)
    net.release("two")
    clock.advance(60)
    (kept,) = net.reservations()
    assert (kept.address, kept.reason) == ("10.0.0.2", "sticky")
    assert last(net, "three", pod=POD) == 2


def test_sticky_beside_an_operators_reservation(ipam: Ipam) -> None:
    """What an operator keeps for a pod stays when the pod's last address is kept for it, too."""
    net = ipam.network("n", POOL, sticky_s=100)
    assert net._assign(Requester("one", "", pod=POD)).value & 0xFF == 2
    net.reserve("10.0.0.5", owner="ns/db-0")
    net.release("one", "")
    assert {one.address: one.sticky for one in net.reservations()} == {
        "10.0.0.2": True,
        "10.0.0.5": False,
    }


def test_sticky_for_a_name_that_is_no_text(ipam: Ipam) -> None:
    """A pod's name with bytes that are no UTF-8 is a name like any other."""
    pod = Pod("ns", "db\udcff")
    net = ipam.network("n", POOL, sticky_s=100)
    assert last(net, "one", pod=pod) == 2
    net.release("one")
    assert [one.owner for one in net.reservations()] == ["ns/db\udcff"]
    assert [last(net, "x"), last(net, "two", pod=pod)] == [3, 2]


def test_sticky_ends_a_few_at_a_time(ipam: Ipam, clock: Clock) -> None:
    """A call frees four of those whose time is over, to the moment, and not those that are due."""
    net = ipam.network("n", "10.0.0.0/28", sticky_s=100)
    for at in range(7):
        net.allocate(f"c{at}", pod=("ns", f"p{at}"))
    for at in range(6):
        net.release(f"c{at}")
    clock.advance(50)
    net.release("c6")
    clock.advance(50)
    left = []
    for at in range(3):
        net.allocate(f"new{at}")
        left.append(net.stats().reserved)
    assert left == [3, 1, 1]
    other = ipam.network("other", POOL, sticky_s=100)  # its records come behind those of the first
    other.allocate("c", pod=POD)
    other.release("c")
    clock.advance(50)
    net.allocate("new3")
    assert (net.stats().reserved, other.stats().reserved) == (0, 1)


def test_reservation_that_cannot_be_read() -> None:
    """A value that is no reservation is damage, and shown with its address."""
    with pytest.raises(StoreCorrupt) as caught:
        Reservation.read(4, 0x0A000002, b"x")
    assert caught.value.message == "the reservation of 10.0.0.2 cannot be read: the bytes are 78"
    assert caught.value.hint == errors.CHECK_HINT
    one = Reservation(4, 0x0A000002, "a")
    assert (one.ifname, one.reason, one.sticky) == ("", "", False)


def test_not_a_pod(ipam: Ipam) -> None:
    """A container without a pod's name has nothing that is kept."""
    net = ipam.network("n", POOL, sticky_s=100)
    net.allocate("a")
    net.release("a")
    assert net.stats().cooling == 1


# The strict cool-down -------------------------------------------------------------------------


def test_strict(ipam: Ipam, clock: Clock) -> None:
    """Nothing is given out before its time; the error says how long that is."""
    net = ipam.network("n", POOL, cooldown_s=30, cooldown_policy="strict")
    for at in range(5):
        net.allocate(f"c{at}")
    net.release("c3")
    clock.advance(10)
    net.release("c1")
    assert net._exhausted() is not None
    with pytest.raises(PoolExhausted, match="is free in 20 s") as caught:
        net.allocate("x")
    assert caught.value.retry_after_s == 20
    with pytest.raises(PoolExhausted):
        net.allocate_many([("x", "eth0"), ("y", "eth0")])
    clock.advance(20)
    assert net._exhausted() is None
    assert last(net, "x") == 5
    with pytest.raises(PoolExhausted) as caught:
        net.allocate("y")
    assert caught.value.retry_after_s == 10


def test_strict_and_nothing_cools(ipam: Ipam) -> None:
    """When waiting does not help, nobody is told to wait."""
    net = ipam.network("n", POOL, cooldown_policy="strict")
    for at in range(5):
        net.allocate(f"c{at}")
    with pytest.raises(PoolExhausted) as caught:
        net.allocate("x")
    assert caught.value.retry_after_s is None


def test_strict_clock_steps(ipam: Ipam, clock: Clock) -> None:
    """A wall clock that steps back blocks nothing for longer than the cool-down."""
    net = ipam.network("n", POOL, cooldown_s=30, cooldown_policy="strict")
    for at in range(5):
        net.allocate(f"c{at}")
    net.release("c0")
    clock.advance(-86_400)
    with pytest.raises(PoolExhausted) as caught:
        net.allocate("x")
    assert caught.value.retry_after_s == 30
    clock.advance(15)
    with pytest.raises(PoolExhausted) as caught:
        net.allocate("x")  # the call before has failed, and the time since then counts all the same
    assert caught.value.retry_after_s == 15
    clock.advance(15)
    assert last(net, "x") == 2


@pytest.mark.parametrize("ahead_s", [86_400, 150 * 365 * 86_400])
def test_clock_that_was_ahead(ipam: Ipam, clock: Clock, ahead_s: int) -> None:
    """A wall clock that was far ahead for a while, or by centuries, leaves a store that works."""
    net = ipam.network("n", POOL, cooldown_s=30, cooldown_policy="strict", sticky_s=100)
    for at in range(5):
        net.allocate(f"c{at}")
    clock.advance(ahead_s)
    net.release("c0")
    clock.advance(10)
    net.release("c1")
    assert_consistent(ipam.store)
    clock.advance(-ahead_s)
    with pytest.raises(PoolExhausted):
        net.allocate("x")
    clock.advance(30)
    assert [last(net, "x"), last(net, "y")] == [2, 3]
    net.release("c2")
    with pytest.raises(PoolExhausted, match="free in 30 s"):
        net.allocate("z")


def test_sticky_clock_steps(ipam: Ipam, clock: Clock) -> None:
    """The same for addresses that are kept: they are free after their time, not a day later."""
    net = ipam.network("n", POOL, cooldown_s=0, sticky_s=100)
    for at in range(5):
        net.allocate(f"c{at}", pod=("ns", f"p{at}"))
        net.release(f"c{at}")
    clock.advance(-86_400)
    with pytest.raises(PoolExhausted):
        net.allocate("x")
    clock.advance(101)
    net.allocate("x")


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ({"cooldown_policy": "never"}, "cooldownPolicy"),
        ({"sticky_s": -1}, "stickyTTL"),
        ({"history": -1}, "history"),
        ({"history_age_s": 0}, "historyAge"),
        ({"cooldown_s": -1}, "cooldown"),
    ],
)
def test_refused_options(ipam: Ipam, option: dict[str, object], field: str) -> None:
    """An option that cannot be is refused with its name and value."""
    with pytest.raises(ConfigError) as caught:
        ipam.network("n", POOL, **option)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.value == next(iter(option.values()))
