"""Read which blocks of a cluster's pool a network has in this store, and their states."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastipam.allocation import blocks
from fastipam.storage.records import block as block_record

if TYPE_CHECKING:
    from fastipam.addressing.ranges import Pool
    from fastipam.storage.transaction import Snapshot


class Owned(NamedTuple):
    """A block: its first and last address, and its state as a word ("active")."""

    family: int
    first: int
    last: int
    state: str


def owned(txn: Snapshot, network_id: int, pool: Pool) -> list[Owned]:
    """Return the blocks of a network in address order, none outside of a cluster. O(blocks)."""
    return [
        Owned(
            block.family,
            block.base,
            blocks.last_of(range_set, block.base),
            block_record.STATES[block.state],
        )
        for block, range_set in blocks.walk(txn, network_id, pool.sets)
        if range_set is not None
    ]
