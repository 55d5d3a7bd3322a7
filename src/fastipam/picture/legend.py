"""Draw the legend of an image: the network, the states with their counts, the colours.

The legend fills the height of the picture beside it. That room decides for how many range sets the
counts are drawn, and whether the curve is drawn. A legend that needs more room is higher.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastipam.addressing.sizes import grouped
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
from fastipam.picture.colours import (
    AGE_FROM_S,
    AGE_TO_S,
    BY_STATE,
    LABEL_COLOURS,
    OTHER_LABELS,
    of_age,
    of_labels,
)
from fastipam.picture.layers import AGE, BLOCK, ranked

if TYPE_CHECKING:
    from fastipam.picture.cells import Picture
    from fastipam.picture.colours import Colour
    from fastipam.picture.layers import Layer

WIDTH = 300
GROUND: Colour = (14, 18, 25)
TEXT: Colour = (226, 232, 240)
DIM: Colour = (138, 150, 168)
_LEAST_SETS = 3  # the counts of this many range sets, the fullest, are always drawn
_SET_HEIGHT = 173  # pixels for the counts of a range set: a heading and six states
_HIGHEST = 4000
_LINE = 23
_CURVE_SIDE = 176  # pixels: the side of the drawing of the curve, 8 x 8 cells
# The labels of the scale of ages.
_MARKS = ((10, "10 s"), (600, "10 min"), (6 * 3600, "6 h"), (3 * 86400, "3 d"), (AGE_TO_S, "30 d"))


def draw(picture: Picture, layer: Layer | None, height: int) -> Image.Image:
    """Return the image of the legend, for a picture of this height."""
    image = Image.new("RGB", (WIDTH, _HIGHEST), GROUND)
    canvas = ImageDraw.Draw(image)
    top = 0
    canvas.text((0, top), _fitting(canvas, picture.network, 26), font=font(26), fill=TEXT)
    top += 38
    for text in dict.fromkeys(panel.frame.subnet for panel in picture.panels):
        canvas.text((0, top), _fitting(canvas, text, 15), font=font(15), fill=DIM)
        top += 21
    moment = datetime.fromtimestamp(picture.moment_ns // 10**9, UTC)
    canvas.text((0, top), f"{moment:%Y-%m-%d %H:%M:%S} UTC", font=font(15), fill=DIM)
    top += 38
    room = height - top - _layer_height(layer)
    top = _states(canvas, picture, top, layer, max(_LEAST_SETS, room // _SET_HEIGHT))
    if layer is not None:
        top = _layer_key(canvas, image, layer, top + 12)
    top += 12
    for text in _remarks(picture, layer):
        canvas.text((0, top), text, font=font(13), fill=DIM)
        top += 19
    if height - top >= _CURVE_SIDE + 48:
        top = _curve(canvas, top + 24)
    return image.crop((0, 0, WIDTH, min(top + 12, image.height)))


def percent(part: int, whole: int) -> str:
    """Return a share as text. It is "0 %" only for nothing, and "100 %" only for everything."""
    if not part or not whole:
        return "0 %"
    if part == whole:
        return "100 %"
    share = 100 * part / whole
    if share < 0.1:
        return "< 0.1 %"
    return f"{min(share, 99.9):.1f} %"


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font in this size."""
    return ImageFont.load_default(size)


def _states(
    canvas: ImageDraw.ImageDraw, picture: Picture, top: int, layer: Layer | None, sets: int
) -> int:
    """Draw the states with the counts of the fullest range sets; return the y coordinate below."""
    fullest = sorted(picture.sets, key=lambda one: -(one.used_percent or 0))[:sets]
    for one in picture.sets:
        if one not in fullest:
            continue
        if len(picture.sets) > 1:
            canvas.text((0, top), _fitting(canvas, one.ranges_text, 15), font=font(15), fill=DIM)
            top += 23
        numbers = [(code, one.counts[STATES[code]]) for code in range(RESERVED + 1)]
        numbers.append((EXCLUDED, one.excluded))
        numbers.append((ELSEWHERE, one.elsewhere))
        for code, count in numbers:
            if code <= EXCLUDED or count:
                share = percent(count, one.counts["size"]) if code <= RESERVED else ""
                _state(canvas, top, code, grouped(count), share, layer)
                top += 25
    if len(picture.sets) > len(fullest):
        more = f"and {len(picture.sets) - len(fullest)} more range sets"
        canvas.text((0, top), more, font=font(15), fill=DIM)
        top += 25
    outside = sum(int(panel.tally(0)[0][OUTSIDE]) for panel in picture.panels)
    if outside:
        _state(canvas, top, OUTSIDE, grouped(outside), "", layer)
        top += 25
    return top


