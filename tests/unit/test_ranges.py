"""Ranges, range sets and exclusions: defaults, refusals, search order, the stored text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastipam.addressing.addresses import format_cidr, format_ip, parse_ip
from fastipam.addressing.parsing import build_pool, exclude_from, parse_exclusion, parse_ranges
from fastipam.addressing.ranges import Pool, Range, RangeSet, merge, subtract
from fastipam.errors import ConfigError


def ip(text: str) -> int:
    return parse_ip(text)[1]


def pool_of(*ranges: object, exclude: tuple[str, ...] = ()) -> Pool:
    return parse_ranges(list(ranges), exclude)


def set_of(*subnets: str, exclude: tuple[str, ...] = ()) -> RangeSet:
    return pool_of(list(subnets), exclude=exclude).sets[0]


def order(range_set: RangeSet, cursor: str | None) -> list[str]:
    """The addresses in the order in which a search looks at them."""
    at = None if cursor is None else ip(cursor)
    return [
        format_ip(range_set.family, value)
        for low, high in range_set.after(at)
        for value in range(low, high + 1)
    ]


@pytest.mark.parametrize(
    ("subnet", "start", "end", "gateway", "size"),
    [
        ("192.0.2.0/24", "192.0.2.1", "192.0.2.254", "192.0.2.1", 253),
        ("192.0.2.0/25", "192.0.2.1", "192.0.2.126", "192.0.2.1", 125),
        ("192.0.2.128/25", "192.0.2.129", "192.0.2.254", "192.0.2.129", 125),
        ("192.0.2.0/30", "192.0.2.1", "192.0.2.2", "192.0.2.1", 1),
        ("192.0.2.0/31", "192.0.2.0", "192.0.2.1", None, 2),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.7", None, 1),
        ("0.0.0.0/0", "0.0.0.1", "255.255.255.254", "0.0.0.1", 2**32 - 3),
        ("2001:db8::/64", "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8::1", 2**64 - 2),
        ("2001:db8::/126", "2001:db8::1", "2001:db8::3", "2001:db8::1", 2),
        ("2001:db8::/127", "2001:db8::", "2001:db8::1", None, 2),
        ("2001:db8::7/128", "2001:db8::7", "2001:db8::7", None, 1),
        ("::/0", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1", 2**128 - 2),
    ],
)
def test_defaults(subnet: str, start: str, end: str, gateway: str | None, size: int) -> None:
    """A subnet alone gives host-local's range; the smallest ones are served whole."""
    one = Range.parse(subnet, gateway="")
    assert (one.start, one.end) == (ip(start), ip(end))
    assert one.gateway == (None if gateway is None else parse_ip(gateway))
    assert ip(start) in one
    assert ip(end) in one
    assert RangeSet([one]).size == size


def test_no_default_gateway() -> None:
    """Without a default gateway the first address is served."""
    one = Range.parse("192.0.2.0/30", default_gateway=False)
    assert one.gateway is None
    assert RangeSet([one]).intervals == ((ip("192.0.2.1"), ip("192.0.2.2")),)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("192.0.2.0",), "x.subnet", "192.0.2.0"),
        (("nonsense",), "x.subnet", "nonsense"),
        (("192.0.2.7/24",), "x.subnet", "192.0.2.7/24"),
        (("2001:db8::1/64",), "x.subnet", "2001:db8::1/64"),
        (("192.0.2.0/24", "192.0.3.1"), "x.rangeStart", "192.0.3.1"),
        (("192.0.2.0/24", "2001:db8::1"), "x.rangeStart", "2001:db8::1"),
        (("192.0.2.0/24", "bad"), "x.rangeStart", "bad"),
        (("192.0.2.0/24", None, "192.0.3.1"), "x.rangeEnd", "192.0.3.1"),
        (("192.0.2.0/24", None, "bad"), "x.rangeEnd", "bad"),
        (("192.0.2.0/24", "192.0.2.9", "192.0.2.8"), "x.rangeStart", "192.0.2.9"),
        (("192.0.2.0/24", None, None, "bad"), "x.gateway", "bad"),
        # The bound that was written is wrong, not the default of the other one.
        (("192.0.2.0/24", None, "192.0.2.0"), "x.rangeEnd", "192.0.2.0"),
        (("192.0.2.0/24", "192.0.2.255"), "x.rangeStart", "192.0.2.255"),
        (("10.9.0.0/24", None, None, "fd00::1"), "x.gateway", "fd00::1"),
        (("10.9.0.0/24", None, None, "fe80::1"), "x.gateway", "fe80::1"),
        (("fd00::/64", None, None, "10.9.0.1"), "x.gateway", "10.9.0.1"),
    ],
)
def test_refused_range(arguments: tuple[str, ...], field: str, value: str) -> None:
    """A bad range is refused with the field's path and the value that stood there."""
    with pytest.raises(ConfigError) as caught:
        Range.parse(*arguments, field="x")
    assert (caught.value.field, caught.value.value) == (field, value)


