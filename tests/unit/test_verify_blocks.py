"""The blocks of a cluster's pool are verified and repaired: records, member, proof, open list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fastipam
from fastipam.addressing.parsing import parse_ranges
from fastipam.addressing.ranges import Pool
from fastipam.allocation import blocks
from fastipam.errors import PoolExhausted
from fastipam.network import Network
from fastipam.repair import repair
from fastipam.storage import tables
from fastipam.storage.records import block as block_record
from fastipam.storage.records.block import ACTIVE, LOST, Block, Member
from fastipam.storage.store import Store
from fastipam.storage.transaction import Transaction
from fastipam.verify import verify

from ..ids import POOL_ID as ID

CUT = Pool.read(f"{parse_ranges('10.0.0.0/16', ()).text}@24")
FIRST, SECOND, THIRD = 0x0A000100, 0x0A000200, 0x0A000300
MEMBER = Member("node", "one", "", epoch=1, revision=7)


@pytest.fixture
def store(data_dir: Path) -> Iterator[Store]:
    """A node with three blocks: one serves, one has free addresses, one was lost."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = Network(ipam.store, "net", CUT)
        with ipam.store.write() as txn:
            net._enter(txn)
            MEMBER.file, MEMBER.boot = blocks.file_of(ipam.store), ipam.store.boot
            blocks.put_member(txn, ID, MEMBER)
            blocks.prove(txn, ID, 10**9)
            for base, state in ((FIRST, ACTIVE), (SECOND, ACTIVE), (THIRD, LOST)):
                blocks.put(txn, ID, Block(4, base, state, 1, 1, 1))
            for base in (FIRST, SECOND):
                blocks.list_open(txn, ID, CUT.sets[0], base)
        net.allocate("c1")
        assert not verify(ipam.store)
        yield ipam.store


def put(key: bytes, value: bytes) -> Callable[[Transaction], object]:
    return lambda txn: tables.BLOCKS.put(txn, key, value)


def drop(key: bytes) -> Callable[[Transaction], object]:
    return lambda txn: tables.BLOCKS.delete(txn, key)


def block(base: int) -> bytes:
    return block_record.block_key(ID, 4, base)


GOOD = Block(4, FIRST, ACTIVE, 1, 1, 1).pack()
OPEN = block_record.open_key(ID, 4, 256, SECOND)
DAMAGES = [
    (put(block(FIRST), b"\2"), "block-record", block(FIRST).hex()),
    (put(block(FIRST), b"\x63" + GOOD[1:]), "block-record", block(FIRST).hex()),
    (put(block(FIRST)[:-1], GOOD), "block-record", block(FIRST)[:-1].hex()),
    (put(block(FIRST)[:5] + b"\5" + bytes(4), GOOD), "block-record", None),
    (put(block_record.member_key(ID), b"x"), "block-record", None),
    (put(block_record.member_key(ID) + b"x", MEMBER.pack()), "block-record", None),
    (put(block_record.proof_key(ID), b"x"), "block-record", None),
    (put(block_record.proof_key(ID) + b"x", bytes(12)), "block-record", None),
    (put(OPEN[:-1], b""), "block-record", None),
    (put(OPEN[:8], b""), "block-record", None),
    (put(OPEN, b"x"), "block-record", OPEN.hex()),
    (put(OPEN[:4] + b"z", b""), "block-record", None),
    (put(OPEN[:4], b""), "block-record", None),
    (put(block(0x0B000000), GOOD), "block-record", block(0x0B000000).hex()),
    (put(block(FIRST + 1), GOOD), "block-record", block(FIRST + 1).hex()),
    (put(block_record.block_key(ID, 6, 0), GOOD), "block-record", None),
    (drop(OPEN), "block-unlisted", "10.0.2.0/24"),
]


@pytest.mark.parametrize(("damage", "kind", "where"), DAMAGES)
def test_damage(
    store: Store, damage: Callable[[Transaction], object], kind: str, where: str | None
) -> None:
    """Each damage is found, repaired, and nobody loses an address."""
    with store.write() as txn:
        damage(txn)
    found = verify(store)
    assert kind in {one.kind for one in found}, found
    assert {one.kind for one in found} <= {kind, "block-unlisted"}
    assert where in (None, *(one.where for one in found))
    assert {one.kind for one in repair(store)} == {"block"}
    assert not verify(store)
    assert not repair(store)
    lease = Network(store, "net", CUT)._lookup((4, FIRST))
    assert lease is not None
    assert lease.container_id == "c1"


def test_forgotten_block_serves_again(store: Store) -> None:
    """A block that the list lacks is not searched; after the repair it is."""
    net = Network(store, "net", CUT)
    with store.write() as txn:
        tables.BLOCKS.delete(txn, OPEN)
    net.allocate_many([(f"d{at}", "eth0") for at in range(255)])
    with pytest.raises(PoolExhausted):
        net.allocate("last")
    repair(store)
    assert net.allocate("last").cidr == "10.0.2.0/16"


def test_stale_entries_are_no_damage(store: Store) -> None:
    """What the list says of a block is checked when it is used: it may be out of date."""
    with store.write() as txn:
        tables.BLOCKS.put(txn, block_record.open_key(ID, 4, 9, SECOND), b"")
        tables.BLOCKS.put(txn, block_record.open_key(ID, 4, 9, THIRD), b"")
        tables.BLOCKS.put(txn, block_record.open_key(ID, 4, 9, THIRD + 256), b"")
    assert not verify(store)


def test_changed_ranges_rebuild_the_list(store: Store) -> None:
    """A block that was full by exclusion has free addresses once the exclusion is gone."""
    narrow = Pool.read(f"{parse_ranges('10.0.0.0/16', ['10.0.2.0/24']).text}@24")
    for pool in (narrow, CUT):
        with store.write() as txn:
            Network(store, "net", pool)._enter(txn)
        assert not verify(store)
    with store.read() as txn:
        assert tables.BLOCKS.get(txn, OPEN) is not None
