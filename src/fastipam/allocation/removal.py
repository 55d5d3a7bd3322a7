"""Remove a network or a pool from a store, or a network from its pool, when no address is assigned.

Nothing here commits. Imported by commands, by the agent's housekeeping, and when a configuration
names another pool than before.
"""

from __future__ import annotations

from fastipam.addressing.ranges import Pool
from fastipam.addressing.union import union
from fastipam.allocation import pools
from fastipam.allocation.lookup import find, read_record
from fastipam.errors import ConfigError, UnknownNetwork
from fastipam.storage import tables
from fastipam.storage.records import earlier_ranges, keys, own_ranges
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records import policy as policy_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.allocation.ledger import Configured
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot, Transaction

    Found = tuple[int, int, str, bytes]  # network id, pool id, text of the ranges, pool's key

# The tables with records of a pool, and those with records of a network.
_OF_POOL = (
    tables.PAGES,
    tables.LEASES,
    tables.COOLDOWN,
    tables.RESERVATIONS,
    tables.STICKY,
    tables.MISSING,
    tables.BLOCKS,
)
_OF_NETWORK = (tables.OWNERS, tables.EVENTS)

# Why a pool cannot be removed, and what to type then.
_RESERVATIONS, _BLOCKS, _ASSIGNED = "reservations", "a cluster's blocks", "assigned addresses"
_HINTS = {
    _RESERVATIONS: "`fastipam unreserve` ends reservations",
    _BLOCKS: "`fastipam cluster leave` releases blocks",
    _ASSIGNED: "no network of the pool lists these addresses: `fastipam check` shows them",
}


def leave(txn: Transaction, network: Configured, found: Found, to: bytes) -> None:
    """Remove a network without addresses from its pool; its configuration names another pool.

    The caller writes the entry of the network. If other networks use the pool, the network's
    cooling addresses stay in it; otherwise the pool is removed. Raises the errors of
    :func:`require_move`.
    """
    network_id, pool_id, _, pool_key = found
    require_move(txn, network.name, found, to)
    tables.META.delete(txn, own_ranges.key(network_id))
    if _hand_over(txn, network_id, pool_id):
        _shrink(txn, pool_key, pool_id, without=network_id)
        return
    _forget_pool(txn, pool_key, pool_id)


def require_move(txn: Transaction | Snapshot, name: str, found: Found, to: bytes) -> None:
    """Raise ConfigError unless a network may change to another pool.

    It may not if it has an address, or if it is alone in a pool with reservations or blocks.
    """
    network_id, pool_id, _, pool_key = found
    old, new = pools.text_of(pool_key), pools.text_of(to)
    if tables.OWNERS.first(txn, keys.id_prefix(network_id)) is not None:
        raise ConfigError(
            f"network {name} has addresses in pool {old}, but its configuration names pool {new}",
            field="ipam.pool",
            value=new,
            hint=f'keep "pool": "{old}" until the addresses are released: `fastipam list --network '
            f"{name}` shows them",
        )
    what = "" if len(pools.members(txn, pool_id)) > 1 else _uses(txn, pool_id)
    if what:
        raise ConfigError(
            f"network {name} cannot change from pool {old} to pool {new}: it is the only network "
            f"of pool {old}, which has {what}",
            field="ipam.pool",
            value=new,
            hint=f'keep "pool": "{old}", or end the reservations first: `fastipam unreserve`'
            if what == _RESERVATIONS
            else f'keep "pool": "{old}"',
        )


def remove_pool(txn: Transaction, name: str) -> list[str]:
    """Remove a pool in which no address is assigned, and its networks; return their names.

    Raises ConfigError when there is no such pool, when one of its networks has an address, and when
    it has reservations or blocks.
    """
    raw = tables.POOLS.get(txn, keys.encode("pool", name))
    if raw is None:
        known = ", ".join(pools.names(txn)) or "none"
        raise ConfigError(
            f"the store {txn.store.path} has no pool {name!r}",
            field="name",
            value=name,
            hint=f"the pools of the store: {known}",
        )
    networks = [text for text, _ in pools.named_members(txn, keys.id_of(raw))]
    for one in networks:
        remove_network(txn, one, is_hot=True)
    return networks


def remove_network(txn: Transaction, name: str, *, is_hot: bool = False) -> str:
    """Remove a network that has no address, with its history; return the name of its pool.

    Its pool is removed, too, if no other network uses it. Raises UnknownNetwork. Raises ConfigError
    when the network has an address, or when its pool would be removed and has reservations or
    blocks. Unless ``is_hot``, raises ConfigError also while one of its addresses cools down,
    because another network could assign that address at once. O(leases of the pool).
    """
    key = keys.encode("network", name)
    found = find(txn, key)
    if found is None:
        raise UnknownNetwork(
            f"the store {txn.store.path} has no network {name!r}", field="name", value=name
        )
    network_id, pool_id, _, pool_key = found
    prefix = keys.id_prefix(network_id)
    if tables.OWNERS.first(txn, prefix) is not None:
        raise ConfigError(
            f"network {name} cannot be removed: it has assigned addresses",
            field="name",
            value=name,
            hint=f"`fastipam list --network {name}` shows the addresses; `fastipam sweep` and "
            "`fastipam gc` release those of containers that are gone",
        )
    left_s = 0 if is_hot else _cools_for_s(txn, network_id, pool_id)
    if left_s:
        raise ConfigError(
            f"network {name} cannot be removed yet: it has addresses that cool down for another "
            f"{left_s} s, and without the network another one could assign them at once",
            field="name",
            value=name,
            hint=f"wait {left_s} s; `fastipam list --network {name}` shows them",
        )
    shared = _hand_over(txn, network_id, pool_id)
    if not shared:
        _require_unused(txn, pool_key, pool_id)
        _forget_pool(txn, pool_key, pool_id)
    for table in _OF_NETWORK:
        _clear(txn, table, prefix)
    txn.forget(txn.event_log(network_id))
    for one in (keys.policy_key(network_id), own_ranges.key(network_id)):
        tables.META.delete(txn, one)
    tables.NETWORKS.delete(txn, key)
    txn.forget_found()
    if shared:
        _shrink(txn, pool_key, pool_id)
    return pools.text_of(pool_key)


