"""The four states of an address: their names, and which one an address has."""

from __future__ import annotations

from fastipam.storage.records import lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.addressing.ranges import Pool
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.reservation import Reservation

STATES = ASSIGNED, COOLING, RESERVED, FREE = "assigned", "cooling", "reserved", "free"


def of_record(record: Record) -> str:
    """Return the state of an address that has this record."""
    return COOLING if record.state == lease.COOLING else ASSIGNED


def of_address(
    pool: Pool, address: tuple[int, int], record: Record | None, reservation: Reservation | None
) -> str:
    """Return the state of an address, or "" when it is unused and the ranges cannot assign it.

    An unused static address is free, because it can be assigned on request.
    """
    if record is not None:
        return of_record(record)
    if reservation is not None:
        return RESERVED
    family, value = address
    static = any(each.family == family and each.is_static(value) for each in pool.sets)
    return FREE if static or pool.holds(family, value) else ""
