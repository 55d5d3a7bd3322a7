"""One network's records inside a write transaction: what cool-down and reservations work on.

Nothing here commits, and nothing here decides which address is assigned: that is ledger.py.
"""

from __future__ import annotations

from fastipam.addressing.ranges import CUT, Pool
from fastipam.allocation import history
from fastipam.allocation.lookup import read_record
from fastipam.errors import StoreCorrupt
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from fastipam.addressing.ranges import RangeSet
    from fastipam.configuration.policy import Policy
    from fastipam.storage.records.event_log import EventLog
    from fastipam.storage.records.lease import Record
    from fastipam.storage.transaction import Transaction

    class Configured(Protocol):
        """What a caller says of a network; ``pool`` is None when the caller has no ranges."""

        name: str
        pool: Pool | None
        policy: Policy

        def _ranges_of(self, text: str) -> Pool:
            """Return the pool of a text in the store. Raises StoreCorrupt."""


class Accounts:
    """The records of a network and its pool in one write transaction; :meth:`save` before it ends.

    ``state`` has the pool's numbers; what belongs to the network is found by ``network_id``.
    ``text`` are the ranges that the store remembers, as it has them; ``is_foreign`` says that the
    caller's ranges are others: partly a container's own. ``wall_ns`` is the wall clock of the last
    :meth:`tick`, in nanoseconds: what is written now carries it.
    """

    __slots__ = (
        "_events", "_log", "_network", "_owner", "_stored", "is_foreign", "name", "network_id",
        "policy", "state", "store", "text", "txn", "wall_ns",
    )  # fmt: skip

    def __init__(
        self, txn: Transaction, network: Configured, network_id: int, pool_id: int, text: str
    ) -> None:
        self.txn = txn
        self.store = txn.store
        if txn.store.boot_doubt:
            from fastipam.storage import boot_change

            boot_change.settle(txn)
        self.name = network.name
        self.policy = network.policy
        self.network_id = network_id
        self.state = txn.pool_state(pool_id)
        self.text = text
        self.is_foreign = network.pool is not None and network.pool.text != text
        self.wall_ns = 0
        self._network = network
        self._owner = (b"", b"")
        self._stored: Pool | None = None
        self._events: list[bytes] = []
        self._log: EventLog | None = None

    @property
    def log(self) -> EventLog:
        """The network's history: read by the first call that needs it."""
        if self._log is None:
            self._log = self.txn.event_log(self.network_id)
        return self._log

    @property
    def stored(self) -> Pool:
        """The ranges that the store remembers: what is outside is counted by them."""
        if self._stored is None:
            self._stored = self._network._ranges_of(self.text)
        return self._stored

    def tick(self) -> int:
        """Read the wall clock, advance the pool's clock to it and return the latter."""
        self.wall_ns = self.store.clock()
        return self.state.tick(self.wall_ns)

    def save(self) -> None:
        """Write the counters, the cursors and the events."""
        if self._events:
            history.write(self.txn, self.log, self.policy, self._events)
            self._events = []
            self.txn.save(self.log)
        self.txn.save(self.state)

    def note(self, kind: int, generation: int, address: tuple[int, int], texts: bytes) -> None:
        """Enter an event in the network's history, if it keeps one."""
        if self.policy.history:
            raw = event_record.pack_event(self.wall_ns, kind, generation, address, texts)
            self._events.append(raw)

    def record(self, family: int, value: int) -> Record | None:
        """Return the lease record of an address, or None when it is free or reserved."""
        return read_record(self.txn, self.state.pool_id, family, value)

    def owns(self, range_set: RangeSet, value: int) -> bool:
        """Return whether this node may assign an address: no other node of its cluster has it."""
        if not range_set.block_length:
            return True
        from fastipam.allocation import blocks

        pool_id = self.state.pool_id
        base = blocks.base_of(range_set, value)
        return blocks.is_active(self.txn, pool_id, range_set.family, base) and not blocks.doubt(
            self.txn, pool_id
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
        self.txn.pages(self.state.pool_id, family).release(value)
        if self.state.outside:
            self.state.outside -= not self.stored.holds(family, value)
        if CUT in self.text:
            from fastipam.allocation import blocks

            for index, each in enumerate(self.stored.sets):
                if each.family == family and each.block_length:
                    cursor = self.state.cursor(index, family)
                    blocks.freed(self.txn, self.state.pool_id, each, value, cursor)
