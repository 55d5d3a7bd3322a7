"""Machines of a cluster with real agents and directly run plugins, and a ledger outside of them.

The ledger has every address that a runtime was told, from the answer until the runtime has asked
for its release. Nothing else is judged: what a store says does not matter here.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ..agent.processes import FASTIPAM, Client
from ..cni.plugin import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NETWORK = "podnet"
PATIENCE_S = 60.0
MOST_PODS = 24  # of one machine: three of them use up most of the pool
# Codes of an ADD that may be asked again: busy, exhausted, assigned already, refused.
_USUAL = {11, 100, 102, 105}


class Held(NamedTuple):
    """Who was told an address, when it had asked and when it was told (seconds)."""

    machine: str
    container: str
    asked: float
    told: float


class Ledger:
    """What runtimes were told. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._addresses: dict[tuple[str, str], str] = {}
        self.doubles: list[str] = []
        self.told_count = 0

    def told(self, address: str, holder: Held) -> None:
        """A runtime was told an address that nobody else may have."""
        with self._lock:
            self.told_count += 1
            other = self._held.get(address)
            if other is not None:
                self.doubles.append(f"{address}: {holder} was told it, {other} has it")
            self._held[address] = holder
            self._addresses[holder.machine, holder.container] = address

    def gone(self, machine: str, container: str) -> None:
        """A runtime is about to ask for the release of what a container has."""
        with self._lock:
            address = self._addresses.pop((machine, container), "")
            held = self._held.get(address)
            if held is not None and (held.machine, held.container) == (machine, container):
                del self._held[address]

    def lost(self, machine: str, before: float = float("inf")) -> None:
        """The pods of a machine that were told their addresses before then do not run any more."""
        with self._lock:
            for address, held in list(self._held.items()):
                if held.machine == machine and held.told < before:
                    del self._held[address]
                    self._addresses.pop((machine, held.container), None)


class Machine:
    """A machine: a store, an agent that can be killed, and runtimes that start and stop pods."""

    _numbers = itertools.count()

    def __init__(
        self, place: Path, name: str, settings: dict[str, Any], direct: Path, preload: Path | None
    ) -> None:
        self.name = name
        self.node = str(settings["node"])
        self.place = place
        self.store = place / "store"
        self.hang = place / "hang"
        self.file = place / "cluster.json"
        self.socket = place / "s"
        place.mkdir(exist_ok=True)
        self.file.write_text(
            json.dumps(settings | {"network": NETWORK, "dataDir": str(self.store)})
        )
        ipam = {
            "type": "fastipam",
            "cluster": str(self.file),
            "dataDir": str(self.store),
            "cooldown": 0,
        }
        self.config = {"cniVersion": "1.0.0", "name": NETWORK, "type": "bridge", "ipam": ipam}
        self._direct = direct
        self._environ = dict(os.environ)
        if preload is not None:
            self._environ |= {"LD_PRELOAD": str(preload), "HANG": str(self.hang)}
        self.agent: subprocess.Popen[bytes] | None = None
        self.pods: list[str] = []
        self.served = {"agent": 0, "direct": 0}
        self.odd: list[str] = []
        self._turns: list[threading.Lock] = []

    # The agent ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the agent; it serves in a moment."""
        options = ["--socket", self.socket, "--data-dir", self.store, "--cluster", self.file]
        with (self.place / "log").open("ab") as log:
            self.agent = subprocess.Popen(
                [FASTIPAM, "agent", *map(str, options), "--sweep-interval", "0"],
                stderr=log,
                stdout=log,
                env=self._environ,
            )

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the agent."""
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.send_signal(number)
            agent.send_signal(signal.SIGCONT)
            agent.wait(PATIENCE_S)

    def signal(self, number: signal.Signals) -> None:
        """Stop the agent, or let it go on."""
        assert self.agent is not None
        self.agent.send_signal(number)

    def log(self) -> str:
        """The end of what the agent has said."""
        path = self.place / "log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    # Calls of a runtime ---------------------------------------------------------------------

    def ask(self, verb: str, container: str, *, direct: bool) -> tuple[int, Any] | None:
        """One call; None when nobody answered."""
        if direct:
            done = subprocess.run(
                [self._direct],
                input=json.dumps(self.config).encode(),
                env=self._environ | environment(verb, container),
                capture_output=True,
                check=False,
                timeout=PATIENCE_S,
            )
            return done.returncode, json.loads(done.stdout) if done.stdout else None
        try:
            with Client(self.socket) as client:
                client.socket.settimeout(PATIENCE_S)
                reply = client.ask(verb, self.config, container)
        except (OSError, EOFError):
            return None
        return reply.status, reply.document

    def add(self, ledger: Ledger, *, direct: bool) -> str:
        """Start a pod; return its address, or an empty text."""
        container = f"{self.name}-{next(self._numbers)}"
        asked = time.monotonic()
        answer = self.ask("ADD", container, direct=direct)
        told = time.monotonic()
        if answer is not None and answer[0] == 0:
            address = str(answer[1]["ips"][0]["address"]).partition("/")[0]
            ledger.told(address, Held(self.name, container, asked, told))
            self.pods.append(container)
            self.served["direct" if direct else "agent"] += 1
            return address
        if answer is not None and answer[1]["code"] not in _USUAL:
            self.odd.append(str(answer[1]))
        self.delete(ledger, container, direct=direct)  # as a runtime does
        return ""

    def delete(self, ledger: Ledger, container: str, *, direct: bool, tries: int = 40) -> None:
        """Stop a pod: ask for the release until it is acknowledged."""
        ledger.gone(self.name, container)
        for _ in range(tries):
            answer = self.ask("DEL", container, direct=direct)
            if answer is not None and answer[0] == 0:
                return
            direct = not direct
            time.sleep(0.05)

    # The load -------------------------------------------------------------------------------

    def work(self, ledger: Ledger, stop: threading.Event, seed: str, *, direct: float) -> None:
        """Start and stop pods at random until ``stop``; so many of the calls run directly."""
        chance = random.Random(seed)
        turn = threading.Lock()
        self._turns.append(turn)
        while not stop.is_set():
            with turn:
                is_direct = chance.random() < direct
                if len(self.pods) >= MOST_PODS or (self.pods and chance.random() < 0.42):
                    with suppress(IndexError):  # the other thread was faster
                        container = self.pods.pop(chance.randrange(len(self.pods)))
                        self.delete(ledger, container, direct=is_direct)
                else:
                    self.add(ledger, direct=is_direct)
            time.sleep(chance.uniform(0.0, 0.03))

    @contextmanager
    def still(self) -> Iterator[None]:
        """Have no call under way."""
        with ExitStack() as stack:
            for turn in self._turns:
                stack.enter_context(turn)
            yield

    # What an operator does ------------------------------------------------------------------

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``fastipam …`` on this machine."""
        return subprocess.run(
            [FASTIPAM, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=self._environ,
        )

    def cluster(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``fastipam cluster …`` with this machine's settings."""
        return self.run("cluster", *arguments, "--config", str(self.file))

    def copy_disk(self, target: Path) -> None:
        """Copy the store; the agent is away for so long."""
        with self.still():
            self.end(signal.SIGTERM)
            shutil.copytree(self.store, target)
            target.chmod(0o700)
            self.start()
