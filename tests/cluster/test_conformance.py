"""What every engine does, on the one in memory and on real etcd, 3.4 and 3.5."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fastipam.cluster.engine import (
    MAX_OPERATIONS,
    Compacted,
    Compare,
    Delete,
    Engine,
    EngineUnavailable,
    KeyEvent,
    KeyValue,
    Put,
    SessionGone,
)
from tests.cluster.memory import MemoryEngine

from .conftest import binary_of
from .etcd import Etcd

S = 30.0  # deadline of a call that is answered at once
_prefixes = itertools.count()


class Subject:
    """An engine, a prefix of the test's own, and what only a test may do to the store."""

    def __init__(self, engine: Engine, compact: Callable[[int], None]) -> None:
        self.engine = engine
        self.compact = compact
        self.prefix = f"/conformance/{next(_prefixes)}/".encode()

    def key(self, name: str) -> bytes:
        return self.prefix + name.encode()

    def put(self, name: str, value: bytes = b"", session: int = 0) -> int:
        """Write without a condition; the revision."""
        put = Put(self.key(name), value, session)
        return self.engine.transact([], [put], deadline_s=S).revision

    def get(self, name: str) -> KeyValue | None:
        return self.engine.get(self.key(name), deadline_s=S)


@pytest.fixture(scope="module", params=["memory", "3.4", "3.5"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Callable[[int], None]]]:
    """Each engine, for all tests of the module."""
    if request.param == "memory":
        memory = MemoryEngine()
        yield memory, memory.compact
        return
    binary = binary_of(request.param)
    with (
        Etcd(binary, tmp_path_factory.mktemp("etcd")) as etcd,
        contextlib.closing(etcd.engine()) as engine,
    ):
        yield engine, etcd.compact


@pytest.fixture
def subject(store: tuple[Engine, Callable[[int], None]]) -> Subject:
    """The engine with a prefix of the test's own."""
    return Subject(*store)


def test_get(subject: Subject) -> None:
    """A key is absent, then there with its revisions; any bytes will do."""
    assert subject.get("a") is None
    value = bytes(range(256))
    first = subject.put("a", b"")
    second = subject.put("a", value)
    assert second > first
    assert subject.get("a") == KeyValue(subject.key("a"), value, first, second, 2)


def test_create_if_absent(subject: Subject) -> None:
    """Of two who create the same key the second one is told what there is."""
    key = subject.key("a")
    first = subject.engine.transact([Compare(key, "absent")], [Put(key, b"1")], deadline_s=S)
    assert (first.succeeded, first.existing) == (True, [])
    second = subject.engine.transact([Compare(key, "absent")], [Put(key, b"2")], deadline_s=S)
    assert not second.succeeded
    assert second.existing == [KeyValue(key, b"1", first.revision, first.revision, 1)]
    assert second.revision >= first.revision


def test_compare_revision(subject: Subject) -> None:
    """A change on condition of the last revision; 0 stands for absent."""
    key = subject.key("a")
    engine = subject.engine
    absent = [Compare(key, "mod_revision", 0)]
    assert engine.transact(absent, [Put(key, b"")], deadline_s=S).succeeded
    revision = subject.put("a", b"1")
    stale = [Compare(key, "mod_revision", revision - 1)]
    assert not engine.transact(stale, [Put(key, b"2")], deadline_s=S).succeeded
    fresh = [Compare(key, "mod_revision", revision)]
    assert engine.transact(fresh, [Delete(key)], deadline_s=S).succeeded
    assert subject.get("a") is None
    gone = engine.transact(fresh, [Put(key, b"3")], deadline_s=S)
    assert (gone.succeeded, gone.existing) == (False, [])


def test_compare_value(subject: Subject) -> None:
    """A change on condition of the value; a key that does not exist has no value."""
    key = subject.key("a")
    engine = subject.engine
    empty = [Compare(key, "value", b"")]
    assert not engine.transact(empty, [Put(key, b"1")], deadline_s=S).succeeded
    subject.put("a", b"")
    assert engine.transact(empty, [Put(key, b"1")], deadline_s=S).succeeded
    assert not engine.transact(empty, [Put(key, b"2")], deadline_s=S).succeeded


def test_all_or_nothing(subject: Subject) -> None:
    """One condition that does not hold stops all operations; what exists is told in order."""
    subject.put("b", b"b")
    subject.put("a", b"a")
    names = ["c", "b", "a", "b"]
    compares = [Compare(subject.key(name), "absent") for name in names]
    operations: list[Put | Delete] = [Put(subject.key("c"), b"x"), Delete(subject.key("a"))]
    outcome = subject.engine.transact(compares, operations, deadline_s=S)
    assert not outcome.succeeded
    assert [found.value for found in outcome.existing] == [b"b", b"a"]
    assert subject.get("c") is None
    assert subject.get("a") is not None


