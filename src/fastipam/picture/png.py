"""Draw a picture as an image: the panels, cut into tiles with their CIDRs, and a legend.

The captions are between the tiles, so nothing is drawn over an address.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastipam.picture import hilbert
from fastipam.picture.cells import (
    ASSIGNED,
    COOLING,
    ELSEWHERE,
    EXCLUDED,
    OUTSIDE,
    RESERVED,
    STATES,
)
from fastipam.picture.colours import AGE_FROM_S, AGE_TO_S, BY_STATE, of_age, of_label, paint
from fastipam.picture.layers import AGE, BLOCK

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastipam.picture.cells import Panel, Picture
    from fastipam.picture.colours import Colour
    from fastipam.picture.layers import Layer

LEAST_SIDE = 512  # pixels of a panel; the cells of a small panel are larger
MARGIN = 24
GAP = 6
CAPTION = 18  # the height of a caption, above each tile
LINES_FROM = 8  # cells of at least this many pixels have lines between them
LEGEND = 300
LEGEND_LABELS = 14
LEGEND_SETS = 3  # range sets whose counts are drawn: the fullest
GROUND: Colour = (14, 18, 25)
TEXT: Colour = (226, 232, 240)
DIM: Colour = (138, 150, 168)
# The labels of the scale of ages.
_MARKS = ((10, "10 s"), (600, "10 min"), (6 * 3600, "6 h"), (3 * 86400, "3 d"), (AGE_TO_S, "30 d"))


def bare(panel: Panel, layer: Layer | None, values: npt.NDArray[np.int64] | None) -> Image.Image:
    """Return the image of a panel alone, one pixel a cell."""
    return Image.fromarray(paint(panel, layer, values)[hilbert.grid(panel.frame.cell_bits)])


def render(picture: Picture, layer: Layer | None) -> Image.Image:
    """Return the image of a picture with captions and legend. O(cells)."""
    values = layer.values if layer else [None] * len(picture.panels)
    blocks = [_block(panel, layer, its) for panel, its in zip(picture.panels, values, strict=True)]
    width = max(block.width for block in blocks)
    height = sum(block.height for block in blocks) + MARGIN * (len(blocks) - 1)
    legend = _legend(picture, layer)
    height = max(height, legend.height)
    image = Image.new("RGB", (3 * MARGIN + width + LEGEND, 2 * MARGIN + height), GROUND)
    top = MARGIN
    for block in blocks:
        image.paste(block, (MARGIN, top))
        top += block.height + MARGIN
    image.paste(legend, (2 * MARGIN + width, MARGIN))
    return image


def tiles_bits(panel: Panel) -> int:
    """Return n when a panel is cut into 2**n square tiles."""
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
    order = hilbert.grid(tiles_bits(panel))
    side = hilbert.grid(panel.frame.cell_bits).shape[0] // order.shape[0] * scale(panel)
    found = [(0, 0, 0)] * order.size
    for (row, column), number in np.ndenumerate(order):
        found[number] = (column * (side + GAP), CAPTION + row * (side + GAP + CAPTION), side)
    return found


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
    # The direction of the curve inside a tile depends on the tile's place, so the whole panel is
    # drawn and then cut.
    raster = cells[hilbert.grid(panel.frame.cell_bits)]
    order = hilbert.grid(bits)
    step = side // scale(panel)
    tally = panel.tally(bits)
    for (row, column), number in np.ndenumerate(order):
        left, top, _ = places[number]
        part = raster[row * step : (row + 1) * step, column * step : (column + 1) * step]
        image.paste(_enlarged(part, scale(panel)), (left, top))
        text = panel.frame.part(int(number), bits)
        draw.text((left, top - CAPTION + 2), text, font=_font(12), fill=TEXT)
        share = _share_used(tally[number])
        room = side - draw.textlength(text, font=_font(12)) - 8
        if draw.textlength(share, font=_font(12)) <= room:
            draw.text(
                (left + side, top - CAPTION + 2), share, font=_font(12), fill=DIM, anchor="ra"
            )
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


def percent(part: int, whole: int) -> str:
    """Return a share as text. Only nothing is "0 %", and only everything is "100 %"."""
    if not part or not whole:
        return "0 %"
    if part == whole:
        return "100 %"
    share = 100 * part / whole
    if share < 0.1:
        return "< 0.1 %"
    return f"{min(share, 99.9):.1f} %"


def number_text(number: int) -> str:
    """Return a count as text, exact below 10**11."""
    return f"{number:,}" if number < 10**11 else f"{number:.2e}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _legend(picture: Picture, layer: Layer | None) -> Image.Image:
    """Return the image of the legend: network, subnets, time, and what the colours mean."""
    image = Image.new("RGB", (LEGEND, 720), GROUND)
    draw = ImageDraw.Draw(image)
    top = 0
    draw.text((0, top), _fitting(draw, picture.network, 26), font=_font(26), fill=TEXT)
    top += 38
    for text in dict.fromkeys(panel.frame.subnet for panel in picture.panels):
        draw.text((0, top), _fitting(draw, text, 15), font=_font(15), fill=DIM)
        top += 21
    moment = datetime.fromtimestamp(picture.moment_ns // 10**9, UTC)
    draw.text((0, top), f"{moment:%Y-%m-%d %H:%M:%S} UTC", font=_font(15), fill=DIM)
    top += 38
    top = _states(draw, picture, top, layer)
    if layer is not None:
        top = _layer_key(draw, image, layer, top + 12)
    top += 12
    for text in _remarks(picture, layer):
        draw.text((0, top), text, font=_font(13), fill=DIM)
        top += 19
    return image.crop((0, 0, LEGEND, min(top + 12, image.height)))


def _states(draw: ImageDraw.ImageDraw, picture: Picture, top: int, layer: Layer | None) -> int:
    """Draw the states and the counts of each range set; return the y coordinate below them."""
    fullest = sorted(picture.sets, key=lambda one: -(one.used_percent or 0))[:LEGEND_SETS]
    for one in picture.sets:
        if one not in fullest:
            continue
        if len(picture.sets) > 1:
            draw.text((0, top), _fitting(draw, one.ranges_text, 15), font=_font(15), fill=DIM)
            top += 23
        numbers = [(code, one.counts[STATES[code]]) for code in range(RESERVED + 1)]
        numbers.append((EXCLUDED, one.excluded))
        numbers.append((ELSEWHERE, one.elsewhere))
        for code, count in numbers:
            if code <= EXCLUDED or count:
                share = percent(count, one.counts["size"]) if code <= RESERVED else ""
                _state(draw, top, code, number_text(count), share, layer)
                top += 25
    if len(picture.sets) > len(fullest):
        more = f"and {len(picture.sets) - len(fullest)} more range sets"
        draw.text((0, top), more, font=_font(15), fill=DIM)
        top += 25
    outside = sum(int(panel.tally(0)[0][OUTSIDE]) for panel in picture.panels)
    if outside:
        _state(draw, top, OUTSIDE, number_text(outside), "", layer)
        top += 25
    return top


def _state(
    draw: ImageDraw.ImageDraw, top: int, code: int, count: str, share: str, layer: Layer | None
) -> None:
    """Draw a line of the legend: the colour of a state, its name, its addresses, their share."""
    if layer is None or code not in (ASSIGNED, COOLING):  # drawn in the layer's colours
        _swatch(draw, top, BY_STATE[code])
    draw.text((26, top), STATES[code], font=_font(15), fill=TEXT)
    draw.text((200, top), count, font=_font(15), fill=TEXT, anchor="ra")
    draw.text((LEGEND - 20, top), share, font=_font(15), fill=DIM, anchor="ra")


def _swatch(draw: ImageDraw.ImageDraw, top: int, colour: Colour) -> None:
    draw.rectangle((0, top + 1, 15, top + 16), fill=colour, outline=DIM)


def _layer_key(draw: ImageDraw.ImageDraw, image: Image.Image, layer: Layer, top: int) -> int:
    """Draw the colours of a layer; return the y coordinate below them."""
    if layer.kind == AGE:
        draw.text((0, top), "assigned, coloured by age", font=_font(15), fill=TEXT)
        top += 28
        ages = np.geomspace(AGE_FROM_S, AGE_TO_S, LEGEND - 40).astype(np.int64)
        bar = np.repeat(of_age(ages)[np.newaxis], 14, axis=0)
        image.paste(Image.fromarray(bar), (0, top))
        for seconds, text in _MARKS:
            along = np.log(seconds / AGE_FROM_S) / np.log(AGE_TO_S / AGE_FROM_S)
            at = round(along * (LEGEND - 40))
            anchor = "la" if at == 0 else "ra" if at == LEGEND - 40 else "ma"
            draw.text((at, top + 18), text, font=_font(12), fill=DIM, anchor=anchor)
        return top + 42
    what = "block" if layer.kind == BLOCK else "namespace"
    draw.text((0, top), f"assigned, coloured by {what}", font=_font(15), fill=TEXT)
    top += 28
    ranked = sorted(zip(layer.sizes, layer.labels, strict=True), key=lambda one: (-one[0], one[1]))
    for count, label in ranked[:LEGEND_LABELS]:
        _swatch(draw, top, of_label(label))
        draw.text((26, top), _fitting(draw, label, 15, 170), font=_font(15), fill=TEXT)
        draw.text((LEGEND - 20, top), f"{count:,}", font=_font(15), fill=DIM, anchor="ra")
        top += 23
    if len(ranked) > LEGEND_LABELS:
        rest = ranked[LEGEND_LABELS:]
        text = f"and {len(rest)} more"
        draw.text((26, top), text, font=_font(15), fill=DIM)
        count = sum(size for size, _ in rest)
        draw.text((LEGEND - 20, top), f"{count:,}", font=_font(15), fill=DIM, anchor="ra")
        top += 23
    return top


def _fitting(draw: ImageDraw.ImageDraw, text: str, size: int, width: int = LEGEND) -> str:
    """Return a text, cut and with an ellipsis if it is wider than ``width``."""
    if draw.textlength(text, font=_font(size)) <= width:
        return text
    while text and draw.textlength(text + "…", font=_font(size)) > width:
        text = text[:-1]
    return text + "…"


def _remarks(picture: Picture, layer: Layer | None) -> list[str]:
    remarks = []
    if layer is not None and picture.stats["cooling"]:
        remarks.append("cooling: in the same colours, darker")
    shifts = {panel.frame.shift for panel in picture.panels}
    if shifts == {0}:
        remarks.append("one cell is one address")
    elif len(shifts) == 1:
        remarks += [f"one cell is {1 << max(shifts):,} addresses:", "the darker, the fewer in use"]
    else:
        remarks += ["cells of several addresses:", "the darker, the fewer in use"]
    remarks.append("in the order of a Hilbert curve")
    if any(panel.frame.cidr != panel.frame.subnet for panel in picture.panels):
        remarks.append("of a large subnet: the parts in use")
    if picture.left_out:
        remarks.append(f"{picture.left_out} more parts are in use and not shown")
    if any(int(panel.tally(0)[0][OUTSIDE]) for panel in picture.panels):
        remarks.append("outside: in no subnet of this network")
    return remarks
