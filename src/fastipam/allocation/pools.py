"""Networks that share a pool: join it, use their own ranges in it, change to another pool.

A pool is a set of ranges in which an address is unique. It has the ranges of all its networks; each
network assigns the addresses of its own ranges. Imported when a network names a pool, when its
ranges change, and by commands.
"""

from __future__ import annotations

from fastipam.addressing.addresses import BITS, format_ip
from fastipam.addressing.ranges import CUT, Pool
from fastipam.addressing.union import overlap, spare, union
from fastipam.allocation.lookup import find, read_pool
from fastipam.allocation.states import ASSIGNED, COOLING, FREE, RESERVED
from fastipam.errors import ConfigError
from fastipam.storage import tables
from fastipam.storage.records import keys, own_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, Protocol

    from fastipam._ledger import Accounts
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot, Transaction

    Member = tuple[bytes, int]  # a network's encoded name, its id

    class Naming(Protocol):
        """The pool of a network as a caller names it: see :class:`fastipam.network.books.Books`."""

        pool: Pool | None
        pool_key: bytes | None
        names_pool: bool


# The networks of a pool -----------------------------------------------------------------------


def text_of(key: bytes) -> str:
    """Return the name that a key encodes."""
    return key.decode(keys.ENCODING, keys.ERRORS)


def members(txn: Transaction | Snapshot, pool_id: int) -> list[Member]:
    """Return the networks of a pool, sorted by name. O(networks of the store)."""
    found: list[Member] = []
    for key, raw in tables.NETWORKS.scan(txn):
        entry = keys.unpack_network(raw)
        if entry is not None and entry[2] == pool_id:
            found.append((key, entry[1]))
    return found


def named_members(txn: Transaction | Snapshot, pool_id: int) -> list[tuple[str, int]]:
    """Return (name, id) of the networks of a pool, sorted by name. O(networks of the store)."""
    return [(text_of(key), network_id) for key, network_id in members(txn, pool_id)]


def name_of(txn: Transaction | Snapshot, network_id: int) -> str:
    """Return the name of the network with an id, or an empty text. O(networks of the store)."""
    for key, raw in tables.NETWORKS.scan(txn):
        entry = keys.unpack_network(raw)
        if entry is not None and entry[1] == network_id:
            return text_of(key)
    return ""


def own_text(txn: Transaction | Snapshot, network_id: int) -> str | None:
    """Return the network's own ranges, or None when they are the ranges of its pool. O(1)."""
    found = own_ranges.read(tables.META.get(txn, own_ranges.key(network_id)))
    return None if found is None else found[1]


def is_named(txn: Transaction | Snapshot, network_id: int) -> bool:
    """Return whether the configuration of a network names its pool. O(1)."""
    found = own_ranges.read(tables.META.get(txn, own_ranges.key(network_id)))
    return found is not None and found[0]


def _note(txn: Transaction, network_id: int, text: str, *, named: bool) -> None:
    key, packed = own_ranges.key(network_id), own_ranges.pack(text, named=named)
    if tables.META.get(txn, key) != packed:
        tables.META.put(txn, key, packed)


def names(txn: Transaction | Snapshot) -> list[str]:
    """Return the names of all pools, sorted. O(pools)."""
    return [text_of(key) for key in tables.POOLS.scan_keys(txn)]


def used(txn: Snapshot) -> dict[str, int]:
    """Return how many addresses of all pools are assigned, cooling and reserved. O(pools)."""
    found = [txn.pool_state(keys.id_of(raw)) for _, raw in tables.POOLS.scan(txn)]
    return {
        "assigned": sum(one.assigned for one in found),
        "cooling": sum(one.cooling for one in found),
        "reserved": sum(one.reserved for one in found),
    }


def describe(txn: Snapshot, name: str) -> dict[str, Any] | None:
    """Return a pool with its networks and its counts, for JSON, or None when there is none.

    Addresses that are assigned on request only are counted apart, in ``static``. Addresses in use
    that are in no range any more are counted in ``outside``. In the pool, in ``static`` and in
    ``outside`` the four states add up to ``size``.
    """
    raw = tables.POOLS.get(txn, keys.encode("pool", name))
    if raw is None:
        return None
    pool_id, text = keys.unpack_pool(raw)
    pool, state, shared = (
        read_pool(text, txn.store, name),
        txn.pool_state(pool_id),
        members(txn, pool_id),
    )
    # The policy of this network decides which cooling addresses may be taken.
    network_id = shared[0][1] if shared else 0
    from fastipam.allocation import counts

    sets = counts.of_sets(txn, network_id, state, pool)
    own = _sum(one.counts for one in sets)
    areas = [one.static for one in sets if one.static is not None]
    static = _sum(areas)
    total = counts.of_network(txn, state, pool)
    outside = {one: total[one] - own[one] - static[one] for one in _USED}
    return {
        "pool": name,
        "networks": [text_of(key) for key, _ in shared],
        **own,
        **({"static": static} if areas else {}),
        **(
            {"outside": {"size": sum(outside.values()), **outside, FREE: 0}}
            if any(outside.values())
            else {}
        ),
        "excluded": counts.excluded_of(pool),
        "used_percent": counts.fullest_percent(
            counts.used_percent(_sum(one.counts for one in sets if one.range_set.family == family))
            for family in BITS
        ),
        "range_sets": [
            {
                "family": one.range_set.family,
                "ranges": one.ranges,
                **one.counts,
                "used_percent": one.used_percent,
                "full": one.full,
            }
            for one in sets
        ],
    }


_USED = (ASSIGNED, COOLING, RESERVED)


