"""Assign addresses to many owners at once, with the same result as one call for each owner.

Imported by the first call for many owners. Nothing here commits.
"""

from __future__ import annotations

from fastipam import errors
from fastipam.allocation import refusals
from fastipam.errors import StoreCorrupt
from fastipam.lease import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam._ledger import Requester
    from fastipam.addressing.ranges import Pool
    from fastipam.allocation.ledger import Ledger
    from fastipam.lease import Lease


def assign(ledger: Ledger, pool: Pool, owners: list[Requester]) -> list[Lease]:
    """Assign an address of every range set to each owner, all or nothing. O(owners).

    The result is the same as that of one call for each owner, in this order. Each returned lease
    has an address of the first range set; its ``siblings`` have the addresses of the other sets.
    Raises PoolExhausted, DuplicateAllocation.
    """
    before = ledger.state.generation
    columns = ledger.give_many(owners, pool)
    if columns is None:
        raise _not_new(ledger, owners, before)
    if len(columns) == 1:
        return columns[0]
    return [join(row) for row in zip(*columns, strict=True)]


def _not_new(ledger: Ledger, owners: list[Requester], before: int) -> errors.FastipamError:
    """Return the error for an owner that is named twice, or had an address before this call.

    It is StoreCorrupt when an existing owner entry lists the address that was free until now.
    ``before`` is the generation before this call.
    """
    seen = set()
    for owner in owners:
        held = ledger.held_by(owner.name)
        if owner.name in seen or any(
            record is None or record.generation <= before
            for record in (ledger.record(*one) for one in held)
        ):
            return refusals.duplicate(ledger.name, owner, held)
        seen.add(owner.name)
    return StoreCorrupt(
        f"an owner in network {ledger.name} is recorded with an address that has no lease",
        path=ledger.store.path,
        hint=errors.CHECK_HINT,
    )