def _state(
    canvas: ImageDraw.ImageDraw, top: int, code: int, count: str, share: str, layer: Layer | None
) -> None:
    """Draw a line of the legend: a state's colour, name, number of addresses and share."""
    if layer is None or code not in (ASSIGNED, COOLING):  # otherwise in the layer's colours
        _swatch(canvas, top, BY_STATE[code])
    canvas.text((26, top), STATES[code], font=font(15), fill=TEXT)
    canvas.text((200, top), count, font=font(15), fill=TEXT, anchor="ra")
    canvas.text((WIDTH - 20, top), share, font=font(15), fill=DIM, anchor="ra")


def _swatch(canvas: ImageDraw.ImageDraw, top: int, colour: Colour) -> None:
    canvas.rectangle((0, top + 1, 15, top + 16), fill=colour, outline=DIM)


def _layer_key(canvas: ImageDraw.ImageDraw, image: Image.Image, layer: Layer, top: int) -> int:
    """Draw the colours of a layer; return the y coordinate below them."""
    if layer.kind == AGE:
        canvas.text((0, top), "assigned, coloured by age", font=font(15), fill=TEXT)
        top += 28
        ages = np.geomspace(AGE_FROM_S, AGE_TO_S, WIDTH - 40).astype(np.int64)
        bar = np.repeat(of_age(ages)[np.newaxis], 14, axis=0)
        image.paste(Image.fromarray(bar), (0, top))
        for seconds, text in _MARKS:
            along = np.log(seconds / AGE_FROM_S) / np.log(AGE_TO_S / AGE_FROM_S)
            at = round(along * (WIDTH - 40))
            anchor = "la" if at == 0 else "ra" if at == WIDTH - 40 else "ma"
            canvas.text((at, top + 18), text, font=font(12), fill=DIM, anchor=anchor)
        return top + 42
    what = "block" if layer.kind == BLOCK else "namespace"
    canvas.text((0, top), f"assigned, coloured by {what}", font=font(15), fill=TEXT)
    top += 28
    colours = of_labels(layer.labels, layer.sizes)
    shown, others = ranked(layer, len(LABEL_COLOURS))
    lines = [(colours[at], label, size) for at, label, size in shown]
    if others:
        lines.append((OTHER_LABELS, f"{len(others)} more", sum(others)))
    for colour, label, size in lines:
        _swatch(canvas, top, colour)
        canvas.text((26, top), _fitting(canvas, label, 15, 170), font=font(15), fill=TEXT)
        canvas.text((WIDTH - 20, top), f"{size:,}", font=font(15), fill=DIM, anchor="ra")
        top += _LINE
    return top


def _layer_height(layer: Layer | None) -> int:
    """Return the height in pixels of a layer's colours and the remarks below them."""
    lines = 0 if layer is None else 3 + min(len(layer.labels), len(LABEL_COLOURS) + 1)
    return _LINE * lines + 120


def _curve(canvas: ImageDraw.ImageDraw, top: int) -> int:
    """Draw the curve within a tile; return the y coordinate below it."""
    step = _CURVE_SIDE // 8
    order = hilbert.grid(6)
    points = [(0, 0)] * order.size
    for (row, column), number in np.ndenumerate(order):
        points[number] = (column * step + step // 2, top + row * step + step // 2)
    canvas.rectangle((0, top, _CURVE_SIDE, top + _CURVE_SIDE), outline=DIM)
    canvas.line(points, fill=DIM, width=2)
    for (x, y), colour in ((points[0], TEXT), (points[-1], DIM)):
        canvas.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
    left = _CURVE_SIDE + 12
    first, last = points[0][1], points[-1][1]
    canvas.text((left, first - 8), "first address", font=font(13), fill=DIM)
    canvas.text((left, last - 8), "last address", font=font(13), fill=DIM)
    return top + _CURVE_SIDE + 8


def _fitting(canvas: ImageDraw.ImageDraw, text: str, size: int, width: int = WIDTH) -> str:
    """Return a text, cut and ended by an ellipsis if it is wider than ``width``."""
    if canvas.textlength(text, font=font(size)) <= width:
        return text
    while text and canvas.textlength(text + "…", font=font(size)) > width:
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
    remarks.append("within a tile: a Hilbert curve")
    if any(panel.frame.cidr != panel.frame.subnet for panel in picture.panels):
        remarks.append("of a large subnet: the parts in use")
    if picture.left_out:
        remarks.append(f"{picture.left_out} more parts are in use and not shown")
    if any(int(panel.tally(0)[0][OUTSIDE]) for panel in picture.panels):
        remarks.append("outside: in no subnet of this network")
    return remarks
