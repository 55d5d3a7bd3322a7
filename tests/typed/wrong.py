"""Wrong programs, one a line: both type checkers refuse each marked line, and no other line.

The mark, ``# wrong: CODE``, names mypy's code of the error; ``test_checkers.py`` says which rule of
pyright belongs to it. No mypy of our own configuration reads this file, and nothing runs it.
"""

from __future__ import annotations

from ipaddress import ip_address

import fastipam
from fastipam import Bitmap, Ipam, Lease, Netns, Network, Owner, Pod, Transaction, testing


def names() -> None:
    """No module has a name that it does not have."""
    from fastipam import anything  # wrong: attr-defined

    print(fastipam.anything)  # wrong: attr-defined
    print(fastipam.Netwrok)  # wrong: attr-defined
    print(fastipam.cni.anything)  # wrong: attr-defined
    print(testing.anything)  # wrong: attr-defined


def opening() -> None:
    """What ``open`` takes."""
    fastipam.open(None)  # wrong: arg-type
    fastipam.open("store", "fast")  # wrong: arg-type
    fastipam.open("store", create="yes")  # wrong: arg-type
    fastipam.open("store", patience="2")  # wrong: call-arg
    fastipam.open("store", patience_s="2")  # wrong: arg-type
    fastipam.open("store", map_size=1 << 30)  # wrong: call-arg


def networks(ipam: Ipam) -> None:
    """What ``network`` takes."""
    ipam.network()  # wrong: call-arg
    ipam.network("n", cooldown="3")  # wrong: call-arg
    ipam.network("n", cooldown_s="3")  # wrong: arg-type
    ipam.network("n", cooldown_policy="sometimes")  # wrong: arg-type
    ipam.network("n", 10)  # wrong: arg-type
    ipam.network("n", [10])  # wrong: list-item
    ipam.network("n", "10.1.0.0/24", exclude="10.1.0.9")  # wrong: arg-type
    ipam.netwrok("n")  # wrong: attr-defined


def transactions(ipam: Ipam, txn: Transaction, net: Network) -> None:
    """What a block has."""
    txn.allocate("c1")  # wrong: attr-defined
    txn.network("n", cooldown="3")  # wrong: call-arg
    ipam.transaction("n")  # wrong: call-arg
    net.transaction()  # wrong: attr-defined


async def tasks(ipam: Ipam, net: Network) -> None:
    """What a coroutine calls."""
    ipam.run(lambda txn: txn.networks())  # wrong: unused-coroutine
    await ipam.run("n")  # wrong: arg-type
    await ipam.run(net.allocate)  # wrong: arg-type
    await ipam.run(lambda txn: txn.anything)  # wrong: attr-defined
    print((await ipam.run(lambda txn: txn.networks())).keys())  # wrong: attr-defined
    await net.allocate("c1")  # wrong: misc


def owners(net: Network) -> None:
    """Who an owner is."""
    net.allocate()  # wrong: call-arg
    net.allocate(1)  # wrong: arg-type
    net.allocate(Owner("c1"))  # wrong: arg-type
    net.allocate("c1", ifnmae="eth1")  # wrong: call-arg
    net.allocate_many(["c1"])  # wrong: list-item
    net.allocate_many([["c1", "eth0"]])  # wrong: list-item
    net.allocate_many([{"container_id": "c1"}])  # wrong: list-item
    net.allocate_many([("c1", "eth0", "web-0")])  # wrong: list-item
    net.release(("c1", "eth0"))  # wrong: arg-type
    net.release(Owner("c1"))  # wrong: arg-type
    net.release_many("c1")  # wrong: arg-type
    net.release_many({"c1": "eth0"})  # wrong: dict-item
    net.retain(None, 0)  # wrong: arg-type
    net.retain(["a1"], 0)  # wrong: list-item
    net.retain([Owner("a1")])  # wrong: call-arg
    net.retain([Owner("a1")], "now")  # wrong: arg-type
    net.retain((name for name in ("a1", "b1")), 0)  # wrong: misc
    net.owned_by(Owner("c1"))  # wrong: arg-type
    Owner()  # wrong: call-arg
    Owner("c1", 0)  # wrong: arg-type
    print(Owner("c1").container)  # wrong: attr-defined


