"""Stores of fastipam for measurements, such as filled ones, and subjects on them."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import lmdb

import fastipam
from bench.sampling import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam import Network

    Durability = Literal["durable", "relaxed"]

NETWORK = "podnet"
SUBNET = "10.32.0.0/12"
LEASES = 1_048_573  # a /12 without network, broadcast and gateway address
BATCH = 32_768  # owners in a transaction of the timed fill
AGENT_BATCH = 64  # owners in a transaction, as of an agent, for stores in which pairs are timed
ROOM = 1000  # addresses that are released after a fill, so that a pair finds free ones
STRIDE = LEASES // ROOM  # the distance between them
CONTAINER = "c0ffee" * 10 + "c0de"  # 64 hexadecimal digits, like a runtime's ids
IFNAME = "eth0"

_MEMORY = Path("/dev/shm")
_SPACE = 3 << 30  # bytes for five stores of a million leases; each takes less than half a GiB


def owners(first: int, count: int) -> list[tuple[str, str]]:
    """Return owners (container id, interface), with ids like a runtime's."""
    return [(f"{number:064x}", IFNAME) for number in range(first, first + count)]


def fill(path: Path, durability: Durability, batch: int = BATCH) -> float:
    """Make a store in which every address of a /12 has a lease; return the seconds of the calls.

    To LMDB owners are random keys, so a small commit writes a page for each of them. A large commit
    frees thousands of pages at once, and LMDB then carries the list of them through every later
    commit. Small commits leave no such list.
    """
    taken = 0.0
    with fastipam.open(path, durability) as ipam:
        net = ipam.network(NETWORK, SUBNET, cooldown_s=0)
        for done in range(0, LEASES, batch):
            listed = owners(done, min(batch, LEASES - done))
            start = time.perf_counter()
            net.allocate_many(listed)
            taken += time.perf_counter() - start
    return taken


def fill_aside(*paths: Path) -> None:
    """Make the store of :func:`fill` with commits as small as an agent's, and copy it to ``paths``.

    It is made in memory, because sixteen thousand syncs take minutes on a busy disk, and this is
    not timed.
    """
    with in_memory(paths[0].parent) as aside:
        made = aside / "store"
        fill(made, "durable", AGENT_BATCH)
        make_room(made)
        for path in paths:
            copy(made, path)


@contextmanager
def in_memory(scratch: Path) -> Iterator[Path]:
    """Make a directory on a tmpfs, or in ``scratch`` if no tmpfs has room."""
    room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _SPACE
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_MEMORY if room else scratch) as path:
        yield Path(path)


def make_room(path: Path) -> None:
    """Release some addresses in a filled store, spread over the whole pool."""
    with fastipam.open(path) as ipam:
        net = ipam.network(NETWORK, SUBNET, cooldown_s=0)
        numbers = [at * STRIDE for at in range(ROOM)]
        for at in range(0, len(numbers), AGENT_BATCH):
            with ipam.transaction() as txn:
                inside = net.within(txn)
                for number in numbers[at : at + AGENT_BATCH]:
                    inside.release(f"{number:064x}", IFNAME)


def touch(path: Path) -> None:
    """Make a store that has the network but no lease."""
    with fastipam.open(path, durability="durable") as ipam:
        net = ipam.network(NETWORK, SUBNET, cooldown_s=0)
        net.allocate(CONTAINER, IFNAME)
        net.release(CONTAINER, IFNAME)


def pair(name: str, net: Network, calls: int) -> Subject:
    """Return the subject of a pair: assign an address and release it."""

    def run() -> None:
        for _ in repeat(None, calls):
            net.allocate(CONTAINER, IFNAME)
            net.release(CONTAINER, IFNAME)

    return Subject(name, calls, run)


def open_and_look(name: str, path: Path) -> Subject:
    """Return a subject that opens a store, looks up an address and closes the store."""

    def run() -> None:
        with fastipam.open(path) as ipam:
            ipam.network(NETWORK, SUBNET).lookup("10.40.0.1")

    return Subject(name, 1, run)


def copy(source: Path, target: Path, *, compact: bool = False) -> None:
    """Copy a store. With ``compact`` the copy has no free pages, and its pages are in order."""
    target.mkdir()
    with lmdb.open(str(source), map_size=64 << 30, max_dbs=32) as env:
        env.copy(str(target), compact=compact)


@contextmanager
def opened(path: Path, durability: Durability) -> Iterator[Network]:
    """Open the network of a store, without a cool-down, for a ``with`` block."""
    with fastipam.open(path, durability) as ipam:
        yield ipam.network(NETWORK, SUBNET, cooldown_s=0)
