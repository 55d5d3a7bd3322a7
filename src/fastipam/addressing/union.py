"""The union of range sets: the ranges of a pool whose networks have different ranges.

Imported when networks share a pool and name different ranges.
"""

from __future__ import annotations

from fastipam.addressing.ranges import Pool, RangeSet, merge, touching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastipam.addressing.ranges import Interval


def union(pools: Iterable[Pool]) -> Pool:
    """Return a pool with every address that one of these can assign, each in one set. O(n²).

    Two kinds of addresses are excluded from each set: addresses that an earlier set has, and the
    gateways of all ranges of all sets. A set without an address left is left out, unless it has a
    gateway that no earlier set of the result has.

    >>> wide, narrow = (Pool([RangeSet([one])]) for one in _example())
    >>> [str(each) for each in union([narrow, wide]).sets], union([narrow, wide]).size
    (['10.1.0.1-10.1.0.9', '10.1.0.1-10.1.0.254'], 253)
    >>> union([wide, narrow]).text == wide.text
    True
    """
    listed = list(pools)
    static = _static_of(listed)
    gateways = _gateways_of(each for pool in listed for each in pool.sets)
    taken: dict[int, list[Interval]] = {4: [], 6: []}
    sets: list[RangeSet] = []
    for pool in listed:
        for one_set in pool.sets:
            each = _with_static(one_set, static[one_set.family])
            others = taken[each.family]
            mine = _without(each, _common(each, others) + _inside(each, gateways))
            if mine.size or mine.static or _gateways_of([each]) - _gateways_of(sets):
                sets.append(mine)
                taken[each.family] = merge((*others, *mine.intervals, *mine.static))
    return Pool(sets)


def _static_of(pools: Iterable[Pool]) -> dict[int, list[Interval]]:
    """Return, by family, the addresses that any of these pools assigns on request only."""
    found: dict[int, list[Interval]] = {4: [], 6: []}
    for pool in pools:
        for each in pool.sets:
            found[each.family] += each.static
    return {family: merge(some) for family, some in found.items()}


def _with_static(one: RangeSet, static: list[Interval]) -> RangeSet:
    """Return the set, with these addresses assigned on request only."""
    inside = _common(one, static)
    if not inside or tuple(inside) == one.static:
        return one
    return RangeSet(
        one.ranges,
        one.excluded,
        static=inside,
        block_length=one.block_length,
        block_lengths=one.block_lengths,
    )


def _common(one: RangeSet, intervals: list[Interval]) -> list[Interval]:
    """Return the parts of disjoint ascending intervals that lie in the ranges of a set."""
    return [
        (max(low, each.start), min(high, each.end))
        for each in one.ranges
        for low, high in touching(intervals, each.start, each.end)
    ]


def _without(one: RangeSet, holes: list[Interval]) -> RangeSet:
    """Return the set, with these addresses excluded as well."""
    if not holes:
        return one
    excluded = (*one.excluded, *holes)
    return RangeSet(
        one.ranges,
        excluded,
        static=one.static,
        block_length=one.block_length,
        block_lengths=one.block_lengths,
    )


def is_within(part: Pool, pool: Pool) -> bool:
    """Return whether ``pool`` has every address that ``part`` can assign, and all its gateways."""
    new = _gateways_of(part.sets) - _gateways_of(pool.sets)
    return not new and union([pool, part]).size == pool.size


def spare(pool: Pool, whole: Pool) -> Pool:
    """Return a network's ranges without the gateways of all ranges of its pool.

    ``pool`` are the network's ranges, ``whole`` those of its pool. An address that is static in
    ``whole`` is static in the result.
    """
    static = _static_of([whole])
    gateways = _gateways_of(whole.sets)
    sets = [_with_static(own, static[own.family]) for own in pool.sets]
    return Pool([_without(each, _inside(each, gateways)) for each in sets])


def _gateways_of(sets: Iterable[RangeSet]) -> set[tuple[int, int]]:
    """Return (family, address) of the gateways of all ranges."""
    return {one.gateway for each in sets for one in each.ranges if one.gateway}


def _inside(each: RangeSet, gateways: Iterable[tuple[int, int]]) -> list[Interval]:
    """Return the gateways that a set could assign, as intervals."""
    return [
        (value, value)
        for family, value in sorted(gateways)
        if family == each.family and (value in each or each.is_static(value))
    ]


def overlap(pool: Pool, other: Pool) -> tuple[int, int] | None:
    """Return (family, address) of the first address that both pools can assign, or None."""
    for each in pool.sets:
        for one in other.sets:
            if each.family != one.family:
                continue
            common = [
                max(low, first)
                for low, high in each.intervals
                for first, last in one.intervals
                if low <= last and first <= high
            ]
            if common:
                return each.family, min(common)
    return None


def _example() -> tuple[object, ...]:
    from fastipam.addressing.ranges import Range

    return Range.parse("10.1.0.0/24"), Range.parse("10.1.0.0/24", end="10.1.0.9")
