"""The result of ADD in the shape of each version of the specification."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam import cni
from fastipam.addressing.parsing import parse_ranges
from fastipam.cni import versions
from fastipam.cni.results import Answers, build
from fastipam.configuration.network import route
from fastipam.configuration.reader import encode
from fastipam.network import Network

from .plugin import VERSIONS, Call, Make, environment

if TYPE_CHECKING:
    from pathlib import Path

RESOLV_CONF = """# a comment
; another
nameserver 192.0.2.3
nameserver 192.0.2.4 ignored
domain first.example
domain ex.com
search a b
search c
options ndots:5
options timeout:1 rotate
nameserver
sortlist 10.0.0.0
   nameserver 2001:db8::53
"""
DNS = {
    "nameservers": ["192.0.2.3", "192.0.2.4", "2001:db8::53"],
    "domain": "ex.com",
    "search": ["a", "b", "c"],
    "options": ["ndots:5", "timeout:1", "rotate"],
}
ROUTES = [
    {"dst": "0.0.0.0/0"},
    {"dst": "::/0"},
    {"dst": "192.168.0.0/16", "gw": "1.1.1.1"},
    {"dst": "2001:db8:2::0/64", "gw": "2001:db8:3::1"},
]
DUAL: dict[str, Any] = {
    "ranges": [
        [{"subnet": "10.1.2.0/24"}, {"subnet": "10.2.2.0/24"}],
        [{"subnet": "2001:db8:1::0/64"}],
    ],
    "routes": ROUTES,
}
OLD = ("0.1.0", "0.2.0")
MIDDLE = ("0.3.0", "0.3.1", "0.4.0")
NEW = ("1.0.0", "1.1.0")


@pytest.fixture
def dual(config: Make, tmp_path: Path) -> dict[str, Any]:
    """host-local's own full example: dual stack, routes, resolv.conf."""
    (tmp_path / "resolv.conf").write_text(RESOLV_CONF)
    return config(ipam=DUAL | {"resolvConf": str(tmp_path / "resolv.conf")})


@pytest.mark.parametrize("version", OLD)
def test_before_0_3(version: str, call: Call, dual: dict[str, Any]) -> None:
    """One object a family, with the routes of that family, and dns."""
    assert call("ADD", dual | {"cniVersion": version}).document == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.1.2.2/24",
            "gateway": "10.1.2.1",
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "1.1.1.1"}],
        },
        "ip6": {
            "ip": "2001:db8:1::2/64",
            "gateway": "2001:db8:1::1",
            "routes": [{"dst": "::/0"}, {"dst": "2001:db8:2::/64", "gw": "2001:db8:3::1"}],
        },
        "dns": DNS,
    }


@pytest.mark.parametrize("version", MIDDLE)
def test_0_3_and_0_4(version: str, call: Call, dual: dict[str, Any]) -> None:
    """A list of addresses that name their version."""
    assert call("ADD", dual | {"cniVersion": version}).document == {
        "cniVersion": version,
        "ips": [
            {"version": "4", "address": "10.1.2.2/24", "gateway": "10.1.2.1"},
            {"version": "6", "address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"},
        ],
        "routes": [*ROUTES[:3], {"dst": "2001:db8:2::/64", "gw": "2001:db8:3::1"}],
        "dns": DNS,
    }


