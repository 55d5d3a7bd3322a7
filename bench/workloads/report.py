"""The tables of the workloads as Markdown text, with a list of who is faster than fastipam."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.tables import digits, duration, table
from bench.workloads.measure import AGENT
from bench.workloads.summary import SHARES, cost, rate
from bench.workloads.traces import ADD, AT_ONCE, DEL, WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.results import Results
    from bench.workloads.summary import Summary

OWN = "fastipam"
_NO_STORE = (
    "\n\nIn process, those who keep a set and a dictionary are held against `Bitmap`, which does "
    "so, too. They keep nothing beyond their process: where they are cheaper than fastipam's "
    "library, which commits every call to a store, that is what they save."
)
_HEAD = (
    *("", "calls", "a second"),
    *(f"{verb} {share}" for verb in (ADD, DEL) for share in SHARES),
)
_BITMAP = "fastipam Bitmap + dict"


def render(results: Results) -> str:
    """Return every workload, the growth and the losses; empty when nothing was measured."""
    if not results.workloads:
        return ""
    parts = [
        "## Workloads\n\nOf processes: from the spawn to the end. A dash: too few calls for that "
        'percentile (100 for p99, 1,000 for p99.9). "n of N": its time was up after n calls; '
        "nothing is extrapolated."
    ]
    for workload in WORKLOADS:
        found = results.workloads.get(workload.name, [])
        crowd = f"; processes: {AT_ONCE} at once" if workload.at_once > 1 else ""
        parts.append(f"### {workload.title} ({workload.present:,} pods present{crowd})")
        for whole in (True, False):
            group = sorted(
                (one for one in found if one["whole"] is whole),
                key=lambda one: cost(one, ADD) or float("inf"),
            )
            if group:
                head = ("one process a call" if whole else "in process", *_HEAD[1:])
                parts.append(table(head, [_row(one) for one in group]))
    parts += [_growth(results, whole=True), _growth(results, whole=False), _losses(results)]
    return "\n\n".join(part for part in parts if part)


def _row(summary: Summary) -> tuple[str, ...]:
    if not summary["verbs"]:
        return (f"{summary['contender']}: {summary['note'] or 'no time'}", *["-"] * len(_HEAD[1:]))
    done = sum(one["calls"] for one in summary["verbs"].values())
    calls = f"{done:,}"
    if done < summary["calls_wanted"]:
        calls += f" of {summary['calls_wanted']:,}"
    if summary["pods"] < summary["pods_wanted"]:
        calls += f", {summary['pods']:,} of {summary['pods_wanted']:,} pods"
    costs = (duration(cost(summary, verb, share)) for verb in (ADD, DEL) for share in SHARES)
    return (summary["contender"], calls, f"{rate(summary):,.0f}", *costs)


def _growth(results: Results, *, whole: bool) -> str:
    """Return the median of ADD and DEL together, against the number of leases."""
    names = dict.fromkeys(
        one["contender"]
        for found in results.growth.values()
        for one in found
        if one["whole"] is whole
    )
    if not names:
        return ""
    rows = []
    for name in names:
        cells = [pair_cost(found, name) for found in results.growth.values()]
        rows.append((name, *map(duration, cells)))
    head = ("ADD + DEL, p50", *(f"{int(leases):,} leases" for leases in results.growth))
    kind = "one process a call" if whole else "in process"
    return f"### Cost against leases, {kind}\n\n" + table(head, rows)


def pair_cost(found: Sequence[Summary], name: str, share: str = "p50") -> float | None:
    """Return the cost of an ADD and a DEL of a contender, or None if it was not measured."""
    for one in found:
        if one["contender"] == name:
            costs = [cost(one, verb, share) for verb in (ADD, DEL)]
            if None not in costs:
                return sum(each for each in costs if each is not None)
    return None


def _losses(results: Results) -> str:
    """Return every median at which another process, or another set of numbers, is faster."""
    rows = []
    for workload, found in results.workloads.items():
        by_name = {one["contender"]: one for one in found}
        for one in found:
            own = by_name.get(AGENT if one["whole"] else _BITMAP)
            if own is None or one["contender"].startswith(OWN):
                continue
            for verb in (ADD, DEL):
                theirs, ours = cost(one, verb), cost(own, verb)
                if theirs is not None and ours is not None and theirs < ours:
                    times = digits(ours / theirs)
                    rows.append((workload, one["contender"], verb, own["contender"], times))
    head = ("workload", "cheaper", "verb", "than", "times")
    return (
        "### Where fastipam loses (medians)\n\n"
        + (table(head, rows) if rows else "Nowhere in this run.")
        + _NO_STORE
    )
