"""A second ADD of one owner with ``repeatAdd: return``: what it returns, and what it records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.errors import DuplicateAllocation
from fastipam.ipam import open_with
from fastipam.lease import Requester
from fastipam.namespaces import Netns
from fastipam.network import Network
from fastipam.testing import Clock

if TYPE_CHECKING:
    from pathlib import Path

    from .plugin import Call, Held, Make

IPAM: dict[str, Any] = {"subnet": "10.1.2.0/29", "repeatAdd": "return", "cooldown": 0}
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="


def _lease(tmp_path: Path) -> fastipam.Lease:
    with fastipam.open(tmp_path / "store") as ipam:
        (lease,) = ipam.network("mynet").leases()
        return lease


def test_the_lease_has_the_new_namespace(call: Call, config: Make, tmp_path: Path) -> None:
    """The lease of a returned address has the namespace, time and pod of the second ADD."""
    made = config(ipam=IPAM)
    first = call("ADD", made, netns="/old", args=POD + "web-0")
    before = _lease(tmp_path)
    again = call("ADD", made, netns="/new", args=POD + "web-1")
    assert again.document == first.document
    after = _lease(tmp_path)
    assert (before.netns, before.pod_name) == ("/old", "web-0")
    assert (after.netns, after.pod_name) == ("/new", "web-1")
    assert after.generation > before.generation
    assert after.allocated_ns > before.allocated_ns


def test_a_pod_that_is_not_named_stays(call: Call, config: Make, tmp_path: Path) -> None:
    """A second ADD without the pod's names changes the namespace only."""
    made = config(ipam=IPAM)
    call("ADD", made, netns="/old", args=POD + "web-0")
    call("ADD", made, netns="/new")
    assert (_lease(tmp_path).netns, _lease(tmp_path).pod_name) == ("/new", "web-0")


@pytest.mark.parametrize(
    ("first", "then"), [("10.1.2.0/29", "10.1.0.0/16"), ("10.1.0.0/16", "10.1.0.0/29")]
)
def test_the_prefix_length_stays(
    first: str, then: str, call: Call, config: Make, tmp_path: Path
) -> None:
    """The container lives with the prefix length of its first ADD, whatever the ranges are now."""
    before = call("ADD", config(ipam=IPAM | {"subnet": first}))
    made = config(ipam=IPAM | {"subnet": then})
    again = call("ADD", made)
    length = first.partition("/")[2]
    assert [one.document["ips"][0]["address"].partition("/")[2] for one in (before, again)] == [
        length
    ] * 2
    assert again.document["ips"][0]["address"] == before.document["ips"][0]["address"]
    assert _lease(tmp_path).length == int(length)
    assert call("CHECK", made | {"prevResult": before.document}).status == 0
    assert call("ADD", made, "other").document["ips"][0]["address"].endswith(then.partition("/")[2])


def test_a_length_that_was_not_known(call: Call, config: Make, tmp_path: Path) -> None:
    """A lease that was imported before the ranges were known gets their prefix length."""
    with fastipam.open(tmp_path / "store") as ipam:
        network = Network(ipam.store, "mynet", None)
        network._adopt(Requester("c1", "eth0"), 4, 0x0A010203, 1)
    made = config(ipam=IPAM)
    assert call("ADD", made, "c1").document["ips"][0]["address"] == "10.1.2.3/29"


def test_a_gc_from_before_spares_it(call: Call, config: Make, held: Held, tmp_path: Path) -> None:
    """A GC that began before the second ADD does not release what that has returned."""
    made = config(ipam=IPAM)
    call("ADD", made)
    began = _lease(tmp_path).allocated_ns + 1
    call("ADD", made)
    gc = made | {"cni.dev/valid-attachments": []}
    assert call("GC", gc, started_ns=began).status == 0
    assert list(held()) == ["10.1.2.2"]


def test_both_families_are_renewed(call: Call, config: Make, tmp_path: Path) -> None:
    """Every address of the owner gets the new namespace, and keeps its range set."""
    ranges = [[{"subnet": "10.1.2.0/29"}], [{"subnet": "fd00::/64"}]]
    made = config(ipam={"ranges": ranges, "repeatAdd": "return"})
    first = call("ADD", made, netns="/old")
    assert call("ADD", made, netns="/new").document == first.document
    with fastipam.open(tmp_path / "store") as ipam:
        leases = list(ipam.network("mynet").leases())
    assert [one.netns for one in leases] == ["/new", "/new"]
    assert [one.record.set_index for one in leases] == [0, 1]


def test_another_address(call: Call, config: Make, held: Held) -> None:
    """A request for another address is code 102, and the message names both."""
    made = config(ipam=IPAM)
    call("ADD", made)
    answer = call("ADD", made, args="IP=10.1.2.5")
    assert answer.code == 102
    assert "10.1.2.2" in answer.message
    assert "10.1.2.5" in answer.message
    assert call("ADD", made, args="IP=10.1.2.2").addresses == ["10.1.2.2/29"]
    assert list(held()) == ["10.1.2.2"]


def test_the_library(tmp_path: Path) -> None:
    """``existing="return"`` records namespace, time and pod too, and keeps what is not named."""
    clock = Clock()
    with open_with(tmp_path / "store", clock=clock) as ipam:
        network = ipam.network("net", "10.0.0.0/29")
        first = network.allocate("c1", netns=Netns("/old", inode=7), pod=("n", "a"))
        clock.advance(5)
        again = network.allocate("c1", netns=Netns("/new", inode=8), existing="return")
        assert (again.netns, again.inode, again.pod_name) == ("/new", 8, "a")
        assert again.allocated_ns - first.allocated_ns == 5 * 10**9
        clock.advance(5)
        third = network.allocate("c1", pod=("n", "b"), existing="return")
        assert (third.netns, third.inode, third.pod_name) == ("/new", 8, "b")
        assert third.address == first.address
        with pytest.raises(DuplicateAllocation, match=r"10\.0\.0\.2 is .* requests 10\.0\.0\.5"):
            network.allocate("c1", addresses=["10.0.0.5"], existing="return")
        assert network.lookup("10.0.0.2") == third
