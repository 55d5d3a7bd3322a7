"""The pool that a configuration names, and what whereabouts' keys say of overlapping ranges."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam import cni
from fastipam.verify import verify

from .plugin import Call, Held, Make, environment

SUBNET = {"subnet": "10.1.0.0/24"}
WIDE = {"subnet": "10.1.0.0/16"}
APART = {"enable_overlapping_ranges": False}

# whereabouts' own scenarios (cmd/whereabouts_test.go, e2e: "Named ranges", "Overlapping ranges"):
# the network and the keys of each ADD, and the address that it gets.
Step = tuple[str, dict[str, Any], str]
SCENARIOS: dict[str, list[Step]] = {
    "detects IPv4 addresses used in other ranges": [
        ("mynet", {"range": "192.168.22.0/24"}, "192.168.22.1/24"),
        ("mynet", {"range": "192.168.22.0/28"}, "192.168.22.2/28"),
    ],
    "detects IPv6 addresses used in other ranges": [
        ("mynet", {"range": "2001::2:3:0/124"}, "2001::2:3:1/124"),
        ("mynet", {"range": "2001::2:3:0/126"}, "2001::2:3:2/126"),
    ],
    "the same in two networks": [
        ("one", {"range": "192.168.22.0/24"}, "192.168.22.1/24"),
        ("two", {"range": "192.168.22.0/28"}, "192.168.22.2/28"),
        ("three", {"range": "192.168.22.0/24"}, "192.168.22.3/24"),
    ],
    "allows IP collisions across ranges when enable_overlapping_ranges is set to false": [
        ("one", {"range": "192.168.33.0/24"} | APART, "192.168.33.1/24"),
        ("two", {"range": "192.168.33.0/28"} | APART, "192.168.33.1/28"),
        ("three", {"range": "192.168.33.0/28"} | APART, "192.168.33.2/28"),
    ],
    "a second definition with enable_overlapping_ranges true": [
        ("wa-nad", {"range": "10.10.0.0/16"}, "10.10.0.1/16"),
        ("wa-nad-2", {"range": "10.10.0.0/24", "enable_overlapping_ranges": True}, "10.10.0.2/24"),
    ],
    "a second definition with enable_overlapping_ranges false": [
        ("wa-nad", {"range": "10.10.0.0/16"}, "10.10.0.1/16"),
        ("wa-nad-2", {"range": "10.10.0.0/24", "enable_overlapping_ranges": False}, "10.10.0.1/24"),
    ],
    "named ranges": [
        ("wa-nad", {"range": "10.10.0.0/30"}, "10.10.0.1/30"),
        ("named", {"range": "10.10.0.0/30", "network_name": "named-range"}, "10.10.0.1/30"),
        ("other", {"range": "10.10.0.0/30", "network_name": "named-range"}, "10.10.0.2/30"),
        ("third", {"range": "10.10.0.0/30"}, "10.10.0.2/30"),
    ],
    "named ranges that overlap": [
        ("one", {"range": "10.10.0.0/16", "network_name": "a"}, "10.10.0.1/16"),
        ("two", {"range": "10.10.0.0/24", "network_name": "a"}, "10.10.0.2/24"),
        ("three", {"range": "10.10.0.0/24", "network_name": "b"}, "10.10.0.1/24"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("steps", SCENARIOS.values(), ids=SCENARIOS)
def test_whereabouts(steps: list[Step], call: Call, config: Make) -> None:
    """Ranges and names mean what they mean to whereabouts."""
    made = [(config(name=name, ipam=ipam), expected) for name, ipam, expected in steps]
    got = [call("ADD", one, f"c{at}").addresses for at, (one, _) in enumerate(made)]
    assert got == [[expected] for _, expected in made]
    for at, (one, _) in enumerate(made):
        assert call("DEL", one, f"c{at}").status == 0


def test_one_pool(call: Call, config: Make, held: Held) -> None:
    """Networks that name one pool never have an address twice, and release their own."""
    one, two = (config(name=name, ipam=SUBNET | {"pool": "blue"}) for name in ("one", "two"))
    assert call("ADD", one).addresses == ["10.1.0.2/24"]
    assert call("ADD", two).addresses == ["10.1.0.3/24"]
    attachments: dict[str, Any] = {"cni.dev/valid-attachments": []}
    assert call("GC", one | attachments, started_ns=1 << 62).status == 0
    assert held("one") == {}
    assert held("two") == {"10.1.0.3": ("c1", "eth0")}
    assert call("CHECK", two | {"prevResult": {"cniVersion": "1.1.0", "ips": []}}).status == 0
    assert call("DEL", one).status == 0
    assert held("two") == {"10.1.0.3": ("c1", "eth0")}


def test_requested_address(call: Call, config: Make) -> None:
    """An address that another network has is refused: who has it, and in which network."""
    one, two = (config(name=name, ipam=SUBNET | {"pool": "blue"}) for name in ("one", "two"))
    call("ADD", one)
    refused = call("ADD", two, "c2", args="IP=10.1.0.2")
    assert refused.status == 1
    assert "10.1.0.2 is assigned to c1 eth0 in network one" in refused.message


def test_another_pool(call: Call, config: Make) -> None:
    """A network with addresses does not change its pool, and the field is named."""
    call("ADD", config(ipam=SUBNET | {"pool": "blue"}))
    refused = call("ADD", config(ipam=SUBNET | {"pool": "green"}), "c2")
    assert refused.code == 7
    assert refused.message.startswith("ipam.pool: network mynet has addresses in pool blue")
    unavailable = call("STATUS", config(ipam=SUBNET | {"pool": "green"}))
    assert unavailable.code == 50
    assert unavailable.message == refused.message
    assert call("STATUS", config(ipam=SUBNET | {"pool": "blue"})).status == 0
    assert call("STATUS", config(ipam=SUBNET)).status == 0


def test_ranges_of_one_container(call: Call, config: Make) -> None:
    """The gateway of a range that the network had is no other network's: it can be requested."""
    call("ADD", config(ipam={"ranges": [[{"subnet": "10.1.0.8/30"}]]}))
    made = config(ipam={"ranges": [[{"subnet": "10.1.0.0/28"}]]})
    made["runtimeConfig"] = {"ipRanges": [[{"subnet": "10.1.1.0/29"}]]}
    made["args"] = {"cni": {"ips": ["10.1.0.9"]}}
    answer = call("ADD", made, "c2")
    assert sorted(answer.addresses) == ["10.1.0.9/28", "10.1.1.2/29"], answer


