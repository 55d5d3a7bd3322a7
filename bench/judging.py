"""When is a subject slower, and when is it noise? Medians and their intervals; no clock, no file.

A median's interval is a pair of order statistics: how many of n samples lie below the true median
is binomial(n, 1/2), whatever the distribution. It holds the median 95 % of the time at least, where
there are six samples or more. Slower is what is above the limit *and* whose interval is above 1.
"""

from __future__ import annotations

from math import comb
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_DOUBT = 0.05
FEWEST = 6  # 2 * 0.5 ** 6 = 0.03: below, not even the extremes are an interval
_EXACT = 400  # of more samples an even choice decides: the sums would be long, the gain small


class Change(NamedTuple):
    """How many times the base's cost the head's is: the estimate and its interval."""

    name: str
    base_ns: float
    head_ns: float
    ratio: float
    low: float
    high: float


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of the distribution lies, 95 % of the time at least.

    With fewer than six values that cannot be said: everything from 0 to infinity.
    """
    if len(values) < FEWEST:
        return 0.0, float("inf")
    ordered = sorted(values[:: -(-len(values) // _EXACT)])
    count = len(ordered)
    below, tail = 0, 1.0  # tail: how likely fewer than below + 1 samples are below, times 2 ** n
    while 2 * (tail + comb(count, below + 1)) <= _DOUBT * 2.0**count:
        below += 1
        tail += comb(count, below)
    return ordered[below], ordered[count - 1 - below]


def from_samples(name: str, base: Sequence[float], head: Sequence[float]) -> Change:
    """Two runs that did not take turns: the interval is of both medians, at its worst."""
    (base_low, base_high), (head_low, head_high) = interval(base), interval(head)
    low = head_low / base_high if base_high < float("inf") else 0.0
    high = head_high / base_low if base_low else float("inf")
    one, other = median(base), median(head)
    return Change(name, one, other, other / one, low, high)


def from_rounds(name: str, base: Sequence[float], head: Sequence[float]) -> Change:
    """Rounds in which both had a turn: what slowed a round slowed both, so ratios are compared."""
    ratios = [after / before for before, after in zip(base, head, strict=True)]
    low, high = interval(ratios)
    return Change(name, median(base), median(head), median(ratios), low, high)


def slower(change: Change, limit: float) -> bool:
    """Above the limit, and surely not equal."""
    return change.ratio > limit and change.low > 1
