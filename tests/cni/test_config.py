"""The keys of the configuration: default, effect, wrong type, and the order of the checks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.configuration.network import Location
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.storage import open_stores
from fastipam.testing import Clock

from .plugin import VERSIONS, Call, Held, Make

if TYPE_CHECKING:
    from pathlib import Path

SUBNET = {"subnet": "10.1.2.0/24"}
NO_TEXT = [5, 1.5, True, False, [], {}]
NO_LIST = [5, "text", True, {}]
NO_OBJECT = [5, "text", True, []]


@pytest.mark.parametrize(
    ("ipam", "expected"),
    [
        ({"subnet": "10.1.2.0/24"}, "10.1.2.2/24 10.1.2.1"),
        ({"subnet": "10.1.2.128/25"}, "10.1.2.130/25 10.1.2.129"),
        ({"subnet": "2001:db8:1::/64"}, "2001:db8:1::2/64 2001:db8:1::1"),
        ({"subnet": "2001:DB8:1:0::0/64"}, "2001:db8:1::2/64 2001:db8:1::1"),
        ({"subnet": "10.0.0.0/8"}, "10.0.0.2/8 10.0.0.1"),
        ({"subnet": "0.0.0.0/0"}, "0.0.0.2/0 0.0.0.1"),
        ({"subnet": "::/0"}, "::2/0 ::1"),
        (SUBNET | {"rangeStart": "10.1.2.40"}, "10.1.2.40/24 10.1.2.1"),
        (SUBNET | {"rangeStart": "", "rangeEnd": "", "gateway": ""}, "10.1.2.2/24 10.1.2.1"),
        (SUBNET | {"gateway": "10.1.2.2"}, "10.1.2.1/24 10.1.2.2"),
        (SUBNET | {"gateway": "10.9.9.1"}, "10.1.2.1/24 10.9.9.1"),
        (SUBNET | {"gateway": "::ffff:10.9.9.1"}, "10.1.2.1/24 10.9.9.1"),
        (SUBNET | {"rangeStart": "10.1.2.0"}, "10.1.2.0/24 10.1.2.1"),
        ({"ranges": [[{"subnet": "10.1.2.0/24"}]]}, "10.1.2.2/24 10.1.2.1"),
    ],
)
def test_ranges(ipam: dict[str, Any], expected: str, call: Call, config: Make) -> None:
    """A range begins behind the network address and its gateway is the first one, unless given."""
    document = call("ADD", config(ipam=ipam)).document
    one = document["ips"][0]
    assert f"{one['address']} {one['gateway']}" == expected


def _served(call: Call, made: dict[str, Any]) -> list[str]:
    """Every address that the network hands out, until it is exhausted."""
    found: list[str] = []
    while True:
        answer = call("ADD", made, f"all{len(found)}")
        if answer.code == 100:
            return found
        found += [text.partition("/")[0] for text in answer.addresses]


def _v4(*last: int) -> list[str]:
    return [f"10.1.2.{one}" for one in last]


@pytest.mark.parametrize(
    ("ipam", "expected"),
    [
        ({"subnet": "10.1.2.0/30"}, _v4(2)),
        ({"subnet": "10.1.2.0/29"}, _v4(2, 3, 4, 5, 6)),
        ({"subnet": "10.1.2.0/24"}, _v4(*range(2, 255))),
        ({"subnet": "10.1.2.0/31"}, _v4(0, 1)),
        ({"subnet": "10.1.2.7/32"}, _v4(7)),
        ({"subnet": "10.1.2.0/31", "gateway": "10.1.2.0"}, _v4(1)),
        ({"subnet": "2001:db8::/126"}, ["2001:db8::2", "2001:db8::3"]),
        ({"subnet": "2001:db8::/127"}, ["2001:db8::", "2001:db8::1"]),
        ({"subnet": "2001:db8::9/128"}, ["2001:db8::9"]),
        ({"subnet": "10.1.2.0/30", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.3"}, _v4(0, 2, 3)),
        (SUBNET | {"rangeStart": "10.1.2.7", "rangeEnd": "10.1.2.9"}, _v4(7, 8, 9)),
        (SUBNET | {"rangeStart": "10.1.2.7", "rangeEnd": "10.1.2.7"}, _v4(7)),
        (SUBNET | {"rangeEnd": "10.1.2.3", "gateway": "10.1.2.2"}, _v4(1, 3)),
        (
            {"ranges": [[{"subnet": "10.1.2.0/30"}, {"subnet": "10.1.2.8/30"}]]},
            _v4(2, 10),
        ),
        (
            {"subnet": "2001:db8::/64", "rangeStart": "2001:db8::", "rangeEnd": "2001:db8::2"},
            ["2001:db8::", "2001:db8::2"],
        ),
    ],
)
def test_what_is_served(
    ipam: dict[str, Any], expected: list[str], call: Call, config: Make
) -> None:
    """Start and end are served, the gateway is not; network and broadcast only when named."""
    assert _served(call, config(ipam=ipam)) == expected


def test_order_of_range_sets(call: Call, config: Make) -> None:
    """First runtimeConfig.ipRanges, then the old single range, then ranges."""
    made = config(
        ipam=SUBNET | {"ranges": [[{"subnet": "10.1.3.0/24"}], [{"subnet": "2001:db8::/64"}]]},
        runtimeConfig={"ipRanges": [[{"subnet": "10.1.4.0/24"}], [{"subnet": "10.1.5.0/24"}]]},
    )
    assert call("ADD", made).addresses == [
        "10.1.4.2/24",
        "10.1.5.2/24",
        "10.1.2.2/24",
        "10.1.3.2/24",
        "2001:db8::2/64",
    ]


def test_only_runtime_ranges(call: Call, config: Make) -> None:
    """The runtime's ranges may be the only ones."""
    made = config(runtimeConfig={"ipRanges": [[{"subnet": "10.1.4.0/24"}]]})
    assert call("ADD", made).addresses == ["10.1.4.2/24"]
    assert call("CHECK", made).status == 0
    assert call("DEL", config()).status == 0
    assert call("CHECK", made).code == 104


