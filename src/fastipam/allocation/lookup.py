"""Find a network in the store, its pool, and the record of an address."""

from __future__ import annotations

from fastipam import _ledger
from fastipam import late_errors as errors
from fastipam.addressing.ranges import Pool
from fastipam.storage import tables
from fastipam.storage.records import keys, own_ranges
from fastipam.storage.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam._ledger import Accounts
    from fastipam.addressing.ranges import RangeSet
    from fastipam.storage.environment import Environment
    from fastipam.storage.records.lease import Record
    from fastipam.storage.transaction import Snapshot


def find(txn: Transaction | Snapshot, key: bytes) -> tuple[int, int, str, bytes] | None:
    """Return (network id, pool id, the pool's ranges as text, its encoded name), or None.

    ``key`` is a network's encoded name. O(1). Raises StoreCorrupt.

    The entry has the number of the schema. So when another version of fastipam has made or changed
    the store since this process opened it, this function raises StoreVersion.
    """
    found = txn.find(key) if isinstance(txn, Transaction) else _ledger.find(txn, key)
    if isinstance(found, bytes):
        raise _odd(txn, key, found)
    return found


def look_up(txn: Transaction | Snapshot, name: str) -> tuple[int, int, Pool] | None:
    """Return (network id, pool id, the network's own ranges), or None for an unknown network.

    Raises StoreVersion, StoreCorrupt.
    """
    found = find(txn, keys.encode("network", name))
    if found is None:
        return None
    own = own_ranges.read(tables.META.get(txn, own_ranges.key(found[0])))
    return *found[:2], read_pool(found[2] if own is None else own[1], txn.store, name)


def read_pool(text: str, store: Environment, name: str) -> Pool:
    """Return the ranges that a network's text in the store describes. Raises StoreCorrupt."""
    try:
        return Pool.read(text)
    except ValueError as error:
        raise _unreadable(store, name, text) from error


def _text(key: bytes) -> str:
    return key.decode("ascii", "replace")


def _unreadable(store: Environment, name: str, ranges: bytes | str) -> errors.StoreCorrupt:
    return errors.StoreCorrupt(
        f"the ranges of network {name} cannot be read: {ranges!r}",
        path=store.path,
        hint=errors.CHECK_HINT,
    )


def _odd(txn: Transaction | Snapshot, key: bytes, raw: bytes) -> errors.StoreError:
    """Return the error for a network's entry that cannot be used.

    An entry of another schema is damaged if the store itself has the schema of this version.
    """
    entry = keys.unpack_network(raw)
    if entry is None or entry[0] != tables.SCHEMA:
        txn.store.require_schema(txn)
        return errors.StoreCorrupt(
            f"the entry of network {_text(key)} cannot be read: the bytes are {raw.hex()}",
            path=txn.store.path,
            hint=errors.CHECK_HINT,
        )
    _, _, pool_id, pool = entry
    ranges = tables.POOLS.get(txn, pool)
    if ranges is None or keys.id_of(ranges) != pool_id:
        return errors.StoreCorrupt(
            f"network {_text(key)} uses pool {_text(pool)} with the id {pool_id}, but the store "
            "has no pool with this name and id",
            path=txn.store.path,
            hint=errors.CHECK_HINT,
        )
    return _unreadable(txn.store, _text(key), ranges[4:])


def read_record(
    txn: Transaction | Snapshot, pool_id: int, family: int, value: int
) -> Record | None:
    """Return the lease record of an address, or None when it is free or reserved. O(1)."""
    raw = tables.LEASES.get(txn, keys.address_key(pool_id, family, value))
    if raw is None:
        return None
    from fastipam.storage.records.lease import Record

    return Record.read(raw)


def owns(accounts: Accounts, range_set: RangeSet, value: int) -> bool:
    """Return whether this node may assign an address: it owns the block that contains it."""
    if not range_set.block_length:
        return True
    from fastipam.allocation import blocks

    base = blocks.base_of(range_set, value)
    is_active = blocks.is_active(accounts.txn, accounts.pool_id, range_set.family, base)
    return is_active and not blocks.doubt(accounts.txn, accounts.pool_id)
