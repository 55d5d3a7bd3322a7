"""The decisions of a node about its blocks, without any store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastipam.cluster import planner
from fastipam.cluster.planner import Demand, Look, Search, Try, Use
from fastipam.configuration.cluster import Geometry, Watermarks

POOL = Geometry(4, 0x0A200000, 8, 4096)  # 10.32.0.0/12 in /24
SMALL = Geometry(4, 0x0A200000, 8, 16)
WATERMARKS = Watermarks()
WORTH = POOL.size


def run(search: Search, taken: set[int], stale: set[int] | None = None) -> tuple[int, int]:
    """Carry a search out against a set of taken blocks; (tries, looks)."""
    tries = looks = 0
    while search.step is not None:
        step = search.step
        if isinstance(step, Try):
            tries += 1
            met = [one for one in step.blocks if one in taken]
            if met:
                search.conflict(met)
            else:
                taken.update(step.blocks)
                search.claimed()
        else:
            looks += 1
            search.looked(taken if stale is None else stale)
    return tries, looks


def test_places_differ() -> None:
    """Two hundred nodes start at two hundred places, but for a few."""
    places = {planner.place(f"node-{number}", POOL) for number in range(200)}
    assert len(places) > 190


def test_many_nodes_at_once() -> None:
    """Of two hundred nodes that start in one moment nearly all get what they try first."""
    taken: set[int] = set()
    tries = sum(run(Search(POOL, f"node-{number}", (), 1), taken)[0] for number in range(200))
    assert len(taken) == 200
    assert tries <= 1.2 * 200


def test_every_block_is_found() -> None:
    """A pool is claimed to its last block, and then said to be used up."""
    taken: set[int] = set()
    for number in range(POOL.count):
        search = Search(POOL, f"node-{number % 7}", (), 1)
        run(search, taken)
        assert not search.exhausted
    assert len(taken) == POOL.count
    search = Search(POOL, "late", (), 1)
    run(search, taken)
    assert search.exhausted


def test_unusable_blocks_are_not_claimed() -> None:
    """A block that has no address to serve is never tried."""
    pool = Geometry(4, 0, 8, 16, frozenset(range(15)))
    taken: set[int] = set()
    run(Search(pool, "n", (), 4), taken)
    assert taken == {15}


def test_ends_when_others_are_always_faster() -> None:
    """A search whose looks are always out of date gives up, and does not say "used up"."""
    search = Search(SMALL, "n", (), 1)
    tries, _ = run(search, set(range(16)), stale=set())
    assert tries == planner.TRIES
    assert search.step is None
    assert not search.exhausted


def test_runs_grow_side_by_side() -> None:
    """A node that doubles what it has gets one aligned run as long as its neighbours are free."""
    owned: set[int] = set()
    run(Search(POOL, "n", owned, 1), owned)
    for size in (1, 2, 4, 8, 16):
        run(Search(POOL, "n", frozenset(owned), size), owned)
    assert [len(each) for each in planner.runs(owned)] == [32]


@given(st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)), st.integers(1, 32))
def test_claims_only_what_is_free(others: set[int], owned: set[int], wanted: int) -> None:
    """Whatever is taken: a search ends, claims an aligned free run, or says truly that none is."""
    owned -= others
    before = others | owned
    taken = set(before)
    search = Search(SMALL, "n", frozenset(owned), wanted)
    run(search, taken)
    got = taken - before
    assert search.exhausted == (len(before) == 16)
    assert bool(got) != search.exhausted
    if got:
        (only,) = planner.runs(got)
        assert len(only) <= wanted


@pytest.mark.parametrize(
    ("free", "missing", "last_run", "since_last_s", "expected"),
    [
        (0, 0, 0, 0.0, 1),  # a node that has nothing
        (WORTH, 0, 1, 1.0, 0),  # enough
        (63, 0, 0, 0.0, 1),  # below the low water
        (64, 0, 0, 0.0, 0),  # at it
        (10, 0, 1, 1.0, 2),  # demand grows
        (10, 0, 8, 5.0, 16),
        (10, 0, 8, 5.1, 1),  # it does not any more
        (10, 0, 32, 1.0, 32),  # no transaction is larger
        (0, 600, 0, 0.0, 4),  # as many as wait
        (200, 300, 0, 0.0, 1),
    ],
)
def test_how_many_to_claim(
    free: int, missing: int, last_run: int, since_last_s: float, expected: int
) -> None:
    """Below the low water one, twice as many when the last claim was a moment ago."""
    demand = Demand(free, missing=missing, last_run=last_run, since_last_s=since_last_s)
    assert planner.to_claim(WATERMARKS, POOL, demand) == expected


def test_nothing_is_claimed_ahead_when_scarce() -> None:
    """When others have found the pool used up, only a waiting ADD is a reason to claim."""
    assert planner.to_claim(WATERMARKS, POOL, Demand(0, scarce=True)) == 0
    assert planner.to_claim(WATERMARKS, POOL, Demand(0, missing=1, scarce=True)) == 1


def uses(*used: int, claimed_s: float = 0.0) -> list[Use]:
    """Blocks of 256 addresses with so many used."""
    return [Use(number, 256, each, claimed_s) for number, each in enumerate(used)]


def test_give_back_above_the_high_water() -> None:
    """Wholly free blocks go while more than the high water is free; one stays warm."""
    assert planner.to_give_back(WATERMARKS, POOL, uses(0, 0, 0, 0, 200), 1000.0) == [3, 2, 1]
    assert planner.to_give_back(WATERMARKS, POOL, uses(0, 0, 256), 1000.0) == []
    assert planner.to_give_back(WATERMARKS, POOL, uses(0, 1, 1, 1), 1000.0) == []


def test_give_back_only_old_blocks() -> None:
    """A block that was claimed a moment ago stays, however empty."""
    blocks = [*uses(0, 0, 0), Use(3, 256, 0, 999.0)]
    assert planner.to_give_back(WATERMARKS, POOL, blocks, 1000.0) == [2, 1]
    assert planner.to_give_back(WATERMARKS, POOL, blocks, 1299.0) == [3, 2]


def test_what_is_given_back_is_not_claimed_again_at_once() -> None:
    """Between the two water marks there is room: giving back never makes a node claim."""
    blocks = uses(0, 0, 0, 0, 0)
    given = set(planner.to_give_back(WATERMARKS, POOL, blocks, 1000.0))
    free = sum(each.size - each.used for each in blocks if each.number not in given)
    assert planner.to_claim(WATERMARKS, POOL, Demand(free)) == 0


@pytest.mark.parametrize(("empty", "wanted", "given"), [(0, 1, 0), (1, 5, 1), (4, 5, 2), (5, 9, 3)])
def test_donate_half(empty: int, wanted: int, given: int) -> None:
    """Half of the wholly free blocks, rounded up: the last one moves, too."""
    assert len(planner.to_donate(uses(*[0] * empty, 5, 6), wanted)) == given


def test_donate_no_more_than_wanted() -> None:
    """What nobody has asked for stays."""
    assert planner.to_donate(uses(0, 0, 0, 0, 0, 0), 1) == [5]


def test_donate_nothing_without_an_address() -> None:
    """A block of a disabled pool is of no use to a node in need."""
    assert planner.to_donate([Use(0, 0, 0, 0.0), Use(1, 256, 0, 0.0), Use(2, 0, 0, 0.0)], 3) == [1]


@pytest.mark.parametrize("donors", [1, 10, 1000, 20_000])
def test_few_donors_answer_first(donors: int) -> None:
    """However many could: somebody answers in time, and few within 10 ms of the first."""
    delays = sorted(planner.donor_delay_s(f"d{one}", "n", 7, 1.0) for one in range(donors))
    assert 0.0 <= delays[0] <= 1.0
    assert sum(each <= delays[0] + 0.01 for each in delays) <= 5


def test_backoff_grows_and_differs() -> None:
    """Each failure doubles the pause up to the longest; two nodes do not come back together."""
    pauses = [planner.backoff_s("n", failures) for failures in range(40)]
    assert pauses[0] <= 0.1
    assert max(pauses) <= 10.0
    assert min(pauses[10:]) >= 5.0
    assert planner.backoff_s("a", 5) != planner.backoff_s("b", 5)


def test_a_pause_that_is_asked_for() -> None:
    """At least half of it is waited, at most 5 s, and not by all nodes alike."""
    assert planner.postponed_s("n", 1, 0.0) == 0.0
    for failures in range(1, 9):
        assert 1.0 <= planner.postponed_s("n", failures, 2.0) <= 2.0
        assert 2.5 <= planner.postponed_s("n", failures, 32.0) <= 5.0
    assert planner.postponed_s("a", 1, 2.0) != planner.postponed_s("b", 1, 2.0)


def test_runs() -> None:
    """Blocks become the fewest aligned runs."""
    assert list(planner.runs([3, 4, 5, 6, 7, 9])) == [
        range(3, 4),
        range(4, 8),
        range(9, 10),
    ]
    assert list(planner.runs([])) == []


def test_windows_are_whole_digits() -> None:
    """A window's addresses share whole hexadecimal digits: a store can list it by prefix."""
    for host_bits in range(1, 17):
        pool = Geometry(4, 0, host_bits, 1 << 20 >> host_bits << 4)
        assert (pool.host_bits + pool.window_bits) % 4 == 0
        assert pool.window(5).start == 0
    assert isinstance(Search(POOL, "n", (), 1).step, Try)
    search = Search(POOL, "n", (), 1)
    assert isinstance(search.step, Try)
    search.conflict(search.step.blocks)
    assert isinstance(search.step, Look)
    assert len(search.step.blocks) == 256
