"""The four states of an address: their names, which one an address has, how many have each."""

from __future__ import annotations

from fastipam.storage.records import lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.addressing.ranges import Pool
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.network_state import NetworkState
    from fastipam.storage.records.reservation import Reservation
    from fastipam.storage.transaction import Snapshot

STATES = ASSIGNED, COOLING, RESERVED, FREE = "assigned", "cooling", "reserved", "free"


def of_record(record: Record) -> str:
    """Return the state of an address that has this record."""
    return COOLING if record.state == lease.COOLING else ASSIGNED


def of_address(
    pool: Pool, address: tuple[int, int], record: Record | None, reservation: Reservation | None
) -> str:
    """Return the state of an address, or "" when it is unused and the ranges cannot assign it."""
    if record is not None:
        return of_record(record)
    if reservation is not None:
        return RESERVED
    return FREE if pool.holds(*address) else ""


def count(txn: Snapshot, state: NetworkState, pool: Pool) -> dict[str, int]:
    """Return ``size`` and how many addresses are in each state; the four add up to ``size``.

    O(1). Of a cluster's pool it is this node's share, O(blocks): the addresses of its blocks, and
    those in use outside of them.
    """
    if any(each.block_length for each in pool.sets):
        from fastipam.allocation import blocks

        free = blocks.free(txn, state.network_id, pool)
    else:
        free = pool.size + state.outside - state.used
    return {
        "size": free + state.used,
        ASSIGNED: state.assigned,
        COOLING: state.cooling,
        RESERVED: state.reserved,
        FREE: free,
    }
