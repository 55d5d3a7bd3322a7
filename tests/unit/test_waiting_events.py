"""The last events wait in their network's record; whoever reads a history does not see that."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastipam import errors
from fastipam._ledger import EVENTS_WAITING as MOST_WAITING
from fastipam._ledger import HISTORY_BYTES as MOST_BYTES
from fastipam._ledger import EventLog
from fastipam.allocation import history
from fastipam.backup import backup, restore
from fastipam.cli.follow import Changes
from fastipam.errors import StoreCorrupt
from fastipam.ipam import Ipam, open_with
from fastipam.network import Network
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.event import event_key
from fastipam.testing import Clock
from fastipam.verify import verify

from ..ids import NETWORK_ID

POOL = "10.0.0.0/24"
LONG = "c" * 3000


def places(ipam: Ipam) -> tuple[int, int]:
    """How many events are in the table, and how many wait."""
    with ipam.store.read() as txn:
        return tables.EVENTS.count(txn), len(txn.event_log(NETWORK_ID).waiting)


def numbers(net: Network) -> list[int]:
    """The numbers of the events, forwards; the other ways to read them agree."""
    found = [one.sequence for one in net.history()]
    with net.store.read() as txn:
        assert [one.sequence for one in history.last(txn, NETWORK_ID, 1 << 20)] == found[::-1]
        assert history.count(txn) == len(found)
        for at in found:
            items, _ = history.page(txn, NETWORK_ID, event_key(NETWORK_ID, at))
            assert [int.from_bytes(key[4:], "big") for key, _ in items] == found[found.index(at) :]
    assert verify(net.store) == []
    return found


def test_they_move_together(ipam: Ipam) -> None:
    """Eight events wait; the ninth takes them all to the table, and waits itself."""
    net = ipam.network("n", POOL)
    net.allocate("c0")
    assert places(ipam) == (0, 1)
    for at in range(1, 20):
        net.allocate(f"c{at}")
        assert places(ipam) == (at // 8 * 8, at % 8 + 1)
        assert numbers(net) == list(range(at + 1))
    assert [one.container_id for one in net.history()] == [f"c{at}" for at in range(20)]


@pytest.mark.parametrize("size", [100, 400, 900, 1750, 1909, 1910])
def test_a_record_stays_short(ipam: Ipam, size: int) -> None:
    """However long the names are: what does not fit moves first, and LMDB needs no page for it."""
    net = ipam.network("n", POOL)
    for at in range(12):
        net.allocate(f"{at:02}{'c' * size}")
        with ipam.store.read() as txn:
            raw = tables.MAIN.get(txn, keys.log_key(NETWORK_ID))
            assert raw is not None
            log = EventLog(NETWORK_ID, raw)
            assert len(raw) <= MOST_BYTES
            assert len(log.waiting) <= MOST_WAITING
            assert bool(log.waiting) == (size < 1910)
    assert [one.container_id[:2] for one in net.history()] == [f"{at:02}" for at in range(12)]
    assert numbers(net) == list(range(12))


def test_one_that_never_fits(ipam: Ipam) -> None:
    """It goes to the table behind those that waited, and the next ones wait again."""
    net = ipam.network("n", POOL)
    for name in ("a", "b", LONG, "d"):
        net.allocate(name)
    assert places(ipam) == (3, 1)
    assert [one.container_id for one in net.history()] == ["a", "b", LONG, "d"]
    assert numbers(net) == [0, 1, 2, 3]


@pytest.mark.parametrize("most", [1, 3, 8, 20])
def test_what_a_small_history_keeps(ipam: Ipam, most: int) -> None:
    """As many as it should, and now and then some that are older: waiting ones count as others."""
    net = ipam.network("n", POOL, cooldown_s=0, history=most)
    for at in range(100):
        net.allocate("a")
        net.release("a")
        found = numbers(net)
        assert found == list(range(2 * at + 2 - len(found), 2 * at + 2))
        assert min(most, 2 * at + 2) <= len(found) < most + 64
        if (2 * at + 2) % 64 == 0:
            assert len(found) == most


def test_what_waits_grows_old(ipam: Ipam, clock: Clock) -> None:
    """An event that is too old goes, though it waits."""
    net = ipam.network("n", POOL, cooldown_s=0, history_age_s=60)
    for _ in range(31):
        net.allocate("a")
        net.release("a")
    clock.advance(61)
    net.allocate("b")
    net.release("b")
    assert [one.container_id for one in net.history()] == ["b", "b"]
    assert numbers(net) == [62, 63]


def test_a_bulk_behind_those_that_wait(ipam: Ipam) -> None:
    """Numbers that a bulk skips lie behind what has waited."""
    net = ipam.network("n", ["10.0.0.0/16", "fd00::/64"], history=10)
    net.allocate("a")
    net.allocate_many([(f"c{at}", "eth0") for at in range(30)])
    expected = ["a", "a", *(f"c{at}" for at in range(20, 30))]
    assert [one.container_id for one in net.history()] == expected
    assert numbers(net) == [0, 1, *range(12, 22)]


def test_parts_of_one_transaction(ipam: Ipam) -> None:
    """What a call rolls back is in no history, and the others' events keep their order."""
    net = ipam.network("n", POOL)
    with ipam.transaction() as txn:
        inside = txn.network("n", POOL)
        for at in range(12):
            inside.allocate(f"c{at}")
            with pytest.raises(errors.DuplicateAllocation):
                inside.allocate(f"c{at}")
        assert [one.container_id for one in inside.history()] == [f"c{at}" for at in range(12)]
    assert numbers(net) == list(range(12))
    _roll_back(ipam)
    assert numbers(net) == list(range(12))


