"""whereabouts' keys for the same things, so that its configurations can be taken over."""

from __future__ import annotations

from typing import Any

import pytest

from .plugin import Answer, Call, Make


def _addresses(answer: Answer) -> list[str]:
    return [text.partition("/")[0] for text in answer.addresses]


@pytest.mark.parametrize(
    ("ipam", "expected"),
    [
        ({"range": "192.168.1.0/24"}, ["192.168.1.1", "192.168.1.2"]),
        ({"range": "192.168.1.77/24"}, ["192.168.1.1", "192.168.1.2"]),
        ({"range": "192.168.1.11-192.168.1.23/24"}, ["192.168.1.11", "192.168.1.12"]),
        ({"range": "192.168.1.11 - 192.168.1.23/24"}, ["192.168.1.11", "192.168.1.12"]),
        ({"range": "2001::1/116"}, ["2001::1", "2001::2"]),
        ({"range": "fd::1/116"}, ["fd::1", "fd::2"]),
        ({"range": "192.168.1.6/31"}, ["192.168.1.6", "192.168.1.7"]),
        (
            {"range": "192.168.1.0/24", "exclude": ["192.168.1.0/28", "192.168.1.16/28"]},
            ["192.168.1.32", "192.168.1.33"],
        ),
        (
            {"range": "2001::0/116", "exclude": ["2001::0/128", "2001::1/128", "2001::2/128"]},
            ["2001::3", "2001::4"],
        ),
        ({"range": "caa5::0/112", "exclude": ["caa5::0/113"]}, ["caa5::8000", "caa5::8001"]),
        (
            {
                "range": "192.168.0.0/28",
                "exclude": ["192.168.0.0/30", "192.168.0.6/31", "192.168.0.8/31", "192.168.0.4/30"],
            },
            ["192.168.0.10", "192.168.0.11"],
        ),
        ({"range": "2001:db8::/30", "exclude": ["2001:db8::/32"]}, ["2001:db9::", "2001:db9::1"]),
        ({"range": "192.168.1.0/24", "range_start": "192.168.1.5"}, ["192.168.1.5", "192.168.1.6"]),
        (
            {"range": "192.168.1.0/24", "rangeStart": "192.168.1.5"},
            ["192.168.1.5", "192.168.1.6"],
        ),
        (
            {"range": "192.168.1.9-192.168.1.20/24", "range_start": "192.168.1.5"},
            ["192.168.1.5", "192.168.1.6"],
        ),
        (
            {"range": "192.168.1.0/24", "gateway": "192.168.1.1"},
            ["192.168.1.2", "192.168.1.3"],
        ),
    ],
)
def test_range(ipam: dict[str, Any], expected: list[str], call: Call, config: Make) -> None:
    """A range begins with its first address, as it has no gateway unless one is named."""
    made = config(ipam=ipam)
    assert [_addresses(call("ADD", made, f"c{at}"))[0] for at in range(2)] == expected


def test_start_and_end(call: Call, config: Make) -> None:
    """range_start and range_end are inclusive: 5 to 12 are eight addresses."""
    bounds = {"range_start": "192.168.1.5", "range_end": "192.168.1.12"}
    made = config(ipam={"range": "192.168.1.0/24"} | bounds)
    got = [_addresses(call("ADD", made, f"c{at}"))[0] for at in range(8)]
    assert got == [f"192.168.1.{at}" for at in range(5, 13)]
    assert call("ADD", made, "late").code == 100


def test_gateway(call: Call, config: Make) -> None:
    """The gateway is in the result when it is named, and is not assigned."""
    assert "gateway" not in call("ADD", config(ipam={"range": "10.0.0.0/24"})).document["ips"][0]
    apart = {"network_name": "apart"}
    made = config(name="other", ipam={"range": "10.0.0.0/30", "gateway": "10.0.0.2"} | apart)
    one = call("ADD", made).document["ips"][0]
    assert one == {"address": "10.0.0.1/30", "gateway": "10.0.0.2"}
    assert call("ADD", made, "c2").code == 100


