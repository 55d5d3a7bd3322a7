"""Decide whether a subject is slower, or the difference is noise, by medians and their intervals.

The interval of a median is a pair of order statistics, because the number of samples below the true
median is binomial(n, 1/2) for any distribution. With six samples or more the interval contains the
true median with a probability of at least 95 %. A subject is slower when its ratio is above the
limit *and* the whole interval is above 1.
"""

from __future__ import annotations

from math import comb, sqrt
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_DOUBT = 0.05
# The fewest samples: 2 * 0.5 ** 6 = 0.03. With fewer not even the extremes are such an interval.
FEWEST = 6
# With more samples the normal distribution gives the rank, because the sums would become long.
_EXACT = 400
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
    """Return an interval that contains the true median with a probability of at least 95 %.

    With fewer than six values it is (0, infinity).
    """
    if len(values) < FEWEST:
        return 0.0, float("inf")
    ordered = sorted(values)  # all values: every n-th might follow a pattern
    below = _outside(len(ordered))
    return ordered[below], ordered[-1 - below]


def _outside(count: int) -> int:
    """Return how many of the sorted samples are left out at each end."""
    if count > _EXACT:
        return int((count - _SIDE * sqrt(count)) / 2) - 1  # one wider than the approximation
    # ``tail`` / 2 ** n is the probability of fewer than ``below`` + 1 samples below the median.
    below, tail = 0, 1.0
    while 2 * (tail + comb(count, below + 1)) <= _DOUBT * 2.0**count:
        below += 1
        tail += comb(count, below)
    return below


def from_samples(name: str, base: Sequence[float], head: Sequence[float]) -> Change:
    """Compare two separate runs. The interval of the ratio is the worst case of both intervals."""
    (base_low, base_high), (head_low, head_high) = interval(base), interval(head)
    low = head_low / base_high if base_high < float("inf") else 0.0
    high = head_high / base_low if base_low else float("inf")
    one, other = median(base), median(head)
    return Change(name, one, other, other / one, low, high)


def from_rounds(name: str, base: Sequence[float], head: Sequence[float]) -> Change:
    """Compare rounds with both subjects by their ratios, because a slow round slows both."""
    ratios = [after / before for before, after in zip(base, head, strict=True)]
    low, high = interval(ratios)
    return Change(name, median(base), median(head), median(ratios), low, high)


def slower(change: Change, limit: float) -> bool:
    """Return whether the ratio is above the limit, and its whole interval above 1."""
    return change.ratio > limit and change.low > 1
