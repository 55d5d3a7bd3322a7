"""The pictures of a run, as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from bench import memory
from bench.machine import footer
from bench.processes import HOST_LOCAL_LEASES
from bench.tables import duration

mpl.use("svg")
from matplotlib import pyplot  # after the backend is chosen

if TYPE_CHECKING:
    from pathlib import Path

    from bench.results import Results

OURS = "#0b6e4f"
COLORS = {
    "fastipam": OURS,
    "bitarray": "#c77700",
    "pyroaring": "#3b6fb6",
    "set + ipaddress": "#9b3b8f",
    "netaddr IPSet": "#777777",
}
SHADES = ("#a8d5c2", "#5fb596", "#238b63", "#064a34")  # /24 to /12
_NONE_AT = 25.0  # where a logarithmic axis shows "0 leases"
_NS_PER_MS = 1e6


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw every picture for which the results have figures, and return the paths."""
    mpl.rcParams.update({"svg.hashsalt": "fastipam", "font.size": 10, "svg.fonttype": "none"})
    drawn = []
    for name, paint, wanted in (
        ("leases.svg", _leases, "python -I -S -c pass" in results.samples),
        ("pair.svg", _pair, "fastipam /12 0.00%" in results.samples),
        ("peers.svg", _peers, bool(results.peers)),
    ):
        if wanted:
            figure, axes = pyplot.subplots(figsize=(8, 5))
            paint(axes, results)
            _style(axes)
            _finish(figure, results, directory / name)
            drawn.append(directory / name)
    return drawn


def _finish(figure: Any, results: Results, path: Path) -> None:
    figure.text(0.01, 0.01, footer(results.facts), fontsize=6, color="#555555", va="bottom")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    # matplotlib ends some lines with a space.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _style(axes: Any) -> None:
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _series(results: Results, names: list[tuple[int, str]]) -> tuple[list[float], list[float]]:
    xs, ys = [], []
    for leases, name in names:
        cost = results.median(name)
        if cost is not None:
            xs.append(float(leases) or _NONE_AT)
            ys.append(cost / _NS_PER_MS)
    return xs, ys


def _leases(axes: Any, results: Results) -> None:
    """Draw the milliseconds of a call against the number of leases in the store."""
    theirs = [(n, f"host-local, {n:,} leases: ADD") for n in HOST_LOCAL_LEASES]
    ours = [(n, f"fastipam, {n:,} leases: ADD") for n in (0, 1_000_000)]
    pair = [(0, "durable pair, no lease"), (1_000_000, "durable pair, a million leases")]
    for names, label, color, marker in (
        (theirs, "host-local, ADD as a process", COLORS["bitarray"], "s"),
        (ours, "fastipam, ADD as a process (no agent)", OURS, "o"),
        (pair, "fastipam, allocate + release in the library, durable", SHADES[1], "^"),
    ):
        xs, ys = _series(results, names)
        axes.plot(xs, ys, color=color, marker=marker, label=label)
    for name, style in (("python -I -S -c pass", "--"), ("/bin/true", ":")):
        cost = results.median(name)
        if cost is not None:
            axes.axhline(cost / _NS_PER_MS, color="#888888", linestyle=style, label=name)
    ticks = [_NONE_AT, 250, 1_000, 10_000, 100_000, 1_000_000]
    axes.set(xscale="log", yscale="log", xlabel="leases in the store", ylabel="median, ms")
    axes.set_xticks(ticks, ["0", *(f"{int(tick):,}" for tick in ticks[1:])])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title("One call, against the number of leases")
    axes.legend(frameon=False, fontsize=8)


def _pair(axes: Any, results: Results) -> None:
    """Draw the nanoseconds of a pair in memory against the fill, with a line for each size."""
    labels = [f"{fill * 100:g} %" for fill in memory.FILLS]
    for prefix, color in zip(memory.PREFIXES, SHADES, strict=True):
        costs = [results.median(f"fastipam /{prefix} {fill:.2%}") for fill in memory.FILLS]
        label = f"/{prefix} ({1 << (32 - prefix):,} addresses)"
        axes.plot(labels, costs, color=color, marker="o", label=label)
    base = results.median("empty method")
    if base is not None:
        label = "two calls of an empty method"
        axes.axhline(2 * base, color="#888888", linestyle="--", label=label)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="addresses in use", ylabel="median, ns", title="Bitmap: allocate + release")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _peers(axes: Any, results: Results) -> None:
    """Draw the nanoseconds of a pair on a /12, with a group of bars for each fill."""
    width = 0.8 / len(memory.PEERS)
    for at, peer in enumerate(memory.PEERS):
        places, costs = [], []
        for group, fill in enumerate(memory.FILLS):
            cost = results.peer(peer, 12, fill)
            if cost is not None:
                places.append(group + (at - (len(memory.PEERS) - 1) / 2) * width)
                costs.append(cost)
        axes.bar(places, costs, width * 0.92, color=COLORS[peer], label=peer)
    axes.set_xticks(range(len(memory.FILLS)), [f"{fill * 100:g} %" for fill in memory.FILLS])
    axes.set(yscale="log", ylim=(10, 2e9), xlabel="addresses in use", ylabel="median, logarithmic")
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    axes.set_title("A pair in memory on a /12, scattered addresses free")
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