def test_ip_ranges(call: Call, config: Make) -> None:
    """Each of ipRanges gives an address, behind that of the old range, in their order."""
    entries = [{"range": "10.2.0.0/24"}, {"range": "2001:db8::/64", "range_start": "2001:db8::9"}]
    assert call("ADD", config(ipam={"ipRanges": entries})).addresses == [
        "10.2.0.1/24",
        "2001:db8::9/64",
    ]
    ipam = {"range": "10.1.0.0/24", "ipRanges": entries, "network_name": "apart"}
    made = config(name="other", ipam=ipam)
    assert call("ADD", made).addresses == ["10.1.0.1/24", "10.2.0.1/24", "2001:db8::9/64"]


def test_gateway_and_bounds_of_ip_ranges(call: Call, config: Make) -> None:
    """An entry has its own bounds and gateway."""
    entry = {"range": "10.2.0.3-10.2.0.9/24", "range_end": "10.2.0.4", "gateway": "10.2.0.3"}
    made = config(ipam={"ipRanges": [entry]})
    expected = [{"address": "10.2.0.4/24", "gateway": "10.2.0.3"}]
    assert call("ADD", made).document["ips"] == expected
    assert call("ADD", made, "c2").code == 100


def test_exclude_of_ip_ranges(call: Call, config: Make) -> None:
    """An entry's own exclusions bind no other entry, however wide they are written."""
    entries: list[dict[str, Any]] = [
        {"range": "10.2.0.0/24", "exclude": ["10.0.0.0/8", "10.2.0.200"]},
        {"range": "10.3.0.0/24"},
    ]
    assert call("ADD", config(ipam={"ipRanges": entries})).code == 7
    entries[0]["exclude"] = ["10.2.0.0/28", "10.3.0.0/16"]
    made = config(ipam={"ipRanges": entries, "exclude": ["10.3.0.1"]})
    assert call("ADD", made).addresses == ["10.2.0.16/24", "10.3.0.2/24"]


def test_runtime_ranges_come_first(call: Call, config: Make) -> None:
    """runtimeConfig.ipRanges go with whereabouts' keys, too."""
    made = config(
        ipam={"range": "10.1.0.0/24"}, runtimeConfig={"ipRanges": [[{"subnet": "10.5.0.0/24"}]]}
    )
    assert call("ADD", made).addresses == ["10.5.0.2/24", "10.1.0.1/24"]


@pytest.mark.parametrize(
    ("ipam", "start"),
    [
        ({"range": ""}, "ipam.range:"),
        ({"range": 5}, "ipam.range: this is a number"),
        ({"range": "192.168.1.0"}, "ipam.range:"),
        ({"range": "192.168.1.11-192.168.1.23"}, "ipam.range:"),
        ({"range": "192.168.1.11-/24"}, "ipam.range:"),
        ({"range": "-192.168.1.11/24"}, "ipam.range:"),
        ({"range": "192.168.1.11-192.168.2.23/24"}, "ipam.range:"),
        ({"range": "192.168.1.23-192.168.1.11/24"}, "ipam.range:"),
        ({"range": "00192.00168.1.0/24"}, "ipam.range:"),
        ({"range": "192.168.0.0/29", "exclude": ["192.168.0.1/123"]}, "ipam.exclude[0]:"),
        ({"range": "192.168.2.16/28", "range_start": "192.168.1.5"}, "ipam.range_start:"),
        ({"range": "192.168.2.16/28", "range_end": "192.168.1.5"}, "ipam.range_end:"),
        ({"range": "192.168.2.16/28", "range_end": []}, "ipam.range_end: this is a list"),
        ({"range": "10.0.0.0/24", "rangeStart": "10.1.0.5"}, "ipam.rangeStart:"),
        ({"range": "10.0.0.3-x/24", "range_end": "10.0.0.9"}, "ipam.range:"),
        ({"range_start": "192.168.1.5"}, "ipam.range_start:"),
        ({"range_end": "192.168.1.5"}, "ipam.range_end:"),
        ({"ipRanges": ["10.0.0.0/8"]}, "ipam.ipRanges[0]: this is a string"),
        ({"ipRanges": [{}]}, "ipam.ipRanges[0].range:"),
        ({"ipRanges": [{"range": "x"}]}, "ipam.ipRanges[0].range:"),
        ({"ipRanges": [{"range": "10.0.0.0/8", "exclude": 5}]}, "ipam.ipRanges[0].exclude:"),
        ({"ipRanges": [{"range": "10.0.0.0/8", "exclude": [5]}]}, "ipam.ipRanges[0].exclude[0]:"),
        ({"ipRanges": [{"range": "10.0.0.0/8", "gateway": "x"}]}, "ipam.ipRanges[0].gateway:"),
        ({"ipRanges": [{"range": "10.0.0.0/8"}] * 2}, "ipam.ipRanges[1]: range set 0"),
        ({"ipRanges": [{"range": "10.0.0.0/8"}] * 257}, "ipam.ipRanges: 257 entries"),
    ],
)
def test_refused(ipam: dict[str, Any], start: str, call: Call, config: Make) -> None:
    """What cannot be is code 7 with the path of the field, not ignored as whereabouts does."""
    answer = call("ADD", config(ipam=ipam))
    assert answer.code == 7
    assert answer.message.startswith(start), answer.message