def test_old_keys_without_subnet(call: Call, config: Make) -> None:
    """rangeStart, rangeEnd and gateway beside ranges have no effect, but have to be addresses."""
    ipam = {"ranges": [[{"subnet": "10.1.3.0/24"}]]}
    old = {"rangeStart": "10.1.2.7", "rangeEnd": "10.1.2.3", "gateway": "10.1.2.9"}
    assert call("ADD", config(ipam=ipam | old)).addresses == ["10.1.3.2/24"]
    for key in old:
        answer = call("ADD", config(ipam=ipam | {key: "10.1.2.300"}), "c2")
        assert answer.code == 7
        assert answer.message.startswith(f"ipam.{key}:")


@pytest.mark.parametrize(
    ("ipam", "start"),
    [
        ({"ranges": [[]]}, "ipam.ranges[0]: range set 0 is empty"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}], []]}, "ipam.ranges[1]: range set 1 is empty"),
        ({"ranges": [[{}]]}, "ipam.ranges[0][0].subnet: the subnet is missing"),
        ({"ranges": [{"subnet": "10.0.0.0/24"}]}, "ipam.ranges[0]: this is an object"),
        ({"ranges": ["10.0.0.0/24"]}, "ipam.ranges[0]: this is a string"),
        ({"ranges": [None]}, "ipam.ranges[0]: this is null"),
        ({"ranges": [["10.0.0.0/24"]]}, "ipam.ranges[0][0]: this is a string"),
        ({"ranges": [[None]]}, "ipam.ranges[0][0]: this is null"),
        ({"subnet": ""}, "ipam.subnet:"),
        ({"subnet": "bogus"}, "ipam.subnet: 'bogus'"),
        ({"subnet": "10.1.2.0"}, "ipam.subnet:"),
        ({"subnet": "10.1.2.0/33"}, "ipam.subnet:"),
        ({"subnet": "10.1.2.0/-1"}, "ipam.subnet:"),
        ({"subnet": "10.1.02.0/24"}, "ipam.subnet:"),
        ({"subnet": "10.1.2.0/24\0"}, "ipam.subnet:"),
        ({"subnet": "2001:db8::/129"}, "ipam.subnet:"),
        ({"subnet": "fe80::%eth0/64"}, "ipam.subnet:"),
        ({"subnet": "::ffff:10.0.0.0/120"}, "ipam.subnet:"),
        (
            {"subnet": "192.0.2.5/24", "rangeStart": "9.9.9.9"},
            "ipam.subnet: subnet 192.0.2.5/24 has host bits set: the network address is 192.0.2.0",
        ),
        ({"subnet": "10.0.1.0/23"}, "ipam.subnet: subnet 10.0.1.0/23 has host bits"),
        ({"subnet": "2001:db8::1/64"}, "ipam.subnet: subnet 2001:db8::1/64 has host bits"),
        ({"subnet": "2001:db8:0:1::/63"}, "ipam.subnet: subnet 2001:db8:0:1::/63 has host bits"),
        (SUBNET | {"gateway": "x", "rangeStart": "9.9.9.9"}, "ipam.gateway: 'x'"),
        (SUBNET | {"gateway": "10.1.2.1/24"}, "ipam.gateway:"),
        (
            SUBNET | {"rangeStart": "10.1.3.1", "rangeEnd": "10.1.4.1"},
            "ipam.rangeStart: rangeStart 10.1.3.1 is not in",
        ),
        (SUBNET | {"rangeEnd": "10.1.4.1"}, "ipam.rangeEnd: rangeEnd 10.1.4.1 is not in"),
        (SUBNET | {"rangeStart": "2001:db8::1"}, "ipam.rangeStart: 2001:db8::1 is not an IPv4"),
        (SUBNET | {"rangeEnd": "nope"}, "ipam.rangeEnd: 'nope'"),
        (SUBNET | {"rangeStart": "10.1.2.01"}, "ipam.rangeStart:"),
        (
            SUBNET | {"rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.8"},
            "ipam.rangeStart: rangeStart 10.1.2.9 comes after rangeEnd 10.1.2.8",
        ),
        (
            SUBNET | {"rangeEnd": "10.1.2.0"},
            "ipam.rangeEnd: 10.1.2.0 comes before 10.1.2.1, the default",
        ),
        (SUBNET | {"gateway": "fd00::1"}, "ipam.gateway: fd00::1 is not an IPv4 address"),
        ({"subnet": "239.1.0.0/16"}, "ipam.subnet: 239.1.0.0/16 has multicast addresses"),
        (
            {"ranges": [[SUBNET, {"subnet": "127.0.0.0/8", "rangeStart": "127.0.0.9"}]]},
            "ipam.ranges[0][1].rangeStart: 127.0.0.9 is a loopback address",
        ),
        (
            {"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "2001:db8::/64"}]]},
            "ipam.ranges[0][1]: range set 0 mixes address families",
        ),
        (
            {"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.128/25"}]]},
            "ipam.ranges[0][1]: ranges 10.0.0.1-10.0.0.254 and 10.0.0.129-10.0.0.254 of range set",
        ),
        (
            {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.128/25"}]]},
            "ipam.ranges[1]: range set 0 (10.0.0.1-10.0.0.254) overlaps with range set 1",
        ),
        (
            SUBNET | {"ranges": [[{"subnet": "10.3.0.0/24"}], [{"subnet": "10.1.0.0/16"}]]},
            "ipam.ranges[1]: range set 0 (10.1.2.1-10.1.2.254) overlaps with range set 2",
        ),
        ({"subnet": "10.1.2.7/32", "gateway": "10.1.2.7"}, "ipam: range set 0 (10.1.2.7-10.1.2.7)"),
    ],
)
@pytest.mark.parametrize("command", ["ADD", "CHECK", "STATUS"])
def test_refused_ranges(
    command: str, ipam: dict[str, Any], start: str, call: Call, config: Make, tmp_path: Path
) -> None:
    """A range that cannot be is code 7, with the path of the field, the value and the reason."""
    answer = call(command, config(ipam=ipam))
    assert answer.code == 7
    assert answer.message.startswith(start), answer.message
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("ipam", [{}, {"ranges": []}, {"ranges": None}])
@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_no_ranges(command: str, ipam: dict[str, Any], call: Call, config: Make) -> None:
    """Without ranges there is nothing to assign: code 7, before and after a STATUS."""
    for _ in range(2):
        answer = call(command, config(ipam=ipam))
        assert answer.code == 7
        assert answer.message.startswith("ipam.ranges: no ranges")
        call("STATUS", config(ipam=ipam))


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_refused_ranges_do_not_matter(command: str, call: Call, config: Make, held: Held) -> None:
    """DEL and GC look at no range, whatever is wrong with it."""
    for number, ipam in enumerate(({}, {"ranges": 5}, {"subnet": "x"}, {"subnet": "10.1.2.3/24"})):
        assert call("ADD", config(ipam=SUBNET | {"cooldown": 0})).status == 0, number
        made = config(ipam=ipam) | {"cni.dev/valid-attachments": []}
        assert call(command, made).status == 0, number
        assert held() == {}, number


