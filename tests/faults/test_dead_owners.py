"""ADDs that leases of dead containers are in the way of: released in the call, and never a living.

Real namespaces, the real plugin, without an agent and with one.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import fastipam
from fastipam import cni, processes
from fastipam.agent.worker import Worker
from fastipam.sweep import Report

from ..cni.plugin import environment
from ..e2e import tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..cni.plugin import Answer, Call, Make, Plugin


@pytest.fixture(autouse=True)
def root() -> None:
    """Only root makes namespaces."""
    tools.require_root()


class Namespaces:
    """Network namespaces by name, each with the path that a runtime passes."""

    def __init__(self) -> None:
        self._prefix = f"fastipam-dead-{uuid4().hex[:8]}"
        self._made: set[str] = set()

    def path(self, name: str) -> str:
        return f"/run/netns/{self._prefix}-{name}"

    def make(self, *names: str) -> None:
        for name in names:
            subprocess.run(["ip", "netns", "add", f"{self._prefix}-{name}"], check=True)
            self._made.add(name)

    def end(self, *names: str) -> None:
        for name in names:
            subprocess.run(["ip", "netns", "delete", f"{self._prefix}-{name}"], check=True)
            self._made.discard(name)

    def end_all(self) -> None:
        self.end(*self._made)


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """Namespaces that end with the test."""
    made = Namespaces()
    try:
        yield made
    finally:
        made.end_all()


@contextmanager
def living(path: str) -> Iterator[None]:
    """A process that runs in a namespace."""
    command = ("nsenter", f"--net={path}", "sh", "-c", "echo ready; read line")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def made(config: Make) -> dict[str, Any]:
    """A network of five addresses."""
    return config(ipam={"subnet": "10.1.0.0/29", "cooldown": 0})


NAMES = ("a", "b", "c", "d", "e")


def add(
    way: Plugin, made: dict[str, Any], namespaces: Namespaces, name: str, **more: str
) -> Answer:
    return way("ADD", made, name, netns=namespaces.path(name), **more)


def fill(way: Plugin, made: dict[str, Any], namespaces: Namespaces) -> dict[str, str]:
    """Give every address to a container of its own; return them by name."""
    namespaces.make(*NAMES)
    found = {}
    for name in NAMES:
        answer = add(way, made, namespaces, name)
        assert answer.status == 0, answer
        found[name] = answer.addresses[0]
    return found


def test_full_pool(
    way: Plugin,
    made: dict[str, Any],
    namespaces: Namespaces,
    tmp_path: Path,
    stored: Callable[[Path], dict[str, str]],
) -> None:
    """An ADD that finds a pool full gets what a dead container had, in the same call."""
    held = fill(way, made, namespaces)
    namespaces.end("b", "d")
    namespaces.make("new", "newer", "late")
    answers = [add(way, made, namespaces, name) for name in ("new", "newer")]
    assert {one.addresses[0] for one in answers} == {held["b"], held["d"]}
    assert stored(tmp_path / "store").keys() == {"a", "c", "e", "new", "newer"}
    assert add(way, made, namespaces, "late").code == 100


def test_living_without_a_path(
    way: Plugin,
    made: dict[str, Any],
    namespaces: Namespaces,
    tmp_path: Path,
    stored: Callable[[Path], dict[str, str]],
) -> None:
    """A container whose path is gone and whose processes live keeps its address."""
    fill(way, made, namespaces)
    before = stored(tmp_path / "store")
    with ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(living(namespaces.path(name)))
        namespaces.end(*NAMES)
        namespaces.make("new")
        answer = add(way, made, namespaces, "new")
        assert answer.code == 100
        again = way("ADD", made, "a", netns=namespaces.path("new"))
        assert again.code == 102
        assert "which still exists" in again.message
        assert stored(tmp_path / "store") == before


def test_same_id(way: Plugin, made: dict[str, Any], namespaces: Namespaces, tmp_path: Path) -> None:
    """A container that comes again in a new namespace is served when the old one is gone."""
    namespaces.make("old", "new")
    for netns in ("old", "new"):
        if netns == "new":
            assert way("ADD", made, "c", netns=namespaces.path("new")).code == 102
            namespaces.end("old")
            # Leases younger than an agent's last search wait for the next one.
        answer = way("ADD", made, "c", netns=namespaces.path(netns))
        assert answer.status == 0, answer
    with fastipam.open(tmp_path / "store") as ipam:
        (lease,) = ipam.network("mynet").leases()
        assert lease.netns == namespaces.path("new")


def test_wanted_address(way: Plugin, made: dict[str, Any], namespaces: Namespaces) -> None:
    """A static address whose last owner is gone is assigned; that of a living one is not."""
    namespaces.make("old", "new")
    args = "IP=10.1.0.4"
    assert add(way, made, namespaces, "old", args=args).status == 0
    assert add(way, made, namespaces, "new", args=args).code == 101
    namespaces.end("old")
    answer = add(way, made, namespaces, "new", args=args)
    assert answer.addresses == ["10.1.0.4/29"]


def test_another_sandbox_of_the_pod(
    way: Plugin, made: dict[str, Any], namespaces: Namespaces
) -> None:
    """A pod's next sandbox is told to try later while the one before lives, another pod is not."""
    namespaces.make("old", "new")
    pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={};K8S_POD_UID={};IP=10.1.0.4"
    assert add(way, made, namespaces, "old", args=pod.format("web-0", "u1")).status == 0
    refused = add(way, made, namespaces, "new", args=pod.format("web-0", "u2"))
    assert refused.code == 11
    assert "another sandbox of pod shop/web-0 has not ended yet: the requested" in refused.message
    assert "fastipam release 10.1.0.4" in refused.document["details"]
    for args in (pod.format("web-1", "u1"), "IP=10.1.0.4"):
        assert add(way, made, namespaces, "new", args=args).code == 101
    namespaces.end("old")
    answer = add(way, made, namespaces, "new", args=pod.format("web-0", "u2"))
    assert answer.addresses == ["10.1.0.4/29"]


