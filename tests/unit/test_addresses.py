"""Addresses and CIDRs: the same as ``ipaddress``, where Go's rules are the same."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastipam.addressing.addresses import (
    format_cidr,
    format_ip,
    parse_cidr,
    parse_ip,
    parse_value,
    prefix_bounds,
)

V4S = st.integers(0, 2**32 - 1)
# Addresses with runs of zero groups, which is where the text form has its rules.
V6S = st.lists(st.sampled_from([0, 0, 0, 1, 0xAB, 0xFFFF]), min_size=8, max_size=8).map(
    lambda groups: sum(group << 16 * at for at, group in enumerate(groups))
) | st.integers(0, 2**128 - 1)


def is_mapped(value: int) -> bool:
    return value >> 32 == 0xFFFF


@given(V4S)
def test_v4_round_trip(value: int) -> None:
    """An IPv4 address is written as ``ipaddress`` writes it, and read back."""
    text = format_ip(4, value)
    assert text == str(ipaddress.IPv4Address(value))
    assert parse_ip(text) == (4, value)
    assert parse_value(4, text) == value


@given(V6S)
def test_v6_round_trip(value: int) -> None:
    """An IPv6 address is written as ``ipaddress`` writes it, and read back in every form."""
    text = format_ip(6, value)
    assert parse_value(6, text) == value
    if is_mapped(value):
        assert parse_ip(text) == (4, value & 0xFFFFFFFF)
        return
    assert text == str(ipaddress.IPv6Address(value))
    for form in (text, text.upper(), ipaddress.IPv6Address(value).exploded):
        assert parse_ip(form) == (6, value)
    head = format_ip(6, value >> 32 << 32 | 0xFFFFFFFF)[:-9]
    dotted = f"{head}{format_ip(4, value & 0xFFFFFFFF)}"
    if dotted.count(":") >= 6 or "::" in dotted:
        assert parse_ip(dotted) == (6, value)


@given(st.text(alphabet="0123456789abf:./%x ", max_size=24))
def test_same_verdict_as_ipaddress(text: str) -> None:
    """Whatever is no address for ``ipaddress`` is none here, and the other way round; no zones."""
    try:
        expected = ipaddress.ip_address(text)
    except ValueError:
        with pytest.raises(ValueError, match="is not an IP address"):
            parse_ip(text)
        return
    if "%" in text:
        with pytest.raises(ValueError, match="is not an IP address"):
            parse_ip(text)
    elif expected.version == 6 and is_mapped(int(expected)):
        assert parse_ip(text) == (4, int(expected) & 0xFFFFFFFF)
    else:
        assert parse_ip(text) == (expected.version, int(expected))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.04", "256.1.1.1", "1.2.3.4 ", "1..2.3",
        "0x1.2.3.4", "1.2.3.-4", "\u0661.2.3.4", ":", ":::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
        "::1::", "1:2:3:4:5:6:7::8:9", "1::2:3:4:5:6:7:8", "12345::", "g::", "fe80::1%eth0",
        "::1.2.3", "::01.2.3.4", "1.2.3.4::", "::1.2.3.4:5", "::ffff:1.2.3.4%eth0", "[::1]",
        "::1/64", "0255.1.1.1", "1.2.3.0004",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    """What Go's ParseIP refuses is refused: leading zeros, zones, half addresses."""
    with pytest.raises(ValueError, match="is not an IP address"):
        parse_ip(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:2:3:4:5:6:7::", 0x1_0002_0003_0004_0005_0006_0007_0000),
        ("::2:3:4:5:6:7:8", 0x2_0003_0004_0005_0006_0007_0008),
        ("1:2:3::5:6:7:8", 0x1_0002_0003_0000_0005_0006_0007_0008),
    ],
)
def test_gap_of_one_group(text: str, value: int) -> None:
    """Two colons may stand for a single group of zeros (RFC 4291 section 2.2)."""
    assert parse_ip(text) == (6, value)


@pytest.mark.parametrize("text", ["::ffff:10.1.2.3", "::FFFF:a01:203", "0:0:0:0:0:ffff:10.1.2.3"])
def test_mapped_is_v4(text: str) -> None:
    """An IPv4-mapped IPv6 address is the IPv4 address."""
    assert parse_ip(text) == (4, 0x0A010203)


@given(st.booleans(), st.data())
def test_cidr(v6: bool, data: st.DataObject) -> None:
    """A CIDR is read and written with its host bits; its bounds are those of ``ipaddress``."""
    family, bits = (6, 128) if v6 else (4, 32)
    value = data.draw(V6S if v6 else V4S)
    length = data.draw(st.integers(0, bits))
    text = format_cidr(family, value, length)
    if not (v6 and is_mapped(value)):
        assert parse_cidr(text) == (family, value, length)
    network = ipaddress.ip_network((value, length), strict=False)
    expected = (int(network.network_address), int(network.broadcast_address))
    if network.version == family:  # ipaddress takes a small integer for IPv4
        assert prefix_bounds(family, value, length) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.0", "the /length is missing"),
        ("10.0.0/8", "is not a CIDR"),
        ("10.0.0.0/", "is not a number"),
        ("10.0.0.0/33", "exceeds 32"),
        ("10.0.0.0/-1", "is not a number"),
        ("10.0.0.0/0x8", "is not a number"),
        ("10.0.0.0/8/8", "is not a number"),
        ("10.0.0.0/ 8", "is not a number"),
        ("::/129", "exceeds 128"),
        ("::/1280", "is not a number"),
        ("::ffff:10.0.0.0/104", "mixes an IPv4 address with an IPv6 mask"),
        ("/8", "is not a CIDR"),
    ],
)
def test_cidr_refused(text: str, why: str) -> None:
    """A bad CIDR is named, with what is wrong."""
    with pytest.raises(ValueError, match=why) as caught:
        parse_cidr(text)
    assert repr(text) in str(caught.value)


def test_value_of_the_other_family() -> None:
    """The reader of stored addresses takes the family that is asked for only."""
    with pytest.raises(ValueError, match="not an IPv4 address"):
        parse_value(4, "::1")
    with pytest.raises(ValueError, match="not an IPv6 address"):
        parse_value(6, "10.0.0.1")