def test_link_local_gateway() -> None:
    """A link-local address is a gateway of IPv6 ranges, though it is in none of them."""
    assert Range.parse("fd00::/64", None, None, "fe80::1").gateway == parse_ip("fe80::1")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("239.1.0.0/16",), "x.subnet"),
        (("224.0.0.0/3",), "x.subnet"),
        (("127.0.0.0/8",), "x.subnet"),
        (("127.5.0.0/24", "127.5.0.7"), "x.rangeStart"),
        (("0.0.0.0/32",), "x.subnet"),
        (("255.255.255.255/32",), "x.subnet"),
        (("ff02::/64",), "x.subnet"),
        (("::1/128",), "x.subnet"),
        (("::/128",), "x.subnet"),
        (("0.0.0.0/0", "127.0.0.1"), "x.rangeStart"),
        (("0.0.0.0/0", "10.0.0.1", "224.0.0.1"), "x.rangeEnd"),
        (("0.0.0.0/0", "0.0.0.0"), "x.rangeStart"),
        (("0.0.0.0/0", None, "255.255.255.255"), "x.rangeEnd"),
        (("fe00::/7", None, "ff02::1"), "x.rangeEnd"),
        (("10.9.0.0/24", None, None, "0.0.0.0"), "x.gateway"),
        (("10.9.0.0/24", None, None, "127.0.0.1"), "x.gateway"),
        (("10.9.0.0/24", None, None, "239.1.1.1"), "x.gateway"),
        (("10.9.0.0/24", None, None, "255.255.255.255"), "x.gateway"),
        (("fd00::/64", None, None, "ff02::1"), "x.gateway"),
        (("fd00::/64", None, None, "::"), "x.gateway"),
    ],
)
def test_addresses_that_no_interface_can_have(arguments: tuple[str, ...], field: str) -> None:
    """A range of multicast, loopback, unspecified or broadcast addresses is refused."""
    with pytest.raises(ConfigError) as caught:
        Range.parse(*arguments, field="x")
    assert caught.value.field == field


def test_unusable_addresses_inside_a_range() -> None:
    """A prefix that is larger than loopback or multicast is served without them."""
    whole = pool_of("0.0.0.0/0").sets[0]
    for text in ("127.0.0.1", "127.255.255.255", "224.0.0.0", "239.255.255.255"):
        assert ip(text) not in whole
    for text in ("126.255.255.255", "128.0.0.0", "223.255.255.255", "240.0.0.0"):
        assert ip(text) in whole
    assert ip("ff02::1") not in pool_of("::/0").sets[0]


