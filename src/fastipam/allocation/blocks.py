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
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.block import _MEMBER, ACTIVE, Block, Member, block_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.addressing.ranges import RangeSet
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


# Records --------------------------------------------------------------------------------------


def get(txn: Transaction | Snapshot, network_id: int, family: int, base: int) -> Block | None:
    """The record of a block, None: this node has nothing to do with it. O(1)."""
    raw = tables.BLOCKS.get(txn, block_key(network_id, family, base))
    return None if raw is None else Block.read(family, base, raw)


def is_active(txn: Transaction | Snapshot, network_id: int, family: int, base: int) -> bool:
    """Whether addresses may be assigned from a block. O(1)."""
    raw = tables.BLOCKS.get(txn, block_key(network_id, family, base))
    return raw is not None and raw[0] == ACTIVE


def put(txn: Transaction, network_id: int, block: Block) -> None:
    """Write the record of a block."""
    key = block_key(network_id, block.family, block.base)
    tables.BLOCKS.put(txn, key, block.pack())


def delete(txn: Transaction, network_id: int, family: int, base: int) -> None:
    """Forget a block."""
    tables.BLOCKS.delete(txn, block_key(network_id, family, base))


def read_all(txn: Transaction | Snapshot, network_id: int) -> list[Block]:
    """Every block of a network, in address order, IPv4 first. O(blocks)."""
    found = []
    for key, raw in tables.BLOCKS.scan(txn, keys.network_prefix(network_id) + b"b"):
        found.append(Block.read(key[5], int.from_bytes(key[6:], "big"), raw))
    return found


def get_member(txn: Transaction | Snapshot, network_id: int) -> Member | None:
    """Who this node is in the network's cluster; None: it has never registered."""
    raw = tables.BLOCKS.get(txn, keys.network_prefix(network_id) + b"n")
    return None if raw is None else Member.read(raw)


def put_member(txn: Transaction, network_id: int, member: Member) -> None:
    """Remember who this node is."""
    key = keys.network_prefix(network_id) + b"n"
    tables.BLOCKS.put(txn, key, member.pack())


def distrust(txn: Transaction) -> None:
    """What the store says of blocks comes from an older copy: it has to be confirmed first."""
    for key, raw in [item for item in tables.BLOCKS.scan(txn) if item[0][4:5] == b"n"]:
        member = Member.read(raw)
        member.inode = _COPIED
        tables.BLOCKS.put(txn, key, member.pack())


# Proof of ownership ---------------------------------------------------------------------------


def boottime_ns() -> int:
    """Nanoseconds since this boot, sleep included: a clock that nobody can set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def prove(txn: Transaction, network_id: int, until_ns: int) -> None:
    """Ownership of the active blocks is certain until then (:func:`boottime_ns`)."""
    key = keys.network_prefix(network_id) + b"p"
    tables.BLOCKS.put(txn, key, _PROOF.pack(txn.store.boot, until_ns))


def proven_until(txn: Transaction | Snapshot, network_id: int) -> int:
    """Until when ownership is proven, 0 when it is not: never asked, or in an earlier boot."""
    raw = tables.BLOCKS.get(txn, keys.network_prefix(network_id) + b"p")
    if raw is None or len(raw) != _PROOF.size:
        return 0
    boot, until_ns = _PROOF.unpack(raw)
    return until_ns if boot == txn.store.boot else 0


def doubt(txn: Transaction | Snapshot, network_id: int, now_ns: int | None = None) -> str:
    """Why this store's word about its blocks is not enough to assign an address; "" if it is."""
    raw = tables.BLOCKS.get(txn, keys.network_prefix(network_id) + b"n")
    if raw is None:
        return "this node is not registered in its cluster"
    _, revision, inode, _, fencing = _MEMBER.unpack_from(raw)  # not all of it: every ADD asks
    if not revision:
        return "this node is not registered in its cluster"
    if inode != txn.store.identity[1]:
        return "the store was restored or copied, and its blocks are not confirmed yet"
    if fencing:
        now_ns = boottime_ns() if now_ns is None else now_ns
        if now_ns >= proven_until(txn, network_id):
            return "fencing: ownership of the blocks could not be proven in time"
    return ""
