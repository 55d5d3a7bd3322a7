"""Several stores in one agent: what holds up one of them holds up no other request."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import termios
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam.agent import lanes
from fastipam.agent.lanes import Lanes, Ticket, Work
from fastipam.agent.requests import Answer, Request

from ..cni.plugin import Make, environment
from .conftest import Start
from .processes import Client, ask, attach_strace, until

SUBNET = {"subnet": "10.1.0.0/24", "durability": "relaxed"}


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of a store's writers, as a program does that was stopped in a transaction."""
    with fastipam.open(path, "relaxed") as ipam, ipam.store.write():
        yield


def _configs(config: Make, tmp_path: Path, *names: str) -> list[dict[str, Any]]:
    return [config(ipam={**SUBNET, "dataDir": str(tmp_path / name)}) for name in names]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("swept", [True, False])
def test_a_store_that_is_held(
    known: bool, swept: bool, start: Start, free_port: int, config: Make, tmp_path: Path
) -> None:
    """While one store is held, all others are served, and VERSION and /healthz are answered.

    So it is when the agent has not opened the store yet, and when it is to sweep it.
    """
    options = ["--data-dir", str(tmp_path / "held")] if swept else []
    made = _configs(config, tmp_path, "held", "b", "c")
    with ExitStack() as stack:
        hold = stack.enter_context(ExitStack())
        if not known:
            hold.enter_context(_held(tmp_path / "held"))
        agent = start("--http", str(free_port), "--sweep-interval", "0.1", *options)
        if known:
            assert ask(agent.path, "ADD", made[0], "first").status == 0
            hold.enter_context(_held(tmp_path / "held"))
        client = stack.enter_context(Client(agent.path))
        client.send(environment("ADD", "waits"), json.dumps(made[0]).encode())
        for number in range(20):
            for other in made[1:]:
                assert ask(agent.path, "ADD", other, f"c{number}").status == 0
                assert ask(agent.path, "STATUS", other).status == 0
            assert ask(agent.path, "VERSION", {}).status == 0
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/healthz") as answer:
                assert answer.status == 200
        hold.close()
        assert client.receive().status == 0
    with fastipam.open(tmp_path / "held") as ipam:
        owners = [lease.container_id for lease in ipam.network("mynet").leases()]
    assert owners == (["first", "waits"] if known else ["waits"])


def test_a_disk_that_hangs(start: Start, config: Make, tmp_path: Path) -> None:
    """While a sync of one store does not return, the others are served."""
    slow = config(ipam={**SUBNET, "durability": "durable", "dataDir": str(tmp_path / "slow")})
    others = _configs(config, tmp_path, "a", "b")  # relaxed: they are not synced
    agent = start("--sweep-interval", "0")
    for made in (slow, *others):
        assert ask(agent.path, "ADD", made, "first").status == 0
    hang = "inject=fdatasync:delay_enter=20000000"
    strace = attach_strace(agent.pid, "-e", "trace=fdatasync", "-e", hang, "-o", os.devnull)
    try:
        with Client(agent.path) as client:
            assert ask(agent.path, "VERSION", {}).status == 0
            client.send(environment("ADD", "waits"), json.dumps(slow).encode())
            time.sleep(0.1)  # so that it comes alone
            for number in range(10):
                for other in others:
                    assert ask(agent.path, "ADD", other, f"c{number}").status == 0
                assert ask(agent.path, "VERSION", {}).status == 0
            assert not select.select([client.socket], [], [], 0)[0], "its sync has not returned"
            strace.send_signal(signal.SIGINT)
            assert client.receive().status == 0
    finally:
        strace.kill()
        strace.communicate()


class _Counted:
    """What lanes do in these tests: they answer with the name of their lane."""

    def __init__(self) -> None:
        self.made: list[str | None] = []

    def __call__(self, path: str | None) -> Work:
        self.made.append(path)
        output = str(path).encode()
        return Work(lambda requests: [Answer(0, output, b"") for _ in requests])


def _request(name: str) -> Request:
    return Request({"NAME": name}, b"", 1, 0)


def _answers(lanes_: Lanes, names: list[str]) -> list[bytes]:
    """Hand over a request for each name and wait for the answers, in this order."""
    tickets = [Ticket(name, _request(name)) for name in names]
    found: dict[str, bytes] = {}

    def all_are_there() -> bool:
        found.update((ticket.owner, answer.output) for ticket, answer in lanes_.done())
        return len(found) == len(names)

    lanes_.put(tickets)
    until(all_are_there, "all are answered")
    return [found[name] for name in names]


def test_more_stores_than_lanes() -> None:
    """There are so many threads at most; the stores above that share one."""
    work = _Counted()
    many = Lanes(work, lambda request: request.variables["NAME"])
    names = [f"store {number}" for number in range(lanes.MOST_LANES + 20)]
    answers = _answers(many, names)
    alone = [name.encode() for name in names[: lanes.MOST_LANES]]
    assert answers == [*alone, *[lanes.SHARED.encode()] * 20]
    assert len(work.made) == lanes.MOST_LANES + 2, "also for the loop, and the shared one"
    assert many.stop(20)


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread for its lane a request is served by the loop."""

    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", fail)
    assert _answers(Lanes(_Counted()), ["a"]) == [b"None"]


def test_a_defect_ends_the_agent() -> None:
    """What a lane raises is raised in the loop, which ends the process instead of serving half."""

    def fail(_: object) -> list[Answer]:
        raise ValueError("a defect")

    broken = Lanes(lambda _: Work(fail))
    broken.put([Ticket("a", _request("a"))])
    with pytest.raises(ValueError, match="a defect"):
        until(broken.done, "it is raised")


def _unread(client: Client) -> int:
    """The bytes that the other end of a connection has not read yet."""
    answer = fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def test_one_store_does_not_take_every_place(start: Start, config: Make, tmp_path: Path) -> None:
    """Calls that wait for a store leave places for other stores; those above are told to retry."""
    held, other = _configs(config, tmp_path, "held", "other")
    agent = start("--max-connections", "20", "--sweep-interval", "0")
    assert ask(agent.path, "ADD", held, "first").status == 0
    with ExitStack() as stack:
        hold = stack.enter_context(ExitStack())
        hold.enter_context(_held(tmp_path / "held"))
        clients = [stack.enter_context(Client(agent.path)) for _ in range(10)]
        for number, client in enumerate(clients):
            client.send(environment("ADD", f"w{number}"), json.dumps(held).encode())
        until(lambda: not any(_unread(client) for client in clients), "the agent has read them")
        for number in range(20):
            refused = ask(agent.path, "ADD", held, f"r{number}")
            assert refused.document["code"] == 11
            assert "too many calls already wait for this store" in refused.document["msg"]
            assert ask(agent.path, "ADD", other, f"c{number}").status == 0
        hold.close()
        assert [client.receive().status for client in clients] == [0] * 10
        assert ask(agent.path, "ADD", held, "last").status == 0