def test_one_revision_a_transaction(subject: Subject) -> None:
    """All changes of a transaction have one revision; one that changes nothing makes none."""
    outcome = subject.engine.transact(
        [], [Put(subject.key("a"), b""), Put(subject.key("b"), b"")], deadline_s=S
    )
    found, revision = subject.engine.list(subject.prefix, deadline_s=S)
    assert {each.mod_revision for each in found} == {outcome.revision}
    assert revision == outcome.revision
    nothing = subject.engine.transact([], [Delete(subject.key("c"))], deadline_s=S)
    assert (nothing.succeeded, nothing.revision) == (True, outcome.revision)


def test_largest_transaction(subject: Subject) -> None:
    """The most operations that are allowed are made; one more is refused here, not there."""
    keys = [subject.key(f"{at:03}") for at in range(MAX_OPERATIONS + 1)]
    compares = [Compare(key, "absent") for key in keys]
    puts = [Put(key, b"") for key in keys]
    outcome = subject.engine.transact(compares[:-1], puts[:-1], deadline_s=S)
    assert outcome.succeeded
    again = subject.engine.transact(compares[:-1], puts[:-1], deadline_s=S)
    assert len(again.existing) == MAX_OPERATIONS
    with pytest.raises(ValueError, match="at most 128"):
        subject.engine.transact([], puts, deadline_s=S)
    with pytest.raises(ValueError, match="two operations"):
        subject.engine.transact([], [puts[0], Delete(keys[0])], deadline_s=S)


def test_list(subject: Subject) -> None:
    """Ascending, only what has the prefix, at most the limit, all of one revision."""
    for name in ("b", "a", "ab", "\xff", "c"):
        subject.put(name)
    found, _ = subject.engine.list(subject.key("a"), deadline_s=S)
    assert [each.key for each in found] == [subject.key("a"), subject.key("ab")]
    found, revision = subject.engine.list(subject.prefix, limit=3, deadline_s=S)
    assert [each.key for each in found] == [subject.key(name) for name in ("a", "ab", "b")]
    assert revision == subject.put("d") - 1
    everything, _ = subject.engine.list(b"", deadline_s=S)
    assert [each.key for each in everything] == sorted(each.key for each in everything)
    assert subject.engine.list(subject.key("nothing"), deadline_s=S)[0] == []


def test_list_ends_at_the_prefix(subject: Subject) -> None:
    """A prefix of 0xff bytes has an end, too."""
    subject.engine.transact([], [Put(b"\xff\xff", b""), Put(b"\xff\xffa", b"")], deadline_s=S)
    found, _ = subject.engine.list(b"\xff\xff", deadline_s=S)
    assert [each.key for each in found] == [b"\xff\xff", b"\xff\xffa"]
    subject.engine.transact([], [Delete(b"\xff\xff"), Delete(b"\xff\xffa")], deadline_s=S)


def test_long_list(subject: Subject) -> None:
    """A listing of many pages is complete, with a limit as well."""
    count = 2100
    for first in range(0, count, MAX_OPERATIONS):
        names = range(first, min(first + MAX_OPERATIONS, count))
        puts = [Put(subject.key(f"{at:05}"), bytes(100)) for at in names]
        subject.engine.transact([], puts, deadline_s=S)
    found, _ = subject.engine.list(subject.prefix, deadline_s=S)
    assert [each.key for each in found] == [subject.key(f"{at:05}") for at in range(count)]
    assert len(subject.engine.list(subject.prefix, limit=1500, deadline_s=S)[0]) == 1500


def test_session(subject: Subject) -> None:
    """A closed session takes its keys with it, and only those that still are its own."""
    session = subject.engine.open_session(60, deadline_s=S)
    for name in ("a", "b", "c"):
        subject.put(name, session=session)
    subject.put("b", b"freed")
    assert subject.engine.keep_session(session, deadline_s=S) >= 60
    subject.engine.close_session(session, deadline_s=S)
    found, _ = subject.engine.list(subject.prefix, deadline_s=S)
    assert [each.key for each in found] == [subject.key("b")]
    assert subject.engine.keep_session(session, deadline_s=S) == 0.0
    subject.engine.close_session(session, deadline_s=S)
    with pytest.raises(SessionGone):
        subject.put("d", session=session)
    assert subject.get("d") is None


