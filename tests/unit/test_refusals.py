"""What is said of ranges, exclusions and requests that are refused: in full, word for word."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fastipam.addressing.addresses import parse_cidr, parse_ip
from fastipam.addressing.parsing import build_pool, parse_exclusion, parse_ranges
from fastipam.addressing.ranges import Range
from fastipam.errors import AddressNotInRange, ConfigError

V4 = "192.0.2.0/24"


def _said(error: ConfigError) -> tuple[str, str | None, object, str | None]:
    return error.message, error.field, error.value, error.hint


@pytest.mark.parametrize(
    ("arguments", "message", "field", "value", "hint"),
    [
        (("192.0.2.0",), "'192.0.2.0' is not a CIDR: the /length is missing", "subnet", None, None),
        (
            ("192.0.2.7/24",),
            "subnet 192.0.2.7/24 has host bits set: the network address is 192.0.2.0/24",
            "subnet", None, "write 192.0.2.0/24",
        ),
        (
            ("2001:db8::1/64",),
            "subnet 2001:db8::1/64 has host bits set: the network address is 2001:db8::/64",
            "subnet", None, "write 2001:db8::/64",
        ),
        ((V4, "bad"), "'bad' is not an IP address", "rangeStart", "bad", None),
        (
            (V4, "2001:db8::1"),
            "2001:db8::1 is not an IPv4 address, but its subnet is IPv4",
            "rangeStart", "2001:db8::1", None,
        ),
        (
            ("2001:db8::/64", None, "192.0.2.1"),
            "192.0.2.1 is not an IPv6 address, but its subnet is IPv6",
            "rangeEnd", "192.0.2.1", None,
        ),
        (
            (V4, "192.0.3.1"),
            "rangeStart 192.0.3.1 is not in 192.0.2.0/24", "rangeStart", "192.0.3.1", None,
        ),
        (
            ("2001:db8::/64", None, "2001:db9::"),
            "rangeEnd 2001:db9:: is not in 2001:db8::/64", "rangeEnd", "2001:db9::", None,
        ),
        (
            (V4, "192.0.2.9", "192.0.2.8"),
            "rangeStart 192.0.2.9 comes after rangeEnd 192.0.2.8", "rangeStart", "192.0.2.9", None,
        ),
        (
            ("2001:db8::/64", "2001:db8::9", "2001:db8::8"),
            "rangeStart 2001:db8::9 comes after rangeEnd 2001:db8::8",
            "rangeStart", "2001:db8::9", None,
        ),
        ((V4, None, None, "bad"), "'bad' is not an IP address", "gateway", "bad", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "ipam.ranges[0][1]"])
def test_range(
    place: str,
    arguments: tuple[str, ...],
    message: str,
    field: str,
    value: str | None,
    hint: str | None,
) -> None:
    """A bad range; its field has the path before it when there is one."""
    keyword = {"field": place} if place else {}
    with pytest.raises(ConfigError) as caught:
        Range.parse(*arguments, **keyword)  # type: ignore[arg-type]
    where = f"{place}.{field}" if place else field
    assert _said(caught.value) == (message, where, value or arguments[0], hint)


@pytest.mark.parametrize(
    ("ranges", "message", "field", "value", "hint"),
    [
        ([], "no ranges are given", "x", [], None),
        ([[]], "range set 0 is empty", "x[0]", [], None),
        (["bad"], "'bad' is not a CIDR: the /length is missing", "x[0].subnet", "bad", None),
        (
            [["192.0.2.0/24", "2001:db8::/64"]],
            "range set 0 mixes address families: "
            "192.0.2.1-192.0.2.254 and 2001:db8::1-2001:db8::ffff:ffff:ffff:ffff",
            "x[0][1]", "2001:db8::1-2001:db8::ffff:ffff:ffff:ffff",
            "give each family a range set of its own",
        ),
        (
            [V4, ["10.0.0.0/30", "10.0.1.0/30", "10.0.1.0/31"]],
            "ranges 10.0.1.1-10.0.1.2 and 10.0.1.0-10.0.1.1 of range set 1 overlap",
            "x[1][2]", "10.0.1.0-10.0.1.1", None,
        ),
        (
            ["10.0.0.0/30", V4, ["10.9.0.0/30", "192.0.2.128/30"]],
            "range set 1 (192.0.2.1-192.0.2.254) overlaps with range set 2 "
            "(192.0.2.129-192.0.2.130)",
            "x[2][1]", "192.0.2.129-192.0.2.130", None,
        ),
        (
            [[{"subnet": "10.0.0.0/30", "rangeEnd": "10.0.0.1"}]],
            "range set 0 (10.0.0.1-10.0.0.1) has no address to assign: the gateway and the "
            "exclusions cover all of it",
            "x[0]", "10.0.0.1-10.0.0.1", None,
        ),
        ([5], "5 is neither a CIDR nor a mapping with a subnet", "x[0]", 5, None),
        ([[V4, 5]], "5 is neither a CIDR nor a mapping with a subnet", "x[0][1]", 5, None),
        ([{}], "subnet is missing", "x[0].subnet", None, None),
        ([{"subnet": 5}], "subnet must be a string", "x[0].subnet", 5, None),
        (
            [{"subnet": V4, "rangeEnd": 5}],
            "rangeEnd must be a string", "x[0].rangeEnd", 5, None,
        ),
        ([{"subnet": V4, "net": "y"}], "'net' is not a valid key of a range", "x[0]", "net", None),
    ],
)  # fmt: skip
def test_ranges(
    ranges: list[object], message: str, field: str, value: object, hint: str | None
) -> None:
    """Bad range sets: the place in the list, the value that stood there, and what to do."""
    with pytest.raises(ConfigError) as caught:
        parse_ranges(ranges, field="x")
    assert _said(caught.value) == (message, field, value, hint)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: parse_ranges([[]]), "ranges[0]"),
        (lambda: parse_ranges("bad"), "ranges[0].subnet"),
        (lambda: build_pool([[]]), "ranges[0]"),
        (lambda: build_pool([[]], fields=["ipam"]), "ipam"),
        (lambda: parse_exclusion("bad"), "exclude"),
    ],
)
def test_default_places(call: Any, field: str) -> None:
    """Where nobody says where a value stood, the key's usual name is said."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bad", "'bad' is not an IP address"),
        ("10.0.0.0/33", "'10.0.0.0/33' is not a CIDR: the length exceeds 32"),
        (
            "10.0.0.9-10.0.0.8",
            "'10.0.0.9-10.0.0.8' is not a valid range: the end comes before the start, or has "
            "another family",
        ),
        (
            "10.0.0.9-2001:db8::1",
            "'10.0.0.9-2001:db8::1' is not a valid range: the end comes before the start, or has "
            "another family",
        ),
    ],
)
def test_exclusion(text: str, message: str) -> None:
    """A bad exclusion is quoted."""
    with pytest.raises(ConfigError) as caught:
        parse_exclusion(text, field="x")
    assert _said(caught.value) == (message, "x", text, None)


