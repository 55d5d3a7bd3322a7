"""Check whether a store is consistent. Read-only; no record is trusted.

These conditions are checked for each network, in one read transaction:

* a page has 512 bytes and is not empty; a bit of it is set if and only if the page below is full
* a bit of level 0 is set if and only if there is a lease (assigned or cooling) or a reservation
* an assigned lease is listed in exactly one owner entry, and an owner entry lists only such leases
* a cooling lease has exactly one entry in the cool-down queue, and the queue has no other entries
* a reservation with an owner is listed for the owner, and one that expires is listed by its time
* the counters are right: assigned, cooling, reserved, kept, outside, generation, clock
* each event can be read and has a number that its network has given out; so has each event that
  still waits in the network's history record
* the records of a cluster can be read, and each block begins where the pool is cut into blocks
* a block lies in a set that is cut into blocks; an active block that has free addresses, and is
  not the one that serves now, is in the open list
* every record belongs to a network or a pool that exists; a network has a pool, and a pool has a
  network; a lease names a network of its pool, and an owner entry names the pool of its network
* a network's own ranges can be read, and its pool contains them
* the stored policy of a network can be read
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam._ledger import EventLog, PoolState
from fastipam.addressing.addresses import V4, V6
from fastipam.addressing.ranges import Pool
from fastipam.addressing.union import is_within
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import keys, own_ranges
from fastipam.storage.records import policy as policy_record
from fastipam.storage.walk import Walk
from fastipam.verify import bits, blocks, kept, leases
from fastipam.verify.parts import BY_NETWORK, BY_POOL, Finding, NetworkCheck, Told, check_given

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from fastipam.storage.store import Store
    from fastipam.storage.tables import Table
    from fastipam.storage.transaction import Snapshot, Transaction
    from fastipam.verify.parts import Progress

__all__ = ["MOST_NETWORKS", "Finding", "findings", "verify"]

MOST_NETWORKS = (1 << 32) - 1  # and pools: the id of one more still fits in 4 bytes


def verify(store: Store, progress: Progress | None = None) -> list[Finding]:
    """Return all findings of a store, [] when it is consistent. O(pages + records).

    Everything is read in one read transaction, because a finding compares databases with each
    other: with several transactions, a store in use would seem to contradict itself. Until all is
    read, the file cannot reuse freed space; the caller gets the findings only then.

    Inside a write transaction of this thread, its changes are checked as well. ``progress`` is
    called with the number of records read and the approximate number of all. Raises StoreError.
    """
    check_given(store, progress)
    return list(findings(store, progress))


def findings(store: Store, progress: Progress | None = None) -> Iterator[Finding]:
    """Yield the findings of :func:`verify`. A read transaction is open during the iteration.

    So a command collects them before it prints: a pager that waits would keep the transaction open.
    """
    with store.read() as txn:
        told = Told(txn, progress)
        yield from _Verifier(txn, told).run()
        told.all()


class _Verifier:
    def __init__(self, txn: Snapshot, told: Told) -> None:
        self._told = told
        self._txn = txn
        self._networks: dict[int, NetworkCheck] = {}
        self._pools: dict[bytes, tuple[int, bytes]] = {}  # by encoded name: id, entry
        self._used: dict[int, list[int]] = {}  # by pool id: the ids of its networks
        self._last_network = keys.id_of(tables.META.get(txn, tables.LAST_NETWORK_KEY))
        self._last_pool = keys.id_of(tables.META.get(txn, tables.LAST_POOL_KEY))

    def run(self) -> Iterator[Finding]:
        # A store that another version has written must not be reported as damaged.
        self._txn.store.require_schema(self._txn)
        yield from self._read_pools()
        for key, raw in tables.NETWORKS.scan(self._txn):
            yield from self._network(key, raw)
        for what, last in (("network", self._last_network), ("pool", self._last_pool)):
            if last >= MOST_NETWORKS:
                yield Finding(
                    f"{what}-id",
                    "",
                    f"last {what}",
                    f"the last {what} id {last} is not below {MOST_NETWORKS}",
                )
        for key, (pool_id, _) in self._pools.items():
            if pool_id not in self._used:
                yield Finding(
                    "pool-without-network", _text(key), key.hex(), "no network uses this pool"
                )
        yield from self._orphans()
        for network in self._networks.values():
            yield from _read_log(network)
            yield from leases.owners(network)
            yield from kept.events(network)
            if network.members[0] == network.network_id:
                yield from _pool(network)

    def _read_pools(self) -> Iterator[Finding]:
        ids: set[int] = set()
        for key, raw in tables.POOLS.scan(self._txn):
            name, pool_id = _text(key), keys.id_of(raw)
            if len(raw) < 4:
                yield Finding(
                    "pool-unreadable",
                    name,
                    key.hex(),
                    f"the pool's entry cannot be read: the bytes are {raw.hex()}",
                )
                continue
            if pool_id in ids or not 1 <= pool_id <= self._last_pool:
                text = (
                    f"the pool's id {pool_id} is also another pool's, or is not in "
                    f"1..{self._last_pool}"
                )
                yield Finding("pool-id", name, key.hex(), text)
            ids.add(pool_id)
            self._pools[key] = pool_id, raw

    def _network(self, key: bytes, raw: bytes) -> Iterator[Finding]:
        name = _text(key)
        entry = keys.unpack_network(raw)
        if entry is None or entry[0] != tables.SCHEMA:
            yield Finding(
                "network-unreadable",
                name,
                key.hex(),
                f"the network's entry cannot be read: the bytes are {raw.hex()}",
            )
            return
        _, network_id, pool_id, pool_key = entry
        network = NetworkCheck(self._txn, network_id, pool_id, name, self._told)
        if network_id in self._networks:
            other = self._networks[network_id].name
            yield Finding(
                "network-id", name, key.hex(), f"network {other} has the same id {network_id}"
            )
            return
        if not 1 <= network_id <= self._last_network:
            text = f"the network's id {network_id} is not in 1..{self._last_network}"
            yield Finding("network-id", name, key.hex(), text)
        if pool_key not in self._pools or self._pools[pool_key][0] != pool_id:
            text = f"the network's pool {_text(pool_key)} with id {pool_id} does not exist"
            yield Finding("network-pool", name, key.hex(), text)
            if pool_id in self._used:
                return
        else:
            ranges = self._pools[pool_key][1]
            try:
                network.pool = Pool.read(keys.unpack_pool(ranges)[1])
            except ValueError:
                text = f"the pool's ranges cannot be read: {ranges[4:]!r}"
                yield Finding("ranges-unreadable", name, key.hex(), text)
        network.members = self._used.setdefault(pool_id, [])
        network.members.append(network_id)
        self._networks[network_id] = network
        yield from _own_ranges(network)
        policy = tables.META.get(self._txn, keys.policy_key(network_id))
        if policy is not None and not policy_record.is_valid(policy):
            text = f"the network's policy cannot be read: the bytes are {policy.hex()}"
            yield network.finding("policy-unreadable", "policy", text)

    def _orphans(self) -> Iterator[Finding]:
        """Yield a finding for each table, and each id in it, whose network or pool is missing."""
        networks = self._networks.keys()
        pools = {*self._used, *(pool_id for pool_id, _ in self._pools.values())}
        for what, table in BY_NETWORK:
            yield from self._orphans_in(what, table, b"", networks, "network")
        for what, table in BY_POOL:
            yield from self._orphans_in(what, table, b"", pools, "pool")
        main = tables.MAIN
        yield from self._orphans_in("history", main, keys.LOG_MARK, networks, "network")
        yield from self._orphans_in("state", main, keys.STATE_MARK, pools, "pool")
        for key in strangers(self._txn):
            yield Finding(
                "main-key",
                "",
                key.hex(),
                "this key of the main database belongs to no known record",
            )

    def _orphans_in(
        self, what: str, table: Table, mark: bytes, known: Collection[int], of: str
    ) -> Iterator[Finding]:
        with Walk(self._txn, table) as walk:
            more = walk.seek(mark)
            while more:
                key = walk.key()
                if not key.startswith(mark):
                    break
                end = len(mark) + 4
                one = keys.id_of(key[len(mark) : end])
                if len(key) < end or one not in known:
                    text = f"no {of} has the id {one}, to which this record belongs"
                    yield Finding(f"{what}-orphan", f"#{one}", key.hex(), text)
                if one == MOST_NETWORKS:
                    break
                following = mark + keys.id_prefix(one + 1)
                more = walk.seek(max(following, key + b"\0") if len(key) < end else following)


def strangers(txn: Snapshot | Transaction) -> list[bytes]:
    """Return the keys of the main database that are neither a table's name nor a record's key."""
    own = {table.name.encode() for table in tables.ALL}
    return [
        key
        for key in tables.MAIN.scan_keys(txn)
        if key not in own and key[:1] not in (keys.STATE_MARK, keys.LOG_MARK)
    ]


def _text(key: bytes) -> str:
    return key.decode(keys.ENCODING, keys.ERRORS)


def _pool(network: NetworkCheck) -> Iterator[Finding]:
    """Check the records of a pool."""
    yield from _read_state(network)
    for family in (V4, V6):
        yield from bits.Bits(network, family).findings()
    yield from bits.other_families(network)
    yield from leases.cooldown(network)
    yield from kept.entries(network)
    yield from leases.missing(network)
    yield from blocks.findings(network)
    yield from _numbers(network)


def _own_ranges(network: NetworkCheck) -> Iterator[Finding]:
    raw = tables.META.get(network.txn, own_ranges.key(network.network_id))
    if raw is None or network.pool is None:
        return
    own = own_ranges.read(raw)
    try:
        right = own is not None and is_within(Pool.read(own[1]), network.pool)
    except ValueError:
        right = False
    if not right:
        text = f"the network's own ranges {raw[1:]!r} cannot be read, or are not within its pool's"
        yield network.finding("ranges-own", "own ranges", text)


def _read_state(network: NetworkCheck) -> Iterator[Finding]:
    key = keys.state_key(network.pool_id)
    yield from _longer(network, key, "state", "a pool's counters")
    raw = tables.MAIN.get(network.txn, key)
    if raw is None:
        yield network.finding(
            "state-missing", key.hex(), "the record of the pool's counters is missing"
        )
        return
    try:
        network.state = PoolState(network.pool_id, raw)
    except StoreCorrupt as error:
        yield network.finding("state-unreadable", key.hex(), str(error))


def _read_log(network: NetworkCheck) -> Iterator[Finding]:
    key = keys.log_key(network.network_id)
    yield from _longer(network, key, "history", "a network's history")
    try:
        network.log = EventLog(network.network_id, tables.MAIN.get(network.txn, key))
    except StoreCorrupt as error:
        yield network.finding("history-unreadable", key.hex(), str(error))


def _longer(network: NetworkCheck, key: bytes, what: str, words: str) -> Iterator[Finding]:
    for found in tables.MAIN.scan_keys(network.txn, key, key + b"\0"):
        yield network.finding(f"{what}-key", found.hex(), f"this is not a valid key for {words}")


def _numbers(network: NetworkCheck) -> Iterator[Finding]:
    """Compare the stored counters with the records; "outside" only if the ranges can be read."""
    if network.state is None:
        return
    for what, counted in network.counts.items():
        noted = getattr(network.state, what)
        if noted != counted and (what != "outside" or network.pool is not None):
            yield network.finding(
                "state-count",
                what,
                f"the stored counter is {noted}, but {counted} addresses were counted",
            )
