"""Read which blocks of a cluster's pool a network has in this store, and their states."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastipam.addressing.addresses import BITS
from fastipam.addressing.ranges import Pool
from fastipam.allocation import blocks
from fastipam.storage import tables
from fastipam.storage.records import block as block_record

if TYPE_CHECKING:
    from fastipam.addressing.ranges import RangeSet
    from fastipam.storage.transaction import Snapshot


class Owned(NamedTuple):
    """A block: its first and last address, and its state as a word ("active")."""

    family: int
    first: int
    last: int
    state: str


def owned(txn: Snapshot, network_id: int) -> list[Owned]:
    """Return the blocks of a network in address order, [] without a cluster. O(blocks)."""
    known = blocks.read_all(txn, network_id)
    if not known:
        return []
    sets = [each for each in _pool(txn, network_id).sets if each.block_length]
    found = []
    for block in known:
        for each in sets:
            if each.family == block.family and _is_in(each, block.base):
                last = block.base + (1 << blocks.host_bits(each)) - 1
                found.append(
                    Owned(block.family, block.base, last, block_record.STATES[block.state])
                )
                break
    return found


def _is_in(range_set: RangeSet, base: int) -> bool:
    """Return whether a block is in the set's subnets. Its first address may be excluded."""
    bits = BITS[range_set.family]
    return any((base ^ each.network) >> (bits - each.length) == 0 for each in range_set.ranges)


def _pool(txn: Snapshot, network_id: int) -> Pool:
    """Return the ranges of a network in the store. O(networks)."""
    for _, raw in tables.NETWORKS.scan(txn):
        if int.from_bytes(raw[:4], "big") == network_id:
            return Pool.read(raw[4:].decode())
    return Pool([])
