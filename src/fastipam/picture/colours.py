"""The colours of a picture. Colour-blind people can tell the states apart."""

from __future__ import annotations

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
    from collections.abc import Mapping, Sequence

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
# The colours on the page in a light colour scheme; an image is always dark.
BY_STATE_LIGHT: dict[int, Colour] = {
    FREE: (226, 231, 238),
    ASSIGNED: (15, 133, 116),
    COOLING: (214, 124, 0),
    RESERVED: (160, 84, 200),
    EXCLUDED: (150, 160, 174),
    OUTSIDE: (255, 255, 255),
    ELSEWHERE: (176, 190, 232),
}
# A set found by a search. Any two of these colours, OTHER_LABELS and the colours of the states that
# a layer does not colour are far apart in OKLab, also for people with protanopia or deuteranopia.
LABEL_COLOURS: tuple[Colour, ...] = (
    (221, 255, 0),
    (153, 170, 51),
    (0, 238, 119),
    (51, 85, 238),
    (153, 34, 34),
    (119, 255, 255),
    (17, 136, 34),
    (153, 34, 170),
    (255, 238, 187),
    (238, 34, 17),
    (0, 153, 187),
    (255, 187, 0),
    (187, 119, 119),
    (255, 170, 255),
)
OTHER_LABELS: Colour = (176, 182, 190)
# The least share of the state's colour in a cell of several addresses, which is a mixture of that
# colour and of FREE's. So one used address among thousands is visible.
LEAST_SHARE = 0.25
# The colours of ages from 10 s to 30 d on a logarithmic scale: light yellow, red, dark violet.
AGE_FROM_S = 10
AGE_TO_S = 30 * 86400
_AGES: tuple[tuple[float, Colour], ...] = (
    (0.0, (252, 245, 170)),
    (0.25, (253, 190, 80)),
    (0.5, (232, 96, 76)),
    (0.75, (160, 44, 116)),
    (1.0, (76, 24, 110)),
)


def mixture(state: int, level: int, by_state: Mapping[int, Colour] = BY_STATE) -> Colour:
    """Return the colour of a cell whose used addresses are mostly in ``state``."""
    if state in (FREE, EXCLUDED, OUTSIDE, ELSEWHERE) or level >= FULL_LEVEL:
        return by_state[state]
    share = LEAST_SHARE + (1 - LEAST_SHARE) * level / FULL_LEVEL
    low, high = by_state[FREE], by_state[state]
    red, green, blue = (
        round(one + (two - one) * share) for one, two in zip(low, high, strict=True)
    )
    return red, green, blue


@cache
def palette(*, light: bool = False) -> Bytes:
    """Return the colour of each possible byte of a cell: shape (256, 3)."""
    by_state = BY_STATE_LIGHT if light else BY_STATE
    last = len(STATES) - 1
    known = [mixture(min(byte & 7, last), byte >> LEVEL_SHIFT, by_state) for byte in range(256)]
    return np.array(known, dtype=np.uint8)


def of_labels(labels: Sequence[str], sizes: Sequence[int]) -> list[Colour]:
    """Return the colour of each label. The labels with the most addresses get distinct colours.

    Such a label gets the colour that a hash of its name selects, or the next free one if a larger
    label has that colour. So a label has the same colour in nearly all pictures. All other labels
    get OTHER_LABELS.
    """
    found = [OTHER_LABELS] * len(labels)
    left = list(LABEL_COLOURS)
    by_size = sorted(range(len(labels)), key=lambda at: (-sizes[at], labels[at]))
    for at in by_size[: len(LABEL_COLOURS)]:
        digest = blake2b(labels[at].encode("utf-8", "surrogateescape"), digest_size=4).digest()
        wanted = int.from_bytes(digest, "big") % len(LABEL_COLOURS)
        probed = (LABEL_COLOURS[(wanted + step) % len(LABEL_COLOURS)] for step in range(len(found)))
        found[at] = next(colour for colour in probed if colour in left)
        left.remove(found[at])
    return found


def of_age(seconds: npt.NDArray[np.int64]) -> Bytes:
    """Return the colours of these ages: shape (ages, 3)."""
    span = np.log(AGE_TO_S / AGE_FROM_S)
    where = np.clip(np.log(np.maximum(seconds, AGE_FROM_S) / AGE_FROM_S) / span, 0, 1)
    stops = [stop for stop, _ in _AGES]
    channels = [np.interp(where, stops, [colour[at] for _, colour in _AGES]) for at in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def paint(panel: Panel, layer: Layer | None, values: npt.NDArray[np.int64] | None) -> Bytes:
    """Return the colours of a panel's cells in address order: shape (cells, 3).

    A layer colours assigned and cooling addresses; those that cool are darker.
    """
    painted: Bytes = np.take(palette(), panel.cells, axis=0)
    if layer is None or values is None:
        return painted
    known = values != NOTHING
    if layer.kind == AGE:
        painted[known] = of_age(values[known])
    elif layer.labels:
        table = np.array(of_labels(layer.labels, layer.sizes), dtype=np.uint8)
        painted[known] = table[values[known]]
    cooling = known & (panel.states == COOLING)
    painted[cooling] = painted[cooling].astype(np.uint16) * 2 // 5
    return painted
