"""What a configuration says without effect is noted on standard error, with the field's path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .plugin import Call, Make

SUBNET = {"subnet": "10.1.2.0/24"}
RANGES: dict[str, Any] = {"ranges": [[SUBNET]]}
TWO = [[SUBNET], [{"subnet": "10.1.3.0/24"}, {"subnet": "10.1.4.0/24"}]]
UNKNOWN = "unknown key, ignored"


def _notes(call: Call, made: dict[str, Any], command: str = "ADD") -> list[str]:
    answer = call(command, made)
    assert answer.status == 0, answer
    return answer.stderr.splitlines()


@pytest.mark.parametrize(
    ("ipam", "notes"),
    [
        (SUBNET, []),
        (SUBNET | {"rnages": 1, "log_File": "x"}, ["ipam.rnages", "ipam.log_File"]),
        (SUBNET | {"dns": {"nameservers": []}}, ["ipam.dns"]),
        (SUBNET | {"a\nb": 1}, ["ipam['a\\nb']"]),
        ({"ranges": [[SUBNET | {"rangeSart": "x"}]]}, ["ipam.ranges[0][0].rangeSart"]),
        ({"ranges": [TWO[0], [TWO[1][0], TWO[1][1] | {"Ende": 1}]]}, ["ipam.ranges[1][1].Ende"]),
        (
            SUBNET | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "Metric": 9}]},
            ["ipam.routes[1].Metric"],
        ),
        (
            {"ipRanges": [{"range": "10.1.2.0/24", "Range_Stop": "10.1.2.9"}]},
            ["ipam.ipRanges[0].Range_Stop"],
        ),
    ],
)
def test_unknown_keys(ipam: dict[str, Any], notes: list[str], call: Call, config: Make) -> None:
    """An unknown key is ignored, and noted at every level as it is spelled; each call says so."""
    for command in ("ADD", "CHECK", "STATUS"):
        found = _notes(call, config(ipam=ipam, bridge="br0", mtu=1500), command)
        assert found == [f"{note}: {UNKNOWN}" for note in notes], command


@pytest.mark.parametrize(
    ("keys", "notes"),
    [
        ({"runtimeConfig": {"ips": ["10.1.2.9"], "mac": "x", "portMappings": []}}, []),
        ({"runtimeConfig": {"ipRange": []}}, [f"runtimeConfig.ipRange: {UNKNOWN}"]),
        (
            {"runtimeConfig": {"ipRanges": [[{"subnet": "10.1.3.0/24", "Gate": 1}]]}},
            [f"runtimeConfig.ipRanges[0][0].Gate: {UNKNOWN}"],
        ),
        ({"args": {"cni": {"ips": ["10.1.2.9"], "labels": []}, "com.example": {}}}, []),
        ({"args": {"cni": {"Ip": "10.1.2.9"}}}, [f"args.cni.Ip: {UNKNOWN}"]),
        ({"args": {"IPs": ["10.1.2.9"]}}, ["args.IPs: no effect: write args.cni.ips"]),
    ],
)
def test_beside_ipam(keys: dict[str, Any], notes: list[str], call: Call, config: Make) -> None:
    """What asks for addresses outside of ipam is looked at; other plugins' keys are not."""
    assert _notes(call, config(ipam=SUBNET, **keys)) == notes


