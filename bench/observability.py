"""Measure scrapes, the picture and the command ``map``, on an empty and on a full /12.

Then measure scrapes and the page's numbers of a dual-stack network, whose range sets are counted
for each request: with a million leases, and with a million cooling addresses.

    python -m bench.observability

Each figure is the median of rounds in which both sides are measured alternately. For processes it
is processor time, which is the same on a busy machine. One part sends VERSION to the agent's loop
over and over, first alone and then while page and metrics are fetched without a pause: it shows how
much readers of these slow down plugin calls.
"""

from __future__ import annotations

import http.client
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import fastipam
from bench.stores import BATCH, NETWORK, SUBNET, fill, owners, touch
from fastipam.agent.web.server import is_healthy

if TYPE_CHECKING:
    from collections.abc import Callable

FASTIPAM = Path(sys.executable).with_name("fastipam")
ROUNDS = 41
ASKED = 3000
HALF = 16 * BATCH  # the pods of the dual-stack network, each with two addresses
_TICKS = os.sysconf("SC_CLK_TCK")


class Looked:
    """An agent that serves the page and the metrics of one store."""

    def __init__(self, directory: Path, store: Path, port: int) -> None:
        self.socket = str(directory / f"{store.name}.sock")
        self.port = port
        self.store = store
        self.process = subprocess.Popen(
            [
                str(FASTIPAM), "agent", "--socket", self.socket, "--http", str(port),
                "--data-dir", str(store), "--sweep-interval", "0",
            ]
        )  # fmt: skip
        while not is_healthy(self.socket):
            time.sleep(0.01)

    def get(self, path: str) -> bytes:
        """Fetch a path and return the body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body!r:.200}")
        return body

    def scrape(self) -> bytes:
        """Fetch the metrics."""
        return self.get("/metrics")

    def look(self) -> bytes:
        """Fetch the picture."""
        return self.get(self.picture)

    @property
    def picture(self) -> str:
        """The path of the picture."""
        query = urllib.parse.urlencode({"data_dir": str(self.store), "network": NETWORK})
        return f"/api/picture?{query}"

    def cpu_s(self) -> float:
        """Return the processor time of the agent so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def end(self) -> None:
        """Stop the agent."""
        self.process.terminate()
        self.process.wait()


