"""The image: a pixel an address, captions beside and never over them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from fastipam.picture import cells, hilbert, layers, png
from fastipam.picture.colours import BY_STATE, palette

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
    grid = hilbert.grid(panel.frame.cell_bits)
    order = hilbert.grid(bits)
    step = grid.shape[0] // order.shape[0]
    for number, (left, top, side) in enumerate(png.tile_places(panel)):
        begin_y, begin_x = png.MARGIN + top, png.MARGIN + left
        shown = image[begin_y : begin_y + side : factor, begin_x : begin_x + side : factor]
        (row,), (column,) = np.nonzero(order == number)
        inside = grid[row * step : (row + 1) * step, column * step : (column + 1) * step]
        assert (inside >> (panel.frame.cell_bits - bits) == number).all()
        assert inside.size == size
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
    assert [png.percent(part, 10**6) for part in (0, 1, 1000, 10**6 - 1, 10**6)] == [
        "0 %",
        "< 0.1 %",
        "0.1 %",
        "99.9 %",
        "100 %",
    ]
    assert png.number_text(1048576) == "1,048,576"
    assert png.number_text(1 << 64) == "1.84e+19"


def test_the_legend_counts_each_range_set(ipam: Ipam) -> None:
    """The legend has the counts of each range set; many sets do not make it any longer."""
    ipam.network("n", ["10.1.0.0/29", "2001:db8::/64"]).allocate("a")
    ipam.network("many", [f"10.2.{number}.0/28" for number in range(9)]).allocate("a")
    heights = []
    for name in ("n", "many"):
        with ipam.store.read() as txn:
            picture = cells.read(txn, name)
        assert picture is not None
        heights.append(png._legend(picture, None).height)
    assert heights[0] < heights[1] <= 720
