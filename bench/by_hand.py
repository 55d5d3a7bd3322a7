"""Fastipam's reads and writes "by hand": directly in py-lmdb, with constant values.

The keys are fastipam's own, and the values have the sizes of its records. Both are built here, and
``tests/bench/test_by_hand.py`` compares every write with fastipam's. What fastipam does on top is
the search, the records, the checks and the objects.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import repeat
from struct import Struct
from time import perf_counter
from typing import TYPE_CHECKING, Any

import lmdb

import fastipam
from bench import bulk, stores
from bench.sampling import Subject

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bench.sampling import Samples
    from fastipam import Ipam

_DATABASES = ("networks", "pools", "pages", "leases", "owners", "cooldown", "events")
_ID = Struct(">I")
_PAGE_KEY = Struct(">IBBI")
_LEASE_KEY = Struct(">IBI")
_QUEUE_KEY = Struct(">IHQBI")
_EVENT_KEY = Struct(">IQ")
_RANGES = f"{stores.SUBNET} 10.32.0.1 10.47.255.254 10.32.0.1".encode()

FIRST = 0x0A200002  # the address of the first lease: after network address and gateway
NETWORK_ID = POOL_ID = 1
_LEASE_BYTES = 60  # of a lease, before its texts
_OWNER = bytes(9)
_STATE = bytes(85 + 17)  # the pool's record, with one cursor
_PER_PAGE = 4096
_PAGE = bytes(_PER_PAGE // 8)
_EVENT_BYTES = 22
_LOG_BYTES = 16
_WAIT = 8  # events that wait in the network's record at most
_WAIT_BYTES = 1960  # the largest size of that record; each event has two bytes for its length
_KEPT = 100_000  # events in the history
_TRIM = 64  # events that are deleted at a time


def texts(
    container: str, ifname: str = stores.IFNAME, netns: str = "", pod: tuple[str, ...] = ("",) * 3
) -> bytes:
    """Return the texts of a lease; its events have the same."""
    return "\0".join((container, ifname, netns, *pod)).encode()


def owner_key(container: str, ifname: str = stores.IFNAME) -> bytes:
    """Return the key of an owner's entry."""
    return (
        _ID.pack(NETWORK_ID) + blake2b(f"{container}\0{ifname}".encode(), digest_size=16).digest()
    )


def lease_key(address: int) -> bytes:
    """Return the key of a lease."""
    return _LEASE_KEY.pack(POOL_ID, 4, address)


def page_key(address: int, level: int = 0) -> bytes:
    """Return the key of the page that contains an address."""
    return _PAGE_KEY.pack(POOL_ID, 4, level, address >> 12 * (level + 1))


class Addresses:
    """The addresses that automatic assignments take, in turn and again from the start.

    With ``full`` they are the free addresses of a store with a million leases.
    """

    def __init__(self, *, full: bool) -> None:
        self._count, self._stride = (stores.ROOM, stores.STRIDE) if full else (stores.LEASES, 1)
        self._taken = -1

    def take(self) -> int:
        """Return the next address."""
        self._taken += 1
        return FIRST + self._taken % self._count * self._stride


