"""Draw the rooms of the package on their floors: floors.svg, from the real import graph.

    python docs/pictures/floors.py          # from the top of the source tree

The floors are the lines of the table in ``tests/import_graph.py``, the lowest one at the bottom. An
arrow means "imports"; one that follows from others (a imports c, because a imports b and b imports
c) is left out. Arrows to the same room that pass a floor share their way through it.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "pictures" / "floors.svg"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests import import_graph  # noqa: E402

WIDTH = 760  # pixels: what a page of the site shows
NAME_PX, TEXT_PX = 7.3, 5.5  # the width of a letter of a room's name, and of its modules
LINE, PADDING, GUTTER, MARGIN, APART = 12, 7, 46, 36, 44
STYLE = (
    "text{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:9px;fill:#445}"
    ".n{font-size:12px;font-weight:bold;fill:#123}.f{fill:#eef2f6}.r{fill:#fff;stroke:#5a7184}"
    "path{fill:none;stroke:#5a7184;stroke-width:1.1}.a{marker-end:url(#h)}"
    "#h path{fill:#5a7184;stroke:none}"
)


Stop = tuple[int, str]  # floor and room; on a floor between, the room that the arrow goes to


class Box(NamedTuple):
    """Where a room is drawn, or (with no width) where arrows to it pass a floor."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...] = ()

    @property
    def middle(self) -> float:
        """The middle of the box from left to right."""
        return self.x + self.width / 2


def arrows() -> set[tuple[str, str]]:
    """Return the imports between rooms, as (importer, imported), that follow from no others."""
    order = {place: at for at, place in enumerate(import_graph.places())}
    below: dict[str, set[str]] = {place: set() for place in order}
    for module, others in import_graph.graph().items():
        room = import_graph.place_of(module)
        for other in others:
            if order[found := import_graph.place_of(other)] < order[room]:
                below[room].add(found)
    reach: dict[str, set[str]] = {}
    for room in order:  # lowest first: what a room reaches is known before it is asked for
        reach[room] = below[room].union(*(reach[other] for other in below[room]))
    return {
        (room, other)
        for room, others in below.items()
        for other in others
        if not any(other in reach[via] for via in others)
    }


def contents(room: str) -> list[str]:
    """Return the names of the modules in a room, without the package's own."""
    found = [name for name in import_graph.modules() if import_graph.place_of(name) == room]
    return [name.removeprefix(f"{room}.") for name in found if name != room]


def texts(floor: list[str]) -> list[tuple[str, ...]]:
    """Return the lines of each room of a floor: its name, and its modules in the width it has."""
    modules = [" ".join(contents(room)) for room in floor]
    names = [room.replace("__init__", "fastipam") for room in floor]
    least = [width_of((name, *text.split())) for name, text in zip(names, modules, strict=True)]
    spare = WIDTH - sum(least) - len(floor) * APART
    total = sum(map(len, modules)) or 1
    found = []
    for name, text, narrow in zip(names, modules, least, strict=True):
        width = min(narrow + spare * len(text) / total, WIDTH / 2) - 2 * PADDING
        lines = textwrap.wrap(text, int(width / TEXT_PX), break_on_hyphens=False)
        found.append((name, *lines))
    return found


def width_of(lines: tuple[str, ...]) -> float:
    """Return the width of a room with these lines."""
    wide = [len(lines[0]) * NAME_PX, *(len(line) * TEXT_PX for line in lines[1:])]
    return max(wide) + 2 * PADDING


def place_rooms(floors: list[list[str]]) -> dict[Stop, Box]:
    """Return the box of every room; those of a floor share its width evenly."""
    found: dict[Stop, Box] = {}
    y = MARGIN
    for number in reversed(range(len(floors))):
        every = texts(floors[number])
        widths = list(map(width_of, every))
        height = max(map(len, every)) * LINE + 2 * PADDING
        gap = (WIDTH - sum(widths)) / (len(widths) + 1)
        x = gap
        for room, lines, width in zip(floors[number], every, widths, strict=True):
            found[number, room] = Box(x, y, width, height, lines)
            x += width + gap
        y += height + GUTTER
    return found


