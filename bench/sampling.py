"""Time subjects on a busy machine: they alternate, and the samples of one round are compared."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Samples = dict[str, list[float]]
"""Per subject, nanoseconds a call, one figure a round; figure i of all subjects is one round."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Work that is timed. ``run`` makes ``calls`` calls in its own loop.

    ``before`` runs untimed before every sample.
    """

    name: str
    calls: int
    run: Callable[[], object]
    before: Callable[[], object] | None = None


def interleave(
    subjects: Sequence[Subject], rounds: int, clock: Callable[[], int] = perf_counter_ns
) -> Samples:
    """Take one sample of every subject in each round; each round begins with another subject.

    So a slow second of the machine affects all subjects, and each one follows different others in
    the caches. The first round is dropped. The garbage collector is off, as with ``timeit``.
    """
    samples: Samples = {subject.name: [] for subject in subjects}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + 1):
            at = number % len(subjects)
            for subject in (*subjects[at:], *subjects[:at]):
                taken = time_once(subject, clock)
                if number:
                    samples[subject.name].append(taken)
    finally:
        gc.enable()
    return samples


def time_once(subject: Subject, clock: Callable[[], int] = perf_counter_ns) -> float:
    """Take one sample, and return the nanoseconds per call."""
    if subject.before is not None:
        subject.before()
    start = clock()
    subject.run()
    return (clock() - start) / subject.calls


def ratio(samples: Samples, subject: str, base: str) -> float:
    """Return a subject's cost relative to the base's: the median of the rounds' ratios."""
    return median(one / other for one, other in zip(samples[subject], samples[base], strict=True))


def ratio_of_ratios(samples: Samples, ours: tuple[str, str], base: tuple[str, str]) -> float:
    """Return the ratio of ``ours`` (first to second) divided by the same ratio of ``base``.

    It is the median of the rounds' quotients.
    """
    mine, theirs = (
        [one / other for one, other in zip(samples[first], samples[second], strict=True)]
        for first, second in (ours, base)
    )
    return median(one / other for one, other in zip(mine, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of the values does not exceed. O(n log n)."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
