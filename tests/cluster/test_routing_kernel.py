"""Routes in the kernel, in a network namespace of the test's own."""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
from typing import TYPE_CHECKING

import pytest

from fastipam import rtnetlink
from fastipam.addressing.addresses import parse_cidr, parse_ip
from fastipam.cluster.routing import kernel
from fastipam.cluster.routing.events import Events
from fastipam.cluster.routing.kernel import Hop, Kernel, Route, unreachable, via
from fastipam.errors import ConfigError
from tests.e2e import netns, tools
from tests.e2e.netns import within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.netns import NetNS


def route(text: str, gateway: str = "") -> Route:
    """A route from text."""
    prefix = parse_cidr(text)
    return via(prefix, parse_ip(gateway)[1]) if gateway else unreachable(prefix)


def installed() -> list[Route]:
    """What the kernel has."""
    with Kernel() as one:
        return one.installed()


@pytest.fixture
def node() -> Iterator[NetNS]:
    """A namespace with a link that has 192.0.2.254/24 and 2001:db8::fe/64, and a default route."""
    tools.require_root()
    tools.require_tools("ip", "nsenter")
    with netns.temporary("routes") as made:
        for command in (
            "link add d0 type veth peer name d1",
            "link set d1 up",
            "address add 192.0.2.254/24 dev d0",
            "address add 2001:db8::fe/64 dev d0 nodad",
            "link set d0 up",
            "route add default via 192.0.2.1",
        ):
            made.run("ip", *command.split())
        yield made


TABLE = [
    route("10.32.0.0/23", "192.0.2.3"),
    route("10.32.4.0/24"),
    route("10.32.0.0/12"),
    route("fd32::/112", "2001:db8::3"),
    route("fd32::1:0/112"),
]


def test_set_and_deleted(node: NetNS) -> None:
    """What was set is there, and ip says the same; what was deleted is gone."""

    def work() -> None:
        with Kernel() as one:
            one.require_rights()
            assert one.replace(TABLE) == []
            assert sorted(map(str, one.installed())) == sorted(map(str, TABLE))
            assert one.replace(TABLE) == []
            assert len(one.installed()) == len(TABLE)
            assert one.delete(TABLE[:2]) == one.delete(TABLE[:2]) == []
            assert set(one.installed()) == set(TABLE[2:])

    within(node, work)
    assert "unreachable 10.32.0.0/12 proto 147 metric 14700" in node.run("ip", "route").stdout
    shown = node.run("ip", "-6", "route").stdout
    assert "fd32::/112 via 2001:db8::3 dev d0 proto 147 metric 1470" in shown
    assert within(node, kernel.remove_all) == 3
    assert within(node, kernel.remove_all) == 0
    assert node.run("ip", "route", "show", "proto", "147").stdout == ""


def test_a_route_is_replaced(node: NetNS) -> None:
    """Another gateway of the same prefix takes the place of the one before, in both families."""
    moved = [route("10.32.0.0/23", "192.0.2.9"), route("fd32::/112", "2001:db8::9")]

    def work() -> list[Route]:
        with Kernel() as one:
            assert one.replace(TABLE) == one.replace(moved) == []
            return one.installed()

    found = within(node, work)
    assert len(found) == len(TABLE)
    assert set(found) == {*moved, TABLE[1], TABLE[2], TABLE[4]}


def test_routes_of_others(node: NetNS) -> None:
    """A route of the same prefix that an administrator made stays, and wins."""
    node.run("ip", "route", "add", "10.32.0.0/23", "via", "192.0.2.77")
    node.run("ip", "-6", "route", "add", "fd32::/112", "via", "2001:db8::77")
    node.run("ip", "route", "add", "10.32.0.0/12", "via", "192.0.2.78", "proto", "bird")

    def work() -> None:
        with Kernel() as one:
            assert one.replace(TABLE) == []

    within(node, work)
    assert "via 192.0.2.77" in node.run("ip", "route", "get", "10.32.0.5").stdout
    assert "via 2001:db8::77" in node.run("ip", "route", "get", "fd32::5").stdout
    assert within(node, kernel.remove_all) == len(TABLE)
    assert "via 192.0.2.77" in node.run("ip", "route", "show", "10.32.0.0/23").stdout
    assert "via 192.0.2.78" in node.run("ip", "route", "show", "10.32.0.0/12").stdout


def test_odd_routes_of_the_protocol(node: NetNS) -> None:
    """Whatever somebody made with this protocol is listed as none of ours, and can be deleted."""
    odd = (
        "route add 10.32.8.0/24 proto 147 dev d0",
        "route add blackhole 10.32.9.0/24 proto 147",
        "route add 10.32.10.0/24 proto 147 nexthop via 192.0.2.5 nexthop via 192.0.2.6",
        "route add 10.32.11.0/24 proto 147 via 192.0.2.5",  # of `fastipam cluster routes`
        "-6 route add fd32::8:0/112 proto 147 nexthop via 2001:db8::5 nexthop via 2001:db8::6",
    )
    for one in odd:
        node.run("ip", *one.split())
    found = within(node, installed)
    assert [one.gateway for one in found].count(0) == 4
    assert all(one not in {via(one[:3], one.gateway or 0), unreachable(one[:3])} for one in found)
    assert within(node, kernel.remove_all) == len(odd)
    assert within(node, installed) == []


