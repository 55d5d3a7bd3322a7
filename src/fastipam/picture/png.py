"""Draw a picture as an image: the panels, cut into tiles with their CIDRs, and a legend.

The tiles are in the order of their addresses, line by line, and within a tile the addresses lie on
a Hilbert curve. The captions are between the tiles, so nothing is drawn over an address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from fastipam.picture import hilbert, legend
from fastipam.picture.cells import ASSIGNED, COOLING, RESERVED
from fastipam.picture.colours import paint
from fastipam.picture.legend import DIM, GROUND, TEXT, font, percent

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastipam.picture.cells import Panel, Picture
    from fastipam.picture.layers import Layer

LEAST_SIDE = 512  # pixels: the least side of a panel; the cells of a small panel are larger
MARGIN = 24
GAP = 6
CAPTION = 18  # the height of a caption, above each tile
LINES_FROM = 8  # cells of at least this many pixels have lines between them


def bare(panel: Panel, layer: Layer | None, values: npt.NDArray[np.int64] | None) -> Image.Image:
    """Return the image of a panel alone, one pixel per cell."""
    return Image.fromarray(paint(panel, layer, values)[hilbert.grid(panel.frame.cell_bits)])


def render(picture: Picture, layer: Layer | None) -> Image.Image:
    """Return the image of a picture with captions and legend. O(cells)."""
    values = layer.values if layer else [None] * len(picture.panels)
    blocks = [_block(panel, layer, its) for panel, its in zip(picture.panels, values, strict=True)]
    width = max(block.width for block in blocks)
    height = sum(block.height for block in blocks) + MARGIN * (len(blocks) - 1)
    key = legend.draw(picture, layer, height)
    height = max(height, key.height)
    image = Image.new("RGB", (3 * MARGIN + width + key.width, 2 * MARGIN + height), GROUND)
    top = MARGIN
    for block in blocks:
        image.paste(block, (MARGIN, top))
        top += block.height + MARGIN
    image.paste(key, (2 * MARGIN + width, MARGIN))
    return image


def tiles_bits(panel: Panel) -> int:
    """Return n, where a panel is cut into 2**n square tiles."""
    bits = panel.frame.cell_bits
    if bits < 6:
        return 0 if bits % 2 == 0 else 1
    return 4 - bits % 2


def scale(panel: Panel) -> int:
    """Return the width and height of a cell in pixels."""
    height, width = hilbert.grid(panel.frame.cell_bits).shape
    return max(1, LEAST_SIDE // int(max(height, width)))


def tile_places(panel: Panel) -> list[tuple[int, int, int]]:
    """Return (left, top, side) of each tile in the panel's image, in address order."""
    bits = tiles_bits(panel)
    side = hilbert.grid(panel.frame.cell_bits - bits).shape[0] * scale(panel)
    columns = 1 << (bits + 1) // 2
    return [
        (
            number % columns * (side + GAP),
            CAPTION + number // columns * (side + GAP + CAPTION),
            side,
        )
        for number in range(1 << bits)
    ]


def _block(panel: Panel, layer: Layer | None, values: npt.NDArray[np.int64] | None) -> Image.Image:
    """Return the image of a panel's tiles with their captions."""
    cells = paint(panel, layer, values)
    bits = tiles_bits(panel)
    places = tile_places(panel)
    side = places[0][2]
    image = Image.new(
        "RGB",
        (max(left for left, _, _ in places) + side, max(top for _, top, _ in places) + side),
        GROUND,
    )
    draw = ImageDraw.Draw(image)
    order = hilbert.grid(panel.frame.cell_bits - bits)
    tally = panel.tally(bits)
    for number, (left, top, _) in enumerate(places):
        part = cells[number * order.size : (number + 1) * order.size][order]
        image.paste(_enlarged(part, scale(panel)), (left, top))
        text = panel.frame.part(number, bits)
        draw.text((left, top - CAPTION + 2), text, font=font(12), fill=TEXT)
        share = _share_used(tally[number])
        room = side - draw.textlength(text, font=font(12)) - 8
        if draw.textlength(share, font=font(12)) <= room:
            draw.text((left + side, top - CAPTION + 2), share, font=font(12), fill=DIM, anchor="ra")
    return image


def _enlarged(part: npt.NDArray[np.uint8], factor: int) -> Image.Image:
    """Return the image of a tile, with lines between its cells if they are large enough."""
    large = part.repeat(factor, axis=0).repeat(factor, axis=1)
    if factor >= LINES_FROM:
        large[factor - 1 :: factor] = GROUND
        large[:, factor - 1 :: factor] = GROUND
    return Image.fromarray(large)


def _share_used(tally: npt.NDArray[np.int64]) -> str:
    used = int(tally[[ASSIGNED, COOLING, RESERVED]].sum())
    usable = used + int(tally[0])
    return percent(used, usable) if usable else ""
