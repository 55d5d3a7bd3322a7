"""Assign addresses to many owners at once, as single calls would in their order.

Imported by the first call that wants many. Nothing here commits.
"""

from __future__ import annotations

from fastipam import errors
from fastipam.allocation import cooldown, refusals
from fastipam.errors import StoreCorrupt
from fastipam.lease import Lease, join
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.addressing.ranges import Pool, RangeSet
    from fastipam.allocation.ledger import Ledger
    from fastipam.lease import Requester


def assign(ledger: Ledger, pool: Pool, owners: list[Requester]) -> list[Lease]:
    """Assign an address of every range set to each owner, all or nothing. O(owners).

    They get what single calls in their order would give them. Each lease is that of the first
    range set and has the others as siblings. Raises PoolExhausted, DuplicateAllocation.
    """
    columns = []
    held = [b""] * len(owners)
    for index, range_set in enumerate(pool.sets):
        values = ledger.choose(index, range_set, len(owners))
        leases, packed = _write(ledger, owners, index, range_set, values)
        columns.append(leases)
        held = [before + new for before, new in zip(held, packed, strict=True)]
    owner_keys = [ledger.owner_key(owner.name) for owner in owners]
    _enter_owners(ledger, owners, list(zip(owner_keys, held, strict=True)))
    return [join(row) for row in zip(*columns, strict=True)]


def _write(
    ledger: Ledger,
    owners: Sequence[Requester],
    index: int,
    range_set: RangeSet,
    values: Sequence[int],
) -> tuple[list[Lease], list[bytes]]:
    """Write the leases of one range set; return them, and their addresses packed for owners."""
    family = range_set.family
    state = ledger.state
    boot, generation = ledger.store.boot, state.generation
    network_id, pool_id = ledger.network_id, state.pool_id
    its_range = range_set.ranges[0]
    items = []
    leases = []
    packed = []
    for owner, value in zip(owners, values, strict=True):
        if not its_range.start <= value <= its_range.end:
            its_range = range_set.range_of(value) or its_range
        generation += 1
        number = ledger.set_of(index, family, value)
        stamp = boot, generation, ledger.wall_ns
        raw = lease_record.pack_assigned(network_id, owner, its_range.length, number, stamp, 0)
        key = keys.address_key(pool_id, family, value)
        items.append((key, raw))
        packed.append(key)  # what pack_held() makes of it
        leases.append(Lease(ledger.name, family, value, its_range.gateway, raw))
    state.generation = generation
    state.assigned += len(items)
    consumed, added = tables.LEASES.add_many(ledger.txn, items)
    if added < consumed:  # some were cooling
        for (key, raw), lease in zip(items, leases, strict=True):
            if tables.LEASES.get(ledger.txn, key) != raw:
                cooldown.take_place(ledger, key, raw, family, lease.value)
    _note(ledger, owners, leases)
    return leases, packed


def _note(ledger: Ledger, owners: Sequence[Requester], leases: Sequence[Lease]) -> None:
    """Write the last assignments into the history, as many as it keeps."""
    first = max(0, len(leases) - ledger.policy.history)
    generation = ledger.state.generation - len(leases) + 1
    for at in range(first, len(leases)):
        lease = leases[at]
        address = lease.family, lease.value
        ledger.note(event_record.ASSIGNED, generation + at, address, owners[at].texts)


def _enter_owners(
    ledger: Ledger, owners: list[Requester], items: list[tuple[bytes, bytes]]
) -> None:
    """Write the entries of new owners in key order.

    Raises DuplicateAllocation for an owner that is not new, and StoreCorrupt when an existing entry
    has the address that was free until now.
    """
    consumed, added = tables.OWNERS.add_many(ledger.txn, sorted(items))
    if consumed == added:
        return
    seen = set()
    for owner, (key, value) in zip(owners, items, strict=True):
        held = tables.OWNERS.get(ledger.txn, key) or b""
        if key in seen or held != value:
            raise refusals.duplicate(ledger.name, owner, keys.read_held(held, ledger.state.pool_id))
        seen.add(key)
    raise StoreCorrupt(
        f"an owner in network {ledger.name} is entered for an address that nobody had",
        path=ledger.store.path,
        hint=errors.CHECK_HINT,
    )
