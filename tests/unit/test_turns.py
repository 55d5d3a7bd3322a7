"""One network name with two configurations in turn: what an ADD costs then, and what is counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from tests.conftest import assert_consistent

from fastipam import PoolExhausted
from fastipam.allocation import turns
from fastipam.cli.commands import cli
from fastipam.cli.commands.doctor import store as doctor
from fastipam.cli.commands.doctor.diagnosis import PROBLEM, WARNING
from fastipam.network import Network
from fastipam.storage import tables
from fastipam.storage.records import earlier_ranges, keys

from ..ids import POOL_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.ipam import Ipam
    from fastipam.testing import Clock

A = "10.8.0.0/29"
B = "10.9.0.0/16"


def _outside_of_the_ranges(ipam: Ipam, ranges: list[str]) -> int:
    """What the counter has to be, counted lease by lease."""
    pool = ipam.network("other", ranges).pool
    assert pool is not None
    records = ipam.network("n")._records()
    return sum(not pool.holds(family, value) for family, value, _, _ in records)


def test_ranges_that_were_there_before_cost_nothing_again(
    ipam: Ipam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ADD with the other configuration reads no more keys than any: it looks at no lease."""
    ipam.network("n", B).allocate_many([(f"c{at}", "eth0") for at in range(5000)])
    ipam.network("n", A).allocate("a0")
    read = 0
    for name in ("scan", "scan_keys"):
        whole = getattr(tables.Table, name)

        def counted(table: tables.Table, *arguments: Any, whole: Any = whole) -> Iterator[Any]:
            nonlocal read
            for item in whole(table, *arguments):
                read += 1
                yield item

        monkeypatch.setattr(tables.Table, name, counted)
    for at in range(3):
        for ranges in (B, A):
            read = 0
            ipam.network("n", ranges).allocate(f"{ranges} {at}")
            assert read < 50, ranges
    assert_consistent(ipam.store)


def test_counts_of_each_configuration(ipam: Ipam, clock: Clock) -> None:
    """While two are used in turn, the sets of both are counted; an hour later only the last."""
    small, large = ipam.network("n", A), ipam.network("n", B)
    large.allocate("b0")
    assert large.stats().other_sets == ()
    for at in range(5):
        small.allocate(f"a{at}")
    assert small.stats().other_sets == (), "ranges that have changed once are not in turn"
    large.allocate("b1")
    stats = large.stats()
    (own,), (other,) = stats.sets, stats.other_sets
    assert (own.assigned, own.full) == (2, False)
    assert (other.size, other.assigned, other.free, other.full) == (5, 5, 0, True)
    assert stats.assigned == 7
    with pytest.raises(PoolExhausted):
        small.allocate("a5")
    small.release("a0")
    (other,) = large.stats().other_sets
    assert (other.assigned, other.cooling, other.full) == (4, 1, False)
    clock.advance(turns.IN_TURN_NS / 1e9)
    assert large.stats().other_sets == ()
    assert_consistent(ipam.store)


def test_overlapping_configurations(ipam: Ipam, clock: Clock) -> None:
    """A configuration whose range lies in the other's finds what cools there, and counts agree."""
    inner, outer = ipam.network("n", "10.9.0.0/29"), ipam.network("n", B)
    for at in range(5):
        (inner if at % 2 else outer).allocate(f"c{at}")
    for at in range(5):
        outer.release(f"c{at}")
        clock.advance(1)
    outer.allocate("outer")
    first = inner.allocate("inner")
    assert first.address.ip.exploded.startswith("10.9.0.")
    assert_consistent(ipam.store)
    for network, ranges in ((inner, ["10.9.0.0/29"]), (outer, [B])):
        network.allocate(f"last {ranges}")
        with ipam.store.read() as txn:
            assert txn.pool_state(POOL_ID).outside == _outside_of_the_ranges(ipam, ranges)


def test_a_lease_cools_in_the_set_that_has_it_now(ipam: Ipam) -> None:
    """After the sets have changed their order, a released address is found by its new set."""
    before = ipam.network("n", ["10.8.0.0/30", "10.9.0.0/30"])
    before.allocate("c")
    after = ipam.network("n", ["10.9.0.0/30", "10.8.0.0/30"])
    with pytest.raises(PoolExhausted):
        after.allocate("d")
    after.release("c")
    again = after.allocate("d")
    assert [str(one.ip) for one in again.addresses] == ["10.9.0.2", "10.8.0.2"]
    assert_consistent(ipam.store)


def test_many_configurations(ipam: Ipam) -> None:
    """The latest ranges are remembered, and no more than a few."""
    for at in range(12):
        ipam.network("n", f"10.{at}.0.0/24").allocate(f"c{at}")
    ipam.network("n", "10.10.0.0/24").allocate("again")
    with ipam.store.read() as txn:
        texts = turns.others(txn, POOL_ID)
    assert [text.split(" ")[0] for text in texts] == [f"10.{at}.0.0/24" for at in (11, 9, 8, 7)]


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"\xff" * 9, bytes(8) + b"\xff", b"\xff" * 8 + b"nonsense"]
)
def test_a_damaged_note(raw: bytes, ipam: Ipam) -> None:
    """A record that cannot be read changes nothing."""
    ipam.network("n", A).allocate("a")
    with ipam.store.write() as txn:
        tables.META.put(txn, earlier_ranges.key(POOL_ID), raw)
    assert ipam.network("n").stats().other_sets == ()
    ipam.network("n", B).allocate("b")
    ipam.network("n", A).allocate("c")
    assert len(ipam.network("n").stats().other_sets) == 1


def test_a_release_works_without_the_ranges(ipam: Ipam) -> None:
    """A DEL releases although the text of the ranges is damaged."""
    network = ipam.network("n", A)
    network.allocate("a")
    assert network.pool is not None
    with ipam.store.write() as txn:
        tables.POOLS.put(txn, b"n", keys.pack_pool(POOL_ID, "no ranges"))
    assert Network(ipam.store, "n", None)._release_raw("a", "eth0")
    with ipam.store.write() as txn:
        tables.POOLS.put(txn, b"n", keys.pack_pool(POOL_ID, network.pool.text))
    assert network.stats().cooling == 1


def test_doctor_and_stats(ipam: Ipam) -> None:
    """`stats` shows the full set of the other configuration, and `doctor` warns of the name."""
    for at in range(5):
        ipam.network("n", A).allocate(f"a{at}")
        ipam.network("n", B).allocate(f"b{at}")
    found = {one.level: one for one in doctor.pools(ipam)}
    assert "used with two configurations in turn" in found[WARNING].text
    assert "'n'" in found[WARNING].text
    assert A in found[PROBLEM].text
    done = CliRunner().invoke(cli, ["stats", "--json", "--data-dir", ipam.path])
    (document,) = json.loads(done.output)
    assert document["used_percent"] == 100
    done = CliRunner().invoke(cli, ["stats", "--data-dir", ipam.path])
    assert A in done.output
    assert B in done.output
    assert "outside" not in done.output