@pytest.mark.parametrize(
    ("ranges", "field"),
    [
        ([], "ranges"),
        ([[]], "ranges[0]"),
        ([["192.0.2.0/24", "2001:db8::/64"]], "ranges[0][1]"),
        ([["192.0.2.0/24", "192.0.2.0/25"]], "ranges[0][1]"),
        (["192.0.2.0/24", "192.0.2.128/25"], "ranges[1]"),
        ([5], "ranges[0]"),
        ([{"subnet": 5}], "ranges[0].subnet"),
        ([{}], "ranges[0].subnet"),
        ([{"subnet": "192.0.2.0/24", "rangestart": "192.0.2.5"}], "ranges[0]"),
        ([{"subnet": "192.0.2.0/24", "rangeEnd": 5}], "ranges[0].rangeEnd"),
        ([["192.0.2.0/24", {"subnet": "x"}]], "ranges[0][1].subnet"),
        ([{"subnet": "192.0.2.0/30", "rangeEnd": "192.0.2.1"}], "ranges[0]"),
    ],
)
def test_refused_ranges(ranges: list[object], field: str) -> None:
    """Bad range sets are refused with the field's path."""
    with pytest.raises(ConfigError) as caught:
        parse_ranges(ranges)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (("10.0.0.10", "10.0.0.20"), ("10.0.0.10", "10.0.0.20"), True),
        (("10.0.0.10", "10.0.0.20"), ("10.0.0.20", "10.0.0.30"), True),
        (("10.0.0.10", "10.0.0.20"), ("10.0.0.12", "10.0.0.13"), True),
        (("10.0.0.10", "10.0.0.20"), ("10.0.0.1", "10.0.0.30"), True),
        (("10.0.0.10", "10.0.0.20"), ("10.0.0.21", "10.0.0.30"), False),
    ],
)
def test_overlap(one: tuple[str, str], other: tuple[str, str], clash: bool) -> None:
    """Ranges that share an address are refused within a set and between sets."""
    first, second = (
        {"subnet": "10.0.0.0/24", "rangeStart": low, "rangeEnd": high} for low, high in (one, other)
    )
    for ranges in ([first, second], [[first, second]], [second, first]):
        if clash:
            with pytest.raises(ConfigError, match="overlap"):
                parse_ranges(ranges)
        else:
            parse_ranges(ranges)


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (None, "2 3 4 5 6"),
        ("10.0.0.6", "2 3 4 5 6"),
        ("10.0.0.3", "4 5 6 2 3"),
        ("10.0.0.1", "2 3 4 5 6"),
        ("10.0.0.128", "2 3 4 5 6"),
        ("10.0.0.0", "2 3 4 5 6"),
    ],
)
def test_search_order(cursor: str | None, expected: str) -> None:
    """A search begins behind the cursor, goes round, and looks at the cursor itself last."""
    looked_at = [text.rpartition(".")[2] for text in order(set_of("10.0.0.0/29"), cursor)]
    assert looked_at == expected.split()


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (None, "0.2 0.5 0.6 1.2"),
        ("10.0.0.2", "0.5 0.6 1.2 0.2"),
        ("10.0.0.3", "0.5 0.6 1.2 0.2"),
        ("10.0.0.6", "1.2 0.2 0.5 0.6"),
        ("10.0.0.1", "0.2 0.5 0.6 1.2"),
        ("10.0.1.1", "1.2 0.2 0.5 0.6"),
        ("10.0.1.2", "0.2 0.5 0.6 1.2"),
        ("10.0.9.9", "0.2 0.5 0.6 1.2"),
    ],
)
def test_search_order_with_holes(cursor: str | None, expected: str) -> None:
    """A cursor on a gateway or an excluded address goes on behind it, over several ranges."""
    range_set = set_of("10.0.0.0/29", "10.0.1.0/30", exclude=("10.0.0.3-10.0.0.4",))
    looked_at = [text.removeprefix("10.0.") for text in order(range_set, cursor)]
    assert looked_at == expected.split()


