"""A network's ranges change: what its counters and leases say of them is made new."""

from __future__ import annotations

from fastipam.storage.records import keys
from fastipam.storage.records.lease import COOLING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastipam.addressing.ranges import Pool
    from fastipam.allocation.ledger import Ledger


def recount(ledger: Ledger, pool: Pool) -> None:
    """Count anew which used addresses lie outside. O(used addresses)."""
    store = ledger.store
    ledger.state.outside = sum(
        not pool.holds(family, value) for family, value in _addresses(ledger, store.db_leases)
    ) + sum(
        not pool.holds(family, value) and ledger.record(family, value) is None
        for family, value in _addresses(ledger, store.db_reservations)
    )


def regroup(ledger: Ledger, pool: Pool) -> None:
    """A lease notes the set that holds its address now, or that none does. O(leases).

    Without it a set would not find its cooling addresses, which queue by set, when it runs
    dry; or would have to look through those that it may not take.
    """
    network_id = ledger.state.network_id
    moves = []
    for family, value in _addresses(ledger, ledger.store.db_leases):
        held = pool.index_of(family, value)
        index = keys.NO_SET if held is None else held
        key = keys.address_key(network_id, family, value)
        record = ledger.record(family, value)
        if record is not None and record.set_index != index:
            moves.append((key, record, index, family, value))
    for key, record, index, family, value in moves:
        if record.state == COOLING:
            db = ledger.store.db_cooldown
            old, new = (
                keys.cooldown_key(network_id, each, record.released, family, value)
                for each in (record.set_index, index)
            )
            ledger.txn.delete(old, b"", db)
            ledger.txn.put(new, b"", True, True, False, db)
        record.set_index = index
        ledger.txn.put(key, record.pack(), True, True, False, ledger.store.db_leases)


def _addresses(ledger: Ledger, db: Any) -> Iterator[tuple[int, int]]:
    prefix = ledger.state.prefix
    with ledger.txn.txn.cursor(db) as cursor:
        if not cursor.set_range(prefix):
            return
        for key in cursor.iternext(keys=True, values=False):
            if key[:4] != prefix:
                return
            yield key[4], int.from_bytes(key[5:], "big")
