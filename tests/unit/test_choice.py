"""Which address is next, what is counted when it is taken, and what is said when there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.counting import counts

from fastipam import errors
from fastipam.addressing.parsing import parse_ranges
from fastipam.errors import AddressInUse, DuplicateAllocation, PoolExhausted, StoreCorrupt
from fastipam.ipam import open_with
from fastipam.lease import Requester
from fastipam.network import Network
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.verify import verify

from ..ids import NETWORK_ID, POOL_ID

if TYPE_CHECKING:
    from pathlib import Path

    from fastipam.ipam import Ipam
    from fastipam.storage.store import Store
    from fastipam.testing import Clock

POOL = "10.0.0.0/29"  # .2 to .6 are assigned
HINT = (
    "`fastipam list --network n` shows the owners of the addresses, `fastipam sweep --dry-run` "
    "shows the leases of dead containers, and `fastipam sweep` releases them; or add a range to "
    '"ranges" in the configuration'
)


def _fill(net: Network, count: int = 5) -> None:
    net.allocate_many([(f"c{number}", "eth0") for number in range(count)])


@pytest.mark.parametrize(("wanted", "many"), [(1, ""), (2, " (2 were wanted)")])
def test_exhausted(wanted: int, many: str, ipam: Ipam) -> None:
    """Nothing is free: the range set, the network and how many were wanted, and what to do."""
    net = ipam.network("n", POOL)
    _fill(net)
    with pytest.raises(PoolExhausted) as caught:
        net.allocate_many([(f"more{number}", "eth0") for number in range(wanted)])
    error = caught.value
    assert str(error) == (
        f"no address is free in range set 10.0.0.1-10.0.0.6 of network n{many}: "
        "5 assigned, 3 never assigned (excluded, or a gateway)"
    )
    assert (error.wanted, error.retry_after_s, error.hint) == (wanted, None, HINT)


def test_one_call_wants_one(ipam: Ipam) -> None:
    """A single call that finds nothing has wanted one address."""
    net = ipam.network("n", POOL)
    _fill(net)
    with pytest.raises(PoolExhausted) as caught:
        net.allocate("more")
    assert "(" not in str(caught.value).partition(":")[0]
    assert caught.value.wanted == 1


def test_exhausted_by_what(ipam: Ipam) -> None:
    """A full pool's error names what its addresses are used for, and for whom they are kept."""
    sticky = ipam.network("n", POOL, cooldown_policy="strict", cooldown_s=30)
    sticky.allocate("a")
    sticky.reserve("10.0.0.3")
    kept = ipam.network("n", POOL, sticky_s=100, cooldown_policy="strict", cooldown_s=30)
    kept.allocate("db", pod=("ns", "db-0"))
    kept.release("db")
    sticky.allocate("b")
    sticky.allocate("c")
    sticky.release("c")
    with pytest.raises(PoolExhausted) as caught:
        sticky.allocate("more")
    assert str(caught.value).endswith(
        ": 2 assigned, 1 cooling down, 1 kept sticky for ns/db-0, 1 reserved, 3 never assigned "
        "(excluded, or a gateway); the first cooling address is free in 30 s"
    )


@pytest.mark.parametrize(("passed_s", "left_s"), [(0, 30), (28, 2), (29, 1), (29.5, 1), (30, 1)])
def test_exhausted_while_one_cools(passed_s: float, left_s: int, ipam: Ipam, clock: Clock) -> None:
    """A strict network says when to try again, in whole seconds, never 0."""
    net = ipam.network("n", POOL, cooldown_policy="strict")
    _fill(net)
    net.release("c2", "eth0")
    clock.advance(passed_s)
    if passed_s == 30:
        assert str(net.allocate("more").address.ip) == "10.0.0.4"  # due: it is free
        return
    with pytest.raises(PoolExhausted) as caught:
        net.allocate("more")
    assert caught.value.retry_after_s == left_s
    assert str(caught.value).endswith(f"; the first cooling address is free in {left_s} s")


