"""Make the pictures of this directory: a store that weeks of pods left, ``map``, the page.

    python docs/pictures/make.py            # from the top of the source tree; needs Chromium

The numbers are drawn from a seed: what differs from run to run is what shows a time.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TOP = Path(__file__).parents[2]
sys.path.insert(0, str(TOP))

from tests.page.chromium import Browser, find_chromium  # noqa: E402

import fastipam  # noqa: E402
from fastipam.agent.web.server import is_healthy  # noqa: E402
from fastipam.ipam import open_with  # noqa: E402

HERE = Path(__file__).parent
FASTIPAM = Path(sys.executable).with_name("fastipam")
PORT = 9473
DAY_NS = 86400 * 10**9
SPACES = (
    "web", "checkout", "payments", "search", "kube-system", "batch", "ci", "mail", "monitoring",
    "ingress", "training",
)  # fmt: skip


class Pods:
    """Pods that come and go in a network, in deployments of a namespace each."""

    def __init__(self, ipam: fastipam.Ipam, clock: list[int], seed: int) -> None:
        self._ipam = ipam
        self._clock = clock
        self._random = random.Random(seed)
        self._live: list[int] = []
        self._next = 0

    def start(self, net: fastipam.Network, count: int, space: str) -> None:
        """A deployment."""
        for at in range(0, count, 256):
            with self._ipam.transaction() as txn:
                inside = net.within(txn)
                for _ in range(min(256, count - at)):
                    number = self._next
                    self._next += 1
                    inside.allocate(
                        f"{number * 2654435761 % (1 << 64):016x}", "eth0",
                        pod=(space, f"{space}-{number:x}"),
                    )  # fmt: skip
                    self._live.append(number)

    def stop(self, net: fastipam.Network, count: int) -> None:
        """A deployment that goes: neighbours, as they came."""
        begin = self._random.randrange(max(1, len(self._live) - count))
        gone = self._live[begin : begin + count]
        del self._live[begin : begin + count]
        for at in range(0, len(gone), 256):
            with self._ipam.transaction() as txn:
                inside = net.within(txn)
                for number in gone[at : at + 256]:
                    inside.release(f"{number * 2654435761 % (1 << 64):016x}", "eth0")

    def weeks(self, net: fastipam.Network, rounds: int, size: int) -> None:
        """Deployments that come and go over 40 days."""
        for _ in range(rounds):
            self.start(net, self._random.randrange(size // 4, size), self._random.choice(SPACES))
            if self._random.random() < 0.6:
                self.stop(net, self._random.randrange(size // 4, size))
            self._clock[0] += 40 * DAY_NS // rounds


def fill(path: Path) -> None:
    """Three networks: a /12, a /24 with a range of its own, and a dual-stack one."""
    now = time.time_ns()
    clock = [now - 40 * DAY_NS]
    with open_with(path, "relaxed", clock=lambda: clock[0]) as ipam:
        podnet = ipam.network(
            "podnet", "10.32.0.0/12", exclude=["10.40.0.0/18", "10.47.255.0/24"],
            cooldown_s=2 * 86400, history=5000,
        )  # fmt: skip
        podnet.reserve("10.33.16.0/21", reason="load balancers")
        podnet.reserve("10.35.0.0/22", reason="virtual machines")
        pods = Pods(ipam, clock, 7)
        pods.weeks(podnet, 180, 4000)
        clock[0] = now - 10 * DAY_NS
        edge = ipam.network("edge", [[{"subnet": "192.168.7.0/24", "rangeStart": "192.168.7.20"}]])
        edge.reserve("192.168.7.200/29", reason="printers")
        Pods(ipam, clock, 8).start(edge, 120, "ingress")
        dual = ipam.network("dual", ["172.20.0.0/18", "2001:db8:7::/64"], cooldown_s=86400)
        clock[0] = now - 40 * DAY_NS
        others = Pods(ipam, clock, 9)
        others.weeks(dual, 40, 300)
        clock[0] = now


def maps(store: Path) -> None:
    """What the command draws."""
    for name, options in {
        "map-state": ("--network", "podnet"),
        "map-owner": ("--network", "podnet", "--by", "owner"),
        "map-age": ("--network", "podnet", "--by", "age"),
        "map-small": ("--network", "edge"),
        "map-dual": ("--network", "dual"),
    }.items():
        file = HERE / f"{name}.png"
        command = [str(FASTIPAM), "map", "--data-dir", str(store), *options, "-o", str(file)]
        subprocess.run(command, check=True)
    text = subprocess.run(
        [str(FASTIPAM), "map", "--data-dir", str(store), "--network", "edge"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    (HERE / "map-plain.txt").write_text(text)


def page(store: Path, socket: Path) -> None:
    """What the agent's page shows while pods come and go."""
    binary = find_chromium()
    if binary is None:
        raise SystemExit("Chromium is not installed")
    agent = subprocess.Popen(
        [
            str(FASTIPAM), "agent", "--socket", str(socket), "--http", str(PORT),
            "--data-dir", str(store), "--sweep-interval", "0",
        ]
    )  # fmt: skip
    stop = threading.Event()
    try:
        while not is_healthy(str(socket)):
            time.sleep(0.05)
        churn = threading.Thread(target=_churn, args=(store, stop))
        churn.start()
        with Browser(binary, 1500, 1400) as browser:
            _shots(browser)
        stop.set()
        churn.join()
    finally:
        stop.set()
        agent.terminate()
        agent.wait()


