"""The contenders in this process: fastipam's library, and simple code around a set of addresses.

That code keeps only a dictionary of owners: no file, nothing for other processes, nothing after a
crash. That is why it is faster than a store.
"""

from __future__ import annotations

from importlib import import_module
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, Literal

import fastipam
from bench.stores import IFNAME, NETWORK
from bench.workloads.contenders import Library, fill_network
from fastipam.ipam import open_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.workloads.traces import Workload

    Make = Callable[[str, Workload, Path], Library]

_SIZE = 1 << 20  # a /12
_FIRST = 0x0A200000
_RESERVED = (0, 1, _SIZE - 1)  # network, gateway and broadcast address


def store(durability: Literal["durable", "relaxed"]) -> Make:
    """Return a maker of contenders with fastipam's library on a store of their own."""

    def make(name: str, workload: Workload, scratch: Path) -> Library:
        ipam = open_with(scratch / "store", durability)
        network = ipam.network(NETWORK, [[{"subnet": pool}] for pool in workload.pools])
        return Library(
            name,
            lambda who: network.allocate(who, IFNAME),
            lambda who: network.release(who, IFNAME),
            ipam.close,
            lambda leases: fill_network(network, leases),
        )

    return make


def _with_owners(name: str, take: Callable[[], Any], give: Callable[[Any], object]) -> Library:
    owners: dict[str, Any] = {}

    def add(who: str) -> None:
        owners[who] = take()

    def delete(who: str) -> None:
        give(owners.pop(who))

    return Library(name, add, delete)


def bitmap(name: str, _: Workload, __: Path) -> Library:
    """Return a contender with ``fastipam.Bitmap``."""
    bits = fastipam.Bitmap(_SIZE)
    for index in _RESERVED:
        bits.acquire(index)
    return _with_owners(name, bits.allocate, bits.release)


def bits(name: str, _: Workload, __: Path) -> Library:
    """Return a contender with a bitarray: it takes the first zero after a cursor."""
    array: Any = import_module("bitarray").bitarray(_SIZE)
    array.setall(0)
    for index in _RESERVED:
        array[index] = 1
    cursor = 0

    def take() -> int:
        nonlocal cursor
        index: int = array.find(0, cursor)
        if index < 0:
            index = array.find(0)
        array[index] = 1
        cursor = index + 1
        return index

    def give(index: int) -> None:
        array[index] = 0

    return _with_owners(name, take, give)


def roaring(name: str, _: Workload, __: Path) -> Library:
    """Return a contender with a pyroaring set of the free addresses, and a cursor."""
    free: Any = import_module("pyroaring").BitMap(range(2, _SIZE - 1))
    cursor = 0

    def take() -> int:
        nonlocal cursor
        try:
            index: int = free.next_set_bit(cursor)
        except ValueError:
            index = free.next_set_bit(0)
        free.remove(index)
        cursor = index + 1
        return index

    return _with_owners(name, take, free.add)


def set_of_addresses(name: str, _: Workload, __: Path) -> Library:
    """Return a contender that takes the first host not in a set, as many scripts do."""
    network = IPv4Network((_FIRST, 12))
    taken = {IPv4Address(_FIRST + 1)}

    def take() -> IPv4Address:
        for address in network.hosts():
            if address not in taken:
                taken.add(address)
                return address
        raise RuntimeError("no address is left")

    return _with_owners(name, take, taken.remove)


def netaddr_set(name: str, _: Workload, __: Path) -> Library:
    """Return a contender with an IPSet of the available addresses, as netaddr's documents do."""
    netaddr: Any = import_module("netaddr")
    free = netaddr.IPSet(netaddr.IPNetwork((_FIRST, 12)))
    for index in _RESERVED:
        free.remove(netaddr.IPAddress(_FIRST + index))

    def take() -> Any:
        address = next(iter(free))
        free.remove(address)
        return address

    return _with_owners(name, take, free.add)


STORES: dict[str, Make] = {
    "fastipam library, durable": store("durable"),
    "fastipam library, relaxed": store("relaxed"),
}
IN_MEMORY: dict[str, Make] = {
    "fastipam Bitmap + dict": bitmap,
    "bitarray + dict": bits,
    "pyroaring + dict": roaring,
    "set + ipaddress": set_of_addresses,
    "netaddr IPSet + dict": netaddr_set,
}
