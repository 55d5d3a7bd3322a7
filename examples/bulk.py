#!/usr/bin/env python3
"""Bulk allocation: a hundred thousand addresses at once, as numpy arrays and as leases.

There are two ways. A :class:`fastipam.Bitmap` is the address space alone, in memory, for a program
that plans addresses or stores them itself. Its ``allocate_many`` returns a numpy array of indices,
and everything after it is array arithmetic: here the addresses of an eBPF map, in network byte
order. :meth:`fastipam.Network.allocate_many` makes leases in the store, thousands in one
transaction: here a pool of addresses for owners that do not exist yet.
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
import time
from typing import Any

import numpy as np

import fastipam

BATCH = 8192  # leases a transaction, because other writers wait for its end


def plan(bitmap: fastipam.Bitmap, subnet: ipaddress.IPv4Network, count: int) -> Any:
    """Return ``count`` free addresses of the subnet, as big-endian 32-bit numbers; all or none."""
    indices = bitmap.allocate_many(count).astype(np.uint32)
    return (indices + np.uint32(int(subnet.network_address))).astype(">u4")


def warm_pool(network: fastipam.Network, count: int) -> Any:
    """Make ``count`` leases for placeholder owners; return their addresses as an array."""
    values = np.empty(count, dtype=np.uint32)
    for first in range(0, count, BATCH):
        owners = [(f"warm-{number}", "eth0") for number in range(first, min(first + BATCH, count))]
        leases = network.allocate_many(owners)
        values[first : first + len(leases)] = [lease.value for lease in leases]
    return values


def main() -> int:
    """Do both, check the results, and print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir")
    parser.add_argument("--subnet", default="10.32.0.0/12", type=ipaddress.IPv4Network)
    parser.add_argument("--count", default=100_000, type=int)
    options = parser.parse_args()
    subnet, count = options.subnet, options.count

    bitmap = fastipam.Bitmap(subnet.num_addresses)
    bitmap.acquire(0)  # network address
    bitmap.acquire(subnet.num_addresses - 1)  # broadcast
    begin = time.perf_counter()
    planned = plan(bitmap, subnet, count)
    print(f"{count} addresses planned in {(time.perf_counter() - begin) * 1e3:.1f} ms, ", end="")
    print(f"{planned.nbytes} bytes, first {ipaddress.IPv4Address(int(planned[0]))}")

    with fastipam.open(options.data_dir) as ipam:
        network = ipam.network("warm", str(subnet))
        begin = time.perf_counter()
        values = warm_pool(network, count)
        print(f"{count} leases in {time.perf_counter() - begin:.2f} s, durable")
        unique = len(np.unique(values))
        print(f"{unique} different addresses, {network.stats().free} left")
    return 0 if unique == count == len(np.unique(planned)) else 1


if __name__ == "__main__":
    sys.exit(main())