@pytest.mark.parametrize(
    ("ipam", "start"),
    [
        (RANGES | {"rangeStart": "10.1.2.9"}, "ipam.rangeStart: no effect without ipam.subnet"),
        (RANGES | {"rangeEnd": "10.1.2.9"}, "ipam.rangeEnd: no effect"),
        (RANGES | {"gateway": "10.1.2.9"}, "ipam.gateway: no effect"),
        (SUBNET | {"exclude": ["10.1.2.7", "10.12.0.0/29"]}, "ipam.exclude[1]: this exclusion"),
        (SUBNET | {"exclude": ["fd00::/64"]}, "ipam.exclude[0]: this exclusion has no effect"),
        (
            {"ranges": [[SUBNET | {"exclude": ["10.1.3.0/29"]}]]},
            "ipam.ranges[0][0].exclude[0]: this exclusion has no effect",
        ),
        (
            {"ranges": [[SUBNET | {"rangeStart": "10.1.2.9", "exclude": ["10.1.2.1"]}]]},
            "ipam.ranges[0][0].exclude[0]: this exclusion has no effect",
        ),
        (
            {"ipRanges": [{"range": "10.1.2.0/24", "exclude": ["10.1.3.1"]}]},
            "ipam.ipRanges[0].exclude[0]: this exclusion has no effect",
        ),
        (SUBNET | {"cooldown": 0, "cooldownPolicy": "strict"}, "ipam.cooldownPolicy: no effect"),
        (SUBNET | {"history": 0, "historyAge": 60}, "ipam.historyAge: no effect"),
        *(
            (
                SUBNET | {"routes": [{"dst": "0.0.0.0/0", key: value}]},
                f"ipam.routes[0].{key}: {value} is not in 0..",
            )
            for key, value in (
                ("mtu", -5),
                ("mtu", 1 << 32),
                ("advmss", -1),
                ("priority", -1),
                ("table", 1 << 32),
                ("scope", 256),
            )
        ),
    ],
)
def test_values_without_effect(ipam: dict[str, Any], start: str, call: Call, config: Make) -> None:
    """A value that changes nothing, or that no kernel takes, is noted and does not fail the ADD."""
    (note,) = _notes(call, config(ipam=ipam))
    assert note.startswith(start), note


def test_many_notes(call: Call, config: Make) -> None:
    """Of many notes the first are printed, and how many there are more."""
    notes = _notes(call, config(ipam=SUBNET | {f"k{at}": 1 for at in range(50)}))
    assert len(notes) == 9
    assert notes[-1] == "more fields of the configuration that have no effect: 42"


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        (SUBNET | {"exclude": ["10.1.2.0/29"]}, "10.1.2.8"),
        (SUBNET | {"exclude": ["10.1.2.2", "10.1.2.3-10.1.2.9"]}, "10.1.2.10"),
        (SUBNET | {"range_start": "10.1.2.100", "range_end": "10.1.2.110"}, "10.1.2.100"),
        (SUBNET | {"range_start": "10.1.2.100", "rangeStart": "10.1.2.100"}, "10.1.2.100"),
        (SUBNET | {"range_start": "10.1.2.0"}, "10.1.2.2"),
    ],
)
@pytest.mark.parametrize("place", ["ipam", "ranges", "runtime"])
def test_keys_inside_a_range(
    place: str, range_: dict[str, Any], expected: str, call: Call, config: Make
) -> None:
    """``exclude`` and whereabouts' names work wherever a range is described."""
    made = config(
        ipam={"ipam": range_, "ranges": {"ranges": [[range_]]}, "runtime": {}}[place],
        **({"runtimeConfig": {"ipRanges": [[range_]]}} if place == "runtime" else {}),
    )
    answer = call("ADD", made)
    assert (answer.addresses, answer.stderr) == ([f"{expected}/24"], "")


@pytest.mark.parametrize(
    ("range_", "start"),
    [
        ({"exclude": "10.1.2.3"}, ".exclude: this is a string"),
        ({"exclude": ["x"]}, ".exclude[0]: 'x' is not"),
        ({"exclude": [5]}, ".exclude[0]: this is a number"),
        ({"range_start": 5}, ".range_start: this is a number"),
        ({"range_start": "10.1.3.1"}, ".range_start: rangeStart 10.1.3.1 is not in"),
        ({"range_end": "x"}, ".range_end: 'x' is not"),
        (
            {"range_end": "10.1.2.9", "rangeEnd": "10.1.2.8"},
            ".range_end: range_end is '10.1.2.9', but ipam.ranges[0][0].rangeEnd is '10.1.2.8'",
        ),
    ],
)
def test_wrong_keys_inside_a_range(
    range_: dict[str, Any], start: str, call: Call, config: Make
) -> None:
    """They are code 7 with the path where the user wrote them."""
    answer = call("ADD", config(ipam={"ranges": [[SUBNET | range_]]}))
    assert answer.code == 7
    assert answer.message.startswith(f"ipam.ranges[0][0]{start}"), answer.message


