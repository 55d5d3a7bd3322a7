"""The tables of a run, as Markdown text."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench.agent import measure
from bench.sampling import percentile
from bench.tables import duration, table, verdicts

if TYPE_CHECKING:
    from bench.results import Results


def render(results: Results) -> str:
    """Return the report, without the parts that were not measured."""
    facts = "\n".join(f"- {name}: {value}" for name, value in results.facts.items())
    parts = [
        f"# Benchmark report: the agent\n\n{facts}",
        verdicts(results.verdicts),
        _processes(results),
    ]
    parts += [_pauses(results), _crowds(results), _requests(results), _sockets(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _processes(results: Results) -> str:
    true = results.median(measure.TRUE)
    if true is None:
        return ""
    rows = []
    for name in (measure.TRUE, measure.VERSION, measure.FLOOR):
        cost = results.median(name)
        if cost is not None:
            rows.append((name, duration(cost), f"{cost / true:.2f}", "-"))
    for name in results.samples:
        verb = name.rpartition(": ")[2]
        cost = results.median(name)
        ours = results.median(f"{measure.launcher_name(0, 'disk')}: {verb}")
        if verb in measure.COMMANDS and cost is not None and ours is not None:
            rows.append((name, duration(cost), f"{cost / true:.2f}", f"{cost / ours:.2f}"))
    head = ("process", "median", f"x {measure.TRUE}", "x launcher, 0 leases")
    return "## Whole processes, one at a time\n\n" + table(head, rows)


def _pauses(results: Results) -> str:
    true, floor = (
        results.median(measure.paused_name(one)) for one in (measure.TRUE, measure.FLOOR)
    )
    if true is None or floor is None:
        return ""
    rows = []
    for name, values in results.samples.items():
        if name.startswith(measure.paused_name("")):
            cost = median(values)
            low = percentile(values, 0.25)
            rows.append(
                (name, duration(low), duration(cost), f"{cost / true:.2f}", f"{cost / floor:.2f}")
            )
    head = ("process", "p25", "median", f"x {measure.TRUE}", "x floor")
    return "## One process after a pause\n\n" + table(head, rows)


def _crowds(results: Results) -> str:
    rows = []
    for width in measure.WIDTHS:
        base = results.median(measure.crowd_name(measure.LAUNCHER, width))
        for program in (measure.TRUE, measure.LAUNCHER, measure.HOST_LOCAL):
            name = measure.crowd_name(program, width)
            cost = results.median(name)
            if cost is not None and base is not None:
                rows.append((name, *_rate(results, name, cost), f"{cost / base:.2f}"))
    head = ("processes, ADD and DEL", "a second", "p50", "p99", "x launcher's time")
    return "## Processes at once\n\n" + table(head, rows) if rows else ""


def _requests(results: Results) -> str:
    rows = []
    base = results.median(f"{measure.ALONE}: by hand")
    for side in ("by hand", "fastipam"):
        cost = results.median(f"{measure.ALONE}: {side}")
        if base is not None and cost is not None:
            rows.append((side, duration(cost), f"{cost / base:.2f}"))
    head = ("processor time, without a socket and a disk", "a request", "x by hand")
    return "## Requests, 64 a commit\n\n" + table(head, rows) if rows else ""


def _sockets(results: Results) -> str:
    rows = []
    for place in ("tmpfs", "disk"):
        hand = f"{measure.BY_HAND}, {place}"
        base = results.median(measure.processor_name(hand))
        for name in results.samples:
            cost = results.median(name)
            used = results.median(measure.processor_name(name))
            if not name.endswith(f", {place}") or not (base and cost and used):
                continue
            rate = (f"{1e9 / cost:,.0f}", "-", "-") if name == hand else _rate(results, name, cost)
            rows.append((name, *rate, duration(used), f"{used / base:.2f}"))
    head = ("ADD and DEL", "a second", "p50", "p99", "processor", "x by hand's")
    return "## Over the socket, a connection each\n\n" + table(head, rows) if rows else ""


def _rate(results: Results, name: str, cost: float) -> tuple[str, str, str]:
    latencies = results.samples[measure.latency_name(name)]
    p50, p99 = (duration(percentile(latencies, share)) for share in (0.5, 0.99))
    return f"{1e9 / cost:,.0f}", p50, p99
