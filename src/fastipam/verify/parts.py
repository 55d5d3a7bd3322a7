"""The common parts of all checks: findings, progress, and the network that is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastipam.errors import ConfigError, StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.lease import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam._ledger import EventLog, PoolState
    from fastipam.addressing.ranges import Pool
    from fastipam.storage.tables import Table
    from fastipam.storage.transaction import Snapshot

    Progress = Callable[[int, int], None]  # done, total: records


def check_given(store: object, progress: object) -> None:
    """Raise ConfigError unless these are a store, and a function or None."""
    if not hasattr(store, "read"):
        raise ConfigError(
            f"store is {store!r}, not a store",
            field="store",
            value=store,
            hint="pass the attribute store of what fastipam.open returns",
        )
    check_progress(progress)


def check_progress(progress: object) -> None:
    """Raise ConfigError unless this is a function or None."""
    if not (progress is None or callable(progress)):
        raise ConfigError(
            f"progress must be a function or None, not {progress!r}",
            field="progress",
            value=progress,
        )


_STEP = 4096  # records between two calls of progress


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction. ``kind`` is a short name, ``where`` an address or a key in hexadecimal.

    ``network`` is the network's name, or ``#7`` for a network or a pool that has the id 7 and no
    name.
    """

    kind: str
    network: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.network}: {self.where}: {self.text} ({self.kind})"


class Told:
    """The progress of a check, reported to its caller: records read, and records in total."""

    def __init__(self, txn: Snapshot, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._total = sum(table.count(txn) for _, table in COUNTED) if progress else 0

    def read(self, found: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Return an iterator over the same records that counts them as they are read."""
        return found if self._progress is None else self._counted(found)

    def all(self) -> None:
        """Report that all records were read."""
        if self._progress is not None:
            self._progress(self._total, self._total)

    def _counted(self, found: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for one in found:
            self._done += 1
            if self._progress is not None and self._done % _STEP == 0:
                self._progress(min(self._done, self._total), self._total)
            yield one


class NetworkCheck:
    """A network and its pool: the stored ranges, counters and history, and the counted addresses.

    ``prefix`` is the prefix of the pool's keys, ``owners_prefix`` that of the network's keys.
    ``members`` are the ids of the pool's networks. The pool's own records are checked with the
    first of them.
    """

    def __init__(self, txn: Snapshot, network_id: int, pool_id: int, name: str, told: Told) -> None:
        self._told = told
        self.boot = txn.store.boot
        self.txn = txn
        self.network_id = network_id
        self.pool_id = pool_id
        self.name = name
        self.prefix = keys.id_prefix(pool_id)
        self.owners_prefix = keys.id_prefix(network_id)
        self.members: list[int] = []
        self.pool: Pool | None = None
        self.state: PoolState | None = None
        self.log: EventLog | None = None
        self.listed: dict[bytes, frozenset[tuple[int, int]]] = {}  # by key: entries of ``sticky``
        self.counts = dict.fromkeys(("assigned", "cooling", "reserved", "kept", "outside"), 0)

    def finding(self, kind: str, where: str, text: str) -> Finding:
        """Return a finding of this network."""
        return Finding(kind, self.name, where, text)

    def outside(self, family: int, value: int) -> bool:
        """Return whether the address is outside the ranges; False if they cannot be read."""
        return self.pool is not None and not self.pool.holds(family, value)

    def record(self, family: int, value: int) -> Record | None:
        """Return the lease of an address, or None if it has none or an unreadable one."""
        key = keys.address_key(self.pool_id, family, value)
        raw = tables.LEASES.get(self.txn, key)
        try:
            return None if raw is None else Record.read(raw)
        except StoreCorrupt:
            return None

    def items(self, table: Table, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs of a table whose key begins with ``prefix``."""
        return self._told.read(table.scan(self.txn, prefix))


def _named(*some: Table) -> list[tuple[str, Table]]:
    return [(table.name.removesuffix("s"), table) for table in some]


# The tables whose keys begin with the id of a network, and those whose keys begin with the id of a
# pool. Each has the name that messages use for one of its records.
BY_NETWORK = _named(tables.OWNERS, tables.EVENTS)
BY_POOL = _named(
    tables.PAGES,
    tables.LEASES,
    tables.COOLDOWN,
    tables.RESERVATIONS,
    tables.STICKY,
    tables.MISSING,
    tables.BLOCKS,
)
COUNTED = BY_NETWORK + BY_POOL
