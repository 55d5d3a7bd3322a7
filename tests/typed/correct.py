"""Programs that use the library as it is meant: both type checkers accept every line.

``test_checkers.py`` checks them, and nothing runs them.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

import fastipam
from fastipam import Bitmap, Ipam, Lease, Network, testing


def open_stores(path: Path) -> list[str]:
    """A path may be text or a Path, a durability is one of two words."""
    with fastipam.open() as ipam, fastipam.open(path, "relaxed") as other:
        both = [ipam, fastipam.open(str(path), durability="durable", create=False), other]
        return [each.path for each in both]


def networks(ipam: Ipam) -> list[Network]:
    """Ranges are text, range sets, or None for those that the store has."""
    return [
        ipam.network("one", "10.1.0.0/24"),
        ipam.network("two", ["10.2.0.0/24", "fd00::/64"], exclude=["10.2.0.8/29"]),
        ipam.network("three", [{"subnet": "10.3.0.0/24", "gateway": "10.3.0.254"}]),
        ipam.network("four", cooldown_s=0, cooldown_policy="strict", sticky_s=60, history=0),
    ]


def assign(net: Network) -> Lease:
    """Addresses are objects or text; existing is one of two words."""
    net.allocate("c1", "eth1", addresses=["10.1.0.9", IPv4Address("10.1.0.10")])
    net.allocate_many([("c2", "eth0"), ("c3", "eth0")])
    lease = net.allocate("c1", existing="return")
    address: IPv4Interface | IPv6Interface = lease.address
    gateway: IPv4Address | IPv6Address | None = lease.gateway
    print(address.network, gateway and gateway.packed, lease.container_id.upper())
    return lease


def read(net: Network) -> None:
    """What is read has types: nothing has to be cast."""
    found = net.lookup("10.1.0.9")
    if found is not None:
        print(found.cidr.partition("/"), [each.ip for each in found.addresses])
    owners: dict[str, str] = {lease.cidr: lease.container_id for lease in net.leases()}
    freed: list[IPv4Address | IPv6Address] = net.release("c1")
    print(owners, freed, sum(event.wall_ns for event in net.history("10.1.0.9")))


def refused(net: Network) -> float | None:
    """Errors have fields of their own."""
    try:
        net.allocate("c1")
    except fastipam.PoolExhausted as error:
        return error.retry_after_s
    except fastipam.ConfigError as error:
        print(error.field, error.value, error.hint)
    return None


def plugin(environ: dict[str, str], stdin: bytes) -> bytes:
    """The whole plugin is one call."""
    status, output = fastipam.cni.handle(environ, stdin)
    return output if status == 0 else b""


def main_plugin(environ: dict[str, str], stdin: bytes) -> tuple[int, dict[str, object]]:
    """A plugin of one's own has the request, the result and the error object."""
    try:
        request = fastipam.cni.Request.parse(environ, stdin)
        lease = request.allocate(existing="return")
        links = [{"name": request.ifname, "sandbox": request.netns, "mac": "02:00:00:00:00:01"}]
        return 0, {**fastipam.cni.result(lease, request.version, interfaces=links)}
    except fastipam.FastipamError as error:
        return error.cni_code, fastipam.cni.error_object(error, "1.1.0")


def plan() -> int | None:
    """A bitmap counts in integers."""
    bitmap = Bitmap(1 << 20)
    bitmap.acquire(0)
    return bitmap.next_free(bitmap.allocate(), 1024)


def tests() -> None:
    """The tools for tests are typed as well."""
    clock = testing.Clock()
    with testing.temporary_network("10.1.0.0/29", clock=clock) as net:
        testing.exhaust(net, leave=1)
        clock.advance(1.5)
    full = fastipam.StoreFull("no space is left")
    with testing.temporary_store() as store, store.open() as ipam, testing.failing(ipam, full):
        print(ipam.networks())
