"""Subjects in the store: transactions of fastipam, and the same transactions with py-lmdb.

The py-lmdb side reads, writes and deletes the same keys, of the same sizes, in the same databases,
in two transactions as well. fastipam adds the search, the records, the checks and the objects.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, Literal

import lmdb

import fastipam
from bench.sampling import Subject
from fastipam.ipam import open_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam import Ipam, Network

    Durability = Literal["durable", "relaxed"]

NETWORK = "podnet"
SUBNET = "10.32.0.0/12"
LEASES = 1_048_573  # a /12 without network, broadcast and gateway address
BATCH = 8192  # owners a transaction in the timed fill
AGENT_BATCH = 64  # owners a transaction in stores that pairs are timed in, as an agent commits
ROOM = 1000  # addresses released after a fill, so that a pair finds some
CONTAINER = "c0ffee" * 10 + "c0de"  # 64 hexadecimal digits, as runtimes name them
IFNAME = "eth0"

_FIRST = 0x0A200001
_ROOM_ASIDE = 2 << 30  # bytes; a store of a million leases takes a quarter of a GiB
_ID = Struct(">I")
_PAGE_KEY = Struct(">IBBI")
_LEASE_KEY = Struct(">IBI")
_QUEUE_KEY = Struct(">IHQBI")
_EVENT_KEY = Struct(">IQ")
_DATABASES = ("networks", "states", "pages", "leases", "owners", "cooldown", "events")


def owners(first: int, count: int) -> list[tuple[str, str]]:
    """Yield containers with ids as of a runtime: (id, interface)."""
    return [(f"{number:064x}", IFNAME) for number in range(first, first + count)]


def fill(path: Path, durability: Durability, batch: int = BATCH) -> float:
    """Make a store in which every address of a /12 has a lease; return the seconds of the leases.

    A commit of 8192 owners frees thousands of pages at once, and LMDB carries the list of them
    through every commit after it. Leases that came in small commits leave no such list.
    """
    with open_with(path, durability) as ipam:
        net = ipam.network(NETWORK, SUBNET, cooldown_s=0)
        start = time.perf_counter()
        for done in range(0, LEASES, batch):
            net.allocate_many(owners(done, min(batch, LEASES - done)))
        return time.perf_counter() - start


def fill_aside(path: Path, durability: Durability) -> None:
    """Make the store of :func:`fill` with commits as small as an agent's, in memory.

    Sixteen thousand syncs take minutes on a busy disk, and none of this is timed.
    """
    memory = Path("/dev/shm")
    room = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_ASIDE
    with tempfile.TemporaryDirectory(prefix="bench-", dir=memory if room else path.parent) as aside:
        made = Path(aside) / "store"
        fill(made, durability, AGENT_BATCH)
        make_room(made)
        copy(made, path)


def make_room(path: Path) -> None:
    """Release some addresses of a filled store, spread over the whole pool."""
    with fastipam.open(path) as ipam:
        net = ipam.network(NETWORK, SUBNET, cooldown_s=0)
        numbers = list(range(0, LEASES, LEASES // ROOM))
        for at in range(0, len(numbers), AGENT_BATCH):
            with ipam.transaction() as txn:
                inside = net.within(txn)
                for number in numbers[at : at + AGENT_BATCH]:
                    inside.release(f"{number:064x}", IFNAME)


def touch(path: Path) -> None:
    """Make a store that has the network and no lease."""
    with fastipam.open(path, durability="durable") as ipam:
        net = ipam.network(NETWORK, SUBNET, cooldown_s=0)
        net.allocate(CONTAINER, IFNAME)
        net.release(CONTAINER, IFNAME)


def pair(name: str, net: Network, calls: int) -> Subject:
    """Assign one address and release it."""

    def run() -> None:
        for _ in repeat(None, calls):
            net.allocate(CONTAINER, IFNAME)
            net.release(CONTAINER, IFNAME)

    return Subject(name, calls, run)


def open_and_look(name: str, path: Path) -> Subject:
    """Open a store, look one address up, close it."""

    def run() -> None:
        with fastipam.open(path) as ipam:
            ipam.network(NETWORK, SUBNET).lookup("10.40.0.1")

    return Subject(name, 1, run)


def copy(source: Path, target: Path, *, compact: bool = False) -> None:
    """Copy a store. In a compacted copy no page is free, and pages are in order."""
    target.mkdir()
    with lmdb.open(str(source), map_size=64 << 30, max_dbs=32) as env:
        env.copy(str(target), compact=compact)


class ByHand:
    """Exactly what a pair makes LMDB do."""

    def __init__(
        self, path: Path, durability: str, *, cooldown: bool = False, stride: int = 1
    ) -> None:
        sync = durability == "durable"
        self._env = lmdb.open(
            str(path), map_size=64 << 30, sync=sync, metasync=sync, max_dbs=32, max_readers=1022
        )
        self._db = {name: self._env.open_db(name.encode()) for name in _DATABASES}
        self._cooldown = cooldown
        self._number = 0
        self._stride = stride  # between the addresses of two pairs
        self._prefix = _ID.pack(1)
        self._owner = self._prefix + bytes(16)
        self._lease = bytes(40 + len(CONTAINER) + len(IFNAME) + 5)
        self._state = bytes(56 + 17)
        self._page = bytes(512)
        self._event = bytes(22 + len(CONTAINER) + len(IFNAME) + 5)
        self._events = 0
        pool = self._prefix + b"10.32.0.0/12 10.32.0.1 10.47.255.254 10.32.0.1"
        with self._env.begin(write=True) as txn:
            txn.put(NETWORK.encode(), pool, db=self._db["networks"])
            txn.put(self._prefix, self._state, db=self._db["states"])

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def pair(self, name: str, calls: int) -> Subject:
        """Make the two transactions of a pair."""

        def run() -> None:
            for _ in repeat(None, calls):
                self._number += 1
                address = _FIRST + (self._number * self._stride & 0xFFFFF)
                page_key = _PAGE_KEY.pack(1, 4, 0, address >> 12)
                lease_key = _LEASE_KEY.pack(1, 4, address)
                self._allocate(page_key, lease_key)
                if self._cooldown:
                    self._cool(lease_key, _QUEUE_KEY.pack(1, 0, self._number, 4, address))
                else:
                    self._free(page_key, lease_key)

        return Subject(name, calls, run)

    def _look(self, txn: Any) -> None:
        """Read what both transactions read first."""
        txn.get(b"podnet", None, self._db["networks"])
        txn.get(self._prefix, None, self._db["states"])
        txn.get(self._owner, None, self._db["owners"])

    def _allocate(self, page_key: bytes, lease_key: bytes) -> None:
        db = self._db
        with self._env.begin(write=True) as txn:
            self._look(txn)
            if self._cooldown:
                with txn.cursor(db["cooldown"]) as cursor:
                    cursor.set_range(self._prefix)
            txn.get(page_key, None, db["pages"])
            txn.put(page_key, self._page, db=db["pages"])
            txn.put(lease_key, self._lease, db=db["leases"])
            txn.put(self._owner, bytes(5), db=db["owners"])
            self._note(txn)

    def _note(self, txn: Any) -> None:
        """Write what both transactions write last: the history's event, and the counts."""
        self._events += 1
        txn.put(_EVENT_KEY.pack(1, self._events), self._event, db=self._db["events"])
        txn.put(self._prefix, self._state, db=self._db["states"])

    def _cool(self, lease_key: bytes, queue_key: bytes) -> None:
        db = self._db
        with self._env.begin(write=True) as txn:
            self._look(txn)
            txn.get(lease_key, None, db["leases"])
            txn.put(lease_key, self._lease, db=db["leases"])
            txn.put(queue_key, b"", db=db["cooldown"])
            txn.delete(self._owner, db=db["owners"])
            self._note(txn)

    def _free(self, page_key: bytes, lease_key: bytes) -> None:
        db = self._db
        with self._env.begin(write=True) as txn:
            self._look(txn)
            txn.get(lease_key, None, db["leases"])
            txn.delete(lease_key, db=db["leases"])
            txn.get(page_key, None, db["pages"])
            txn.put(page_key, self._page, db=db["pages"])
            txn.delete(self._owner, db=db["owners"])
            self._note(txn)


