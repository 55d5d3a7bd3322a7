"""Numbers and tables as Markdown text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.bars import Verdict

_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))


def digits(value: float) -> str:
    """Return a number with three significant digits: 1.8, 23.4, 5,060."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:g}"


def duration(nanoseconds: float | None) -> str:
    """Return a duration with three digits and a unit, or a dash for None."""
    if nanoseconds is None:
        return "-"
    nanoseconds = float(
        f"{nanoseconds:.3g}"
    )  # round before the unit is chosen, so that 999.9 ns is 1 us
    for size, unit in _UNITS:
        if nanoseconds >= size:
            return f"{digits(nanoseconds / size)} {unit}"
    return f"{nanoseconds:.2g} ns"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. The first column is aligned left, the others right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "| " + " | ".join((first, *rest)) + " |"

    rule = [("-" * width if not at else "-" * (width - 1) + ":") for at, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def verdicts(found: Sequence[Verdict]) -> str:
    """Return the section with bars and measured figures, or "" without any."""
    rows = [
        (
            one.bar.name,
            f"{digits(one.figure)} {one.bar.unit}",
            f"{'>=' if one.bar.at_least else '<='} {digits(one.bar.limit)} {one.bar.unit}",
            "met" if one.met else "MISSED",
        )
        for one in found
    ]
    return "## Bars\n\n" + table(("bar", "measured", "promised", "verdict"), rows) if rows else ""
