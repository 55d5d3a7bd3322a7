"""Decide whether a subject is slower, or whether it is noise, from medians and their intervals.

A median's interval is a pair of order statistics: the number of n samples below the true median is
binomial(n, 1/2), whatever the distribution. With six samples or more it contains the true median
with at least 95 %. A subject is slower when its ratio is above the limit *and* the whole interval
is above 1.
"""

from __future__ import annotations

from math import comb, sqrt
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_DOUBT = 0.05
FEWEST = 6  # 2 * 0.5 ** 6 = 0.03; with fewer samples not even the extremes are an interval
_EXACT = 400  # of more samples the normal distribution gives the rank: the sums would become long
_SIDE = 1.96  # standard deviations on each side, for 95 %


class Change(NamedTuple):
    """The ratio of the head's cost to the base's: the estimate and its interval."""

    name: str
    base_ns: float
    head_ns: float
    ratio: float
    low: float
    high: float


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return an interval that contains the true median with at least 95 %.

    With fewer than six values it is everything from 0 to infinity.
    """
    if len(values) < FEWEST:
        return 0.0, float("inf")
    ordered = sorted(values)  # all of them: every n-th may follow a pattern that the median has not
    below = _outside(len(ordered))
    return ordered[below], ordered[-1 - below]


def _outside(count: int) -> int:
    """Return how many of the sorted samples are left out at each end."""
    if count > _EXACT:
        return int((count - _SIDE * sqrt(count)) / 2) - 1  # one wider than the approximation
    below, tail = 0, 1.0  # tail: how likely fewer than below + 1 samples are below, times 2 ** n
    while 2 * (tail + comb(count, below + 1)) <= _DOUBT * 2.0**count:
        below += 1
        tail += comb(count, below)
    return below


def from_samples(name: str, base: Sequence[float], head: Sequence[float]) -> Change:
    """Compare two separate runs. The interval is the worst case of both intervals."""
    (base_low, base_high), (head_low, head_high) = interval(base), interval(head)
    low = head_low / base_high if base_high < float("inf") else 0.0
    high = head_high / base_low if base_low else float("inf")
    one, other = median(base), median(head)
    return Change(name, one, other, other / one, low, high)


def from_rounds(name: str, base: Sequence[float], head: Sequence[float]) -> Change:
    """Compare rounds that both took part in. A slow round slows both, so ratios are compared."""
    ratios = [after / before for before, after in zip(base, head, strict=True)]
    low, high = interval(ratios)
    return Change(name, median(base), median(head), median(ratios), low, high)


def slower(change: Change, limit: float) -> bool:
    """Return whether the ratio is above the limit, and its whole interval above 1."""
    return change.ratio > limit and change.low > 1
