"""CHECK: the owner has a lease, and every address of prevResult that lies in the ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .plugin import Answer, Call, Make

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
DUAL: dict[str, Any] = {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]}
GOOD = Answer(0, None, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_without_prev_result(version: str, call: Call, config: Make) -> None:
    """Without prevResult the owner has to have some address: code 104 when it has none."""
    made = config(version=version, ipam=DUAL)
    assert call("CHECK", made).code == 104
    call("ADD", made)
    assert call("CHECK", made) == GOOD
    assert call("CHECK", made, "c2").code == 104
    assert call("CHECK", made, ifname="eth1").code == 104
    assert call("CHECK", config(version=version, name="other", ipam=DUAL)).code == 104
    call("DEL", made)
    answer = call("CHECK", made)
    assert answer.code == 104
    assert "c1" in answer.message


def test_makes_no_store(call: Call, config: Make, tmp_path: Path) -> None:
    """CHECK makes no store where there is none."""
    assert call("CHECK", config(ipam=DUAL)).code == 104
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_own_result(version: str, call: Call, config: Make) -> None:
    """What ADD returned is what CHECK accepts."""
    made = config(version=version, ipam=DUAL)
    result = call("ADD", made).document
    assert call("CHECK", made | {"prevResult": result}) == GOOD


@pytest.mark.parametrize(
    ("addresses", "code"),
    [
        ([], None),
        (["10.1.2.2/24", "2001:db8:1::2/64"], None),
        (["10.1.2.2/24"], None),
        (["10.1.2.2"], None),
        (["2001:DB8:1:0::2/64"], None),
        (["::ffff:10.1.2.2"], None),
        (["10.1.2.2/24", "192.168.7.7/16", "fe80::1/10"], None),
        (["10.1.2.255/24"], None),
        (["10.1.2.3/24"], 104),
        (["10.1.2.2/24", "2001:db8:1::3/64"], 104),
        (["10.1.2.4/24"], 104),
        (["10.1.2.1/24"], 104),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_addresses(
    version: str, addresses: list[str], code: int | None, call: Call, config: Make
) -> None:
    """An address in the ranges has to be the owner's; those elsewhere are another plugin's."""
    made = config(version=version, ipam=DUAL)
    call("ADD", made)
    call("ADD", made, "c2")
    ips = [
        {"address": one, "version": "4", "interface": 0, "gateway": "9.9.9.9"} for one in addresses
    ]
    answer = call("CHECK", made | {"prevResult": {"cniVersion": version, "ips": ips}})
    assert answer.code == code
    if code:
        assert addresses[-1].partition("/")[0] in answer.message


@pytest.mark.parametrize(("address", "code"), [("10.1.2.2/24", None), ("10.1.2.9/24", 104)])
def test_old_shape(address: str, code: int | None, call: Call, config: Make) -> None:
    """A prevResult in the shape before 0.3.0 is understood, too."""
    made = config(version="0.4.0", ipam=DUAL)
    call("ADD", made)
    previous = {"cniVersion": "0.2.0", "ip4": {"ip": address, "routes": []}, "dns": {}}
    assert call("CHECK", made | {"prevResult": previous}).code == code


@pytest.mark.parametrize(
    "previous",
    [
        {},
        {"ips": []},
        {"ips": None},
        {"ips": [{}]},
        {"ips": [{"address": ""}]},
        {"ips": [{"address": None}]},
        {"interfaces": [{"name": "eth0"}], "routes": 5, "dns": 7},
        {"ip4": {}, "ip6": {"ip": ""}},
    ],
)
def test_empty_prev_result(previous: dict[str, Any], call: Call, config: Make) -> None:
    """A prevResult that names no address is as none; what else it says is not looked at."""
    made = config(ipam=DUAL)
    call("ADD", made)
    assert call("CHECK", made | {"prevResult": previous}) == GOOD


@pytest.mark.parametrize(
    "previous",
    [
        5,
        "x",
        [],
        {"ips": {}},
        {"ips": 5},
        {"ips": ["10.1.2.2/24"]},
        {"ips": [None]},
        {"ips": [{"address": 5}]},
        {"ips": [{"address": "10.1.2.2/99"}]},
        {"ips": [{"address": "nope"}]},
        {"ips": [{"address": "\ud800"}]},
        {"ip4": 5},
        {"ip6": {"ip": []}},
        {"ips": [{"address": "10.9.9.9/24"}] * 1025},
    ],
)
def test_malformed_prev_result(previous: Any, call: Call, config: Make) -> None:
    """A prevResult that is none is code 7 and says where."""
    made = config(ipam=DUAL)
    call("ADD", made)
    answer = call("CHECK", made | {"prevResult": previous})
    assert answer.code == 7
    assert answer.message.startswith("prevResult")


def test_changed_ranges(call: Call, config: Make) -> None:
    """The ranges that count are those of the configuration that CHECK is called with."""
    result = call("ADD", config(ipam=DUAL)).document
    moved = config(ipam={"subnet": "10.7.0.0/24"})
    assert call("CHECK", moved | {"prevResult": result}) == GOOD
    call("DEL", moved)
    assert call("CHECK", moved | {"prevResult": result}).code == 104


def test_own_runtime_ranges(call: Call, config: Make) -> None:
    """An address of the container's own ranges is checked as one of the network's."""
    runtime = {"runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24"}]]}}
    made = config(ipam=DUAL) | runtime
    result = call("ADD", made).document
    assert call("CHECK", made | {"prevResult": result}) == GOOD
    stolen = {"ips": [{"address": "10.7.0.3/24"}]}
    assert call("CHECK", made | {"prevResult": stolen}).code == 104


def test_a_cooling_address_is_not_held(call: Call, config: Make) -> None:
    """An address that the owner gave back is not its own any longer."""
    made = config(ipam=DUAL)
    result = call("ADD", made).document
    call("DEL", made)
    call("ADD", made)
    assert call("CHECK", made | {"prevResult": result}).code == 104
