"""The results of a run as tables, for the terminal and for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from bench.tables import digits, duration, table
from bench.workloads.losses import by_pair
from bench.workloads.summary import SHARES, cost, of_adds, rate
from bench.workloads.traces import ADD, DEL

if TYPE_CHECKING:
    from bench.workloads.crashes import Killed
    from bench.workloads.suite import Suite
    from bench.workloads.summary import Summary

_DASH = "-"

Cells: TypeAlias = "list[tuple[str, ...]]"


class Rows(NamedTuple):
    """A table: its title, head and rows. The first cell of a row may be a contender."""

    title: str
    head: tuple[str, ...]
    rows: Cells
    text: str = ""

    def markdown(self, level: int) -> str:
        """Return the table as Markdown."""
        return f"{'#' * level} {self.title}\n\n" + table(self.head, self.rows)


def overview(suite: Suite) -> Rows:
    """Return the most important figures, with one row for each plugin."""
    widths = [one for one in ("churn", "churn 8", "churn 64") if one in suite.works]
    leases = [one for one in suite.growth if one in ("0", "1000", "10000", "100000")]
    head = (
        "plugin",
        *(f"ADD, {int(one):,} leases" for one in leases),
        *(f"{one.partition(' ')[2] or 1} at once, calls/s" for one in widths),
        "leaked after kill -9",
        "leaked after a reboot",
        "an answer is",
    )
    rows: Cells = []
    for name, entrant in suite.entrants.items():
        if not entrant["whole"]:
            continue
        cells = [_cell(suite.growth[one], name) for one in leases]
        cells += [_rate(suite.works[one], name) for one in widths]
        rows.append((name, *cells, _leak(suite, name), _left(suite, name), entrant["durability"]))
    text = (
        "Medians of whole processes, from the spawn to the end; “of 3”: of three calls, too few "
        "for an interval."
    )
    return Rows("At a glance", head, rows, text)


def _of(found: list[Summary], name: str) -> Summary | None:
    return next((one for one in found if one["contender"] == name and one["verbs"]), None)


def _cell(found: list[Summary], name: str) -> str:
    one = _of(found, name)
    verb = one["verbs"].get(ADD) if one else None
    if verb is None:
        return _DASH
    few = "" if verb["interval"] else f" of {verb['calls']}"
    return duration(verb["percentiles"]["p50"]) + few


def _rate(found: list[Summary], name: str) -> str:
    one = _of(found, name)
    return f"{rate(one):,.0f}" if one else _DASH


def _leak(suite: Suite, name: str) -> str:
    for one in suite.kills:
        if one["contender"] == name:
            if one["note"]:
                return "failed"
            text = f"{one['leaked']} of {one['kills']}"
            return text + (f", {one['leaked_after_del']} after DEL" if one["leaked"] else "")
    return _DASH


def _left(suite: Suite, name: str) -> str:
    for one in suite.reboots:
        if one["contender"] == name:
            return "failed" if one["note"] else f"{one['leaked']} of {one['held']}"
    return _DASH


def growth(suite: Suite, verb: str, *, whole: bool) -> Rows:
    """Return the median of a verb, with its interval, for each number of leases."""
    rows: Cells = []
    for name, entrant in suite.entrants.items():
        if entrant["whole"] is whole:
            cells = [median_of(_of(found, name), verb) for found in suite.growth.values()]
            if any(cell != _DASH for cell in cells):
                rows.append((name, *cells))
    kind = "one process a call" if whole else "in process"
    head = (verb, *(f"{int(leases):,} leases" for leases in suite.growth))
    return Rows(f"{verb} against leases held, {kind}", head, rows)


def median_of(summary: Summary | None, verb: str) -> str:
    """Return a median and its interval of 95 %, or a dash."""
    found = summary["verbs"].get(verb) if summary else None
    if not found:
        return _DASH
    text = duration(found["percentiles"]["p50"])
    if found["interval"] is None:
        return f"{text} of {found['calls']}"
    return f"{text} ({' … '.join(map(duration, found['interval']))})"


def workload(suite: Suite, name: str, *, whole: bool) -> Rows:
    """Return the contenders of a kind in a workload, the cheapest first."""
    found = [one for one in suite.works[name] if one["whole"] is whole]
    found.sort(key=lambda one: cost(one, ADD) or float("inf"))
    head = (
        "one process a call" if whole else "in process",
        *("calls", "a second"),
        *(f"{verb} {share}" for verb in (ADD, DEL) for share in SHARES),
    )
    return Rows(suite.titles[name], head, [_row(one, len(head)) for one in found])


def _row(summary: Summary, width: int) -> tuple[str, ...]:
    done = sum(one["calls"] for one in summary["verbs"].values())
    if not done:
        return (summary["contender"], summary["note"] or "no time", *[_DASH] * (width - 2))
    calls = f"{done:,}"
    if done < summary["calls_wanted"]:
        calls += f" of {summary['calls_wanted']:,}"
    if summary["pods"] < summary["pods_wanted"]:
        calls += f", {summary['pods']:,} of {summary['pods_wanted']:,} pods"
    if summary["failed"]:
        calls += ", then one failed"
    costs = (
        median_of(summary, verb) if share == "p50" else duration(cost(summary, verb, share))
        for verb in (ADD, DEL)
        for share in SHARES
    )
    return (summary["contender"], calls, f"{rate(summary):,.0f}", *costs)


def kills(suite: Suite) -> Rows:
    """Return a table with the effects of ``kill -9``."""
    head = (
        *("plugin", "killed", "calls killed", "pods that lost their address"),
        *("leaked", "leaked after DEL", "the next ADD"),
    )
    rows: Cells = [
        (one["contender"], one["note"], *[_DASH] * 5)
        if one["note"]
        else (
            one["contender"],
            one["what"],
            str(one["kills"]),
            f"{one['lost']} of {one['held']}",
            str(one["leaked"]),
            str(one["leaked_after_del"]),
            _after(one),
        )
        for one in suite.kills
    ]
    return Rows(
        "After kill -9", head, rows,
        "Each call is killed at a random moment before it usually ends. Leaked: an address that no "
        "pod has and no new pod gets, found by filling a small pool up; then the runtime's DEL of "
        "each killed pod. A call that had answered before is none of those killed.",
    )  # fmt: skip


def _after(killed: Killed) -> str:
    if not killed["next_ns"]:
        return _DASH
    return median_of(of_adds(killed["contender"], killed["next_ns"], own=False), ADD)


def reboots(suite: Suite) -> Rows:
    """Return a table with the effects of a reboot."""
    head = ("plugin", "leases before", "leaked", "freed by", "the first ADD", "what changed")
    rows: Cells = [
        (one["contender"], one["note"], *[_DASH] * 4)
        if one["note"]
        else (
            one["contender"],
            str(one["held"]),
            str(one["leaked"]),
            one["freed_by"],
            duration(one["first_ns"]) if one["first_ns"] else "refused: the pool is full",
            one["seen"],
        )
        for one in suite.reboots
    ]
    return Rows(
        "After a reboot", head, rows,
        "The store is as it was, no container runs, and no network namespace of before is there. "
        "The pool was full. Many runtimes make no DEL for what ran before a reboot.",
    )  # fmt: skip


def losses(suite: Suite, *, whole: bool) -> tuple[Rows, Rows]:
    """Return two tables of fastipam's losses: by pair of contenders, and by median."""
    found = [
        one for one in suite.verdict()["losses"] if suite.entrants[one["own"]]["whole"] is whole
    ]
    kind = "one process a call" if whole else "in process"
    pairs: Cells = [
        (
            own,
            other,
            str(len(lost)),
            f"{digits(lost[0]['times'])} x",
            f"{lost[0]['work']}: {lost[0]['verb']}",
        )
        for (own, other), lost in by_pair(found).items()
    ]
    each: Cells = [
        (
            one["own"], one["other"], one["work"], one["verb"],
            duration(one["own_ns"]), duration(one["other_ns"]), f"{digits(one['times'])} x",
            "yes" if one["sure"] else "no",
        )
        for one in found
    ]  # fmt: skip
    head = (
        "fastipam's",
        "is dearer than",
        "in the work",
        "verb",
        "fastipam's median",
        "the other's",
    )
    return (
        Rows(f"Where fastipam loses, {kind}", (*head[:2], "medians", "at most", "there"), pairs),
        Rows(f"Each median at which it loses, {kind}", (*head, "times", "intervals apart"), each),
    )


