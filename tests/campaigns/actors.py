"""Those who act in the campaign "everything": runtimes, a program, an operator, a lock's holder."""

from __future__ import annotations

import itertools
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from ..agent.processes import FASTIPAM, until
from ..cni.plugin import environment
from .embedding import HOLDER, PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .ledger import Ledger

PATIENCE_S = 40.0  # then a call is killed, and the campaign fails
MOST_HELD = 7  # containers of one caller
EXPECTED = {"exhausted", "duplicate", "busy", "unknown"}
# What a call may be answered while the files of the store are replaced under it.
WHILE_REPLACED = ("store:", "system:", "code 5", "code 11")


class Gate:
    """Many may be in a step at one time; who wants to be alone waits for their end."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Be one of many."""
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is in a step, and let nobody begin one."""
        with self._condition:
            self._closed = True
            self._condition.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._condition:
                self._closed = False
                self._condition.notify_all()


class Namespaces:
    """Network namespaces with names of this campaign."""

    def __init__(self) -> None:
        self._prefix = f"fastipam-all-{uuid4().hex[:6]}"
        self._numbers = itertools.count()

    def make(self) -> str:
        """Make one and return its path."""
        name = f"{self._prefix}-{next(self._numbers)}"
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        return f"/run/netns/{name}"

    @staticmethod
    def delete(path: str) -> None:
        """Delete one."""
        subprocess.run(["ip", "netns", "delete", Path(path).name], check=True, capture_output=True)

    def left(self) -> list[str]:
        """Return those that were not deleted."""
        return [one.name for one in Path("/run/netns").glob(f"{self._prefix}-*")]


class Way(Protocol):
    """A way in: what came of a call, "unknown" when its process was killed."""

    def add(self, owner: str, netns: str) -> str:
        """An address, or one of the words."""

    def delete(self, owner: str, netns: str) -> str:
        """ "released", or one of the words."""

    def kill(self, chance: random.Random) -> bool:
        """SIGKILL what runs; False: nothing did."""


class Plugin:
    """The installed plugin, a process a call; with an agent's socket it asks the agent."""

    def __init__(self, binary: Path, socket: Path, config: dict[str, Any]) -> None:
        self._argv = [str(binary)]
        self._base = {"PATH": os.environ["PATH"], "FASTIPAM_SOCKET": str(socket)}
        self._config = config
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def call(self, command: str, owner: str, netns: str, **keys: Any) -> Any:
        """Return the document that it printed, or None when it was killed."""
        process = subprocess.Popen(
            self._argv,
            env=self._base | environment(command, owner, netns=netns),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with self._lock:
            self._running.add(process)
        try:
            config = json.dumps(self._config | keys).encode()
            output, messages = process.communicate(config, PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        if b"Traceback" in messages + output:
            raise AssertionError((messages + output).decode())
        if process.returncode < 0:
            return None
        return json.loads(output) if output else {}

    def add(self, owner: str, netns: str) -> str:
        answer = self.call("ADD", owner, netns)
        if answer is not None and "ips" in answer:
            return str(answer["ips"][0]["address"]).partition("/")[0]
        return self._word(answer)

    def delete(self, owner: str, netns: str) -> str:
        answer = self.call("DEL", owner, netns)
        return "released" if answer == {} else self._word(answer)

    @staticmethod
    def _word(answer: Any) -> str:
        if answer is None:
            return "unknown"
        words = {100: "exhausted", 102: "duplicate", 11: "busy"}
        return words.get(answer["code"], f"code {answer['code']}: {answer['msg']}")

    def kill(self, chance: random.Random) -> bool:
        with self._lock:
            running = [one for one in self._running if one.poll() is None]
            if not running:
                return False
            chance.choice(running).kill()
        return True


_Waiting = tuple["subprocess.Popen[str]", "queue.SimpleQueue[list[str] | None]"]


class Embedder:
    """The embedding program; whoever calls it after it was killed starts another."""

    def __init__(self, store: Path, network: str, chance: random.Random, ledger: Ledger) -> None:
        self._argv = [str(store), network]
        self._ledger = ledger
        self._chance = chance
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[str, _Waiting] = {}
        self._process: subprocess.Popen[str] | None = None
        self._killed: set[int] = set()

    def ask(self, *words: str) -> list[str] | None:
        """Return its answer, or None when it was killed."""
        answer: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        number = str(next(self._numbers))
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._start()
            self._waiting[number] = process, answer
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.write(" ".join([number, *words]) + "\n")
                process.stdin.flush()
        try:
            return answer.get(timeout=PATIENCE_S)
        except queue.Empty:
            process.send_signal(signal.SIGUSR1)
            time.sleep(1)
            raise

    def _start(self) -> subprocess.Popen[str]:
        seed = str(self._chance.getrandbits(32))
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *self._argv, seed, SUBNET, str(COOLDOWN_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._process = process
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            number, *words = line.split()
            if number != "ready":
                self._waiting.pop(number)[1].put(words)
        status = process.wait()
        expected = -signal.SIGKILL if process.pid in self._killed else 0
        if status != expected:
            self._ledger.fail(f"the embedding program {process.pid} ended with {status}")
        process.stdout.close()
        with self._lock:  # nobody asks it any more
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            if self._process is process:
                self._process = None
            mine = [number for number, one in self._waiting.items() if one[0] is process]
            for number in mine:
                self._waiting.pop(number)[1].put(None)

    def add(self, owner: str, netns: str) -> str:
        return (self.ask("ADD", owner, netns) or ["unknown"])[0]

    def delete(self, owner: str, netns: str) -> str:
        del netns
        return (self.ask("DEL", owner) or ["unknown"])[0]

    def kill(self, chance: random.Random) -> bool:
        del chance
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return False
            self._killed.add(self._process.pid)
            self._process.kill()
        return True

    def end(self) -> None:
        """Let it end by itself."""
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
            until(lambda: self._process is None, "the program ends")


SUBNET = "10.1.0.0/24"
COOLDOWN_S = 0.5


class Caller:
    """A runtime's thread: containers with network namespaces, which it adds, deletes and loses."""

    def __init__(
        self, name: str, way: Way, ledger: Ledger, gate: Gate, spaces: Namespaces, seed: int
    ) -> None:
        self.name = name
        self._way = way
        self._ledger = ledger
        self._gate = gate
        self._spaces = spaces
        self._chance = random.Random(seed)
        self._numbers = itertools.count()
        self.mine: dict[str, str] = {}  # owner -> path of its namespace
        self._hidden: list[tuple[str, subprocess.Popen[bytes], float]] = []

    def step(self) -> None:
        """Do one thing."""
        with self._gate.step():
            kind = self._chance.random()
            if self._hidden and time.monotonic() > self._hidden[0][2]:
                self._end_hidden()
            elif self.mine and (len(self.mine) >= MOST_HELD or kind < 0.3):
                owner = self._chance.choice(list(self.mine))
                if kind < 0.08:
                    self._lose(owner)
                elif kind < 0.12 and len(self._hidden) < 2:
                    self._hide(owner)
                else:
                    self.delete(owner)
            elif kind > 0.93 and isinstance(self._way, Embedder):
                self._fork(self._way)
            elif kind > 0.7 and isinstance(self._way, Embedder):
                self._round(self._way)
            else:
                self.add(f"{self.name}.{next(self._numbers)}")

    def add(self, owner: str) -> None:
        """Make a namespace and ADD it."""
        netns = self._spaces.make()
        self._ledger.ask(owner)
        with self._ledger.timed(f"ADD {self.name.rstrip('0123456789')}"):
            answer = self._way.add(owner, netns)
        self.mine[owner] = netns
        self._settle(owner, answer)

    def _settle(self, owner: str, answer: str) -> None:
        if answer[0].isdigit():
            self._ledger.count("ADD")
            self._ledger.told(owner, answer)
            return
        self._judge("ADD", owner, answer)
        self.delete(owner)

    def _judge(self, command: str, owner: str, answer: str) -> None:
        self._ledger.say(f"{command} {owner}: {answer}")
        self._ledger.count(f"{command} {answer.partition(':')[0]}")
        if answer not in EXPECTED and not answer.startswith(WHILE_REPLACED):
            self._ledger.fail(f"{command} {owner}: {answer}")

    def delete(self, owner: str) -> None:
        """Ask until the DEL is acknowledged, as a runtime does; then delete the namespace."""
        netns = self.mine.pop(owner)
        self._ledger.releasing(owner)
        for _ in range(100):
            with self._ledger.timed(f"DEL {self.name.rstrip('0123456789')}"):
                answer = self._way.delete(owner, netns)
            if answer == "released":
                break
            self._judge("DEL", owner, answer)
            time.sleep(0.05)
        else:
            self._ledger.fail(f"{owner} cannot be deleted: {answer}")
        self._ledger.gone(owner)
        self._ledger.count("DEL")
        if netns:
            self._spaces.delete(netns)

    def _lose(self, owner: str) -> None:
        """The namespace goes, and no DEL comes: the sweep or GC gives the address back."""
        netns = self.mine.pop(owner)
        self._ledger.releasing(owner)
        self._ledger.gone(owner)
        self._ledger.count("lost")
        if netns:
            self._spaces.delete(netns)
        else:
            self._way.delete(owner, netns)

    def _hide(self, owner: str) -> None:
        """The path of a namespace goes, and a process lives on in it: its address is in use."""
        netns = self.mine[owner]
        if not netns:
            return
        process = subprocess.Popen(["nsenter", f"--net={netns}", "sleep", "600"])
        until = time.monotonic() + 5
        while os.stat(f"/proc/{process.pid}/ns/net").st_ino != os.stat(netns).st_ino:
            if time.monotonic() > until:
                raise AssertionError("nsenter has not entered the namespace")
            time.sleep(0.005)
        self._spaces.delete(netns)
        self._ledger.say(f"{owner} is hidden")
        self._ledger.count("hidden")
        self._hidden.append((owner, process, time.monotonic() + self._chance.uniform(1, 6)))
        del self.mine[owner]

    def _end_hidden(self) -> None:
        owner, process, _ = self._hidden.pop(0)
        self.mine[owner] = ""
        self.delete(owner)
        process.kill()
        process.wait()

    def _round(self, way: Embedder) -> None:
        """Calls that an alarm interrupts."""
        owners = [f"{self.name}.{next(self._numbers)}" for _ in range(4)]
        for owner in owners:
            self._ledger.ask(owner)
        answers = way.ask("ROUND", *owners) or ["unknown"] * len(owners)
        for owner, answer in zip(owners, answers, strict=True):
            self.mine[owner] = ""
            self._ledger.count("interrupted")
            self._settle(owner, "unknown" if answer == "-" else answer)
        for owner in owners[2:]:
            if owner in self.mine:
                self.delete(owner)

    def _fork(self, way: Embedder) -> None:
        """A child of the program opens the store again, or sleeps; sometimes its parent dies."""
        how = self._chance.choice(("open", "open", "sleep"))
        answer = (way.ask("FORK", how) or ["unknown"])[0]
        self._ledger.count(f"fork: {answer}")
        if how == "sleep" and self._chance.random() < 0.5:
            way.kill(self._chance)
        if answer not in ("child:0", "slept", "not-open", "unknown"):
            self._ledger.fail(f"the forked child: {answer}")

    def finish(self) -> None:
        """Give everything back."""
        while self._hidden:
            self._end_hidden()
        for owner in list(self.mine):
            self.delete(owner)


class Operator:
    """The command line on the store, any command that frees nothing of the living."""

    def __init__(self, store: Path, ledger: Ledger, network: str, directory: Path) -> None:
        self._store = store
        self._ledger = ledger
        self._network = network
        self._list = directory / "attachments"
        self.backup = directory / "backup.mdb"

    def run(self, *words: str, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command; fail for a traceback, or a status that is not expected."""
        command = [str(FASTIPAM), *words, "--data-dir", str(self._store)]
        with self._ledger.timed(f"fastipam {words[0]}", PATIENCE_S):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
        self._ledger.count(f"{words[0]} {done.returncode}")
        if "Traceback" in done.stderr or (done.returncode and not may_fail):
            self._ledger.fail(f"fastipam {' '.join(words)}: {done.returncode} {done.stderr}")
        return done

    def step(self, chance: random.Random) -> None:
        """Run one, at random."""
        kind = chance.choice(("list", "check", "gc", "sweep", "release", "stats", "history"))
        if kind == "gc":
            self._gc()
        elif kind == "release":
            self.run("release", "--container", "nobody", "--yes", may_fail=True)
        else:
            self.run(kind, may_fail=True)

    def _gc(self) -> None:
        """Release what the list of all known containers does not have."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))
        known = sorted(self._ledger.known())
        if known:
            self._list.write_text("\n".join(known) + "\n")
            words = ("gc", "--network", self._network, "--before", moment, "--allow-unknown")
            self.run(*words, str(self._list), may_fail=True)


def hold(
    store: Path, network: str, ledger: Ledger, chance: random.Random, longest_s: float
) -> None:
    """Keep the writer's lock for a while: by a process that sleeps, is stopped, and is killed."""
    seconds = chance.choice((0.3, 1.0, longest_s))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store), network, "holder", "30"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    held = process.stdout.readline() == "held\n"
    how = chance.choice(("stopped", "killed", "stopped and killed"))
    ledger.say(f"--- the lock is held for {seconds} s ({how}): {held}")
    ledger.count(f"lock held, {how}" if held else "lock not got")
    if "stopped" in how:
        process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    if how == "stopped":
        process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    process.kill()
    process.communicate()
    ledger.say("--- the lock's holder has ended")
