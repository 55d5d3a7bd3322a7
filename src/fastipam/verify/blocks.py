"""Check the records of a cluster: a network's blocks, and this node as a member."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.allocation import blocks
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import block as block_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.addressing.ranges import Pool
    from fastipam.verify.parts import Finding, NetworkCheck


def findings(network: NetworkCheck) -> Iterator[Finding]:
    """Check each record by itself. Who owns a block is for the cluster to say."""
    for key, raw in network.items(tables.BLOCKS, network.prefix):
        text = fault(network.pool, key, raw)
        if text:
            yield network.finding("block-record", key.hex(), text)


def fault(pool: Pool | None, key: bytes, raw: bytes) -> str:
    """Return why a record cannot be right, or an empty text."""
    try:
        block = block_record.read_any(key, raw)
    except StoreCorrupt as error:
        return error.message
    if block is not None and pool is not None:
        for each in pool.sets:
            cut = each.block_length and each.family == block.family
            if cut and blocks.base_of(each, block.base) != block.base:
                return "no block of the pool begins at this address"
    return ""