def _roll_back(ipam: Ipam) -> None:
    with suppress(KeyError), ipam.transaction() as txn:
        txn.network("n").allocate("gone")
        raise KeyError


def test_followed(ipam: Ipam) -> None:
    """``list --watch`` sees each event once, before and after it has moved."""
    net = ipam.network("n", POOL)
    net.allocate("before")
    changes = Changes(ipam, None)
    seen = []
    for at in range(20):
        net.allocate(f"c{at}")
        if at % 3 == 0:
            seen += [event.container_id for _, event in changes.look()]
    seen += [event.container_id for _, event in changes.look()]
    assert seen == [f"c{at}" for at in range(20)]


def test_backed_up(ipam: Ipam, tmp_path: Path) -> None:
    """A backup has them, and a restore takes them instead of those of the store."""
    net = ipam.network("n", POOL)
    for at in range(11):
        net.allocate(f"c{at}")
    backup(ipam.store, tmp_path / "backup")
    for at in range(11):
        net.release(f"c{at}")
    ipam.network("other", POOL).allocate("o")
    restore(ipam.store, tmp_path / "backup", replace=True)
    assert [one.container_id for one in net.history()] == [f"c{at}" for at in range(11)]
    assert numbers(net) == list(range(11))
    with ipam.store.read() as txn:
        marks = {key[:1] for key in tables.MAIN.scan_keys(txn)} & {b"N", b"P"}
        assert marks == {b"N", b"P"}
        assert len(list(tables.MAIN.scan_keys(txn, keys.LOG_MARK))) == 1
        assert len(list(tables.MAIN.scan_keys(txn, keys.STATE_MARK))) == 1


def test_a_store_that_is_restored_into_another(ipam: Ipam, clock: Clock, tmp_path: Path) -> None:
    """Ids are the backup's, whatever the other store has had, and both kinds of records, too."""
    for name in ("a", "b", "n"):
        ipam.network(name, POOL).allocate("c")
    backup(ipam.store, tmp_path / "backup")
    with open_with(tmp_path / "second", "relaxed", clock=clock) as second:
        net = second.network("n", POOL)
        net.allocate_many([(f"x{at}", "eth0") for at in range(9)])
        restore(second.store, tmp_path / "backup", replace=True)
        assert verify(second.store) == []
        assert [one.container_id for one in net.history()] == ["c"]
        assert net.allocate("d").generation == 10, "no generation is given twice"


# The record ---------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=200), max_size=MOST_WAITING),
    st.integers(MOST_WAITING, 2**62 - 1),
    st.integers(0, 2**62 - 1),
)
def test_round_trip(waiting: list[bytes], following: int, first: int) -> None:
    """A history is read back as it was written, with the numbers of what waits."""
    log = EventLog(7, None)
    assert (log.next, log.first, log.waiting, log.key) == (0, 0, [], b"N\0\0\0\7")
    log.next, log.first, log.waiting = following, first, waiting
    again = EventLog(7, log.pack())
    assert (again.network_id, again.prefix) == (7, b"\0\0\0\7")
    assert (again.next, again.first, again.waiting) == (following, first, waiting)
    assert [raw for _, raw in again.items()] == waiting
    at = range(following - len(waiting), following)
    assert [key for key, _ in again.items()] == [event_key(7, one) for one in at]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(15),
        bytes(17),
        bytes(8) + b"\xff" * 8,
        b"\xff" * 8 + bytes(8),
        b"\1" + bytes(15) + b"\2\0x",
        bytes(16) + b"\1\0x",
        b"\x63" + bytes(15) + b"\1\0x" * 9,
        b"\x63" + bytes(15) + b"\xff\x07" + bytes(2047),
    ],
)
def test_unreadable(raw: bytes) -> None:
    """What is no history is damage, with the way out."""
    with pytest.raises(StoreCorrupt, match="a network's history cannot be read") as caught:
        EventLog(7, raw)
    assert caught.value.hint == errors.CHECK_HINT
