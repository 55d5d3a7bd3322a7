"""The bitmap in memory, against a set of integers."""

from __future__ import annotations

import operator
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastipam import Bitmap, PoolExhausted

PAGE = 4096
BOUNDARY_SIZES = (1, 2, 63, 64, 65, 4095, 4096, 4097, 2**18 - 1, 2**18, 2**18 + 1)
LARGE_SIZES = (2**20, 2**24 - 1, 2**24, 2**24 + 1)
SPARSE_SIZES = (2**32, 2**63, 2**64, 2**64 + 3, 2**128)


class Model:
    """What a bitmap is: a set and a cursor."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken: set[int] = set()
        self.cursor = 0

    def next_free(self, start: int, stop: int) -> int | None:
        at = start
        while at < stop and at in self.taken:
            at += 1
        return at if at < stop else None

    def allocate(self) -> int | None:
        found = self.next_free(self.cursor, self.size)
        if found is None:
            found = self.next_free(0, self.cursor)
        if found is not None:
            self.taken.add(found)
            self.cursor = (found + 1) % self.size
        return found


def near(size: int) -> st.SearchStrategy[int]:
    """Indices at the borders of words, pages and levels, and at both ends."""
    borders = [0, 64, PAGE, 2 * PAGE, PAGE**2, PAGE**3, 2**63, 2**64, size // 2, size]
    at = st.sampled_from(borders).flatmap(lambda b: st.integers(b - 3, b + 3))
    return at.map(lambda i: min(max(i, 0), size - 1))


class BitmapMachine(RuleBasedStateMachine):
    """Any sequence of calls gives what the set gives."""

    @initialize(size=st.sampled_from([*BOUNDARY_SIZES, *SPARSE_SIZES, 100, 5000, 3 * PAGE]))
    def create(self, size: int) -> None:
        self.bitmap = Bitmap(size)
        self.model = Model(size)

    def pick(self, data: st.DataObject) -> int:
        taken = sorted(self.model.taken)[:50]
        choices = near(self.model.size)
        return data.draw(choices | st.sampled_from(taken) if taken else choices)

    @rule()
    def allocate(self) -> None:
        expected = self.model.allocate()
        if expected is None:
            with pytest.raises(PoolExhausted):
                self.bitmap.allocate()
        else:
            assert self.bitmap.allocate() == expected

    @rule(count=st.integers(0, 3) | st.sampled_from([64, 100, 4095, 4096, 4200]))
    def allocate_many(self, count: int) -> None:
        before = self.bitmap.cursor
        if count > self.model.size - len(self.model.taken):
            with pytest.raises(PoolExhausted):
                self.bitmap.allocate_many(count)
            assert self.bitmap.cursor == before
        else:
            expected = [self.model.allocate() for _ in range(count)]
            assert self.bitmap.allocate_many(count).tolist() == expected

    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        index = self.pick(data)
        assert self.bitmap.acquire(index) == (index not in self.model.taken)
        self.model.taken.add(index)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = self.pick(data)
        assert self.bitmap.release(index) == (index in self.model.taken)
        self.model.taken.discard(index)

    @rule(data=st.data(), length=st.integers(1, 5000))
    def release_run(self, data: st.DataObject, length: int) -> None:
        start = self.pick(data)
        run = range(start, min(start + length, self.model.size))
        freed = sum(self.bitmap.release(index) for index in run)
        assert freed == len(self.model.taken.intersection(run))
        self.model.taken.difference_update(run)

    @rule(data=st.data())
    def move_cursor(self, data: st.DataObject) -> None:
        self.model.cursor = self.bitmap.cursor = self.pick(data)

    @rule(data=st.data())
    def search(self, data: st.DataObject) -> None:
        low, high = sorted((self.pick(data), self.pick(data)))
        assert self.bitmap.next_free(low, high) == self.model.next_free(low, high)
        inside = sum(low <= index < high for index in self.model.taken)
        assert self.bitmap.count(low, high) == inside

    @rule(data=st.data(), length=st.integers(0, 9000))
    def raw(self, data: st.DataObject, length: int) -> None:
        low = self.pick(data) & ~7
        high = min(low + length, self.model.size)
        raw = self.bitmap.to_bytes(low, high)
        bits = np.unpackbits(np.frombuffer(raw, "u1"), bitorder="little")
        expected = {index - low for index in self.model.taken if low <= index < high}
        assert set(np.flatnonzero(bits).tolist()) == expected
        assert len(raw) == (max(high - low, 0) + 7) // 8

    @invariant()
    def same(self) -> None:
        if hasattr(self, "model"):
            self.bitmap._check()
            assert self.bitmap.used == len(self.model.taken)
            assert self.bitmap.free == self.model.size - self.bitmap.used
            assert self.bitmap.cursor == self.model.cursor
            assert list(iter(self.bitmap)) == sorted(self.model.taken)


TestBitmapMachine = BitmapMachine.TestCase


@pytest.mark.parametrize("size", [*BOUNDARY_SIZES, *LARGE_SIZES])
def test_fill_and_wrap(size: int) -> None:
    """A bitmap gives each index once, refuses then, and finds a hole wherever it is."""
    bitmap = Bitmap(size)
    assert np.array_equal(bitmap.allocate_many(size), np.arange(size))
    assert (bitmap.used, bitmap.free, len(bitmap)) == (size, 0, size)
    with pytest.raises(PoolExhausted):
        bitmap.allocate()
    assert bitmap.next_free() is None
    for hole in (0, 63, 64, 4095, 4096, PAGE**2 - 1, PAGE**2, size // 2, size - 1):
        if hole < size:
            assert bitmap.release(hole)
            assert hole not in bitmap
            assert bitmap.next_free(0) == hole
            assert bitmap.next_free(hole + 1) is None
            assert bitmap.allocate() == hole
            assert bitmap.cursor == (hole + 1) % size
    bitmap._check()


def test_one_by_one() -> None:
    """Single calls give the same order as a batch, over more than two pages."""
    bitmap = Bitmap(3 * PAGE + 5)
    assert [bitmap.allocate() for _ in range(bitmap.size)] == list(range(bitmap.size))
    with pytest.raises(PoolExhausted):
        bitmap.allocate()
    bitmap._check()


def test_batch_wraps_round() -> None:
    """A batch goes on behind the cursor, over holes, and round."""
    bitmap = Bitmap(3 * PAGE)
    for index in (2 * PAGE, 3 * PAGE - 1, 1):
        bitmap.acquire(index)
    bitmap.cursor = 3 * PAGE - 3
    assert bitmap.allocate_many(4).tolist() == [3 * PAGE - 3, 3 * PAGE - 2, 0, 2]
    assert bitmap.cursor == 3


@pytest.mark.parametrize("size", SPARSE_SIZES)
def test_sparse(size: int) -> None:
    """A huge bitmap costs what it holds: both ends and the middle work, in a few KiB."""
    bitmap = Bitmap(size)
    for index in (size - 1, 0, size // 2, size // 3):
        assert bitmap.acquire(index)
        assert index in bitmap
    bitmap.cursor = size - 2
    assert bitmap.allocate() == size - 2
    assert bitmap.allocate() == 1
    assert bitmap.count(size // 3, size // 2 + 1) == 2
    assert list(iter(bitmap)) == sorted([0, 1, size // 3, size // 2, size - 2, size - 1])
    assert sys.getsizeof(bitmap) < 16 << 10
    bitmap._check()


def test_churn_across_far_pages() -> None:
    """Pages that become empty are given back: churn over a sparse space needs no memory."""
    bitmap = Bitmap(2**64)
    for step in range(2000):
        index = step * 0x9E3779B97F4A7C15 % 2**64
        bitmap.acquire(index)
        bitmap.release(index)
    assert bitmap.used == 0
    assert sys.getsizeof(bitmap) < 32 << 10
    bitmap._check()


def test_full_subtrees() -> None:
    """Full subtrees of two pages' levels are skipped, and found again when one bit is freed."""
    bitmap = Bitmap(2**25)
    bitmap.allocate_many(2**24 + 5)
    assert bitmap.next_free(0) == 2**24 + 5
    bitmap.release(PAGE**2 - PAGE)
    assert bitmap.next_free(0) == PAGE**2 - PAGE
    assert bitmap.next_free(PAGE**2 - PAGE + 1) == 2**24 + 5
    bitmap._check()
    for index in range(2**24 + 5):
        bitmap.release(index)
    assert bitmap.used == 0
    bitmap._check()


