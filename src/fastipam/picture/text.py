"""Draw a picture in a terminal: two cells per character in colour, one cell without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.segment import Segment
from rich.style import Style

from fastipam.picture import hilbert
from fastipam.picture.cells import (
    ASSIGNED,
    COOLING,
    ELSEWHERE,
    EXCLUDED,
    FREE,
    FULL_LEVEL,
    LEVEL_SHIFT,
    OUTSIDE,
    RESERVED,
    STATES,
)
from fastipam.picture.colours import BY_STATE, LABEL_COLOURS, OTHER_LABELS, of_labels, paint
from fastipam.picture.layers import AGE, ranked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt
    from rich.console import Console, ConsoleOptions, RenderResult

    from fastipam.picture.cells import Panel, Picture
    from fastipam.picture.colours import Colour
    from fastipam.picture.layers import Layer

LEAST_SIDE = 16  # characters; the cells of a narrower picture are several characters wide
PLAIN = {
    FREE: ".", ASSIGNED: "#", COOLING: "c", RESERVED: "r", EXCLUDED: "x", OUTSIDE: " ",
    ELSEWHERE: "-",
}  # fmt: skip
PLAIN_KEY = (
    "#: assigned  c: cooling  r: reserved  .: free  x: excluded\n1-9: tenths in use of a mixed cell"
)
PLAIN_KEY_OF_A_CLUSTER = f"{PLAIN_KEY}\n-: elsewhere, in no block of this node"


def fitting_bits(columns: int, rows: int) -> int:
    """Return the largest n from 6 to 14 for which 2**n cells fit into a terminal of this size."""
    bits = 14
    while bits > 6 and (1 << (bits + 1) // 2 > columns or 1 << bits // 2 > 2 * rows):
        bits -= 1
    return bits


class Blocks:
    """A panel as half-block characters: the foreground is a cell, the background the cell below."""

    def __init__(
        self, panel: Panel, layer: Layer | None, values: npt.NDArray[np.int64] | None
    ) -> None:
        raster = paint(panel, layer, values)[hilbert.grid(panel.frame.cell_bits)]
        factor = max(1, LEAST_SIDE // raster.shape[1])
        self._raster = raster.repeat(factor, axis=0).repeat(factor, axis=1)
        if len(self._raster) % 2:
            self._raster = np.vstack((self._raster, np.zeros_like(self._raster[:1])))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for upper, lower in zip(self._raster[::2], self._raster[1::2], strict=True):
            for one, two in zip(upper.tolist(), lower.tolist(), strict=True):
                yield Segment("▀", Style(color=_code(one), bgcolor=_code(two)))
            yield Segment.line()


def _code(colour: Colour) -> str:
    return f"#{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"


def legend(picture: Picture, layer: Layer | None) -> Iterator[tuple[str, str, int | None]]:
    """Yield (colour, name, number of addresses) for each line of a legend.

    A state that the layer colours has no colour. States have no number: :func:`counted` yields
    their numbers for each range set.
    """
    for code in (*range(RESERVED + 1), EXCLUDED, *([ELSEWHERE] if is_shared(picture) else [])):
        layered = layer is not None and code in (ASSIGNED, COOLING)
        yield "" if layered else _code(BY_STATE[code]), STATES[code], None
    if layer is not None and layer.kind != AGE:
        colours = of_labels(layer.labels, layer.sizes)
        shown, others = ranked(layer, len(LABEL_COLOURS))
        for at, label, size in shown:
            yield _code(colours[at]), label, size
        if others:
            yield _code(OTHER_LABELS), f"{len(others)} more", sum(others)


def is_shared(picture: Picture) -> bool:
    """Return whether the pool is a cluster's, so that this node owns only some of its blocks."""
    return any(one.blocks is not None for one in picture.sets)


def counted(
    picture: Picture, number: Callable[[int], str] = "{:,}".format
) -> Iterator[tuple[str, str]]:
    """Yield (ranges, text with the number of addresses by state) for each range set."""
    for one in picture.sets:
        numbers = dict(one.counts)
        numbers[STATES[EXCLUDED]] = one.excluded
        if one.blocks is not None:
            numbers[STATES[ELSEWHERE]] = one.elsewhere
        yield (
            one.ranges_text,
            "  ".join(f"{name} {number(count)}" for name, count in numbers.items()),
        )


def plain_lines(panel: Panel) -> Iterator[str]:
    """Yield the lines of a panel, with one character per cell; PLAIN_KEY explains them."""
    states = panel.states
    levels = panel.cells >> LEVEL_SHIFT
    characters = np.array([PLAIN[code] for code in range(len(STATES))])[states]
    mixed = (levels < FULL_LEVEL) & (states != FREE) & (states <= RESERVED)
    tenths = np.clip(levels * 10 // (FULL_LEVEL + 1), 1, 9)
    characters = np.where(mixed, tenths.astype("U1"), characters)
    for row in characters[hilbert.grid(panel.frame.cell_bits)]:
        yield "".join(row.tolist()).rstrip()
