"""How many addresses of this node's blocks are used: the input of the keeper's decisions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastipam.allocation import blocks
from fastipam.cluster.planner import Use
from fastipam.storage.records.block import ACTIVE, STATES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.cluster.node.share import Share
    from fastipam.configuration.cluster import Geometry
    from fastipam.storage.records.block import Block

_CHUNK = 32  # blocks that are counted, in a tenth of a millisecond, before the agent's loop may run


def generation(share: Share) -> tuple[int, int]:
    """Return a pair of numbers that changes when an address is assigned or released. O(1)."""
    with share.store.read() as txn:
        pool_id = share.network._pool_in(txn)
        if pool_id is None:
            return 0, 0
        state = txn.pool_state(pool_id)
        return state.generation, state.used


def count(share: Share) -> Iterator[tuple[Block, int, int]]:
    """Return each block of this node with its used addresses and its size. O(blocks).

    The thread yields to the agent's loop between chunks.
    """
    with share.store.read() as txn:
        pool_id = share.network._pool_in(txn)
        if pool_id is None:
            return
        walk = blocks.walk(txn, pool_id, share.settings.pool.sets)
        for at, (block, range_set) in enumerate(walk, 1):
            used = size = 0
            if range_set is not None:
                pages = txn.pages(pool_id, block.family)
                used = blocks.used_in(pages, range_set, block.base)
                requested = blocks.on_request(range_set, block.base)
                size = used + blocks.free_in(pages, range_set, block.base)
                size += sum(high - low + 1 - pages.count(low, high) for low, high in requested)
            yield block, used, size
            if at % _CHUNK == 0:
                time.sleep(0)


def survey(share: Share) -> tuple[list[tuple[Geometry, Use]], dict[str, int]]:
    """Return the used addresses of each active block, and the number of blocks by state."""
    uses: list[tuple[Geometry, Use]] = []
    states: dict[str, int] = {}
    for block, used, size in count(share):
        state = STATES[block.state]
        states[state] = states.get(state, 0) + 1
        pool = share.settings.geometry_of(block.family, block.base)
        number = None if pool is None else pool.number(block.base)
        if pool is not None and number is not None and block.state == ACTIVE:
            uses.append((pool, Use(number, size, used, block.claimed_ns / 1e9)))
    return uses, states
