"""What the agent remembers, and what it concludes: samples, forecast, longest free run."""

from __future__ import annotations

import json
import math
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.addressing.addresses import to_ip
from fastipam.agent.web import readings
from fastipam.agent.web import samples as watch
from fastipam.agent.web.samples import COARSE, COARSE_S, FINE, INTERVAL_S, Watch
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys
from tests.counting import counts

from ..ids import POOL_ID
from .processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastipam.ipam import Ipam


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def moment() -> Time:
    """The time of a watch."""
    return Time()


@pytest.fixture
def opened(data_dir: Path, ipam: Ipam) -> Iterator[Ipam]:
    """A store that this process has open as an agent has."""
    open_stores.get(str(data_dir), None)
    yield ipam
    open_stores.close_all()


@pytest.fixture
def looking(moment: Time, opened: Ipam) -> Watch:  # noqa: ARG001
    """A watch on the test's time."""
    return Watch(clock=moment, idle=moment)


def _key(ipam: Ipam, network: str = "n") -> tuple[str, str]:
    return ipam.path, network


def test_reading(opened: Ipam, clock: Any) -> None:
    """A reading has the counters of stats, the assignments so far, the age of the queue."""
    net = opened.network("n", ["10.1.0.0/24", "2001:db8::/64"], cooldown_s=1000)
    for number in range(5):
        net.allocate(f"c{number}")
    clock.advance(50)
    net.release("c1")
    clock.advance(20)
    net.release("c2")
    (reading,) = readings.read_all()
    assert reading.counts == counts(net)
    assert reading.assignments == 10
    assert reading.oldest_cooling_s == pytest.approx(20, abs=0.001)
    clock.advance(-3600)  # a wall clock that steps back makes nothing younger than nothing
    (reading,) = readings.read_all()
    assert reading.oldest_cooling_s >= 0


def test_cooling_outside_all_ranges(opened: Ipam, clock: Any) -> None:
    """An address that no range has any longer cools in the last queue, and is read there."""
    opened.network("n", "10.1.0.0/24", cooldown_s=1000).allocate("old")
    net = opened.network("n", "10.2.0.0/24", cooldown_s=1000)
    net.allocate("new")
    net.release("old")
    clock.advance(7)
    (reading,) = readings.read_all()
    assert reading.counts["cooling"] == 1
    assert reading.oldest_cooling_s == pytest.approx(7, abs=0.001)