def test_early_only_as_many_as_are_missing(ipam: Ipam, clock: Clock) -> None:
    """Of those that cool a bulk takes what the free ones do not give, the longest cooling first."""
    net = ipam.network("n", POOL)
    _fill(net)
    for name in ("c3", "c0", "c1"):
        net.release(name, "eth0")
        clock.advance(1)
    leases = net.allocate_many([("x", "eth0"), ("y", "eth0")])
    assert [str(lease.address.ip) for lease in leases] == ["10.0.0.5", "10.0.0.2"]
    assert (net.stats().assigned, net.stats().cooling) == (4, 1)


def test_free_ones_and_then_the_longest_cooling(ipam: Ipam, clock: Clock) -> None:
    """A bulk takes the free ones and the rest of those that cool: not one more than it wants."""
    net = ipam.network("n", POOL)
    _fill(net, 4)
    for name in ("c1", "c0"):
        net.release(name, "eth0")
        clock.advance(1)
    leases = net.allocate_many([("x", "eth0"), ("y", "eth0")])
    assert [str(lease.address.ip) for lease in leases] == ["10.0.0.6", "10.0.0.3"]
    assert (net.stats().assigned, net.stats().cooling) == (4, 1)


def test_more_than_cools(ipam: Ipam) -> None:
    """A bulk that those that cool cannot satisfy fails whole; waiting would not help it."""
    net = ipam.network("n", POOL)
    _fill(net)
    net.release("c0", "eth0")
    with pytest.raises(PoolExhausted) as caught:
        net.allocate_many([("x", "eth0"), ("y", "eth0")])
    assert caught.value.retry_after_s is None
    assert (net.stats().assigned, net.stats().cooling) == (4, 1)


def test_free_ones_before_any_that_cools(ipam: Ipam) -> None:
    """A bulk that the free addresses satisfy leaves those that cool alone; it counts right."""
    net = ipam.network("n", POOL)
    _fill(net, 2)
    net.release("c0", "eth0")
    leases = net.allocate_many([(name, "eth0") for name in "xyz"])
    assert [str(lease.address.ip) for lease in leases] == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert net.stats().cooling == 1


def test_mixed(ipam: Ipam) -> None:
    """A bulk over two ranges takes what each has, no more."""
    net = ipam.network("n", [["10.0.0.0/29", "10.0.1.0/29"]])
    leases = net.allocate_many([(f"c{number}", "eth0") for number in range(7)])
    texts = [str(lease.address.ip) for lease in leases]
    assert texts == [*(f"10.0.0.{host}" for host in range(2, 7)), "10.0.1.2", "10.0.1.3"]
    assert net.stats().assigned == 7


def test_ranges_of_one_call(ipam: Ipam, store: Store) -> None:
    """A call with ranges of its own, not the network's: what lies outside is counted as such."""
    own = ipam.network("n", POOL)
    own.allocate("mine")
    wider = parse_ranges("10.0.0.0/28")
    other = Network(store, "n", wider, remember=False)
    inside = other.allocate("one")
    assert str(inside.address.ip) == "10.0.0.3"
    other.allocate("within", addresses=["10.0.0.4"])
    ipam.network("n").allocate("stored")  # .5, from the ranges that the store knows
    other.allocate_many([(f"c{number}", "eth0") for number in range(3)])  # .6 to .8
    other.allocate("asked", addresses=["10.0.0.12"])
    before = counts(own)
    assert before["assigned"] == 8
    # The four states add up to the ranges and what is used outside of them: .7, .8 and .12.
    assert sum(before[state] for state in ("assigned", "cooling", "reserved", "free")) == 5 + 3
    other.release("asked")
    other.allocate("again", addresses=["10.0.0.12"])  # it only cools, and is counted already
    assert counts(own) == before


@pytest.mark.parametrize(("history", "kept"), [(100, [1, 2, 3, 4]), (2, [3, 4]), (0, [])])
def test_history_of_a_bulk(history: int, kept: list[int], ipam: Ipam) -> None:
    """Each address is an event with its own generation; of too many the last ones are kept."""
    net = ipam.network("n", POOL, history=history)
    leases = net.allocate_many([(f"c{number}", "eth0") for number in range(4)])
    assert [lease.generation for lease in leases] == [1, 2, 3, 4]
    for lease in leases:  # of its namespace nothing is known
        assert (lease.network, lease.inode, lease.mount_ns, lease.born_ns) == ("n", 0, 0, 0)
    found = [(one.generation, one.address, one.container_id) for one in net.history()]
    assert found == [(each, f"10.0.0.{each + 1}", f"c{each - 1}") for each in kept]


