"""Summarise an outcome: counts, percentiles, and some of the latencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from bench.judging import FEWEST, interval
from bench.sampling import percentile
from bench.workloads.traces import ADD

if TYPE_CHECKING:
    from bench.workloads.drive import Outcome

SHARES = {
    "p50": (0.5, 1),
    "p99": (0.99, 100),
    "p99.9": (0.999, 1000),
}  # each with its share, and the least number of calls for which it is computed
_KEPT = 400  # latencies of a verb that are kept


class Verb(TypedDict):
    """The calls of a verb. Percentiles are in nanoseconds, or None with too few calls."""

    calls: int
    percentiles: dict[str, float | None]
    interval: tuple[float, float] | None  # of the median; None with too few calls
    most: float
    some: list[float]  # every n-th latency, in the order of the calls


class Summary(TypedDict):
    """The summary of a contender in a workload."""

    contender: str
    own: bool
    whole: bool
    calls_wanted: int
    pods_wanted: int
    pods: int
    seconds: float
    verbs: dict[str, Verb]
    note: str  # why the contender took no part, or which call failed
    failed: bool


def _interval(latencies: list[float], middle: float) -> tuple[float, float]:
    """Return the median's interval. Raises ValueError when it does not contain the median."""
    low, high = (round(one) for one in interval(latencies))
    if not low <= middle <= high:
        raise ValueError(f"the interval {low} … {high} ns does not contain the median, {middle} ns")
    return low, high


def _verb(latencies: list[float]) -> Verb:
    ordered = sorted(latencies)
    percentiles: dict[str, float | None] = {
        name: round(percentile(ordered, share)) if len(ordered) >= least else None
        for name, (share, least) in SHARES.items()
    }
    some: list[float] = [round(one) for one in latencies[:: max(1, len(latencies) // _KEPT)]]
    sure = _interval(ordered, percentiles["p50"] or 0.0) if len(ordered) >= FEWEST else None
    return Verb(
        calls=len(ordered), percentiles=percentiles, interval=sure, most=ordered[-1], some=some
    )


def summarise(outcome: Outcome) -> Summary:
    """Return the summary of an outcome, with percentiles of all latencies and some latencies."""
    return Summary(
        contender=outcome.contender,
        own=outcome.own,
        whole=outcome.whole,
        calls_wanted=outcome.calls_wanted,
        pods_wanted=outcome.pods_wanted,
        pods=outcome.pods,
        seconds=round(outcome.spent_ns / 1e9, 6),
        verbs={verb: _verb(found) for verb, found in outcome.latencies.items() if found},
        note=outcome.note,
        failed=outcome.failed,
    )


def of_adds(contender: str, latencies: list[float], *, own: bool) -> Summary:
    """Return the summary of a plugin's ADDs that were not part of a workload."""
    count = len(latencies)
    return Summary(
        contender=contender, own=own, whole=True, calls_wanted=count, pods_wanted=0, pods=0,
        seconds=sum(latencies) / 1e9, verbs={ADD: _verb(latencies)}, note="", failed=False,
    )  # fmt: skip


def cost(summary: Summary, verb: str, name: str = "p50") -> float | None:
    """Return a percentile of a verb, or None if it was not measured."""
    found = summary["verbs"].get(verb)
    return found["percentiles"][name] if found else None


def rate(summary: Summary) -> float:
    """Return the calls per second."""
    return sum(one["calls"] for one in summary["verbs"].values()) / max(summary["seconds"], 1e-9)
