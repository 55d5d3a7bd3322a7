"""The clients of the agent's benchmark: each connects for every request, and an error is told."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from bench.agent import clients
from bench.agent.service import Agent, Server
from bench.errors import Failed

from bench import stores
from fastipam.agent import protocol

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def test_clients_are_served(tmp_path: Path) -> None:
    """Every request has an answer and a latency; what was assigned is released."""
    program = clients.build(tmp_path)
    with Agent(tmp_path) as agent:
        load = clients.Clients(program, agent.socket, tmp_path / "store", 3, 5)
        before = agent.processor_ns()
        load.run()
        assert agent.processor_ns() > before
    assert load.requests == len(load.latencies) == 30
    assert min(load.latencies) > 0


def test_server_that_only_answers(tmp_path: Path) -> None:
    """Its answers are answers to the clients."""
    program, empty = (clients.build(tmp_path, name) for name in ("clients", "server"))
    with Server(tmp_path, "empty", str(empty), status=-signal.SIGTERM) as server:
        load = clients.Clients(program, server.socket, tmp_path / "store", 3, 5)
        load.run()
    assert len(load.latencies) == 30


def test_refusal_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A request that the agent refuses ends the load, with what the agent has said."""
    program = clients.build(tmp_path)
    (tmp_path / "store").write_text("no directory")
    with Agent(tmp_path) as agent:
        load = clients.Clients(program, agent.socket, tmp_path / "store", 1, 1)
        with pytest.raises(Failed):
            load.run()
    assert "the agent answered" in capfd.readouterr().err


def test_requests_are_those_of_the_launcher(tmp_path: Path) -> None:
    """The two frames of a container: an ADD and a DEL of the benchmark's network."""
    for command, frame in zip(("ADD", "DEL"), clients.requests(tmp_path, "c1", 0), strict=True):
        head = protocol.REQUEST.size
        size, stdin = protocol.request_size(frame[:head])
        variables = protocol.read_variables(frame[head : head + size])
        assert (variables["CNI_COMMAND"], variables["CNI_CONTAINERID"]) == (command, "c1")
        assert stores.NETWORK.encode() in frame[head + size :]
        assert len(frame) == head + size + stdin