def _cools_for_s(txn: Transaction | Snapshot, network_id: int, pool_id: int) -> int:
    """Return the seconds until the last cool-down of a network's addresses ends, rounded up."""
    state = txn.pool_state(pool_id)
    if not state.cooling:
        return 0
    policy = policy_record.read(tables.META.get(txn, keys.policy_key(network_id)))
    now = txn.store.clock() + state.offset
    last = 0
    for key in tables.COOLDOWN.scan_keys(txn, keys.id_prefix(pool_id)):
        _, _, released, *address = keys.read_cooldown_key(key)
        record = read_record(txn, pool_id, *address)
        if record is not None and record.network_id == network_id:
            last = max(last, released)
    return max(0, -(-(last + policy.cooldown_ns - now) // 10**9)) if last else 0


def remove_if_idle(store: Store, name: str, wall_ns: int) -> bool:
    """Remove a network in which nothing has happened since a time; return whether it was removed.

    A network is kept if it has an address or no history, or if it is alone in a pool with
    reservations or blocks. Nothing is written then.
    """
    with store.read() as snapshot:
        if not _is_idle_since(snapshot, name, wall_ns):
            return False
    with store.write() as txn:
        txn.flush()
        view: Any = txn  # functions that are typed for a snapshot can read a write transaction
        if not _is_idle_since(view, name, wall_ns):
            return False
        remove_network(txn, name)
    return True


def _is_idle_since(txn: Snapshot, name: str, wall_ns: int) -> bool:
    """Return whether nothing has happened in a network since a time, and it may be removed."""
    found = find(txn, keys.encode("network", name))
    if found is None or tables.OWNERS.first(txn, keys.id_prefix(found[0])) is not None:
        return False
    from fastipam.allocation import history

    last = next(iter(history.last(txn, found[0], 1)), None)
    if last is None or last.wall_ns >= wall_ns:
        return False
    if _cools_for_s(txn, found[0], found[1]):
        return False
    alone = len(pools.members(txn, found[1])) == 1
    return not alone or not _uses(txn, found[1])


def _hand_over(txn: Transaction, network_id: int, pool_id: int) -> bool:
    """Give a network's cooling addresses to another network of its pool.

    Return False if the pool has no other network. O(leases of the pool).
    """
    other = next((one for _, one in pools.members(txn, pool_id) if one != network_id), None)
    if other is None:
        return False
    prefix = keys.id_prefix(pool_id)
    for key in list(tables.LEASES.scan_keys(txn, prefix)):
        record = read_record(txn, *keys.read_address_key(key))
        if record is not None and record.network_id == network_id:
            record.network_id = other
            tables.LEASES.put(txn, key, record.pack())
    return True


def _uses(txn: Transaction | Snapshot, pool_id: int) -> str:
    """Return the reason why a pool cannot be removed, or an empty text."""
    prefix = keys.id_prefix(pool_id)
    if tables.RESERVATIONS.first(txn, prefix) is not None:
        return _RESERVATIONS
    if tables.BLOCKS.first(txn, prefix) is not None:
        return _BLOCKS
    if any(lease_record.is_assigned(raw) for _, raw in tables.LEASES.scan(txn, prefix)):
        return _ASSIGNED
    return ""


def _require_unused(txn: Transaction, pool_key: bytes, pool_id: int) -> None:
    what = _uses(txn, pool_id)
    if what:
        name = pools.text_of(pool_key)
        raise ConfigError(
            f"pool {name} cannot be removed: it has {what}",
            field="name",
            value=name,
            hint=_HINTS[what],
        )


def _forget_pool(txn: Transaction, pool_key: bytes, pool_id: int) -> None:
    prefix = keys.id_prefix(pool_id)
    txn.flush()
    for table in _OF_POOL:
        _clear(txn, table, prefix)
    txn.forget_pages(pool_id)
    txn.forget(txn.pool_state(pool_id))
    tables.META.delete(txn, earlier_ranges.key(pool_id))
    tables.POOLS.delete(txn, pool_key)
    txn.forget_found()


def _shrink(txn: Transaction, pool_key: bytes, pool_id: int, without: int = 0) -> None:
    """Reduce a pool's ranges to those of the networks that are left in it."""
    from fastipam.allocation.ledger import Ledger
    from fastipam.allocation.siblings import Sibling

    left = [one for one in pools.members(txn, pool_id) if one[1] != without]
    texts = [pools.own_text(txn, network_id) for _, network_id in left]
    if any(text is None for text in texts):
        return  # one of them has all ranges of the pool
    key, network_id = left[0]
    found = find(txn, key)
    assert found is not None
    bare = Ledger(txn, Sibling(txn, network_id, pools.text_of(key)), *found[:3])
    bare.replace_ranges(pool_key, union(Pool.read(text) for text in texts if text is not None))


def _clear(txn: Transaction, table: tables.Table, prefix: bytes) -> None:
    for key in list(table.scan_keys(txn, prefix)):
        table.delete(txn, key)
