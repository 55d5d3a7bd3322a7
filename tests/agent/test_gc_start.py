"""GC spares what is younger than its call: when a call began, seen by agent and entry point."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from ..cni.plugin import Held, Make, Plugin, environment
from .processes import Agent, Client, FakeAgent, ask

if TYPE_CHECKING:
    from pathlib import Path

SUBNET = {"subnet": "10.1.0.0/16"}
NOTHING_VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}


def test_before_its_connection(agent: Agent, config: Make, held: Held) -> None:
    """A GC that had to wait for its connection does not free what was assigned meanwhile."""
    made = config(ipam=SUBNET)
    ask(agent.path, "ADD", made, "old")
    began = time.monotonic_ns()
    ask(agent.path, "ADD", made, "new")
    with Client(agent.path) as client:
        variables = environment("GC") | {"FASTIPAM_STARTED": str(began)}
        client.send(variables, json.dumps(made | NOTHING_VALID).encode())
        assert client.receive().status == 0
    assert list(held().values()) == [("new", "eth0")]


@pytest.mark.parametrize("text", ["", "x", "-1", "1" * 30, "9" * 18, "\N{SUPERSCRIPT TWO}", None])
def test_odd_stamp(text: str | None, agent: Agent, config: Make, held: Held) -> None:
    """A stamp that is none, or of the future, means: now."""
    made = config(ipam=SUBNET)
    ask(agent.path, "ADD", made, "old")
    with Client(agent.path) as client:
        variables = environment("GC") | ({} if text is None else {"FASTIPAM_STARTED": text})
        client.send(variables, json.dumps(made | NOTHING_VALID).encode())
        assert client.receive().status == 0
    assert held() == {}


def test_after_the_agent_died(plugin: Plugin, run_dir: Path, config: Make, held: Held) -> None:
    """A GC that an agent took along is repeated as of its first start."""
    made = config(ipam=SUBNET)
    assert plugin("ADD", made, "old").status == 0

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        assert plugin("ADD", made, "new").status == 0

    with FakeAgent(run_dir / "s", behave) as fake:
        assert Plugin(plugin.path, run_dir / "s")("GC", made | NOTHING_VALID).status == 0
        assert fake.connections == 1
    assert list(held().values()) == [("new", "eth0")]