@pytest.mark.parametrize(
    ("ipam", "names"),
    [
        ({"range": "10.0.0.0/24", "subnet": "10.0.1.0/24"}, ("ipam.range", "ipam.subnet")),
        ({"range": "10.0.0.0/24", "subnet": "10.0.0.0/24"}, ("ipam.range", "ipam.subnet")),
        (
            {"range": "10.0.0.0/24", "ranges": [[{"subnet": "10.0.1.0/24"}]]},
            ("ipam.range", "ipam.ranges"),
        ),
        (
            {"ipRanges": [{"range": "10.0.0.0/24"}], "subnet": "10.0.1.0/24"},
            ("ipam.ipRanges", "ipam.subnet"),
        ),
        (
            {"range": "10.0.0.0/24", "range_start": "10.0.0.5", "rangeStart": "10.0.0.6"},
            ("ipam.range_start", "ipam.rangeStart"),
        ),
        (
            {"range": "10.0.0.0/24", "range_end": "10.0.0.5", "rangeEnd": "10.0.0.6"},
            ("ipam.range_end", "ipam.rangeEnd"),
        ),
        (
            {
                "ipRanges": [
                    {"range": "10.0.0.0/24", "range_end": "10.0.0.5", "rangeEnd": "1.1.1.1"}
                ]
            },
            ("ipam.ipRanges[0].range_end", "ipam.ipRanges[0].rangeEnd"),
        ),
    ],
)
def test_contradictions(
    ipam: dict[str, Any], names: tuple[str, str], call: Call, config: Make
) -> None:
    """Two keys that both say what to assign are code 7, and both are named."""
    answer = call("ADD", config(ipam=ipam))
    assert answer.code == 7
    for name in names:
        assert name in answer.message


def test_two_names_for_the_same_bound(call: Call, config: Make) -> None:
    """Both names of a bound may stand there when they say the same."""
    bounds = {"range_start": "10.0.0.5", "rangeStart": "10.0.0.5"}
    made = config(ipam={"range": "10.0.0.0/24"} | bounds)
    assert call("ADD", made).addresses == ["10.0.0.5/24"]


def test_keys_without_a_meaning_here(call: Call, config: Make) -> None:
    """whereabouts' operational keys are ignored, and the log says so."""
    others = {"log_file": "/tmp/x", "kubernetes": {"kubeconfig": "/x"}, "sleep_for_race": 0}
    answer = call("ADD", config(ipam={"range": "10.0.0.0/24"} | others))
    assert answer.status == 0
    assert all(key in answer.stderr for key in others)


def test_changed_over_from_subnet(call: Call, config: Make) -> None:
    """A network whose configuration changes from one set of keys to the other keeps its leases."""
    call("ADD", config(ipam={"subnet": "10.0.0.0/24"}))
    made = config(ipam={"range": "10.0.0.0/24"})
    assert call("ADD", made).code == 102
    assert call("ADD", made, "c2").addresses == ["10.0.0.3/24"]