def test_exclusions_of_one_range(call: Call, config: Make) -> None:
    """An exclusion inside a range means nothing to the others."""
    wide = {"subnet": "10.1.2.0/30", "exclude": ["10.0.0.0/8"], "gateway": "10.1.2.1"}
    answer = call("ADD", config(ipam={"ranges": [[wide, {"subnet": "10.1.3.0/30"}]]}))
    assert answer.addresses == ["10.1.3.2/30"]


@pytest.mark.parametrize(
    "ipam",
    [
        {"range": "10.1.2.254-10.1.2.255/24"},
        {"range": "10.1.2.0/24", "range_start": "10.1.2.254", "range_end": "10.1.2.255"},
        {"ipRanges": [{"range": "10.1.2.254-10.1.2.255/24"}]},
        {"ranges": [[SUBNET | {"rangeStart": "10.1.2.254", "range_end": "10.1.2.255"}]]},
    ],
)
def test_no_broadcast_by_names_of_whereabouts(
    ipam: dict[str, Any], call: Call, config: Make
) -> None:
    """whereabouts never assigns the broadcast address, so its names never give it either."""
    assert call("ADD", config(ipam=ipam)).addresses == ["10.1.2.254/24"]
    assert call("ADD", config(ipam=ipam), "c2").code == 100
    assert call("ADD", config(ipam=ipam), "c3", args="IP=10.1.2.255").code == 103


def test_only_the_broadcast_address(call: Call, config: Make) -> None:
    """A range of whereabouts that has no other address is refused."""
    answer = call("ADD", config(ipam={"range": "10.1.2.255-10.1.2.255/24"}))
    assert answer.code == 7
    assert "broadcast" in answer.message


def test_a_gateway_that_a_pod_has(call: Call, config: Make) -> None:
    """A gateway cannot move to an address that is assigned; the error names both."""
    slash_29 = {"subnet": "10.1.2.0/29"}
    call("ADD", config(ipam=slash_29), "x1")
    for ipam, field in (
        (slash_29 | {"gateway": "10.1.2.2"}, "ipam.gateway"),
        (
            {"ranges": [[{"subnet": "10.1.3.0/29"}, slash_29 | {"gateway": "10.1.2.2"}]]},
            "ipam.ranges[0][1].gateway",
        ),
    ):
        answer = call("ADD", config(ipam=ipam), "z")
        assert answer.code == 7
        assert answer.message.startswith(f"{field}: the gateway 10.1.2.2 of 10.1.2.0/29")
        assert "x1 eth0" in answer.message
    runtime = {"ipRanges": [[slash_29 | {"gateway": "10.1.2.2"}]]}
    answer = call("ADD", config(runtimeConfig=runtime), "z")
    assert answer.code == 7
    assert answer.message.startswith("runtimeConfig.ipRanges[0][0].gateway: the gateway 10.1.2.2")
    call("DEL", config(ipam=slash_29), "x1")
    moved = config(ipam=slash_29 | {"gateway": "10.1.2.2"})
    assert call("ADD", moved, "z").addresses == ["10.1.2.3/29"]


def test_relative_resolv_conf(call: Call, config: Make, tmp_path: Path) -> None:
    """A relative resolvConf means another file in another directory: refused, as dataDir is."""
    for command in ("ADD", "CHECK", "STATUS"):
        answer = call(command, config(ipam=SUBNET | {"resolvConf": "resolv.conf"}))
        assert answer.code == 7
        assert answer.message.startswith("ipam.resolvConf: 'resolv.conf' is not an absolute path")
    assert not (tmp_path / "store").exists()


def test_flat_ranges(call: Call, config: Make) -> None:
    """A list of ranges where a list of lists is wanted: the hint shows two brackets."""
    answer = call("ADD", config(ipam={"ranges": [SUBNET]}))
    assert answer.code == 7
    assert "[[{" in answer.document["details"]
