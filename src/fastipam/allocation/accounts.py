"""One network's records inside a write transaction: what cool-down and reservations work on.

Nothing here commits, and nothing here decides which address is assigned: that is ledger.py.
"""

from __future__ import annotations

from fastipam.addressing.ranges import CUT, Pool
from fastipam.allocation import history
from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records.lease import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from fastipam.addressing.ranges import RangeSet
    from fastipam.configuration.policy import Policy
    from fastipam.storage.environment import Environment
    from fastipam.storage.transaction import Snapshot, Transaction

    class Configured(Protocol):
        """What a caller says of a network; ``pool`` is None when the caller has no ranges."""

        name: str
        pool: Pool | None
        policy: Policy

        def _ranges_of(self, text: str) -> Pool:
            """Return the pool of a text in the store. Raises StoreCorrupt."""


def find(txn: Transaction | Snapshot, key: bytes) -> tuple[int, str] | None:
    """Return (network id, text of its pool) of a network's encoded name, or None."""
    raw = tables.NETWORKS.get(txn, key)
    if raw is None:
        return None
    try:
        return keys.read_network(raw)
    except UnicodeDecodeError as error:
        raise _unreadable(txn.store, key.decode("ascii", "replace"), raw[4:]) from error


def look_up(txn: Transaction | Snapshot, name: str) -> tuple[int, Pool] | None:
    """Return (network id, the ranges that the store remembers) of a network, or None.

    Raises StoreCorrupt.
    """
    found = find(txn, keys.encode("network", name))
    return None if found is None else (found[0], read_pool(found[1], txn.store, name))


def read_pool(text: str, store: Environment, name: str) -> Pool:
    """Return the pool of a network's text in the store. Raises StoreCorrupt."""
    try:
        return Pool.read(text)
    except ValueError as error:
        raise _unreadable(store, name, text) from error


def _unreadable(store: Environment, name: str, ranges: bytes | str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the ranges of network {name} cannot be read: {ranges!r}", path=store.path, hint=CHECK_HINT
    )


def read_record(
    txn: Transaction | Snapshot, network_id: int, family: int, value: int
) -> Record | None:
    """Return the lease record of an address, or None when it is free or reserved. O(1)."""
    raw = tables.LEASES.get(txn, keys.address_key(network_id, family, value))
    return None if raw is None else Record.read(raw)


class Accounts:
    """The records of one network in one write transaction; :meth:`save` before it ends.

    ``text`` are the ranges that the store remembers, as it has them; ``is_foreign`` says that the
    caller's ranges are others: partly a container's own. ``wall_ns`` is the wall clock of the last
    :meth:`tick`, in nanoseconds: what is written now carries it.
    """

    __slots__ = (
        "_events", "_network", "_owner", "_stored", "is_foreign", "name", "policy", "state",
        "store", "text", "txn", "wall_ns",
    )  # fmt: skip

    def __init__(self, txn: Transaction, network: Configured, network_id: int, text: str) -> None:
        self.txn = txn
        self.store = txn.store
        if txn.store.boot_doubt:
            from fastipam.storage import boot_change

            boot_change.settle(txn)
        self.name = network.name
        self.policy = network.policy
        self.state = txn.state(network_id)
        self.text = text
        self.is_foreign = network.pool is not None and network.pool.text != text
        self.wall_ns = 0
        self._network = network
        self._owner = (b"", b"")
        self._stored: Pool | None = None
        self._events: list[bytes] = []

    @property
    def stored(self) -> Pool:
        """The ranges that the store remembers: what is outside is counted by them."""
        if self._stored is None:
            self._stored = self._network._ranges_of(self.text)
        return self._stored

    def tick(self) -> int:
        """Read the wall clock, advance the network's clock to it and return the latter."""
        self.wall_ns = self.store.clock()
        return self.state.tick(self.wall_ns)

    def save(self) -> None:
        """Write the counters, the cursors and the events."""
        state = self.state
        if self._events:
            history.write(self.txn, state, self.policy, self._events)
            self._events = []
        self.txn.save(state)

    def note(self, kind: int, generation: int, address: tuple[int, int], texts: bytes) -> None:
        """Enter an event in the network's history, if it keeps one."""
        if self.policy.history:
            raw = event_record.pack_event(self.wall_ns, kind, generation, address, texts)
            self._events.append(raw)

    def record(self, family: int, value: int) -> Record | None:
        """Return the lease record of an address, or None when it is free or reserved."""
        return read_record(self.txn, self.state.network_id, family, value)

    def owns(self, range_set: RangeSet, value: int) -> bool:
        """Return whether this node may assign an address: no other node of its cluster has it."""
        if not range_set.block_length:
            return True
        from fastipam.allocation import blocks

        network_id = self.state.network_id
        base = blocks.base_of(range_set, value)
        return blocks.is_active(self.txn, network_id, range_set.family, base) and not blocks.doubt(
            self.txn, network_id
        )

    def number_of(self, family: int, value: int) -> int:
        """Return the number of the network's set that has an address, or NO_SET."""
        try:
            index = self.stored.index_of(family, value)
        except StoreCorrupt:  # of the ranges' text, which must not keep a DEL from releasing
            index = None
        return keys.NO_SET if index is None else index

    def count_outside(self, family: int, values: Sequence[int]) -> None:
        """Count which of the free addresses that were taken lie outside the network's ranges."""
        if self.is_foreign:
            self.state.outside += sum(not self.stored.holds(family, value) for value in values)

    def clear(self, family: int, value: int) -> None:
        """Clear the bit of an address whose record was deleted."""
        self.txn.pages(self.state.network_id, family).release(value)
        if self.state.outside:
            self.state.outside -= not self.stored.holds(family, value)
        if CUT in self.text:
            from fastipam.allocation import blocks

            for index, each in enumerate(self.stored.sets):
                if each.family == family and each.block_length:
                    cursor = self.state.cursor(index, family)
                    blocks.freed(self.txn, self.state.network_id, each, value, cursor)
