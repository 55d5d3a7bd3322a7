"""Wrong programs, one a line: both type checkers refuse each marked line, and no other line.

The mark, ``# wrong: CODE``, names mypy's code of the error; ``test_checkers.py`` says which rule of
pyright belongs to it. No mypy of our own configuration reads this file, and nothing runs it.
"""

from __future__ import annotations

import fastipam
from fastipam import Bitmap, Ipam, Lease, Network, testing


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
    fastipam.open("store", create="yes")  # wrong: arg-type


def networks(ipam: Ipam) -> None:
    """What ``network`` takes."""
    ipam.network()  # wrong: call-arg
    ipam.network("n", cooldown="3")  # wrong: call-arg
    ipam.network("n", cooldown_s="3")  # wrong: arg-type
    ipam.network("n", 10)  # wrong: arg-type
    ipam.netwrok("n")  # wrong: attr-defined


def owners(net: Network) -> None:
    """Who an owner is."""
    net.allocate()  # wrong: call-arg
    net.allocate(1)  # wrong: arg-type
    net.allocate("c1", ifnmae="eth1")  # wrong: call-arg
    net.allocate_many([{"container_id": "c1"}])  # wrong: list-item
    net.release(("c1", "eth0"))  # wrong: arg-type
    net.retain(None, 0)  # wrong: arg-type
    net.retain(["a1"], 0)  # wrong: list-item
    net.retain({("a1", "eth0")})  # wrong: call-arg


def leases(net: Network) -> None:
    """What a lease has."""
    print(net.allocate("c1").adress)  # wrong: attr-defined
    print(net.lookup("10.1.0.2").address)  # wrong: union-attr
    print(net.allocate("c1").address + "/24")  # wrong: operator
    print(net.release("c1").address)  # wrong: attr-defined


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
    testing.exhaust(ipam)  # wrong: arg-type
