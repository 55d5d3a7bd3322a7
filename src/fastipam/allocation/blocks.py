"""The blocks of a cluster's pool that this node owns, as its store knows them.

A block is an interval that bounds a search, and a record that says whether it may be searched.
This module reads and writes those records inside the caller's transaction; which block can serve
is in openblocks.py, the search in blockwise.py, and who may own a block is settled in
``fastipam.cluster``.

==================================================  ===============================================
key in ``blocks``                                   value
==================================================  ===============================================
network id, "b", family, first address (4 or 16)    :class:`Block`
network id, "o", family, free addresses, first      nothing; see openblocks.py
address
network id, "n"                                     :class:`Member`
network id, "p"                                     until when ownership is proven (fencing)
==================================================  ===============================================
"""

from __future__ import annotations

import time
from struct import Struct

from fastipam._bitmap import StoredPages
from fastipam.addressing.addresses import BITS
from fastipam.storage.records import keys
from fastipam.storage.records.block import _MEMBER, ACTIVE, Block, Member, block_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastipam.addressing.ranges import RangeSet
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot, Transaction

    Interval = tuple[int, int]


_PROOF = Struct("<IQ")
_COPIED = (1 << 64) - 1  # no file has this inode


def host_bits(range_set: RangeSet) -> int:
    """A block of a set has 2**this addresses."""
    return BITS[range_set.family] - range_set.block_length


def base_of(range_set: RangeSet, value: int) -> int:
    """The first address of the block that an address lies in."""
    bits = host_bits(range_set)
    return value >> bits << bits


def parts(range_set: RangeSet, base: int) -> list[Interval]:
    """The intervals of a block that a set can serve: without gateways and exclusions."""
    last = base + (1 << host_bits(range_set)) - 1
    return [
        (max(low, base), min(high, last))
        for low, high in range_set.intervals
        if low <= last and high >= base
    ]


def capacity(range_set: RangeSet, base: int) -> int:
    """How many addresses of a block a set can serve."""
    return sum(high - low + 1 for low, high in parts(range_set, base))


def used_in(pages: StoredPages, range_set: RangeSet, base: int) -> int:
    """How many of those are not free: assigned, cooling or reserved."""
    return sum(pages.count(low, high) for low, high in parts(range_set, base))


def free_in(pages: StoredPages, range_set: RangeSet, base: int) -> int:
    """How many of those are free."""
    return capacity(range_set, base) - used_in(pages, range_set, base)


def read_pages(
    txn: Transaction | Snapshot, store: Store, network_id: int, family: int
) -> StoredPages:
    """The bitmap of a network and family, to be looked at and not changed."""
    return StoredPages(
        txn.get,
        None,
        None,
        store.db_pages,
        keys.pages_prefix(network_id, family),
        keys.page_index_bytes(family),
    )


# Records --------------------------------------------------------------------------------------


def get(
    txn: Transaction | Snapshot, store: Store, network_id: int, family: int, base: int
) -> Block | None:
    """The record of a block, None: this node has nothing to do with it. O(1)."""
    raw = txn.get(block_key(network_id, family, base), None, store.db_blocks)
    return None if raw is None else Block.read(family, base, raw)


def is_active(
    txn: Transaction | Snapshot, store: Store, network_id: int, family: int, base: int
) -> bool:
    """Whether addresses may be assigned from a block. O(1)."""
    raw = txn.get(block_key(network_id, family, base), None, store.db_blocks)
    return raw is not None and raw[0] == ACTIVE


def put(txn: Transaction, store: Store, network_id: int, block: Block) -> None:
    """Write the record of a block."""
    key = block_key(network_id, block.family, block.base)
    txn.put(key, block.pack(), True, True, False, store.db_blocks)


def delete(txn: Transaction, store: Store, network_id: int, family: int, base: int) -> None:
    """Forget a block."""
    txn.delete(block_key(network_id, family, base), b"", store.db_blocks)


def read_all(txn: Transaction | Snapshot, store: Store, network_id: int) -> list[Block]:
    """Every block of a network, in address order, IPv4 first. O(blocks)."""
    found = []
    for key, raw in below(txn.txn, store, keys.network_prefix(network_id) + b"b"):
        found.append(Block.read(key[5], int.from_bytes(key[6:], "big"), raw))
    return found


def below(txn: Any, store: Store, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys that begin so, ascending, and their values; ``txn`` is LMDB's."""
    with txn.cursor(store.db_blocks) as cursor:
        if not cursor.set_range(prefix):
            return
        for key, value in cursor:
            if not key.startswith(prefix):
                return
            yield key, value


def get_member(txn: Transaction | Snapshot, store: Store, network_id: int) -> Member | None:
    """Who this node is in the network's cluster; None: it has never registered."""
    raw = txn.get(keys.network_prefix(network_id) + b"n", None, store.db_blocks)
    return None if raw is None else Member.read(raw)


def put_member(txn: Transaction, store: Store, network_id: int, member: Member) -> None:
    """Remember who this node is."""
    key = keys.network_prefix(network_id) + b"n"
    txn.put(key, member.pack(), True, True, False, store.db_blocks)


def distrust(txn: Transaction, store: Store) -> None:
    """What the store says of blocks comes from an older copy: it has to be confirmed first."""
    found = []
    with txn.txn.cursor(store.db_blocks) as cursor:
        for key, raw in cursor:
            if key[4:5] == b"n":
                found.append((key, raw))
    for key, raw in found:
        member = Member.read(raw)
        member.inode = _COPIED
        txn.put(key, member.pack(), True, True, False, store.db_blocks)


# Proof of ownership ---------------------------------------------------------------------------


def boottime_ns() -> int:
    """Nanoseconds since this boot, sleep included: a clock that nobody can set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def prove(txn: Transaction, store: Store, network_id: int, until_ns: int) -> None:
    """Ownership of the active blocks is certain until then (:func:`boottime_ns`)."""
    key = keys.network_prefix(network_id) + b"p"
    txn.put(key, _PROOF.pack(store.boot, until_ns), True, True, False, store.db_blocks)


def proven_until(txn: Transaction | Snapshot, store: Store, network_id: int) -> int:
    """Until when ownership is proven, 0 when it is not: never asked, or in an earlier boot."""
    raw = txn.get(keys.network_prefix(network_id) + b"p", None, store.db_blocks)
    if raw is None or len(raw) != _PROOF.size:
        return 0
    boot, until_ns = _PROOF.unpack(raw)
    return until_ns if boot == store.boot else 0


def doubt(
    txn: Transaction | Snapshot, store: Store, network_id: int, now_ns: int | None = None
) -> str:
    """Why this store's word about its blocks is not enough to assign an address; "" if it is."""
    raw = txn.get(keys.network_prefix(network_id) + b"n", None, store.db_blocks)
    if raw is None:
        return "this node is not registered in its cluster"
    _, revision, inode, _, fencing = _MEMBER.unpack_from(raw)  # not all of it: every ADD asks
    if not revision:
        return "this node is not registered in its cluster"
    if inode != store.identity[1]:
        return "the store was restored or copied, and its blocks are not confirmed yet"
    if fencing:
        now_ns = boottime_ns() if now_ns is None else now_ns
        if now_ns >= proven_until(txn, store, network_id):
            return "fencing: ownership of the blocks could not be proven in time"
    return ""
