"""Read the blocks of a cluster's pool that this node owns, and their states."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastipam.allocation import blocks
from fastipam.storage.records import block as block_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.addressing.ranges import Pool, RangeSet
    from fastipam.storage.transaction import Snapshot


class Owned(NamedTuple):
    """A block: its first and last address, and its state as a word ("active").

    ``number`` is the number of the range set from which the block is cut.
    """

    family: int
    first: int
    last: int
    state: str
    number: int = 0


def intervals(txn: Snapshot, pool_id: int, range_set: RangeSet) -> Sequence[tuple[int, int]]:
    """Return the (first, last) intervals of a set from which this node may assign. O(blocks).

    If the set is cut into blocks, these are the intervals in the node's active blocks.
    """
    if not range_set.block_length:
        return range_set.intervals
    return [
        part
        for block, its_set in blocks.walk(txn, pool_id, (range_set,))
        if its_set is not None and block.state == block_record.ACTIVE
        for part in blocks.parts(range_set, block.base)
    ]


def owned(txn: Snapshot, pool_id: int, pool: Pool) -> list[Owned]:
    """Return this node's blocks in address order, or [] outside of a cluster. O(blocks)."""
    return [
        Owned(
            block.family,
            block.base,
            blocks.last_of(range_set, block.base),
            block_record.STATES[block.state],
            pool.sets.index(range_set),
        )
        for block, range_set in blocks.walk(txn, pool_id, pool.sets)
        if range_set is not None
    ]
