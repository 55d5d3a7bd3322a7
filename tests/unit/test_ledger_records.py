"""The bytes of the records that native code writes, against hashlib, struct and noise."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastipam import _ledger
from fastipam._ledger import EventLog, LeaseFields, PoolState, Requester
from fastipam.errors import StoreCorrupt
from fastipam.lease import Lease
from fastipam.namespaces import Netns
from fastipam.storage import tables
from fastipam.storage.records.event import Event
from fastipam.storage.records.lease import Record

U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
U62, U64 = st.integers(0, 2**62 - 1), st.integers(0, 2**64 - 1)
V4 = st.tuples(st.just(4), U32)
ADDRESS = V4 | st.tuples(st.just(6), st.integers(0, 2**128 - 1))
LEASE = struct.Struct("<BBHIQQQQIIQI")
EVENT = struct.Struct("<QBBQ")
POOL = struct.Struct("<QQQQQQqQIB16s")
CURSOR = struct.Struct("<B16s")
LOG = struct.Struct("<QQ")
pack_lease: Any = _ledger.pack_lease


def packed(family: int, value: int) -> bytes:
    return value.to_bytes(4 if family == 4 else 16, "big")


# The digest of an owner -----------------------------------------------------------------------


def digest(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=16).digest()


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"a"])
def test_digest_of_each_length(fill: bytes) -> None:
    """BLAKE2b works in blocks of 128 bytes: every length up to eight of them."""
    for size in range(1001):
        assert _ledger.owner_key(b"net!", fill * size) == b"net!" + digest(fill * size)


def test_digest_of_noise() -> None:
    """Random bytes of random lengths, some of many blocks."""
    noise = random.Random(17)
    for most in [300] * 500 + [100_000] * 5:
        name = noise.randbytes(noise.randrange(most))
        assert _ledger.owner_key(b"", name) == digest(name)


# Packers against struct -----------------------------------------------------------------------


@given(
    st.tuples(st.integers(0, 255), st.integers(0, 255), U16, U32, U64, U64, U64, U64, U32, U32)
    .flatmap(lambda head: st.tuples(st.just(head), U64, U32)),
    st.binary(max_size=40),
)  # fmt: skip
def test_lease(numbers: tuple[tuple[int, ...], int, int], texts: bytes) -> None:
    """A lease has its numbers in the order of the page, and its texts behind them."""
    head: Any = (*numbers[0], *numbers[1:])
    raw = pack_lease(*head, texts)
    assert raw == LEASE.pack(*head) + texts
    assert len(raw) - len(texts) == _ledger.LEASE_BYTES == LEASE.size
    assert _ledger.read_lease(raw) == (head, texts)
    assert _ledger.texts_of(raw) == texts
    assert _ledger.is_assigned(raw) == (head[0] == 1)
    assert (_ledger.boot_of(raw), _ledger.generation_of(raw)) == (head[3], head[4])
    assert _ledger.network_of(raw) == head[-1]
    assert _ledger.with_boot(raw, 7) == LEASE.pack(*head[:3], 7, *head[4:]) + texts


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_that_has_no_room(at: int, value: int) -> None:
    """A number of a lease that cannot be written is refused, and none is cut off."""
    numbers: Any = [1] * 12
    numbers[at] = value
    if at < 3 and value < 0:
        return  # state, length and set are the caller's, and C's: they wrap
    with pytest.raises(OverflowError):
        pack_lease(*numbers, b"")


@given(U32, U16, U64, ADDRESS)
def test_keys(number: int, index: int, at: int, address: tuple[int, int]) -> None:
    """The keys are big-endian, one part behind the other."""
    family, value = address
    key = struct.pack(">IB", number, family) + packed(*address)
    assert _ledger.id_prefix(number) == struct.pack(">I", number)
    assert _ledger.address_key(number, *address) == key
    assert _ledger.pack_held(number, [address, address]) == key * 2
    assert _ledger.read_held(key * 3, number) == [address] * 3
    queued = struct.pack(">IHQB", number, index, at, family) + packed(*address)
    assert _ledger.cooldown_key(number, index, at, *address) == queued
    assert _ledger.read_cooldown_key(queued) == (number, index, at, family, value)
    assert _ledger.event_key(number, at) == struct.pack(">IQ", number, at)


@pytest.mark.parametrize("family", [0, 1, 4, 5, 6, 255])
@pytest.mark.parametrize("value", [-1, 2**32, 2**128])
def test_what_is_no_address(family: int, value: int) -> None:
    """A number that no address of the family has is refused; of another family every number."""
    if family == 6 and value == 2**32:
        assert _ledger.address_key(1, family, value)
    else:
        with pytest.raises(StoreCorrupt):
            _ledger.address_key(1, family, value)


@given(U64, st.integers(0, 255), U64, ADDRESS, st.binary(max_size=40))
def test_event(wall_ns: int, kind: int, generation: int, address: Any, texts: bytes) -> None:
    """An event has its numbers, the address and the texts of a lease."""
    raw = _ledger.pack_event(wall_ns, kind, generation, address, texts)
    assert raw == EVENT.pack(wall_ns, kind, address[0], generation) + packed(*address) + texts
    assert _ledger.read_event(raw) == (wall_ns, kind, address[0], generation, address[1], texts)
    assert _ledger.wall_ns_of(raw) == wall_ns


@given(
    st.tuples(U62, U62, U62, U62, U62, U62, st.integers(-(2**63), 2**63 - 1), U62, U32),
    st.just((0, 0)) | ADDRESS,
    st.lists(st.none() | ADDRESS, max_size=5),
)
def test_pool_state(numbers: Any, sweep: tuple[int, int], cursors: list[Any]) -> None:
    """A pool's numbers, with a cursor of 17 bytes for each range set."""
    behind = b"".join(
        bytes(17) if one is None else CURSOR.pack(one[0], one[1].to_bytes(16, "big"))
        for one in cursors
    )
    raw = POOL.pack(*numbers, sweep[0], sweep[1].to_bytes(16, "big")) + behind
    state = PoolState(7, raw)
    names = (
        "generation", "assigned", "cooling", "reserved", "outside", "clock", "offset", "kept",
        "swept",
    )  # fmt: skip
    assert tuple(getattr(state, name) for name in names) == numbers
    assert state.sweep == sweep
    assert state.all_cursors() == cursors
    assert state.pack() == raw
    for at, one in enumerate(cursors):
        for family in (4, 6):
            found = None if one is None or one[0] != family else one[1]
            assert state.cursor(at, family) == found
    assert state.cursor(len(cursors), 4) is None
    assert POOL.size == _ledger.POOL_BYTES


