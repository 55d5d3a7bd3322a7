"""Subjects in memory: ``Bitmap``, and the alternatives to it, its peers.

A *pair* allocates the next free address and releases it, so the fill does not change. Every peer is
used as its documentation suggests, with a round-robin cursor if possible.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv4Network
from itertools import repeat
from random import Random
from typing import TYPE_CHECKING, Any

import numpy

from bench.errors import Missing
from bench.sampling import Subject
from fastipam import Bitmap

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIXES = (24, 20, 16, 12)
FILLS = (0.0, 0.5, 0.99, 0.9999)
BASE = int(IPv4Address("10.32.0.0"))
SEED = 20260101  # fixed, so that every run has the same scattered addresses
LIBRARIES = ("bitarray", "pyroaring", "netaddr", "pytest_benchmark")
CALLS = 10_000


def require(*libraries: str) -> None:
    """Raise Missing if some of these libraries, or by default of all peers', are missing."""
    absent = [name for name in libraries or LIBRARIES if find_spec(name) is None]
    if absent:
        raise Missing(
            f"libraries are missing: {', '.join(absent)}; "
            "install the dependency group `bench` (pip install --group bench)"
        )


@cache
def free_addresses(size: int, fill: float) -> list[int]:
    """Return the free indices, scattered, for this fill. There is at least one."""
    taken = min(int(size * fill), size - 1)
    return sorted(Random(SEED).sample(range(size), size - taken)) if taken else list(range(size))


def filled_bitmap(size: int, fill: float) -> Bitmap:
    """Return a Bitmap with this fill."""
    bitmap = Bitmap(size)
    if fill:
        bitmap.allocate_many(size)
        for index in free_addresses(size, fill):
            bitmap.release(index)
    return bitmap


def _fastipam(size: int, fill: float) -> tuple[int, Callable[[], None]]:
    bitmap = filled_bitmap(size, fill)
    allocate, release = bitmap.allocate, bitmap.release

    def run() -> None:
        for _ in repeat(None, CALLS):
            release(allocate())

    return CALLS, run


def _bitarray(size: int, fill: float) -> tuple[int, Callable[[], None]]:
    bits: Any = import_module("bitarray").bitarray(size)
    bits.setall(1)
    for index in free_addresses(size, fill):
        bits[index] = 0
    cursor = 0

    def run() -> None:
        nonlocal cursor
        find = bits.find
        for _ in repeat(None, CALLS):
            index = find(0, cursor)
            if index < 0:
                index = find(0)
            bits[index] = 1
            cursor = index + 1 if index + 1 < size else 0
            bits[index] = 0

    return CALLS, run


def _pyroaring(size: int, fill: float) -> tuple[int, Callable[[], None]]:
    # A set of the free addresses, because a BitMap can find its next member but not its next gap.
    free: Any = import_module("pyroaring").BitMap(free_addresses(size, fill))
    cursor = 0

    def run() -> None:
        nonlocal cursor
        for _ in repeat(None, CALLS):
            try:
                index = free.next_set_bit(cursor)
            except ValueError:
                index = free.next_set_bit(0)
            free.remove(index)
            cursor = index + 1
            free.add(index)

    return CALLS, run


@cache
def _addresses(size: int) -> list[IPv4Address]:
    return [IPv4Address(BASE + index) for index in range(size)]


def _set(size: int, fill: float) -> tuple[int, Callable[[], None]]:
    # As many scripts do: take the first address of the network that is not in the set.
    network = IPv4Network((BASE, 32 - (size - 1).bit_length()))
    taken: set[IPv4Address] = set()
    if fill:
        addresses = _addresses(size)
        free = set(free_addresses(size, fill))
        taken.update(address for index, address in enumerate(addresses) if index not in free)

    def run() -> None:
        for address in network:
            if address not in taken:
                break
        taken.add(address)
        taken.remove(address)

    return 1, run


def _netaddr(size: int, fill: float) -> tuple[int, Callable[[], None]]:
    # As in netaddr's documentation: an IPSet of the available addresses.
    netaddr: Any = import_module("netaddr")
    if fill:
        free = netaddr.IPSet(netaddr.IPAddress(BASE + i) for i in free_addresses(size, fill))
    else:
        free = netaddr.IPSet(netaddr.IPNetwork((BASE, 32 - (size - 1).bit_length())))

    def run() -> None:
        address = next(iter(free))
        free.remove(address)
        free.add(address)

    return 1, run


PEERS = {
    "fastipam": _fastipam,
    "bitarray": _bitarray,
    "pyroaring": _pyroaring,
    "set + ipaddress": _set,
    "netaddr IPSet": _netaddr,
}


def pair(peer: str, prefix: int, fill: float) -> Subject:
    """Return the subject of a peer's pair on a pool of this size and fill."""
    calls, run = PEERS[peer](1 << (32 - prefix), fill)
    return Subject(f"{peer} /{prefix} {fill:.2%}", calls, run)


def pairs() -> list[Subject]:
    """Return the subjects of Bitmap's pair at every size and fill."""
    return [pair("fastipam", prefix, fill) for prefix in PREFIXES for fill in FILLS]


def calls_of_a_bitmap() -> list[Subject]:
    """Return three subjects: an empty method; ``allocate`` and ``allocate_many`` on a fresh /12."""
    holder = [Bitmap(1 << 20)]

    def renew() -> None:
        holder[0] = Bitmap(1 << 20)

    def looped(name: str) -> Callable[[], None]:
        def run() -> None:
            method = getattr(holder[0], name)
            for _ in repeat(None, CALLS):
                method()

        return run

    def many() -> numpy.typing.NDArray[Any]:
        return holder[0].allocate_many(1_000_000)

    return [
        Subject("empty method", CALLS, looped("_nothing")),
        Subject("allocate", CALLS, looped("allocate"), renew),
        Subject("allocate_many", 1_000_000, many, renew),
    ]


def full_size_kib() -> float:
    """Return the memory of a Bitmap of a full /12 in KiB."""
    bitmap = Bitmap(1 << 20)
    bitmap.allocate_many(1 << 20)
    return bitmap.__sizeof__() / 1024
