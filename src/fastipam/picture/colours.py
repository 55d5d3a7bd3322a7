"""The colours of a picture. Colour-blind people can tell the states apart."""

from __future__ import annotations

import colorsys
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

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
from fastipam.picture.layers import AGE, NOTHING

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastipam.picture.cells import Panel
    from fastipam.picture.layers import Layer

    Bytes = npt.NDArray[np.uint8]
    Colour = tuple[int, int, int]

BY_STATE: dict[int, Colour] = {
    FREE: (36, 46, 60),
    ASSIGNED: (46, 184, 160),
    COOLING: (240, 160, 48),
    RESERVED: (196, 122, 232),
    EXCLUDED: (92, 102, 116),
    OUTSIDE: (14, 18, 25),
    ELSEWHERE: (52, 66, 116),
}
# A cell of several addresses has a mixture of the colours of FREE and of its state. The state's
# share is at least this, so that one used address among thousands is visible.
LEAST_SHARE = 0.25
# The colours of ages from 10 s to 30 d, logarithmic: from light yellow over red to dark violet.
AGE_FROM_S = 10
AGE_TO_S = 30 * 86400
_AGES: tuple[tuple[float, Colour], ...] = (
    (0.0, (252, 245, 170)),
    (0.25, (253, 190, 80)),
    (0.5, (232, 96, 76)),
    (0.75, (160, 44, 116)),
    (1.0, (76, 24, 110)),
)


def mixture(state: int, level: int) -> Colour:
    """Return the colour of a cell whose used addresses are mostly in ``state``."""
    if state in (FREE, EXCLUDED, OUTSIDE, ELSEWHERE) or level >= FULL_LEVEL:
        return BY_STATE[state]
    share = LEAST_SHARE + (1 - LEAST_SHARE) * level / FULL_LEVEL
    low, high = BY_STATE[FREE], BY_STATE[state]
    red, green, blue = (
        round(one + (two - one) * share) for one, two in zip(low, high, strict=True)
    )
    return red, green, blue


@cache
def palette() -> Bytes:
    """Return the colour of each possible byte of a cell: shape (256, 3)."""
    known = [mixture(min(byte & 7, len(STATES) - 1), byte >> LEVEL_SHIFT) for byte in range(256)]
    return np.array(known, dtype=np.uint8)


@cache
def of_label(label: str) -> Colour:
    """Return the colour of a name: always the same, and bright enough for the dark background."""
    digest = blake2b(label.encode("utf-8", "surrogateescape"), digest_size=4).digest()
    hue = int.from_bytes(digest[:2], "big") / 65536
    lightness = (0.48, 0.6, 0.72)[digest[2] % 3]
    saturation = (0.55, 0.8)[digest[3] & 1]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def of_age(seconds: npt.NDArray[np.int64]) -> Bytes:
    """Return the colours of these ages: shape (ages, 3)."""
    span = np.log(AGE_TO_S / AGE_FROM_S)
    where = np.clip(np.log(np.maximum(seconds, AGE_FROM_S) / AGE_FROM_S) / span, 0, 1)
    stops = [stop for stop, _ in _AGES]
    channels = [np.interp(where, stops, [colour[at] for _, colour in _AGES]) for at in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def paint(panel: Panel, layer: Layer | None, values: npt.NDArray[np.int64] | None) -> Bytes:
    """Return the colours of a panel's cells in address order: shape (cells, 3).

    A layer colours assigned and cooling addresses; cooling ones are darker.
    """
    painted: Bytes = np.take(palette(), panel.cells, axis=0)
    if layer is None or values is None:
        return painted
    known = values != NOTHING
    if layer.kind == AGE:
        painted[known] = of_age(values[known])
    elif layer.labels:
        table = np.array([of_label(label) for label in layer.labels], dtype=np.uint8)
        painted[known] = table[values[known]]
    cooling = known & (panel.states == COOLING)
    painted[cooling] = painted[cooling] * 2 // 5
    return painted