def test_cursor_in_a_hole_at_the_end_of_a_range() -> None:
    """Behind the last address of a range the next range follows, and the first behind the last."""
    range_set = set_of("10.0.0.0/29", "10.0.1.0/29", exclude=("10.0.0.6", "10.0.1.6"))
    assert order(range_set, "10.0.0.6")[0] == "10.0.1.2"
    assert order(range_set, "10.0.1.6")[0] == "10.0.0.2"


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        ("10.0.2.3", "10.0.2.2"),  # the broadcast address: in no range, so none
        ("10.0.2.2", "10.0.1.2"),
        ("10.0.1.3", "10.0.1.4"),
        ("10.0.1.1", "10.0.1.2"),
        ("10.0.1.6", "10.0.3.2"),
        ("10.0.3.6", "10.0.2.2"),
    ],
)
def test_search_order_of_ranges_that_descend(cursor: str, expected: str) -> None:
    """The order is the list's, not the addresses': behind a range comes what is written next."""
    subnets = ("10.0.2.0/30", "10.0.1.0/29", "10.0.3.0/29")
    range_set = set_of(*subnets, exclude=("10.0.2.3", "10.0.1.3"))
    assert order(range_set, cursor)[0] == expected


def test_search_behind_a_hole_in_a_range_that_follows_higher_ones() -> None:
    """A cursor in a hole goes on in its own range, not in an earlier one of higher addresses."""
    range_set = set_of("10.0.9.0/29", "10.0.1.0/29", exclude=("10.0.1.3",))
    assert order(range_set, "10.0.1.3")[:2] == ["10.0.1.4", "10.0.1.5"]


@pytest.mark.parametrize(
    ("subnets", "hole", "expected"),
    [
        (("10.0.9.0/29", "10.0.1.0/29", "10.0.12.0/29"), "10.0.9.6", "10.0.1.2"),
        (("10.0.9.0/29", "10.0.12.0/29", "10.0.1.0/29"), "10.0.12.6", "10.0.1.2"),
        (("10.0.9.0/29", "10.0.1.0/29", "10.0.5.0/29"), "10.0.5.6", "10.0.9.2"),
    ],
)
def test_search_behind_a_hole_at_the_end(
    subnets: tuple[str, ...], hole: str, expected: str
) -> None:
    """Behind a hole that ends a range comes the next range of the list, not the next address."""
    assert order(set_of(*subnets, exclude=(hole,)), hole)[0] == expected


def test_search_behind_the_address_one() -> None:
    """The numbers 0 and 1 are addresses like others: an excluded ::1 is not visited."""
    # No configuration can have these ranges, but a store of an earlier version may have them.
    pool = Pool.read("::/127 :: ::1 -|2001:db8::/126 2001:db8::2 2001:db8::3 -!::1 ::1")
    assert order(pool.sets[0], "::1") == ["2001:db8::2", "2001:db8::3", "::"]


def test_search_behind_a_hole_that_ends_a_range() -> None:
    """A cursor in a hole at a range's end goes on in the next range, even if that is lower."""
    range_set = set_of("10.0.9.0/29", "10.0.1.0/29", "10.0.5.0/29", exclude=("10.0.1.5-10.0.1.6",))
    assert order(range_set, "10.0.1.5")[0] == "10.0.5.2"
    assert order(range_set, "10.0.1.6")[-1] == "10.0.1.4"


def test_search_is_of_as_many_intervals_as_there_are() -> None:
    """A search gets no empty interval, and none twice."""
    range_set = set_of("10.0.0.0/29", exclude=("10.0.0.4",))
    intervals = ((ip("10.0.0.2"), ip("10.0.0.3")), (ip("10.0.0.5"), ip("10.0.0.6")))
    assert range_set.intervals == intervals
    assert tuple(range_set.after(ip("10.0.0.3"))) == (intervals[1], intervals[0])
    assert tuple(range_set.after(ip("10.0.0.6"))) == intervals
    assert tuple(range_set.after(ip("10.0.0.4"))) == (intervals[1], intervals[0])
    assert tuple(range_set.after(ip("10.0.0.2"))) == (
        (ip("10.0.0.3"),) * 2, intervals[1], (ip("10.0.0.2"),) * 2
    )  # fmt: skip


