"""A shared store that is put back to an older state: noticed, and no address is assigned twice.

The nodes' stores know what is in use, and the shared store has forgotten it. So every node claims
again what it has, before anybody claims another block.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import Compare, History, HistoryLost, Put
from fastipam.cluster.errors import NoBlock
from fastipam.cluster.keeper import on_demand
from fastipam.storage.records.block import LOST

from .conftest import any_binary
from .etcd import Etcd, surely
from .memory import Client, MemoryEngine
from .nodes import Machine, assert_agree, assert_settled, init, inside, over, owners
from .test_claims import claim
from .test_keeper import Agent, Time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastipam.cluster.engine import KeyValue

TTL_S = 30
HELD_BACK_S = TTL_S + 10


@pytest.fixture
def time() -> Time:
    """A clock that stands."""
    return Time()


@pytest.fixture
def engine(time: Time) -> MemoryEngine:
    """A cluster's store on the test's clock."""
    made = MemoryEngine(clock=time)
    init(made)
    return made


class Backup:
    """A copy of the shared store, and how to put it back."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine
        self._content: Sequence[KeyValue] = engine.copy()
        self._revision = engine.revision

    def put_back(self) -> None:
        """Forget what was changed since."""
        self._engine.put_back(self._content, self._revision)


class Pair:
    """Two nodes with agents; the first claims most of the pool after the copy was made."""

    def __init__(self, engine: MemoryEngine, time: Time, path: Path) -> None:
        self.engine, self.time, self.path = engine, time, path
        self.rich = Agent(path, "rich", Client(engine), time, minimumAge=3600)
        self.poor = Agent(path, "poor", Client(engine), time, minimumAge=3600)
        self.both(1)
        self.backup = Backup(engine)
        claim(self.rich.keeper.node, 8)
        assert self.rich.add(1200) == 1200
        self.both(TTL_S / 3 + 1)  # each agent keeps its session, and hears how far the store is

    def both(self, seconds: float) -> None:
        """Let both agents work for so long, in turns."""
        until = self.time.now + seconds
        while self.time.now < until:
            pause = min(self.poor.keeper.step(), self.rich.keeper.step())
            self.time.now += max(0.01, min(pause, until - self.time.now))

    def assert_nothing_twice(self) -> None:
        """No address is assigned by both nodes."""
        rich, poor = ({one.value for one in each.network.leases()} for each in self.nodes)
        assert not rich & poor

    @property
    def nodes(self) -> tuple[Agent, Agent]:
        """Both nodes."""
        return self.rich, self.poor


@pytest.fixture
def pair(engine: MemoryEngine, time: Time, tmp_path: Path) -> Pair:
    """The two nodes."""
    return Pair(engine, time, tmp_path)


def used_by(agent: Agent) -> set[tuple[int, int]]:
    """The blocks in which a node has leases."""
    return {(4, one.value >> 8 << 8) for one in agent.network.leases()}


def test_nothing_is_claimed_before_all_have_compared(pair: Pair) -> None:
    """A node that asks first gets no block; the other claims its own again, then both go on."""
    before = pair.rich.active()
    pair.backup.put_back()
    pair.poor.add(1000)  # more than its block has: it needs others
    for _ in range(10):
        pair.poor.keeper.step()
    assert len(pair.poor.active()) == 1
    assert "restored to an older state" in pair.poor.keeper.status.reason
    pair.time.now += TTL_S / 3
    pair.rich.keeper.step()
    pair.rich.keeper.step()
    assert used_by(pair.rich) <= pair.rich.active() <= before
    assert_agree(pair.engine, *pair.nodes)
    pair.poor.add(1000)
    pair.both(HELD_BACK_S + 15)
    assert pair.poor.add(200) == 200
    pair.assert_nothing_twice()
    pair.both(15)
    assert_settled(pair.engine, *pair.nodes)


def test_noticed_by_the_answer_to_a_claim(pair: Pair) -> None:
    """A block whose claim's answer shows the loss is not assigned from, and released."""
    pair.backup.put_back()
    node = pair.poor.keeper.node
    with pytest.raises(HistoryLost, match="restored to an older state: its revision was"):
        claim(node, 4)
    assert len(pair.poor.active()) == 1
    with pytest.raises(HistoryLost):  # every later call says so, until it is settled
        inside(node).engine.get(b"any", deadline_s=1)
    pair.both(HELD_BACK_S + 15)
    pair.assert_nothing_twice()
    assert_settled(pair.engine, *pair.nodes)


