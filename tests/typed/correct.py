"""Programs that use the library as it is meant: both type checkers accept every line.

``test_checkers.py`` checks them, and nothing runs them.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from pathlib import Path

import fastipam
from fastipam import Bitmap, Ipam, Lease, Netns, Network, Owner, Pod, Transaction, testing


def open_stores(path: Path) -> list[str]:
    """A path may be text or a Path, a durability is one of two words."""
    with fastipam.open() as ipam, fastipam.open(path, "relaxed", patience_s=2) as other:
        both = [ipam, fastipam.open(str(path), durability="durable", create=False), other]
        return [each.path for each in both]


def networks(ipam: Ipam) -> list[Network]:
    """Ranges are text, range sets, or None for those that the store has."""
    mixed = [{"subnet": "10.3.0.0/24", "gateway": "10.3.0.254"}, "fd00:3::/64"]
    one_set = [["10.5.0.0/24", {"subnet": "10.6.0.0/24"}]]
    return [
        ipam.network("one", fastipam.DEFAULT_RANGE),
        ipam.network("two", ["10.2.0.0/24", "fd00::/64"], exclude=["10.2.0.8/29"]),
        ipam.network("three", mixed),
        ipam.network("three", one_set),
        ipam.network("four", cooldown_s=0, cooldown_policy="strict", sticky_s=60, history=0),
    ]


def move(ipam: Ipam, owner: Owner) -> Lease:
    """A block has the networks that the handle gives."""
    with ipam.transaction() as txn:
        txn.network("old").release(*owner)
        return txn.network("new").allocate(owner.container_id, owner.ifname)


def count(txn: Transaction) -> int:
    """A function may be a transaction."""
    return sum(txn.network(name).stats().assigned for name in txn.networks())


async def task(ipam: Ipam) -> int:
    """A coroutine awaits it, and gets what it returns."""
    names: list[str] = await ipam.run(lambda txn: txn.networks())
    return len(names) + await ipam.run(count)


def assign(net: Network) -> Lease:
    """Addresses are objects or text; existing is one of two words."""
    net.allocate("c1", "eth1", addresses=["10.1.0.9", IPv4Address("10.1.0.10")])
    net.allocate("c2", addresses=("10.1.0.11",), netns=Netns.of("/proc/self/ns/net"))
    net.allocate("c3", addresses={ip_interface("10.1.0.12/24")}, pod=Pod("web", "web-0", "uid"))
    again: list[IPv4Address | IPv6Address] = net.release("c3")
    net.allocate("c3", addresses=again)
    net.allocate_many([("c4", "eth0"), Owner("c5")], pods=[("web", "web-1"), None])
    lease = net.allocate("c1", existing="return")
    address: IPv4Interface | IPv6Interface = lease.address
    gateway: IPv4Address | IPv6Address | None = lease.gateway
    print(address.network, gateway and gateway.packed, lease.owner.ifname, lease.created)
    return lease


def keep(net: Network, living: dict[str, str]) -> int:
    """Owners are objects or pairs, in whatever has them."""
    freed = net.retain(living.items(), time.time_ns())
    freed += net.retain({Owner(each) for each in living}, time.time_ns())
    return len(freed) + net.release_many(Owner(each) for each in living)


def reserve(net: Network) -> list[IPv4Address | IPv6Address]:
    """A target is an address, a network, or a text of one."""
    net.reserve(IPv4Address("10.1.0.20"), owner="web/web-0", reason="moved by hand")
    return net.unreserve("10.1.0.20-10.1.0.30")


def read(net: Network) -> None:
    """What is read has types: nothing has to be cast."""
    found = net.lookup("10.1.0.9") or net.get("c1")
    if found is not None and found.address.ip in net:
        print(found.cidr.partition("/"), [each.ip for each in found.addresses])
    owners: dict[Owner, str] = {lease.owner: lease.cidr for lease in net.leases()}
    pods = [lease.pod.name for lease in net.owned_by("c1") if lease.pod is not None]
    stats = net.stats()
    full = [each.family for each in stats.sets if each.full] or stats.can_serve
    print(owners, pods, full, sum(event.wall_ns for event in net.history("10.1.0.9")))


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
    with testing.temporary_network("10.1.0.0/29", clock=clock, cooldown_s=1) as net:
        testing.exhaust(net, leave=1)
        clock.advance(1.5)
    full = fastipam.StoreFull("no space is left")
    with testing.temporary_store() as store, store.open() as ipam, testing.failing(ipam, full):
        print(ipam.networks())
