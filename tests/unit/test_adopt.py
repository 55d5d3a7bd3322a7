"""Leases and round robins that another plugin leaves: how they become the store's own."""

from __future__ import annotations

import ipaddress

import pytest
from tests.counting import counts

from fastipam import AddressInUse, Network
from fastipam.ipam import Ipam
from fastipam.lease import Requester
from fastipam.storage.records import keys

POOL = "10.0.0.0/29"  # serves .2 to .6


def test_adopt(ipam: Ipam) -> None:
    """A lease that another plugin gave is here with its time; a second call finds it."""
    net = ipam.network("n", [POOL, "10.1.0.0/29"])
    owner = Requester("old", "eth0")
    assert net._adopt(owner, 4, 0x0A010003, 77)
    before = counts(net)
    assert not net._adopt(owner, 4, 0x0A010003, 78)
    assert counts(net) == before
    lease = net.lookup("10.1.0.3")
    assert lease is not None
    assert (lease.container_id, lease.length, lease.allocated_ns) == ("old", 29, 77)
    assert (lease.record.set_index, net._cursors()) == (1, [])
    assert [(one.kind, one.address, one.wall_ns) for one in net.history()] == [
        ("imported", "10.1.0.3", 77)
    ]
    assert net.release("old") == [lease.address.ip]


def test_adopt_in_an_unknown_network(ipam: Ipam) -> None:
    """Neither network nor ranges need be known; who has other addresses keeps them, in order."""
    net = Network(ipam.store, "n", None)
    owner = Requester("old", "")
    assert net._adopt(owner, 6, 7, 1)
    assert net._adopt(owner, 4, 0x0A000005, 1)
    assert net._owned("old", "") == [(6, 7), (4, 0x0A000005)]
    known = ipam.network("n", POOL)
    assert [(one.cidr, one.record.set_index) for one in known.leases()] == [
        ("10.0.0.5/32", keys.NO_SET),
        ("::7/128", keys.NO_SET),
    ]
    known.allocate("new")
    assert counts(known) == {"size": 6, "assigned": 3, "cooling": 0, "reserved": 0, "free": 3}
    assert known.release("old", "eth0") == [
        ipaddress.ip_address("::7"), ipaddress.ip_address("10.0.0.5"),
    ]  # fmt: skip


def test_adopt_outside(ipam: Ipam) -> None:
    """An address outside the ranges is counted as such, until it is given back."""
    net = ipam.network("n", POOL, cooldown_s=0)
    net.allocate("a")
    assert net._adopt(Requester("old", "eth0"), 4, 0x0A090909, 1)
    assert counts(net) == {"size": 6, "assigned": 2, "cooling": 0, "reserved": 0, "free": 4}
    assert net._adopt(Requester("older", "eth0"), 6, 1, 1)
    assert counts(net) == {"size": 7, "assigned": 3, "cooling": 0, "reserved": 0, "free": 4}
    net.release("a")
    assert counts(net) == {"size": 7, "assigned": 2, "cooling": 0, "reserved": 0, "free": 5}
    net.release("older")
    net.release("old")
    assert counts(net) == {"size": 5, "assigned": 0, "cooling": 0, "reserved": 0, "free": 5}


def test_length_of_an_adopted_lease(ipam: Ipam) -> None:
    """It is that of the range which held it when it came, once no range does."""
    net = ipam.network("n", POOL)
    net.allocate("a")
    assert net._adopt(Requester("old", "eth0"), 4, 0x0A000005, 1)
    ipam.network("n", "10.9.0.0/24").allocate("b")
    assert [lease.cidr for lease in net.leases()] == ["10.0.0.2/29", "10.0.0.5/29", "10.9.0.2/24"]


def test_adopt_what_is_reserved(ipam: Ipam) -> None:
    """A reserved address is taken over for its owner, and for nobody else."""
    net = ipam.network("n", POOL)
    net.reserve("10.0.0.5", owner="old")
    with pytest.raises(AddressInUse, match="reserved for old"):
        net._adopt(Requester("another", "eth0"), 4, 0x0A000005, 1)
    assert net._adopt(Requester("old", "eth0"), 4, 0x0A000005, 1)
    assert (net.stats().assigned, net.stats().reserved) == (1, 0)


def test_adopt_what_somebody_has(ipam: Ipam) -> None:
    """Somebody else's address stays his; one that only cools is taken over."""
    net = ipam.network("n", POOL)
    net.allocate("a")
    with pytest.raises(AddressInUse, match="assigned to a eth0"):
        net._adopt(Requester("old", "eth0"), 4, 0x0A000002, 1)
    assert net._owned("old", "eth0") == []
    net.release("a")
    assert net._adopt(Requester("old", "eth0"), 4, 0x0A000002, 1)
    assert (net.stats().assigned, net.stats().cooling) == (1, 0)


def test_start_from(ipam: Ipam) -> None:
    """A round robin begins behind another plugin's last address, and is not set back later."""
    net = ipam.network("n", POOL)
    assert net._start_from(0, 4, 0x0A000003)
    assert not net._start_from(0, 4, 0x0A000002)
    assert str(net.allocate("a").address.ip) == "10.0.0.4"