def requests(net: Network) -> None:
    """What ``allocate`` takes beside the owner."""
    net.allocate("c1", addresses="10.1.0.3")  # wrong: arg-type
    net.allocate("c1", addresses=ip_address("10.1.0.3"))  # wrong: arg-type
    net.allocate("c1", addresses=["10.1.0.3", 5])  # wrong: list-item
    net.allocate("c1", addresses=[(4, 167837699)])  # wrong: list-item
    net.allocate("c1", existing="retrun")  # wrong: arg-type
    net.allocate("c1", existing=True)  # wrong: arg-type
    net.allocate("c1", netns="/run/netns/c1")  # wrong: arg-type
    net.allocate("c1", pod="web/web-0")  # wrong: arg-type
    net.allocate("c1", pod_name="web-0")  # wrong: call-arg
    net.allocate_many([("c1", "eth0")], pods=["web/web-0"])  # wrong: list-item
    Pod("web")  # wrong: call-arg
    Netns.of(5)  # wrong: arg-type
    print(Netns.of("/run/netns/c1").ino)  # wrong: attr-defined


def addresses(net: Network) -> None:
    """What an address is."""
    net.lookup((4, 167837699))  # wrong: arg-type
    net.lookup(167837699)  # wrong: arg-type
    net.reserve(["10.1.0.3"])  # wrong: arg-type
    net.reserve("10.1.0.3", until=5)  # wrong: call-arg
    print(5 in net)  # wrong: operator


def answers(net: Network) -> None:
    """What is returned."""
    print(net.allocate("c1").adress)  # wrong: attr-defined
    print(net.allocate("c1").address + "/24")  # wrong: operator
    print(net.get("c1").address)  # wrong: union-attr
    print(net.lookup("10.1.0.2").address)  # wrong: union-attr
    print(net.owned_by("c1").address)  # wrong: attr-defined
    print(net.release("c1").address)  # wrong: attr-defined
    print(net.release_many([Owner("c1")])[0])  # wrong: index
    print(net.stats()["assigned"])  # wrong: index
    print(net.stats().asigned)  # wrong: attr-defined
    print(net.stats().sets[0]["free"])  # wrong: index
    print(net.leases()[0])  # wrong: index


def bitmaps(lease: Lease) -> None:
    """What a bitmap counts."""
    Bitmap("10.0.0.0/8")  # wrong: arg-type
    Bitmap(8).acquire(lease.address.ip)  # wrong: arg-type
    Bitmap(8).acquire(Bitmap(8).next_free())  # wrong: arg-type


def errors() -> None:
    """What an error has."""
    print(fastipam.PoolExhausted("full").retry_after)  # wrong: attr-defined
    print(fastipam.PoolExhausted("full").retry_after_s + 1)  # wrong: operator
    print(fastipam.StoreFull("full").field)  # wrong: attr-defined
    print(fastipam.StoreFull("full", hints="free some"))  # wrong: call-arg


def plugins(request: fastipam.cni.Request, lease: Lease) -> None:
    """What a plugin calls."""
    fastipam.cni.handle({}, "{}")  # wrong: arg-type
    fastipam.cni.Request.parse({}, "{}")  # wrong: arg-type
    print(request.ifnmae)  # wrong: attr-defined
    print(request.netns.inode)  # wrong: attr-defined
    request.delegate("DELETE")  # wrong: arg-type
    request.allocate(existing="retrun")  # wrong: arg-type
    fastipam.cni.result("10.1.0.2/24", request.version)  # wrong: arg-type
    fastipam.cni.result(lease)  # wrong: call-arg
    fastipam.cni.result(lease, "1.1.0", interfaces={"name": "eth0"})  # wrong: dict-item
    fastipam.cni.error_object("it failed", request.version)  # wrong: arg-type


def tests(ipam: Ipam) -> None:
    """What the tools for tests take."""
    testing.Clock("now")  # wrong: arg-type
    testing.Clock().advance("a minute")  # wrong: arg-type
    testing.failing(ipam, OSError("no space is left"))  # wrong: arg-type
    testing.temporary_network("10.1.0.0/24", cooldown="3")  # wrong: call-arg
    testing.temporary_network(cooldown_s="3")  # wrong: arg-type
    testing.exhaust(ipam)  # wrong: arg-type
