"""Agents killed under load, with a ledger outside that remembers what was acknowledged.

Workers start launchers as a runtime does: ADD, later DEL; an ADD that fails is followed by a DEL,
repeated until it succeeds. The agent is killed at a random moment and started again at once, so
that calls meet it dying, gone, starting and back. Then the ledger is compared with the store.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.verify import verify

from ..campaigns.books import Books
from ..cni.plugin import Make, Plugin, environment
from ..options import options
from .processes import FASTIPAM, Agent, Client, until

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Start

pytestmark = pytest.mark.campaign

KILLS = 200 if options.long else 8
WORKERS = 8
MOST_HELD = 12  # of one worker: together they keep a /25 nearly full, so addresses are reused


class Worker:
    """One of many callers: a thread from ``start`` to ``finish``, which ends owing nothing."""

    def __init__(
        self, name: str, plugin: Plugin, config: dict[str, Any], books: Books, seed: int
    ) -> None:
        self._name = name
        self._plugin = plugin
        self._config = json.dumps(config).encode()
        self._books = books
        self._random = random.Random(seed)
        self._mine: list[str] = []
        self._number = 0
        self._enough = threading.Event()
        self._thread = threading.Thread()

    def start(self) -> None:
        """Begin to call."""
        self._enough.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Let it end its call, and end."""
        self._enough.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._enough.is_set():
                self._step()
        except Exception as error:  # neither success nor an error object, say
            self._books.wrong.append(repr(error))

    def _step(self) -> None:
        if len(self._mine) >= MOST_HELD or (self._mine and self._random.random() < 0.4):
            self._delete(self._mine.pop(self._random.randrange(len(self._mine))))
            return
        self._number += 1
        owner = f"{self._name}-{self._number}"
        answer = self._plugin.raw(environment("ADD", owner), self._config)
        self._books.count(f"ADD {answer.code or 0}")
        if answer.status == 0:
            self._books.acknowledged(owner, answer.addresses[0].partition("/")[0])
            self._mine.append(owner)
        else:
            self._delete(owner)

    def _delete(self, owner: str) -> None:
        self._books.releasing(owner)
        status = 1
        while status:  # as a runtime does
            answer = self._plugin.raw(environment("DEL", owner), self._config)
            self._books.count(f"DEL {answer.code or 0}")
            status = answer.status


def _in_store(path: Path) -> dict[str, str]:
    """Owner -> address, of a store that is found to be consistent."""
    with fastipam.open(path) as ipam:
        assert verify(ipam.store) == []
        leases = list(ipam.network("mynet").leases())
    found = {lease.container_id: str(lease.address.ip) for lease in leases}
    assert len(found) == len(leases) == len(set(found.values()))
    return found


def test_killed_agents(start: Start, plugin: Plugin, config: Make, tmp_path: Path) -> None:
    """After every kill: no acknowledged lease is lost, none is doubled, the store is sound."""
    seed = options.seed
    chance = random.Random(seed)
    store = tmp_path / "store"
    made = config(ipam={"subnet": "10.1.0.0/25", "cooldown": 0})
    books = Books()
    agent = start()
    through = Plugin(plugin.path, agent.path)
    workers = [
        Worker(f"w{at}", through, made, books, chance.getrandbits(32)) for at in range(WORKERS)
    ]
    begun = time.monotonic()
    for kill in range(KILLS):
        for worker in workers:
            worker.start()
        time.sleep(chance.uniform(0.02, 0.35))
        agent.kill()
        agent = _start_again(start)
        for worker in workers:
            worker.finish()
        with fastipam.open(store) as ipam:
            wrong = books.audit(ipam, "mynet", exact=True)
        assert wrong == [], f"kill {kill}, seed {seed}"
    print(f"{KILLS} kills in {time.monotonic() - begun:.1f} s: {dict(books.calls)}")
    argv = [str(FASTIPAM), "check", "--data-dir", str(store)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    # A repeated ADD whose first commit was not heard of finds its own lease: 102, and the DEL.
    assert books.calls.keys() <= {"ADD 0", "DEL 0", "ADD 102"}
    assert books.calls["ADD 0"] > 10 * KILLS


def _start_again(start: Start) -> Agent:
    """The next agent; calls go on while it is not there yet."""
    agent = start(wait=False)
    agent.wait_ready()
    return agent


def _listens(path: Path) -> bool:
    """The file alone is not enough: it is there a moment before it."""
    try:
        Client(path).socket.close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_killed_between_commit_and_answer(
    command: str, start: Start, plugin: Plugin, config: Make, tmp_path: Path
) -> None:
    """The worst moment, committed and not heard of: DEL succeeds, ADD is an error and a DEL."""
    code = (
        "import os, sys; from fastipam.agent import loop; from fastipam.cli.commands import cli;"
        "loop.protocol.pack_answer = lambda *what: os._exit(9);"
        "cli(sys.argv[2:], prog_name='fastipam')"
    )
    made = config(ipam={"subnet": "10.1.0.0/25"})
    if command == "DEL":
        assert plugin("ADD", made).status == 0
    agent = start(prefix=[sys.executable, "-c", code], wait=False)
    until(lambda: _listens(agent.path), "the agent listens")
    answer = Plugin(plugin.path, agent.path)(command, made)
    assert agent.wait() == 9
    if command == "DEL":
        assert answer.status == 0
        assert _in_store(tmp_path / "store") == {}
    else:
        assert answer.code == 102
        assert _in_store(tmp_path / "store").keys() == {"c1"}
        assert plugin("DEL", made).status == 0
        assert _in_store(tmp_path / "store") == {}
