"""Draw the suite as SVG. A contender has the same colour in all pictures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from bench.tables import duration
from bench.workloads.summary import SHARES, cost, rate
from bench.workloads.traces import ADD, DEL

mpl.use("svg")
from matplotlib import pyplot  # after the backend is chosen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.workloads.suite import Suite
    from bench.workloads.summary import Summary

_OURS = ("#0b6e4f", "#2fb98a", "#7a9a01", "#12355b", "#5b8c5a")
_THEIRS = (
    *("#c77700", "#777777", "#3b6fb6", "#9b3b8f", "#b03a3a"),
    *("#5d4037", "#e06c9f", "#00838f", "#8e7cc3", "#444444"),
)
_MARKS = "osD^vPX*<>"
_NONE_AT = 25.0  # where a logarithmic axis shows "0 leases"
_SIZE = (5.4, 4.6)
_AT_ONCE = {"churn": 1, "churn 8": 8, "churn 64": 64}


def colours(suite: Suite) -> dict[str, str]:
    """Return the colour of each contender, the same in every picture and table."""
    palettes = {own: iter(colors * 3) for own, colors in ((True, _OURS), (False, _THEIRS))}
    return {name: next(palettes[one["own"]]) for name, one in suite.entrants.items()}


def draw(suite: Suite) -> dict[str, str]:
    """Return the pictures for which there are figures: SVG texts by name."""
    mpl.rcParams.update({"svg.hashsalt": "fastipam", "font.size": 10, "svg.fonttype": "none"})
    drawn = {}
    if suite.growth:
        for verb in (ADD, DEL):
            drawn[f"leases-{verb.lower()}"] = _picture(suite, _growth, verb, True)
        drawn["leases-in-process"] = _picture(suite, _growth, ADD, False)
    if len(_AT_ONCE.keys() & suite.works.keys()) > 1:
        drawn["at-once"] = _picture(suite, _at_once)
    if suite.works:
        drawn["workloads"] = _picture(suite, _tails)
    return drawn


def _picture(suite: Suite, paint: Any, *more: object) -> str:
    figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
    paint(axes, suite, colours(suite), *more)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    made = io.StringIO()
    figure.savefig(made, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    # matplotlib ends some lines with a space.
    return "\n".join(line.rstrip() for line in made.getvalue().splitlines()) + "\n"


def _names(found: Iterable[list[Summary]], *, whole: bool) -> list[str]:
    every = (one for group in found for one in group)
    return list(dict.fromkeys(one["contender"] for one in every if one["whole"] is whole))


def _of(found: list[Summary], name: str) -> Summary | None:
    return next((one for one in found if one["contender"] == name and one["verbs"]), None)


def _growth(axes: Any, suite: Suite, colors: dict[str, str], verb: str, whole: bool) -> None:
    """Draw the median time of a verb, with its interval, against the number of leases."""
    for name, mark in zip(_names(suite.growth.values(), whole=whole), _MARKS * 2, strict=False):
        points = []
        for leases, found in suite.growth.items():
            one = _of(found, name)
            value = cost(one, verb) if one else None
            if one and value is not None:
                low, high = one["verbs"][verb]["interval"] or (value, value)
                errors = max(0.0, value - low), max(0.0, high - value)
                points.append((float(leases) or _NONE_AT, value, *errors))
        if points:
            xs, ys, below, above = zip(*points, strict=True)
            axes.errorbar(
                xs, ys, (below, above), color=colors[name], marker=mark, ms=4, capsize=2,
                linewidth=1.4, label=name,
            )  # fmt: skip
    ticks = [int(one) for one in suite.growth]
    axes.set(xscale="log", yscale="log", xlabel="leases held", ylabel="median, with 95 % interval")
    axes.set_xticks([float(one) or _NONE_AT for one in ticks], [_short(one) for one in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    axes.set_title(f"{verb} against leases, {'one process a call' if whole else 'in process'}")


def _short(leases: int) -> str:
    if leases >= 1_000_000:
        return f"{leases // 1_000_000}M"
    return f"{leases // 1000}k" if leases >= 1000 else str(leases)


def _at_once(axes: Any, suite: Suite, colors: dict[str, str]) -> None:
    """Draw the calls per second in the churn against the number of processes at once."""
    for name, mark in zip(_names(suite.works.values(), whole=True), _MARKS * 2, strict=False):
        points = [
            (at, rate(one))
            for at, (work, _) in enumerate(_AT_ONCE.items())
            if (one := _of(suite.works.get(work, []), name)) is not None
        ]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, color=colors[name], marker=mark, ms=5, label=name)
    axes.set_xticks(range(len(_AT_ONCE)), [str(width) for width in _AT_ONCE.values()])
    axes.set(yscale="log", xlabel="processes at once", ylabel="calls a second")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title("Churn of a node")


def _tails(axes: Any, suite: Suite, colors: dict[str, str]) -> None:
    """Draw the processes' ADD in every workload: a dot at p50, ticks at p99 and p99.9."""
    chosen = _names(suite.works.values(), whole=True)
    step = 0.8 / max(1, len(chosen))
    for at, name in enumerate(chosen):
        label: str | None = name
        for group, found in enumerate(suite.works.values()):
            one = _of(found, name)
            values = [cost(one, ADD, share) for share in SHARES] if one else []
            reached = [value for value in values if value is not None]
            if reached:
                place = group + (at - (len(chosen) - 1) / 2) * step
                axes.plot([place] * len(reached), reached, color=colors[name], linewidth=1)
                axes.plot(place, reached[0], "o", color=colors[name], ms=5, label=label)
                axes.plot([place] * (len(reached) - 1), reached[1:], "_", color=colors[name], ms=7)
                label = None
    axes.set_xticks(range(len(suite.works)), list(suite.works), rotation=30, ha="right")
    axes.set(yscale="log", ylabel="ADD: p50 (dot), p99, p99.9")
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    axes.set_title("ADD in each workload, one process a call")