def test_one_cidr() -> None:
    """A text alone is one range set of one range."""
    assert parse_ranges("10.0.0.0/29").text == pool_of("10.0.0.0/29").text


def test_ends_belong_to_it() -> None:
    """First and last address of a set and of its ranges are inside; their neighbours are not."""
    range_set = set_of("10.0.0.0/29")
    inside = [value for value in range(ip("10.0.0.0"), ip("10.0.0.9")) if value in range_set]
    assert inside == list(range(ip("10.0.0.2"), ip("10.0.0.7")))
    found = [value for value in range(ip("10.0.0.0"), ip("10.0.0.9")) if range_set.range_of(value)]
    assert found == list(range(ip("10.0.0.1"), ip("10.0.0.7")))


def test_stored_text() -> None:
    """What is stored of a pool, character for character: other versions have to read it."""
    pool = pool_of(
        ["10.0.0.0/29", {"subnet": "10.0.1.0/31"}],
        "2001:db8::/126",
        exclude=("10.0.0.3", "10.0.0.5-10.0.0.6"),
    )
    assert pool.text == (
        "10.0.0.0/29 10.0.0.1 10.0.0.6 10.0.0.1|10.0.1.0/31 10.0.1.0 10.0.1.1 -"
        "!10.0.0.3 10.0.0.3|10.0.0.5 10.0.0.6\n"
        "2001:db8::/126 2001:db8::1 2001:db8::3 2001:db8::1"
    )
    assert Pool.read(pool.text).text == pool.text
    assert Pool.read("").sets == ()
    assert str(pool.sets[0]) == "10.0.0.1-10.0.0.6,10.0.1.0-10.0.1.1"


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0/29  10.0.0.1 10.0.0.6 10.0.0.1",
        "10.0.0.0/29\t10.0.0.1 10.0.0.6 10.0.0.1",
        "10.0.0.0/29 10.0.0.1 10.0.0.6 10.0.0.1!10.0.0.3\t10.0.0.3",
    ],
)
def test_stored_text_with_other_spaces(text: str) -> None:
    """Stored text that no version has written is not guessed at."""
    with pytest.raises(ValueError):  # noqa: PT011  # whichever part is met first
        Pool.read(text)


def test_adjacent_ranges_of_two_sets() -> None:
    """The number of the set that serves an address; none for gateways and what is outside."""
    pool = pool_of("10.0.0.0/29", "10.0.0.8/29", "2001:db8::/126")
    assert pool.index_of(4, ip("10.0.0.6")) == 0
    assert pool.index_of(4, ip("10.0.0.10")) == 1
    assert pool.index_of(6, ip("2001:db8::3")) == 2
    assert pool.index_of(4, ip("10.0.0.9")) is None
    assert pool.index_of(6, ip("10.0.0.6")) is None


def test_range_wholly_excluded() -> None:
    """A range of which nothing is left does not disturb the others."""
    range_set = set_of("10.0.0.0/29", "10.0.1.0/29", "10.0.2.0/30", exclude=("10.0.1.0/24",))
    assert range_set.size == 6
    assert order(range_set, "10.0.1.3")[0] == "10.0.2.2"
    assert ip("10.0.1.3") not in range_set
    assert range_set.range_of(ip("10.0.1.3")) is range_set.ranges[1]
    assert range_set.range_of(ip("10.0.3.3")) is None


