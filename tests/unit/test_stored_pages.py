"""The same tree over a key-value transaction, played by a dict."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastipam._bitmap import StoredPages, page_bits
from fastipam.errors import StoreCorrupt

PAGE = 4096
FULL = b"\xff" * 512


class Fake:
    """A transaction: it counts what is asked of it."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.puts = self.deletes = 0

    def get(self, key: bytes, default: None, db: Any) -> bytes | None:
        assert db == "pages"
        return self.data.get(key, default)

    def put(self, key: bytes, value: bytes, dup: bool, over: bool, append: bool, db: Any) -> bool:
        assert (dup, over, append, db) == (True, True, False, "pages")
        self.puts += 1
        self.data[key] = value
        return True

    def delete(self, key: bytes, value: bytes, db: Any) -> bool:
        assert (value, db) == (b"", "pages")
        self.deletes += 1
        del self.data[key]
        return True

    def pages(self, index_bytes: int = 4) -> StoredPages:
        return StoredPages(self.get, self.put, self.delete, "pages", b"net", index_bytes)


def key(level: int, index: int, index_bytes: int = 4) -> bytes:
    return b"net" + bytes((level,)) + index.to_bytes(index_bytes, "big")


BORDERS = [0, 63, 64, PAGE - 1, PAGE, PAGE**2 - 1, PAGE**2, 2**64, 2**127, 2**128 - 1]
INDEX = st.sampled_from(BORDERS).flatmap(
    lambda b: st.integers(max(b - 2, 0), min(b + 2, 2**128 - 1))
)


class StoredPagesMachine(RuleBasedStateMachine):
    """Any sequence of calls and of new transactions gives what a set gives."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = Fake()
        self.pages = self.fake.pages(16)
        self.taken: set[int] = set()

    @rule(index=INDEX)
    def acquire(self, index: int) -> None:
        assert self.pages.acquire(index) == (index not in self.taken)
        self.taken.add(index)

    @rule(index=INDEX)
    def release(self, index: int) -> None:
        assert self.pages.release(index) == (index in self.taken)
        self.taken.discard(index)

    @rule(start=INDEX, wanted=st.sampled_from([0, 1, 5, PAGE, PAGE + 70]), length=INDEX)
    def take(self, start: int, wanted: int, length: int) -> None:
        last = min(start + length, 2**128 - 1)
        expected: list[int] = []
        at = start
        while len(expected) < wanted and at <= last:
            if at not in self.taken:
                expected.append(at)
            at += 1
        assert self.pages.take(start, last, wanted) == expected
        self.taken.update(expected)

    @rule(start=INDEX, length=st.integers(0, 5000))
    def take_first(self, start: int, length: int) -> None:
        last = min(start + length, 2**128 - 1)
        expected = next((i for i in range(start, last + 1) if i not in self.taken), None)
        assert self.pages.next_free(start, last) == expected
        assert self.pages.take_first(start, last) == expected
        if expected is not None:
            self.taken.add(expected)

    @rule(start=INDEX, length=st.integers(0, 5000))
    def release_run(self, start: int, length: int) -> None:
        for index in range(start, min(start + length, 2**128)):
            assert self.pages.release(index) == (index in self.taken)
            self.taken.discard(index)

    @rule()
    def flush(self) -> None:
        self.pages.flush()
        puts, deletes = self.fake.puts, self.fake.deletes
        self.pages.flush()
        assert (self.fake.puts, self.fake.deletes) == (puts, deletes)

    @rule()
    def new_transaction(self) -> None:
        self.pages.flush()
        self.pages = self.fake.pages(16)

    @invariant()
    def consistent(self) -> None:
        self.pages._check()

    def teardown(self) -> None:
        self.pages.flush()
        stored: list[int] = []
        for name, value in sorted(self.fake.data.items()):
            assert len(value) == 512
            assert any(value), "an empty page is stored"
            if name[3] == 0:
                stored += page_bits(value, int.from_bytes(name[4:], "big") * PAGE)
        assert stored == sorted(self.taken)


TestStoredPagesMachine = StoredPagesMachine.TestCase


def test_abandoned_changes() -> None:
    """What is not flushed has not happened."""
    fake = Fake()
    fake.pages().acquire(7)
    assert not fake.data
    assert 7 not in fake.pages()


def test_empty_page_is_taken_out() -> None:
    """The last release of a page deletes it, and a page that was never stored is not deleted."""
    fake = Fake()
    pages = fake.pages()
    pages.acquire(7)
    pages.release(7)
    pages.flush()
    assert (fake.puts, fake.deletes) == (0, 0)
    pages.acquire(7)
    pages.flush()
    pages.release(7)
    assert 7 not in pages
    pages.flush()
    assert not fake.data
    assert pages.next_free(0, 10) == 0


@pytest.mark.parametrize("length", [0, 1, 511, 513, 4096])
def test_page_of_wrong_length(length: int) -> None:
    """A page that is not 512 bytes long is damage, whatever is asked of it."""
    fake = Fake()
    fake.data[key(0, 0)] = b"\1" * length
    for call in (
        lambda: fake.pages().next_free(0, 10),
        lambda: fake.pages().acquire(3),
        lambda: fake.pages().release(3),
        lambda: 3 in fake.pages(),
        lambda: fake.pages().take(0, 10, 2),
    ):
        with pytest.raises(StoreCorrupt, match="not 512 bytes"):
            call()
    with pytest.raises(ValueError, match="512 bytes"):
        page_bits(b"\1" * length, 0)


def test_full_page_that_its_parent_calls_free() -> None:
    """A page above that does not know of a full page is damage, and is not written over."""
    fake = Fake()
    fake.data[key(0, 1)] = FULL
    fake.data[key(0, 0)] = FULL
    fake.data[key(1, 0)] = b"\1" + bytes(511)
    with pytest.raises(StoreCorrupt, match="above it does not say so"):
        fake.pages().next_free(0, 3 * PAGE)
    with pytest.raises(StoreCorrupt, match="above it does not say so"):
        fake.pages().release(PAGE)
    del fake.data[key(1, 0)]
    with pytest.raises(StoreCorrupt, match="above it does not say so"):
        fake.pages().release(PAGE)


def test_free_page_that_its_parent_calls_full() -> None:
    """A page that fills up although the page above calls it full already is damage."""
    fake = Fake()
    fake.data[key(0, 0)] = b"\xfe" + FULL[1:]
    fake.data[key(1, 0)] = b"\1" + bytes(511)
    pages = fake.pages()
    with pytest.raises(StoreCorrupt, match="says that it is"):
        pages.acquire(0)
    assert 0 not in pages


@pytest.mark.parametrize("index", [-1, 2**128])
def test_index_outside(index: int) -> None:
    """An index that is no 128-bit number is an OverflowError, never another index."""
    pages = Fake().pages(16)
    for call in (pages.acquire, pages.release, pages.__contains__):
        with pytest.raises(OverflowError):
            call(index)


@pytest.mark.parametrize("index_bytes", [0, 17])
def test_bad_index_bytes(index_bytes: int) -> None:
    """A page index takes 1 to 16 bytes."""
    with pytest.raises(ValueError, match="index_bytes"):
        Fake().pages(index_bytes)
