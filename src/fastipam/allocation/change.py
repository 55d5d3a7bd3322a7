"""Rebuild what counters and leases say of a network's ranges, after the ranges have changed."""

from __future__ import annotations

from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.lease import COOLING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.addressing.ranges import Pool
    from fastipam.allocation.accounts import Accounts
    from fastipam.storage.tables import Table


def recount(accounts: Accounts, pool: Pool) -> None:
    """Count the used addresses that are outside the ranges. O(used addresses)."""
    accounts.state.outside = sum(
        not pool.holds(family, value) for family, value in _addresses(accounts, tables.LEASES)
    ) + sum(
        not pool.holds(family, value) and accounts.record(family, value) is None
        for family, value in _addresses(accounts, tables.RESERVATIONS)
    )


def regroup(accounts: Accounts, pool: Pool) -> None:
    """Write into each lease the number of the set that has its address, or NO_SET. O(leases).

    Cooling addresses queue by set. Without this a set would not find its own, or would search those
    that it may not take.
    """
    network_id = accounts.state.network_id
    moves = []
    for family, value in _addresses(accounts, tables.LEASES):
        held = pool.index_of(family, value)
        index = keys.NO_SET if held is None else held
        key = keys.address_key(network_id, family, value)
        record = accounts.record(family, value)
        if record is not None and record.set_index != index:
            moves.append((key, record, index, family, value))
    for key, record, index, family, value in moves:
        if record.state == COOLING:
            old, new = (
                keys.cooldown_key(network_id, each, record.released, family, value)
                for each in (record.set_index, index)
            )
            tables.COOLDOWN.delete(accounts.txn, old)
            tables.COOLDOWN.put(accounts.txn, new, b"")
        record.set_index = index
        tables.LEASES.put(accounts.txn, key, record.pack())


def relist(accounts: Accounts, pool: Pool) -> None:
    """Rebuild the open list of the sets that are cut into blocks. O(blocks)."""
    network_id = accounts.state.network_id
    for index, each in enumerate(pool.sets):
        if each.block_length:
            from fastipam.allocation import blocks

            cursor = accounts.state.cursor(index, each.family)
            blocks.reindex(accounts.txn, network_id, each, cursor)


def _addresses(accounts: Accounts, table: Table) -> Iterator[tuple[int, int]]:
    for key in table.scan_keys(accounts.txn, accounts.state.prefix):
        yield keys.read_address_key(key)[1:]
