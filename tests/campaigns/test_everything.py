"""Everything at once: all ways in, all that ends them, and all that an operator does to a store.

An agent behind launchers, processes that go directly, a program with threads, signals and forks,
and the command line work on one small pool. Agents, launchers, programs and holders of the writer's
lock are killed and stopped, namespaces come and go, backups are restored, and files are replaced
under open stores. An outside ledger and a reader of the raw store judge.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .. import raw_reader
from ..agent.processes import Agent, until
from ..cni.plugin import NO_AGENT
from ..e2e import tools
from ..options import options
from .actors import (
    COOLDOWN_S,
    SUBNET,
    Caller,
    Embedder,
    Gate,
    Namespaces,
    Operator,
    Plugin,
    hold,
)
from .ledger import EVENT, Ledger, owners_in

if TYPE_CHECKING:
    from ..cni.plugin import Plugin as Installed

pytestmark = pytest.mark.campaign

SECONDS = options.minutes * 60 or (3600 if options.long else 10)
LONGEST_HOLD_S = 17.0 if SECONDS > 60 else 1.5  # of the writer's lock; a waiter gives up after 8 s
NETWORK = "mynet"
HISTORY = 300  # events; the raw reader reads them all at each audit
AUDIT_EVERY = 6  # events of the campaign
AGENT_OPTIONS = ("--sweep-interval", "0.7", "--grace", "1")


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory if there is one: the campaign is about order, not about disks."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fastipam-", dir=memory) as made:
        yield Path(made)


class Campaign:
    """The processes, the callers, and what happens to them next."""

    def __init__(self, stack: ExitStack, installed: Installed, base: Path) -> None:
        self.chance = random.Random(options.seed)
        self.ledger = Ledger(NETWORK)
        self.spaces = Namespaces()
        self.store = base / "store"
        self._base = base
        self._gate = Gate()
        self._socket = base / "s"
        self._enough = threading.Event()
        self.operator = Operator(self.store, self.ledger, NETWORK, base)
        config = {
            "cniVersion": "1.1.0",
            "name": NETWORK,
            "type": "bridge",
            "ipam": {
                "type": "fastipam",
                "dataDir": str(self.store),
                "subnet": SUBNET,
                "cooldown": COOLDOWN_S,
                "history": HISTORY,
            },
        }
        self.through = Plugin(installed.path, self._socket, config)
        self.direct = Plugin(installed.path, NO_AGENT, config)
        self.embedders = [Embedder(self.store, NETWORK, self.chance, self.ledger) for _ in range(2)]
        self.callers = [
            self._caller("launcher0", self.through),
            self._caller("launcher1", self.through),
            self._caller("direct0", self.direct),
            *(self._caller(f"thread{at}", self.embedders[at % 2]) for at in range(4)),
        ]
        stack.callback(self._clean)
        self.callers[2].add("direct0.first")  # makes the store
        self._threads: list[threading.Thread] = []
        self._agent = self._new_agent()
        self._agent.wait_ready()
        stack.callback(lambda: self._agent.kill())  # noqa: PLW0108  # the last of them

    def _clean(self) -> None:
        """End what is left after a failure."""
        for one in self.embedders:
            one.kill(self.chance)
        for name in self.spaces.left():
            self.spaces.delete(f"/run/netns/{name}")

    def _caller(self, name: str, way: Plugin | Embedder) -> Caller:
        seed = self.chance.getrandbits(32)
        return Caller(name, way, self.ledger, self._gate, self.spaces, seed)

    def _new_agent(self) -> Agent:
        return Agent(self._socket, "--data-dir", str(self.store), *AGENT_OPTIONS, wait=False)

    def run(self) -> None:
        """Let everything happen until the time is over, or something was wrong."""
        begun = time.monotonic()
        for each in (*(one.step for one in self.callers), self._operate):
            self._threads.append(threading.Thread(target=self._loop, args=(each,), daemon=True))
            self._threads[-1].start()
        events: list[Callable[[], None]] = [
            *[self._kill_agent] * 2, self._stop_agent, *[self._kill_caller] * 5, self._hold,
            self._restore, self._replace_store, self._remove_lock, self._gc,
        ]  # fmt: skip
        number = 0
        try:
            while time.monotonic() - begun < SECONDS and not self.ledger.wrong:
                time.sleep(self.chance.uniform(0.0, 0.5))
                if not number % len(events):
                    self.chance.shuffle(events)  # each kind comes in its turn
                self._try(events[number % len(events)])
                number += 1
                if number % AUDIT_EVERY == 0:
                    self.ledger.audit(self.store)
        finally:
            self._enough.set()
            for one in self._threads:
                one.join(60)
                if one.is_alive():
                    self.ledger.fail("a caller does not end")

    def _loop(self, step: Callable[[], None]) -> None:
        while not self._enough.is_set() and not self.ledger.wrong:
            self._try(step)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            self.ledger.fail(f"{getattr(step, '__qualname__', step)}: {error!r}")

    def _operate(self) -> None:
        time.sleep(self.chance.uniform(0.1, 0.6))
        with self._gate.step():
            self.operator.step(self.chance)

    # What happens --------------------------------------------------------------------------------

    def _event(self, what: str) -> None:
        self.ledger.say(f"{EVENT} {what}")
        self.ledger.count(what)

    def _kill_agent(self) -> None:
        """The next one starts at once; calls meet it dying, gone, starting and back."""
        self._event("agent killed")
        self._agent.kill()
        self._agent = self._new_agent()

    def _stop_agent(self) -> None:
        self._event("agent stopped")
        self._agent.process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 2.5))
        self._agent.process.send_signal(signal.SIGCONT)

    def _kill_caller(self) -> None:
        victim = self.chance.choice((self.through, self.direct, *self.embedders))
        if victim.kill(self.chance):  # type: ignore[attr-defined]
            self._event(f"{type(victim).__name__} killed")

    def _hold(self) -> None:
        hold(self.store, NETWORK, self.ledger, self.chance, LONGEST_HOLD_S)

    def _gc(self) -> None:
        """CNI's GC, while no ADD is under way: a runtime does not run both at once."""
        way = self.chance.choice((self.through, self.direct))
        with self._gate.alone():
            self._event("GC")
            known = [{"containerID": one, "ifname": "eth0"} for one in self.ledger.known()]
            with self.ledger.timed("GC"):
                answer = way.call("GC", "", "", **{"cni.dev/valid-attachments": known})
            if answer not in ({}, None) and answer["code"] != 11:
                self.ledger.fail(f"GC: {answer}")

    def _restore(self) -> None:
        """Put back a moment of some seconds ago; what runs and did not then is deleted first."""
        with self._gate.alone():
            self._event("backup")
            if self.operator.run("backup", str(self.operator.backup)).returncode:
                return
            then = set(self.ledger.known())
        time.sleep(self.chance.uniform(0.1, 2.0))
        with self._gate.alone():
            self._event("restore")
            for caller in self.callers:
                for owner in list(caller.mine):
                    if owner not in then:
                        caller.delete(owner)
            hidden = self.ledger.known() - then
            if hidden:
                self.ledger.say(f"no restore: {hidden} are hidden")
                return
            self.operator.run("restore", str(self.operator.backup), "--replace")
            for owner in then - self.ledger.known():  # as a runtime, which does not know them
                self.direct.delete(owner, "")

    def _replace_store(self) -> None:
        """Move the store away under its open programs, and restore a backup in its place."""
        with self._gate.alone():
            self._event("store replaced")
            if self.operator.run("backup", str(self.operator.backup)).returncode:
                return
            old = self._base / "old"
            shutil.rmtree(old, ignore_errors=True)
            self.store.rename(old)
            self.operator.run("restore", str(self.operator.backup))

    def _remove_lock(self) -> None:
        """Remove one of the two lock files under the open programs."""
        with self._gate.alone():
            name = self.chance.choice(("lock.mdb", "turn.lock"))
            self._event(f"{name} removed")
            (self.store / name).unlink(missing_ok=True)

    # The end -------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Give back everything, and let everybody end."""
        for caller in self.callers:
            caller.finish()
        for one in self.embedders:
            one.end()
        self._agent.wait_ready()
        end = time.monotonic() + 8  # sweeps: the leases whose namespaces are gone
        while self.leases() and time.monotonic() < end:
            time.sleep(0.2)
        self.ledger.calls["left to GC"] = len(self.leases())
        if self.leases():
            full_s = int(time.time()) + 1  # a list's time has whole seconds, and has to be over
            time.sleep(full_s - time.time())
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(full_s))
            (self._base / "attachments").write_text("")
            words = ("gc", "--network", NETWORK, "--allow-empty", "--before", moment)
            self.operator.run(*words, str(self._base / "attachments"))
        self.operator.run("check")
        self.ledger.audit(self.store)
        if self._agent.terminate() != 0 or "Traceback" in self._agent.log:
            self.ledger.fail(f"the agent's end: {self._agent.log}")

    def leases(self) -> dict[str, str]:
        """Address -> container of what is assigned."""
        return owners_in(raw_reader.load(self.store), NETWORK)

    def left(self) -> list[str]:
        """What is left behind: leases, readers, locks, files, processes, namespaces."""
        shutil.rmtree(self._base / "old", ignore_errors=True)
        files = {one.name for one in self.store.iterdir()}
        found = [f"the lease {one}" for one in self.leases().items()]
        found += [f"the namespace {one}" for one in self.spaces.left()]
        found += [f"the file {one}" for one in files - {"data.mdb", "lock.mdb", "turn.lock"}]
        found += [f"the reader {one}" for one in raw_reader.readers(self.store)]
        found += [f"the process {one}" for one in _processes_of(self._base)]
        mine = {"store", "s.lock", "s.log", "backup.mdb", "attachments"}
        found += [f"the file {one.name}" for one in self._base.iterdir() if one.name not in mine]
        inodes = {f":{(self.store / one).stat().st_ino} " for one in files}
        locks = Path("/proc/locks").read_text().splitlines()
        return found + [f"the lock {one}" for one in locks if any(name in one for name in inodes)]


def _processes_of(base: Path) -> list[str]:
    """The command lines that name this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if str(base) in line:
            found.append(line)
    return found


def test_everything(plugin: Installed, base: Path) -> None:
    """No living namespace loses or shares its address, nobody waits for 10 s, nothing is left."""
    tools.require_root()
    with ExitStack() as stack:
        campaign = Campaign(stack, plugin, base)
        ledger = campaign.ledger
        campaign.run()
        if not ledger.wrong:
            campaign.finish()
        told = "\n".join((f"seed {options.seed}: {ledger.wrong}", *ledger.events, *ledger.log))
        assert not ledger.wrong, told
        until(lambda: not campaign.left(), f"nothing is left: {campaign.left()}")
    slowest = {what: f"{took:.1f}" for what, took in sorted(ledger.slowest.items())}
    print(f"{SECONDS:.0f} s: {dict(sorted(ledger.calls.items()))}; slowest {slowest}")
    assert ledger.calls["audits"]
    assert ledger.calls["ADD"] > SECONDS
