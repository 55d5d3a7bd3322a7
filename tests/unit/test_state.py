"""A pool's numbers: what is stored of them, where its round robins stand, its own clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastipam import errors
from fastipam._ledger import PoolState
from fastipam.errors import StoreCorrupt

NUMBERS = {
    "generation": 2**62 - 1,
    "assigned": 2,
    "cooling": 3,
    "reserved": 4,
    "outside": 5,
    "clock": 2**62 - 2,
    "offset": -(2**62) + 1,
    "kept": 7,
    "swept": 2**32 - 1,
}


def test_new() -> None:
    """A pool that is new has nothing, and has seen nothing."""
    state = PoolState(7, None)
    assert {name: getattr(state, name) for name in NUMBERS} == dict.fromkeys(NUMBERS, 0)
    assert (state.pool_id, state.prefix, state.key) == (7, b"\0\0\0\7", b"P\0\0\0\7")
    assert (state.sweep, state.cursors, state.all_cursors()) == ((0, 0), b"", [])


@pytest.mark.parametrize("sweep", [(0, 0), (4, 2**32 - 1), (6, 2**128 - 1), (6, 0)])
def test_round_trip(sweep: tuple[int, int]) -> None:
    """Every number is read back as it was written, up to the largest."""
    state = PoolState(7, None)
    for name, number in NUMBERS.items():
        setattr(state, name, number)
    state.sweep = sweep
    state.move_cursor(1, 4, 77)
    again = PoolState(7, state.pack())
    assert {name: getattr(again, name) for name in NUMBERS} == NUMBERS
    assert (again.sweep, again.used) == (sweep, 2 + 3 + 4)
    assert again.all_cursors() == [None, (4, 77)]


@pytest.mark.parametrize("sweep", [(4, 2**32), (5, 1), (255, 2**128 - 1)])
def test_position_that_cannot_be(sweep: tuple[int, int]) -> None:
    """A search at an impossible position begins again, and stops no call."""
    state = PoolState(7, None)
    state.sweep = sweep
    assert PoolState(7, state.pack()).sweep == (0, 0)


@pytest.mark.parametrize("order", [(0, 2), (2, 0)])
def test_cursors(order: tuple[int, int]) -> None:
    """Each range set has its cursor; of another family, or behind the last, there is none."""
    state = PoolState(7, None)
    for index in order:
        state.move_cursor(index, *{0: (4, 77), 2: (6, 2**128 - 1)}[index])
    again = PoolState(7, state.pack())
    assert (again.cursor(0, 4), again.cursor(2, 6)) == (77, 2**128 - 1)
    assert [again.cursor(0, 6), again.cursor(1, 4), again.cursor(2, 4), again.cursor(3, 4)] == [
        None
    ] * 4
    again.move_cursor(0, 6, 1)
    assert (again.cursor(0, 4), again.cursor(0, 6), again.cursor(2, 6)) == (None, 1, 2**128 - 1)
    assert again.all_cursors() == [(6, 1), None, (6, 2**128 - 1)]


@pytest.mark.parametrize("cut", [0, 10, 57, 84, -1])
def test_unreadable(cut: int) -> None:
    """A state that cannot be read is damage, and shown."""
    state = PoolState(7, None)
    state.move_cursor(0, 4, 77)
    raw = state.pack()[:cut]
    with pytest.raises(StoreCorrupt) as caught:
        PoolState(7, raw)
    assert caught.value.message == f"a pool's numbers cannot be read: the bytes are {raw.hex()}"
    assert caught.value.hint == errors.CHECK_HINT


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("generation", 2**62),
        ("clock", 2**62),
    ],
)
def test_number_that_cannot_be(name: str, number: int) -> None:
    """A number that only grows has not come so far: it is damage, before it is reckoned with."""
    state = PoolState(7, None)
    setattr(state, name, number)
    raw = state.pack()
    with pytest.raises(StoreCorrupt) as caught:
        PoolState(7, raw)
    assert raw.hex() in caught.value.message
    assert caught.value.hint == errors.CHECK_HINT


def test_counter_at_its_end() -> None:
    """A counter that was wrong and would fall below nothing is damage when it is written."""
    state = PoolState(7, None)
    state.assigned = -1
    with pytest.raises(StoreCorrupt, match=r"^a pool's numbers cannot be written: ") as caught:
        state.pack()
    assert caught.value.hint == errors.CHECK_HINT


@given(st.lists(st.integers(-(10**12), 10**12), max_size=20))
def test_clock_never_steps_back(steps: list[int]) -> None:
    """The pool's clock follows the wall clock, never further, but by 1 ns when it steps back."""
    state = PoolState(7, None)
    wall = 10**15
    before = state.tick(wall)
    for step in steps:
        wall = max(wall + step, 0)
        now = state.tick(wall)
        assert before < now <= before + max(step, 1)
        again = state.tick(wall + 5)
        assert again == now + 5
        wall, before = wall + 5, again


def test_clock_that_stands() -> None:
    """No two moments are the same, and the time since then counts from the later of them."""
    state = PoolState(7, None)
    assert [state.tick(100), state.tick(100), state.tick(100)] == [100, 101, 102]
    assert (state.clock, state.offset) == (102, 2)
    assert state.tick(101) == 103
    assert (state.clock, state.offset) == (103, 2)
