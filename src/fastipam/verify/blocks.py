"""Check the records of a cluster: a network's blocks, and this node as a member."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.addressing.addresses import format_cidr
from fastipam.allocation import blocks
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import block as block_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.addressing.ranges import Pool
    from fastipam.verify.parts import Finding, NetworkCheck


def findings(network: NetworkCheck) -> Iterator[Finding]:
    """Check each record by itself, then the open list. Ownership of blocks is not checked here."""
    damaged = False
    for key, raw in network.items(tables.BLOCKS, network.prefix):
        text = fault(network.pool, key, raw)
        if text:
            damaged = True
            yield network.finding("block-record", key.hex(), text)
    if not damaged:
        yield from _unlisted(network)


def fault(pool: Pool | None, key: bytes, raw: bytes) -> str:
    """Return why a record cannot be right, or an empty text."""
    try:
        block = block_record.read_any(key, raw)
    except StoreCorrupt as error:
        return error.message
    if block is not None and pool is not None:
        its_set = blocks.set_of(pool.sets, block.family, block.base)
        if its_set is None:
            return "the block is in no range set that is cut into blocks"
        if blocks.base_of(its_set, block.base) != block.base:
            return "no block of the pool begins at this address"
    return ""


def _unlisted(network: NetworkCheck) -> Iterator[Finding]:
    """Yield a finding for each block with free addresses that is not in the open list."""
    pool, state = network.pool, network.state
    if pool is None or state is None:
        return
    for index, range_set in enumerate(pool.sets):
        if range_set.block_length:
            family = range_set.family
            cursor = state.cursor(index, family)
            try:
                unlisted = blocks.unlisted(network.txn, network.pool_id, range_set, cursor)
            except StoreCorrupt:  # a damaged page has a finding of its own
                continue
            for base in unlisted:
                where = format_cidr(family, base, blocks.length_of(range_set, base))
                text = "the block has free addresses, but is not in the list of such blocks"
                yield network.finding("block-unlisted", where, text)