def test_what_cools_outside_is_not_looked_at(
    ipam: Ipam, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a full set nor STATUS looks through what cools and lies in none of the ranges."""
    old = ipam.network("n", "10.1.0.0/22", cooldown_s=1000)
    old.allocate_many([(f"old{at}", "eth0") for at in range(500)])
    for at in range(250):
        old.release(f"old{at}")
    net = ipam.network("n", "10.0.0.0/30", cooldown_s=1000, cooldown_policy="strict")
    net.allocate("a")
    for at in range(250, 500):  # given back when they were outside already
        net.release(f"old{at}")
    looked: list[bytes] = []
    real = keys.read_cooldown_key

    def counted(key: bytes) -> tuple[int, int, int, int, int]:
        looked.append(bytes(key))
        return real(key)

    monkeypatch.setattr(keys, "read_cooldown_key", counted)
    with pytest.raises(PoolExhausted):
        net.allocate("b")
    assert net._exhausted() is not None
    assert len(looked) < 10
    clock.advance(1000)
    monkeypatch.undo()
    for _ in range(170):  # and it is freed a few at a time all the same
        net.release("a")
        clock.advance(1000)
        net.allocate("a")
    assert net.stats().cooling == 0
    assert net.stats().size == 1


def test_what_cools_of_a_containers_ranges_is_taken_early(ipam: Ipam, clock: Clock) -> None:
    """Ranges that only some containers have use what cools in them, the longest idle first."""
    ipam.network("n", "10.0.0.0/29").allocate("host")
    own = ipam.network("other", ["10.9.0.0/30", "10.0.0.0/29"]).pool
    guest = Network(ipam.store, "n", own, remember=False)
    assert guest.allocate("a").value & 0xFF == 2
    host = ipam.network("n")
    host.release("a")
    clock.advance(1)
    assert guest._exhausted() is None
    assert [str(one.ip) for one in guest.allocate("b").addresses] == ["10.9.0.2", "10.0.0.4"]
    with pytest.raises(PoolExhausted):
        guest.allocate("c")
    ipam.network("n", "10.0.0.0/28").allocate("again")  # the ranges change: all are numbered anew
    host.release("b")
    assert [str(one.ip) for one in guest.allocate("c").addresses] == ["10.9.0.2", "10.0.0.6"]


# What is said of an address or an owner that has one already --------------------------------------


@pytest.mark.parametrize(("ifname", "whom"), [("eth0", "a eth0"), ("", "a")])
def test_requested_and_in_use(ifname: str, whom: str, ipam: Ipam) -> None:
    """Somebody has the address: it is said who."""
    net = ipam.network("n", POOL)
    if ifname:
        net.allocate("a", ifname)
    else:  # as an import from an old host-local makes it
        net._adopt(Requester("a", ""), 4, 0x0A000002, 1)
    with pytest.raises(AddressInUse) as caught:
        net.allocate("b", addresses=["10.0.0.2"])
    error = caught.value
    assert error.message == f"the requested address 10.0.0.2 is assigned to {whom}"
    assert (error.address, error.owner) == ("10.0.0.2", ("a", ifname))
    assert "`fastipam release 10.0.0.2`" in str(error.hint)


@pytest.mark.parametrize(
    ("owner", "reason", "more"),
    [
        ("", "", ""),
        ("ns/db-0", "", " for ns/db-0"),
        ("", "printer", ": printer"),
        ("ns/db-0", "printer", " for ns/db-0: printer"),
    ],
)
def test_requested_and_reserved(owner: str, reason: str, more: str, ipam: Ipam) -> None:
    """The address is reserved: it is said for whom, and why."""
    net = ipam.network("n", POOL)
    net.reserve("10.0.0.2", owner=owner, reason=reason)
    with pytest.raises(AddressInUse) as caught:
        net.allocate("b", addresses=["10.0.0.2"])
    error = caught.value
    assert error.message == f"the requested address 10.0.0.2 is reserved{more}"
    assert (error.address, error.owner) == ("10.0.0.2", None)


@pytest.mark.parametrize("many", [False, True])
def test_owner_with_addresses(many: bool, ipam: Ipam) -> None:
    """An owner that has addresses: which, and what to do."""
    net = ipam.network("n", [POOL, "2001:db8::/64"])
    net.allocate("a")
    with pytest.raises(DuplicateAllocation) as caught:
        net.allocate_many([("b", "eth0"), ("a", "eth0")]) if many else net.allocate("a")
    error = caught.value
    assert error.message == "10.0.0.2, 2001:db8::2 are already assigned to a eth0 in network n"
    assert (error.addresses, error.owner) == (("10.0.0.2", "2001:db8::2"), ("a", "eth0"))
    assert error.hint == 'call DEL before a second ADD, or set "repeatAdd": "return"'


def test_requested_and_not_known(ipam: Ipam) -> None:
    """An address whose bit is set and that has no record is nobody's to have."""
    net = ipam.network("n", POOL)
    net.allocate("a")
    key = keys.address_key(POOL_ID, 4, 0x0A000002)

    def ask() -> None:
        with ipam.transaction() as txn:
            tables.LEASES.delete(txn, key)
            txn.network("n").allocate("b", addresses=["10.0.0.2"])

    with pytest.raises(AddressInUse) as caught:
        ask()
    assert caught.value.message == "the requested address 10.0.0.2 is reserved"


def test_release_that_the_lease_contradicts(ipam: Ipam) -> None:
    """An owner's entry names an address that is another's: it is said, and nothing is freed."""
    net = ipam.network("n", POOL)
    net.allocate("a")
    net.allocate("b\udcff")
    store = ipam.store

    def release(name: str) -> None:
        with ipam.transaction() as txn:
            owner = keys.owner_key(keys.id_prefix(NETWORK_ID), keys.owner_name(name, "e1"))
            value = keys.pack_held(POOL_ID, [(4, 0x0A000002)])
            tables.OWNERS.put(txn, owner, value)
            txn.network("n").release(name, "e1")

    for name, shown in (("b", "b"), ("b\udcff", "b\\udcff")):  # a message can be printed
        with pytest.raises(StoreCorrupt) as caught:
            release(name)
        error = caught.value
        assert (
            error.message
            == f"10.0.0.2 is recorded for {shown} e1, but its lease names another owner"
        )
        assert (error.path, error.hint) == (store.path, errors.CHECK_HINT)
    assert net.stats().assigned == 2


# The queue of what cools down -------------------------------------------------------------------


def _queue(ipam: Ipam, index: int, released: int, value: int = 0x0A000006) -> None:
    """Put an entry into the queue that nothing belongs to, as damage may."""
    with ipam.store.write() as txn:
        key = keys.cooldown_key(POOL_ID, index, released, 4, value)
        tables.COOLDOWN.put(txn, key, b"")


def test_queue_of_the_last_set(tmp_path: Path, clock: Clock) -> None:
    """What lies in no range set queues last: that ends the search for what is due."""
    with open_with(tmp_path / "store", "relaxed", clock=clock) as ipam:
        net = ipam.network("n", POOL)
        net.allocate("a")
        net.release("a")
        _queue(ipam, keys.NO_SET, 1 << 61)
        assert net.allocate("b").value == 0x0A000003
        clock.advance(31)
        assert [net.allocate(f"c{at}").value & 7 for at in range(4)] == [4, 5, 6, 2]


@pytest.mark.parametrize("released", [1, 2])
def test_queue_that_is_wrong(released: int, tmp_path: Path, clock: Clock) -> None:
    """An entry of an address that is somebody's, or free, is dropped, and frees nothing."""
    with open_with(tmp_path / "store", "relaxed", clock=clock) as ipam:
        net = ipam.network("n", POOL)
        net.allocate("a")
        net.allocate("b")
        net.release("b")  # something cools, so the queue is looked at
        _queue(ipam, 0, released, 0x0A000002)
        _queue(ipam, 1, released)
        net.allocate("c")
        found = net.lookup("10.0.0.2")
        assert found is not None
        assert found.container_id == "a"
        assert counts(net) == {"size": 5, "assigned": 2, "cooling": 1, "reserved": 0, "free": 2}
        assert not verify(ipam.store)
