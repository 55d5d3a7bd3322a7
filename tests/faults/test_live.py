"""A store is repaired, copied and restored under an agent that goes on serving.

Callers assign and give back all the time; a ledger of what they were told is kept beside it.
"""

from __future__ import annotations

import random
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.backup import backup, restore
from fastipam.verify import verify

from ..agent.processes import FASTIPAM, until
from ..cni.plugin import Answer, Make, Plugin
from ..options import options
from .damage import damage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..agent.conftest import Start

pytestmark = pytest.mark.campaign

ROUNDS = 200 if options.long else 12
CALLERS = 3
# What follows from the leases and reservations; these say who has what, and are believed.
DERIVED = ("pages", "owners", "cooldown", "main", "sticky", "missing", "events")
BROKEN = 5  # the code of a store that contradicts itself


class Callers:
    """Threads that ADD and DEL; ``told`` is what each container has, as it was told."""

    def __init__(self, way: Plugin, made: dict[str, Any]) -> None:
        self._way = way
        self._made = made
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.told: dict[str, str] = {}
        self.wrong: list[str] = []
        self.served = 0
        self.last: Answer | None = None
        self._phase = 0  # odd while the store is damaged
        self.said_full: list[str] = []  # meanwhile
        self._threads = [threading.Thread(target=self._run, args=(at,)) for at in range(CALLERS)]

    @contextmanager
    def calling(self) -> Iterator[None]:
        """They call until the block ends."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)
        assert self.wrong == []

    @contextmanager
    def damaged(self) -> Iterator[None]:
        """Who is told here that all is taken goes into ``said_full``: a damaged page says so."""
        self._phase += 1
        try:
            yield
        finally:
            self._phase += 1

    def _run(self, which: int) -> None:
        chance = random.Random(which)
        mine: list[str] = []
        number = 0
        while not self._stop.is_set():
            if len(mine) > 15 or (mine and chance.random() < 0.4):
                name = mine.pop(chance.randrange(len(mine)))
                if not self._give_back(name):
                    mine.append(name)
            else:
                number += 1
                if self._take(f"w{which}-{number}"):
                    mine.append(f"w{which}-{number}")

    def _take(self, name: str) -> bool:
        before = self._phase
        answer = self._way("ADD", self._made, name)
        self.last = answer
        if answer.status:
            saw_damage = before % 2 == 1 or self._phase != before
            if answer.code == fastipam.PoolExhausted.cni_code and saw_damage:
                self.said_full.append(f"ADD {name}: {answer}")
            elif answer.code != BROKEN:
                self.wrong.append(f"ADD {name}: {answer}")
            return False
        address = answer.addresses[0].partition("/")[0]
        with self._lock:
            holder = [one for one, its in self.told.items() if its == address]
            if holder:
                self.wrong.append(f"{address} was given to {name} and to {holder}")
            self.told[name] = address
            self.served += 1
        return True

    def _give_back(self, name: str) -> bool:
        # No longer ours from the moment of the call: somebody else may be told before we are.
        with self._lock:
            address = self.told.pop(name)
        answer = self._way("DEL", self._made, name)
        if answer.status:
            if answer.code != BROKEN:
                self.wrong.append(f"DEL {name}: {answer}")
            with self._lock:
                self.told[name] = address
        return answer.status == 0


@pytest.fixture
def callers(start: Start, launcher_only: Path, config: Make) -> Callers:
    """Callers of an agent, on a pool that they nearly fill."""
    way = Plugin(launcher_only, start().path)
    return Callers(way, config(ipam={"subnet": "10.1.0.0/26", "cooldown": 0}))


def _wait(callers: Callers, enough: int, done: str) -> None:
    try:
        until(lambda: callers.served > enough, f"it serves after {done}")
    except AssertionError as error:
        raise AssertionError(f"{callers.last}") from error


def _fastipam(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FASTIPAM, *map(str, argv)], capture_output=True, text=True, check=False, timeout=60
    )


def test_repair_while_an_agent_serves(callers: Callers, tmp_path: Path) -> None:
    """Damage and repair, many times, between the calls: none is given to two, none is lost."""
    store = tmp_path / "store"
    chance = random.Random(7)
    with callers.calling(), fastipam.open(store) as ipam:
        for _ in range(ROUNDS):
            enough = callers.served + 3
            with callers.damaged():
                done = damage(ipam.store, chance, DERIVED)
                mended = _fastipam("check", "--repair", "--data-dir", store)
            assert mended.returncode in (0, 1), (done, mended)
            checked = _fastipam("check", "--data-dir", store)
            assert checked.returncode == 0, (done, mended, checked)
            _wait(callers, enough, done)
            assert not callers.said_full or done.startswith("pages"), (done, callers.said_full)
            callers.said_full.clear()
            # Owners' entries were damaged, and no lease: what a repair has reserved since an
            # entry spoke of it is nobody's.
            ipam.network("mynet").unreserve("10.1.0.0/26")
    with fastipam.open(store, create=False) as ipam:
        assert verify(ipam.store) == []
        leases = {one.container_id: str(one.address.ip) for one in ipam.network("mynet").leases()}
    for name, address in callers.told.items():
        assert leases.get(name) == address, name


def test_backup_and_restore_while_an_agent_serves(callers: Callers, tmp_path: Path) -> None:
    """A backup is of one moment; a restore puts that moment back, and the agent goes on from it."""
    store = tmp_path / "store"
    with callers.calling():
        until(lambda: callers.served > 10, "there is something to copy")
        for at in range(5):
            assert _fastipam("backup", tmp_path / f"b{at}", "--data-dir", store).returncode == 0
    for at in range(5):
        with fastipam.open(tmp_path / f"again{at}") as ipam:
            restore(ipam.store, tmp_path / f"b{at}")
            assert verify(ipam.store) == []
    before = dict(callers.told)
    with fastipam.open(store, create=False) as ipam:
        backup(ipam.store, tmp_path / "last")
    assert callers._way("ADD", callers._made, "later").status == 0
    done = _fastipam("restore", tmp_path / "last", "--replace", "--data-dir", store)
    assert done.returncode == 0, done
    with fastipam.open(store, create=False) as ipam:
        leases = {one.container_id: str(one.address.ip) for one in ipam.network("mynet").leases()}
    assert leases == before
    answer = callers._way("ADD", callers._made, "after")
    assert answer.status == 0
    assert answer.addresses[0].partition("/")[0] not in before.values()