def test_another_pool_than_one_with_reservations(call: Call, config: Make, tmp_path: Path) -> None:
    """A network that is alone in such a pool stays in it; ADD and STATUS say so."""
    call("ADD", config(ipam=SUBNET | {"pool": "blue"}))
    call("DEL", config(ipam=SUBNET | {"pool": "blue"}))
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("mynet").reserve("10.1.0.9")
    refused = call("ADD", config(ipam=SUBNET | {"pool": "green"}))
    assert refused.code == 7
    assert "the only network of pool blue, which has reservations" in refused.message
    unavailable = call("STATUS", config(ipam=SUBNET | {"pool": "green"}))
    assert (unavailable.code, unavailable.message) == (50, refused.message)


def test_a_pool_is_named_later(call: Call, config: Make) -> None:
    """Without a name the network stays in its pool as long as it has addresses."""
    call("ADD", config(ipam=SUBNET | {"pool": "blue"}))
    assert call("ADD", config(ipam=SUBNET), "c2").addresses == ["10.1.0.3/24"]
    blue = config(name="other", ipam=SUBNET | {"pool": "blue"})
    assert call("ADD", blue).addresses == ["10.1.0.4/24"]


@pytest.mark.parametrize(
    ("ipam", "field"),
    [
        (SUBNET | {"pool": "a/b"}, "ipam.pool:"),
        (SUBNET | {"pool": 5}, "ipam.pool: this is a number"),
        ({"range": "10.1.0.0/24", "network_name": "a b"}, "ipam.network_name:"),
        ({"range": "10.1.0.0/24", "network_name": []}, "ipam.network_name:"),
        ({"range": "10.1.0.0/24", "enable_overlapping_ranges": 1}, "ipam.enable_"),
        ({"cluster": {"pool": "10.1.0.0/16"}, "pool": "blue"}, "ipam.pool:"),
    ],
)  # fmt: skip
def test_bad_names(ipam: dict[str, Any], field: str, call: Call, config: Make, held: Held) -> None:
    """What is no name of a pool is refused with its field, and changes nothing."""
    refused = call("ADD", config(ipam=ipam))
    assert refused.code in (6, 7)
    assert refused.message.startswith(field)
    assert held() == {}


def test_notes(call: Call, config: Make) -> None:
    """Keys of whereabouts are told where they have no effect."""
    noted = call("ADD", config(ipam=SUBNET | {"network_name": "a"})).stderr
    assert "ipam.network_name: no effect without ipam.range" in noted
    ipam = {"range": "10.2.0.0/24", "pool": "b", "enable_overlapping_ranges": True}
    noted = call("ADD", config(name="two", ipam=ipam)).stderr
    assert "ipam.enable_overlapping_ranges: no effect beside ipam.pool" in noted


@pytest.mark.parametrize(
    ("second", "is_told"),
    [
        (WIDE, True),
        (WIDE | {"pool": "two"}, False),
        (WIDE | {"pool": "one"}, False),
        ({"subnet": "10.2.0.0/24"}, False),
        ({"range": "10.1.0.0/24"}, True),
        ({"range": "10.1.0.0/24", "network_name": "apart"}, False),
    ],
)
def test_pools_that_overlap(
    second: dict[str, Any], *, is_told: bool, call: Call, config: Make
) -> None:
    """The first ADD of a pool tells of another one that has its addresses, once."""
    assert call("ADD", config(name="one", ipam=SUBNET)).stderr == ""
    made = config(name="two", ipam=second)
    assert ("can both assign 10.1.0." in call("ADD", made).stderr) == is_told
    assert call("ADD", made, "c2").stderr == ""


@pytest.mark.parametrize("second", [SUBNET, WIDE])
def test_many_at_once(second: dict[str, Any], config: Make, tmp_path: Path) -> None:
    """64 ADDs of two networks with one pool at once: no address twice."""
    made = [
        json.dumps(config(name=name, ipam=ipam | {"pool": "blue"})).encode()
        for name, ipam in (("one", SUBNET), ("two", second))
    ]
    got: list[str] = []

    def add(at: int) -> None:
        status, answer = cni.handle(environment("ADD", f"c{at}"), made[at % 2])
        assert status == 0, answer
        got.append(json.loads(answer)["ips"][0]["address"].partition("/")[0])

    threads = [threading.Thread(target=add, args=(at,)) for at in range(64)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set(got)) == len(got) == 64
    with fastipam.open(tmp_path / "store") as ipam:
        assert not verify(ipam.store)
        assert [len(list(ipam.network(name).leases())) for name in ("one", "two")] == [32, 32]