@given(st.lists(st.tuples(st.integers(0, 6), ADDRESS), max_size=6))
def test_cursors(moves: list[tuple[int, tuple[int, int]]]) -> None:
    """A cursor that moves leaves the others where they are."""
    state = PoolState(1)
    expected: dict[int, tuple[int, int]] = {}
    for at, address in moves:
        state.move_cursor(at, *address)
        expected[at] = address
        highest = max(expected)
        assert state.all_cursors() == [expected.get(one) for one in range(highest + 1)]
    assert PoolState(1, state.pack()).cursors == state.cursors


@given(U62, U62, st.lists(st.binary(max_size=100), max_size=8))
def test_event_log(following: int, first: int, waiting: list[bytes]) -> None:
    """A history has two numbers, and each event with its length before it."""
    following = max(following, len(waiting))
    raw = LOG.pack(following, first)
    raw += b"".join(struct.pack("<H", len(one)) + one for one in waiting)
    log = EventLog(3, raw)
    assert (log.next, log.first, log.waiting) == (following, first, waiting)
    assert log.pack() == raw


# Who owns it ----------------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_characters="\0"), max_size=9)
SURROGATES = st.text(st.sampled_from("aä\udc80\udcff\U0001f600"), max_size=5)


@given(st.lists(TEXT.filter(lambda one: one.isprintable()) | SURROGATES, min_size=6, max_size=6))
def test_requester(texts: list[str]) -> None:
    """Its texts are those that were given, in one order, whatever characters they have."""
    texts[0] = texts[0] or "c"
    owner = Requester(texts[0], texts[1], Netns(texts[2], 1, 2, 3), (texts[3], texts[4], texts[5]))
    expected = [one.encode("utf-8", "surrogateescape") for one in texts]
    assert owner.texts == b"\0".join(expected)
    assert owner.name == b"\0".join(expected[:2])
    assert [owner.container_id, owner.ifname, *owner.pod_texts] == [*texts[:2], *texts[3:]]
    assert owner.pod == (f"{texts[3]}/{texts[4]}" if texts[3] and texts[4] else "")
    raw = _ledger.pack_lease(1, 24, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, owner.texts)
    assert _ledger.is_assigned_to(raw, owner.name)
    assert not _ledger.is_assigned_to(raw, owner.name + b"x")
    if texts[1]:
        assert not _ledger.is_assigned_to(raw, owner.name[:-1])
    assert Record.read(raw).container_id == texts[0]


