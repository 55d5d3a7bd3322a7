"""Ranges, range sets and pools: the bounds of a search for an address.

A :class:`Range` is one start..end of a subnet. A :class:`RangeSet` is an ordered list of ranges
that serves one address of a result. A :class:`Pool` holds the ordered sets of a network or a
pool. All defaults are filled in once, when the configuration is read (``parsing``), so no field is
unset afterwards. Ranges are intervals of absolute addresses, so changing them does not change the
bitmap.
"""

from __future__ import annotations

from _bisect import bisect_left, bisect_right

from fastipam import late_errors as errors
from fastipam.addressing.addresses import (
    BITS,
    UNUSABLE,
    V4,
    format_cidr,
    format_ip,
    parse_cidr,
    parse_ip,
    parse_value,
    prefix_bounds,
    unusable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Interval = tuple[int, int]

# Marks in a pool's text. CUT precedes the block length of a set that is cut into blocks, or the
# lengths for all its ranges, separated by commas, if these differ. ON_REQUEST precedes the
# addresses that are assigned on request only.
CUT = "@"
ON_REQUEST = "~"


class Range:
    """The addresses ``start``..``end`` of a subnet, both included, without the gateway.

    ``network``, ``start`` and ``end`` are addresses of ``family`` (4 or 6) as integers, ``length``
    is the prefix length in bits. ``gateway`` is ``(family, value)`` or None; as with host-local, it
    may lie outside the subnet.
    """

    __slots__ = ("end", "family", "gateway", "length", "network", "start")

    def __init__(
        self,
        family: int,
        network: int,
        length: int,
        start: int,
        end: int,
        gateway: tuple[int, int] | None,
    ) -> None:
        self.family = family
        self.network = network
        self.length = length
        self.start = start
        self.end = end
        self.gateway = gateway

    @classmethod
    def parse(
        cls,
        subnet: str,
        start: str | None = None,
        end: str | None = None,
        gateway: str | None = None,
        *,
        default_gateway: bool = True,
        field: str = "",
    ) -> Range:
        """Check one range, fill in the defaults, and return it.

        ``start`` defaults to network + 1, ``end`` to the last address (IPv4: to the address before
        the broadcast address). ``gateway`` defaults to network + 1, also when it is empty, or to
        None with ``default_gateway=False``. A /31, /32, /127 or /128 has no network and no
        broadcast address (RFC 3021, RFC 6164): all of its addresses may be assigned, and it has no
        default gateway. ``field`` is the path of the range, for errors. Raises ConfigError with the
        field and the value.
        """
        dot = f"{field}." if field else ""
        try:
            family, network, length = parse_cidr(subnet)
        except ValueError as error:
            raise errors.ConfigError(str(error), field=f"{dot}subnet", value=subnet) from None
        first, last = prefix_bounds(family, network, length)
        if network != first:
            raise errors.ConfigError(
                f"subnet {subnet} has host bits set: "
                f"the network address is {format_cidr(family, first, length)}",
                field=f"{dot}subnet",
                value=subnet,
                hint=f"write {format_cidr(family, first, length)}",
            )
        point_to_point = BITS[family] - length <= 1
        default_first = first if point_to_point else first + 1
        default_last = last if point_to_point or family != V4 else last - 1
        router: tuple[int, int] | None = None
        if gateway:
            router = _parse_gateway(gateway, family, f"{dot}gateway")
        elif default_gateway and not point_to_point:
            router = (family, first + 1)
        low = _bound(start, default_first, family, f"{dot}rangeStart")
        high = _bound(end, default_last, family, f"{dot}rangeEnd")
        subnet_text = format_cidr(family, first, length)
        if not first <= low <= last:
            raise errors.ConfigError(
                f"rangeStart {start} is not in {subnet_text}", field=f"{dot}rangeStart", value=start
            )
        if not first <= high <= last:
            raise errors.ConfigError(
                f"rangeEnd {end} is not in {subnet_text}", field=f"{dot}rangeEnd", value=end
            )
        if low > high or unusable(family, low) or unusable(family, high):
            from fastipam.addressing import refusals

            left = bool(subtract((low, high), UNUSABLE[family])) if low <= high else False
            bounds = family, first, low, high
            refusals.check_bounds((start, end), bounds, left, subnet_text, dot)
        return cls(family, first, length, low, high, router)

    def __contains__(self, value: int) -> bool:
        return self.start <= value <= self.end

    def __str__(self) -> str:
        return f"{format_ip(self.family, self.start)}-{format_ip(self.family, self.end)}"

    def describe(self) -> str:
        """Return the text from which :meth:`read` makes an equal range."""
        gateway = format_ip(*self.gateway) if self.gateway else "-"
        start, end = format_ip(self.family, self.start), format_ip(self.family, self.end)
        return f"{format_cidr(self.family, self.network, self.length)} {start} {end} {gateway}"

    @classmethod
    def read(cls, text: str) -> Range:
        """Return the range that a text of :meth:`describe` describes. Raises ValueError."""
        subnet, start, end, gateway = text.split(" ")
        family, network, length = parse_cidr(subnet)
        router = None if gateway == "-" else parse_ip(gateway)
        low, high = parse_value(family, start), parse_value(family, end)
        return cls(family, network, length, low, high, router)


def _parse_in(text: str, field: str) -> tuple[int, int]:
    try:
        return parse_ip(text)
    except ValueError as error:
        raise errors.ConfigError(str(error), field=field, value=text) from None


def _bound(text: str | None, default: int, family: int, field: str) -> int:
    if not text:
        return default
    its_family, value = _parse_in(text, field)
    if its_family != family:
        raise errors.ConfigError(
            f"{text} is not an IPv{family} address, but its subnet is IPv{family}",
            field=field,
            value=text,
        )
    return value


def _parse_gateway(text: str, family: int, field: str) -> tuple[int, int]:
    router = _parse_in(text, field)
    if router[0] != family:
        raise errors.ConfigError(
            f"{text} is not an IPv{family} address, but its subnet is IPv{family}",
            field=field,
            value=text,
        )
    if unusable(*router):
        from fastipam.addressing import refusals

        raise refusals.unusable_address(text, router, field, "a gateway")
    return router


class RangeSet:
    """An ordered list of ranges of one family that serves one address of a result.

    ``intervals`` are the addresses that may be assigned, as inclusive (low, high) pairs in the
    order of the ranges, without gateways and exclusions. ``static`` are the addresses that are
    assigned on request only; they are in none of the intervals. ``block_length`` is the prefix
    length of the blocks of a cluster that the set is cut into, or 0. ``block_lengths`` has the
    length for each range if these differ, and is empty otherwise.
    """

    __slots__ = (
        "block_length", "block_lengths", "excluded", "family", "intervals", "ranges", "size",
        "starts", "static",
    )  # fmt: skip

    def __init__(
        self,
        ranges: Sequence[Range],
        excluded: Sequence[Interval] = (),
        *,
        static: Sequence[Interval] = (),
        block_length: int = 0,
        block_lengths: Sequence[int] = (),
    ) -> None:
        self.block_lengths = tuple(block_lengths) if len({*block_lengths}) > 1 else ()
        self.block_length = block_lengths[0] if block_lengths else block_length
        self.ranges = tuple(ranges)
        self.family = ranges[0].family
        self.excluded = tuple(merge(excluded))
        intervals: list[Interval] = []
        kept: list[Interval] = []
        starts: list[int] = []  # for each range the index of its first interval
        for each in self.ranges:
            starts.append(len(intervals))
            holes = list(touching(self.excluded, each.start, each.end))
            if each.gateway is not None and each.gateway[0] == self.family:
                holes.append((each.gateway[1], each.gateway[1]))
            inside: list[Interval] = []
            if static:
                near = [one for one in static if one[0] <= each.end and each.start <= one[1]]
                inside = merge((max(low, each.start), min(high, each.end)) for low, high in near)
            for part in inside:
                kept += subtract(part, holes)
            intervals += subtract((each.start, each.end), [*holes, *inside])
        self.static = tuple(kept)
        self.intervals = tuple(intervals)
        self.starts = tuple(starts)
        self.size = sum(high - low + 1 for low, high in intervals)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The prefix length of each range's blocks; zeros if the set is not cut into blocks."""
        return self.block_lengths or (self.block_length,) * len(self.ranges)

    def __repr__(self) -> str:
        return f"<RangeSet {Pool([self]).text}>"

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))

    def __contains__(self, value: int) -> bool:
        """Return whether this set may assign ``value``. O(intervals)."""
        return any(low <= value <= high for low, high in self.intervals)

    def is_static(self, value: int) -> bool:
        """Return whether this set assigns ``value`` on request only. O(static areas)."""
        return any(low <= value <= high for low, high in self.static)

    def range_of(self, value: int) -> Range | None:
        """Return the range whose start..end holds ``value``, or None.

        Return it for a gateway or an excluded address as well.
        """
        for each in self.ranges:
            if each.start <= value <= each.end:
                return each
        return None

    def after(self, cursor: int | None) -> Iterator[Interval]:
        """Yield the intervals in the order of a search that begins after the address ``cursor``.

        Without a cursor, or with one outside the set, the search begins at the first range.
        """
        intervals = self.intervals
        at, low, high = self._locate(cursor)
        if at is None or cursor is None:
            yield from intervals
            return
        if low <= cursor <= high:
            if cursor < high:
                yield cursor + 1, high
            yield from intervals[at + 1 :]
            yield from intervals[:at]
            yield low, cursor
        else:
            yield from intervals[at:]
            yield from intervals[:at]

    def _locate(self, cursor: int | None) -> tuple[int | None, int, int]:
        """Return (index, low, high) of the interval that contains the cursor."""
        # If the cursor has been excluded, return the next interval. The index is None if the search
        # begins at the first range.
        if cursor is None:
            return None, 0, 0
        for at, (low, high) in enumerate(self.intervals):
            if low <= cursor <= high:
                return at, low, high
        for which, each in enumerate(self.ranges):
            if each.start <= cursor <= each.end:
                end = self.starts[which + 1] if which + 1 < len(self.starts) else None
                stop = len(self.intervals) if end is None else end
                for at in range(self.starts[which], stop):
                    if self.intervals[at][0] > cursor:
                        return (at, *self.intervals[at])
                return (stop, 1, 0) if stop < len(self.intervals) else (None, 0, 0)
        return None, 0, 0


