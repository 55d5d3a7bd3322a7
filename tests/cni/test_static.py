"""Static addresses in a configuration, and the ways to request one."""

from __future__ import annotations

from typing import Any

import pytest

from .plugin import Call, Held, Make

POOL: dict[str, Any] = {"subnet": "10.1.0.0/28", "static": ["10.1.0.8/29"]}
RANGE: dict[str, Any] = {"ranges": [[POOL]]}


@pytest.mark.parametrize("ipam", [POOL, RANGE, {"range": "10.1.0.0/28", "static": ["10.1.0.8/29"]}])
def test_request(ipam: dict[str, Any], call: Call, config: Make, held: Held) -> None:
    """CNI_ARGS, args and runtimeConfig get a static address; an ADD without a request does not."""
    asked = [
        call("ADD", config(ipam=ipam), "c0", args="IP=10.1.0.9"),
        call("ADD", config(ipam=ipam, args={"cni": {"ips": ["10.1.0.10"]}}), "c1"),
        call("ADD", config(ipam=ipam, runtimeConfig={"ips": ["10.1.0.11/28"]}), "c2"),
    ]
    assert [one.addresses for one in asked] == [
        ["10.1.0.9/28"], ["10.1.0.10/28"], ["10.1.0.11/28"],
    ]  # fmt: skip
    made = config(ipam=ipam)
    while call("ADD", made, f"auto{len(held())}").status == 0:
        pass
    assert {int(one.rpartition(".")[2]) for one in held()} & {8, 12, 13, 14} == set()
    refused = call("ADD", made, "late", args="IP=10.1.0.9")
    assert "10.1.0.9 is assigned to c0 eth0" in refused.message


@pytest.mark.parametrize(
    ("ipam", "field"),
    [
        (POOL | {"static": ["10.1.0.300"]}, "ipam.static[0]:"),
        (POOL | {"static": "10.1.0.8/29"}, "ipam.static:"),
        (POOL | {"static": ["10.1.0.9/29"]}, "ipam.static[0]: '10.1.0.9/29' has host bits set"),
        (POOL | {"static": ["fd00::1/64"]}, "ipam.static[0]: 'fd00::1/64' has host bits set"),
        ({"ranges": [[POOL | {"static": [7]}]]}, "ipam.ranges[0][0].static[0]:"),
        ({"cluster": {"pool": "10.1.0.0/16"}, "static": ["10.1.0.8/29"]}, "ipam.static:"),
    ],
)
def test_bad_area(ipam: dict[str, Any], field: str, call: Call, config: Make) -> None:
    """What is no area is refused with its field."""
    refused = call("ADD", config(ipam=ipam))
    assert refused.status == 1
    assert refused.message.startswith(field)


def test_without_effect(call: Call, config: Make) -> None:
    """An area that no range has is noted."""
    noted = call("ADD", config(ipam=POOL | {"static": ["10.9.0.0/24"]})).stderr
    assert "ipam.static[0]: no effect: 10.9.0.0/24 is in no range" in noted
    inside = {"ranges": [[{"subnet": "10.2.0.0/24", "static": ["10.9.0.0/24"]}]]}
    noted = call("ADD", config(name="two", ipam=inside)).stderr
    assert "ipam.ranges[0][0].static[0]: no effect: no address of 10.9.0.0/24 is in 10.2" in noted


@pytest.mark.parametrize(
    ("static", "why"),
    [
        ("10.1.0.1", "10.1.0.1 is the gateway of its range, which is never assigned"),
        ("10.1.0.9", "10.1.0.9 is never assigned, because it is excluded or a gateway"),
        ("10.1.0.8/30", "10.1.0.8/30 is never assigned, because it is excluded or a gateway"),
        ("10.9.0.1-10.9.0.9", "10.9.0.1-10.9.0.9 is in no range"),
        ("10.9.0.8", "10.9.0.8 is in no range"),
    ],
)
def test_why_without_effect(call: Call, config: Make, static: str, why: str) -> None:
    """The note has the area as it was typed, and why no address of it is assigned."""
    ipam = {"subnet": "10.1.0.0/24", "exclude": ["10.1.0.8/29"], "static": [static]}
    assert call("ADD", config(ipam=ipam)).stderr == f"ipam.static[0]: no effect: {why}"


def test_a_full_pool_that_is_shared(call: Call, config: Make) -> None:
    """Code 100 says what the addresses are used for, also what another network made static."""
    pool = {"subnet": "10.3.0.0/29", "pool": "shared"}
    area = {"static": ["10.3.0.3-10.3.0.6"]}
    assert call("ADD", config(name="one", ipam=pool | area)).status == 0
    for name, ipam in (("one", pool | area), ("two", pool)):
        refused = call("ADD", config(name=name, ipam=ipam), "full")
        assert refused.document["code"] == 100
        assert (
            f"of network {name}: 1 assigned, 3 never assigned (excluded, or a gateway), "
            "4 static (assigned on request only)"
        ) in refused.message
