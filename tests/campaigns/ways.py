"""The ways in to a store, as processes that can be killed: launchers, direct runs, an embedder.

A call that nobody heard the end of returns None; whoever made it has to ask for a release.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from ..cni.plugin import environment

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 60.0

# Reads a command a line, does it in one transaction, and says so when it is committed.
EMBEDDER = """
import sys
import fastipam
path, name = sys.argv[1:]
ipam = fastipam.open(path)
print("ready", flush=True)
for line in sys.stdin:
    command, *owners = line.split()
    try:
        with ipam.transaction() as txn:
            net = txn.network(name, cooldown_s=0)
            if command == "ADD":
                done = [str(net.allocate(owner).address.ip) for owner in owners]
            else:
                for owner in owners:
                    net.release(owner)
                done = ["released"]
    except fastipam.PoolExhausted:
        done = ["exhausted"]
    print(*done, flush=True)
"""


class Way(Protocol):
    """One of the ways in."""

    def add(self, owners: list[str]) -> list[str] | None:
        """The owners' addresses; [] when it was refused, None when nobody knows."""

    def delete(self, owner: str) -> bool:
        """Whether it is acknowledged."""

    def kill(self, chance: random.Random) -> bool:
        """SIGKILL what runs; False: nothing did."""


class Processes:
    """The installed plugin, a process a call: launchers with an agent, else the entry point."""

    def __init__(self, binary: Path, socket: Path, config: dict[str, Any]) -> None:
        self._argv = [str(binary)]
        self._base = {"PATH": os.environ["PATH"], "FASTIPAM_SOCKET": str(socket)}
        self._config = json.dumps(config).encode()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def _call(self, command: str, owner: str) -> Any:
        """The document that it printed; None when it was killed."""
        process = subprocess.Popen(
            self._argv,
            env=self._base | environment(command, owner),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with self._lock:
            self._running.add(process)
        try:
            output, messages = process.communicate(self._config, PATIENCE_S)
        finally:
            with self._lock:
                self._running.discard(process)
        assert b"Traceback" not in messages, messages.decode()
        if process.returncode < 0:
            assert process.returncode == -signal.SIGKILL, process.returncode
            return None
        return json.loads(output) if output else {}

    def add(self, owners: list[str]) -> list[str] | None:
        answer = self._call("ADD", owners[0])
        if answer is None:
            return None
        if "code" in answer:
            assert answer["code"] in (100, 102), answer
            return [] if answer["code"] == 100 else None
        return [answer["ips"][0]["address"].partition("/")[0]]

    def delete(self, owner: str) -> bool:
        answer = self._call("DEL", owner)
        assert answer is None or answer == {}, answer
        return answer is not None

    def kill(self, chance: random.Random) -> bool:
        with self._lock:
            running = [one for one in self._running if one.returncode is None]
            if not running:
                return False
            os.kill(chance.choice(running).pid, signal.SIGKILL)
        return True


class Embedder:
    """A program that uses the library; whoever calls it after it was killed starts another."""

    def __init__(self, store: Path, name: str) -> None:
        self._argv = [sys.executable, "-c", EMBEDDER, str(store), name]
        self._process: subprocess.Popen[str] | None = None

    def _ask(self, line: str) -> str:
        """Its answer, "" when it has died."""
        process = self._process
        if process is None:
            process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._process = process
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                return self._buried()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return answer.strip() if answer.endswith("\n") else self._buried()

    def _buried(self) -> str:
        process, self._process = self._process, None
        assert process is not None
        with process:
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
        assert process.returncode == -signal.SIGKILL, process.returncode
        return ""

    def add(self, owners: list[str]) -> list[str] | None:
        answer = self._ask(" ".join(["ADD", *owners]))
        return [] if answer == "exhausted" else answer.split() or None

    def delete(self, owner: str) -> bool:
        return self._ask(f"DEL {owner}") == "released"

    def kill(self, chance: random.Random) -> bool:
        del chance
        process = self._process
        if process is None or process.returncode is not None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        return True

    def end(self) -> None:
        """Let it end by itself."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate("", PATIENCE_S)
