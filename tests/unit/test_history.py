"""The history: what was assigned to whom and when, in order, bounded, and at little cost."""

from __future__ import annotations

import pytest

from fastipam import PoolExhausted, StoreCorrupt
from fastipam.ipam import Ipam
from fastipam.namespaces import Netns
from fastipam.storage.records.event import Event, event_key
from fastipam.testing import Clock

POOL = "10.0.0.0/29"
POD = ("ns", "web")


def words(ipam: Ipam, **filters: object) -> list[tuple[str, str, str]]:
    events = ipam.network("n", POOL).history(**filters)  # type: ignore[arg-type]
    return [(event.kind, event.address, event.container_id) for event in events]


def test_every_change(ipam: Ipam) -> None:
    """Each way to get and to lose an address is an event, with the owner's names."""
    net = ipam.network("n", POOL, cooldown_s=0)
    net.allocate("a", netns=Netns("/run/netns/x"), pod=POD)
    net.release("a")
    net.allocate("b")
    net.retain(set(), 1 << 62)
    net.allocate("c")
    net.release_address("10.0.0.4")
    net.reserve("10.0.0.6", owner="d")
    net.unreserve("10.0.0.6")
    assert words(ipam) == [
        ("assigned", "10.0.0.2", "a"),
        ("released", "10.0.0.2", "a"),
        ("assigned", "10.0.0.3", "b"),
        ("gc", "10.0.0.3", "b"),
        ("assigned", "10.0.0.4", "c"),
        ("released-by-operator", "10.0.0.4", "c"),
        ("reserved", "10.0.0.6", "d"),
        ("unreserved", "10.0.0.6", "d"),
    ]
    first = next(net.history())
    assert (first.sequence, first.netns, first.pod_name, first.ifname) == (
        0,
        "/run/netns/x",
        "web",
        "eth0",
    )
    assert words(ipam, pod="ns/web") == words(ipam)[:2]
    assert words(ipam, address="10.0.0.3") == words(ipam)[2:4]


def test_failed_call_is_no_event(ipam: Ipam) -> None:
    """What did not happen is not in the history."""
    net = ipam.network("n", [POOL, "10.1.0.0/30"])
    net.allocate("a")
    for attempt in range(3):
        with pytest.raises(PoolExhausted):
            net.allocate(f"b{attempt}")
    assert len(list(net.history())) == 2


def test_who_had_it(ipam: Ipam, clock: Clock) -> None:
    """The holder at any time, between two holders nobody."""
    net = ipam.network("n", POOL, cooldown_s=0)
    times = [clock.now_ns]
    for container in ("a", "b"):
        clock.advance(10)
        net.allocate(container, addresses=["10.0.0.4"])
        times.append(clock.now_ns)
        clock.advance(10)
        net.release(container)
        times.append(clock.now_ns)
    held = [net.holder_at("10.0.0.4", at) for at in times]
    assert [event and event.container_id for event in held] == [None, "a", None, "b", None]
    assert net.holder_at("10.0.0.5", times[1]) is None


def test_times(ipam: Ipam, clock: Clock) -> None:
    """A span of time is inclusive."""
    net = ipam.network("n", POOL)
    start = clock.now_ns
    for at in range(4):
        net.allocate(f"c{at}")
        clock.advance(1)
    second = 10**9
    found = net.history(since_ns=start + second, until_ns=start + 2 * second)
    assert [event.container_id for event in found] == ["c1", "c2"]


def test_bounded_by_number(ipam: Ipam) -> None:
    """The oldest events go; what is kept stays near the limit, and numbers are never used again."""
    net = ipam.network("n", POOL, cooldown_s=0, history=100)
    for _ in range(300):
        net.allocate("a")
        net.release("a")
    events = list(net.history())
    assert 100 <= len(events) <= 200
    assert events[-1].sequence == 599
    assert [event.sequence for event in events] == list(range(600 - len(events), 600))


def test_bounded_by_age(ipam: Ipam, clock: Clock) -> None:
    """Events that are too old go, also when there are few."""
    net = ipam.network("n", POOL, cooldown_s=0, history_age_s=60)
    for _ in range(64):
        net.allocate("a")
        net.release("a")
    clock.advance(61)
    for _ in range(64):
        net.allocate("a")
        net.release("a")
    assert len(list(net.history())) == 128


def test_bulk(ipam: Ipam) -> None:
    """A bulk that is larger than the history leaves its last ones."""
    net = ipam.network("n", "10.0.0.0/16", history=100)
    net.allocate_many([(f"c{at}", "eth0") for at in range(1000)])
    events = list(net.history())
    assert [event.container_id for event in events] == [f"c{at}" for at in range(900, 1000)]
    leases = {lease.value: lease.generation for lease in net.leases()}
    assert all(leases[event.value] == event.generation for event in events)


def test_forgotten_assignment(ipam: Ipam, clock: Clock) -> None:
    """Of a lease older than the history its release still says who had the address."""
    net = ipam.network("n", POOL, cooldown_s=0, history=10)
    net.allocate("old", addresses=["10.0.0.6"])
    then = clock.now_ns
    clock.advance(5)
    for _ in range(200):
        net.allocate("a")
        net.release("a")
    net.release("old")
    holder = net.holder_at("10.0.0.6", then)
    assert holder is not None
    assert (holder.kind, holder.container_id) == ("released", "old")


def test_off(ipam: Ipam) -> None:
    """A network without a history writes none."""
    net = ipam.network("n", POOL, history=0)
    net.allocate("a")
    net.release("a")
    net.allocate_many([("b", "eth0")])
    assert list(net.history()) == []


def test_networks_apart(ipam: Ipam) -> None:
    """Each network has its own history; an unknown one has none."""
    ipam.network("n", POOL).allocate("a")
    ipam.network("m", POOL).allocate("b")
    assert words(ipam) == [("assigned", "10.0.0.2", "a")]
    assert list(ipam.network("unknown", POOL).history()) == []


def test_ipv6(ipam: Ipam) -> None:
    """An IPv6 address is found by its address, and not taken for an IPv4 one."""
    net = ipam.network("n", ["::/120", "0.0.0.0/24"])
    net.allocate("a")
    net.release("a")
    assert [event.family for event in net.history("::2")] == [6, 6]
    assert [event.family for event in net.history("0.0.0.2")] == [4, 4]


def test_unreadable_event() -> None:
    """Damage is said so, with the way out."""
    with pytest.raises(StoreCorrupt, match="an event cannot be read") as caught:
        Event(event_key(1, 1), b"x")
    assert caught.value.hint == "run `fastipam check`"
