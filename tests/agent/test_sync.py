"""Every answer is sent after its commit's sync: the agent's system calls, watched by strace.

A durable commit of LMDB is three calls: the pages are written, ``fdatasync`` brings them to the
disk, and the meta page that makes them count is written through a descriptor opened with O_DSYNC.
An answer is proved to be on disk when, between the last byte of its request and the first of the
answer, there is a completed fdatasync and behind it such a write.
"""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ..cni.plugin import Make, Plugin, environment
from .processes import Agent, Client, ask, attach_strace, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUBNET = {"subnet": "10.1.0.0/16"}
CALLS = "openat,recvfrom,readv,sendto,sendmsg,write,close,accept4"
CALLS += ",pwrite64,pwritev,fdatasync,fsync,msync"
_CALL = re.compile(r"^\d+ +(?P<name>\w+)\((?P<first>\d+|AT_FDCWD).* = (?P<result>-?\d+)")


class Call(NamedTuple):
    """A completed system call; ``descriptor`` is its first argument (of openat: its result)."""

    name: str
    descriptor: int
    text: str
    result: int


def _calls(trace: str) -> list[Call]:
    """The completed calls, in the order in which they ended."""
    pending: dict[str, str] = {}
    calls = []
    for raw in trace.splitlines():
        line = raw
        thread = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            pending[thread] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = re.match(r"^\d+ +<\.\.\. \w+ resumed>(.*)$", line)
        if resumed:
            line = pending.pop(thread) + resumed[1]
        found = _CALL.match(line)
        if found:
            result = int(found["result"])
            name = found["name"]
            descriptor = result if name == "openat" else int(found["first"])
            calls.append(Call(name, descriptor, line, result))
    return calls


class Traced:
    """An agent under strace, attached once it runs."""

    def __init__(self, agent: Agent, output: Path) -> None:
        self.agent = agent
        self._output = output
        self._process = attach_strace(
            agent.pid, "-y", "-s", "64", "-e", f"trace={CALLS}", "-o", str(output)
        )

    def stop(self) -> list[Call]:
        """Detach; what was called meanwhile."""
        if self._process.poll() is None:
            # Its last call may not have returned yet, though its answer is here; now it has.
            assert self.agent.is_ready()
            self._process.send_signal(signal.SIGINT)
            self._process.communicate()
        return _calls(self._output.read_text())


@pytest.fixture
def traced(agent: Agent, tmp_path: Path) -> Iterator[Traced]:
    """The agent, watched."""
    made = Traced(agent, tmp_path / "trace")
    yield made
    made.stop()


class Watch:
    """Follows the calls: which answers were proved to be on disk."""

    def __init__(self, store: Path) -> None:
        self._file = f"<{store}/data.mdb"
        self._through: set[int] = set()  # descriptors that write through to the disk
        self._progress: dict[int, int] = {}  # of a connection: 1 received, 2 synced, 3 on disk
        self.syncs = 0
        self.proved = 0
        self.unproved: list[str] = []

    def follow(self, call: Call) -> None:
        """Look at one more call."""
        if call.name == "openat" and "data.mdb" in call.text:
            (self._through.add if "SYNC" in call.text else self._through.discard)(call.descriptor)
        elif call.name in ("recvfrom", "readv") and call.result > 0 and "=VERSION" not in call.text:
            self._progress[call.descriptor] = 1
        elif call.name in ("fdatasync", "fsync", "msync") and self._file in call.text:
            assert call.result == 0
            self.syncs += 1
            self._advance(1)
        elif call.name in ("pwrite64", "pwritev", "write") and self._file in call.text:
            if call.descriptor in self._through:
                self._advance(2)
        elif call.name in ("sendto", "write") and call.descriptor in self._progress:
            if self._progress.pop(call.descriptor) == 3:
                self.proved += 1
            else:
                self.unproved.append(call.text)

    def _advance(self, behind: int) -> None:
        for descriptor, progress in self._progress.items():
            if progress == behind:
                self._progress[descriptor] = behind + 1


def _watched(calls: list[Call], store: Path) -> Watch:
    watch = Watch(store)
    for call in calls:
        watch.follow(call)
    return watch


def test_answers_one_by_one(traced: Traced, config: Make, tmp_path: Path) -> None:
    """ADDs and DELs one after the other: a sync and a through-written meta page for each."""
    made = config(ipam=SUBNET)
    for at in range(20):
        assert ask(traced.agent.path, "ADD", made, f"c{at}").status == 0
    for at in range(10):
        assert ask(traced.agent.path, "DEL", made, f"c{at}").status == 0
    watch = _watched(traced.stop(), tmp_path / "store")
    assert watch.unproved == []
    assert watch.proved == 30
    assert watch.syncs >= 30


def test_answers_of_a_burst(
    traced: Traced, launcher_only: Path, config: Make, tmp_path: Path
) -> None:
    """Launchers at once: each answer is behind its sync, and one sync serves several of them."""
    made = config(ipam=SUBNET)
    through = Plugin(launcher_only, traced.agent.path)
    statuses: list[int] = []

    def work(name: int) -> None:
        for at in range(5):
            statuses.append(through("ADD", made, f"c{name}-{at}").status)  # noqa: PERF401

    threads = [threading.Thread(target=work, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 80
    watch = _watched(traced.stop(), tmp_path / "store")
    assert watch.unproved == []
    assert watch.proved == 80
    assert 0 < watch.syncs < 80


def test_group_commit(traced: Traced, config: Make, tmp_path: Path) -> None:
    """Requests that wait at one moment are one commit: two syncs at most for sixty of them."""
    made = config(ipam=SUBNET)
    assert ask(traced.agent.path, "ADD", made, "first").status == 0
    clients = [Client(traced.agent.path) for _ in range(60)]
    traced.agent.process.send_signal(signal.SIGSTOP)
    for at, client in enumerate(clients):
        client.send(environment("ADD", f"c{at}"), json.dumps(made).encode())
    traced.agent.process.send_signal(signal.SIGCONT)
    addresses = [client.receive().address for client in clients]
    for client in clients:
        client.socket.close()
    assert len(set(addresses)) == 60
    watch = _watched(traced.stop(), tmp_path / "store")
    assert watch.unproved == []
    assert watch.proved == 61
    # One for the first ADD, and what making a new store took, besides.
    assert watch.syncs <= 2 + _syncs_of_creation(traced)


def _syncs_of_creation(traced: Traced) -> int:
    """How often the new store was synced before the first answer."""
    calls = traced.stop()
    first = next(
        at for at, call in enumerate(calls) if "<socket:" in call.text and call.name == "write"
    )
    counts = Counter(call.name for call in calls[:first])
    return counts["fdatasync"] + counts["fsync"] + counts["msync"]


def test_relaxed_does_not_sync(traced: Traced, config: Make, tmp_path: Path) -> None:
    """The watch tells a store that does not sync: its answers are not proved."""
    made = config(ipam=SUBNET | {"durability": "relaxed"})
    for at in range(5):
        assert ask(traced.agent.path, "ADD", made, f"c{at}").status == 0
    calls = traced.stop()
    watch = _watched(calls, tmp_path / "store")
    assert watch.proved == 0
    assert len(watch.unproved) == 5
    until(lambda: any(call.name == "recvfrom" for call in calls), "something was seen")