def test_memory_of_a_slash_12() -> None:
    """A wholly assigned /12 takes less than 300 KiB."""
    bitmap = Bitmap(1 << 20)
    bitmap.allocate_many(1 << 20)
    assert sys.getsizeof(bitmap) < 300 << 10


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, "int64"), (2**63, "int64"), (2**63 + 1, "uint64"), (2**64, "uint64"), (2**64 + 1, "O")],
)
def test_dtype(size: int, dtype: str) -> None:
    """The array's type is the narrowest that holds every index, also for no index at all."""
    bitmap = Bitmap(size)
    assert bitmap.allocate_many(0).dtype == np.dtype(dtype)
    bitmap.cursor = size - 1
    array = bitmap.allocate_many(1)
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == [size - 1]


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32, np.uint8])
def test_numpy_integers(kind: Callable[[int], Any]) -> None:
    """Numpy's integers are taken wherever an index or a count is."""
    bitmap = Bitmap(kind(100))
    assert bitmap.size == 100
    assert type(bitmap.size) is int
    assert bitmap.acquire(kind(7))
    assert kind(7) in bitmap
    assert bitmap.count(kind(0), kind(50)) == 1
    assert bitmap.next_free(kind(7), kind(9)) == 8
    assert bitmap.release(kind(7))
    assert len(bitmap.allocate_many(kind(3))) == 3
    bitmap.cursor = kind(9)
    assert bitmap.to_bytes(kind(0), kind(8)) == b"\x07"