@given(st.data())
def test_search_visits_each_address_once(data: st.DataObject) -> None:
    """Whatever the cursor, every address of the set is visited exactly once."""
    subnets = [f"10.0.{at}.0/{data.draw(st.integers(28, 30))}" for at in range(3)]
    number = st.integers(ip("10.0.0.0"), ip("10.0.2.20"))
    holes = tuple(
        f"{format_ip(4, low)}-{format_ip(4, low + extra)}"
        for low, extra in data.draw(st.lists(st.tuples(number, st.integers(0, 9)), max_size=4))
    )
    try:
        range_set = set_of(*subnets, exclude=holes)
    except ConfigError:
        return  # nothing was left
    cursor = data.draw(number)
    values = order(range_set, format_ip(4, cursor))
    assert sorted(map(ip, values)) == [
        value for low, high in range_set.intervals for value in range(low, high + 1)
    ]
    assert len(values) == range_set.size
    if cursor in range_set:
        assert ip(values[-1]) == cursor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/30", (4, "10.0.0.0", "10.0.0.3")),
        ("10.0.0.7/30", (4, "10.0.0.4", "10.0.0.7")),
        ("10.0.0.7", (4, "10.0.0.7", "10.0.0.7")),
        ("10.0.0.7-10.0.0.9", (4, "10.0.0.7", "10.0.0.9")),
        ("10.0.0.7-10.0.0.7", (4, "10.0.0.7", "10.0.0.7")),
        (" 10.0.0.7 - 10.0.0.9 ", (4, "10.0.0.7", "10.0.0.9")),
        ("2001:db8::-2001:db8::ff", (6, "2001:db8::", "2001:db8::ff")),
    ],
)
def test_exclusion(text: str, expected: tuple[int, str, str]) -> None:
    """An exclusion is a CIDR, an address or a range."""
    family, low, high = expected
    assert parse_exclusion(text, field="x") == (family, ip(low), ip(high))


@pytest.mark.parametrize("text", ["", "x", "10.0.0.9-10.0.0.7", "10.0.0.1-::1", "10.0.0.0/33", "-"])
def test_bad_exclusion(text: str) -> None:
    """A bad exclusion is refused with its place in the list."""
    with pytest.raises(ConfigError) as caught:
        pool_of("10.0.0.0/24", exclude=("10.0.0.5", text))
    assert (caught.value.field, caught.value.value) == ("exclude[1]", text)


def test_exclusions_are_those_of_the_family_and_place() -> None:
    """An exclusion elsewhere, or of the other family, leaves no trace in the stored text."""
    elsewhere = ("10.9.0.0/16", "9.0.0.0/8", "2001:db8::5")
    pool = pool_of("10.0.0.0/24", "2001:db8::/64", exclude=elsewhere)
    assert [each.excluded for each in pool.sets] == [(), ((ip("2001:db8::5"),) * 2,)]


def test_exclusions_replaced() -> None:
    """The same ranges can be given other exclusions."""
    pool = pool_of(["10.0.0.0/29"], exclude=("10.0.0.2",))
    other = exclude_from(pool, ["10.0.0.3"])
    assert order(other.sets[0], None)[:2] == ["10.0.0.2", "10.0.0.4"]


def test_everything_excluded() -> None:
    """A set of which nothing is left is refused."""
    with pytest.raises(ConfigError) as caught:
        pool_of("10.0.0.0/24", exclude=("10.0.0.0/8",))
    assert "10.0.0.1-10.0.0.254" in caught.value.message


def test_gateway_of_another_range_or_family_is_no_hole() -> None:
    """A gateway takes an address out of its own range only, and only of its own family."""
    pool = pool_of([{"subnet": "10.0.0.0/30", "gateway": "10.0.1.2"}, "10.0.1.0/30"])
    assert order(pool.sets[0], None) == ["10.0.0.1", "10.0.0.2", "10.0.1.2"]
    # A store of an earlier version may have a gateway of the other family.
    old = Pool.read("2001:db8::/126 2001:db8::1 2001:db8::3 10.0.0.1")
    assert order(old.sets[0], None) == ["2001:db8::1", "2001:db8::2", "2001:db8::3"]
    assert old.sets[0].ranges[0].gateway == parse_ip("10.0.0.1")


