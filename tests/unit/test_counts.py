"""Each range set is counted by itself, and every count is what a look at all records gives."""

from __future__ import annotations

import contextlib
import random
from typing import Any, Literal

import pytest

from fastipam import PoolExhausted
from fastipam.addressing.parsing import parse_ranges
from fastipam.allocation import counts
from fastipam.ipam import Ipam
from fastipam.network import Network
from fastipam.testing import Clock

from ..counting import counts as of_network
from ..counting import looked_at

DUAL = ["10.32.1.0/29", "fd00:32::/64"]
_STATES = ("assigned", "cooling", "reserved", "free")


def _sets(network: Network) -> list[dict[str, Any]]:
    return [one.to_dict() for one in network.stats().sets]


def test_full_ipv4_beside_an_empty_ipv6(ipam: Ipam) -> None:
    """Five pods fill a dual-stack network's IPv4 set: it is 100 % used, whatever IPv6 has left."""
    net = ipam.network("podnet", DUAL)
    for number in range(5):
        net.allocate(f"c{number}")
    v4, v6 = _sets(net)
    assert (v4["family"], v4["size"], v4["assigned"], v4["free"]) == (4, 5, 5, 0)
    assert (v4["used_percent"], v4["full"]) == (100.0, True)
    assert (v6["family"], v6["assigned"], v6["full"]) == (6, 5, False)
    assert 0 < v6["used_percent"] < 0.01
    assert v4["ranges"] == [
        {
            "subnet": "10.32.1.0/29",
            "rangeStart": "10.32.1.1",
            "rangeEnd": "10.32.1.6",
            "gateway": "10.32.1.1",
        }
    ]
    with pytest.raises(PoolExhausted):
        net.allocate("c5")


def test_a_network_that_was_never_used(ipam: Ipam) -> None:
    """Before the first assignment every range set is free, and nothing is full."""
    found = _sets(ipam.network("new", DUAL))
    assert [(one["size"], one["free"], one["full"]) for one in found] == [
        (5, 5, False),
        (2**64 - 2, 2**64 - 2, False),
    ]
    assert [one["used_percent"] for one in found] == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_the_records(ipam: Ipam, clock: Clock, seed: int) -> None:
    """After random calls each set's counts are those of its records, and the sets add up."""
    chance = random.Random(seed)
    ranges = ["10.1.0.0/26", "10.2.0.0/27", "fd00::/64", "10.16.0.0/20"]
    exclude = ["10.2.0.8/30", "10.16.1.0/24"]
    net = ipam.network("n", ranges, cooldown_s=20, sticky_s=60, exclude=exclude)
    for step in range(300):
        number = chance.randrange(40)
        what = chance.choice(("allocate", "allocate", "release", "reserve", "unreserve", "wait"))
        if what == "allocate" and not net._owned(f"c{number}", "eth0"):
            pod = f"p{number}" if number % 2 else ""
            with contextlib.suppress(PoolExhausted):
                net.allocate(f"c{number}", pod=("d", pod) if pod else None)
        elif what == "release":
            net.release(f"c{number}", "eth0")
        elif what == "reserve":
            address = f"10.2.0.{20 + number % 8}"
            if net.lookup(address) is None and net.reservation(address) is None:
                net.reserve(address, reason="test")
        elif what == "wait":
            clock.advance(chance.choice((1, 5, 100)))
            net.tidy()
        if step % 20 == 0:
            _agrees(net)
    _agrees(net)


def _agrees(net: Network) -> None:
    found = _sets(net)
    wanted = looked_at(net)
    assert [{key: one[key] for key in ("size", *_STATES)} for one in found] == wanted
    full = [number for number, one in enumerate(found) if one["full"]]
    refused = net._exhausted()
    assert (refused is not None) == bool(full), "STATUS says the same"
    if refused is not None:
        assert net.pool is not None
        assert net.pool.sets[full[0]] is refused
    total = of_network(net)
    assert total == {key: sum(one[key] for one in found) for key in total}


