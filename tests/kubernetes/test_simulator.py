"""The simulator of nodes on the Kubernetes API: its bars, its model of seats, its input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("greenlet", reason="the simulator runs each node as a greenlet")

from bench.kubernetes_sim import apf
from bench.kubernetes_sim.world import World

ROOT = Path(__file__).parents[2]


def simulate(*options: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own: it replaces clocks in the modules that it drives."""
    return subprocess.run(
        [sys.executable, "-m", "bench.kubernetes_sim", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_bars() -> None:
    """A start in one instant, on one server and on three, and hand-overs: every bar is met."""
    done = simulate("--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSED" not in done.stdout
    assert done.stdout.count("met ") == 10


def test_same_seed() -> None:
    """The same seed gives the same figures, and another seed others."""
    start = ("--part", "start", "--nodes", "150")
    first, second, other = (json.loads(simulate(*start, "--seed", one).stdout) for one in "112")
    assert first == second != other
    assert first["served"] == 150
    assert first["twice"] == 0


def test_real_run(tmp_path: Path) -> None:
    """A run of a real server is held against its model, and a difference is told."""
    real = {
        "nodes": 40,
        "requests_a_node": 4.0,
        "writes_a_node": 2.0,
        "postponed_a_node": 0.0,
        "last_s": 60.0,
        "processors": 1.0,
        "phase_s": 5.0,
        "cost_ms": {"get": 1, "post": 3, "list": 1, "tls": 2, "refuse": 0.1, "client": 2},
    }
    file = tmp_path / "run.json"
    file.write_text(json.dumps(real))
    done = simulate("--like", str(file))
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("met ") == 3
    assert "MISSED seconds to the last one served" in done.stdout


def test_seats_of_an_idle_server() -> None:
    """An idle level lends its seats: the first requests find fewer than its nominal 245."""
    assert apf.allocate(0, 0) == apf.IDLE_SEATS < 60
    assert apf.allocate(300, 356) > 245


class Requests:
    """Requests that reach a level at once, and what becomes of them."""

    def __init__(self, count: int, *, seats: int = 1, linger_s: float = 0.0) -> None:
        self.world = World(1)
        self.level = apf.Level(self.world, 9.0)
        self.begun = 0
        self.refused: list[tuple[float, int]] = []
        self.running: list[apf.Work] = []
        for _ in range(count):
            self.arrive(seats, linger_s)

    def arrive(self, seats: int = 1, linger_s: float = 0.0) -> None:
        """One more."""

        def start() -> None:
            self.begun += 1
            self.running.append(work)

        work = apf.Work(seats, linger_s, start)
        self.level.arrive(work, lambda retry_s: self.refused.append((self.world.now, retry_s)))


def test_queues() -> None:
    """What finds no seat waits, 300 at most; the others are told to come again."""
    requests = Requests(500)
    assert requests.begun == apf.IDLE_SEATS
    assert len(requests.refused) == 500 - apf.IDLE_SEATS - 300
    assert {retry_s for _, retry_s in requests.refused} == {1}
    requests.level.finish(requests.running[0])
    assert requests.begun == apf.IDLE_SEATS + 1


def test_limit_follows_demand() -> None:
    """After ten seconds of demand the level has more seats than its own."""
    requests = Requests(356)
    requests.world.run(9.1)
    assert requests.level.limit > 245
    assert requests.begun == 356


def test_wait_has_an_end() -> None:
    """Who has waited for fifteen seconds is refused."""
    requests = Requests(apf.IDLE_SEATS + 1)
    requests.level = apf.Level(requests.world, 1e9)
    for _ in range(apf.IDLE_SEATS + 1):
        requests.arrive()
    requests.world.run(14.9)
    assert not requests.refused
    requests.world.run(15.1)
    assert len(requests.refused) == 1


def test_seats_of_watchers() -> None:
    """A write that many watch keeps its seats after its answer."""
    requests = Requests(6, seats=10, linger_s=0.25)
    assert requests.begun == apf.IDLE_SEATS // 10 == 5
    for work in list(requests.running):
        requests.level.finish(work)
    assert requests.begun == 5
    requests.world.run(0.3)
    assert requests.begun == 6


def test_retry_after_grows() -> None:
    """The pause that is asked for grows while many are refused."""
    requests = Requests(0)
    requests.level = apf.Level(requests.world, 1e9)

    def flood() -> None:
        for _ in range(400):
            requests.arrive()

    for second in range(4):
        requests.world.at(second, flood)
    requests.world.run(3.5)
    assert [retry_s for at, retry_s in requests.refused if at == 0][-1] == 1
    assert max(retry_s for _, retry_s in requests.refused) >= 2