# Damage ---------------------------------------------------------------------------------------

Reader = Callable[[bytes], object]


def fields_of(raw: bytes) -> object:
    lease = Lease("n", 4, 1, None, raw)
    return lease.container_id, lease.address, lease.netns, lease.pod


READERS: dict[str, Reader] = {
    "read_lease": _ledger.read_lease,
    "with_boot": lambda raw: _ledger.with_boot(raw, 1),
    "texts_of": _ledger.texts_of,
    "is_assigned": _ledger.is_assigned,
    "generation_of": _ledger.generation_of,
    "boot_of": _ledger.boot_of,
    "network_of": _ledger.network_of,
    "is_assigned_to": lambda raw: _ledger.is_assigned_to(raw, b"c\0eth0"),
    "read_held": lambda raw: _ledger.read_held(raw, 7),
    "read_cooldown_key": _ledger.read_cooldown_key,
    "read_event": _ledger.read_event,
    "wall_ns_of": _ledger.wall_ns_of,
    "PoolState": lambda raw: PoolState(7, raw),
    "EventLog": lambda raw: EventLog(7, raw),
    "Record": Record.read,
    "Event": lambda raw: Event(_ledger.event_key(7, 1), raw),
    "Event's key": lambda raw: Event(raw, GOOD[3]),
    "Lease": fields_of,
    "parse_request": _ledger.parse_request,
}
GOOD: list[bytes] = [
    _ledger.pack_lease(1, 24, 0, 1, 1, 1, 0, 5, 6, 7, 8, 1, b"c\0eth0\0/n\0ns\0pod\0uid"),
    _ledger.pack_held(7, [(4, 9), (6, 9)]),
    _ledger.cooldown_key(7, 1, 2, 6, 3),
    _ledger.pack_event(1, 2, 3, (6, 4), b"c\0eth0\0\0\0\0"),
    POOL.pack(*[3] * 9, 4, bytes(16)) + CURSOR.pack(4, bytes(16)) * 2,
    LOG.pack(9, 1) + struct.pack("<H", 3) + b"abc" + struct.pack("<H", 0),
    b"FIP1" + struct.pack(">II", 30, 2) + b"CNI_COMMAND=ADD\0CNI_PATH=/opt\0{}",
]


@pytest.mark.parametrize("name", READERS)
def test_damage(name: str) -> None:
    """Records of every length, cut, changed and random: read, or refused as damage; no more.

    Under the sanitizers (``scripts/campaign sanitize``) a byte that is read behind the end of a
    record ends the process.
    """
    noise = random.Random(name)
    raws = [raw[:end] for raw in GOOD for end in range(len(raw) + 1)]
    raws += [noise.randbytes(size) for size in range(200) for _ in range(3)]
    for raw in GOOD:
        for at in range(len(raw)):
            for byte in (0, 1, 4, 6, 127, 255, noise.randrange(256)):
                raws.append(raw[:at] + bytes((byte,)) + raw[at + 1 :])
    read = 0
    for raw in raws:
        try:
            READERS[name](raw)
        except (StoreCorrupt, ValueError):
            continue
        read += 1
    assert read > 0, "nothing was read"


def test_lease_fields_keep_what_they_are_given() -> None:
    """A lease's fields are those of the call; a record that is bytes says that it is new."""
    fields = LeaseFields("n", 4, 9, (4, 1), b"raw")
    assert (fields.network, fields.family, fields.value, fields.created) == ("n", 4, 9, True)
    assert LeaseFields("n", 4, 9, None, object()).created is False
    made: Any = LeaseFields
    for wrong in ((None, 4, 9), ("n", 4, None)):
        with pytest.raises(TypeError):
            made(*wrong, None, b"raw")


def test_places_of_the_databases() -> None:
    """The databases that native code names by their places are declared in that order."""
    declared = [tables.MAIN, *tables.ALL]
    assert [table.place for table in declared] == list(range(len(declared)))
    assert tuple(table.name for table in declared)[: len(_ledger.PLACES)] == _ledger.PLACES
