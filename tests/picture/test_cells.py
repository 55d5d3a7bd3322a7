"""What a picture shows is what the store holds, address by address."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fastipam.addressing.addresses import format_ip
from fastipam.addressing.parsing import parse_ranges
from fastipam.cli import rows
from fastipam.picture import cells, layers
from fastipam.picture.cells import (
    ASSIGNED,
    COOLING,
    EXCLUDED,
    FREE,
    FULL_LEVEL,
    LEVEL_SHIFT,
    OUTSIDE,
    RESERVED,
    STATES,
)
from fastipam.picture.frames import frames
from tests.counting import counts

if TYPE_CHECKING:
    from fastipam.ipam import Ipam
    from fastipam.testing import Clock

EDGE = [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.20", "rangeEnd": "10.1.2.250"}]
HALVES = [["10.1.0.0/25", "10.1.1.128/25"]]  # what lies between is outside


def _used(ipam: Ipam, ranges: Any, exclude: tuple[str, ...] = (), count: int = 100) -> None:
    """A network with assigned and cooling addresses, here and there."""
    net = ipam.network("n", ranges, exclude=exclude, cooldown_s=1000)
    chosen = random.Random(1)
    for number in range(count):
        net.allocate(f"c{number}", pod=(f"space{number % 3}", f"p{number}"))
    for number in chosen.sample(range(count), count * 2 // 3):
        net.release(f"c{number}")
        if number % 2:
            net.allocate(f"d{number}", pod=("later", "web"))


def _read(ipam: Ipam, max_bits: int = 20) -> cells.Picture:
    with ipam.store.read() as txn:
        picture = cells.read(txn, "n", max_bits)
    assert picture is not None
    return picture


def _listed(ipam: Ipam) -> dict[str, str]:
    """What ``list --all`` says: address -> state."""
    return {row["address"]: row["status"].lower() for row in rows.rows(ipam, "n", with_free=True)}


@pytest.mark.parametrize(
    ("ranges", "exclude"),
    [
        ("10.32.0.0/20", ()),
        ("10.32.0.0/23", ("10.32.1.0/28", "10.32.0.77")),
        ([EDGE], ()),
        (HALVES, ()),
        ("2001:db8::/119", ()),
        (["10.1.2.0/24", "2001:db8::/120"], ("2001:db8::80-2001:db8::9f",)),
    ],
    ids=["/20", "/23 with exclusions", "rangeStart", "a hole", "IPv6", "dual stack"],
)
def test_each_address(ipam: Ipam, ranges: Any, exclude: tuple[str, ...]) -> None:
    """A cell has the state that ``list --all`` prints; the rest is never assigned."""
    _used(ipam, ranges, exclude)
    picture = _read(ipam)
    listed = _listed(ipam)
    seen = {}
    for panel in picture.panels:
        subnets = [ip_network(text) for text in _subnets(ipam)]
        assert (panel.cells >> LEVEL_SHIFT == FULL_LEVEL).all()
        for at, state in enumerate(panel.states.tolist()):
            text = format_ip(panel.frame.family, panel.frame.first + at)
            if text in listed:
                seen[text] = STATES[state]
            else:
                inside = any(ip_address(text) in subnet for subnet in subnets)
                assert state == (EXCLUDED if inside else OUTSIDE), text
    assert seen == listed
    assert {"assigned", "cooling", "free"} == set(seen.values())


def _subnets(ipam: Ipam) -> list[str]:
    pool = ipam.network("n")._current_pool()
    assert pool is not None
    return [
        f"{format_ip(one.family, one.network)}/{one.length}"
        for each in pool.sets
        for one in each.ranges
    ]


@pytest.mark.parametrize("max_bits", [4, 7, 10, 13])
@pytest.mark.parametrize(
    "ranges", ["10.32.0.0/17", ["10.1.2.0/24", "10.1.4.0/23"], "2001:db8::/112"]
)
def test_several_addresses_a_cell(ipam: Ipam, ranges: Any, max_bits: int) -> None:
    """A cell of several addresses is the sum of them, and its level is the share in use."""
    _used(ipam, ranges, ("10.1.2.0/28",) if "10.1.2.0/24" in ranges else (), count=150)
    fine, coarse = _read(ipam), _read(ipam, max_bits)
    for one, other in zip(fine.panels, coarse.panels, strict=True):
        bits = other.frame.cell_bits
        assert bits <= max_bits
        assert (one.tally(bits) == other.tally(bits)).all()
        assert (one.tally(0) == other.tally(0)).all()
        counts = one.tally(bits)
        used = counts[:, [ASSIGNED, COOLING, RESERVED]].sum(1)
        usable = used + counts[:, FREE]
        for at in range(1 << bits):
            state, level = int(other.states[at]), int(other.cells[at]) >> LEVEL_SHIFT
            if used[at]:
                assert counts[at, state] == counts[at, [ASSIGNED, COOLING, RESERVED]].max()
                assert level == -(-used[at] * FULL_LEVEL // usable[at])
            else:
                assert (state == FREE) == bool(usable[at])


def test_counts_are_the_networks(ipam: Ipam) -> None:
    """The panels of a pool that is shown as a whole add up to its counters."""
    _used(ipam, ["10.32.0.0/19", "10.99.0.0/24"])
    picture = _read(ipam)
    total = sum(panel.tally(0)[0] for panel in picture.panels)
    stats = counts(ipam.network("n"))
    assert picture.stats == stats
    for code, state in enumerate(STATES[: RESERVED + 1]):
        assert total[code] == stats[state], state


def test_outside_of_the_ranges(ipam: Ipam) -> None:
    """An address that a change of the ranges has put outside is still seen while it is in use."""
    ipam.network("n", "10.32.0.0/24").allocate("old", addresses=["10.32.0.200"])
    ipam.network("n", "10.32.0.0/25").allocate("a")
    ipam.network("n", "10.32.0.0/25", exclude=["10.32.0.64/26"]).allocate("b")
    ipam.network("n", [["10.32.0.0/26", "10.32.0.192/27"]]).allocate("c")
    picture = _read(ipam)
    (panel,) = picture.panels
    assert panel.states[200] == ASSIGNED
    assert panel.states[201] == FREE
    assert panel.states[100] == OUTSIDE
    assert _read(ipam, 4).panels[0].tally(0)[0, ASSIGNED] == 4


def test_an_ipv6_64_shows_what_is_touched(ipam: Ipam) -> None:
    """Of a /64 the parts in use are drawn, those that lie far apart each for itself."""
    net = ipam.network("n", "2001:db8::/64")
    for number in range(5000):
        net.allocate(f"c{number}")
    net.allocate("far", addresses=["2001:db8::ffff:ffff:0:1"])
    net.allocate("middle", addresses=["2001:db8::8000:0:0:0"])
    net.allocate("below", addresses=["2001:db8::7fff:ffff:ffff:ffff"])
    picture = _read(ipam)
    assert [panel.frame.cidr for panel in picture.panels] == [
        "2001:db8::/115",
        "2001:db8::7fff:ffff:ffff:f000/116",
        "2001:db8:0:0:8000::/116",
        "2001:db8::ffff:ffff:0:0/116",
    ]
    assert [int(panel.tally(0)[0, ASSIGNED]) for panel in picture.panels] == [5000, 1, 1, 1]
    assert picture.panels[0].states[2] == ASSIGNED
    assert picture.panels[1].states[-1] == ASSIGNED
    assert picture.panels[2].states[0] == ASSIGNED
    assert picture.panels[3].states[1] == ASSIGNED
    net.allocate("one more", addresses=["2001:db8::4000:0:0:0"])
    assert _read(ipam).left_out == 1


@pytest.mark.parametrize("max_bits", [4, 8, 12, 16, 20])
@pytest.mark.parametrize("ranges", ["10.32.0.0/12", "10.0.0.0/8", "10.1.2.0/24", "fd00::/104"])
def test_nothing_is_used(ipam: Ipam, ranges: str, max_bits: int) -> None:
    """A pool without one lease is drawn at any scale, all of it free."""
    net = ipam.network("n", ranges, cooldown_s=0)
    net.allocate("a")
    net.release("a")
    (panel,) = _read(ipam, max_bits).panels
    pool = net._current_pool()
    assert pool is not None
    assert panel.tally(0)[0, FREE] == pool.size
    assert set(panel.states.tolist()) <= {FREE, EXCLUDED}


def test_an_empty_64(ipam: Ipam) -> None:
    """With nothing in use its beginning is drawn."""
    net = ipam.network("n", "2001:db8::/64", cooldown_s=0)
    net.allocate("a")
    net.release("a")
    (panel,) = _read(ipam).panels
    assert panel.frame.cidr == "2001:db8::/116"
    assert panel.tally(0)[0].tolist() == [4094, 0, 0, 0, 2, 0, 0]


@pytest.mark.parametrize(
    ("ranges", "drawn"),
    [
        (["10.0.0.0/24"], ["10.0.0.0/24"]),
        (["10.0.0.0/25", "10.0.0.128/25"], ["10.0.0.0/24"]),
        (["10.0.0.0/24", "10.0.3.0/24"], ["10.0.0.0/22"]),
        (["10.0.0.0/24", "10.200.0.0/24"], ["10.0.0.0/24", "10.200.0.0/24"]),
        (["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/30", "10.0.0.12/30"], ["10.0.0.0/28"]),
        (["10.0.0.0/32"], ["10.0.0.0/32"]),
        (["0.0.0.0/0"], ["0.0.0.0/0"]),
        (["10.0.0.0/24", "fd00::/120"], ["10.0.0.0/24", "fd00::/120"]),
    ],
)
def test_frames(ranges: list[str], drawn: list[str]) -> None:
    """Subnets that are neighbours are drawn together, others apart."""
    found, left_out = frames(parse_ranges(ranges), {}, 20)
    assert [frame.cidr for frame in found] == drawn
    assert left_out == 0
    assert all(frame.cell_bits <= 20 for frame in found)


def test_owners_and_ages(ipam: Ipam, clock: Clock) -> None:
    """By owner a cell has its pod's namespace, by age the seconds since the assignment."""
    net = ipam.network("n", "10.1.0.0/24", cooldown_s=1000)
    for number in range(20):
        net.allocate(f"c{number}", pod=("even", "web") if number % 2 == 0 else None)
        clock.advance(10)
    net.release("c4")
    with ipam.store.read() as txn:
        picture = cells.read(txn, "n")
        assert picture is not None
        owners = layers.read(txn, picture, layers.OWNER)
        ages = layers.read(txn, picture, layers.AGE)
    (who,), (old,) = owners.values, ages.values
    assert dict(zip(owners.labels, owners.sizes, strict=True)) == {
        "even": 10,
        layers.NO_NAMESPACE: 10,
    }
    for lease in net.leases():
        at = lease.value & 255
        assert owners.labels[who[at]] == (lease.pod_namespace or layers.NO_NAMESPACE)
        assert old[at] == (clock() - lease.allocated_ns) // 10**9
    assert (who == layers.NOTHING).sum() == (old == layers.NOTHING).sum() == 256 - 20


def test_the_commonest_owner(ipam: Ipam) -> None:
    """Of several addresses in a cell the commonest owner counts, and the youngest age."""
    net = ipam.network("n", "10.1.0.0/24")
    for number in range(14):
        net.allocate(f"c{number}", pod=("few" if number < 5 else "many", "web"))
    with ipam.store.read() as txn:
        picture = cells.read(txn, "n", 4)
        assert picture is not None
        layer = layers.read(txn, picture, layers.OWNER)
        ages = layers.read(txn, picture, layers.AGE)
    assert layer.labels[layer.values[0][0]] == "many"
    assert np.count_nonzero(layer.values[0] != layers.NOTHING) == 1
    assert ages.values[0].tolist() == [0] + [layers.NOTHING] * 15


def test_unknown_network(ipam: Ipam) -> None:
    """There is no picture of a network that the store does not know."""
    with ipam.store.read() as txn:
        assert cells.read(txn, "nobody's") is None