def test_what_cannot_be_proven(
    call: Call, made: dict[str, Any], namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not all processes can be seen nothing is released, and the refusal says why."""
    namespaces.make("old", "new")
    assert call("ADD", made, "c", netns=namespaces.path("old")).status == 0
    namespaces.end("old")
    real = processes.search

    def blind(*args: Any) -> processes.Found:
        return processes.Found(real(*args).inodes, "/proc/7/ns/net cannot be read")

    monkeypatch.setattr(processes, "search", blind)
    monkeypatch.setattr(processes, "_searches", processes.Searches())
    answer = call("ADD", made, "c", netns=namespaces.path("new"))
    assert answer.code == 102
    assert "which may exist elsewhere: /proc/7/ns/net cannot be read" in answer.message


def test_second_look(call: Call, made: dict[str, Any], namespaces: Namespaces) -> None:
    """A lease that names no inode waits for a second look, and the refusal says how long."""
    namespaces.make("old", "new")
    assert call("ADD", made, "proof", netns=namespaces.path("new")).status == 0
    assert call("ADD", made, "c", netns=namespaces.path("never")).status == 0
    answer = call("ADD", made, "c", netns=namespaces.path("new"))
    assert answer.code == 102
    assert "in 60 s at the earliest, the lease is released" in answer.message


def test_requests_beside_a_search() -> None:
    """A worker's question takes as long as it takes, and who asked for it is told to wait."""
    asked, go = threading.Event(), threading.Event()
    woken = threading.Event()
    worker = Worker(woken.set)

    def slow(*_: object) -> processes.Found:
        asked.set()
        assert go.wait(10)
        return processes.Found({5: "here"}, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "look", slow)
        assert worker.look({5}, 0, ()) is None
        assert asked.wait(10)
        began = time.monotonic()
        assert worker.look({5}, 0, ()) is None, "it is asked once, and nobody waits"
        assert time.monotonic() - began < 5
        go.set()
        assert woken.wait(10)
        found = worker.look({5}, 0, ())
        assert found is not None
        assert found.where(5) == "here"
    worker.stop()


def test_embedded_plugin_shares_a_report(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADDs of one process that find the pool full within a second make one sweep."""

    sweeps: list[object] = []

    def count(*args: Any) -> Report:
        sweeps.append(args)
        return Report(0, [], [], [])

    monkeypatch.setattr("fastipam.sweep.release_dead", count)
    for at in range(12):
        variables = environment("ADD", f"c{at}")
        status, _ = cni.handle(variables, json.dumps(made).encode())
        assert (status == 0) is (at < len(NAMES))
    assert len(sweeps) == 1
