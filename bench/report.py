"""The tables of a run, as Markdown text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import memory
from bench.tables import digits, duration, table
from bench.workloads import report as workloads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.results import Results

_MILLION = (
    *(
        (
            f"{durability} pair{side}{state}",
            f"{durability} pair{side}, a million leases{state}",
            f"{durability} pair{side}, no lease",
        )
        for durability in ("relaxed", "durable")
        for side, state in (("", ""), ("", ", compacted"), (" by hand", ""))
    ),
    ("open + first lookup", "open, 1,048,573 leases", "open, no lease"),
    ("plugin ADD", "fastipam, 1,000,000 leases: ADD", "fastipam, 0 leases: ADD"),
    ("plugin DEL", "fastipam, 1,000,000 leases: DEL", "fastipam, 0 leases: DEL"),
)


def render(results: Results, against: Sequence[tuple[str, float]] = ()) -> str:
    """Return the whole report, without the parts that were not measured."""
    parts = [_facts(results), _verdicts(results), _calls(results), _peers(results)]
    parts += [_stores(results), _million(results), _processes(results)]
    parts += [workloads.render(results), _against(against)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(results: Results) -> str:
    lines = (f"- {name}: {value}" for name, value in results.facts.items())
    return "# Benchmark report\n\n" + "\n".join(lines)


def _verdicts(results: Results) -> str:
    rows = [
        (
            one.bar.name,
            f"{digits(one.figure)} {one.bar.unit}",
            f"{digits(one.bar.limit)} {one.bar.unit}",
            "met" if one.met else "MISSED",
        )
        for one in results.verdicts
    ]
    return "## Bars\n\n" + table(("bar", "measured", "at most", "verdict"), rows) if rows else ""


def _calls(results: Results) -> str:
    base = results.median("empty method")
    if base is None:
        return ""
    rows = []
    for name in ("empty method", "allocate", "allocate_many"):
        cost = results.median(name)
        if cost is not None:
            rows.append((name, duration(cost), f"{cost / base:.2f}"))
    text = "## One call in memory (a /12)\n\n"
    return text + table(("call", "median, an address", "x empty method"), rows)


def _peers(results: Results) -> str:
    if not results.peers:
        return ""
    blocks = ["## A pair in memory, by size and fill (median; x fastipam)"]
    head = ("peer", *(f"{fill:.2%} full" for fill in memory.FILLS))
    for prefix in memory.PREFIXES:
        if results.peer("fastipam", prefix, 0.0) is None:
            continue
        rows = [
            (peer, *(_peer_cell(results, peer, prefix, fill) for fill in memory.FILLS))
            for peer in memory.PEERS
        ]
        blocks.append(f"### /{prefix}\n\n" + table(head, rows))
    return "\n\n".join(blocks)


def _peer_cell(results: Results, peer: str, prefix: int, fill: float) -> str:
    cost = results.peer(peer, prefix, fill)
    base = results.peer("fastipam", prefix, fill)
    if cost is None or base is None:
        return "-"
    return duration(cost) if peer == "fastipam" else f"{duration(cost)} ({digits(cost / base)}x)"


def _stores(results: Results) -> str:
    rows = []
    for durability in ("relaxed", "durable"):
        for queue in ("cool-down", "no cool-down"):
            label = f"{durability}, {queue}"
            ours, hand = (results.median(f"{label}: {side}") for side in ("fastipam", "by hand"))
            if ours is not None and hand is not None:
                rows.append((label, duration(ours), duration(hand), f"{ours / hand:.2f}"))
    head = ("a pair in the store", "fastipam", "by hand in py-lmdb", "ratio")
    return "## Store\n\n" + table(head, rows) if rows else ""


def _million(results: Results) -> str:
    rows = []
    for label, many, none in _MILLION:
        full, empty = results.median(many), results.median(none)
        if full is not None and empty is not None:
            rows.append((label, duration(empty), duration(full), f"{full / empty:.2f}"))
    if not rows:
        return ""
    text = table(("", "no lease", "a million leases", "ratio"), rows)
    fill = results.median("fill, durable")
    if fill is not None:
        text += f"\n\nFill with 1,048,573 leases, durable, 8,192 a transaction: {duration(fill)}."
    return "## What a million leases change\n\n" + text


def _processes(results: Results) -> str:
    base = results.median("python -I -S -c pass")
    if base is None:
        return ""
    rows = []
    for name in results.samples:
        cost = results.median(name)
        if cost is not None and (": " in name[:-2] and name[-3:] in ("ADD", "DEL")):
            rows.append((name, duration(cost), f"{cost / base:.2f}"))
    for name in ("/bin/true", "python -I -S -c pass"):
        cost = results.median(name)
        if cost is not None:
            rows.append((name, duration(cost), f"{cost / base:.2f}"))
    text = "## Whole processes\n\n"
    return text + table(("process", "median", "x python -I -S -c pass"), rows)


def _against(found: Sequence[tuple[str, float]]) -> str:
    rows = [(name, f"{times:.2f}") for name, times in found]
    return "## Against the baseline\n\n" + table(("subject", "x baseline"), rows) if rows else ""