class _Log:
    """The history: events collect in the network's record until it is full, then all are moved."""

    def __init__(self, event: bytes, first: int, end: int) -> None:
        one = 2 + len(event)
        self._event = event
        self._most = min(_WAIT, (_WAIT_BYTES - _LOG_BYTES) // one)
        self._records = [bytes(_LOG_BYTES + count * one) for count in range(self._most + 1)]
        self._first, self._end = first, end
        self._waiting = 0

    def add(self, txn: Any, events: Any) -> None:
        """Add an event."""
        if self._waiting == self._most:
            event = self._event
            for number in range(self._end - self._most, self._end):
                txn.put(_EVENT_KEY.pack(NETWORK_ID, number), event, db=events)
            self._waiting = 0
        self._waiting += 1
        self._end += 1
        if not self._end % _TRIM and self._end - self._first > _KEPT:
            self.trim(txn, events, _TRIM)

    def add_many(self, txn: Any, events: Any, numbers: range) -> None:
        """Add an event for each of ``numbers``, when no events wait in the network's record."""
        event = self._event
        with txn.cursor(events) as cursor:
            cursor.putmulti([(_EVENT_KEY.pack(NETWORK_ID, number), event) for number in numbers])
        self._end = numbers.stop
        self.trim(txn, events, max(0, self._end - self._first - _KEPT))

    def trim(self, txn: Any, events: Any, count: int) -> None:
        """Delete the oldest events."""
        with txn.cursor(events) as cursor:
            cursor.set_range(_EVENT_KEY.pack(NETWORK_ID, self._first))
            for _ in repeat(None, count):
                cursor.delete()
        self._first += count

    @property
    def record(self) -> bytes:
        """The network's record."""
        return self._records[self._waiting]


class Hand:
    """A store in ``path`` with one network: a new one, or a copy of a store of fastipam.

    ``owner`` has the texts of every lease. With ``full`` the store is a copy with a million leases;
    without it, a released lease is always the last one of its page.
    """

    def __init__(self, path: Path, durability: str, owner: bytes, *, full: bool = False) -> None:
        sync = durability == "durable"
        path.mkdir(exist_ok=True)
        self._env = lmdb.open(
            str(path), map_size=64 << 30, sync=sync, metasync=sync, max_dbs=32, max_readers=1022
        )
        self._db = {name: self._env.open_db(name.encode()) for name in _DATABASES}
        self._lease = bytes(_LEASE_BYTES) + owner
        self._full = full
        name = stores.NETWORK.encode()
        network, pool = _ID.pack(NETWORK_ID), _ID.pack(POOL_ID)
        self._numbers, self._history = b"P" + pool, b"N" + network
        with self._env.begin(write=True) as txn:
            txn.put(name, b"\4" + network + pool + name, db=self._db["networks"])
            txn.put(name, pool + _RANGES, db=self._db["pools"])
            txn.put(self._numbers, _STATE)
            with txn.cursor(self._db["events"]) as cursor:
                first = _EVENT_KEY.unpack(cursor.key())[1] if cursor.first() else 0
                end = _EVENT_KEY.unpack(cursor.key())[1] + 1 if cursor.last() else 0
            self._log = _Log(bytes(_EVENT_BYTES) + owner, first, end)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _add_to_pages(self, txn: Any, pages: Iterable[bytes]) -> None:
        for key in pages:
            txn.put(key, _PAGE, db=self._db["pages"])

    def _take_from_pages(self, txn: Any, pages: Iterable[bytes]) -> None:
        if self._full:
            self._add_to_pages(txn, pages)
        else:
            for key in pages:
                txn.delete(key, db=self._db["pages"])

    def _save(self, txn: Any) -> None:
        """Write the records of pool and network, which come last in every commit."""
        txn.put(self._numbers, _STATE)
        txn.put(self._history, self._log.record)


class Pairs(Hand):
    """A pair in two transactions: fastipam's writes, and the reads that it cannot do without.

    Each transaction reads the network, the pool, its numbers and its history, because another
    process may have changed them. fastipam reads only the numbers, if it has made the last commit.
    """

    def __init__(
        self, path: Path, durability: str, *, cooldown: bool = False, full: bool = False
    ) -> None:
        super().__init__(path, durability, texts(stores.CONTAINER), full=full)
        self._cooldown = cooldown
        self._released = 0
        self._addresses = Addresses(full=full)
        self._owner = owner_key(stores.CONTAINER)
        self._queue = _ID.pack(POOL_ID)

    def pair(self, name: str, calls: int) -> Subject:
        """Return the subject of a pair: its two transactions."""
        release = self._cool if self._cooldown else self._free

        def run() -> None:
            for _ in repeat(None, calls):
                address = self._addresses.take()
                with self._env.begin(write=True) as txn:
                    self._allocate(txn, address)
                with self._env.begin(write=True) as txn:
                    release(txn, address)

        return Subject(name, calls, run)

    def long_transaction(self) -> tuple[float, float]:
        """Do the same as :func:`bench.bulk.long_transaction`."""
        release = self._cool if self._cooldown else self._free
        with self._env.begin(write=True) as txn:

            def pair() -> None:
                address = self._addresses.take()
                self._allocate(txn, address)
                release(txn, address)

            return bulk.early_and_late(pair)

    def _look(self, txn: Any) -> None:
        """Read the records that both transactions read first."""
        txn.get(b"podnet", None, self._db["networks"])
        txn.get(b"podnet", None, self._db["pools"])
        txn.get(self._numbers)
        txn.get(self._history)
        txn.get(self._owner, None, self._db["owners"])

    def _allocate(self, txn: Any, address: int) -> None:
        db, key, page = self._db, lease_key(address), page_key(address)
        self._look(txn)
        if self._cooldown:
            with txn.cursor(db["cooldown"]) as cursor:
                cursor.set_range(self._queue)
        txn.get(page, None, db["pages"])
        txn.put(key, self._lease, db=db["leases"])
        txn.put(self._owner, key, db=db["owners"])
        self._log.add(txn, db["events"])
        self._add_to_pages(txn, (page,))
        self._save(txn)

    def _cool(self, txn: Any, address: int) -> None:
        db, key = self._db, lease_key(address)
        self._look(txn)
        self._released += 1
        txn.get(key, None, db["leases"])
        txn.put(key, self._lease, db=db["leases"])
        txn.put(_QUEUE_KEY.pack(POOL_ID, 0, self._released, 4, address), b"", db=db["cooldown"])
        txn.delete(self._owner, db=db["owners"])
        self._log.add(txn, db["events"])
        self._save(txn)

    def _free(self, txn: Any, address: int) -> None:
        db, key, page = self._db, lease_key(address), page_key(address)
        self._look(txn)
        txn.get(key, None, db["leases"])
        txn.delete(key, db=db["leases"])
        txn.get(page, None, db["pages"])
        txn.delete(self._owner, db=db["owners"])
        self._log.add(txn, db["events"])
        self._take_from_pages(txn, (page,))
        self._save(txn)


class Filling(Hand):
    """A store in which every address of a /12 gets a lease, with ``batch`` owners in a commit."""

    def __init__(self, path: Path, durability: str, batch: int = stores.BATCH) -> None:
        super().__init__(path, durability, texts(f"{0:064x}"))
        self._batch = batch

    def fill(self) -> float:
        """Do the same as :func:`bench.stores.fill`, with the same owners; return the seconds."""
        taken = 0.0
        for first in range(0, stores.LEASES, self._batch):
            count = min(self._batch, stores.LEASES - first)
            owners = stores.owners(first, count)
            start = perf_counter()
            self._assign(range(first, first + count), owners)
            taken += perf_counter() - start
        return taken

    def _assign(self, numbers: range, owners: list[tuple[str, str]]) -> None:
        db, lease = self._db, self._lease
        keys = [lease_key(FIRST + number) for number in numbers]
        leases = [(key, lease) for key in keys]
        entries = sorted(zip([owner_key(*one) for one in owners], keys, strict=True))
        there = (*numbers[::_PER_PAGE], numbers[-1])
        pages = sorted({page_key(FIRST + one, level) for one in there for level in (0, 1)})
        with self._env.begin(write=True) as txn:
            for name, items in (("leases", leases), ("owners", entries)):
                with txn.cursor(db[name]) as cursor:
                    cursor.putmulti(items)
            self._log.add_many(txn, db["events"], numbers)
            self._add_to_pages(txn, pages)
            self._save(txn)


class Beside:
    """fastipam and py-lmdb side by side, each with its own store in ``path``."""

    def __init__(self, path: Path, durability: stores.Durability, *, cooldown: bool) -> None:
        path.mkdir(parents=True)
        self._ipam: Ipam = fastipam.open(path / "fastipam", durability)
        self._network = self._ipam.network(
            stores.NETWORK, stores.SUBNET, cooldown_s=30 if cooldown else 0
        )
        self._hand = Pairs(path / "by-hand", durability, cooldown=cooldown)
        self._label = f"{durability}, {'cool-down' if cooldown else 'no cool-down'}"

    def subjects(self, calls: int) -> list[Subject]:
        """Return the subjects of fastipam's pair and of the pair by hand."""
        return [
            stores.pair(f"{self._label}: fastipam", self._network, calls),
            self._hand.pair(f"{self._label}: by hand", calls),
        ]

    def together(self, calls: int) -> Subject:
        """Return the subject of fastipam's pairs with ``calls`` pairs in one transaction."""
        name = f"{self._label}: fastipam, {calls:,} in one transaction"
        return bulk.together(name, self._ipam, self._network, calls)

    def long_transaction(self) -> Samples:
        """Return the cost of an early and a late pair inside one transaction, on both sides."""
        sides = {
            "fastipam": bulk.long_transaction(self._ipam, self._network),
            "by hand": self._hand.long_transaction(),
        }
        return {
            f"{self._label}: {side}, the {number:,}th in one transaction": [cost]
            for side, costs in sides.items()
            for number, cost in zip((bulk.EARLY, bulk.LATE), costs, strict=True)
        }

    def close(self) -> None:
        """Close both stores."""
        self._ipam.close()
        self._hand.close()