@pytest.mark.parametrize("index", [-1, 100, 2**63, 2**64, 2**128, -(2**70)])
def test_index_outside(index: int) -> None:
    """An index outside is refused, and is in no bitmap."""
    bitmap = Bitmap(100)
    for call in (bitmap.acquire, bitmap.release):
        with pytest.raises(IndexError, match="outside"):
            call(index)
    with pytest.raises(IndexError, match="outside"):
        bitmap.cursor = index
    assert index not in bitmap
    bitmap._check()


@pytest.mark.parametrize("value", ["1", 1.5, None, b"1"])
def test_not_an_integer(value: Any) -> None:
    """What is no integer is a TypeError, wherever an index or a count is wanted."""
    bitmap = Bitmap(100)
    calls: list[Callable[[Any], object]] = [
        Bitmap,
        bitmap.acquire,
        bitmap.release,
        bitmap.allocate_many,
        bitmap.next_free,
        bitmap.count,
        lambda index: index in bitmap,
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call(value)


@pytest.mark.parametrize("size", [0, -1, 2**128 + 1, 2**200])
def test_bad_size(size: int) -> None:
    """A size is within 1 and 2**128."""
    with pytest.raises(ValueError, match="not within 1 and"):
        Bitmap(size)


def test_bad_bounds() -> None:
    """Bounds that reach outside are an IndexError; empty ones are not."""
    bitmap = Bitmap(100)
    for low, high in ((-1, 5), (0, 101), (101, None), (0, 2**200)):
        for call in (bitmap.count, bitmap.next_free):
            with pytest.raises(IndexError, match="reaches outside"):
                call(low, high)
    assert (bitmap.count(5, 5), bitmap.count(100), bitmap.count(9, 3)) == (0, 0, 0)
    assert bitmap.next_free(100) is None
    with pytest.raises(ValueError, match="multiple of 8"):
        bitmap.to_bytes(4)
    assert bitmap.to_bytes(8, 8) == b""


def test_allocate_many_is_all_or_nothing() -> None:
    """A batch that is too large changes nothing; a negative one is refused."""
    bitmap = Bitmap(10)
    bitmap.allocate_many(4)
    with pytest.raises(PoolExhausted) as caught:
        bitmap.allocate_many(7)
    assert caught.value.wanted == 7
    assert (bitmap.used, bitmap.cursor) == (4, 4)
    with pytest.raises(ValueError, match="negative"):
        bitmap.allocate_many(-1)


def test_len_beyond_ssize_t() -> None:
    """``len`` has a limit, ``size`` has none."""
    assert len(Bitmap(2**63 - 1)) == 2**63 - 1
    with pytest.raises(OverflowError):
        len(Bitmap(2**63))
    assert repr(Bitmap(2**63)) == "<fastipam.Bitmap size=9223372036854775808 used=0>"


def test_check_is_on_a_full_128_bit_space() -> None:
    """The largest index there is can be taken, searched for and given back."""
    bitmap = Bitmap(2**128)
    last = 2**128 - 1
    assert bitmap.acquire(last)
    assert bitmap.next_free(last) is None
    assert bitmap.count(last, 2**128) == 1
    assert bitmap.release(last)
    assert bitmap.next_free(last) == last


@given(st.sets(st.integers(0, 3 * PAGE - 1)), st.integers(0, 3 * PAGE), st.integers(0, 3 * PAGE))
def test_next_free_and_count(taken: set[int], low: int, high: int) -> None:
    """A bounded search and a bounded count agree with a set, for any fill."""
    bitmap = Bitmap(3 * PAGE)
    for index in taken:
        bitmap.acquire(index)
    free = (index for index in range(low, high) if index not in taken)
    assert bitmap.next_free(low, high) == next(free, None)
    assert bitmap.count(low, high) == sum(low <= index < high for index in taken)


def test_threads_never_share_an_index() -> None:
    """Batches without the GIL, beside single calls and readers, hand each index out once."""
    bitmap = Bitmap(1 << 19)
    taken: list[list[int]] = []
    failures: list[BaseException] = []

    def run(work: Callable[[list[int]], None]) -> None:
        mine: list[int] = []
        try:
            work(mine)
        except BaseException as error:
            failures.append(error)
        taken.append(mine)

    def batches(mine: list[int]) -> None:
        for _ in range(20):
            mine += bitmap.allocate_many(5000).tolist()

    def singles(mine: list[int]) -> None:
        mine += [bitmap.allocate() for _ in range(20000)]

    def churn(_: list[int]) -> None:
        for _turn in range(3000):
            assert bitmap.release(bitmap.allocate())

    def readers(_: list[int]) -> None:
        for _turn in range(20):
            operator.length_hint(iter(bitmap))
            sum(1 for _ in bitmap)
            bitmap.count(1000, 100000)
            bitmap.to_bytes(0, 50000)

    works = (batches, batches, batches, singles, singles, churn, readers)
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    kept = [index for mine in taken for index in mine]
    assert len(kept) == len(set(kept)) == bitmap.used == 3 * 100000 + 2 * 20000
    bitmap._check()


def test_iteration_beside_batches() -> None:
    """An iteration that is under way while a batch runs in another thread reads whole pages."""
    bitmap = Bitmap(1 << 22)
    bitmap.allocate_many(1 << 14)
    done = threading.Event()

    def work() -> None:
        for _ in range(40):
            bitmap.allocate_many(1 << 15)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        seen = list(iter(bitmap))
        assert all(one < other for one, other in pairwise(seen))
    thread.join()
    bitmap._check()


FOLLOW_UPS: list[Callable[[Bitmap], object]] = [
    lambda bm: bm.release(4095),
    lambda bm: bm.release(17),
    lambda bm: bm.release(4096),
    lambda bm: bm.acquire(4096),
    lambda bm: bm.acquire(4095),
    lambda bm: bm.next_free(0),
    lambda bm: bm.next_free(0, 4096),
    lambda bm: bm.allocate(),
    lambda bm: bm.allocate_many(5000),
    lambda bm: (4095 in bm, 9000 in bm, bm.count(), bm.to_bytes(), list(bm)),
    lambda bm: setattr(bm, "cursor", 0),
]


@pytest.mark.parametrize("first", range(len(FOLLOW_UPS)))
@pytest.mark.parametrize("second", range(len(FOLLOW_UPS)))
def test_page_that_allocate_filled(first: int, second: int) -> None:
    """Whatever follows an allocate that fills a page, the pages above agree with it."""
    bm = Bitmap(1 << 20)
    bm.allocate_many(4095)
    assert bm.allocate() == 4095
    for which in (first, second):
        FOLLOW_UPS[which](bm)
    taken = set(bm)
    bm._check()
    assert len(taken) == bm.used
    free = next(index for index in range(1 << 20) if index not in taken)
    assert bm.next_free() == free
    bm.cursor = 0
    assert bm.allocate() == free
    bm._check()
