"""A network's ranges change: what its counters and leases say of them is made new."""

from __future__ import annotations

from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.lease import COOLING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.addressing.ranges import Pool
    from fastipam.allocation.ledger import Ledger
    from fastipam.storage.tables import Table


def recount(ledger: Ledger, pool: Pool) -> None:
    """Count anew which used addresses lie outside. O(used addresses)."""
    ledger.state.outside = sum(
        not pool.holds(family, value) for family, value in _addresses(ledger, tables.LEASES)
    ) + sum(
        not pool.holds(family, value) and ledger.record(family, value) is None
        for family, value in _addresses(ledger, tables.RESERVATIONS)
    )


def regroup(ledger: Ledger, pool: Pool) -> None:
    """A lease notes the set that holds its address now, or that none does. O(leases).

    Without it a set would not find its cooling addresses, which queue by set, when it runs
    dry; or would have to look through those that it may not take.
    """
    network_id = ledger.state.network_id
    moves = []
    for family, value in _addresses(ledger, tables.LEASES):
        held = pool.index_of(family, value)
        index = keys.NO_SET if held is None else held
        key = keys.address_key(network_id, family, value)
        record = ledger.record(family, value)
        if record is not None and record.set_index != index:
            moves.append((key, record, index, family, value))
    for key, record, index, family, value in moves:
        if record.state == COOLING:
            old, new = (
                keys.cooldown_key(network_id, each, record.released, family, value)
                for each in (record.set_index, index)
            )
            tables.COOLDOWN.delete(ledger.txn, old)
            tables.COOLDOWN.put(ledger.txn, new, b"")
        record.set_index = index
        tables.LEASES.put(ledger.txn, key, record.pack())


def _addresses(ledger: Ledger, table: Table) -> Iterator[tuple[int, int]]:
    for key in table.scan_keys(ledger.txn, ledger.state.prefix):
        yield keys.read_address_key(key)[1:]