def test_noticed_after_a_restart(pair: Pair) -> None:
    """An agent that was started anew knows from its own store how far the shared one had come."""
    pair.backup.put_back()
    pair.poor.engine = Client(pair.engine)
    pair.poor.restart()
    pair.poor.add(1000)
    for _ in range(10):
        pair.poor.keeper.step()
    assert len(pair.poor.active()) == 1
    pair.both(HELD_BACK_S + 15)
    pair.assert_nothing_twice()
    assert_settled(pair.engine, *pair.nodes)


def test_directly_run_claim(pair: Pair) -> None:
    """An ADD that runs directly compares and claims nothing new; then the next one does."""
    pair.backup.put_back()
    pair.poor.add(1000)
    with pytest.raises(NoBlock, match="restored to an older state"):
        on_demand.claim_now(pair.poor.share, opened=over(Client(pair.engine)))
    pair.both(1)
    pair.time.now += HELD_BACK_S
    on_demand.claim_now(pair.poor.share, opened=over(Client(pair.engine)))
    assert pair.poor.add(100) == 100
    pair.assert_nothing_twice()


def test_given_up_since(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """A block that a node has given up since is another's: it is released, and claimed there."""
    first = Agent(tmp_path, "a", Client(engine), time, minimumAge=3600)
    second = Agent(tmp_path, "b", Client(engine), time, minimumAge=3600)
    first.keeper.step()
    blocks = claim(first.keeper.node, 8)
    backup = Backup(engine)
    first.keeper.node.give_back(blocks, Deadline(5))
    second.keeper.step()
    while not set(blocks) <= second.active():
        assert claim(second.keeper.node, 8)
    assert second.add(2000) == 2000
    backup.put_back()
    time.now += TTL_S / 3
    second.keeper.step()
    second.keeper.step()
    blocks = [block for block in blocks if block in used_by(second)]
    assert len(blocks) > 5
    assert second.states()["lost"] == len(blocks)
    first.keeper.step()
    first.keeper.step()
    assert not set(blocks) & first.active()
    assert not set(blocks) & {block for block, name in owners(engine).items() if name == "a"}
    second.turns(TTL_S)
    assert set(blocks) <= second.active()
    assert_settled(engine, first, second)


def test_away_while_it_happened(pair: Pair) -> None:
    """A node that comes back after all others have settled it compares in the same way."""
    # It has given a block up after the copy was made, and another node has that now.
    node = pair.poor.keeper.node
    (block,) = claim(node)
    backup = Backup(pair.engine)
    node.give_back([block], Deadline(5))
    pair.both(TTL_S)
    backup.put_back()
    pair.rich.turns(HELD_BACK_S + 1)
    while pair.engine.revision < 1000:  # so its revision shows nothing any more
        surely(pair.engine, [], [Put(b"/noise", b"")])
    assert block in owners(pair.engine)
    pair.poor.engine = Client(pair.engine)
    pair.poor.restart()
    pair.poor.turns(1)
    assert block not in pair.poor.active()
    assert block not in owners(pair.engine)


def test_last_claim_is_not_known(pair: Pair) -> None:
    """A node whose last claim was forgotten notices with its next one, whatever came since."""
    pair.backup.put_back()
    while pair.engine.revision < 1000:
        surely(pair.engine, [], [Put(b"/noise", b"")])
    with pytest.raises(HistoryLost, match="does not have this node's last claim"):
        claim(pair.rich.keeper.node)
    pair.both(1)
    assert used_by(pair.rich) <= pair.rich.active()
    pair.both(HELD_BACK_S + 15)
    assert_settled(pair.engine, *pair.nodes)


def test_new_node_meanwhile(pair: Pair) -> None:
    """A node that registers while the others compare waits with its first claim, too."""
    pair.backup.put_back()
    pair.time.now += TTL_S / 3
    pair.rich.keeper.step()
    pair.rich.keeper.step()
    new = Agent(pair.path, "new", Client(pair.engine), pair.time)
    new.keeper.step()
    assert not new.active()
    assert "every node claims its blocks again" in new.keeper.status.reason
    pair.time.now += HELD_BACK_S
    new.turns(15)
    assert len(new.active()) == 1


def test_another_store(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store under the same address, initialised anew: all blocks in use are claimed."""
    pair.engine.put_back([], 1)
    monkeypatch.setattr(Client, "identity", 2)
    init(pair.engine)
    pair.both(HELD_BACK_S + 15)
    assert used_by(pair.rich) <= pair.rich.active()
    pair.poor.add(600)
    pair.both(15)
    pair.assert_nothing_twice()
    assert_settled(pair.engine, *pair.nodes)


def test_store_fails_while_it_is_settled(pair: Pair) -> None:
    """A comparison that is interrupted at any call is made again, and nothing is lost by it."""
    from fastipam.cluster.engine import EngineUnavailable

    before = used_by(pair.rich)
    pair.backup.put_back()
    for allowed in range(12):
        left = [allowed]

        def fault(_call: str, at: str, left: list[int] = left) -> None:
            if at == "before":
                left[0] -= 1
                if left[0] < 0:
                    raise EngineUnavailable("connection refused")

        pair.engine.fault = fault
        pair.rich.keeper.step()
    pair.engine.fault = None
    pair.rich.turns(5)
    assert before <= pair.rich.active()
    assert LOST not in {each.state for each in pair.rich.share.blocks()}
    pair.both(HELD_BACK_S + 15)
    assert_settled(pair.engine, *pair.nodes)


def test_history() -> None:
    """An answer may overtake another; one that is older than what was heard before it began not."""
    history = History()
    floor = history.begin()
    history.hear(7, 12, floor)
    history.hear(7, 10, floor)  # it was given before the other one
    history.hear(7, 0, history.begin())  # about a session: it has no order
    with pytest.raises(HistoryLost, match="its revision was 12, and is 11"):
        history.hear(7, 11, history.begin())
    with pytest.raises(HistoryLost):
        history.begin()
    with pytest.raises(HistoryLost):
        history.hear(7, 20, 12)
    history.accept()
    history.hear(7, 11, history.begin())
    with pytest.raises(HistoryLost, match="its id was 7, and is 8"):
        history.hear(8, 12, history.begin())


def test_real_etcd_put_back(tmp_path: Path) -> None:
    """The next answer of a real etcd that was put back shows it: to reads, changes and watches."""
    with Etcd(any_binary(), tmp_path, size=1) as etcd:
        (member,) = etcd.members
        engine = etcd.engine()
        surely(engine, [], [Put(b"/test/a", b"1")])
        member.stop()
        shutil.copytree(tmp_path / "m0", tmp_path / "copy")
        etcd.start()
        for _ in range(3):
            surely(engine, [Compare(b"/test/b", "absent")], [Put(b"/test/a", b"2")])
        revision = engine.list(b"/test/", deadline_s=5)[1]
        member.stop()
        shutil.rmtree(tmp_path / "m0")
        shutil.copytree(tmp_path / "copy", tmp_path / "m0")
        etcd.start()
        with contextlib.closing(etcd.engine()) as fresh:
            fresh.history.expect(engine.history.identity, revision)
            with pytest.raises(HistoryLost, match=f"its revision was {revision}"):
                fresh.get(b"/test/a", deadline_s=5)
        with pytest.raises(HistoryLost, match=f"its revision was {revision}"):
            engine.transact([], [Put(b"/test/a", b"3")], deadline_s=5)
        with pytest.raises(HistoryLost):
            engine.keep_session(1, deadline_s=5)
        engine.history.accept()
        stored = engine.get(b"/test/a", deadline_s=5)
        assert stored is not None
        assert stored.value == b"3"  # such a change is made, though its answer is an error
        engine.close()


def test_nobody_registers_before_it_is_settled(engine: MemoryEngine, tmp_path: Path) -> None:
    """A node without an agent that only registers notices the loss, too."""
    client = Client(engine)
    machine = Machine(tmp_path, "a", client)
    claim(machine.joined())
    client.history.expect(1, 1000)
    client.history.revision = 1000
    with pytest.raises(HistoryLost):
        machine.node().join(Deadline(5))
