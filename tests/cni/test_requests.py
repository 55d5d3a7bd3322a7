"""Requested addresses: three sources added together, and what happens to those that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from .plugin import VERSIONS, Call, Held, Make

SUBNET = {"subnet": "10.1.2.0/24"}
TWO: dict[str, Any] = {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]]}
DUAL: dict[str, Any] = {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]}


def _args(*addresses: str) -> dict[str, Any]:
    return {"args": {"cni": {"ips": list(addresses)}}}


def _runtime(*addresses: str) -> dict[str, Any]:
    return {"runtimeConfig": {"ips": list(addresses)}}


@pytest.mark.parametrize("version", VERSIONS)
def test_custom_address(version: str, call: Call, config: Make) -> None:
    """Scenario 8: args.cni.ips names the address."""
    document = call("ADD", config(version=version, ipam=SUBNET) | _args("10.1.2.88")).document
    one = document["ip4"]["ip"] if "ip4" in document else document["ips"][0]["address"]
    assert one == "10.1.2.88/24"


@pytest.mark.parametrize("version", VERSIONS)
def test_custom_addresses_in_several_sets(version: str, call: Call, config: Make) -> None:
    """Scenario 9: each set serves the request that lies in it, in the order of the sets."""
    made = config(version=version, ipam=TWO) | _args("10.1.3.77", "10.1.2.88")
    answer = call("ADD", made)
    if version < "0.3.0":
        assert answer.code == 7
        assert answer.message.startswith("cniVersion:")
    else:
        assert answer.addresses == ["10.1.2.88/24", "10.1.3.77/24"]


@pytest.mark.parametrize("version", VERSIONS)
def test_custom_addresses_of_two_families(version: str, call: Call, config: Make) -> None:
    """Scenario 10: one request a family."""
    made = config(version=version, ipam=DUAL) | _args("2001:db8:1::999", "10.1.2.88")
    document = call("ADD", made).document
    if version < "0.3.0":
        assert document["ip4"]["ip"] == "10.1.2.88/24"
        assert document["ip6"]["ip"] == "2001:db8:1::999/64"
    else:
        got = [one["address"] for one in document["ips"]]
        assert got == ["10.1.2.88/24", "2001:db8:1::999/64"]


@pytest.mark.parametrize("version", VERSIONS)
def test_request_not_served(version: str, call: Call, config: Make, held: Held) -> None:
    """Scenario 11: two requests for one set: the one that is left over is an error."""
    made = config(version=version, ipam=TWO) | _args("10.1.2.88", "10.1.2.77")
    answer = call("ADD", made)
    assert answer.code == (7 if version < "0.3.0" else 103)
    if version >= "0.3.0":
        assert "10.1.2.77" in answer.message
    assert held() == {}


@pytest.mark.parametrize(
    "source",
    [
        {"args": "IP=10.1.2.88"},
        {"args": "IP=10.1.2.88/24"},
        {"args": "IP=10.1.2.88/8"},
        {"args": "IP=::ffff:10.1.2.88"},
        {"args": "IgnoreUnknown=1;IP=10.1.2.88;K8S_POD_NAME=x"},
        {"keys": _args("10.1.2.88")},
        {"keys": _args("10.1.2.88/24")},
        {"keys": _args("10.1.2.88/32")},
        {"keys": _runtime("10.1.2.88")},
        {"keys": _runtime("10.1.2.88/24")},
        {"keys": {"RuntimeConfig": {"IPS": ["10.1.2.88/16"]}}},
        {
            "args": "IP=10.1.2.88",
            "keys": _args("10.1.2.88/24") | _runtime("10.1.2.88", "10.1.2.88"),
        },
    ],
)
def test_sources(source: dict[str, Any], call: Call, config: Make) -> None:
    """Every source takes an address with or without a length, which the subnet decides."""
    made = config(ipam=SUBNET) | source.get("keys", {})
    answer = call("ADD", made, args=source.get("args", ""))
    assert answer.addresses == ["10.1.2.88/24"]


def test_sources_are_added(call: Call, config: Make) -> None:
    """CNI_ARGS, args.cni.ips and runtimeConfig.ips do not override each other."""
    ranges = [[{"subnet": f"10.1.{at}.0/24"}] for at in range(4)]
    made = config(ipam={"ranges": ranges}) | _args("10.1.1.5") | _runtime("10.1.2.6")
    expected = ["10.1.0.2/24", "10.1.1.5/24", "10.1.2.6/24", "10.1.3.7/24"]
    assert call("ADD", made, args="IP=10.1.3.7").addresses == expected
    made = config(ipam=SUBNET) | _args("10.1.2.5")
    assert call("ADD", made, "c2", args="IP=10.1.2.6").code == 103


@pytest.mark.parametrize(
    ("address", "code", "why"),
    [
        ("10.1.2.1", 103, "gateway"),
        ("10.1.2.0", 103, "in no range"),
        ("10.1.2.255", 103, "in no range"),
        ("10.1.4.1", 103, "in no range"),
        ("2001:db8::5", 103, "in no range"),
        ("10.1.2.9", 103, "in no range"),
        ("10.1.2.21", 103, "in no range"),
        ("10.1.2.10", 101, "c0"),
    ],
)
def test_refused_requests(
    address: str, code: int, why: str, call: Call, config: Make, held: Held
) -> None:
    """A request that is taken is code 101, one that no range can serve 103, and nothing happens."""
    # Above rangeEnd, below rangeStart, the gateway, network and broadcast, another family.
    inner = {"rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.20"} if address != "10.1.2.1" else {}
    made = config(ipam=SUBNET | inner)
    call("ADD", made, "c0", args="IP=10.1.2.10")
    sources: list[tuple[str, dict[str, Any]]] = [
        (f"IP={address}", {}),
        ("", _args(address)),
        ("", _runtime(address)),
    ]
    for args, keys in sources:
        answer = call("ADD", made | keys, args=args)
        assert answer.code == code
        assert address in answer.message
        assert why in answer.message
    assert held() == {"10.1.2.10": ("c0", "eth0")}
    assert call("ADD", made, "c2").addresses == ["10.1.2.11/24"]


def test_network_and_broadcast_when_named(call: Call, config: Make) -> None:
    """rangeStart and rangeEnd that name network and broadcast make them requestable."""
    ipam = {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.255"}
    assert call("ADD", config(ipam=ipam), args="IP=10.1.2.255").addresses == ["10.1.2.255/24"]
    assert call("ADD", config(ipam=ipam), "c2", args="IP=10.1.2.0").addresses == ["10.1.2.0/24"]


def test_request_for_a_cooling_address(call: Call, config: Make) -> None:
    """A cooling address can be requested: somebody who names it means it."""
    made = config(ipam=SUBNET)
    call("ADD", made)
    call("DEL", made)
    assert call("ADD", made, "c2", args="IP=10.1.2.2").addresses == ["10.1.2.2/24"]
    assert call("ADD", made, "c3", args="IP=10.1.2.2").code == 101


@pytest.mark.parametrize("value", ["", "nope", "10.1.2", "10.1.2.3/", "10.1.2.3/33", "1.2.3.04"])
@pytest.mark.parametrize("source", ["args.cni", "runtimeConfig"])
def test_text_that_is_no_address(source: str, value: str, call: Call, config: Make) -> None:
    """What is no address is code 7 and says where it stands."""
    keys = (_args if source == "args.cni" else _runtime)("10.1.2.5", value)
    answer = call("ADD", config(ipam=SUBNET) | keys)
    assert answer.code == 7
    assert answer.message.startswith(f"{source}.ips[1]:")


@pytest.mark.parametrize("value", [5, 1.5, True, None, [], {}])
@pytest.mark.parametrize("source", ["args.cni", "runtimeConfig"])
def test_type_of_a_request(source: str, value: Any, call: Call, config: Make) -> None:
    """What is no text is code 7 as well."""
    keys = (_args if source == "args.cni" else _runtime)(value)
    answer = call("ADD", config(ipam=SUBNET) | keys)
    assert answer.code == 7
    assert answer.message.startswith(f"{source}.ips[0]:")


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize(
    "args",
    [
        "K8S_POD_NAME=x",
        "IgnoreUnknown=0;K8S_POD_NAME=x",
        "IgnoreUnknown=false;K8S_POD_NAME=x",
        "ip=10.1.2.5",
        "IP",
        "IP=10.1.2.5;",
        ";",
        "IP=10.1.2.5=6",
        "IgnoreUnknown=yes",
        "IgnoreUnknown=",
        "ignoreunknown=1;K8S_POD_NAME=x",
        "IP=a,b",
        "IP=10.1.2.5,10.1.2.6",
        "IP=10.1.2.300",
        "IgnoreUnknown=1;IP=nope",
    ],
)
def test_refused_args(command: str, args: str, call: Call, config: Make, held: Held) -> None:
    """CNI_ARGS that are malformed, or unknown without IgnoreUnknown, are code 4."""
    answer = call(command, config(ipam=SUBNET), args=args)
    assert answer.code == 4
    assert answer.message.startswith("CNI_ARGS")
    assert held() == {}


@pytest.mark.parametrize(
    "args",
    [
        "IP=",
        "IgnoreUnknown=1",
        "IgnoreUnknown=TRUE;FOO=",
        "IgnoreUnknown=true;a=b;c=d",
        "FOO=x;IgnoreUnknown=1",
        "IgnoreUnknown=1;ip=10.1.2.9",
    ],
)
def test_accepted_args(args: str, call: Call, config: Make) -> None:
    """An empty IP asks for nothing; IgnoreUnknown lets every other key pass, wherever it stands."""
    assert call("ADD", config(ipam=SUBNET), args=args).addresses == ["10.1.2.2/24"]