@pytest.mark.parametrize(
    ("left", "right", "clash"),
    [
        (("10.0.0.2", "10.0.0.9"), ("10.0.0.2", "10.0.0.9"), True),
        (("10.0.0.2", "10.0.0.9"), ("10.0.0.10", "10.0.0.19"), False),
        (("10.0.0.2", "10.0.0.9"), ("10.0.0.9", "10.0.0.19"), True),
        (("10.0.0.9", "10.0.0.19"), ("10.0.0.2", "10.0.0.9"), True),
        (("10.0.0.2", "10.0.0.19"), ("10.0.0.5", "10.0.0.6"), True),
        (("10.0.0.5", "10.0.0.6"), ("10.0.0.2", "10.0.0.19"), True),
    ],
)
@pytest.mark.parametrize("same_set", [True, False])
def test_overlap(
    left: tuple[str, str],
    right: tuple[str, str],
    clash: bool,
    same_set: bool,
    call: Call,
    config: Make,
) -> None:
    """Ranges overlap when they share an address; that their subnets are the same does not count."""
    one, other = (
        {"subnet": "10.0.0.0/24", "rangeStart": start, "rangeEnd": end}
        for start, end in (left, right)
    )
    ranges = [[one, other]] if same_set else [[one], [other]]
    assert call("ADD", config(ipam={"ranges": ranges})).code == (7 if clash else None)