def test_a_damaged_network_hides_no_other(data_dir: Path) -> None:
    """A network that cannot be read is left out; the numbers of the others stay."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        for name in ("a", "b", "c"):
            ipam.network(name, "10.1.0.0/24").allocate("x")
        with ipam.store.write() as txn:
            tables.POOLS.put(txn, b"b", keys.pack_pool(POOL_ID + 1, "no ranges"))
    open_stores.get(str(data_dir), None)
    try:
        assert [reading.network for reading in readings.read_all()] == ["a", "c"]
    finally:
        open_stores.close_all()


def test_change(opened: Ipam) -> None:
    """The change number stays while nothing happens, and is another one after any change."""
    net = opened.network("n", "10.1.0.0/24")
    net.allocate("a")
    changes = [readings.read_all()[0].change for _ in range(2)]
    assert changes[0] == changes[1]
    net.reserve("10.1.0.77")
    changes.append(readings.read_all()[0].change)
    net.release("a")
    changes.append(readings.read_all()[0].change)
    assert changes[1] < changes[2] < changes[3]


def test_forecast(opened: Ipam, looking: Watch, moment: Time) -> None:
    """A pool that grows by one in 10 s has ten seconds for each address that is left."""
    net = opened.network("n", "10.1.0.0/24")
    for number in range(60):
        net.allocate(f"c{number}")
        looking.sample()
        if number == 2:
            assert looking.exhaustion_s(_key(opened)) == math.inf  # 20 s are no trend
        moment.now += 10
    left = 253 - 60
    assert looking.exhaustion_s(_key(opened)) == pytest.approx(left * 10)
    for number in range(60):
        net.release(f"c{number}")
    looking.sample()
    assert looking.exhaustion_s(_key(opened)) == math.inf
    for number in range(253):
        net.allocate(f"d{number}")
    moment.now += 10
    looking.sample()
    assert looking.exhaustion_s(_key(opened)) == 0
    assert looking.exhaustion_s(("nobody's", "n")) == math.inf


def test_forecast_of_a_dual_stack_network(opened: Ipam, looking: Watch, moment: Time) -> None:
    """A network is full when its IPv4 set is, however many IPv6 addresses are left."""
    net = opened.network("n", ["10.1.0.0/24", "fd00::/64"])
    for number in range(60):
        net.allocate(f"c{number}")
        (reading,) = looking.sample()
        moment.now += 10
    v4, v6 = (looking.exhaustion_s(_key(opened), number) for number in (0, 1))
    assert v4 == pytest.approx((253 - 60) * 10)
    assert v6 > 1e15
    assert looking.soonest_s(reading) == v4
    net.allocate_many([(f"d{number}", "eth0") for number in range(253 - 60)])
    (reading,) = looking.sample()
    assert looking.soonest_s(reading) == 0


def test_other_ranges_begin_other_samples(opened: Ipam, looking: Watch, moment: Time) -> None:
    """The samples of a range set end with its ranges: nothing is forecast from older ones."""
    opened.network("n", "10.1.0.0/24").allocate("a")
    looking.sample()
    moment.now += 100
    opened.network("n", "10.2.0.0/24").allocate_many([(f"c{one}", "eth0") for one in range(99)])
    looking.sample()
    (sample,) = looking.series(_key(opened))
    assert (sample.assigned, sample.size) == (99, 253)
    assert looking.exhaustion_s(_key(opened)) == math.inf


def test_a_full_configuration_beside_another_of_its_name(opened: Ipam, looking: Watch) -> None:
    """A network that is used with two configurations in turn has the sets of both, in one order."""
    for number in range(3):
        opened.network("n", "10.2.0.0/24").allocate(f"b{number}")
        opened.network("n", "10.1.0.0/29").allocate(f"a{number}")
    (first,) = looking.sample()
    opened.network("n", "10.2.0.0/24").allocate("b3")
    (second,) = looking.sample()
    opened.network("n", "10.1.0.0/29").allocate_many([("a3", "eth0"), ("a4", "eth0")])
    (third,) = looking.sample()
    for reading in (first, second, third):
        names = [(one.number, one.ranges_text) for one in reading.sets]
        assert names == [(0, "10.1.0.0/29"), (1, "10.2.0.0/24")]
        assert reading.outside == 0
    assert [one.full for one in third.sets] == [True, False]
    assert looking.soonest_s(third) == 0


def test_the_memory_is_bounded(opened: Ipam, looking: Watch, moment: Time) -> None:
    """Two days of samples leave an hour of fine ones and a day of coarse ones, oldest first."""
    opened.network("n", "10.1.0.0/24").allocate("a")
    for _ in range(int(2 * 86400 / INTERVAL_S / 4)):
        looking.sample()
        moment.now += 4 * INTERVAL_S
    samples = looking.series(_key(opened))
    assert FINE < len(samples) <= FINE + COARSE
    assert samples == sorted(samples)
    assert samples[-1].at - samples[0].at == pytest.approx(COARSE * COARSE_S, rel=0.2)


def test_many_networks(opened: Ipam, looking: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many networks are remembered; the others are read all the same."""
    monkeypatch.setattr(watch, "MOST_SERIES", 3)
    for number in range(5):
        opened.network(f"n{number}", "10.1.0.0/24").allocate("a")
    assert len(looking.sample()) == 5
    assert [bool(looking.series(_key(opened, f"n{at}"))) for at in range(5)] == [True] * 3 + [
        False
    ] * 2


def test_a_network_that_is_gone(opened: Ipam, looking: Watch) -> None:
    """With its store its samples go."""
    opened.network("n", "10.1.0.0/24").allocate("a")
    looking.sample()
    assert looking.series(_key(opened))
    open_stores.close_all()
    looking.sample()
    assert not looking.series(_key(opened))


def test_batches_wake_it(opened: Ipam, moment: Time) -> None:
    """A batch has a sample taken, one in the interval; without batches nothing wakes."""
    looking = Watch(clock=moment, idle=moment)
    opened.network("n", "10.1.0.0/24").allocate("a")
    looking.start()
    try:
        looking.batch(1, 0.001)
        until(lambda: len(looking.series(_key(opened))) == 1, "the first sample")
        moment.now += INTERVAL_S / 2
        looking.batch(1, 0.001)
        assert not looking._wanted.is_set()
        moment.now += INTERVAL_S
        looking.batch(1, 0.001)
        until(lambda: len(looking.series(_key(opened))) == 2, "the second sample")
    finally:
        looking.stop()
    until(
        lambda: not any(each.name == "watch" for each in threading.enumerate()),
        "the thread has ended",
    )


