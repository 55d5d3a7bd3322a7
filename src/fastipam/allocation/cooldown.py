"""Queue released addresses for their cool-down, free them when it ends, or take them early.

The queue is ordered by range set, then by the time of release. A queued address has its bit set and
a record with that time. Nothing here commits.
"""

from __future__ import annotations

from fastipam import errors
from fastipam.addressing.addresses import format_ip
from fastipam.allocation.lookup import owns, read_record
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from fastipam._ledger import Accounts
    from fastipam.addressing.ranges import RangeSet
    from fastipam.storage.records.lease import Record
    from fastipam.storage.transaction import Snapshot, Transaction


def cooling_of(
    txn: Transaction | Snapshot, pool_id: int, index: int | None, range_set: RangeSet
) -> Generator[tuple[bytes, int]]:
    """Yield (queue key, address) of the cooling addresses of a range set, longest idle first.

    ``index`` is the set's number in the network, under which its addresses are queued. It is None
    for a set of a container's own ranges: their addresses may be queued under any number, so the
    whole queue is read.
    """
    if index is not None:
        yield from _queue(txn, keys.cooldown_prefix(pool_id, index), range_set)
        return
    whole = list(_queue(txn, keys.id_prefix(pool_id), range_set))
    yield from sorted(whole, key=lambda item: keys.read_cooldown_key(item[0])[2])


def _queue(
    txn: Transaction | Snapshot, prefix: bytes, range_set: RangeSet
) -> Generator[tuple[bytes, int]]:
    for key in tables.COOLDOWN.scan_keys(txn, prefix):
        _, _, _, family, value = keys.read_cooldown_key(key)
        if family == range_set.family and value in range_set:
            yield key, value


def leave(accounts: Accounts, record: Record, family: int, value: int) -> None:
    """Remove an address from the queue; its bit stays set."""
    accounts.state.cooling -= 1
    key = keys.cooldown_key(
        accounts.state.pool_id, record.set_index, record.released, family, value
    )
    tables.COOLDOWN.delete(accounts.txn, key)


def end(accounts: Accounts, family: int, value: int) -> bool:
    """End the cool-down of an address before its time; return False if it is not cooling."""
    record = read_record(accounts.txn, accounts.pool_id, family, value)
    if record is None or record.state != lease_record.COOLING:
        return False
    leave(accounts, record, family, value)
    tables.LEASES.delete(accounts.txn, keys.address_key(accounts.state.pool_id, family, value))
    accounts.clear(family, value)
    return True


def _cooling_of(
    accounts: Accounts, index: int, range_set: RangeSet
) -> Generator[tuple[bytes, int]]:
    number = None if accounts.is_foreign else index
    return cooling_of(accounts.txn, accounts.state.pool_id, number, range_set)


def take_early(accounts: Accounts, index: int, range_set: RangeSet, wanted: int) -> list[int]:
    """Take up to ``wanted`` cooling addresses of a range set, longest idle first.

    With a strict policy, take only addresses whose cool-down has ended.
    """
    state = accounts.state
    if not state.cooling:
        return []
    early = []
    due = state.clock - accounts.policy.cooldown_ns
    queue = _cooling_of(accounts, index, range_set)
    for item in queue:
        if accounts.policy.strict and keys.read_cooldown_key(item[0])[2] > due:
            break
        if not owns(accounts, range_set, item[1]):
            continue
        early.append(item)
        if len(early) == wanted:
            break
    queue.close()
    for key, _ in early:
        tables.COOLDOWN.delete(accounts.txn, key)
    state.cooling -= len(early)
    return [value for _, value in early]


def take_place(accounts: Accounts, key: bytes, raw: bytes, family: int, value: int) -> None:
    """Replace the record of a cooling address, which has left the queue, by a lease.

    Raises StoreCorrupt when the address is assigned, or still queued: then its bit or the queue is
    wrong, and the address would get a second owner.
    """
    txn, store = accounts.txn, accounts.store
    before = tables.LEASES.get(txn, key) or b""
    record = lease_record.Record.read(before)
    queued = keys.cooldown_key(
        accounts.state.pool_id, record.set_index, record.released, family, value
    )
    if record.state != lease_record.COOLING or tables.COOLDOWN.get(txn, queued) is not None:
        raise StoreCorrupt(
            f"{format_ip(family, value)} is assigned to {record.container_id} {record.ifname}, but "
            "another record of the store says that it is free",
            path=store.path,
            hint=errors.CHECK_HINT,
        )
    tables.LEASES.put(txn, key, raw)


def next_due_s(accounts: Accounts, index: int, range_set: RangeSet) -> int | None:
    """Return the seconds until the first cooling address is free, rounded up.

    Return None when no address is cooling.
    """
    state = accounts.state
    queue = _cooling_of(accounts, index, range_set)
    first = next(queue, None)
    queue.close()
    if first is None:
        return None
    left = keys.read_cooldown_key(first[0])[2] + accounts.policy.cooldown_ns - state.clock
    return max(1, -(-left // 10**9))
