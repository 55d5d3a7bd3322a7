#!/usr/bin/env python3
"""Allocation policies of a program's own, and what fastipam offers for them.

There is no callback that chooses an address: it would run inside the store's one write transaction,
and all other writers would wait for it. These are enough:

- ``allocate(addresses=[…])`` takes a named address, or raises AddressInUse and changes nothing;
- ``lookup`` returns who has an address;
- ``with ipam.transaction() as txn:`` makes the calls on ``txn``'s networks one commit, so that no
  other writer is between them;
- :class:`fastipam.Bitmap` finds the next free index of an interval, for a program's own records.

There are two policies here. :func:`by_name` assigns a pod the address that its name hashes to, so
that the pod gets the same address again without a record. :class:`Racks` keeps the pods of a rack
together.
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
from hashlib import blake2b

import fastipam

PROBES = 8  # tries before round robin: at 90 % full, one of 8 is free with 57 %


def preferences(pod: str, subnet: ipaddress.IPv4Network) -> list[str]:
    """Yield the addresses that a pod's name hashes to, in order of preference."""
    found = []
    for probe in range(PROBES):
        raw = blake2b(f"{probe}/{pod}".encode(), digest_size=8).digest()
        index = 2 + int.from_bytes(raw, "big") % (subnet.num_addresses - 3)  # not .0, .1, broadcast
        found.append(str(subnet[index]))
    return found


def by_name(
    ipam: fastipam.Ipam, name: str, subnet: ipaddress.IPv4Network, pod: str
) -> fastipam.Lease:
    """Assign the first free address that the pod's name prefers, else the next one; one commit."""
    with ipam.transaction() as txn:
        network = txn.network(name, str(subnet), cooldown_s=0)
        for wanted in preferences(pod, subnet):
            try:
                return network.allocate(pod, addresses=[wanted])
            except fastipam.AddressInUse:
                continue  # the call changed nothing, and the transaction goes on
        return network.allocate(pod)


class Racks:
    """A slice of the network for each rack; a pod gets an address of its rack if one is free.

    The bitmap is what this program believes to be free, and saves requests; the store decides. An
    address that another process took is refused, and then marked as taken.
    """

    def __init__(
        self,
        network: fastipam.Network,
        subnet: ipaddress.IPv4Network,
        racks: dict[str, ipaddress.IPv4Network],
    ) -> None:
        self._network = network
        self._base = int(subnet.network_address)
        self._racks = racks
        self._bitmap = fastipam.Bitmap(subnet.num_addresses)
        for index in (0, 1, subnet.num_addresses - 1):  # network, gateway, broadcast
            self._bitmap.acquire(index)
        for lease in network.leases():
            self._bitmap.acquire(lease.value - self._base)

    def allocate(self, rack: str, pod: str) -> fastipam.Lease:
        """Assign an address of the pod's rack, else any free address."""
        first = int(self._racks[rack].network_address) - self._base
        stop = first + self._racks[rack].num_addresses
        while (index := self._bitmap.next_free(first, stop)) is not None:
            self._bitmap.acquire(index)
            try:
                return self._network.allocate(
                    pod, addresses=[ipaddress.IPv4Address(self._base + index)]
                )
            except fastipam.AddressInUse:
                continue
        lease = self._network.allocate(pod)
        self._bitmap.acquire(lease.value - self._base)
        return lease

    def release(self, pod: str) -> None:
        """Release a pod's address."""
        for address in self._network.release(pod):
            self._bitmap.release(int(address) - self._base)


def main() -> int:
    """Show both policies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir")
    options = parser.parse_args()
    subnet = ipaddress.IPv4Network("10.40.0.0/16")
    with fastipam.open(options.data_dir) as ipam:
        first = by_name(ipam, "by-name", subnet, "web-0")
        ipam.network("by-name").release("web-0")
        again = by_name(ipam, "by-name", subnet, "web-0")
        print(f"web-0: {first.cidr}, and after a restart {again.cidr}")

        subnet = ipaddress.IPv4Network("10.41.0.0/24")
        slices = {"a": subnet, "b": ipaddress.IPv4Network("10.41.0.128/30")}
        racks = Racks(ipam.network("racks", str(subnet)), subnet, slices)
        leases = [racks.allocate("b", f"pod-{number}") for number in range(6)]
        print("rack b:", ", ".join(str(lease.address.ip) for lease in leases))
    return 0 if first.address == again.address else 1


if __name__ == "__main__":
    sys.exit(main())