@given(st.data())
def test_stored_text_round_trip(data: st.DataObject) -> None:
    """What is stored of the ranges is read back as the same ranges, for any prefix."""
    sets = []
    for which in range(data.draw(st.integers(1, 3))):
        family = data.draw(st.sampled_from([4, 6]))
        bits = 32 if family == 4 else 128
        length = data.draw(st.integers(4, bits))
        number = data.draw(st.sampled_from([0, 1]) | st.integers(0, 2 ** (length - 4) - 1))
        first = ((which << (length - 4)) | number) << (bits - length)
        low, high = sorted(
            data.draw(st.integers(first, first + 2 ** (bits - length) - 1)) for _ in range(2)
        )
        gateway = data.draw(st.none() | st.tuples(st.just(family), st.integers(0, 2**bits - 1)))
        if gateway is not None and gateway[0] == 6 and gateway[1] >> 32 == 0xFFFF:
            gateway = None  # no configuration can spell it: it would be the IPv4 address
        sets.append([Range(family, first, length, low, high, gateway)])
    exclude = [(each[0].family, each[0].start, each[0].start) for each in sets]
    try:
        pool = build_pool(sets, exclude if data.draw(st.booleans()) else ())
    except ConfigError:
        return  # nothing was left, or two sets are one
    text = pool.text
    if any(each[0].family == 6 and each[0].network >> 32 == 0xFFFF for each in sets):
        return  # 6 bytes of an IPv4-mapped prefix: refused when it is configured
    again = Pool.read(text)
    assert again.text == text
    assert again.size == pool.size
    assert [each.intervals for each in again.sets] == [each.intervals for each in pool.sets]


@pytest.mark.parametrize("subnet", ["::/80", "::fffe:0:0/95", "::/0"])
def test_stored_text_around_mapped_addresses(subnet: str) -> None:
    """An IPv6 range that ends among the IPv4-mapped addresses is read back as IPv6."""
    pool = pool_of(subnet, exclude=("::5-::9",))
    again = Pool.read(pool.text)
    assert again.sets[0].intervals == pool.sets[0].intervals


@pytest.mark.parametrize("text", ["x", "10.0.0.0/24 10.0.0.1 10.0.0.9", "10.0.0.0/24 a b c"])
def test_unreadable_stored_text(text: str) -> None:
    """Stored ranges that cannot be read are a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011  # which of several does not matter
        Pool.read(text)


def test_pool_questions() -> None:
    """A pool knows what it may hand out, and which range an address lies in."""
    pool = pool_of("10.0.0.0/24", "2001:db8::/64")
    assert pool.size == 253 + 2**64 - 2
    assert pool.holds(4, ip("10.0.0.2"))
    assert not pool.holds(4, ip("10.0.0.1"))
    assert not pool.holds(6, ip("10.0.0.2"))
    found = pool.range_of(4, ip("10.0.0.1"))
    assert found is not None
    assert format_cidr(found.family, found.network, found.length) == "10.0.0.0/24"
    assert pool.range_of(4, ip("10.0.1.1")) is None
    assert str(pool.sets[0]) == "10.0.0.1-10.0.0.254"


INTERVALS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair)))
)


@given(st.integers(0, 30), st.integers(0, 40), INTERVALS)
def test_subtract_and_merge(low: int, length: int, holes: list[tuple[int, int]]) -> None:
    """Intervals are sets: what is left, and what is joined, is what sets would say."""
    cut = {value for start, end in holes for value in range(start, end + 1)}
    left = subtract((low, low + length), holes)
    expected = set(range(low, low + length + 1)) - cut
    assert [value for start, end in left for value in range(start, end + 1)] == sorted(expected)
    joined = merge(holes)
    assert [value for start, end in joined for value in range(start, end + 1)] == sorted(cut)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(joined))
