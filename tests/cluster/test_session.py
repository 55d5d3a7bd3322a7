"""A node has one session, whichever of its processes keeps it, and the agent notices another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.admin.admin import read_nodes, release_node
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import KeyValue, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.keeper import on_demand
from fastipam.cluster.schema import SignOfLife

from .nodes import Machine, init, inside, over
from .test_keeper import Agent, Time
from .test_on_demand import Shared

if TYPE_CHECKING:
    from pathlib import Path

TTL_S = 12


@pytest.fixture
def time() -> Time:
    """A clock that stands."""
    return Time()


@pytest.fixture
def engine(time: Time) -> Shared:
    """A cluster's store on the test's clock."""
    made = Shared(clock=time)
    init(made)
    return made


def sign_of(engine: Shared, machine: Machine) -> KeyValue | None:
    """The sign of life of a machine's node."""
    return engine.get(inside(machine.node()).keys.session(machine.settings.node), deadline_s=1)


def claim_directly(engine: Shared, machine: Machine) -> None:
    """What an ADD does that runs without the agent and finds no address."""
    while not machine.share.lacking():
        machine.network.allocate(f"direct-{len(list(machine.network.leases()))}")
    on_demand.claim_now(machine.share, opened=over(engine))


def fenced(path: Path, engine: Shared, time: Time) -> Agent:
    """An agent with fencing that has its first block."""
    agent = Agent(path, "a", engine, time, fencing=True, sessionTTL=TTL_S)
    agent.keeper.step()
    return agent


def test_direct_add_beside_an_agent(engine: Shared, time: Time, tmp_path: Path) -> None:
    """An ADD that claims directly leaves the agent's session: the node stays alive by it."""
    agent = fenced(tmp_path, engine, time)
    other = Machine(tmp_path, "b", engine, fencing=True, sessionTTL=TTL_S)
    other.joined()
    before = sign_of(engine, agent)
    opened = engine.calls["open_session"]
    claim_directly(engine, agent)
    assert sign_of(engine, agent) == before
    assert engine.calls["open_session"] == opened
    agent.turns(3 * TTL_S)
    assert {row["node"]: row["state"] for row in read_nodes(other.node(), Deadline(5))} == {
        "a": "alive",
        "b": "silent",
    }
    with pytest.raises(ClusterRefused, match="node a is alive"):
        release_node(other.node(), "a", Deadline(5))


def test_direct_adds_without_an_agent(engine: Shared, time: Time, tmp_path: Path) -> None:
    """ADDs that claim directly keep one session between them; after its end the next opens one."""
    machine = Machine(tmp_path, "a", engine, fencing=True, sessionTTL=TTL_S)
    claim_directly(engine, machine)
    first = sign_of(engine, machine)
    assert first is not None
    time.now += TTL_S - 1
    claim_directly(engine, machine)
    time.now += TTL_S - 1
    assert sign_of(engine, machine) == first  # it was renewed, and not written
    time.now += 1
    assert sign_of(engine, machine) is None
    claim_directly(engine, machine)
    assert sign_of(engine, machine) is not None


def test_two_agents_of_one_store(engine: Shared, time: Time, tmp_path: Path) -> None:
    """A second agent of the same store keeps the session of the first one."""
    agent = fenced(tmp_path, engine, time)
    before = sign_of(engine, agent)
    first = agent.keeper
    agent.restart()
    for _ in range(6):
        time.now += TTL_S / 3
        first.step()
        agent.keeper.step()
    assert sign_of(engine, agent) == before
    assert first.status.connected
    assert agent.keeper.status.connected


def test_written_by_somebody_else(engine: Shared, time: Time, tmp_path: Path) -> None:
    """The agent notices within a third of the session's time that the sign of life is another's."""
    agent = fenced(tmp_path, engine, time)
    key = inside(agent.node()).keys.session("a")
    strange = engine.open_session(1000, deadline_s=1)
    engine.transact([], [Put(key, b"incarnation=another", strange)], deadline_s=1)
    agent.turns(TTL_S / 3)
    agent.keeper.step()
    assert "another node named a and it is alive" in agent.keeper.status.reason
    assert agent.add(1) == 0
    engine.close_session(strange, deadline_s=1)
    agent.turns(15)
    assert agent.keeper.status.connected
    assert agent.add(1) == 1


def test_a_session_of_another_length(engine: Shared, time: Time, tmp_path: Path) -> None:
    """An agent whose ``sessionTTL`` was changed ties the sign of life to a session of that time."""
    fenced(tmp_path, engine, time).store.close()
    agent = Agent(tmp_path, "a", engine, time, fencing=True, sessionTTL=3 * TTL_S)
    agent.keeper.step()
    stored = sign_of(engine, agent)
    assert stored is not None
    found = SignOfLife.read(stored.key, stored.value)
    assert (found.ttl_s, found.session) == (3 * TTL_S, inside(agent.keeper.node).session.id)
    agent.turns(2 * TTL_S)
    assert agent.keeper.status.connected


def test_a_node_that_never_registered(engine: Shared, tmp_path: Path) -> None:
    """A session is tied only to a node that is registered."""
    with pytest.raises(NoBlock, match="not registered"):
        Machine(tmp_path, "a", engine).node().registry.hold(Deadline(5))


def test_entry_changed_between_two_calls(engine: Shared, time: Time, tmp_path: Path) -> None:
    """A node that is removed while it ties its session does not tie it."""
    agent = fenced(tmp_path, engine, time)
    time.now += TTL_S
    other = Machine(tmp_path, "b", engine, fencing=True, sessionTTL=TTL_S).joined()
    node = agent.node()

    def remove_first(call: str, at: str) -> None:
        if call == "open_session" and at == "before":
            engine.fault = None
            release_node(other, "a", Deadline(5), force=True)

    engine.fault = remove_first
    with pytest.raises(ClusterRefused, match="removed meanwhile"):
        inside(node).session.hold(Deadline(5))
    assert sign_of(engine, agent) is None
    assert node.share.doubt()
