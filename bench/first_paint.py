"""``python -m bench.first_paint``: how soon the agent's page is painted, with a full /12.

A store with every address of 10.32.0.0/12 assigned, an agent, and a headless Chromium that opens
the page anew several times. Printed are the first contentful paint, as the browser measures it, and
the time until the picture is drawn, which has one cell an address.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import fastipam
from fastipam.agent.web.server import is_healthy

if TYPE_CHECKING:
    from tests.page.chromium import Browser

FASTIPAM = Path(sys.executable).with_name("fastipam")
SUBNET = "10.32.0.0/12"
PORT = 9474
AT_ONCE = 1 << 16
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
DRAWN = "shown.drawn && panel().image && performance.now()"


def fill(path: Path, subnet: str) -> int:
    """Assign every address; return their number."""
    with fastipam.open(path, "relaxed") as ipam:
        net = ipam.network("podnet", subnet, history=0)
        free = net.stats().free
        for at in range(0, free, AT_ONCE):
            names = range(at, min(free, at + AT_ONCE))
            net.allocate_many(
                [(f"{number:016x}", "eth0") for number in names],
                pods=[("web", f"web-{number:x}") for number in names],
            )
    return free


def measure(browser: Browser, url: str) -> tuple[float, float]:
    """Open the page; return the milliseconds until it, and until the picture, is painted."""
    browser.send("Network.setCacheDisabled", cacheDisabled=True)
    browser.open(url)
    browser.until_js(DRAWN)
    drawn = float(browser.run(DRAWN))
    browser.until_js(PAINT)
    return float(browser.run(PAINT)), drawn


def main() -> None:
    """Print a line for each opening, and the medians."""
    from tests.page.chromium import Browser, find_chromium

    parser = argparse.ArgumentParser(prog="python -m bench.first_paint", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--subnet", default=SUBNET)
    options = parser.parse_args()
    binary = find_chromium()
    if binary is None:
        parser.exit(1, "Chromium is not installed\n")
    with tempfile.TemporaryDirectory(prefix="fastipam-paint-") as folder:
        store, socket = Path(folder, "store"), str(Path(folder, "agent.sock"))
        print(f"{fill(store, options.subnet):,} addresses of {options.subnet} are assigned")
        words = ["--socket", socket, "--http", str(PORT), "--data-dir", str(store)]
        agent = subprocess.Popen(
            [str(FASTIPAM), "agent", *words, "--sweep-interval", "0"], stdout=subprocess.DEVNULL
        )
        try:
            while not is_healthy(socket):
                time.sleep(0.05)
            with Browser(binary, 1440, 1000) as browser:
                measure(browser, f"http://127.0.0.1:{PORT}/")  # the browser and the agent warm up
                found = [
                    measure(browser, f"http://127.0.0.1:{PORT}/") for _ in range(options.rounds)
                ]
        finally:
            agent.terminate()
            with suppress(subprocess.TimeoutExpired):
                agent.wait(10)
    for paint, drawn in found:
        print(f"first contentful paint {paint:.0f} ms, picture drawn {drawn:.0f} ms or before")
    paints, pictures = zip(*found, strict=True)
    print(f"medians: {median(paints):.0f} ms, {median(pictures):.0f} ms")


if __name__ == "__main__":
    main()