def test_session_ends_by_itself(subject: Subject) -> None:
    """A session that nobody keeps ends, its keys go, and a watcher sees it."""
    session = subject.engine.open_session(1, deadline_s=S)
    revision = subject.put("a", session=session)
    events, _ = subject.engine.watch(subject.prefix, revision, deadline_s=60)
    assert [(event.kind, event.key) for event in events] == [("delete", subject.key("a"))]
    assert subject.engine.keep_session(session, deadline_s=S) == 0.0


def test_watch_past(subject: Subject) -> None:
    """Everything after a revision comes in order, with values, and then nothing."""
    first = subject.put("a", b"1")
    second = subject.put("b", b"2")
    third = subject.engine.transact([], [Delete(subject.key("a"))], deadline_s=S).revision
    last = subject.put("a", b"3")
    found: list[KeyEvent] = []
    revision = first
    while revision < last:
        events, revision = subject.engine.watch(subject.prefix, revision, deadline_s=S)
        found += events
    a, b = subject.key("a"), subject.key("b")
    assert found == [
        KeyEvent("put", b, b"2", second),
        KeyEvent("delete", a, b"", third),
        KeyEvent("put", a, b"3", last),
    ]
    assert subject.engine.watch(subject.prefix, last, deadline_s=0.1) == ([], last)


def test_watch_a_transaction_whole(subject: Subject) -> None:
    """The events of one transaction come together."""
    before = subject.put("a")
    puts = [Put(subject.key(f"{at:03}"), b"x") for at in range(100)]
    revision = subject.engine.transact([], puts, deadline_s=S).revision
    events, reached = subject.engine.watch(subject.prefix, before, deadline_s=S)
    assert len(events) == 100
    assert reached == revision


def test_watch_waits(subject: Subject) -> None:
    """A watch returns when somebody writes, long before its deadline."""
    revision = 0  # from now on, which an engine may not reach in so short a time
    while not revision:
        events, revision = subject.engine.watch(subject.prefix, 0, deadline_s=0.2)
        assert not events
    writer = threading.Timer(0.3, subject.put, ("a", b"1"))
    begin = time.monotonic()
    writer.start()
    events, _ = subject.engine.watch(subject.prefix, revision, deadline_s=60)
    writer.join()
    assert time.monotonic() - begin < 50
    assert [event.value for event in events] == [b"1"]


def test_watch_continues(subject: Subject) -> None:
    """Nothing is missed between one call and the next."""
    revision = subject.put("a")
    for at in range(20):
        subject.put("a", b"%d" % at)
    values: list[int] = []
    while len(values) < 20:
        events, revision = subject.engine.watch(subject.prefix, revision, deadline_s=S)
        assert events
        values += [int(event.value) for event in events]
    assert values == list(range(20))


def test_watch_compacted(subject: Subject) -> None:
    """A revision whose events are gone is refused; the one that is named is served."""
    first = subject.put("a")
    for _ in range(5):
        last = subject.put("a", b"x")
    subject.compact(last - 1)
    with pytest.raises(Compacted) as caught:
        subject.engine.watch(subject.prefix, first, deadline_s=S)
    assert first < caught.value.revision < last
    events, _ = subject.engine.watch(subject.prefix, caught.value.revision, deadline_s=S)
    assert events[-1].revision == last


def test_only_one_wins(subject: Subject) -> None:
    """Of eight threads that create the same keys each key has exactly one winner."""
    won: list[tuple[int, int]] = []

    def claim(who: int) -> None:
        for at in range(20):
            key = subject.key(f"{at}")
            put = Put(key, b"%d" % who)
            if subject.engine.transact([Compare(key, "absent")], [put], deadline_s=60).succeeded:
                won.append((at, who))

    threads = [threading.Thread(target=claim, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(at for at, _ in won) == list(range(20))
    for at, who in won:
        found = subject.get(str(at))
        assert found is not None
        assert found.value == b"%d" % who


def test_counting_with_compare_and_swap(subject: Subject) -> None:
    """No increment of four threads is lost."""
    subject.put("n", b"0")
    key = subject.key("n")

    def count() -> None:
        done = 0
        while done < 10:
            found = subject.engine.get(key, deadline_s=60)
            assert found is not None
            compare = Compare(key, "mod_revision", found.mod_revision)
            put = Put(key, b"%d" % (int(found.value) + 1))
            done += subject.engine.transact([compare], [put], deadline_s=60).succeeded

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = subject.get("n")
    assert found is not None
    assert found.value == b"40"


def test_closed() -> None:
    """A closed engine refuses, twice closed as well."""
    engine = MemoryEngine()
    engine.close()
    engine.close()
    with pytest.raises(EngineUnavailable):
        engine.get(b"a", deadline_s=1)
