"""docs/store-format.md is enough to check a store: a reader judges stores that knows only it."""

from __future__ import annotations

import ast
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

import fastipam
from fastipam.addressing.addresses import format_ip
from fastipam.addressing.parsing import parse_ranges
from fastipam.addressing.ranges import Pool
from fastipam.allocation import blocks
from fastipam.backup import backup, restore
from fastipam.configuration.policy import Policy
from fastipam.ipam import Ipam, open_with
from fastipam.namespaces import Netns
from fastipam.network import Network
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.block import ACTIVE, FOUND, LOST, Block, Heard, Member
from fastipam.storage.records.lease import pack_missing
from fastipam.sweep import sweep
from fastipam.testing import Clock

from .. import raw_reader

DOCUMENT = Path(__file__).parents[2] / "docs" / "store-format.md"
CUT = Pool.read(f"{parse_ranges('10.9.0.0/16', ()).text}@24")
STEPS = 400


def load(path: str | Path) -> raw_reader.Raw:
    """What the reader reads, of a copy: a process must not open an LMDB file twice."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copyfile(Path(path) / "data.mdb", Path(copy) / "data.mdb")
        return raw_reader.load(copy)


def judged(path: str | Path) -> list[str]:
    """What the reader finds."""
    return raw_reader.check(load(path))


def test_the_reader_knows_only_the_document() -> None:
    """It imports LMDB and the standard library, and nothing of fastipam or of its tests."""
    tree = ast.parse(Path(raw_reader.__file__).read_text())
    names = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{'.' * node.level}{node.module}"]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not [name for name in names if name.startswith((".", "fastipam", "tests"))]
    assert "lmdb" in names


def test_the_document_names_every_database_and_key_of_meta() -> None:
    """What the reader expects, and what a store has, is in the document."""
    text = DOCUMENT.read_text()
    assert {table.name for table in tables.ALL} == set(raw_reader.DATABASES)
    assert set(raw_reader.DATABASES) == {
        *("meta", "networks", "pools"),
        *raw_reader.OF_POOLS,
        *raw_reader.OF_NETWORKS,
    }
    for name in (*raw_reader.DATABASES, *(key.decode() for key in raw_reader.META)):
        assert f"`{name}`" in text


class Node:
    """Everything that can happen to a store, in random order."""

    def __init__(self, ipam: Ipam, clock: Clock, chance: random.Random, tmp_path: Path) -> None:
        self._ipam = ipam
        self._clock = clock
        self._chance = chance
        self._file = tmp_path / "backup"
        self._number = 0
        self._plain = ipam.network("plain", ["10.0.0.0/25", "fd00::/120"], cooldown_s=5)
        self._sticky = ipam.network("sticky", "10.1.0.0/26", cooldown_s=3, sticky_s=20, history=30)
        self._blocks = Network(ipam.store, "blocks", CUT, policy=Policy(cooldown_s=4))
        self._own_blocks()
        backup(ipam.store, self._file)

    def _own_blocks(self) -> None:
        store = self._ipam.store
        with store.write() as txn:
            number = self._blocks._enter(txn).state.pool_id
            member = Member(
                "node", "one", "", epoch=1, revision=7, file=blocks.file_of(store), boot=store.boot
            )
            blocks.put_member(txn, number, member)
            blocks.prove(txn, number, 10**9)
            blocks.put_heard(txn, number, Heard(7, 8, "one"))
            for at, state in ((1, ACTIVE), (2, ACTIVE), (3, LOST), (4, FOUND)):
                base = 0x0A090000 + (at << 8)
                blocks.put(txn, number, Block(4, base, state, 1, 1, 1))
                if state == ACTIVE:
                    blocks.list_open(txn, number, CUT.sets[0], base)

    def step(self) -> None:
        """Do one thing; a refusal is one, too."""
        net = self._chance.choice((self._plain, self._sticky, self._blocks))
        actions: list[Callable[[Network], object]] = [
            *[self._allocate] * 6,
            *[self._release] * 4,
            self._reserve,
            self._unreserve,
            lambda one: one.tidy(),
            lambda _: self._clock.advance(self._chance.randrange(8)),
            lambda _: self._clock.advance(-2),
            lambda _: sweep(self._ipam, grace_s=1),
            self._retain,
            self._change_ranges,
            self._note_missing,
        ]
        with suppress(fastipam.FastipamError):
            self._chance.choice(actions)(net)

    def restore(self) -> None:
        """Put the first backup back."""
        restore(self._ipam.store, self._file, replace=True)

    def _allocate(self, net: Network) -> None:
        self._number += 1
        pod = f"web-{self._chance.randrange(12)}"
        net.allocate(f"c{self._number}", pod=("web", pod), netns=Netns("/gone/ns"))

    def _release(self, net: Network) -> None:
        held = list(net.leases())
        if held:
            net.release(self._chance.choice(held).container_id)

    def _reserve(self, net: Network) -> None:
        family, low, high = 4, *self._chance.choice(CUT.sets[0].intervals)
        if net is not self._blocks:
            assert net.pool is not None
            one = self._chance.choice(net.pool.sets)
            family, (low, high) = one.family, self._chance.choice(one.intervals)
        address = format_ip(family, self._chance.randint(low, high))
        net.reserve(address, owner=self._chance.choice(("", "web/web-3", "c9")), reason="r")

    def _unreserve(self, net: Network) -> None:
        kept = list(net.reservations())
        if kept:
            net.unreserve(self._chance.choice(kept).address)

    def _retain(self, net: Network) -> None:
        held = [(one.container_id, one.ifname) for one in net.leases()]
        net.retain(set(held[: len(held) // 2]), self._clock() + 1)

    def _change_ranges(self, net: Network) -> None:
        if net is self._plain:
            wide = self._chance.choice(["10.0.0.0/25", "10.0.0.0/24", "10.0.0.64/26"])
            self._plain = self._ipam.network("plain", [wide, "fd00::/120"], cooldown_s=5)

    def _note_missing(self, net: Network) -> None:
        held = [one for one in net.leases() if net.name == "plain"]
        if held:
            one = self._chance.choice(held)
            with self._ipam.store.write() as txn:
                key = keys.address_key(net._pool_in(txn) or 0, one.family, one.value)
                tables.MISSING.put(txn, key, pack_missing(one.generation, 1, 0))


@pytest.fixture(params=range(3))
def node(request: pytest.FixtureRequest, ipam: Ipam, clock: Clock, tmp_path: Path) -> Node:
    """A node with three networks, one of them with blocks of a cluster."""
    return Node(ipam, clock, random.Random(request.param), tmp_path)


def test_after_real_work(node: Node, ipam: Ipam) -> None:
    """Whatever has happened, the store is what the document says, and has all kinds of records."""
    seen = dict.fromkeys((raw_reader.MAIN, *raw_reader.DATABASES), 0)
    for at in range(STEPS):
        node.step()
        if at == STEPS // 2:
            node.restore()
        if at % 10 == 0 or at == STEPS - 1:
            raw = load(ipam.path)
            assert raw_reader.check(raw) == [], at
            seen = {name: max(count, len(raw[name])) for name, count in seen.items()}
    assert all(seen.values()), seen


def test_after_a_reboot(tmp_path: Path, clock: Clock) -> None:
    """Leases of an earlier boot are what the document says, at every step of their release."""
    with open_with(tmp_path / "store", "relaxed", clock=clock, boot_id=lambda: "one") as ipam:
        net = ipam.network("n", "10.0.0.0/22", cooldown_s=5)
        net.allocate_many([(f"c{at}", "eth0") for at in range(300)])
        net.release("c5")
    with open_with(tmp_path / "store", "relaxed", clock=clock, boot_id=lambda: "two") as ipam:
        net = ipam.network("n", "10.0.0.0/22", cooldown_s=5)
        for at in range(20):
            net.allocate(f"d{at}")
            assert judged(ipam.path) == []
        while net.tidy():
            assert judged(ipam.path) == []


Change = Callable[[dict[bytes, bytes]], None]


def _first(raw: dict[bytes, bytes]) -> bytes:
    """The key to change: of leases that of an assigned one, since a cooling one has no owner."""
    return min(raw, key=lambda key: (len(raw[key]) > 60 and raw[key][0] != 1, key))


def _drop(raw: dict[bytes, bytes]) -> None:
    del raw[_first(raw)]


def _flip(at: int, by: int = 1) -> Change:
    """Change a byte of the first value."""

    def change(raw: dict[bytes, bytes]) -> None:
        key = _first(raw)
        value = bytearray(raw[key])
        value[at] ^= by
        raw[key] = bytes(value)

    return change


def _move(at: int = -1) -> Change:
    """Change a byte of the first key."""

    def change(raw: dict[bytes, bytes]) -> None:
        key = _first(raw)
        moved = bytearray(key)
        moved[at] ^= 64
        raw[bytes(moved)] = raw.pop(key)

    return change


def _cut(raw: dict[bytes, bytes]) -> None:
    key = _first(raw)
    raw[key] = raw[key][:-1]


def _named(name: bytes, value: bytes | None) -> Change:
    def change(raw: dict[bytes, bytes]) -> None:
        raw.pop(name, None)
        if value is not None:
            raw[name] = value

    return change


def _flip_cooling(at: int, bits: int) -> Change:
    """Change a byte of the first lease that cools."""

    def change(records: dict[bytes, bytes]) -> None:
        key = next(key for key in sorted(records) if records[key][0] == 2)
        raw = bytearray(records[key])
        raw[at] ^= bits
        records[key] = bytes(raw)

    return change


def _zero(raw: dict[bytes, bytes]) -> None:
    """Let the first history have had no event."""
    key = _first(raw)
    raw[key] = bytes(8) + raw[key][8:]


def _too_many(raw: dict[bytes, bytes]) -> None:
    """Let more than eight events wait, all readable."""
    key = _first(raw)
    length = int.from_bytes(raw[key][16:18], "little")
    raw[key] = b"\xff" * 2 + bytes(14) + raw[key][16 : 18 + length] * 9


def _of(mark: bytes, change: Change) -> Change:
    """Change the first record of the main database that begins with this letter."""

    def changed(raw: dict[bytes, bytes]) -> None:
        some = {key: raw.pop(key) for key in list(raw) if key[:1] == mark}
        change(some)
        raw |= some

    return changed


MUTATIONS: dict[str, list[Change]] = {
    "meta": [
        _named(b"schema", None), _named(b"durability", b"no"), _named(b"boot number", None),
        _named(b"last network", bytes(4)), _named(b"unheard of", b""),
        _named(b"boot began", bytes(15)), _named(b"boot nodes", b"4026532000"),
        _named(b"swept", b"\xff" * 4), _named(b"policy \0\0\0\1", b"\1"),
        _named(b"last pool", bytes(4)),
        _named(b"policy \0\0\1\1", bytes(29)), _named(b"ranges \0\0\3\xe9", bytes(8)),
        _named(b"ranges \0\0\3\xe9", bytes(8) + b"no ranges"), _named(b"ranges \0\0\1\1", bytes(8)),
    ],
    "networks": [_drop, _flip(0), _flip(4), _flip(8), _flip(9, 64)],
    "pools": [_drop, _flip(3), _flip(4, 255), _move(), _named(b"more", b"\0\0\0\1")],
    "main": [
        *(
            _of(keys.LOG_MARK, change)
            for change in (_drop, _zero, _flip(8, 64), _flip(17), _flip(26, 64), _cut, _move(2),
                           _move(), _too_many)
        ),
        *(
            _of(keys.STATE_MARK, change)
            for change in (_drop, *map(_flip, (8, 16, 24, 32, 56)), _cut, _move(2), _move())
        ),
        _named(b"P\0\0\0\1", b""), _named(b"N\0\0\3\xe9", bytes(16)),
    ],
    "pages": [_drop, _flip(0, 2), _flip(511), _move(), _cut, _move(5)],
    "leases": [_drop, _flip(0, 3), _flip(0, 8), _flip(1, 128), _flip(11, 64), _flip(56), _flip(60),
               _move(), _flip(7, 64), _flip_cooling(2, 64)],
    "owners": [_drop, _flip(3), _flip(4), _flip(8), _move(), _cut],
    "cooldown": [_drop, _move(), _move(9), _move(4)],
    "reservations": [_drop, _flip(0), _flip(8), _move(), _named(b"\0\0\3\xe9\4abcd", b"")],
    "sticky": [_drop, _move(), _move(4)],
    "events": [_move(4), _flip(8, 64), _cut, _flip(9, 1), _flip(17, 64)],
    "missing": [_cut, _move(4)],
    "blocks": [_flip(0, 8), _move(), _move(4), _cut],
}  # fmt: skip


@pytest.mark.parametrize("database", MUTATIONS)
def test_a_mutation_is_found(node: Node, ipam: Ipam, database: str) -> None:
    """Each change of a record that the document rules out is found, in every database."""
    assert set(MUTATIONS) == {raw_reader.MAIN, *raw_reader.DATABASES}
    raw = _full(node, ipam)
    for number, mutation in enumerate(MUTATIONS[database]):
        changed = {name: dict(records) for name, records in raw.items()}
        mutation(changed[database])
        assert changed != raw
        assert raw_reader.check(changed), f"{database}: mutation {number}"


def _full(node: Node, ipam: Ipam) -> raw_reader.Raw:
    """A consistent store that has all kinds of records."""
    for _ in range(10 * STEPS):
        node.step()
        raw = load(ipam.path)
        if all(raw.values()) and len(raw["sticky"]) > 2:
            assert raw_reader.check(raw) == []
            return raw
    raise AssertionError(f"no record in {[name for name, one in raw.items() if not one]}")


def test_undocumented_databases_are_refused(ipam: Ipam, tmp_path: Path) -> None:
    """A store with one database more is not what the document says."""
    ipam.network("n", "10.0.0.0/24").allocate("c")
    backup(ipam.store, tmp_path / "data.mdb")
    with lmdb.open(str(tmp_path), max_dbs=20) as env:
        env.open_db(b"more")
    with pytest.raises(raw_reader.Damaged, match="more"):
        raw_reader.load(tmp_path)
