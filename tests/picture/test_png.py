"""The image: a pixel an address, captions beside and never over them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from fastipam.addressing.sizes import grouped
from fastipam.picture import cells, hilbert, layers, legend, png
from fastipam.picture.colours import (
    BY_STATE,
    LABEL_COLOURS,
    OTHER_LABELS,
    of_labels,
    paint,
    palette,
)

if TYPE_CHECKING:
    from fastipam.ipam import Ipam
    from fastipam.picture.cells import Picture


def _picture(ipam: Ipam, name: str = "n") -> Picture:
    with ipam.store.read() as txn:
        picture = cells.read(txn, name)
    assert picture is not None
    return picture


def _fill(ipam: Ipam, ranges: str, count: int) -> Picture:
    net = ipam.network("n", ranges, cooldown_s=1000)
    owners = [(f"c{number}", "eth0") for number in range(count)]
    net.allocate_many(owners)
    for container, ifname in owners[::3]:
        net.release(container, ifname)
    return _picture(ipam)


def test_a_12_is_1024_pixels_wide(ipam: Ipam) -> None:
    """The bare picture of a /12 is 1024 x 1024; each pixel is one address, at its place."""
    picture = _fill(ipam, "10.32.0.0/12", 3000)
    (panel,) = picture.panels
    image = png.bare(panel, None, None)
    assert image.size == (1024, 1024)
    pixels = np.asarray(image)
    grid = hilbert.grid(20)
    for lease in list(ipam.network("n").leases())[::7]:
        row, column = np.argwhere(grid == lease.value - panel.frame.first)[0]
        assert tuple(pixels[row, column]) == BY_STATE[cells.ASSIGNED]
    counted = {
        state: int((pixels == np.array(colour)).all(axis=2).sum())
        for state, colour in BY_STATE.items()
    }
    assert [counted[state] for state in range(len(cells.STATES))] == panel.tally(0)[0].tolist()


@pytest.mark.parametrize("ranges", ["10.32.0.0/15", "10.32.0.0/16", "10.1.2.0/24", "10.1.2.0/25"])
def test_tiles(ipam: Ipam, ranges: str) -> None:
    """With captions and legend each address still has its pixels, all of its own colour."""
    (panel,) = (picture := _fill(ipam, ranges, 100)).panels
    image = np.asarray(png.render(picture, None))
    factor = png.scale(panel)
    bits = png.tiles_bits(panel)
    size = 1 << panel.frame.cell_bits - bits
    order = hilbert.grid(panel.frame.cell_bits - bits)
    places = png.tile_places(panel)
    assert sorted(places, key=lambda place: (place[1], place[0])) == places, "as one reads"
    for number, (left, top, side) in enumerate(places):
        begin_y, begin_x = png.MARGIN + top, png.MARGIN + left
        shown = image[begin_y : begin_y + side : factor, begin_x : begin_x + side : factor]
        inside = number * size + order
        assert (shown == palette()[panel.cells[inside]]).all()


@pytest.mark.parametrize("kind", [layers.OWNER, layers.AGE])
@pytest.mark.parametrize("ranges", ["10.1.2.0/28", "10.1.0.0/22", "2001:db8::/64"])
def test_every_kind_is_drawn(ipam: Ipam, ranges: str, kind: str) -> None:
    """Each way to colour gives a PNG with more colours than the background's."""
    net = ipam.network("n", ranges)
    for number in range(9):
        net.allocate(f"c{number}", pod=(f"a namespace with a rather long name {number}", "web"))
    with ipam.store.read() as txn:
        picture = cells.read(txn, "n")
        assert picture is not None
        layer = layers.read(txn, picture, kind)
    file = io.BytesIO()
    png.render(picture, layer).save(file, "PNG")
    with Image.open(file) as image:
        image.load()
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


def test_shares() -> None:
    """Something is never 0 %, and not quite all is never 100 %."""
    assert [legend.percent(part, 10**6) for part in (0, 1, 1000, 10**6 - 1, 10**6)] == [
        "0 %",
        "< 0.1 %",
        "0.1 %",
        "99.9 %",
        "100 %",
    ]
    assert grouped(1048576) == "1,048,576"
    assert grouped((1 << 64) - 2) == "~2^64"


