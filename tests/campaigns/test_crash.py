"""Everything that can work on a store is killed while it does, and a ledger outside watches.

An agent behind launchers, processes that go directly and embedding programs work on one small pool,
as runtimes do: a call that nobody heard the end of is followed by releases until one is
acknowledged. One after the other is killed. After every kill, while all others go on:
no address was given to two, nobody has lost what it was told, the store agrees with itself.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import fastipam

from ..agent.processes import FASTIPAM, Agent
from ..cni.plugin import NO_AGENT, Make, Plugin
from ..options import options
from .books import Books
from .ways import PATIENCE_S, Embedder, Processes, Way

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.campaign

KILLS = options.kills or (520 if options.long else 24)
# After so many kills all stop for a moment and are compared exactly.
EXACT_EVERY = 26 if options.long else 12
MOST_HELD = 12  # of a worker: together they keep a /25 nearly full, so addresses are reused
NETWORK = "mynet"


class Worker:
    """One caller: a thread from ``start`` to ``finish``, which ends with no call open."""

    def __init__(self, name: str, way: Way, books: Books, seed: int, most: int = 1) -> None:
        self._name = name
        self._way = way
        self._books = books
        self._random = random.Random(seed)
        self._most = most
        self._mine: list[str] = []
        self._number = 0
        self._enough = threading.Event()
        self._thread = threading.Thread()

    def start(self) -> None:
        """Begin, or go on, to call."""
        self._enough.clear()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Let it end its call, and end."""
        self._enough.set()
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive(), f"{self._name} waits for an answer"

    def _run(self) -> None:
        try:
            while not self._enough.is_set():
                self._step()
        except Exception as error:
            self._books.wrong.append(f"{self._name}: {error!r}")

    def _step(self) -> None:
        if len(self._mine) >= MOST_HELD or (self._mine and self._random.random() < 0.4):
            self.release(self._mine.pop(self._random.randrange(len(self._mine))))
            return
        owners = []
        for _ in range(self._random.randint(1, self._most)):
            self._number += 1
            owners.append(f"{self._name}-{self._number}")
        addresses = self._way.add(owners)
        if addresses is None:
            self._books.count("ADD not heard of")
        else:
            self._books.count("ADD" if addresses else "ADD refused")
        if addresses:
            for owner, address in zip(owners, addresses, strict=True):
                self._books.acknowledged(owner, address)
            self._mine += owners
            return
        for owner in owners:
            self._books.doubt(owner)
            self.release(owner)

    def release(self, owner: str) -> None:
        """Ask until it is acknowledged, as a runtime does."""
        self._books.releasing(owner)
        while not self._way.delete(owner):
            self._books.count("DEL not heard of")
        self._books.count("DEL")


class Campaign:
    """The processes, the workers that use them, and who is killed next."""

    def __init__(self, stack: ExitStack, plugin: Plugin, run_dir: Path, made: Make, store: Path):
        seed = options.seed
        self.chance = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.books = Books()
        self._socket = run_dir / "s"
        config = made(ipam={"subnet": "10.1.0.0/25", "cooldown": 0})
        assert plugin("ADD", config, "first").status == 0
        self.books.acknowledged("first", "10.1.0.2")
        self.ipam = stack.enter_context(fastipam.open(store))
        self._agent = Agent(self._socket)
        stack.callback(lambda: self._agent.finish())  # noqa: PLW0108  # the last of them
        through = Processes(plugin.path, self._socket, config)
        direct = Processes(plugin.path, NO_AGENT, config)
        embedders = [Embedder(store, NETWORK) for _ in range(2)]
        for one in embedders:
            stack.callback(one.end)
        ways: list[tuple[str, Way, int]] = [
            *((f"launcher{at}", through, 1) for at in range(4)),
            *((f"direct{at}", direct, 1) for at in range(3)),
            *((f"embedder{at}", one, 4) for at, one in enumerate(embedders)),
        ]
        self.workers = [
            Worker(name, way, self.books, self.chance.getrandbits(32), most)
            for name, way, most in ways
        ]
        self._victims: dict[str, list[Way]] = {
            "launcher": [through],
            "direct": [direct],
            "embedder": [*embedders],
        }
        self._deck: list[str] = []

    def kill_somebody(self) -> str:
        """Kill one that is running, at no particular moment; who it was. All kinds alternately."""
        if not self._deck:
            self._deck = ["agent", *self._victims]
            self.chance.shuffle(self._deck)
        what = self._deck.pop()
        killed = False
        while not killed:
            time.sleep(self.chance.uniform(0.0, 0.12))
            if what == "agent":
                killed = self._kill_agent()
            else:
                killed = self.chance.choice(self._victims[what]).kill(self.chance)
        self.kills[what] += 1
        return what

    def _kill_agent(self) -> bool:
        """The next one starts at once; calls meet it dying, gone, starting and back."""
        self._agent.kill()
        assert "Traceback" not in self._agent.log, self._agent.log
        self._agent = Agent(self._socket, wait=False)
        return True

    def settle(self) -> None:
        """Let all end their calls, and release once more what nobody has heard of.

        The request of a launcher that was killed may have been served behind the release.
        """
        for worker in self.workers:
            worker.finish()
        self._agent.wait_ready()
        network = self.ipam.network(NETWORK)
        late = [owner for owner in self.books.doubtful if network.release(owner)]
        self.books.calls["served behind the release"] += len(late)
        self.books.doubtful.clear()


def test_crashes(plugin: Plugin, run_dir: Path, config: Make, tmp_path: Path) -> None:
    """After every kill: no address has two owners, no acknowledged lease is lost, no finding."""
    store = tmp_path / "store"
    begun = time.monotonic()
    with ExitStack() as stack:
        campaign = Campaign(stack, plugin, run_dir, config, store)
        books = campaign.books
        for worker in campaign.workers:
            worker.start()
        for kill in range(1, KILLS + 1):
            victim = campaign.kill_somebody()
            exact = kill % EXACT_EVERY == 0 or kill == KILLS
            if exact:
                campaign.settle()
            wrong = books.audit(campaign.ipam, NETWORK, exact=exact)
            assert not wrong, f"kill {kill} ({victim}): {wrong}"
            if exact and kill < KILLS:
                for worker in campaign.workers:
                    worker.start()
        assert books.held()["first"] == "10.1.0.2"
    seconds = time.monotonic() - begun
    print(f"{KILLS} kills in {seconds:.0f} s: {dict(campaign.kills)}; {dict(books.calls)}")
    assert campaign.kills.keys() == {"agent", "launcher", "direct", "embedder"}
    assert books.calls["ADD"] > 2 * KILLS
    assert books.calls["ADD not heard of"] > 0
    check = [str(FASTIPAM), "check", "--data-dir", str(store)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
