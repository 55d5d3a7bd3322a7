"""The union of range sets: what a pool has whose networks have ranges of their own.

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

    A set is taken as it is if no set before it has any of its addresses. Else the addresses that
    others have are excluded from it, and it is left out when none is left.

    >>> wide, narrow = (Pool([RangeSet([one])]) for one in _example())
    >>> [str(each) for each in union([narrow, wide]).sets], union([narrow, wide]).size
    (['10.1.0.1-10.1.0.9', '10.1.0.1-10.1.0.254'], 254)
    >>> union([wide, narrow]).text == wide.text
    True
    """
    taken: dict[int, list[Interval]] = {4: [], 6: []}
    sets: list[RangeSet] = []
    for pool in pools:
        for each in pool.sets:
            others = taken[each.family]
            holes = [
                (max(low, one.start), min(high, one.end))
                for one in each.ranges
                for low, high in touching(others, one.start, one.end)
            ]
            mine = each
            if holes:
                excluded = (*each.excluded, *holes)
                mine = RangeSet(each.ranges, excluded, block_length=each.block_length)
            if mine.size:
                sets.append(mine)
                taken[each.family] = merge((*others, *mine.intervals))
    return Pool(sets)


def is_within(part: Pool, pool: Pool) -> bool:
    """Return whether a pool has every address that another one can assign."""
    return union([pool, part]).size == pool.size


def spare(pool: Pool, whole: Pool) -> Pool:
    """Return the ranges of a network without the gateways of all ranges of its pool."""
    gateways = {one.gateway for each in whole.sets for one in each.ranges if one.gateway}
    sets = []
    for each in pool.sets:
        holes = [(value, value) for family, value in gateways if family == each.family]
        inside = [hole for hole in holes if hole[0] in each]
        excluded = (*each.excluded, *inside)
        one = RangeSet(each.ranges, excluded, block_length=each.block_length) if inside else each
        sets.append(one)
    return Pool(sets)


def overlap(pool: Pool, other: Pool) -> tuple[int, int] | None:
    """Return (family, address) of the first address that both can assign, or None."""
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