def _sum(each: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of counts: of ``size`` and of each state."""
    listed = list(each)
    return {name: sum(one[name] for one in listed) for name in ("size", *_USED, FREE)}


# Ranges ---------------------------------------------------------------------------------------


def whole(accounts: Accounts, pool: Pool) -> Pool | None:
    """Return the ranges that a pool has after one of its networks got the ranges ``pool``.

    They are the network's ranges if no other network is in the pool, else the union of the ranges
    of all its networks. Return None, in O(1), when the network has these ranges already; otherwise
    O(networks of the store). Raises ConfigError when the pool is a cluster's and its networks would
    name different ranges.
    """
    txn, pool_id, network_id = accounts.txn, accounts.pool_id, accounts.network_id
    before = own_ranges.read(tables.META.get(txn, own_ranges.key(network_id)))
    if before is not None and before[1] == pool.text:
        return None
    others = [one for one in members(txn, pool_id) if one[1] != network_id]
    named = is_told(accounts.network) if before is None else before[0] or is_told(accounts.network)
    if named or others:
        _note(txn, network_id, pool.text, named=named)
    if not others:
        return pool
    texts: list[str] = []
    for _, other_id in others:
        own = own_text(txn, other_id)
        if own is None:
            own = accounts.text
            _note(txn, other_id, own, named=False)
        texts.append(own)
    joined = union([*(Pool.read(text) for text in texts), pool])
    if CUT in joined.text and joined.text != pool.text:
        raise ConfigError(
            f"network {accounts.name} shares its pool with network {text_of(others[0][0])}, but "
            "its configuration names the blocks of another cluster",
            field="ipam.pool",
            value=[str(each) for each in pool.sets],
            hint="networks that share the pool of a cluster must name the same cluster",
        )
    return joined


def is_told(network: Naming) -> bool:
    """Return whether a configuration names the network's pool."""
    return network.pool_key is not None and network.names_pool


def join(txn: Transaction, network: Naming, key: bytes, pool_key: bytes) -> tuple[int, str]:
    """Return (id, text of the ranges) of the pool that a network names; (0, "") for a new pool.

    Raises ConfigError when the pool is a cluster's and the network's ranges are not, or vice versa.
    """
    raw = tables.POOLS.get(txn, pool_key)
    if raw is None:
        return 0, ""
    pool_id, text = keys.unpack_pool(raw)
    pool = network.pool
    if pool is not None:
        cut = any(each.block_length for each in pool.sets)
        if text and cut != (CUT in text):
            kind = ("plain ranges", "a cluster's blocks")
            raise ConfigError(
                f"pool {text_of(pool_key)} has {kind[CUT in text]}, but network {text_of(key)} "
                f"has {kind[cut]}",
                field="ipam.pool",
                value=text_of(pool_key),
                hint="name another pool",
            )
        from fastipam.allocation import gateways

        gateways.require_free(txn, pool_id, pool)
    return pool_id, text


# Overlaps -------------------------------------------------------------------------------------


def overlaps(txn: Transaction | Snapshot, name: str) -> Iterator[tuple[str, int, int]]:
    """Yield (pool, family, address) for each other pool that can assign an address of this pool.

    ``name`` is this pool's name. Pools that a configuration names are separate on purpose, and are
    left out. O(pools · intervals). Raises StoreError.
    """
    key = keys.encode("pool", name)
    raw = tables.POOLS.get(txn, key)
    if raw is None:
        return
    pool_id, text = keys.unpack_pool(raw)
    if _is_declared(txn, pool_id):
        return
    pool = read_pool(text, txn.store, name)
    for other_key, other_raw in tables.POOLS.scan(txn):
        if other_key == key:
            continue
        other_id, other_text = keys.unpack_pool(other_raw)
        if other_text and not _is_declared(txn, other_id):
            found = overlap(pool, read_pool(other_text, txn.store, text_of(other_key)))
            if found is not None:
                yield text_of(other_key), *found


def _is_declared(txn: Transaction | Snapshot, pool_id: int) -> bool:
    return any(is_named(txn, network_id) for _, network_id in members(txn, pool_id))


def notes(store: Store, network: str) -> list[str]:
    """Return a message for each other pool that can assign an address of a network's pool."""
    with store.read() as txn:
        pool = pool_of(txn, network)
        return [line(pool, *one) for one in overlaps(txn, pool)]


def line(pool: str, other: str, family: int, value: int) -> str:
    """Return the message about two pools that overlap."""
    return (
        f"pools {pool} and {other} can both assign {format_ip(family, value)}: two containers may "
        f'get it; if that is not intended, give both networks the same "pool"'
    )


def as_assigned(txn: Transaction | Snapshot, name: str, own: Pool) -> Pool:
    """Return a network's own ranges as its ADDs use them, adjusted to the pool's other networks.

    An address that is static in one network of a pool is static in all of them, and no network of
    the pool assigns the gateway of another one.
    """
    whole = _whole(txn, name)
    return own if whole is None or whole.text == own.text else spare(own, whole)


def is_gateway(txn: Transaction | Snapshot, name: str, family: int, value: int) -> bool:
    """Return whether an address is the gateway of a range of a network's pool."""
    whole = _whole(txn, name)
    return whole is not None and any(
        one.gateway == (family, value) for each in whole.sets for one in each.ranges
    )


def _whole(txn: Transaction | Snapshot, name: str) -> Pool | None:
    """Return the ranges of a network's pool, or None for an unknown network."""
    found = find(txn, keys.encode("network", name))
    return None if found is None else read_pool(found[2], txn.store, name)


def pool_of(txn: Transaction | Snapshot, name: str) -> str:
    """Return the name of a network's pool, or "" for a new network. O(1). Raises StoreError."""
    found = find(txn, keys.encode("network", name))
    return "" if found is None else text_of(found[3])
