"""Draw the workloads: cost against leases on logarithmic axes, and the tails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.tables import duration
from bench.workloads.report import OWN, pair_cost
from bench.workloads.summary import SHARES, Summary, cost
from bench.workloads.traces import ADD

if TYPE_CHECKING:
    from bench.results import Results

_OURS = ("#0b6e4f", "#5fb596", "#a8d5c2")
_THEIRS = ("#c77700", "#3b6fb6", "#9b3b8f", "#777777", "#b03a3a")
_MARKS = "osD^vPX*"
_NONE_AT = 25.0  # where a logarithmic axis shows "0 leases"


def _colours(names: list[str]) -> dict[str, str]:
    own = iter(_OURS * 3)
    other = iter(_THEIRS * 3)
    return {name: next(own if name.startswith(OWN) else other) for name in names}


def names(results: Results, *, whole: bool) -> list[str]:
    """Return the contenders of a kind, in their order."""
    everything = [*results.growth.values(), *results.workloads.values()]
    return list(
        dict.fromkeys(
            one["contender"] for found in everything for one in found if one["whole"] is whole
        )
    )


def growth(axes: Any, results: Results, *, whole: bool) -> None:
    """Draw ADD and DEL against the number of leases: the median, and p99 as a faint line."""
    chosen = names(results, whole=whole)
    for (name, colour), mark in zip(_colours(chosen).items(), _MARKS * 2, strict=False):
        for share, alpha in (("p50", 1.0), ("p99", 0.35)):
            points = [
                (float(leases) or _NONE_AT, value)
                for leases, found in results.growth.items()
                if (value := pair_cost(found, name, share)) is not None
            ]
            if points:
                xs, ys = zip(*points, strict=True)
                label = name if share == "p50" else None
                axes.plot(xs, ys, color=colour, marker=mark, ms=4, alpha=alpha, label=label)
    leases = [int(one) for one in results.growth]
    axes.set(xscale="log", yscale="log", xlabel="leases", ylabel="ADD + DEL (faint: p99)")
    axes.set_xticks([float(one) or _NONE_AT for one in leases], [f"{one:,}" for one in leases])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    kind = "one process a call" if whole else "in process"
    axes.set_title(f"Cost against leases, {kind}")
    axes.legend(frameon=False, fontsize=8)


def tails(axes: Any, results: Results) -> None:
    """Draw the ADD of the processes in every workload: a bar from p50 over p99 to p99.9."""
    chosen = names(results, whole=True)
    step = 0.8 / max(1, len(chosen))
    for at, (name, colour) in enumerate(_colours(chosen).items()):
        label: str | None = name
        for group, found in enumerate(results.workloads.values()):
            one = _of(found, name)
            if one is None:
                continue
            place = group + (at - (len(chosen) - 1) / 2) * step
            values = [cost(one, ADD, share) for share in SHARES]
            reached = [value for value in values if value is not None]
            if reached:
                axes.plot([place] * len(reached), reached, color=colour, linewidth=1)
                axes.plot(place, reached[0], "o", color=colour, ms=5, label=label)
                axes.plot([place] * (len(reached) - 1), reached[1:], "_", color=colour, ms=7)
                label = None
    axes.set_xticks(range(len(results.workloads)), list(results.workloads))
    axes.set(yscale="log", ylabel="ADD: p50 (dot), p99, p99.9")
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    axes.set_title("Whole processes, by workload")
    axes.legend(frameon=False, fontsize=8)


def _of(found: list[Summary], name: str) -> Summary | None:
    return next((one for one in found if one["contender"] == name), None)