def test_families_do_not_overlap(call: Call, config: Make) -> None:
    """An IPv4 and an IPv6 range never share an address, whatever their numbers."""
    ranges = [[{"subnet": "0.0.0.0/24"}], [{"subnet": "::/120"}]]
    assert call("ADD", config(ipam={"ranges": ranges})).addresses == ["0.0.0.2/24", "::2/120"]


@pytest.mark.parametrize("version", [*VERSIONS, ""])
def test_one_address_a_family(version: str, call: Call, config: Make) -> None:
    """Below 0.3.0 (or without a version) two sets of one family are refused, one of each not."""
    two = {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]]}
    answer = call("ADD", config(version=version, ipam=two))
    old = version < "0.3.0"
    assert answer.code == (7 if old else None)
    if old:
        assert answer.message.startswith("cniVersion: CNI version 0.")
    dual = {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}]]}
    assert call("ADD", config(version=version, name="dual", ipam=dual)).status == 0


@pytest.mark.parametrize("command", ["ADD", "CHECK", "STATUS"])
def test_missing_ipam(command: str, call: Call) -> None:
    """A configuration without ipam is code 7."""
    for document in ({}, {"ipam": None}):
        answer = call(command, {"cniVersion": "1.1.0", "name": "mynet"} | document)
        assert answer.code == 7
        assert answer.message.startswith("ipam:")


@pytest.mark.parametrize("value", NO_OBJECT)
@pytest.mark.parametrize("path", ["ipam", "args", "args.cni", "runtimeConfig", "ipam.routes[0]"])
def test_what_is_no_object(path: str, value: Any, call: Call, config: Make) -> None:
    """Where an object belongs, anything else is code 7 with the path."""
    made = config(ipam=SUBNET)
    if path == "args.cni":
        made["args"] = {"cni": value}
    elif path == "ipam.routes[0]":
        made["ipam"]["routes"] = [value]
    else:
        made[path] = value
    answer = call("ADD", made)
    assert answer.code == 7
    assert answer.message.startswith(f"{path}: this is ")


@pytest.mark.parametrize("value", NO_TEXT)
@pytest.mark.parametrize(
    "key",
    ["type", "subnet", "rangeStart", "rangeEnd", "gateway", "resolvConf", "dataDir", "durability"],
)
def test_what_is_no_text(key: str, value: Any, call: Call, config: Make) -> None:
    """Where a text belongs, anything else is code 7 with the path."""
    answer = call("ADD", config(ipam=SUBNET | {key: value}))
    assert answer.code == 7
    assert answer.message.startswith(f"ipam.{key}: this is ")