def place_lanes(floors: list[list[str]], boxes: dict[Stop, Box]) -> list[tuple[Stop, Stop]]:
    """Add the boxes where arrows pass a floor; return each piece of an arrow, floor to floor."""
    at = {room: number for number, floor in enumerate(floors) for room in floor}
    found = arrows()
    pieces = set()
    for target in sorted({target for _, target in found}, key=lambda room: (at[room], room)):
        above = sorted(source for source, imported in found if imported == target)
        here = boxes[at[target], target]
        wanted = sum(boxes[at[source], source].middle for source in above) / len(above)
        x = min(max(wanted, here.x), here.x + here.width)
        for number in range(at[target] + 1, max(at[source] for source in above)):
            floor = [box for (other, _), box in boxes.items() if other == number]
            free = [
                x
                for x in range(14, WIDTH - 13)
                if all(x < box.x - 7 or x > box.x + box.width + 7 for box in floor)
            ]
            x = min(free or [x], key=lambda one: abs(one - x))  # without room: over a room
            boxes[number, target] = Box(x, floor[0].y, 0, floor[0].height)
        for source in above:
            stops = [(number, target) for number in range(at[source] - 1, at[target], -1)]
            stops = [(at[source], source), *stops, (at[target], target)]
            pieces.update(pairwise(stops))
    return sorted(pieces)


def port(boxes: dict[Stop, Box], pieces: list[tuple[Stop, Stop]], at: int, end: int) -> float:
    """Return where piece ``at`` leaves (``end`` 0) or reaches (1) its box, left to right."""
    stop = pieces[at][end]
    here = boxes[stop]
    beside = sorted(
        (boxes[piece[1 - end]].middle, number)
        for number, piece in enumerate(pieces)
        if piece[end] == stop
    )
    place = [number for _, number in beside].index(at)
    return here.x + here.width * (place + 1) / (len(beside) + 1)


def draw() -> str:
    """Return the picture as SVG."""
    floors = [line.split() for line in import_graph.FLOORS.strip().splitlines()]
    boxes = place_rooms(floors)
    pieces = place_lanes(floors, boxes)
    height = max(box.y + box.height for box in boxes.values()) + MARGIN / 2
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}"><title>The rooms of fastipam</title>'
        f'<style>{STYLE}</style><defs><marker id="h" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
    ]
    for number, floor in enumerate(floors):
        box = boxes[number, floor[0]]
        out.append(
            f'<rect class="f" x="6" y="{box.y - 6:.0f}" width="{WIDTH - 12}" '
            f'height="{box.height + 12:.0f}" rx="6"/>'
        )
    for box in boxes.values():
        if not box.lines:
            out.append(f'<path d="M{box.x:.0f} {box.y:.0f}v{box.height:.0f}"/>')
            continue
        out.append(
            f'<rect class="r" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" '
            f'height="{box.height:.0f}" rx="4"/>'
        )
        for row, text in enumerate(box.lines):
            name = "" if row else ' class="n"'
            y = box.y + PADDING + LINE * row + 9
            out.append(f'<text{name} x="{box.x + PADDING:.0f}" y="{y:.0f}">{text}</text>')
    for at, (source, target) in enumerate(pieces):
        x, to_x = port(boxes, pieces, at, 0), port(boxes, pieces, at, 1)
        to_y = boxes[target].y
        if source[0] == target[0]:  # on the same floor the arrow goes over the rooms between
            y, bend, to_bend = to_y, to_y - 24, to_y - 24
        else:
            y = boxes[source].y + boxes[source].height
            bend = to_bend = (y + to_y) / 2
        head = ' class="a"' if boxes[target].lines else ""
        out.append(
            f'<path{head} d="M{x:.0f} {y:.0f}C{x:.0f} {bend:.0f} {to_x:.0f} {to_bend:.0f} '
            f'{to_x:.0f} {to_y:.0f}"/>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    PICTURE.write_text(draw())
