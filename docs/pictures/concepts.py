"""Draw the three diagrams of concepts.md: life.svg, add.svg, cluster.svg.

    python docs/pictures/concepts.py        # from the top of the source tree

Boxes and arrows with coordinates of their own, on a light ground that is part of the picture: it
looks the same on a light and on a dark page.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
WIDTH = 760  # pixels: what a page of the site shows
INK, LINE, GROUND = "#1f2430", "#5b6472", "#f7f8fa"
# Fill of a box by its kind. The four states have the colours of the map.
FILL = {
    "plain": "#ffffff",
    "free": "#e4e9f0",
    "assigned": "#bfe3c8",
    "cooling": "#cfe0fb",
    "reserved": "#f3dcae",
    "program": "#e7defa",
    "store": "#fde3cf",
}


class Picture:
    """An SVG that grows: boxes, arrows, texts."""

    def __init__(self, height: int, title: str) -> None:
        self._height = height
        self._title = title
        self._parts: list[str] = []

    def box(self, at: tuple[int, int], size: tuple[int, int], kind: str, *lines: str) -> None:
        """A box with its first line in bold, in the middle."""
        (x, y), (width, height) = at, size
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{FILL[kind]}" '
            f'stroke="{LINE}"/>'
        )
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            weight = "600" if number == 0 else "400"
            self.text(x + width / 2, top + 18 * number, line, weight=weight)

    def text(
        self, x: float, y: float, line: str, *, weight: str = "400", anchor: str = "middle"
    ) -> None:
        """One line of text; y is its base line."""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{escape(line)}</text>"
        )

    def arrow(self, *points: tuple[int, int], dashed: bool = False, both: bool = False) -> None:
        """A line through the points with a head at its end."""
        way = "M" + " L".join(f"{x} {y}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        start = ' marker-start="url(#head)"' if both else ""
        self._parts.append(
            f'<path d="{way}" fill="none" stroke="{LINE}" stroke-width="1.6" '
            f'marker-end="url(#head)"{start}{dash}/>'
        )

    def svg(self) -> str:
        """The whole file."""
        head = (
            '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse">'
            f'<path d="M0 0 L10 5 L0 10 z" fill="{LINE}"/></marker>'
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" '
            f'width="{WIDTH}" height="{self._height}" role="img" font-size="14" fill="{INK}" '
            f'font-family="system-ui, -apple-system, Segoe UI, sans-serif">'
            f"<title>{escape(self._title)}</title><defs>{head}</defs>"
            f'<rect width="{WIDTH}" height="{self._height}" rx="10" fill="{GROUND}"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def life() -> str:
    """The states of an address, and what moves it from one to the next."""
    picture = Picture(340, "The life of an address: free, assigned, cooling, reserved")
    size = (150, 58)
    picture.box((40, 60), size, "free", "free", "nobody has it")
    picture.box((305, 60), size, "assigned", "assigned", "an owner has it")
    picture.box((570, 60), size, "cooling", "cooling", "released lately")
    picture.box((305, 230), size, "reserved", "reserved", "kept for somebody")
    picture.arrow((190, 80), (305, 80))
    picture.text(247, 70, "ADD")
    picture.arrow((455, 80), (570, 80))
    picture.text(512, 36, "DEL, GC, sweep,")
    picture.text(512, 54, "reboot, release")
    picture.arrow((645, 60), (645, 20), (115, 20), (115, 60))
    picture.text(250, 38, "the cool-down is over")
    picture.arrow((570, 106), (455, 106), dashed=True)
    picture.text(512, 128, "ADD, when none")
    picture.text(512, 146, "is free (“prefer”)")
    picture.arrow((350, 118), (350, 230))
    picture.text(340, 170, "DEL of a sticky pod", anchor="end")
    picture.arrow((410, 230), (410, 118))
    picture.text(420, 188, "ADD of the one it is kept for", anchor="start")
    picture.arrow((90, 118), (90, 250), (305, 250))
    picture.text(100, 242, "fastipam reserve", anchor="start")
    picture.arrow((305, 276), (60, 276), (60, 118))
    picture.text(70, 296, "unreserve, when nobody used it", anchor="start")
    picture.arrow((455, 260), (645, 260), (645, 118))
    picture.text(575, 282, "unreserve, or the time is over")
    picture.text(380, 324, "free + assigned + cooling + reserved = size, after every transaction")
    return picture.svg()


def add() -> str:
    """Draw the path of an ADD from the runtime to the disk and back."""
    picture = Picture(330, "Path of an ADD: runtime, main plugin, launcher, agent, store")
    picture.box((20, 30), (140, 62), "plain", "runtime", "containerd, CRI-O")
    picture.box((210, 30), (140, 62), "plain", "main plugin", "ptp, bridge, …")
    picture.box((400, 30), (150, 62), "program", "launcher", "a static executable")
    picture.box((600, 30), (140, 62), "program", "agent", "one for the node")
    picture.box((400, 150), (150, 62), "program", "entry point", "starts Python")
    picture.box((600, 150), (140, 62), "program", "ledger", "one transaction")
    picture.box((490, 254), (250, 52), "store", "store (LMDB)", "lease, owner, bitmap, event")
    picture.arrow((160, 50), (210, 50))
    picture.arrow((210, 72), (160, 72))
    picture.arrow((350, 50), (400, 50))
    picture.arrow((400, 72), (350, 72))
    picture.arrow((550, 50), (600, 50))
    picture.arrow((600, 72), (550, 72))
    picture.text(185, 22, "ADD")
    picture.text(375, 22, "ADD")
    picture.text(575, 22, "socket")
    picture.arrow((475, 92), (475, 150), dashed=True)
    picture.text(466, 126, "no agent answers", anchor="end")
    picture.arrow((550, 181), (600, 181), dashed=True)
    picture.arrow((670, 92), (670, 150))
    picture.text(660, 126, "a batch of requests", anchor="end")
    picture.arrow((670, 212), (670, 254), both=True)
    picture.text(660, 238, "commit, on disk", anchor="end")
    picture.text(20, 262, "The answer goes back the same way,", anchor="start")
    picture.text(20, 282, "after the commit is on disk.", anchor="start")
    picture.text(20, 302, "No request leaves the node.", anchor="start")
    return picture.svg()


def cluster() -> str:
    """A pool, its blocks, the nodes that own them, and the store that they share."""
    picture = Picture(400, "A cluster: a pool, its blocks, the nodes that own them")
    picture.text(
        20, 32, "pool 10.32.0.0/12, cut into blocks of 256 addresses", anchor="start", weight="600"
    )
    owners = ("assigned", "cooling", "assigned", "free", "cooling", "reserved", "free", "free")
    names = ("A", "B", "A", "", "B", "C", "", "")
    for number, (kind, name) in enumerate(zip(owners, names, strict=True)):
        lines = (f"10.32.{number}.0/24", f"node {name}" if name else "nobody")
        picture.box((20 + 91 * number, 46), (84, 50), kind)
        picture.text(62 + 91 * number, 68, lines[0].removeprefix("10.32.").join(("….", "")))
        picture.text(62 + 91 * number, 86, lines[1], weight="600" if name else "400")
    picture.box(
        (180, 134), (280, 58), "store", "Kubernetes API or etcd", "who owns which block; no pod"
    )
    picture.box((520, 134), (220, 58), "program", "controller", "accepts pools, reclaims blocks")
    picture.arrow((320, 134), (320, 96))
    picture.arrow((520, 163), (460, 163), both=True)
    for number, name in enumerate("ABC"):
        x = 20 + 250 * number
        picture.box((x, 262), (220, 92), "plain")
        picture.text(x + 110, 284, f"node {name}", weight="600")
        picture.box((x + 12, 296), (90, 46), "program", "agent")
        picture.box((x + 118, 296), (90, 46), "store", "store")
        picture.arrow((x + 102, 319), (x + 118, 319), both=True)
        picture.arrow((x + 110, 262), (300 + 20 * number, 192), both=True)
    picture.text(20, 212, "claim a block, give one", anchor="start")
    picture.text(20, 230, "back, hand one over", anchor="start")
    picture.text(380, 384, "An ADD asks its own node's store and nothing else.")
    return picture.svg()


PICTURES = {"life.svg": life, "add.svg": add, "cluster.svg": cluster}


def main() -> None:
    """Write the pictures."""
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw())


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
