"""The blocks of this node that have free addresses, the fullest first: where to allocate next.

A list in the store, one key a block (see blocks.py); the block that serves now is not in it. The
list is a hint. What it says of a block is looked at again; a block that it has forgotten comes back
with :func:`reindex`.
"""

from __future__ import annotations

from struct import Struct

from fastipam.addressing.addresses import BITS
from fastipam.allocation import blocks
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.block import ACTIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam._bitmap import StoredPages
    from fastipam.addressing.ranges import RangeSet
    from fastipam.storage.transaction import Snapshot, Transaction

_FREE = Struct(">4scBI")


def _prefix(network_id: int, family: int) -> bytes:
    return keys.network_prefix(network_id) + b"o" + bytes((family,))


def _open_key(network_id: int, family: int, free: int, base: int) -> bytes:
    prefix = _FREE.pack(keys.network_prefix(network_id), b"o", family, free)
    return prefix + base.to_bytes(BITS[family] // 8, "big")


def pop_fullest(txn: Transaction, network_id: int, family: int) -> int | None:
    """Take the block with the fewest free addresses out of the list. O(1)."""
    prefix = _prefix(network_id, family)
    found = tables.BLOCKS.first(txn, prefix)
    if found is None:
        return None
    tables.BLOCKS.delete(txn, found[0])
    return int.from_bytes(found[0][_FREE.size :], "big")


def freed(
    txn: Transaction,
    network_id: int,
    range_set: RangeSet,
    value: int,
    cursor: int | None,
) -> None:
    """An address was given back: its block has one more to serve. O(1).

    ``cursor`` is where the set's round robin stands: its block serves now and is not listed.
    """
    family = range_set.family
    base = blocks.base_of(range_set, value)
    if cursor is not None and blocks.base_of(range_set, cursor) == base:
        return
    if not blocks.is_active(txn, network_id, family, base):
        return
    inside = blocks.parts(range_set, base)
    if not any(low <= value <= high for low, high in inside):
        return
    pages = txn.pages(network_id, family)
    free = sum(high - low + 1 - pages.count(low, high) for low, high in inside)
    if free > 1:
        tables.BLOCKS.delete(txn, _open_key(network_id, family, free - 1, base))
    key = _open_key(network_id, family, free, base)
    tables.BLOCKS.put(txn, key, b"")


def list_open(txn: Transaction, network_id: int, range_set: RangeSet, base: int) -> None:
    """Enter a block, if it has free addresses, into the list of those that can serve."""
    pages = txn.pages(network_id, range_set.family)
    free = blocks.free_in(pages, range_set, base)
    if free:
        key = _open_key(network_id, range_set.family, free, base)
        tables.BLOCKS.put(txn, key, b"")


def reindex(txn: Transaction, network_id: int, range_set: RangeSet, cursor: int | None) -> int:
    """Make the list of blocks that can serve true; returns how many can. O(blocks).

    Writes what differs, and nothing when nothing does.
    """
    pages = txn.pages(network_id, range_set.family)
    wanted, listed = _open_keys(txn, network_id, range_set, pages, cursor)
    for key in listed - wanted:
        tables.BLOCKS.delete(txn, key)
    for key in wanted - listed:
        tables.BLOCKS.put(txn, key, b"")
    return len(wanted)


def is_indexed(txn: Snapshot, network_id: int, range_set: RangeSet, cursor: int | None) -> bool:
    """Whether every block that can serve is in the list of those. O(blocks)."""
    pages = txn.pages(network_id, range_set.family)
    wanted, listed = _open_keys(txn, network_id, range_set, pages, cursor)
    return wanted <= listed


def _open_keys(
    txn: Transaction | Snapshot,
    network_id: int,
    range_set: RangeSet,
    pages: StoredPages,
    cursor: int | None,
) -> tuple[set[bytes], set[bytes]]:
    """The keys of the blocks that can serve: as they should be, and as they are."""
    family = range_set.family
    prefix = _prefix(network_id, family)
    serving = None if cursor is None else blocks.base_of(range_set, cursor)
    wanted = set()
    for block in blocks.read_all(txn, network_id):
        if block.family == family and block.state == ACTIVE and block.base != serving:
            free = blocks.capacity(range_set, block.base) - blocks.used_in(
                pages, range_set, block.base
            )
            if free:
                wanted.add(_open_key(network_id, family, free, block.base))
    return wanted, {key for key, _ in tables.BLOCKS.scan(txn, prefix)}


def listed_open(txn: Snapshot, network_id: int, family: int) -> Iterator[int]:
    """The first addresses of the blocks that are listed as able to serve, the fullest first."""
    prefix = _prefix(network_id, family)
    for key, _ in tables.BLOCKS.scan(txn, prefix):
        yield int.from_bytes(key[_FREE.size :], "big")