def _churn(store: Path, stop: threading.Event) -> None:
    with fastipam.open(store) as ipam:
        net = ipam.network("podnet", cooldown_s=2 * 86400, history=5000)
        pods = Pods(ipam, [0], 11)
        pods._next = 1 << 40
        while not stop.wait(0.5):
            pods.start(net, 700, random.choice(SPACES))
            if random.random() < 0.5:
                pods.stop(net, 500)


def _shots(browser: Browser) -> None:
    browser.open(f"http://127.0.0.1:{PORT}/")
    browser.until_js(
        "shown.drawn && shown.drawn.panels[0].image && shown.drawn.network === 'podnet'"
    )
    time.sleep(45)  # the chart shows what happens meanwhile
    left, top = browser.run(
        "(() => { const b = canvas.getBoundingClientRect(); return [b.x, b.y]; })()"
    )
    x, y = _point(browser, left, top)
    browser.screenshot(HERE / "page.png")
    for _ in range(13):
        browser.mouse("mouseWheel", left + x, top + y, deltaX=0, deltaY=-120)
    _point(browser, left, top)
    browser.screenshot(HERE / "page-zoomed.png")
    browser.run("fit(); draw()")
    browser.resize(1500, 2000)
    browser.run("pick(shown.status.networks.map(keyOf).find(key => key.endsWith('dual')))")
    browser.until_js("shown.drawn && shown.drawn.network === 'dual' && shown.drawn.panels[0].image")
    browser.until_js("document.querySelector('#chart polygon')")
    browser.screenshot(HERE / "page-dual.png")


def _point(browser: Browser, left: float, top: float) -> tuple[float, float]:
    """Move the pointer to an assigned address near the middle, and wait for its owner."""
    x, y = browser.run(
        """(() => {
          const drawing = panel(), curve = curveOf(drawing);
          for (let far = 0; far < 900; far += 2) for (let turn = 0; turn < 6.28; turn += 0.3) {
            const x = canvas.width / 2.6 + far * Math.cos(turn);
            const y = canvas.height / 3.2 + far * Math.sin(turn);
            const column = Math.floor((x - view.x) / view.scale);
            const row = Math.floor((y - view.y) / view.scale);
            if (x < 0 || y < 0 || x >= canvas.width || y >= canvas.height) continue;
            if (column < 0 || row < 0 || column >= curve.width || row >= curve.height) continue;
            const cell = drawing.cells[curve.order[row * curve.width + column]];
            if ((cell & 7) === 1) return [x, y];
          }
        })()"""
    )
    browser.mouse("mouseMoved", left + x, top + y)
    browser.until_js("document.querySelector('#tip').innerText.includes('ago')")
    return x, y


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory(prefix="fastipam-pictures-") as name:
        store = Path(name) / "store"
        fill(store)
        maps(store)
        page(store, Path(name) / "agent.sock")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
