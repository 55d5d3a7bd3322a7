"""The tables of a run, as Markdown text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.agent import measure
from bench.sampling import percentile
from bench.tables import duration, table, verdicts

if TYPE_CHECKING:
    from bench.results import Results


def render(results: Results) -> str:
    """Return the whole report, without the parts that were not measured."""
    facts = "\n".join(f"- {name}: {value}" for name, value in results.facts.items())
    parts = [
        f"# Benchmark report: the agent\n\n{facts}",
        verdicts(results.verdicts),
        _processes(results),
    ]
    parts += [_crowds(results), _sockets(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _processes(results: Results) -> str:
    true = results.median(measure.TRUE)
    if true is None:
        return ""
    rows = []
    for name in (measure.TRUE, measure.VERSION, measure.COMMIT):
        cost = results.median(name)
        if cost is not None:
            rows.append((name, duration(cost), f"{cost / true:.2f}", "-"))
    for name in results.samples:
        verb = name.rpartition(": ")[2]
        cost = results.median(name)
        ours = results.median(f"{measure.LAUNCHER}, 0 leases: {verb}")
        if verb in measure.COMMANDS and cost is not None and ours is not None:
            rows.append((name, duration(cost), f"{cost / true:.2f}", f"{cost / ours:.2f}"))
    head = ("process", "median", f"x {measure.TRUE}", "x launcher, 0 leases")
    return "## Whole processes, one at a time\n\n" + table(head, rows)


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


def _sockets(results: Results) -> str:
    base = results.median(measure.BY_HAND)
    if base is None:
        return ""
    rows = [(measure.BY_HAND, f"{1e9 / base:,.0f}", "-", "-", "1.00")]
    for name in results.samples:
        cost = results.median(name)
        if name.startswith("socket, ") and ": " not in name and cost is not None:
            rows.append((name, *_rate(results, name, cost), f"{base / cost:.2f}"))
    head = ("ADD and DEL, durable", "a second", "p50", "p99", "x by hand's rate")
    return "## Over the socket\n\n" + table(head, rows)


def _rate(results: Results, name: str, cost: float) -> tuple[str, str, str]:
    latencies = results.samples[measure.latency_name(name)]
    p50, p99 = (duration(percentile(latencies, share)) for share in (0.5, 0.99))
    return f"{1e9 / cost:,.0f}", p50, p99
