"""Update the records that depend on a network's ranges, after the ranges have changed.

When two configurations have the same network name, each ADD may change the ranges. So nothing here
reads every lease: the addresses in use inside the ranges are counted in the bitmap, and only
cooling addresses are regrouped.
"""

from __future__ import annotations

from fastipam.allocation.counts import used_within
from fastipam.allocation.lookup import read_record
from fastipam.storage import tables
from fastipam.storage.records import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam._ledger import Accounts
    from fastipam.addressing.ranges import Pool


def recount(accounts: Accounts, pool: Pool) -> None:
    """Count the used addresses that are outside the ranges. O(pages inside)."""
    state = accounts.state
    accounts.txn.flush()  # the pages that this transaction has changed
    inside: int = sum(
        used_within(accounts.txn, state.pool_id, each.family, each.intervals) for each in pool.sets
    )
    state.outside = max(0, state.used - inside)


def regroup(accounts: Accounts, pool: Pool) -> None:
    """Queue each cooling address under the number of its range set, or NO_SET. O(cooling).

    Without this a set would not find its own cooling addresses, or would search addresses that it
    may not take. The record of an assigned address is left as it is: it gets the number of its set
    when the address begins to cool.
    """
    pool_id, txn = accounts.state.pool_id, accounts.txn
    if not accounts.state.cooling:
        return
    moves = []
    for queued in tables.COOLDOWN.scan_keys(txn, accounts.state.prefix):
        _, number, _, family, value = keys.read_cooldown_key(queued)
        held = pool.index_of(family, value)
        index = keys.NO_SET if held is None else held
        if number != index:
            moves.append((queued, index, family, value))
    for queued, index, family, value in moves:
        record = read_record(accounts.txn, accounts.pool_id, family, value)
        released = keys.read_cooldown_key(queued)[2]
        if record is None or record.released != released:
            continue  # the queue is damaged: `fastipam check` says so
        new = keys.cooldown_key(pool_id, index, released, family, value)
        tables.COOLDOWN.delete(txn, queued)
        tables.COOLDOWN.put(txn, new, b"")
        record.set_index = index
        tables.LEASES.put(txn, keys.address_key(pool_id, family, value), record.pack())


def relist(accounts: Accounts, pool: Pool) -> None:
    """Rebuild the open list of the sets that are cut into blocks. O(blocks)."""
    pool_id = accounts.state.pool_id
    for index, each in enumerate(pool.sets):
        if each.block_length:
            from fastipam.allocation import blocks

            cursor = accounts.state.cursor(index, each.family)
            blocks.reindex(accounts.txn, pool_id, each, cursor)
