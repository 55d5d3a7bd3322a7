"""Subjects with many addresses: long transactions, bulk calls, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from statistics import median
from time import process_time_ns
from typing import TYPE_CHECKING

from bench.sampling import Subject
from bench.stores import CONTAINER, IFNAME, owners

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam import Ipam, Network

EARLY, LATE = 1_000, 40_000  # the pairs of one transaction that are compared
_CHUNK = 100
_CHUNKS = 10  # chunks of pairs that are timed around each of the two
_MANY = 4096  # owners in a bulk call
_CALLS = 32  # calls that a thread makes
MANY_NAMES = ("allocate_many in the store", "release_many, cool-down")
THREADS = (1, 8)
THREADS_NAMES = ("durable allocate, 1 thread", "durable allocate, 8 threads")


def together(name: str, ipam: Ipam, network: Network, calls: int) -> Subject:
    """Return a subject whose samples are ``calls`` pairs in one transaction."""

    def run() -> None:
        with ipam.transaction() as txn:
            inside = network.within(txn)
            for _ in repeat(None, calls):
                inside.allocate(CONTAINER, IFNAME)
                inside.release(CONTAINER, IFNAME)

    return Subject(name, calls, run)


def long_transaction(ipam: Ipam, network: Network) -> tuple[float, float]:
    """Make many pairs in one transaction; return the cost of an early and of a late pair."""
    with ipam.transaction() as txn:
        inside = network.within(txn)

        def pair() -> None:
            inside.allocate(CONTAINER, IFNAME)
            inside.release(CONTAINER, IFNAME)

        return early_and_late(pair)


def early_and_late(pair: Callable[[], object]) -> tuple[float, float]:
    """Return the processor time, in ns, of a call around the 1,000th and the 40,000th."""
    chunks = []
    for _ in range(LATE // _CHUNK + _CHUNKS // 2):
        start = process_time_ns()
        for _ in repeat(None, _CHUNK):
            pair()
        chunks.append((process_time_ns() - start) / _CHUNK)
    early = EARLY // _CHUNK - _CHUNKS // 2
    return median(chunks[early : early + _CHUNKS]), median(chunks[-_CHUNKS:])


def many(network: Network) -> list[Subject]:
    """Return the subjects ``allocate_many`` and ``release_many``, for the same owners."""
    listed = owners(0, _MANY)

    def allocate() -> None:
        network.allocate_many(listed)

    def release() -> None:
        network.release_many(listed)

    def again() -> None:
        release()
        allocate()

    work = ((allocate, release), (release, again))
    return [
        Subject(name, _MANY, run, before)
        for name, (run, before) in zip(MANY_NAMES, work, strict=True)
    ]


class Threads:
    """Threads of one process that assign addresses at once, each call in a commit of its own."""

    def __init__(self, name: str, network: Network, count: int) -> None:
        self._name = name
        self._network = network
        self._owners = [owners(thread * _CALLS, _CALLS) for thread in range(count)]
        self._pool = ThreadPoolExecutor(count)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def subject(self) -> Subject:
        """Return the subject of all threads' calls; a call's time is the inverse of their rate."""
        listed = [one for some in self._owners for one in some]
        return Subject(
            self._name, len(listed), self._run, lambda: self._network.release_many(listed)
        )

    def _run(self) -> None:
        for _ in self._pool.map(self._assign, self._owners):
            pass

    def _assign(self, listed: list[tuple[str, str]]) -> None:
        for container, ifname in listed:
            self._network.allocate(container, ifname)