def test_the_legend_counts_each_range_set(ipam: Ipam) -> None:
    """The legend has the counts of each range set; of many as many as the picture has room for."""
    ipam.network("n", ["10.1.0.0/29", "2001:db8::/64"]).allocate("a")
    ipam.network("many", [f"10.2.{number}.0/28" for number in range(9)]).allocate("a")
    heights = []
    for name in ("n", "many"):
        with ipam.store.read() as txn:
            picture = cells.read(txn, name)
        assert picture is not None
        heights.append([legend.draw(picture, None, room).height for room in (0, 1400, 2400)])
    assert heights[0][0] < heights[1][0]
    assert heights[1][0] < heights[1][1] <= 1400, "more sets are counted where there is room"
    assert heights[1][2] <= 2400


def test_cooling_is_darker(ipam: Ipam) -> None:
    """A layer draws what is cooling in the same colour, less bright: also the brightest."""
    net = ipam.network("n", "10.1.2.0/24", cooldown_s=1000)
    for number in range(2):
        net.allocate(f"c{number}", pod=("web", f"web-{number}"))
    net.release("c0")
    with ipam.store.read() as txn:
        picture = cells.read(txn, "n")
        assert picture is not None
        layer = layers.read(txn, picture, layers.OWNER)
    painted = paint(picture.panels[0], layer, layer.values[0])
    bright, dark = painted[3].astype(int), painted[2].astype(int)
    assert tuple(bright) in LABEL_COLOURS
    assert (dark == bright * 2 // 5).all()


_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# What an eye sees of linear red, green and blue: Machado, Oliveira and Fernandes, 2009.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def _nearest(colours: list[tuple[int, int, int]], sight: str) -> float:
    """Return the least distance of two colours in OKLab, where 1 is from black to white."""
    shares = np.array(colours) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ SIGHTS[sight].T, 0, 1)
    points = np.cbrt(seen @ _TO_LMS.T) @ _TO_OKLAB.T
    distances = np.linalg.norm(points[:, np.newaxis] - points, axis=2)
    return float(distances[~np.eye(len(points), dtype=bool)].min())


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_stay_apart(sight: str) -> None:
    """Any two colours of a picture can be told apart, with the three commonest sights."""
    assert _nearest(list(BY_STATE.values()), sight) > 0.1
    beside = [
        colour for code, colour in BY_STATE.items() if code not in (cells.ASSIGNED, cells.COOLING)
    ]
    assert _nearest([*LABEL_COLOURS, OTHER_LABELS, *beside], sight) > 0.07


def test_labels_have_colours_of_their_own() -> None:
    """The largest have; a name keeps its colour when others come, unless a larger one has it."""
    names = [f"team-{number}" for number in range(40)]
    sizes = list(range(100, 60, -1))
    found = of_labels(names, sizes)
    own = found[: len(LABEL_COLOURS)]
    assert sorted(own) == sorted(LABEL_COLOURS)
    assert set(found[len(own) :]) == {OTHER_LABELS}
    assert of_labels(names[:1], [1]) == found[:1]
    assert of_labels(list(reversed(names)), list(reversed(sizes))) == list(reversed(found))


def test_labels_are_in_natural_order() -> None:
    """The legend has the largest labels, node-2 before node-10, and counts the others."""
    names = [f"node-{number}" for number in (10, 2, 1, 30)]
    layer = layers.Layer(layers.OWNER, [], names, [5, 6, 7, 1])
    assert layers.ranked(layer, 3) == (
        [(2, "node-1", 7), (1, "node-2", 6), (0, "node-10", 5)],
        [1],
    )
    assert sorted(["a", "a1", "1a", "b-2-x", "b-12", "²"], key=layers.natural) == [
        "1a", "a", "a1", "b-2-x", "b-12", "²",
    ]  # fmt: skip
