"""The agent's page in a real browser."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import fastipam
from fastipam.addressing.addresses import format_ip, parse_ip
from fastipam.picture import hilbert
from fastipam.picture.cells import ASSIGNED, COOLING, EXCLUDED, FREE, RESERVED
from fastipam.picture.colours import BY_STATE, BY_STATE_LIGHT

if TYPE_CHECKING:
    from fastipam.picture.colours import Colour

    from .chromium import Browser
    from .conftest import Serve

FASTIPAM = Path(sys.executable).with_name("fastipam")
CODES = {"FREE": FREE, "ASSIGNED": ASSIGNED, "COOLING": COOLING, "RESERVED": RESERVED}
READY = "shown.drawn && panel().image && shown.status"


def _listed(data_dir: Path, network: str) -> list[dict[str, str]]:
    """What ``fastipam list --all --json`` prints."""
    command = [
        str(FASTIPAM), "list", "--all", "--json", "--network", network, "--data-dir", str(data_dir)
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=True, timeout=600)
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return rows


def _expected(
    rows: list[dict[str, str]], first: int, bits: int, by_state: dict[int, Colour]
) -> np.ndarray:
    """The picture, made of the list alone: what the list has not is never assigned."""
    cells = np.full(1 << bits, EXCLUDED)
    for row in rows:
        cells[parse_ip(row["address"])[1] - first] = CODES[row["status"]]
    colours = np.array([by_state[code] for code in range(6)], dtype=np.uint8)
    expected: np.ndarray = colours[cells[hilbert.grid(bits)]]
    return expected


def _shown(browser: Browser, width: int, height: int) -> np.ndarray:
    """The pixels of the picture on the screen, at one pixel an address."""
    if browser.run("document.querySelector('#grid').checked"):
        browser.click("#grid")
    browser.click("#one")
    x, y = browser.run("[view.x, view.y]")
    assert browser.run("view.scale") == 1
    with Image.open(io.BytesIO(browser.screenshot(selector="#map"))) as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels[y : y + height, x : x + width]


def test_pixel_by_pixel(serve: Serve, browser: Browser, filled: Path) -> None:
    """A screenshot of the picture agrees with `list --all --json`, pixel by pixel.

    And again after changes, on the light page. The curve, the states and the colours come from
    JavaScript on the one side, from Python and the command line on the other.
    """
    served = serve()
    browser.resize(1700, 1500)
    browser.prefer("dark")
    browser.open(served.url)
    browser.until_js(READY)
    first, bits = browser.run("[shown.drawn.panels[0].first, shown.drawn.panels[0].bits]")
    side = 1 << bits // 2
    expected = _expected(_listed(filled, "podnet"), int(first), bits, BY_STATE)
    assert len(np.unique(expected.reshape(-1, 3), axis=0)) == 5
    shown = _shown(browser, side, side)
    assert (shown == expected).all()

    with fastipam.open(filled) as ipam:
        net = ipam.network("podnet")
        before = net.stats()
        with ipam.transaction() as txn:
            inside = txn.network("podnet")
            for number in range(500):
                inside.allocate(f"new{number}")
            inside.unreserve("10.32.30.0/25")
        assert net.stats() != before
    change = browser.run("shown.drawn.change")
    browser.until_js(f"shown.drawn.change > {change}")
    browser.prefer("light")
    expected = _expected(_listed(filled, "podnet"), int(first), bits, BY_STATE_LIGHT)
    again = _shown(browser, side, side)
    assert (again == expected).all()
    assert (again != shown).any()
    assert browser.complaints() == []


def test_nothing_happens(serve: Serve, browser: Browser) -> None:
    """While the store does not change no picture is fetched, and answers have no body."""
    browser.open(serve().url)
    browser.until_js(READY)
    browser.until_js("document.querySelector('#chart polygon')")
    browser.events.clear()
    browser.run("(async () => { for (let i = 0; i < 5; i++) await look(); })()")
    asked = {url.partition("?")[0].rpartition("/")[2] for url in browser.requests()}
    assert asked <= {"status", "series"}
    host = browser.run("location.origin")
    assert all(url.startswith(host) for url in browser.requests())


def test_tooltip(serve: Serve, browser: Browser) -> None:
    """Under the pointer: the address, its state, its pod and age; a name is text, not HTML."""
    browser.open(serve().url)
    browser.until_js(READY)
    with_lease = browser.run(
        "(() => { const p = shown.drawn.panels[0];"
        "const c = p.cells.findIndex((byte, at) => (byte & 7) === 1 && at > 40);"
        "const at = curveOf(p).order.indexOf(c), w = curveOf(p).width;"
        "return [c, at % w, Math.floor(at / w)]; })()"
    )
    cell, column, row = with_lease
    box = browser.run(
        "(() => { const b = document.querySelector('#map').getBoundingClientRect();"
        "return [b.x, b.y, b.width / canvas.width]; })()"
    )
    x, y, scale = browser.run("[view.x, view.y, view.scale]")
    browser.mouse(
        "mouseMoved",
        box[0] + (x + (column + 0.5) * scale) * box[2],
        box[1] + (y + (row + 0.5) * scale) * box[2],
    )
    browser.until_js("document.querySelector('#tip').innerText.includes('ago')")
    text = browser.run("document.querySelector('#tip').innerText")
    assert f"10.32.0.{cell}" in text or f"10.32.{cell >> 8}.{cell & 255}" in text
    assert "assigned" in text
    assert "web/<b>web-" in text
    assert browser.run("document.querySelectorAll('#tip b').length") == 1  # the title
    assert browser.complaints() == []


def test_fingers(serve: Serve, browser: Browser) -> None:
    """A tap asks for the address below it, two fingers zoom; a fitted picture scrolls by."""
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=390,
        height=844,
        deviceScaleFactor=2,
        mobile=True,
    )
    browser.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    browser.open(serve().url)
    browser.until_js(READY)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    touch = "getComputedStyle(canvas).touchAction"
    assert browser.run(touch) == "pan-y"
    left, top, width, height = browser.run(
        "(() => { const b = canvas.getBoundingClientRect();"
        "return [b.x, b.y, b.width, b.height]; })()"
    )
    x, y = left + width / 2, top + height / 2

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": one, "y": other, "id": at} for at, (one, other) in enumerate(places)]
        browser.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    fingers("touchStart", (x, y))
    fingers("touchEnd")
    browser.until_js("!document.querySelector('#tip').hidden")
    assert browser.run("document.querySelector('#tip b').innerText").startswith("10.")
    box = browser.run(
        "(() => { const t = document.querySelector('#tip').getBoundingClientRect();"
        "return [t.left, t.right]; })()"
    )
    assert left <= box[0] <= box[1] <= left + width

    browser.click("#in")
    assert browser.run(touch) == "none"
    before = browser.run("view.scale")
    fingers("touchStart", (x - 20, y), (x + 20, y))
    fingers("touchMove", (x - 60, y), (x + 60, y))
    fingers("touchEnd")
    assert 2.5 < browser.run("view.scale") / before < 3.5
    browser.click("#fit")
    assert browser.run(touch) == "pan-y"
    assert browser.complaints() == []


def test_light_and_dark(serve: Serve, browser: Browser) -> None:
    """The page follows the reader's wish; texts can be read in both (WCAG's 4.5 : 1)."""
    browser.open(serve().url)
    browser.until_js(READY)

    def brightness(text: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", text)[:3]]
        linear = [
            one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    grounds = []
    for scheme in ("dark", "light"):
        browser.prefer(scheme)
        ground = brightness(browser.run("getComputedStyle(document.body).backgroundColor"))
        grounds.append(ground)
        for selector in (
            "h1",
            "h2",
            "#networks td",
            "#facts dt",
            "#tabs button[aria-selected=true]",
        ):
            text = brightness(
                browser.run(f"getComputedStyle(document.querySelector('{selector}')).color")
            )
            assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) > 4.5, (scheme, selector)
    assert grounds[0] < 0.1
    assert grounds[1] > 0.8


def test_zoom_and_pan(serve: Serve, browser: Browser) -> None:
    """Wheel, buttons, keys and dragging; what is under the pointer stays there while it zooms."""
    browser.open(serve().url)
    browser.until_js(READY)
    browser.click("#fit")
    fitted = browser.run("view.scale")
    left, top = browser.run(
        "(() => { const b = canvas.getBoundingClientRect(); return [b.x, b.y]; })()"
    )
    under = "[(300 - view.x) / view.scale, (200 - view.y) / view.scale].map(Math.floor)"
    before = browser.run(under)
    for _ in range(6):
        browser.mouse("mouseWheel", left + 300, top + 200, deltaX=0, deltaY=-120)
    assert browser.run("view.scale") > 2 * fitted
    after = browser.run(under)
    assert all(abs(one - other) <= 1 for one, other in zip(before, after, strict=True))
    x, y = browser.run("[view.x, view.y]")
    browser.mouse("mousePressed", left + 300, top + 200, button="left", clickCount=1)
    browser.mouse("mouseMoved", left + 340, top + 180, button="left")
    browser.mouse("mouseReleased", left + 340, top + 180, button="left", clickCount=1)
    assert browser.run("[view.x, view.y]") == [x + 40, y - 20]
    browser.key("0")
    assert browser.run("view.scale") == fitted
    browser.key("1")
    assert browser.run("view.scale") == 1
    browser.key("+")
    assert browser.run("view.scale") == 2
    for _ in range(40):
        browser.click("#in")
    assert browser.run("view.scale") == 64
    for _ in range(60):
        browser.click("#out")
    assert 0 < browser.run("view.scale") < 1
    assert browser.complaints() == []


def test_other_networks(serve: Serve, browser: Browser) -> None:
    """Each network has a tab, each subnet of it can be chosen; of an IPv6 /64 the part in use."""
    browser.open(serve().url)
    browser.until_js(READY)
    names = browser.run("[...document.querySelectorAll('#tabs button')].map(b => b.textContent)")
    assert names == ["both", "podnet"]
    browser.click("#tabs button")
    browser.until_js("shown.drawn && shown.drawn.network === 'both' && shown.drawn.panels[0].image")
    browser.until_js("document.querySelector('#chart').ariaLabel.includes('now 20 of 253')")
    # The table that came with the page has the events of both networks.
    browser.until_js("!document.querySelector('#events').textContent.includes('10.32.')")
    assert "10.99.0." in browser.run("document.querySelector('#events').textContent")
    panels = browser.run("[...document.querySelector('#panel').options].map(o => o.value)")
    assert panels == ["10.99.0.0/24", "2001:db8::/116"]
    browser.run(
        "(() => { const s = document.querySelector('#panel'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert browser.run("panel().cells.filter(byte => (byte & 7) === 1).length") == 20
    assert browser.run("addressOf(shown.drawn.panels[1], 17)") == "2001:db8::11"
    browser.until_js("document.querySelector('#counts').innerText.includes('20')")
    assert browser.complaints() == []


def test_a_full_ipv4_set(serve: Serve, browser: Browser, filled: Path) -> None:
    """The page shows the fullest range set of a network first, and any other when it is chosen."""
    with fastipam.open(filled) as ipam:
        net = ipam.network("dual", ["fd00:32::/64", "10.98.0.0/29"])
        net.allocate_many([(f"d{number}", "eth0") for number in range(5)])
    browser.open(serve().url)
    browser.until_js(READY)
    names = browser.run("[...document.querySelectorAll('#tabs button')].map(b => b.textContent)")
    assert names == ["both", "dual full", "podnet"]
    browser.click("#tabs button:nth-child(2)")
    facts = "document.querySelector('#facts').innerText"
    browser.until_js(f"{facts}.replace(/\\s+/g, ' ').includes('Full in full')")
    sets = browser.run("[...document.querySelector('#set').options].map(o => o.text)")
    assert sets == ["fd00:32::/64", "10.98.0.0/29"]
    assert browser.run("document.querySelector('#set').value") == "1"
    counts = "document.querySelector('#counts').innerText.replace(/\\s+/g, ' ')"
    assert "assigned 5 100 %" in browser.run(counts)
    assert "never assigned 3" in browser.run(counts)
    rows = browser.run("[...document.querySelectorAll('#networks tbody tr')].map(r => r.innerText)")
    (row,) = (row for row in rows if "10.98.0.0/29" in row)
    assert row.split("\t")[7:9] == ["100 %", "full"]
    browser.run(
        "(() => { const s = document.querySelector('#set'); s.selectedIndex = 0;"
        "s.dispatchEvent(new Event('change')); })()"
    )
    browser.until_js(f"{facts}.includes('not expected')")
    assert "assigned 5 < 0.1 %" in browser.run(counts)
    browser.until_js("document.querySelector('#chart').textContent.length > 0")
    assert browser.complaints() == []


def test_tabs_follow_the_networks(serve: Serve, browser: Browser) -> None:
    """A tab keeps the focus while the networks stay; it is of another network when they do not."""
    browser.open(serve().url)
    browser.until_js(READY)
    focus = "document.querySelector('#tabs button').focus()"
    tabs = "[...document.querySelectorAll('#tabs button')].map(tab => tab.textContent)"
    focused = "document.activeElement.textContent"
    assert browser.run(f"{focus}; showStatus(pick); {focused}") == "both"
    rename = "shown.status.networks[0].network = 'another'"
    assert browser.run(f"{rename}; showStatus(pick); {tabs}") == ["another", "podnet"]
    assert browser.complaints() == []


def test_texts_of_addresses(serve: Serve, browser: Browser) -> None:
    """The page writes addresses as the rest of fastipam does (RFC 5952)."""
    browser.open(serve().url)
    browser.until_js("typeof groups === 'function'")
    texts = [
        "::", "::1", "1::", "2001:db8::1", "2001:db8:0:1:1:1:1:1", "1:0:0:2:0:0:0:3",
        "1:0:0:2:3:0:0:4", "fe80::abcd:0:1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ]  # fmt: skip
    for text in texts:
        shown = browser.run(f"groups({parse_ip(text)[1]}n)")
        assert parse_ip(shown) == parse_ip(text)
        assert shown == format_ip(6, parse_ip(text)[1])


def test_without_javascript(serve: Serve, browser: Browser) -> None:
    """With scripts switched off the numbers, events and refusals are there as tables."""
    served = serve()
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    browser.send("Page.navigate", url=served.url)
    frame = browser.send("Page.getFrameTree")["frameTree"]["frame"]["id"]

    def source() -> str:
        """The page as it came; nothing can have changed it. Empty: it is on its way."""
        with suppress(AssertionError):
            found = browser.send("Page.getResourceContent", frameId=frame, url=f"{served.url}/")
            return str(found["content"])
        return ""

    browser.until(lambda: "</footer>" in source(), "the page is there")
    html = source()
    assert ">podnet</td>" in html
    assert ">2,000</td>" in html
    assert ">released</td>" in html
    assert "&lt;b&gt;web-" in html
    assert "<b>web-" not in html
    assert "not expected" in html


def test_private(serve: Serve, browser: Browser) -> None:
    """With --http-private neither the page nor any answer has a name of a pod or container."""
    served = serve("--http-private")
    browser.open(served.url)
    browser.until_js(READY)
    browser.until_js("document.querySelector('#events tbody tr td:nth-child(4)')")
    base = "data_dir=' + encodeURIComponent(current().data_dir) + '&network=podnet"
    texts = [browser.run("document.documentElement.outerHTML")]
    texts += [
        browser.run(f"fetch('{path}').then(answer => answer.text())")
        for path in (
            "/",
            "/api/status",
            f"/api/events?{base}",
            f"/api/address?{base}&address=10.32.0.2",
            f"/api/address?{base}&address=10.32.30.5",
            f"/api/address?{base}&address=10.32.0.200",
            f"/api/series?{base}",
        )
    ]
    for text in texts:
        for name in ("web-", "db-0", "printers", "c0000", "c0001"):
            assert name not in text
    assert '"state"' in texts[-2]
    assert "names are withheld" in texts[0]


def test_an_agent_that_is_gone(serve: Serve, browser: Browser) -> None:
    """When the agent does not answer any more the page says that it is not up to date."""
    served = serve()
    browser.open(served.url)
    browser.until_js(READY)
    assert served.agent.terminate() == 0
    browser.run("look()")
    browser.until_js(
        "document.querySelector('#link').innerText.includes('the agent does not answer')"
    )
