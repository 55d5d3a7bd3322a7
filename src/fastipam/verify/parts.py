"""What the parts of a verification share: a finding, and the network that is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.lease import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam.addressing.ranges import Pool
    from fastipam.storage.records.network_state import NetworkState
    from fastipam.storage.store import Store
    from fastipam.storage.tables import Table
    from fastipam.storage.transaction import Snapshot

    Progress = Callable[[int, int], None]  # done, total: records

DIGEST_KEY_BYTES = 20  # network id and digest
_STEP = 4096  # records between two calls of progress


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction. ``where`` is an address, or a key in hexadecimal; ``kind`` a short name.

    ``network`` is the network's name, or ``#7`` for an id that has none.
    """

    kind: str
    network: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.network}: {self.where}: {self.text} ({self.kind})"


class Told:
    """Who wants to know how many records have been read, of how many there are."""

    def __init__(self, txn: Snapshot, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._total = sum(table.count(txn) for _, table in BY_NETWORK) if progress else 0

    def read(self, found: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """The same records, counted as they are read."""
        return found if self._progress is None else self._counted(found)

    def all(self) -> None:
        """Everything has been read."""
        if self._progress is not None:
            self._progress(self._total, self._total)

    def _counted(self, found: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for one in found:
            self._done += 1
            if self._progress is not None and self._done % _STEP == 0:
                self._progress(min(self._done, self._total), self._total)
            yield one


class Network:
    """What is found of a network, beside what it says of itself."""

    def __init__(self, store: Store, txn: Snapshot, network_id: int, name: str, told: Told) -> None:
        self._told = told
        self.store = store
        self.txn = txn
        self.network_id = network_id
        self.name = name
        self.prefix = keys.network_prefix(network_id)
        self.pool: Pool | None = None
        self.state: NetworkState | None = None
        self.counts = dict.fromkeys(("assigned", "cooling", "reserved", "kept", "outside"), 0)

    def finding(self, kind: str, where: str, text: str) -> Finding:
        """A contradiction in this network."""
        return Finding(kind, self.name, where, text)

    def outside(self, family: int, value: int) -> bool:
        """Whether the ranges, as far as they can be read, do not have this address."""
        return self.pool is not None and not self.pool.holds(family, value)

    def record(self, family: int, value: int) -> Record | None:
        """The record of an address; None, too, when it cannot be read: the leases say that."""
        key = keys.address_key(self.network_id, family, value)
        raw = tables.LEASES.get(self.txn, key)
        try:
            return None if raw is None else Record.read(raw)
        except StoreCorrupt:
            return None

    def items(self, table: Table, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs of a table whose key begins with ``prefix``."""
        return self._told.read(table.scan(self.txn, prefix))


# What each table whose keys begin with a network's number holds.
BY_NETWORK = (
    ("state", tables.STATES),
    ("page", tables.PAGES),
    ("lease", tables.LEASES),
    ("owner", tables.OWNERS),
    ("cooldown", tables.COOLDOWN),
    ("reservation", tables.RESERVATIONS),
    ("sticky", tables.STICKY),
    ("event", tables.EVENTS),
    ("missing", tables.MISSING),
)
