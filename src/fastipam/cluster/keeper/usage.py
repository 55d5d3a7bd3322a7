"""How much of this node's blocks is used: what the keeper plans with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastipam.allocation import blocks
from fastipam.allocation.ledger import read_state
from fastipam.cluster.planner import Use
from fastipam.storage.records import block as block_record
from fastipam.storage.records.block import ACTIVE

if TYPE_CHECKING:
    from fastipam.cluster.node.claims import Node
    from fastipam.cluster.planner import Geometry

_CHUNK = 32  # blocks counted between two turns of the agent's loop: a tenth of a millisecond


def books(node: Node) -> tuple[int, int]:
    """Two numbers that change whenever an address is assigned or given back. O(1)."""
    with node.store.read() as txn:
        network_id = node.network.id_in(txn)
        if network_id is None:
            return 0, 0
        state = read_state(txn, network_id)
        return state.generation, state.used


def survey(node: Node) -> tuple[list[tuple[Geometry, Use]], dict[str, int]]:
    """What is used of each active block, and how many blocks are in which state.

    O(blocks), letting the agent's loop in between.
    """
    uses: list[tuple[Geometry, Use]] = []
    states: dict[str, int] = {}
    sets = {each.family: each for each in node.settings.pool.sets}
    owned = node.local()
    for at in range(0, len(owned), _CHUNK):
        with node.store.read() as txn:
            network_id = node.network.id_in(txn)
            if network_id is None:
                break
            for block in owned[at : at + _CHUNK]:
                name = block_record.STATES[block.state]
                states[name] = states.get(name, 0) + 1
                pool = node.settings.geometry_of(block.family, block.base)
                if block.state != ACTIVE or pool is None:
                    continue
                pages = txn.pages(network_id, block.family)
                range_set = sets[block.family]
                size = blocks.capacity(range_set, block.base)
                used = blocks.used_in(pages, range_set, block.base)
                number = pool.number(block.base)
                assert number is not None
                uses.append((pool, Use(number, size, used, block.claimed_ns / 1e9)))
        time.sleep(0)
    return uses, states