def lost(suite: Suite) -> str:
    """Return a sentence that says how many of the compared medians fastipam loses."""
    verdict = suite.verdict()
    count, compared = len(verdict["losses"]), verdict["compared"]
    if not count:
        return f"fastipam loses at none of {compared:,} compared medians."
    doubt = sum(not one["sure"] for one in verdict["losses"])
    return (
        f"fastipam loses at {count:,} of {compared:,} compared medians"
        + (f"; at {doubt:,} of them the intervals overlap" if doubt else "")
        + ". A row of fastipam's is compared with every other contender's row of the same work and "
        "kind, direct calls included."
    )


def wrong(suite: Suite) -> list[str]:
    """Return a sentence for each withdrawn contender that says why it has no figures."""
    return [f"{why}. Its figures are not compared." for why in suite.withdrawn.values()]


def left_out(suite: Suite) -> Rows:
    """Return a table of the work that was not measured or failed, each with its reason."""
    rows: Cells = [(one["contender"], one["work"], one["why"]) for one in suite.skipped]
    rows += [(one["contender"], one["work"], f"failed: {one['why']}") for one in suite.failures()]
    return Rows("Not measured, and failed", ("contender", "work", "why"), rows)


def text(suite: Suite, level: int = 2) -> str:
    """Return the report as Markdown: warnings, the most important figures, and the losses."""
    parts = [f"FAILED: {one}" for one in wrong(suite)]
    parts += [f"WARNING: {one}" for one in suite.warnings]
    said = ("machine", "filesystem", "device", "sync", "run", "commit", "date")
    parts.append("\n".join(f"- {key}: {suite.facts[key]}" for key in said if key in suite.facts))
    every = [overview(suite), kills(suite), reboots(suite)]
    every += [losses(suite, whole=whole)[0] for whole in (True, False)]
    every.append(left_out(suite))
    parts += [one.markdown(level + 1) for one in every if one.rows]
    title = f"{'#' * level} IPAM plugins, on the same work"
    return "\n\n".join((title, *parts, lost(suite))) + "\n"