def subtract(whole: Interval, holes: Iterable[Interval]) -> list[Interval]:
    """Return what is left of an interval without the holes, ascending. O(holes log holes).

    >>> subtract((0, 9), [(3, 4), (8, 20)])
    [(0, 2), (5, 7)]
    """
    low, high = whole
    left: list[Interval] = []
    for hole_low, hole_high in sorted(holes):
        if hole_high < low:
            continue
        if hole_low > high:
            break
        if hole_low > low:
            left.append((low, hole_low - 1))
        low = hole_high + 1
        if low > high:
            return left
    left.append((low, high))
    return left


class Pool:
    """The ordered range sets of a network or a pool, checked against each other.

    ``text`` describes the sets. It is kept in the store, so that a DEL without a usable
    configuration, and the command line, can read the ranges from the store.
    """

    __slots__ = ("sets", "size", "text")

    def __init__(self, sets: Sequence[RangeSet]) -> None:
        self.sets = tuple(sets)
        self.size = sum(each.size for each in self.sets)
        self.text = self._describe()

    def _describe(self) -> str:
        lines = []
        for each in self.sets:
            line = "|".join(one.describe() for one in each.ranges)
            if each.excluded:
                line += "!" + _join(each.family, each.excluded)
            if each.static:
                line += ON_REQUEST + _join(each.family, each.static)
            if each.block_length:
                lengths = each.block_lengths or (each.block_length,)
                line += CUT + ",".join(map(str, lengths))
            lines.append(line)
        return "\n".join(lines)

    @classmethod
    def read(cls, text: str) -> Pool:
        """Return the pool that a :attr:`text` describes. Raises ValueError for any other text."""
        sets = []
        for line in text.split("\n") if text else ():
            line, _, block_text = line.partition(CUT)  # noqa: PLW2901  # the same line, shorter
            line, _, static_text = line.partition(ON_REQUEST)  # noqa: PLW2901
            ranges_text, _, holes_text = line.partition("!")
            ranges = [Range.read(one) for one in ranges_text.split("|")]
            family = ranges[0].family
            holes, static = _split(family, holes_text), _split(family, static_text)
            lengths = [int(one) for one in block_text.split(",")] if block_text else []
            if len(lengths) == 1:
                lengths *= len(ranges)
            if len(lengths) not in (0, len(ranges)):
                raise ValueError(block_text)
            sets.append(RangeSet(ranges, holes, static=static, block_lengths=lengths))
        return cls(sets)

    def holds(self, family: int, value: int) -> bool:
        """Return whether a set may assign the address. O(intervals)."""
        return any(each.family == family and value in each for each in self.sets)

    def index_of(self, family: int, value: int) -> int | None:
        """Return the number of the set that may assign the address, or None."""
        for index, each in enumerate(self.sets):
            if each.family == family and value in each:
                return index
        return None

    def match(self, wanted: Iterable[tuple[int, int]]) -> list[int | None]:
        """Return for each set the wanted address that it is to assign, or None.

        Raises AddressNotInRange when an address is excluded, is a gateway, is in no set, or is in a
        set that already has another wanted address.
        """
        requests: list[int | None] = [None] * len(self.sets)
        left = list(dict.fromkeys(wanted))
        for index, each in enumerate(self.sets):
            for one in left:
                found = each.range_of(one[1]) if one[0] == each.family else None
                if found is None:
                    continue
                if one[1] not in each and not each.is_static(one[1]):
                    why = (
                        "the gateway of its range"
                        if one == found.gateway
                        else "excluded by the configuration"
                    )
                    raise errors.AddressNotInRange(
                        f"the requested address {format_ip(*one)} is {why}",
                        addresses=(format_ip(*one),),
                    )
                requests[index] = one[1]
                left.remove(one)
                break
        if left:
            from fastipam.addressing.refusals import unserved

            raise unserved(self.sets, requests, left)
        return requests

    def range_of(self, family: int, value: int) -> Range | None:
        """Return the range whose start..end holds the address, or None."""
        for each in self.sets:
            if each.family == family:
                found = each.range_of(value)
                if found is not None:
                    return found
        return None


def _join(family: int, intervals: Iterable[Interval]) -> str:
    pairs = (f"{format_ip(family, low)} {format_ip(family, high)}" for low, high in intervals)
    return "|".join(pairs)


def _split(family: int, text: str) -> list[Interval]:
    """Return the intervals that a text of :func:`_join` describes. Raises ValueError."""
    found: list[Interval] = []
    for pair in text.split("|") if text else ():
        low, high = pair.split(" ")
        found.append((parse_value(family, low), parse_value(family, high)))
    return found


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the same addresses as disjoint ascending intervals. O(n log n)."""
    merged: list[Interval] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def touching(holes: Sequence[Interval], low: int, high: int) -> Sequence[Interval]:
    """Return the disjoint ascending holes that share an address with low..high. O(log holes)."""
    first = bisect_left(holes, low, key=lambda hole: hole[1])
    return holes[first : bisect_right(holes, high, key=lambda hole: hole[0])]