@pytest.mark.parametrize("version", NEW)
def test_1_0_and_1_1(version: str, call: Call, dual: dict[str, Any]) -> None:
    """A list of addresses that do not name their version."""
    assert call("ADD", dual | {"cniVersion": version}).document == {
        "cniVersion": version,
        "dns": DNS,
        "ips": [
            {"address": "10.1.2.2/24", "gateway": "10.1.2.1"},
            {"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"},
        ],
        "routes": [*ROUTES[:3], {"dst": "2001:db8:2::/64", "gw": "2001:db8:3::1"}],
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_order_of_keys(version: str, dual: dict[str, Any]) -> None:
    """Keys stand in host-local's order, which from 1.0.0 on is the alphabet's."""
    stdin = json.dumps(dual | {"cniVersion": version}).encode()
    keys = list(json.loads(cni.handle(environment("ADD"), stdin)[1]))
    if version in OLD:
        assert keys == ["cniVersion", "ip4", "ip6", "dns"]
    elif version in MIDDLE:
        assert keys == ["cniVersion", "ips", "routes", "dns"]
    else:
        assert keys == ["cniVersion", "dns", "ips", "routes"]


@pytest.mark.parametrize("version", VERSIONS)
def test_bare_result(version: str, call: Call, config: Make) -> None:
    """Without routes there is no such key; without dns it is empty, from 1.0.0 on left out."""
    document = call("ADD", config(version=version, ipam={"subnet": "10.1.2.0/24"})).document
    address = {"gateway": "10.1.2.1"}
    if version in OLD:
        ip4 = {"ip": "10.1.2.2/24"} | address
        assert document == {"cniVersion": version, "ip4": ip4, "dns": {}}
    elif version in MIDDLE:
        ips = [{"version": "4", "address": "10.1.2.2/24"} | address]
        assert document == {"cniVersion": version, "ips": ips, "dns": {}}
    else:
        ips = [{"address": "10.1.2.2/24"} | address]
        assert document == {"cniVersion": version, "ips": ips}


@pytest.mark.parametrize("version", VERSIONS)
def test_one_family(version: str, call: Call, config: Make) -> None:
    """Only the family that was assigned is in the result, below 0.3.0 with its routes only."""
    made = config(version=version, ipam={"subnet": "2001:db8::/64", "routes": ROUTES})
    document = call("ADD", made).document
    if version in OLD:
        assert document.keys() == {"cniVersion", "ip6", "dns"}
        assert [one["dst"] for one in document["ip6"]["routes"]] == ["::/0", "2001:db8:2::/64"]
    else:
        assert [one["address"] for one in document["ips"]] == ["2001:db8::2/64"]
        assert len(document["routes"]) == 4


@pytest.mark.parametrize("version", VERSIONS)
def test_route_fields(version: str, call: Call, config: Make) -> None:
    """The five further fields of a route are copied, from 0.3.0 on, zeros as Go's pointers say."""
    full = {"dst": "10.9.9.9/8", "gw": "10.1.2.1"}
    more = {"mtu": 1400, "advmss": 1300, "priority": 10, "table": 100, "scope": 253}
    zero = {"dst": "0.0.0.0/0"} | dict.fromkeys(more, 0)
    routes = [full | more, zero, zero]
    made = config(version=version, ipam={"subnet": "10.1.2.0/24", "routes": routes})
    document = call("ADD", made).document
    if version in OLD:
        assert document["ip4"]["routes"] == [full, {"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0"}]
        return
    short = {"dst": "0.0.0.0/0", "table": 0, "scope": 0}
    assert document["routes"] == [full | more, short, short]
    order = ["dst", "gw", "mtu", "advmss", "priority", "table", "scope"]
    assert list(document["routes"][0]) == (order if version in MIDDLE else sorted(order))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("subnet", ["10.1.2.4/31", "10.1.2.4/32", "2001:db8::4/127"])
def test_no_gateway(version: str, subnet: str, call: Call, config: Make) -> None:
    """An address without a gateway has no such key."""
    document = call("ADD", config(version=version, ipam={"subnet": subnet})).document
    if version in OLD:
        one = document.get("ip4") or document["ip6"]
        assert one.keys() == {"ip"}
    else:
        assert document["ips"][0].keys() - {"version"} == {"address"}


@pytest.mark.parametrize("version", VERSIONS)
def test_no_interfaces(version: str, call: Call, dual: dict[str, Any]) -> None:
    """The result of a delegated plugin speaks of no interface, anywhere."""
    assert "interface" not in json.dumps(call("ADD", dual | {"cniVersion": version}).document)


def test_several_of_one_family(call: Call, config: Make) -> None:
    """From 0.3.0 on every range set has its address in the result, in the order of the sets."""
    sets = [[{"subnet": subnet}] for subnet in ("10.1.3.0/24", "2001:db8::/64", "10.1.2.0/24")]
    for version in MIDDLE + NEW:
        made = config(version=version, name=f"n{version}", ipam={"ranges": sets})
        expected = ["10.1.3.2/24", "2001:db8::2/64", "10.1.2.2/24"]
        assert call("ADD", made).addresses == expected


@pytest.mark.parametrize("text", ["", "# nothing\n", "nameserver\nfoo bar\n\n   \n", "\0" * 99])
def test_empty_resolv_conf(text: str, call: Call, config: Make, tmp_path: Path) -> None:
    """A file that says nothing is no error, and gives no dns."""
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    made = config(ipam={"subnet": "10.1.2.0/24", "resolvConf": str(path)})
    assert "dns" not in call("ADD", made).document


def test_resolv_conf_of_any_bytes(call: Call, config: Make, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 do not break the result."""
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver 192.0.2.3\r\nsearch \xff.example \xed\xa0\x80\n")
    answer = call("ADD", config(ipam={"subnet": "10.1.2.0/24", "resolvConf": str(path)}))
    assert answer.document["dns"]["nameservers"] == ["192.0.2.3"]
    json.dumps(answer.document, ensure_ascii=False).encode()


@pytest.mark.parametrize("path", ["/no/such/file", "/", "/" + "x" * 5000])
def test_unreadable_resolv_conf(path: str, call: Call, config: Make, tmp_path: Path) -> None:
    """A file that is missing or unreadable is an error of the configuration; nothing waits."""
    made = config(ipam={"subnet": "10.1.2.0/24", "resolvConf": path})
    answer = call("ADD", made)
    assert answer.code == 7
    assert answer.message.startswith("ipam.resolvConf:")
    assert not (tmp_path / "store").exists()


def test_fifo_as_resolv_conf(call: Call, config: Make, tmp_path: Path) -> None:
    """A FIFO without a writer is an empty file, and not waited for."""
    os.mkfifo(tmp_path / "fifo")
    made = config(ipam={"subnet": "10.1.2.0/24", "resolvConf": str(tmp_path / "fifo")})
    assert "dns" not in call("ADD", made).document


def test_resolv_conf_is_for_add(call: Call, config: Make, tmp_path: Path) -> None:
    """CHECK and DEL do not read the file; STATUS does, because ADD needs it."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    call("ADD", made)
    made = config(ipam={"subnet": "10.1.2.0/24", "resolvConf": str(tmp_path / "gone")})
    assert call("STATUS", made).code == 50
    for command in ("CHECK", "DEL"):
        assert call(command, made).status == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_repeated_answers(version: str, tmp_path: Path) -> None:
    """The text around the addresses is worked out once, for each choice of ranges: same result."""
    parsed = versions.parse(version)
    assert parsed is not None
    pool = parse_ranges(
        [
            [{"subnet": "10.1.2.0/30"}, {"subnet": "10.1.3.0/24", "gateway": "10.1.3.9"}],
            [{"subnet": "2001:db8::/120"}],
        ]
    )
    routes = [route({"dst": "0.0.0.0/0", "gw": "10.1.2.9"}, "", []), route({"dst": "::/0"}, "", [])]
    answers = Answers(parsed, routes)
    with fastipam.open(tmp_path / "store") as ipam:
        network = Network(ipam.store, "net", pool)
        for at in range(10):
            leases = network.allocate(f"c{at}").siblings
            for dns in ({}, {"nameservers": ["10.0.0.1"]}):
                expected = encode(build(parsed, leases, routes, dns)).encode()
                assert answers.encode(leases, dns) == expected
        again = network.allocate("c3", existing="return").siblings
        assert answers.encode(again, {}) == encode(build(parsed, again, routes, {})).encode()