class Beside:
    """fastipam and the py-lmdb side, each with its own store in ``path``."""

    def __init__(self, path: Path, durability: Durability, *, cooldown: bool) -> None:
        path.mkdir(parents=True)
        self._ipam: Ipam = open_with(path / "fastipam", durability)
        cooldown_s = 30 if cooldown else 0
        self._net = self._ipam.network(NETWORK, SUBNET, cooldown_s=cooldown_s)
        (path / "by-hand").mkdir()
        self._hand = ByHand(path / "by-hand", durability, cooldown=cooldown)
        self._label = f"{durability}, {'cool-down' if cooldown else 'no cool-down'}"

    def subjects(self, calls: int) -> list[Subject]:
        """Return fastipam's pair and the one with py-lmdb."""
        return [
            pair(f"{self._label}: fastipam", self._net, calls),
            self._hand.pair(f"{self._label}: by hand", calls),
        ]

    def close(self) -> None:
        """Close both stores."""
        self._ipam.close()
        self._hand.close()


@contextmanager
def opened(path: Path, durability: Durability) -> Iterator[Network]:
    """Open the network of a store, without a cool-down, for a ``with`` block."""
    with open_with(path, durability) as ipam:
        yield ipam.network(NETWORK, SUBNET, cooldown_s=0)