@pytest.mark.parametrize("value", NO_TEXT)
@pytest.mark.parametrize("key", ["subnet", "rangeStart", "rangeEnd", "gateway"])
def test_what_is_no_text_in_a_range(key: str, value: Any, call: Call, config: Make) -> None:
    """The same inside of a range set, where the path says which range."""
    ranges = [[{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.3.0/24", key: value}]]
    answer = call("ADD", config(ipam={"ranges": ranges}))
    assert answer.code == 7
    assert answer.message.startswith(f"ipam.ranges[0][1].{key}: this is ")


@pytest.mark.parametrize("value", NO_LIST)
@pytest.mark.parametrize(
    "path",
    [
        "ipam.ranges",
        "ipam.routes",
        "ipam.exclude",
        "ipam.ipRanges",
        "runtimeConfig.ipRanges",
        "runtimeConfig.ips",
        "args.cni.ips",
    ],
)
def test_what_is_no_list(path: str, value: Any, call: Call, config: Make) -> None:
    """Where a list belongs, anything else is code 7 with the path."""
    made = config(ipam=SUBNET, args={"cni": {}}, runtimeConfig={})
    *holders, key = path.split(".")
    holder = made
    for name in holders:
        holder = holder[name]
    holder[key] = value
    answer = call("ADD", made)
    assert answer.code == 7
    assert answer.message.startswith(f"{path}: this is ")


@pytest.mark.parametrize(
    "route",
    [
        {},
        {"dst": ""},
        {"dst": 5},
        {"dst": "10.0.0.0"},
        {"dst": "default"},
        {"dst": "10.0.0.0/40"},
        {"dst": "0.0.0.0/0", "gw": "x"},
        {"dst": "0.0.0.0/0", "gw": "10.1.2.1/24"},
        {"dst": "0.0.0.0/0", "gw": 5},
        {"dst": "0.0.0.0/0", "mtu": "1400"},
        {"dst": "0.0.0.0/0", "mtu": 1400.5},
        {"dst": "0.0.0.0/0", "mtu": True},
        {"dst": "0.0.0.0/0", "advmss": []},
        {"dst": "0.0.0.0/0", "priority": {}},
        {"dst": "0.0.0.0/0", "table": "main"},
        {"dst": "0.0.0.0/0", "scope": 1 << 63},
        {"dst": "0.0.0.0/0", "scope": 10**4000},
    ],
)
def test_refused_routes(route: dict[str, Any], call: Call, config: Make) -> None:
    """A route that cannot be is code 7, and says which one."""
    routes = [{"dst": "10.0.0.0/8"}, route]
    answer = call("ADD", config(ipam=SUBNET | {"routes": routes}))
    assert answer.code == 7
    assert answer.message.startswith("ipam.routes[1].")


CLUSTER: dict[str, Any] = {"endpoints": ["https://10.0.0.1:2379"], "pool": "10.32.0.0/12"}


@pytest.mark.parametrize("command", ["ADD", "CHECK", "STATUS"])
@pytest.mark.parametrize(
    ("value", "field"),
    [
        (True, "ipam.cluster"),
        ("cluster.json", "ipam.cluster"),
        ("/nonexistent/cluster.json", "ipam.cluster"),
        ([], "ipam.cluster"),
        ({}, "ipam.cluster.endpoints"),
        (CLUSTER | {"endpoints": []}, "ipam.cluster.endpoints"),
        (CLUSTER | {"endpoints": ["10.0.0.1"]}, "ipam.cluster.endpoints[0]"),
        (CLUSTER | {"pool": "10.32.0.1/12"}, "ipam.cluster.pool"),
        (CLUSTER | {"pool": ["10.32.0.0/12", "239.0.0.0/16"]}, "ipam.cluster.pool[1]"),
        (CLUSTER | {"pool": ["10.32.0.0/12", "10.40.0.0/13"]}, "ipam.cluster.pool"),
        (CLUSTER | {"pool": {"subnet": "10.32.0.0/12", "x": "y"}}, "ipam.cluster.pool.x"),
        (CLUSTER | {"blockSize": 11}, "ipam.cluster.blockSize"),
        (CLUSTER | {"blockSize": 32}, "ipam.cluster.blockSize"),
        (CLUSTER | {"blockSize": "24"}, "ipam.cluster.blockSize"),
        (CLUSTER | {"node": "a b"}, "ipam.cluster.node"),
        (CLUSTER | {"address": "here"}, "ipam.cluster.address"),
        (CLUSTER | {"cert": "/c.pem"}, "ipam.cluster.key"),
        (CLUSTER | {"ca": "ca.pem"}, "ipam.cluster.ca"),
        (CLUSTER | {"fencing": "yes"}, "ipam.cluster.fencing"),
        (CLUSTER | {"sessionTTL": 0}, "ipam.cluster.sessionTTL"),
        (CLUSTER | {"timeout": 1000}, "ipam.cluster.timeout"),
        (CLUSTER | {"lowWater": 1, "highWater": 1.5}, "ipam.cluster.highWater"),
        (CLUSTER | {"prefix": "a b"}, "ipam.cluster.prefix"),
        (CLUSTER | {"network": "another"}, "ipam.cluster.network"),
        (CLUSTER | {"dataDir": "/another"}, "ipam.cluster.dataDir"),
        (CLUSTER | {"blocksize ": 24}, "ipam.cluster.blocksize "),
    ],
)
def test_wrong_cluster(command: str, value: Any, field: str, call: Call, config: Make) -> None:
    """What is wrong with a cluster's settings is code 7, with the field; nothing is asked."""
    made = config()
    made["ipam"] = {"type": "fastipam", "dataDir": made["ipam"]["dataDir"], "cluster": value}
    answer = call(command, made)
    assert answer.code == 7, answer
    assert answer.message.startswith(f"{field}:")


def test_cluster_and_ranges(call: Call, config: Make) -> None:
    """A configuration has ranges, or a cluster's pool."""
    answer = call("ADD", config(ipam=SUBNET | {"cluster": CLUSTER}))
    assert answer.code == 7
    assert answer.message.startswith("ipam.cluster:")


# dataDir --------------------------------------------------------------------------------------


def test_default_data_dir() -> None:
    """Without a dataDir the store is in /var/lib/cni/fastipam."""
    assert DEFAULT_DATA_DIR == "/var/lib/cni/fastipam"
    for ipam in (
        None,
        {},
        {"datadir": ""},
        {"datadir": 5},
        {"datadir": "a\0b"},
        {"datadir": "a/b"},
        5,
    ):
        location = Location({"name": "a", "ipam": ipam})
        assert location.data_dir == "/var/lib/cni/fastipam"


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_impossible_data_dir(path: str, call: Call, config: Make) -> None:
    """A text that no file can have as its name is code 7; DEL has nothing to free there."""
    for command in ("ADD", "CHECK", "STATUS"):
        answer = call(command, config(ipam=SUBNET | {"dataDir": path}))
        assert answer.code == 7
        assert answer.message.startswith("ipam.dataDir:")
    assert call("DEL", config(ipam=SUBNET | {"dataDir": path})).status == 0


@pytest.mark.parametrize("path", ["store", "./store", "../store", "~/store"])
def test_relative_data_dir(
    path: str, call: Call, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path would be another store for each working directory: code 7."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for command in ("ADD", "CHECK", "STATUS"):
        answer = call(command, config(ipam=SUBNET | {"dataDir": path}))
        assert answer.code == 7
        assert answer.message.startswith(f"ipam.dataDir: {path!r} is not an absolute path")
    assert sorted(tmp_path.iterdir()) == before


def test_data_dirs_are_apart(call: Call, config: Make, tmp_path: Path) -> None:
    """The same network in two data directories is two networks."""
    for name in ("a", "b"):
        made = config(ipam=SUBNET | {"dataDir": str(tmp_path / "deep" / name)})
        assert call("ADD", made).addresses == ["10.1.2.2/24"]
        assert os.stat(tmp_path / "deep" / name).st_mode & 0o777 == 0o700


def test_data_dir_is_a_file(call: Call, config: Make, tmp_path: Path) -> None:
    """A dataDir that cannot be one is code 5, 51 in STATUS."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/" + "x" * 5000):
        made = config(ipam=SUBNET | {"dataDir": str(path)})
        assert call("ADD", made).code == 5
        assert call("STATUS", made).code == 51


# exclude --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        ([], _v4(2, 3, 4, 5, 6)),
        (["10.1.2.2"], _v4(3, 4, 5, 6)),
        (["10.1.2.3-10.1.2.5"], _v4(2, 6)),
        (["10.1.2.3 - 10.1.2.5"], _v4(2, 6)),
        (["10.1.2.4/31"], _v4(2, 3, 6)),
        (["10.1.2.5/31"], _v4(2, 3, 6)),
        (["10.1.2.5", "10.1.2.3", "10.1.2.3/32"], _v4(2, 4, 6)),
        (["10.9.0.0/16", "2001:db8::/32"], _v4(2, 3, 4, 5, 6)),
        (["10.1.2.1"], _v4(2, 3, 4, 5, 6)),
        (["10.0.0.0-10.1.2.5"], _v4(6)),
    ],
)
def test_exclude(exclude: list[str], expected: list[str], call: Call, config: Make) -> None:
    """What is excluded is never assigned; the forms may be mixed and touch nothing else."""
    made = config(ipam={"subnet": "10.1.2.0/29", "exclude": exclude})
    assert _served(call, made) == expected


@pytest.mark.parametrize(
    "exclude",
    [
        "10.1.2.2",
        ["nope"],
        [""],
        [5],
        [None],
        [["10.1.2.2"]],
        ["10.1.2.5-10.1.2.4"],
        ["10.1.2.5-2001:db8::1"],
        ["10.1.2.5-"],
        ["10.1.2.0/99"],
        ["10.1.2.0/29"],
        ["0.0.0.0/0"],
    ],
)
def test_refused_exclude(exclude: Any, call: Call, config: Make) -> None:
    """An exclusion that is none, or leaves nothing, is code 7."""
    answer = call("ADD", config(ipam={"subnet": "10.1.2.0/29", "exclude": exclude}))
    assert answer.code == 7


def test_excluded_address_cannot_be_requested(call: Call, config: Make) -> None:
    """An excluded address is not given out on request either."""
    made = config(ipam=SUBNET | {"exclude": ["10.1.2.9"]})
    answer = call("ADD", made, args="IP=10.1.2.9")
    assert answer.code == 103
    assert "excluded" in answer.message


def test_exclude_an_assigned_address(call: Call, config: Make, held: Held) -> None:
    """An address that is assigned before it is excluded stays so until its DEL."""
    call("ADD", config(ipam=SUBNET))
    made = config(ipam=SUBNET | {"exclude": ["10.1.2.2"], "cooldown": 0})
    assert call("CHECK", made).status == 0
    assert call("ADD", made, "c2").addresses == ["10.1.2.3/24"]
    assert call("DEL", made).status == 0
    assert call("ADD", made, "c3").addresses == ["10.1.2.4/24"]
    assert held() == {"10.1.2.3": ("c2", "eth0"), "10.1.2.4": ("c3", "eth0")}


# cooldown -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cooldown", "seconds"),
    [({}, 30.0), ({"cooldown": 5}, 5.0), ({"cooldown": 0.25}, 0.25), ({"cooldown": 1e8}, 1e8)],
)
def test_cooldown(
    cooldown: dict[str, Any], seconds: float, call: Call, config: Make, tmp_path: Path
) -> None:
    """A released address is passed over for ``cooldown`` seconds, 30 by default."""
    clock = Clock(1_800_000_000 * 10**9)
    open_stores.get(str(tmp_path / "store"), None).clock = clock
    made = config(ipam={"subnet": "10.1.2.0/29"} | cooldown)
    assert call("ADD", made, "a").addresses == ["10.1.2.2/29"]
    assert call("ADD", made, "b").addresses == ["10.1.2.3/29"]
    call("DEL", made, "a")
    for number in (4, 5, 6):
        assert call("ADD", made, f"c{number}").addresses == [f"10.1.2.{number}/29"]
    call("DEL", made, "b")
    clock.advance(seconds + 0.001)
    # .2 and .3 are free now: the round robin comes to .2 first, then to .3.
    assert call("ADD", made, "d").addresses == ["10.1.2.2/29"]
    call("DEL", made, "d")
    assert call("ADD", made, "e").addresses == ["10.1.2.3/29"]


def test_cooling_addresses_come_last(call: Call, config: Make) -> None:
    """While it cools an address is used only when nothing else is free, longest idle first."""
    made = config(ipam={"subnet": "10.1.2.0/29"})
    for number in range(2, 7):
        assert call("ADD", made, f"c{number}").addresses == [f"10.1.2.{number}/29"]
    for number in (4, 2, 6):
        call("DEL", made, f"c{number}")
    got = [call("ADD", made, f"d{at}").addresses[0] for at in range(3)]
    assert got == ["10.1.2.4/29", "10.1.2.2/29", "10.1.2.6/29"]
    assert call("ADD", made, "e").code == 100


def test_no_cooldown(call: Call, config: Make) -> None:
    """With cooldown 0 a released address is free at once."""
    made = config(ipam={"subnet": "10.1.2.0/30", "cooldown": 0})
    for _ in range(3):
        assert call("ADD", made).addresses == ["10.1.2.2/30"]
        assert call("DEL", made).status == 0


@pytest.mark.parametrize("value", [-1, -0.001, 1e9, 10**400, 1e308, True, "30", [], {}])
def test_refused_cooldown(value: Any, call: Call, config: Make) -> None:
    """A cooldown that is no number of seconds is code 7; DEL takes the default for it."""
    made = config(ipam=SUBNET | {"cooldown": value})
    answer = call("ADD", made)
    assert answer.code == 7
    assert answer.message.startswith("ipam.cooldown:")
    call("ADD", config(ipam=SUBNET))
    assert call("DEL", made).status == 0


# durability and repeatAdd ---------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["durable", "relaxed"])
def test_durability(durability: str, call: Call, config: Make, tmp_path: Path) -> None:
    """The first configuration decides the store's durability; one that is silent agrees."""
    made = config(ipam=SUBNET | {"durability": durability})
    assert call("ADD", made).status == 0
    assert call("ADD", config(ipam=SUBNET), "c2").status == 0
    assert open_stores.get(str(tmp_path / "store"), None).durability == durability


@pytest.mark.parametrize(("first", "second"), [("durable", "relaxed"), ("relaxed", "durable")])
@pytest.mark.parametrize("reopen", [True, False])
def test_durability_mismatch(
    first: str, second: str, reopen: bool, call: Call, config: Make, held: Held
) -> None:
    """Another durability than the store's is code 7 with both; DEL and GC do not mind."""
    call("ADD", config(ipam=SUBNET | {"durability": first}))
    if reopen:
        open_stores.close_all()
    made = config(ipam=SUBNET | {"durability": second})
    for command in ("ADD", "CHECK", "STATUS"):
        answer = call(command, made, "c2")
        assert answer.code == 7
        assert f"'{first}'" in answer.message
        assert f"'{second}'" in answer.message
    assert call("DEL", made).status == 0
    assert held() == {}
    assert call("GC", made | {"cni.dev/valid-attachments": []}).status == 0


@pytest.mark.parametrize("key", ["durability", "repeatAdd"])
@pytest.mark.parametrize("value", ["", "yes", "Durable", "RETURN", "error "])
def test_refused_choice(key: str, value: str, call: Call, config: Make) -> None:
    """A choice that is none of the offered ones is code 7 and lists them."""
    answer = call("ADD", config(ipam=SUBNET | {key: value}))
    assert answer.code == 7
    allowed = {"durability": '"durable" or "relaxed"', "repeatAdd": '"error" or "return"'}[key]
    assert answer.message == f"ipam.{key}: {value!r} is not {allowed}"


@pytest.mark.parametrize(
    ("path", "value", "code", "message"),
    [
        ("name", 7, 6, "name: this is a number, not a string: 7"),
        ("cniVersion", 1.0, 6, "cniVersion: this is a number, not a string: 1.0"),
        ("sticky", True, 7, 'ipam.sticky: this is a boolean, not "pod": true'),
        ("repeatAdd", True, 7, 'ipam.repeatAdd: this is a boolean, not "error" or "return": true'),
        (
            "routes",
            [{"gw": "10.1.2.1"}],
            7,
            "ipam.routes[0].dst: the destination of this route is missing",
        ),
        (
            "ranges",
            [{"subnet": "10.1.2.0/24"}],
            7,
            "ipam.ranges[0]: this is an object, not a range set, which is a list of ranges: "
            '{"subnet": "10.1.2.0/24"}',
        ),
    ],
)
def test_message_shows_json(
    path: str, value: object, code: int, message: str, call: Call, config: Make
) -> None:
    """A message shows a value as the document has it, and the values that are allowed."""
    made = config() | {path: value} if code == 6 else config(ipam=SUBNET | {path: value})
    answer = call("ADD", made)
    assert (answer.code, answer.message) == (code, message)


def test_default_route_by_its_name(call: Call, config: Make) -> None:
    """The word "default" is answered with what to write."""
    answer = call("ADD", config(ipam=SUBNET | {"routes": [{"dst": "default"}]}))
    assert (answer.code, "0.0.0.0/0" in answer.document["details"]) == (7, True)


def test_repeat_add_return(call: Call, config: Make, held: Held) -> None:
    """With repeatAdd "return" a second ADD of the owner has the same answer as the first."""
    ranges = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}]]
    made = config(ipam={"ranges": ranges, "repeatAdd": "return", "routes": [{"dst": "::/0"}]})
    first = call("ADD", made)
    assert first.addresses == ["10.1.2.2/24", "2001:db8::2/64"]
    assert call("ADD", made) == first
    assert len(held()) == 2
    assert call("ADD", made, ifname="eth1").addresses == ["10.1.2.3/24", "2001:db8::3/64"]


def test_repeat_add_return_in_an_exhausted_pool(call: Call, config: Make) -> None:
    """What the owner has is returned when nothing else is left, too."""
    made = config(ipam={"subnet": "10.1.2.0/30", "repeatAdd": "return"})
    assert call("ADD", made).status == 0
    assert call("ADD", made).addresses == ["10.1.2.2/30"]
    assert call("ADD", made, "c2").code == 100


@pytest.mark.parametrize("repeat", [{}, {"repeatAdd": "error"}])
def test_repeat_add_error(repeat: dict[str, str], call: Call, config: Make, held: Held) -> None:
    """A second ADD of the owner is code 102, with another requested address, too."""
    made = config(ipam=SUBNET | repeat)
    call("ADD", made)
    for args in ("", "IP=10.1.2.88", "IP=10.1.2.2"):
        answer = call("ADD", made, args=args)
        assert answer.code == 102
        assert "10.1.2.2" in answer.message
        assert "c1" in answer.message
    assert list(held()) == ["10.1.2.2"]


# limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipam", "keys"),
    [
        ({"ranges": [[{"subnet": f"10.{at}.0.0/24"}] for at in range(256)] + [[]]}, {}),
        ({"ranges": [[{"subnet": f"10.0.{at}.0/24"} for at in range(256)] * 5]}, {}),
        (SUBNET | {"routes": [{"dst": "10.0.0.0/8"}] * 4097}, {}),
        (SUBNET | {"exclude": ["10.1.2.9"] * 4097}, {}),
        (SUBNET, {"args": {"cni": {"ips": ["10.1.2.9"] * 1025}}}),
        (SUBNET, {"runtimeConfig": {"ips": ["10.1.2.9"] * 1025}}),
    ],
)
def test_absurd_numbers(
    ipam: dict[str, Any], keys: dict[str, Any], call: Call, config: Make
) -> None:
    """Lists that no configuration comes near are refused before they take time."""
    answer = call("ADD", config(ipam=ipam, **keys))
    assert answer.code == 7
    assert "at most" in answer.message


def test_large_numbers(call: Call, config: Make) -> None:
    """256 range sets, 4096 routes and 4096 exclusions are served."""
    ranges = [[{"subnet": f"10.{at}.0.0/24"}] for at in range(256)]
    exclude = [f"10.{at % 256}.0.{at // 256 * 2 + 3}" for at in range(4096)]
    routes = [{"dst": "192.168.0.0/16"}] * 4096
    made = config(ipam={"ranges": ranges, "exclude": exclude, "routes": routes})
    answer = call("ADD", made)
    assert answer.addresses == [f"10.{at}.0.2/24" for at in range(256)]
    assert len(answer.document["routes"]) == 4096
    assert call("ADD", made, "c2").addresses[0] == "10.0.0.4/24"
    assert call("STATUS", made).status == 0
    assert call("DEL", made).status == 0