def timed(call: Callable[[], object]) -> float:
    """Return the time of one call in milliseconds."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3


def turns(sides: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Measure all sides alternately, and return the median of each in milliseconds."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            found[name].append(timed(call))
    return {name: statistics.median(times) for name, times in found.items()}


def say(what: str, empty: float, full: float) -> None:
    """Print a line with both sides and their ratio."""
    print(f"{what:<34}{empty:>10.2f} ms{full:>10.2f} ms{full / empty:>8.2f} x", flush=True)


def scrapes(empty: Looked, full: Looked) -> None:
    """Measure a scrape: the scraper's waiting time, and the agent's processor time."""
    found = turns({each.store.name: each.scrape for each in (empty, full)})
    say("scrape", found["empty"], found["full"])
    used = {}
    for each in (empty, full):
        before = each.cpu_s()
        for _ in range(400):
            each.get("/metrics")
        used[each.store.name] = (each.cpu_s() - before) / 400 * 1e3
    say("scrape, processor time", used["empty"], used["full"])


def draw(store: Path, target: Path, *options: str) -> Callable[[], object]:
    """Return a function that runs the command ``map``."""
    command = [str(FASTIPAM), "map", "--data-dir", str(store), *options]
    wanted = command if not options or options[0] == "--json" else [*command, "-o", str(target)]
    return lambda: subprocess.run(wanted, stdout=subprocess.DEVNULL, check=True)


def maps(directory: Path, empty: Path, full: Path) -> None:
    """Measure the command ``map`` as whole processes, and its imports alone."""
    imports = (
        "import fastipam.cli.commands, fastipam.cli.commands.map_, rich.console;"
        "import fastipam.picture.png, fastipam.picture.layers, fastipam.picture.text"
    )
    command = [sys.executable, "-c", imports]
    bare = statistics.median(cpu_ms(lambda: subprocess.run(command, check=True)) for _ in range(7))
    print(f"{'imports of map':<34}{bare:>10.2f} ms")
    target = directory / "map.png"
    for options in (("--by", "state"), ("--by", "owner"), ("--by", "age"), ("--json",), ()):
        sides = {path.name: draw(path, target, *options) for path in (empty, full)}
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(5):
            for name, call in sides.items():
                found[name].append(cpu_ms(call))
        medians = [statistics.median(times) for times in found.values()]
        say(f"map {' '.join(options) or 'on the terminal'}", *medians)


def cpu_ms(call: Callable[[], object]) -> float:
    """Return the processor time, in ms, of the processes that a call runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def loop(agent: Looked) -> None:
    """Measure the agent's answers to VERSION, alone and while a reader fetches without a pause."""
    stop = threading.Event()

    def look() -> None:
        with fastipam.open(agent.store) as ipam:
            net = ipam.network(NETWORK)
            number = 0
            while not stop.is_set():
                number += 1
                net.reserve("10.32.0.77", reason=str(number))  # so that each request has to read
                for path in ("/metrics", "/api/status", agent.picture, "/"):
                    agent.get(path)

    for name in ("alone", "while page and metrics are fetched"):
        thread = threading.Thread(target=look)
        if name != "alone":
            thread.start()
        times = sorted(timed(lambda: is_healthy(agent.socket)) for _ in range(ASKED))
        stop.set()
        if thread.ident:
            thread.join()
        shown = "  ".join(
            f"{label} {times[int(share * ASKED)]:.2f} ms"
            for label, share in (("half", 0.5), ("99 %", 0.99), ("99.9 %", 0.999))
        )
        print(f"VERSION {name}: {shown}", flush=True)


def fill_both(path: Path, *, cooling: bool) -> None:
    """Make a store with a million addresses in use, half of them of each family."""
    with fastipam.open(path, durability="relaxed") as ipam:
        net = ipam.network(NETWORK, [SUBNET, "fd00:32::/64"], cooldown_s=86400, history=0)
        for done in range(0, HALF, BATCH):
            some = owners(done, BATCH)
            net.allocate_many(some)
            if cooling:
                with ipam.transaction() as txn:
                    inside = net.within(txn)
                    for owner in some:
                        inside.release(*owner)


def both_families(directory: Path) -> None:
    """Measure the agent's processor time for scrapes and the page's numbers of a dual stack."""
    for at, cooling in enumerate((False, True)):
        store = directory / ("cooling" if cooling else "leases")
        fill_both(store, cooling=cooling)
        agent = Looked(directory, store, 9472 + at)
        what = "addresses that cool" if cooling else "leases"
        try:
            for name, path in (("scrape", "/metrics"), ("page's numbers", "/api/status")):
                agent.get(path)
                before = agent.cpu_s()
                for _ in range(ROUNDS):
                    agent.get(path)
                used = (agent.cpu_s() - before) / ROUNDS * 1e3
                print(f"dual stack, {2 * HALF:,} {what}: {name}, processor time {used:.2f} ms")
        finally:
            agent.end()


def main() -> None:
    """Measure everything, and print it."""
    with tempfile.TemporaryDirectory(prefix="fastipam-look-") as name:
        directory = Path(name)
        empty, full = directory / "empty", directory / "full"
        touch(empty)
        fill(full, "relaxed")
        print(f"{'':<34}{'empty /12':>13}{'full /12':>13}")
        agents = [Looked(directory, store, 9470 + at) for at, store in enumerate((empty, full))]
        try:
            scrapes(*agents)
            found = turns({one.store.name: one.look for one in agents}, 9)
            say("page's picture, unchanged store", found["empty"], found["full"])
            loop(agents[1])
        finally:
            for agent in agents:
                agent.end()
        both_families(directory)
        maps(directory, empty, full)


if __name__ == "__main__":
    main()
