"""What the page tells whoever watches a node: alarms, search, refusals, health; to all readers."""

from __future__ import annotations

import io
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import fastipam

from ..agent.processes import Client
from ..cni.plugin import environment
from ..e2e import tools

if TYPE_CHECKING:
    from .chromium import Browser
    from .conftest import Serve

READY = "shown.drawn && panel().image && shown.status"
WIDTHS = (400, 800, 1440)
# Shares of pixels on the light page that are nearly black: texts, and nothing else.
MOST_DARK = 0.06


def _axe() -> str:
    """Return the source of axe-core, of another version where FASTIPAM_AXE names its file."""
    named = os.environ.get("FASTIPAM_AXE")
    if named:
        return Path(named).read_text()
    found = find_spec("axe_core_python")
    if found is None or found.origin is None:
        tools.lacking("not installed: axe-core-python")
    return Path(found.origin).with_name("axe.min.js").read_text()


def violations(browser: Browser) -> list[object]:
    """What axe-core finds on the page that is open: rule, and the elements."""
    browser.run(f"{_axe()};0")
    found: list[object] = browser.run(
        "axe.run(document).then(found => found.violations.map("
        "one => [one.id, one.nodes.map(node => node.target.join(' '))]))"
    )
    return found


def _text(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({selector!r}).innerText")).strip()


@pytest.fixture
def crowded(filled: Path) -> Path:
    """A full network, and one that is nearly full, beside the others."""
    with fastipam.open(filled) as ipam:
        full = ipam.network("full", "10.98.0.0/28", cooldown_s=600)
        full.allocate_many([(f"f{number}", "eth0") for number in range(13)])
        low = ipam.network("nearly", ["10.97.0.0/28", "fd00:97::/64"], cooldown_s=600)
        low.allocate_many([(f"n{number}", "eth0") for number in range(12)])
    return filled


def test_alarm(serve: Serve, browser: Browser, crowded: Path) -> None:
    """Full is red and nearly full amber: banner, tab of the browser, network, row; and it ends."""
    browser.open(serve().url)
    browser.until_js(READY)
    told = "Full: full 10.98.0.0/28; nearly full: nearly 10.97.0.0/28"
    assert _text(browser, "#alarm") == told
    assert browser.run("document.title").startswith("FULL: full · fastipam on ")
    icon = "document.querySelector('link[rel=icon]').href"
    assert browser.run(icon).endswith("/page/icon-full.svg")
    assert browser.run(f"fetch({icon}).then(answer => answer.status)") == 200
    names = browser.run("[...document.querySelectorAll('#tabs button')].map(b => b.innerText)")
    assert names == ["both", "full full", "nearly nearly full", "podnet"]
    colours = browser.run(
        "['full', 'low'].map(kind => getComputedStyle("
        "document.querySelector(`#networks tr.${kind} td:nth-child(8)`)).color)"
    )
    words = [browser.run(f"getComputedStyle(document.body).getPropertyValue('{name}')")
             for name in ("--bad", "--warn")]  # fmt: skip
    made = [
        browser.run(f"(() => {{ const e = document.createElement('p'); e.style.color = '{one}';"
                    "document.body.append(e); const c = getComputedStyle(e).color; e.remove();"
                    "return c; })()")
        for one in words
    ]  # fmt: skip
    assert colours == made
    assert browser.run("document.querySelectorAll('#networks tr.low').length") == 1

    with fastipam.open(crowded) as ipam:
        for network in ("full", "nearly"):
            removed = ipam.network(network)
            for lease in list(removed.leases()):
                removed.release(lease.container_id, lease.ifname)
    browser.until_js("!document.querySelector('#alarm').innerText.includes('Full: full')")
    assert browser.complaints() == []


@pytest.mark.usefixtures("crowded")
def test_chart_has_an_axis(serve: Serve, browser: Browser) -> None:
    """The axis begins at 0; the pool's size is a line on the scale, or a text if it is far off."""
    browser.open(serve().url)
    browser.until_js(READY)
    browser.run("pick(keyOf(shown.status.networks.find(one => one.network === 'full')))")
    browser.until_js("document.querySelector('#chart line.size')")
    ticks = "[...document.querySelectorAll('#chart .tick')].map(one => one.textContent)"
    assert browser.run(ticks) == ["5", "10", "0"]
    assert "size 13" in browser.run("document.querySelector('#chart').textContent")
    assert "now 13 of 13, 100 %" in browser.run("document.querySelector('#chart').ariaLabel")
    browser.run("pick(keyOf(shown.status.networks.find(one => one.network === 'podnet')))")
    browser.until_js("document.querySelector('#chart').textContent.includes('above this scale')")
    assert browser.run("document.querySelector('#chart line.size')") is None
    assert browser.run(ticks)[-1] == "0"


def _search(browser: Browser, query: str) -> list[list[str]]:
    browser.run(
        f"document.querySelector('#query').value = {query!r};"
        "document.querySelector('#search').requestSubmit()"
    )
    browser.until_js(f"document.querySelector('#found-note').innerText.includes({query!r})")
    rows: list[list[str]] = browser.run(
        "[...document.querySelectorAll('#results tbody tr')].map("
        "row => [...row.cells].map(cell => cell.innerText))"
    )
    return rows


def test_search(serve: Serve, browser: Browser) -> None:
    """By address, pod, container and a part of its id; a result is shown on the picture."""
    browser.open(serve().url)
    browser.until_js(READY)
    (row,) = _search(browser, "10.32.0.200")
    assert row[:3] == ["10.32.0.200", "reserved", "podnet"]
    rows = _search(browser, "s7")
    assert [row[2] for row in rows] == ["both", "both"]
    assert {row[4] for row in rows} == {"s7 eth0"}
    found = _search(browser, "web/<b>web-12</b>")
    assert [one[3] for one in found] == ["web/<b>web-12</b>"]
    assert len(_search(browser, "c00")) == 50
    assert _text(browser, "#found-note").startswith("The first 50 addresses")
    (empty,) = _search(browser, "nobody/at-all")
    assert empty == [""]
    assert "Nothing has" in _text(browser, "#found-note")

    ((address, *_),) = _search(browser, "2001:db8::5")
    browser.click("#results button")
    browser.until_js("!document.querySelector('#tip').hidden")
    browser.until_js("document.querySelector('#tip').innerText.includes('s')")
    assert browser.run("document.querySelector('#tip b').innerText") == address == "2001:db8::5"
    assert browser.run("shown.drawn.network") == "both"
    assert browser.run("panel().family") == 6
    browser.click("#close-found")
    assert browser.run("document.activeElement.id") == "query"
    assert browser.complaints() == []


def test_a_private_page_finds_no_names(serve: Serve, browser: Browser) -> None:
    """With --http-private a search is refused, and says why."""
    browser.open(serve("--http-private").url)
    browser.until_js(READY)
    browser.run(
        "document.querySelector('#query').value = 'web/web-1';"
        "document.querySelector('#search').requestSubmit()"
    )
    browser.until_js("document.querySelector('#found-note').innerText.includes('withheld')")


def test_cooling_says_when_it_is_free(serve: Serve, browser: Browser, filled: Path) -> None:
    """The tip of a cooling address has the time until it can be assigned again."""
    with fastipam.open(filled) as ipam:
        cooling = next(
            event.address for event in ipam.network("podnet").history() if event.kind == "released"
        )
    browser.open(serve().url)
    browser.until_js(READY)
    ((_, state, *_),) = _search(browser, cooling)
    assert state == "cooling"
    browser.click("#results button")
    browser.until_js("document.querySelector('#tip').innerText.includes('free in')")
    assert "earlier when no other is free" in _text(browser, "#tip")


def test_refusals_and_health(serve: Serve, browser: Browser, filled: Path) -> None:
    """Refusals of one reason are a row, with network, pod, message and hint; numbers are there."""
    served = serve("--sweep-interval", "1")
    made = {
        "cniVersion": "1.0.0",
        "name": "tiny",
        "type": "bridge",
        "ipam": {
            "type": "fastipam",
            "dataDir": str(filled),
            "ranges": [[{"subnet": "10.96.0.0/30"}]],
        },
    }
    for number in range(4):
        names = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=pod-{number}"
        with Client(served.agent.path) as client:
            variables = environment("ADD", f"r{number}") | {"CNI_ARGS": names}
            client.send(variables, json.dumps(made).encode())
            client.receive()
    browser.open(served.url)
    browser.until_js(READY)
    rows = browser.run(
        "[...document.querySelectorAll('#refusals tbody tr')].map("
        "row => [...row.cells].slice(1).map(cell => cell.innerText))"
    )
    ((times, verb, code, named, pod, answer),) = rows
    assert (times, verb, named, pod) == ("3", "ADD", "tiny", "web/pod-3")
    message, hint = answer.split("\n")
    assert "no address is free" in message
    assert hint
    assert f"3 with code {code}" in _text(browser, "#codes")
    cards = "Object.fromEntries([...document.querySelectorAll('#health div')].map(" \
            "one => [...one.children].map(part => part.innerText)))"  # fmt: skip
    browser.until_js(f"({cards})['Sweeper'].includes('checked')")
    shown = browser.run(cards)
    assert int(shown["Requests in all"]) >= 4
    assert shown["Requests, last minute"].endswith(" /s")
    assert all(shown[f"Latency, {one}"].endswith("s") for one in ("median", "p99"))
    assert all(shown[f"Commit, {one}"].endswith("s") for one in ("median", "p99"))
    assert browser.run("document.querySelector('#clusters').hidden")
    assert browser.complaints() == []


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width(serve: Serve, browser: Browser, scheme: str) -> None:
    """Nothing scrolls sideways, axe-core finds no violation, and the light page is light."""
    served = serve()
    browser.prefer(scheme)
    for width in WIDTHS:
        browser.resize(width, 1000)
        browser.open(served.url)
        browser.until_js(READY)
        _search(browser, "10.32.0.200")
        assert browser.run("document.documentElement.scrollWidth") <= width
        wide = (
            "[...document.querySelectorAll('.wide')].map(one => one.scrollWidth - one.clientWidth)"
        )
        if width == WIDTHS[0]:
            assert max(browser.run(wide)) <= 0
        assert violations(browser) == []
        with Image.open(io.BytesIO(browser.screenshot())) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[1] == width
        dark = float((pixels < 70).mean())
        assert dark < MOST_DARK if scheme == "light" else dark > 0.5
    assert browser.complaints() == []


def test_keyboard(serve: Serve, browser: Browser) -> None:
    """Arrows go through the networks; on the picture they choose an address, which is said."""
    browser.open(serve().url)
    browser.until_js(READY)
    browser.run("document.querySelector('#tabs button[tabindex=\"0\"]').focus()")
    before = browser.run("document.activeElement.innerText")
    browser.press("ArrowRight")
    browser.until_js(f"document.activeElement.innerText !== {before!r}")
    chosen = browser.run("document.activeElement.innerText")
    browser.until_js(f"shown.drawn && shown.drawn.network === {chosen!r} && panel().image")
    assert browser.run("document.activeElement.getAttribute('aria-selected')") == "true"
    browser.run("document.querySelector('#map').focus()")
    browser.press("ArrowRight", shift=True)
    browser.until_js("document.querySelector('#said').textContent.includes(', ')")
    first = browser.run("document.querySelector('#tip b').innerText")
    browser.press("ArrowDown", shift=True)
    browser.until_js(f"document.querySelector('#tip b').innerText !== {first!r}")
    assert browser.run("document.querySelector('#said').textContent").startswith(
        browser.run("document.querySelector('#tip b').innerText")
    )
    browser.press("Escape")
    browser.until_js("document.querySelector('#tip').hidden")
    browser.key("/")
    assert browser.run("document.activeElement.id") == "query"
    browser.key("g")  # in the field it is a letter
    assert browser.run("document.querySelector('#grid').checked")
    assert browser.complaints() == []


def test_numbers_of_ipv6(serve: Serve, browser: Browser) -> None:
    """What only IPv6 has is a power of two, with ~ unless it is exact."""
    browser.open(serve().url)
    browser.until_js("typeof count === 'function'")
    for number, text in (
        ("1048576", "1,048,576"),
        ("2 ** 32", "2^32"),
        ("2 ** 64", "~2^64"),
        ("3 * 2 ** 40", "~2^41.6"),
    ):
        assert browser.run(f"count({number})") == text
    row = browser.run(
        "[...document.querySelectorAll('#networks tr')].find("
        "one => one.innerText.includes('2001:db8')).innerText"
    )
    assert row.split("\t")[2] == "~2^64"
    assert row.split("\t")[7] == "< 0.1 %"