def test_addresses_outside_of_the_ranges_are_in_no_set(ipam: Ipam) -> None:
    """What a changed configuration leaves outside counts for the network alone."""
    ipam.network("n", "10.1.0.0/29").allocate_many([(f"c{one}", "eth0") for one in range(3)])
    net = ipam.network("n", ["10.2.0.0/29", "10.3.0.0/29"])
    net.allocate("new")
    assert [one["assigned"] for one in _sets(net)] == [1, 1]
    assert net.stats().assigned == 5
    one_set = ipam.network("n", "10.2.0.0/29")
    one_set.allocate("newer")
    (only,) = _sets(one_set)
    assert (only["assigned"], only["size"]) == (2, 5)


@pytest.mark.parametrize("policy", ["prefer", "strict"])
def test_full_is_what_the_next_assignment_meets(
    ipam: Ipam, clock: Clock, policy: Literal["prefer", "strict"]
) -> None:
    """A set of cooling addresses is full only while none of them may be taken."""
    net = ipam.network("n", ["10.1.0.0/30", "fd00::/64"], cooldown_s=10, cooldown_policy=policy)
    net.allocate("a")
    assert [one["full"] for one in _sets(net)] == [True, False]
    net.release("a")
    assert [one["full"] for one in _sets(net)] == [policy == "strict", False]
    clock.advance(10.1)
    assert [one["full"] for one in _sets(net)] == [False, False]
    net.allocate("b")


def test_an_expired_sticky_address_makes_no_set_full(ipam: Ipam, clock: Clock) -> None:
    """An address kept for a pod that does not come back can be had when its time is over."""
    net = ipam.network("n", ["10.1.0.0/30", "fd00::/64"], sticky_s=60, cooldown_s=0)
    net.allocate("a", pod=("d", "p"))
    net.release("a")
    assert [one["full"] for one in _sets(net)] == [True, False]
    clock.advance(61)
    assert [one["full"] for one in _sets(net)] == [False, False]
    net.allocate("b")


@pytest.mark.parametrize(
    ("size", "free", "percent"),
    [
        (0, 0, None),
        (5, 0, 100.0),
        (5, 5, 0.0),
        (3, 2, 33.33),
        (10**6, 1, 99.99),
        (2**64, 1, 99.99),
        (2**64, 2**64 - 1, pytest.approx(100 / 2**64)),
    ],
)
def test_percentages_do_not_round_to_full_or_empty(
    size: int, free: int, percent: float | None
) -> None:
    """100 % means that nothing is free, and 0 % that nothing is used."""
    assert counts.used_percent({"size": size, "free": free}) == percent


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        ("10.1.0.0/24", "10.1.0.0/24"),
        ("fd00::/64", "fd00::/64"),
        ("10.1.0.0/31", "10.1.0.0/31"),
        ([[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9"}]], "10.1.0.9-10.1.0.254"),
        ([[{"subnet": "fd00::/64", "rangeEnd": "fd00::9"}]], "fd00::1-fd00::9"),
    ],
)
def test_a_range_is_named_by_its_subnet_or_its_part(ranges: Any, text: str) -> None:
    """A range that has all of its subnet is named by it, another one by its first and last."""
    (one,) = counts.unused(parse_ranges(ranges))
    assert [counts.text_of(each) for each in one.ranges] == [text]


def test_a_set_of_many_ranges_has_a_short_name() -> None:
    """A label of a metric names the first ranges and says how many more there are."""
    ranges: Any = [[{"subnet": f"10.1.{number}.0/24"} for number in range(40)]]
    (one,) = counts.unused(parse_ranges(ranges))
    assert one.ranges_text.startswith("10.1.0.0/24,10.1.1.0/24,")
    assert one.ranges_text.endswith("10.1.7.0/24 and 32 more")
    assert len(one.ranges) == 40


def test_excluded_addresses_are_counted(ipam: Ipam) -> None:
    """Gateway, network, broadcast, exclusions and what the range leaves out of its subnet."""
    ranges: Any = [
        [{"subnet": "10.1.0.0/24"}, {"subnet": "10.3.0.0/24", "rangeStart": "10.3.0.200"}],
        [{"subnet": "fd00::/64"}],
        [{"subnet": "10.3.0.0/24", "rangeEnd": "10.3.0.9"}],  # .1 is the gateway of both
    ]
    net = ipam.network("n", ranges, exclude=["10.1.0.128/25"])
    wanted = [2 + 128 + 256 - 55 - 8, 2, 256 - 55 - 8]
    assert [one["excluded"] for one in _sets(net)] == wanted
    net.allocate("a")
    assert [one["excluded"] for one in _sets(net)] == wanted