POOL = parse_ranges(["10.0.0.0/29", ["10.0.1.0/29", "10.0.2.0/29"], "2001:db8::/126"], ["10.0.1.3"])


def _wanted(*texts: str) -> list[tuple[int, int]]:
    return [parse_ip(text) for text in texts]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ((), (None, None, None)),
        (("10.0.0.2",), ("10.0.0.2", None, None)),
        (("10.0.2.6",), (None, "10.0.2.6", None)),
        (("2001:db8::3",), (None, None, "2001:db8::3")),
        (("2001:db8::2", "10.0.1.2", "10.0.0.6"), ("10.0.0.6", "10.0.1.2", "2001:db8::2")),
        (("10.0.0.3", "10.0.0.3"), ("10.0.0.3", None, None)),
    ],
)
def test_match(wanted: tuple[str, ...], found: tuple[str | None, ...]) -> None:
    """Each request goes to the set that serves it, whatever the order; one asked twice is one."""
    expected = [None if text is None else parse_ip(text)[1] for text in found]
    assert POOL.match(_wanted(*wanted)) == expected


def test_match_of_equal_numbers() -> None:
    """An IPv4 address is not looked for among IPv6 ranges, though its number lies in one."""
    pool = parse_ranges(["::/64", "10.0.0.0/29"])
    assert pool.match(_wanted("10.0.0.2")) == [None, parse_ip("10.0.0.2")[1]]


@pytest.mark.parametrize(
    ("wanted", "message", "addresses"),
    [
        (("10.0.0.1",), "the requested address 10.0.0.1 is the gateway of its range", ["10.0.0.1"]),
        (
            ("10.0.0.2", "10.0.1.3"),
            "the requested address 10.0.1.3 is excluded by the configuration", ["10.0.1.3"],
        ),
    ],
)  # fmt: skip
def test_match_that_is_not_served(
    wanted: tuple[str, ...], message: str, addresses: list[str]
) -> None:
    """An address inside a range that is not handed out: it is said why."""
    with pytest.raises(AddressNotInRange) as caught:
        POOL.match(_wanted(*wanted))
    assert caught.value.message == message
    assert list(caught.value.addresses) == addresses


def test_match_outside() -> None:
    """Requests that no set can serve are all named, with the ranges there are."""
    with pytest.raises(AddressNotInRange) as caught:
        POOL.match(_wanted("10.0.0.2", "10.0.0.3", "10.9.9.9"))
    assert list(caught.value.addresses) == ["10.0.0.3", "10.9.9.9"]
    assert caught.value.hint == (
        "the ranges are 10.0.0.1-10.0.0.6; 10.0.1.1-10.0.1.6,10.0.2.1-10.0.2.6; "
        "2001:db8::1-2001:db8::3"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.0", "'10.0.0.0' is not a CIDR: the /length is missing"),
        ("bad/8", "'bad/8' is not a CIDR"),
        ("::/129", "'::/129' is not a CIDR: the length exceeds 128"),
        ("::/1280", "'::/1280' is not a CIDR: the length '1280' is not a number"),
        ("::ffff:1.2.3.4/99", "'::ffff:1.2.3.4/99' mixes an IPv4 address with an IPv6 mask"),
    ],
)
def test_cidr(text: str, message: str) -> None:
    """A bad CIDR is quoted, with what is wrong."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_cidr(text)