def test_refused(node: NetNS) -> None:
    """A gateway that is on no link is refused, with the kernel's reason; the others are set."""
    bad = [route("10.40.0.0/24", "198.51.100.1"), route("fd40::/112", "2001:db8:1::1")]
    good = [route(f"10.33.{number}.0/24", "192.0.2.3") for number in range(200)]

    def work() -> tuple[list[tuple[Route, int, str]], int]:
        with Kernel() as one:
            refused = one.replace([bad[0], *good, bad[1]])
            return refused, len(one.installed())

    refused, count = within(node, work)
    assert [each[0] for each in refused] == bad
    assert all(number and text for _, number, text in refused)
    assert refused[0][2] == "Nexthop has invalid gateway"
    assert count == len(good)


def test_hops(node: NetNS) -> None:
    """On the link, behind a gateway, an own address, nowhere."""
    addresses = {
        text: parse_ip(text)
        for text in ("192.0.2.3", "198.51.100.1", "192.0.2.254", "2001:db8::3", "2001:db8:1::1")
    }

    def look_up() -> dict[tuple[int, int], Hop]:
        with Kernel() as one:
            return one.look_up(addresses.values())

    found = within(node, look_up)
    hops = {text: found[address] for text, address in addresses.items()}
    assert hops["192.0.2.3"].interface == hops["2001:db8::3"].interface > 1
    assert hops["198.51.100.1"].gateway == "192.0.2.1"
    assert not hops["198.51.100.1"].interface
    assert hops["192.0.2.254"].problem == "it is an address of this machine"
    assert hops["2001:db8:1::1"] == (0, "", "Network is unreachable")
    node.run("ip", "-4", "route", "replace", "default", "via", "inet6", "2001:db8::1", "dev", "d0")
    found = within(node, look_up)
    assert found[addresses["198.51.100.1"]].gateway == "2001:db8::1"
    assert not found[addresses["198.51.100.1"]].interface


def test_events(node: NetNS) -> None:
    """What others change is told, and by whom; own changes are not, nor are pods' interfaces."""

    def work() -> None:
        with Kernel() as one, Kernel() as other, contextlib.closing(Events()) as events:
            (hop,) = one.look_up([parse_ip("192.0.2.3")]).values()
            interfaces = {hop.interface}

            def heard() -> tuple[bool, bool, bool]:
                found = events.read(interfaces, one.port)
                return found.compare, found.links, found.by == other.port

            assert one.replace(TABLE) == one.delete(TABLE[:1]) == []
            assert heard() == (False, False, False)
            other.delete(TABLE[1:2])
            assert heard() == (True, False, True)
            subprocess.run(["ip", "link", "add", "pod", "type", "veth"], check=True)
            assert heard() == (False, True, False)
            subprocess.run(["ip", "route", "add", "10.99.0.0/16", "via", "192.0.2.9"], check=True)
            assert heard() == (False, False, False)
            subprocess.run(["ip", "link", "set", "d0", "down"], check=True)
            assert heard()[:2] == (True, True)

    within(node, work)


def test_more_events_than_the_kernel_keeps(node: NetNS) -> None:
    """When it had no room for some, everything is compared."""
    many = [route(f"10.{high}.{low}.0/24") for high in range(32, 52) for low in range(256)]

    def work() -> None:
        with Kernel() as one, contextlib.closing(Events()) as events:
            assert one.replace(many) == []
            assert not events.read((), one.port).by  # own ones, and yet
            assert one.delete(many) == []
            found = events.read((), one.port)
            assert (found.compare, found.links) == (True, True)
            found = events.read((), one.port)
            assert (found.compare, found.links) == (False, False)

    within(node, work)


def test_the_other_family(node: NetNS) -> None:
    """The address of the other family on the same interface; none that is not for others."""
    node.run("ip", "address", "add", "fe80::7/64", "dev", "d0", "nodad")
    node.run("ip", "link", "add", "other", "type", "bridge")
    node.run("ip", "address", "add", "198.51.100.9/24", "dev", "other")
    node.run("ip", "address", "add", "2001:db8:9::9/64", "dev", "other", "preferred_lft", "0")

    def beside(text: str) -> tuple[int, int] | None:
        return within(node, lambda: rtnetlink.beside(*parse_ip(text)))

    assert beside("192.0.2.254") == parse_ip("2001:db8::fe")
    assert beside("2001:db8::fe") == parse_ip("192.0.2.254")
    assert beside("198.51.100.9") is None  # the one beside it is deprecated
    assert beside("203.0.113.1") is None


def test_without_rights(node: NetNS) -> None:
    """Who may not change routes is told so, and what it takes."""

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        data = (ctypes.c_uint32 * 6)()
        assert libc.capset(header, data) == 0  # this thread's only
        with Kernel() as one:
            one.require_rights()

    with pytest.raises(ConfigError, match="may not change the machine's routes") as caught:
        within(node, work)
    assert caught.value.field == "--routes"
    assert "NET_ADMIN" in str(caught.value.hint)
