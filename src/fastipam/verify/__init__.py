"""Check whether a store is consistent. Read-only; no record is trusted.

These conditions are checked for each network, in one read transaction:

* a page has 512 bytes and is not empty; a bit of it is set if and only if the page below is full
* a bit of level 0 is set if and only if there is a lease (assigned or cooling) or a reservation
* an assigned lease is listed in exactly one owner entry, and an owner entry lists only such leases
* a cooling lease has exactly one entry in the cool-down queue, and the queue has no other entries
* a reservation with an owner is listed for the owner, and one that expires is listed by its time
* the counters are right: assigned, cooling, reserved, kept, outside, generation, clock, events
* the records of a cluster can be read, and blocks begin where the pool is cut
* a block lies in a set that is cut into blocks; one that is active and has free addresses, and
  does not serve now, is in the list of those
* every record belongs to a network that exists
* the stored policy of a network can be read
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.addressing.addresses import V4, V6
from fastipam.addressing.ranges import Pool
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import policy as policy_record
from fastipam.storage.records.network_state import NetworkState
from fastipam.verify import bits, blocks, kept, leases
from fastipam.verify.parts import BY_NETWORK, Finding, NetworkCheck, Told, check_given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot
    from fastipam.verify.parts import Progress

__all__ = ["MOST_NETWORKS", "Finding", "findings", "verify"]

MOST_NETWORKS = (1 << 32) - 1  # so that the id of one more network has 4 bytes, too


def verify(store: Store, progress: Progress | None = None) -> list[Finding]:
    """Return all findings of a store, [] when it is consistent. O(pages + records).

    It reads one moment, in one read transaction, because a finding compares databases with each
    other: read in pages, a store in use would seem to contradict itself. While it reads, the file
    cannot reuse freed space; the caller gets the findings when it has read everything.

    Inside a write transaction of this thread its changes are checked as well. ``progress`` is
    called with the number of records read and the approximate number of all. Raises StoreError.
    """
    check_given(store, progress)
    return list(findings(store, progress))


def findings(store: Store, progress: Progress | None = None) -> Iterator[Finding]:
    """Yield the findings of :func:`verify`. A read transaction is open during the iteration.

    So whoever prints them collects them first: a pager that stands would hold the transaction.
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

    def run(self) -> Iterator[Finding]:
        for key, raw in tables.NETWORKS.scan(self._txn):
            yield from self._network(key, raw)
        last = keys.network_id_of(tables.META.get(self._txn, tables.LAST_NETWORK_KEY))
        if last >= MOST_NETWORKS:
            yield Finding("network-id", "", "last network", f"the last network's id is {last}")
        yield from self._orphans()
        for network in self._networks.values():
            yield from _read_state(network)
            for family in (V4, V6):
                yield from bits.Bits(network, family).findings()
            yield from bits.other_families(network)
            yield from leases.owners(network)
            yield from leases.cooldown(network)
            yield from kept.entries(network)
            yield from kept.events(network)
            yield from leases.missing(network)
            yield from blocks.findings(network)
            yield from _numbers(network)

    def _network(self, key: bytes, raw: bytes) -> Iterator[Finding]:
        name = key.decode(keys.ENCODING, keys.ERRORS)
        if len(raw) < 4:
            yield Finding("network-unreadable", name, key.hex(), f"its entry is {raw.hex()!r}")
            return
        network = NetworkCheck(self._txn, keys.network_id_of(raw), name, self._told)
        if network.network_id in self._networks:
            other = self._networks[network.network_id].name
            yield Finding("network-id", name, key.hex(), f"its id is that of {other}, too")
            return
        last = keys.network_id_of(tables.META.get(self._txn, tables.LAST_NETWORK_KEY))
        if not 1 <= network.network_id <= last:
            yield Finding(
                "network-id", name, key.hex(), f"its id {network.network_id} is not in 1..{last}"
            )
        try:
            network.pool = Pool.read(keys.read_network(raw)[1])
        except ValueError:
            yield Finding("ranges-unreadable", name, key.hex(), f"its ranges are {raw[4:]!r}")
        self._networks[network.network_id] = network
        policy = tables.META.get(self._txn, keys.policy_key(network.network_id))
        if policy is not None and not policy_record.is_valid(policy):
            yield network.finding("policy-unreadable", "policy", f"its policy is {policy.hex()}")

    def _orphans(self) -> Iterator[Finding]:
        """Yield a finding for each table and id with records whose network does not exist."""
        for what, table in BY_NETWORK:
            with table.walk(self._txn) as walk:
                more = walk.seek(b"")
                while more:
                    key = walk.key()
                    network_id = keys.network_id_of(key)
                    if len(key) < 4 or network_id not in self._networks:
                        yield Finding(
                            f"{what}-orphan", f"#{network_id}", key.hex(), "no such network exists"
                        )
                    if network_id == 0xFFFFFFFF:
                        break
                    more = walk.seek(keys.network_prefix(network_id + 1))


def _read_state(network: NetworkCheck) -> Iterator[Finding]:
    prefix = network.prefix
    for key, _ in network.items(tables.STATES, prefix):
        if key != prefix:
            yield network.finding("state-key", key.hex(), "this is no key of a state")
    raw = tables.STATES.get(network.txn, prefix)
    if raw is None:
        yield network.finding("state-missing", prefix.hex(), "it has no state")
        return
    try:
        network.state = NetworkState(network.network_id, raw)
    except StoreCorrupt as error:
        yield network.finding("state-unreadable", prefix.hex(), str(error))


def _numbers(network: NetworkCheck) -> Iterator[Finding]:
    """Compare the counters with what was counted; "outside" only if the ranges can be read."""
    if network.state is None:
        return
    for what, counted in network.counts.items():
        noted = getattr(network.state, what)
        if noted != counted and (what != "outside" or network.pool is not None):
            yield network.finding(
                "state-count", what, f"its state counts {noted} addresses, there are {counted}"
            )
