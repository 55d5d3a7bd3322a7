"""What routes between many nodes cost an agent: ``python -m bench.routes``, as root.

In a network namespace of its own, an agent with ``--routes host-gw`` starts beside an API server
(the tests' fake) that has the blocks of many nodes: no two are adjacent, so each is a route. Each
round measures

- first: from the start of the agent's process until all routes are set;
- again: the same while all routes are there already, so until the whole table was compared;
- flap: from the return of the link until all routes are set that the kernel took with it;
- the agent's memory (VmHWM: at its most; VmRSS: at the end) and processor time.

An agent without routes is measured beside it. Exit status 1: a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from tests.kubernetes import bodies, machines
from tests.kubernetes.fake import FakeServer
from tests.kubernetes.test_agent import Site

from bench.bars import ROUTES, ROUTES_MEMORY, Verdict
from fastipam.cluster.routing.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

_INSIDE = "FASTIPAM_BENCH_ROUTES_INSIDE"
_LINK = """
ip link set lo up
ip link add eth0 type veth peer name eth1
ip link set eth1 up
ip link set eth0 up
ip address add 172.16.0.1/12 dev eth0
"""
_PATIENCE_S = 120.0
_POLL_S = 0.1  # rare, because the fake API server serves in this process
_PORT = 9464
_FASTIPAM = Path(sys.executable).with_name("fastipam")


def _blocks(count: int, nodes: int) -> list[dict[str, Any]]:
    """Return ``count`` blocks, every second one of the pool, owned by the nodes in turn."""
    made = []
    for at in range(count):
        number = 2 * at
        node = at % nodes
        via = f"172.{16 + (node + 256 >> 16)}.{node + 256 >> 8 & 255}.{node & 255}"
        cidr = f"10.{number >> 8 & 255}.{number & 255}.0/24"
        made.append(bodies.block(cidr, f"n{node}", via=[via]))
    return made


def _seed(server: FakeServer, blocks: list[dict[str, Any]]) -> None:
    """Put the blocks into the fake API server, which is not timed."""
    machines.accept(server, cidr="10.0.0.0/8", size=24)
    kind = server.api.by_plural["addressblocks"]

    def put() -> None:
        for one in blocks:
            one["metadata"] |= {"uid": one["metadata"]["name"], "generation": 1}
            server.store.put(kind, ("", one["metadata"]["name"]), one)

    server._run(put)


class _Agent:
    """The process of an agent."""

    def __init__(self, site: Site, routes: str) -> None:
        command = [
            str(_FASTIPAM), "agent", "--socket", str(site.path / "s"), "--cluster",
            str(site.conflist), "--routes", routes, "--data-dir", str(site.store), "--quiet",
            "--http", str(_PORT),
        ]  # fmt: skip
        self.began = time.monotonic()
        self._process = subprocess.Popen(command)

    def wait(self, true: Callable[[], bool]) -> float:
        """Wait until ``true`` returns True; return the seconds since the agent's start."""
        while not true():
            if self._process.poll() is not None or time.monotonic() > self.began + _PATIENCE_S:
                raise SystemExit("the agent has ended, or is too slow")
            time.sleep(_POLL_S)
        return time.monotonic() - self.began

    def memory(self) -> tuple[float, float]:
        """Return (highest, present) memory in MiB."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = dict(line.split(":", 1) for line in text.splitlines())
        return tuple(int(found[key].split()[0]) / 1024 for key in ("VmHWM", "VmRSS"))  # type: ignore[return-value]

    def processor_s(self) -> float:
        """Return the processor time of the agent so far, in seconds."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End the agent."""
        self._process.terminate()
        self._process.wait()


def _round(server: FakeServer, count: int) -> dict[str, list[float]]:
    """Return, by row of the table: seconds, highest MiB, MiB at the end, processor seconds."""
    rows = {}

    def is_whole() -> bool:
        with Kernel() as kernel:
            return sum(one.gateway is not None for one in kernel.installed()) >= count

    def is_told() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return False
        routes = f'fastipam_routes{{family="4",type="gateway"}} {count:.1f}'
        return routes in text and "fastipam_routes_complete 1.0" in text

    def measure(name: str, agent: _Agent, seconds: float) -> None:
        time.sleep(2)  # let the agent finish, so that the figures include all work of its start
        rows[name] = [seconds, *agent.memory(), agent.processor_s()]

    with tempfile.TemporaryDirectory() as directory:
        site = Site(server, Path(directory))
        site.cluster["address"] = "172.16.0.1"
        site.write()
        agent = _Agent(site, "none")
        measure("no routes", agent, agent.wait(site.has_pools))
        agent.end()
        agent = _Agent(site, "host-gw")
        measure("first", agent, agent.wait(is_told))
        agent.end()
        agent = _Agent(site, "host-gw")
        measure("again", agent, agent.wait(is_told))
        subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
        before = time.monotonic()
        subprocess.run(["ip", "link", "set", "eth0", "up"], check=True)
        agent.wait(is_whole)
        measure("flap", agent, time.monotonic() - before)
        agent.end()
    subprocess.run(["ip", "route", "flush", "proto", "147"], check=True)
    return rows


def _inside(options: argparse.Namespace) -> int:
    """Measure in this network namespace and print the table; return the exit status."""
    subprocess.run(["sh", "-ec", _LINK], check=True)
    found: dict[str, list[list[float]]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as directory, FakeServer(Path(directory)) as server:
            _seed(server, _blocks(options.routes, options.nodes))
            for name, figures in _round(server, options.routes).items():
                found.setdefault(name, []).append(figures)
    title = (
        f"{options.routes} routes to {options.nodes} nodes, medians of {options.rounds} rounds, "
        f"{os.cpu_count()} processors"
    )
    table = Table(title=title)
    table.add_column("agent")
    for column in ("s", "MiB at most", "MiB", "processor s"):
        table.add_column(column, justify="right")
    medians = {
        name: [median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()
    }
    for name, figures in medians.items():
        seconds, most, now, processor = figures
        table.add_row(name, f"{seconds:.2f}", f"{most:.1f}", f"{now:.1f}", f"{processor:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    verdicts = [
        Verdict(ROUTES, medians["first"][0]),
        Verdict(ROUTES_MEMORY, max(figures[1] for figures in medians.values())),
    ]
    for each in verdicts:
        name, limit, unit, _ = each.bar
        verdict = "met" if each.met else "MISSED"
        console.print(f"{name}: {each.figure:.1f} {unit}, bar {limit:g} {unit}: {verdict}")
    return 0 if all(each.met for each in verdicts) else 1


def main() -> int:
    """Run this program again in a new network namespace to measure there; return its status."""
    parser = argparse.ArgumentParser(prog="python -m bench.routes", description=__doc__)
    parser.add_argument("--routes", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("run it as root: it makes a network namespace, and routes in it")
    if _INSIDE in os.environ:
        return _inside(options)
    command = ["unshare", "--net", sys.executable, "-m", "bench.routes", *sys.argv[1:]]
    return subprocess.run(command, env=os.environ | {_INSIDE: "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