def test_the_longest_run_is_computed_aside(
    opened: Ipam, looking: Watch, moment: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks gets what is known, and has it computed; not again while nothing changes."""
    where = set()
    compute = readings.longest_free_runs

    def watched(*arguments: Any) -> dict[str, int] | None:
        where.add(threading.current_thread().name)
        return compute(*arguments)

    monkeypatch.setattr(readings, "longest_free_runs", watched)
    opened.network("n", "10.1.0.0/24").allocate("a", addresses=["10.1.0.100"])
    (reading,) = looking.sample()
    assert not looking.longest_runs(reading)
    looking.start()
    try:
        until(lambda: looking.longest_runs(reading), "it is computed")
        assert where == {"watch"}
        assert list(looking.longest_runs(reading).values()) == [154]
        assert not looking._wanted.is_set()
        opened.network("n").allocate("b", addresses=["10.1.0.200"])
        (later,) = looking.sample()
        assert list(looking.longest_runs(later).values()) == [154]  # too soon for another look
        assert not looking._wanted.is_set()
        moment.now += watch.RUN_AGE_S
        until(lambda: list(looking.longest_runs(later).values()) == [99], "it is computed again")
    finally:
        looking.stop()


@pytest.mark.parametrize(
    ("ranges", "exclude"),
    [
        ("10.32.0.0/19", ()),
        ("10.32.0.0/19", ("10.32.8.0/21", "10.32.31.0/28")),
        (["10.1.0.0/25", "10.2.0.0/23"], ()),
        ("10.1.2.0/30", ()),
        ("2001:db8::/115", ("2001:db8::1000/120",)),
    ],
)
@pytest.mark.parametrize("used", [0, 1, 40, 300, 10**9])
def test_longest_free_run(ipam: Ipam, ranges: Any, exclude: tuple[str, ...], used: int) -> None:
    """It is what a look at every single address gives."""
    net = ipam.network("n", ranges, exclude=exclude, cooldown_s=0)
    net.allocate("first")
    net.release("first")
    pool = net._current_pool()
    assert pool is not None
    addresses = [
        (each.family, value)
        for each in pool.sets
        for low, high in each.intervals
        for value in range(low, high + 1)
    ]
    chosen = random.Random(used).sample(addresses, min(used, len(addresses)))
    with ipam.transaction() as txn:
        inside = net.within(txn)
        if len(pool.sets) == 1:
            for at, one in enumerate(chosen):
                inside.allocate(f"c{at}", addresses=[to_ip(*one)])
        else:  # each set takes one of its own choice
            for at in range(min(used, *(each.size for each in pool.sets))):
                inside.allocate(f"c{at}")
    taken = {(family, value) for family, value, _, _ in net._records()}
    longest = [0] * len(pool.sets)
    for index, each in enumerate(pool.sets):
        for low, high in each.intervals:
            run = 0
            for value in range(low, high + 1):
                run = 0 if (each.family, value) in taken else run + 1
                longest[index] = max(longest[index], run)
    with ipam.store.read() as txn:
        found = readings.longest_free_runs(txn, "n")
    assert found == dict(zip(map(str, pool.sets), longest, strict=True))


def test_longest_free_run_of_a_64(ipam: Ipam, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that do not exist are free; too many pages are not looked at."""
    net = ipam.network("n", "2001:db8::/64")
    net.allocate("a", addresses=["2001:db8::8000:0:0:0"])
    with ipam.store.read() as txn:
        assert list((readings.longest_free_runs(txn, "n") or {}).values()) == [(1 << 63) - 1]
        assert readings.longest_free_runs(txn, "nobody's") is None
        monkeypatch.setattr(readings, "MOST_PAGES", 0)
        assert readings.longest_free_runs(txn, "n") is None


def test_a_sample_that_fails(
    opened: Ipam, moment: Time, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect in one sample is logged, and the next one is taken."""
    opened.network("n", "10.1.0.0/24").allocate("a")
    looking = Watch(clock=moment, idle=moment)

    def fail() -> list[readings.Reading]:
        raise KeyError("odd")

    looking.start()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(readings, "read_all", fail)
            looking.batch(1, 0.1)
            until(lambda: "a sample could not be taken" in caplog.text, "it is logged")
        moment.now += INTERVAL_S
        looking.batch(1, 0.1)
        until(lambda: looking.series(_key(opened)), "a sample is there")
    finally:
        looking.stop()


def test_refusals(looking: Watch) -> None:
    """The last errors are remembered with their text, all are counted by code."""
    for number in range(watch.REFUSALS + 5):
        output = json.dumps({"code": 7, "msg": f"bad {number}", "details": "look"}).encode()
        looking.request("ADD", 1, output, 0.1)
    looking.request("ADD", 0, b"{}", 0.1)
    looking.request("DEL", 1, b"no JSON", 0.1)
    assert looking.codes == {7: watch.REFUSALS + 5, -1: 1}
    assert len(looking.refusals) == watch.REFUSALS
    assert looking.refusals[-2].message == f"bad {watch.REFUSALS + 4}"
    assert looking.refusals[-2].hint == "look"
    assert looking.requests == watch.REFUSALS + 7
    shown = iter(reversed(looking.refusals))
    assert next(shown).verb == "DEL"
    looking.request("GC", 1, b"", 0.1)  # while the page is being made, in another thread
    assert next(shown).verb == "ADD"


def test_directories_are_opened(data_dir: Path) -> None:
    """A store that is named from the beginning is read before a request names it."""
    with fastipam.open(data_dir, "relaxed") as made:
        made.network("n", "10.1.0.0/24").allocate("a")
    looking = Watch([str(data_dir), str(data_dir / "nothing")])
    try:
        assert [reading.network for reading in looking.sample()] == ["n"]
        assert [reading.network for reading in looking.sample()] == ["n"]
        assert not (data_dir / "nothing").exists()
    finally:
        open_stores.close_all()
