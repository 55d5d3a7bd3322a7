"""Static addresses: assigned to those who request them, and to nobody else."""

from __future__ import annotations

import pytest

from fastipam import AddressInUse, AddressNotInRange, ConfigError, PoolExhausted
from fastipam.addressing.parsing import parse_ranges
from fastipam.addressing.ranges import Pool
from fastipam.ipam import Ipam
from fastipam.network import Network

STATIC = ["10.1.0.8/29", "2001:db8::100-2001:db8::1ff"]


@pytest.fixture
def net(ipam: Ipam) -> Network:
    """Six addresses to choose from, seven static ones."""
    return ipam.network("n", "10.1.0.0/28", static=STATIC)


def _all(net: Network) -> list[str]:
    """Assign all that is assigned by itself."""
    free = net.stats().sets[0].free
    found = [str(net.allocate(f"auto{at}").address.ip) for at in range(free)]
    with pytest.raises(PoolExhausted, match="7 static"):
        net.allocate("late")
    return found


def test_never_by_itself(net: Network) -> None:
    """What is left when the others are gone is assigned to nobody."""
    assert _all(net) == [f"10.1.0.{at}" for at in range(2, 8)]
    many = [(f"m{at}", "eth0") for at in range(2)]
    with pytest.raises(PoolExhausted):
        net.allocate_many(many)


def test_always_on_request(net: Network) -> None:
    """A full pool has them all the same, and the round robin goes on where it was."""
    net.allocate("before")
    got = [net.allocate(f"s{at}", addresses=[f"10.1.0.{at}"]) for at in range(8, 15)]
    assert [str(one.address) for one in got] == [f"10.1.0.{at}/28" for at in range(8, 15)]
    assert str(net.allocate("after").address.ip) == "10.1.0.3"
    with pytest.raises(AddressInUse, match=r"10\.1\.0\.9 is assigned to s9 eth0"):
        net.allocate("late", addresses=["10.1.0.9"])


def test_released(ipam: Ipam) -> None:
    """One that cools is free for who requests it, and for nobody else."""
    net = ipam.network("n", "10.1.0.0/28", static=STATIC, cooldown_s=60)
    net.allocate("s", addresses=["10.1.0.9"])
    net.release("s")
    assert net.stats().sets[0].static == {
        "size": 7, "assigned": 0, "cooling": 1, "reserved": 0, "free": 6,
    }  # fmt: skip
    assert "10.1.0.9" not in _all(net)
    assert str(net.allocate("t", addresses=["10.1.0.9"]).address.ip) == "10.1.0.9"


def test_counted_apart(net: Network) -> None:
    """The size of a set has none of them; what is in use counts in the network's sum."""
    net.allocate("a")
    net.allocate("s", addresses=["10.1.0.9"])
    net.reserve("10.1.0.10", owner="ns/pod")
    stats = net.stats()
    (one,) = stats.sets
    assert (one.size, one.assigned, one.free, one.excluded) == (6, 1, 5, 3)
    assert one.static == {"size": 7, "assigned": 1, "cooling": 0, "reserved": 1, "free": 5}
    assert (stats.size, stats.assigned, stats.reserved, stats.free) == (8, 2, 1, 5)
    assert stats.size == stats.assigned + stats.cooling + stats.reserved + stats.free


def test_reserved_for_a_pod(net: Network) -> None:
    """A reservation is a request that was made before."""
    net.reserve("10.1.0.10", owner="ns/pod")
    assert str(net.allocate("c", pod=("ns", "pod")).address.ip) == "10.1.0.10"
    net.release("c")
    assert str(net.allocate("d", pod=("ns", "pod")).address.ip) == "10.1.0.10"


def test_shared(ipam: Ipam, net: Network) -> None:
    """What is static for one network is static for all of its pool, whoever comes first."""
    first = ipam.network("first", "10.1.0.0/28", pool="n")
    assert str(first.allocate("a").address.ip) == "10.1.0.2"
    assert str(net.allocate("a").address.ip) == "10.1.0.3"
    got = [str(first.allocate(f"b{at}").address.ip) for at in range(4)]
    assert got == ["10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.7"]
    with pytest.raises(PoolExhausted):
        first.allocate("late")
    assert str(first.allocate("s", addresses=["10.1.0.9"]).address.ip) == "10.1.0.9"
    with pytest.raises(AddressInUse, match="in network first"):
        net.allocate("s", addresses=["10.1.0.9"])


def test_areas_that_change(ipam: Ipam, net: Network) -> None:
    """An address that becomes static stays with its owner; one that is no more is free for all."""
    net.allocate("s", addresses=["10.1.0.9"])
    net.allocate("a")
    moved = ipam.network("n", "10.1.0.0/28", static=["10.1.0.0/29"])
    assert str(moved.allocate("b").address.ip) == "10.1.0.8"
    assert str(moved.allocate("c").address.ip) == "10.1.0.10"
    assert moved.stats().sets[0].static == {
        "size": 6, "assigned": 1, "cooling": 0, "reserved": 0, "free": 5,
    }  # fmt: skip


def test_excluded_and_gateway(ipam: Ipam) -> None:
    """Exclusions and gateways come before static areas."""
    net = ipam.network("n", "10.1.0.0/28", static=["10.1.0.0/29"], exclude=["10.1.0.4"])
    for address in ("10.1.0.1", "10.1.0.4"):
        with pytest.raises(AddressNotInRange):
            net.allocate("a", addresses=[address])
    assert net.stats().sets[0].static is not None
    assert str(net.allocate("a", addresses=["10.1.0.3"]).address.ip) == "10.1.0.3"


def test_text() -> None:
    """The text of a pool has its static areas, and gives an equal pool."""
    pool = parse_ranges(["10.1.0.0/28", "2001:db8::/64"], ["10.1.0.3"], static=STATIC)
    again = Pool.read(pool.text)
    assert again.text == pool.text
    assert [each.static for each in again.sets] == [each.static for each in pool.sets]
    assert [each.intervals for each in again.sets] == [each.intervals for each in pool.sets]
    assert parse_ranges(list(pool.sets)).text == pool.text


@pytest.mark.parametrize("area", ["10.1.0.300", "x", "10.1.0.9-10.1.0.8"])
def test_bad_area(ipam: Ipam, area: str) -> None:
    """What is no area is refused with its place."""
    with pytest.raises(ConfigError) as caught:
        ipam.network("n", "10.1.0.0/28", static=["10.1.0.8/29", area])
    assert caught.value.field == "static[1]"
