"""A copied store is a lost disk: it assigns nothing while the node that was copied lives."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.backup import backup, restore
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.keeper import on_demand
from fastipam.errors import PoolExhausted
from fastipam.storage import boot

from .nodes import Machine, assert_settled, init, over, owners
from .test_claims import claim
from .test_keeper import Agent, Time
from .test_on_demand import Shared

if TYPE_CHECKING:
    from pathlib import Path

TTL_S = 30


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


def copy_of(machine: Agent, path: Path, **more: Any) -> Agent:
    """A machine whose disk is a copy of this one's, with an agent."""
    (path / "copy").mkdir()
    shutil.copytree(machine.path, path / "copy" / "a")
    made = Agent(path / "copy", "a", machine.engine, machine.time, **more)
    made.added = 100  # containers of its own
    return made


def first(path: Path, engine: Shared, time: Time, **more: Any) -> Agent:
    """The node that is copied: it has a block and some leases."""
    agent = Agent(path, "a", engine, time, **more)
    agent.keeper.step()
    assert agent.add(3) == 3
    return agent


BOOTS = {"same boot": "boot-1", "another boot": "boot-2"}


@pytest.mark.parametrize("boot", BOOTS.values(), ids=BOOTS)
def test_copy_beside_the_original(engine: Shared, time: Time, tmp_path: Path, boot: str) -> None:
    """While the first one's session is kept, the copy assigns nothing and says why."""
    agent = first(tmp_path, engine, time)
    copy = copy_of(agent, tmp_path, boot=boot)
    assert copy.add(1) == 0  # before its agent has looked, too
    for _ in range(4):
        agent.turns(10)
        copy.turns(10)
        time.now -= 10
        assert copy.add(1) == 0
        assert agent.add(1) == 1
    reason = copy.keeper.status.reason
    assert ("another node named a and it is alive" in reason) == (boot == "boot-1")
    assert ("session of node a from another boot has not ended" in reason) == (boot == "boot-2")
    assert_settled(engine, agent)


@pytest.mark.parametrize("boot", BOOTS.values(), ids=BOOTS)
def test_copy_after_the_original(engine: Shared, time: Time, tmp_path: Path, boot: str) -> None:
    """The copy takes the node's place when its session has ended; then the first one is refused."""
    agent = first(tmp_path, engine, time)
    copy = copy_of(agent, tmp_path, boot=boot)
    time.now += TTL_S + 1
    copy.turns(1)
    assert copy.add(1) == 1
    assert copy.active() == agent.active()
    agent.turns(TTL_S)
    time.now -= TTL_S
    copy.turns(5)
    assert agent.add(1) == 0
    assert "another node named a and it is alive" in agent.keeper.status.reason
    assert copy.add(1) == 1
    assert_settled(engine, copy)


def test_copy_while_the_agent_is_started_again(engine: Shared, time: Time, tmp_path: Path) -> None:
    """An agent that ends keeps the node's place for its successor, and a copy waits."""
    agent = first(tmp_path, engine, time)
    agent.keeper.stop()
    copy = copy_of(agent, tmp_path)
    copy.turns(10)
    assert copy.add(1) == 0
    assert agent.add(1) == 1  # a directly run plugin
    agent.restart()
    agent.turns(TTL_S)
    assert agent.keeper.status.connected
    time.now -= TTL_S
    copy.turns(TTL_S)
    assert copy.add(1) == 0


def test_direct_adds_on_a_copy(engine: Shared, time: Time, tmp_path: Path) -> None:
    """Without an agent a copy of this boot is refused for good: nobody can say which one lives."""
    agent = first(tmp_path, engine, time)
    copy = copy_of(agent, tmp_path)
    time.now += TTL_S + 1
    with pytest.raises(ClusterRefused, match="there is another node named a"):
        on_demand.claim_now(copy.share, opened=over(engine))
    with pytest.raises(PoolExhausted, match="restored or copied"):
        copy.network.allocate("c9")


def test_copy_on_another_machine(
    engine: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk with another machine's id is a copy, in whatever boot: only an agent may go on."""
    monkeypatch.setattr(boot, "read_machine", lambda: "1" * 32)
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined())
    machine.store.close()
    machine.boot = "boot-2"
    machine.open()
    monkeypatch.setattr(boot, "read_machine", lambda: "2" * 32)
    with pytest.raises(ClusterRefused, match="there is another node named a"):
        machine.node().join(Deadline(5))


