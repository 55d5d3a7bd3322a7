"""Upgrade and rollback below a running agent: another version makes the store, and the old one."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

import fastipam
from fastipam.storage import tables
from fastipam.verify import verify

from .. import schemas
from ..cni.plugin import environment
from .processes import Agent, Client, Reply, ask, until

if TYPE_CHECKING:
    from pathlib import Path

    from ..cni.plugin import Make, Plugin

CLIENTS = 4
OTHER = tables.SCHEMA + 1


class Caller:
    """A client that ADDs and DELs until it is told to end; ``told`` are the error objects."""

    def __init__(self, agent: Agent, made: dict[str, object], name: str) -> None:
        self._agent = agent
        self._stdin = json.dumps(made).encode()
        self._name = name
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.served = 0
        self.told: list[tuple[int, str, str]] = []
        self.held: set[str] = set()
        self.odd: list[object] = []
        self._thread.start()

    def finish(self) -> None:
        """Let it end its call, and end."""
        self._enough.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.odd == []

    def _run(self) -> None:
        number = 0
        try:
            with Client(self._agent.path) as client:
                while not self._enough.is_set():
                    number += 1
                    owner = f"{self._name}-{number}"
                    if self._call(client, "ADD", owner):
                        self.held.add(owner)
                        if number % 2 and self._call(client, "DEL", owner):
                            self.held.remove(owner)
        except Exception as error:
            self.odd.append(error)

    def _call(self, client: Client, command: str, owner: str) -> bool:
        client.send(environment(command, owner), self._stdin)
        answer = client.receive()
        if answer.status == 0:
            self.served += 1
            return True
        document = answer.document
        self.told.append((document["code"], document["msg"], document.get("details", "")))
        return False


@pytest.mark.parametrize("way", ["replaced", "changed"])
def test_under_load(agent: Agent, config: Make, tmp_path: Path, way: str) -> None:
    """Clients are told both schemas, nothing is written; with the old store back, all is well."""
    path = tmp_path / "store"
    made = config(ipam={"subnet": "10.1.0.0/16"})
    assert ask(agent.path, "ADD", made, "first").status == 0
    callers = [Caller(agent, made, f"w{at}") for at in range(CLIENTS)]
    until(lambda: all(one.served > 20 for one in callers), "calls are served")
    kept = schemas.replace(path, OTHER) if way == "replaced" else None
    if kept is None:
        schemas.change(path, OTHER)
    until(lambda: all(len(one.told) > 20 for one in callers), "calls are refused")
    before = (path / "data.mdb").read_bytes()
    seen = [len(one.told) for one in callers]
    until(
        lambda: all(len(one.told) > was + 20 for one, was in zip(callers, seen, strict=True)),
        "calls are refused again",
    )
    assert (path / "data.mdb").read_bytes() == before
    _assert_refused(ask(agent.path, "STATUS", made), path)
    _assert_refused(ask(agent.path, "DEL", made, "first"), path)
    schemas.put_back(path, kept, tables.SCHEMA)
    served = [one.served for one in callers]
    until(
        lambda: all(one.served > was + 20 for one, was in zip(callers, served, strict=True)),
        "calls are served again",
    )
    for one in callers:
        one.finish()
        for code, message, hint in one.told:
            assert (code, message, hint) == (5, _said(path), one.told[0][2])
    with fastipam.open(path, create=False) as ipam:
        assert verify(ipam.store) == []
        found = {lease.container_id for lease in ipam.network("mynet").leases()}
    # A DEL that was refused is the runtime's to repeat.
    assert found == {"first"} | set().union(*(one.held for one in callers))


def _said(path: Path) -> str:
    return f"the store {path} has schema {OTHER}, this fastipam knows {tables.SCHEMA}"


def _assert_refused(answer: Reply, path: Path) -> None:
    assert answer.status == 1
    assert answer.document["msg"] == _said(path)
    assert "use the fastipam version that wrote it" in answer.document["details"]


def test_an_agent_that_starts_on_it(
    agent: Agent, config: Make, plugin: Plugin, tmp_path: Path
) -> None:
    """An old version that starts on the new store says so, as an agent and without one."""
    path = tmp_path / "store"
    made = config(ipam={"subnet": "10.1.0.0/16"})
    assert plugin("ADD", made, "c1").status == 0
    schemas.change(path, OTHER)
    before = (path / "data.mdb").read_bytes()
    for _ in range(2):
        _assert_refused(ask(agent.path, "ADD", made, "c2"), path)
        answer = plugin("ADD", made, "c2")
        assert (answer.status, answer.message) == (1, _said(path))
    assert (path / "data.mdb").read_bytes() == before
    schemas.change(path, tables.SCHEMA)
    assert ask(agent.path, "ADD", made, "c2").status == 0
    assert plugin("DEL", made, "c1").status == 0
