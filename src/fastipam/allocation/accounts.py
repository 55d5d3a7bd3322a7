"""The records of a network and its pool in a write transaction, for what works on them.

``fastipam._ledger`` has what every call needs. Nothing here decides which address is assigned: that
is ledger.py.
"""

from __future__ import annotations

from fastipam import _ledger
from fastipam.allocation.lookup import read_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from fastipam.addressing.ranges import Pool, RangeSet
    from fastipam.configuration.policy import Policy
    from fastipam.lease import Lease
    from fastipam.storage.records.lease import Record

    class Configured(Protocol):
        """What a caller says of a network; ``pool`` is None when the caller has no ranges."""

        name: str
        pool: Pool | None
        policy: Policy
        lease_type: type[Lease]

        def _ranges_of(self, text: str) -> Pool:
            """Return the pool of a text in the store. Raises StoreCorrupt."""


class Accounts(_ledger.Accounts):
    """The records of one network and its pool in a write transaction; ``save`` before its end."""

    __slots__ = ()

    def record(self, family: int, value: int) -> Record | None:
        """Return the lease record of an address, or None when it is free or reserved."""
        return read_record(self.txn, self.pool_id, family, value)

    def owns(self, range_set: RangeSet, value: int) -> bool:
        """Return whether this node may assign an address: no other node of its cluster has it."""
        if not range_set.block_length:
            return True
        from fastipam.allocation import blocks

        base = blocks.base_of(range_set, value)
        is_active = blocks.is_active(self.txn, self.pool_id, range_set.family, base)
        return is_active and not blocks.doubt(self.txn, self.pool_id)