def test_direct_adds_after_a_reboot(
    engine: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node without an agent has its blocks confirmed by its first ADD after a reboot."""
    monkeypatch.setattr(boot, "read_machine", lambda: "1" * 32)
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined())
    machine.network.allocate("c1")
    active = machine.active()
    machine.store.close()
    machine.boot = "boot-2"
    machine.open()
    with pytest.raises(PoolExhausted, match="this node has rebooted"):
        machine.network.allocate("c2")
    on_demand.claim_now(machine.share, opened=over(engine))
    machine.network.allocate("c2")
    assert machine.active() == active
    assert_settled(engine, machine)


def test_reboot(engine: Shared, time: Time, tmp_path: Path) -> None:
    """After a reboot the agent waits for the end of its session, and goes on with its blocks."""
    agent = first(tmp_path, engine, time)
    active = agent.active()
    agent.store.close()
    agent.boot = "boot-2"
    agent.open()
    agent.restart()
    agent.turns(1)
    assert "from another boot has not ended" in agent.keeper.status.reason
    time.now += TTL_S
    agent.turns(15)
    assert agent.keeper.status.connected
    assert agent.active() == active
    assert agent.add(1) == 1


def test_removed_during_a_reboot(engine: Shared, time: Time, tmp_path: Path) -> None:
    """A node that was removed while its machine was down assigns nothing of its old blocks."""
    from fastipam.cluster.admin.admin import release_node

    agent = first(tmp_path, engine, time)
    other = Machine(tmp_path, "b", engine).joined()
    agent.store.close()
    time.now += TTL_S + 1
    release_node(other, "a", Deadline(5))
    claim(other, 16)
    agent.boot = "boot-2"
    agent.open()
    with pytest.raises(PoolExhausted, match="this node has rebooted"):
        agent.network.allocate("c9")


def test_copy_that_was_registered_by_two(engine: Shared, tmp_path: Path) -> None:
    """Two machines without agents run from one disk: the first is refused when it claims again."""
    machine = Machine(tmp_path, "a", engine)
    machine.node().join(Deadline(5))
    claim(machine.node())
    (tmp_path / "copy").mkdir()
    shutil.copytree(machine.path, tmp_path / "copy" / "a")
    copy = Machine(tmp_path / "copy", "a", engine, "boot-2")
    on_demand.claim_now(copy.share, opened=over(engine))
    copy.network.allocate("c1")
    with pytest.raises(ClusterRefused, match="was changed"):
        claim(machine.node())
    with pytest.raises(ClusterRefused, match="there is another node named a"):
        machine.node().join(Deadline(5))
    with pytest.raises(PoolExhausted):
        machine.network.allocate("c1")


def test_restored_below_an_agent(engine: Shared, time: Time, tmp_path: Path) -> None:
    """With fencing, too, a backup that is put back serves when its blocks are confirmed."""
    agent = first(tmp_path, engine, time, fencing=True)
    backup(agent.store, tmp_path / "file")
    before = agent.share.member()
    restore(agent.store, tmp_path / "file", replace=True)
    assert agent.add(1) == 0
    agent.turns(1)
    assert agent.add(1) == 1
    after = agent.share.member()
    assert before is not None
    assert after is not None
    assert (before.incarnation, before.epoch) == (after.incarnation, after.epoch)
    assert set(owners(engine).values()) == {"a"}


def test_restored_into_another_store(engine: Shared, time: Time, tmp_path: Path) -> None:
    """A backup that is put into a new store is a copy, and refused beside the first one."""
    agent = first(tmp_path, engine, time)
    backup(agent.store, tmp_path / "file")
    (tmp_path / "copy").mkdir()
    copy = Agent(tmp_path / "copy", "a", engine, time)
    restore(copy.store, tmp_path / "file", replace=True)
    copy.added = 100
    copy.turns(1)
    assert copy.add(1) == 0
    assert "another node named a and it is alive" in copy.keeper.status.reason
    assert agent.add(1) == 1


def test_killed_after_a_copy_has_a_name_of_its_own(
    engine: Shared, time: Time, tmp_path: Path
) -> None:
    """A copy that was killed before it registered is the same node when it tries again."""
    agent = first(tmp_path, engine, time)
    copy = copy_of(agent, tmp_path)
    with pytest.raises(ClusterRefused):
        copy.node().join(Deadline(5), agent=True)
    before = copy.share.member()
    time.now += TTL_S + 1
    assert copy.node().join(Deadline(5), agent=True)
    after = copy.share.member()
    assert before is not None
    assert after is not None
    assert before.incarnation == after.incarnation
    assert (before.epoch, after.epoch) == (1, 2)


def test_machine_id_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine id that is missing, or not set up yet, is not known."""
    path = tmp_path / "machine-id"
    monkeypatch.setattr(boot, "MACHINE_ID", str(path))
    assert not boot.read_machine()
    path.write_text("uninitialized\n")
    assert not boot.read_machine()
    path.write_text("f" * 32 + "\n")
    assert boot.read_machine() == "f" * 32


def test_second_try_of_a_reboot(engine: Shared, time: Time, tmp_path: Path) -> None:
    """The message of a node whose earlier session has not ended says what to wait for."""
    agent = first(tmp_path, engine, time)
    agent.store.close()
    agent.boot = "boot-2"
    agent.open()
    with pytest.raises(NoBlock) as caught:
        agent.node().join(Deadline(5), agent=True)
    assert "sessionTTL" in str(caught.value.hint)
