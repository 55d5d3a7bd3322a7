"""The tables of a run, as Markdown text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import bulk, measure, memory, stores
from bench.tables import digits, duration, table, verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.results import Results

_MILLION = (
    *(
        (
            f"{kind}{side}{state}",
            f"{kind}{side}, a million leases{state}",
            f"{kind}{side}, no lease",
        )
        for kind in (measure.TMPFS_PAIR, measure.DURABLE_PAIR)
        for side, state in (("", ""), ("", ", compacted"), (" by hand", ""))
    ),
    ("open + first lookup", "open, 1,048,573 leases", "open, no lease"),
    ("plugin ADD", "fastipam, 1,000,000 leases: ADD", "fastipam, 0 leases: ADD"),
    ("plugin DEL", "fastipam, 1,000,000 leases: DEL", "fastipam, 0 leases: DEL"),
)


def render(results: Results, against: Sequence[tuple[str, float]] = ()) -> str:
    """Return the report, without the parts that were not measured."""
    parts = [_facts(results), verdicts(results.verdicts), _calls(results), _peers(results)]
    parts += [_stores(results), _million(results), _processes(results)]
    parts += [results.plugins.strip(), _against(against)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(results: Results) -> str:
    lines = (f"- {name}: {value}" for name, value in results.facts.items())
    return "# Benchmark report\n\n" + "\n".join(lines)


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
            hand = results.median(f"{label}: by hand")
            for more in ("", ", 1,000 in one transaction"):
                ours = results.median(f"{label}: fastipam{more}")
                if ours is not None and hand is not None:
                    row = (f"{label}{more}", duration(ours), duration(hand), f"{ours / hand:.2f}")
                    rows.append(row)
    if not rows:
        return ""
    head = ("a pair in the store", "fastipam", "by hand, two commits", "ratio")
    parts = [table(head, rows), _long_transactions(results), _bulk(results)]
    return "## Store\n\n" + "\n\n".join(part for part in parts if part)


def _long_transactions(results: Results) -> str:
    rows = []
    for queue in ("cool-down", "no cool-down"):
        for side in ("fastipam", "by hand"):
            label = f"relaxed, {queue}: {side}"
            costs = [
                results.median(f"{label}, the {number:,}th in one transaction")
                for number in (bulk.EARLY, bulk.LATE)
            ]
            if costs[0] is not None and costs[1] is not None:
                rows.append((label, *map(duration, costs), f"{costs[1] / costs[0]:.2f}"))
    head = ("a pair inside one transaction", *(f"the {n:,}th" for n in (bulk.EARLY, bulk.LATE)))
    return table((*head, "ratio"), rows) if rows else ""


def _bulk(results: Results) -> str:
    rows = []
    for names in (bulk.MANY_NAMES, bulk.THREADS_NAMES):
        base = results.median(names[0])
        for name in names:
            cost = results.median(name)
            if base is not None and cost is not None:
                rows.append((name, duration(cost), f"{cost / base:.2f}"))
    return table(("an address", "median", "x the first"), rows) if rows else ""


def _million(results: Results) -> str:
    rows = []
    for label, many, none in _MILLION:
        full, empty = results.median(many), results.median(none)
        if full is not None and empty is not None:
            rows.append((label, duration(empty), duration(full), f"{full / empty:.2f}"))
    if not rows:
        return ""
    text = table(("", "no lease", "a million leases", "ratio"), rows)
    fill, hand = results.median("fill, durable"), results.median("fill, durable, by hand")
    if fill is not None and hand is not None:
        text += (
            f"\n\nFill with {stores.LEASES:,} leases, durable, {stores.BATCH:,} a transaction: "
            f"{duration(fill)}; by hand {duration(hand)}."
        )
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
