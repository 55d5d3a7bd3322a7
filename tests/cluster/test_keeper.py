"""What an agent does about its node's share, step by step on a clock that the test moves."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

import pytest

from fastipam.agent.housekeeping import Housekeeping
from fastipam.allocation import blocks
from fastipam.backup import backup, restore
from fastipam.cluster import schema
from fastipam.cluster.admin.admin import release_node
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineUnavailable, Put
from fastipam.cluster.keeper import keeper as keeper_module
from fastipam.cluster.keeper.keeper import Keeper
from fastipam.cluster.registries.keyvalue import registry
from fastipam.configuration.policy import Policy
from fastipam.errors import PoolExhausted
from fastipam.storage import open_stores, tables
from fastipam.storage.records import block as block_record
from fastipam.verify import verify
from tests.cluster.memory import MemoryEngine

from .nodes import Machine, assert_settled, init, inside, over, owners
from .test_claims import claim

if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.engine import Engine


class Time:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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


class Agent(Machine):
    """A machine with a keeper."""

    def __init__(self, path: Path, name: str, engine: Engine, time: Time, **more: Any) -> None:
        super().__init__(path, name, engine, **more)
        self.woken = self.added = 0
        self.time = time
        self.restart()

    def restart(self) -> None:
        """The agent's process begins anew."""
        self.keeper = Keeper(
            self.share,
            over(self.engine, self.time),
            on_blocks=self._on_blocks,
            clock=self.time,
            directories=(),
        )

    def _on_blocks(self) -> None:
        self.woken += 1

    def add(self, count: int) -> int:
        """As many ADDs; how many were served."""
        served = 0
        for _ in range(count):
            self.added += 1
            try:
                self.network.allocate(f"c{self.added}")
            except PoolExhausted:
                self.keeper.need(f"c{self.added}")
            else:
                served += 1
        return served

    def turns(self, seconds: float) -> None:
        """Let the keeper work, and the clock go on."""
        until = self.time.now + seconds
        while self.time.now < until:
            self.time.now += max(0.01, min(self.keeper.step(), until - self.time.now))


def test_first_block(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """An agent registers, keeps a session and has a block before the first ADD."""
    agent = Agent(tmp_path, "a", engine, time)
    agent.keeper.step()
    assert len(agent.active()) == 1
    assert engine.get(inside(agent.node()).keys.session("a"), deadline_s=1) is not None
    assert agent.add(1) == 1
    assert agent.keeper.status.connected
    assert_settled(engine, agent)


class _Followed:
    """In place of what a keeper tells of all blocks: notes whether the node had a block then."""

    def __init__(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        self.had_block: Queue[bool] = Queue()
        self._agent = agent
        agent.restart()
        keeper = agent.keeper
        monkeypatch.setattr(keeper, "_blocks", object())
        monkeypatch.setattr(keeper.registry, "follow_blocks", self._note)

    def _note(self, *_: object) -> None:
        self.had_block.put(bool(self._agent.active()))


def test_others_blocks_come_after_the_first_own_one(
    engine: MemoryEngine, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that needs its first block does not follow all others before it has it."""
    agent = Agent(tmp_path, "a", engine, time)
    followed = _Followed(agent, monkeypatch)
    agent.keeper.start()
    try:
        assert followed.had_block.get(timeout=20)
    finally:
        agent.keeper.stop()


def test_a_node_without_a_block_follows_others_later(
    engine: MemoryEngine, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that gets no block wants routes to the others' pods all the same."""
    agent = Agent(tmp_path, "a", engine, time)
    followed = _Followed(agent, monkeypatch)
    monkeypatch.setattr(keeper_module, "_BLOCKS_LATER_S", 0.05)
    monkeypatch.setattr(agent.keeper, "_claim", lambda *_: False)
    agent.keeper.start()
    try:
        assert not followed.had_block.get(timeout=20)
    finally:
        agent.keeper.stop()


def test_a_store_that_asks_for_a_pause(
    engine: MemoryEngine, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step comes no sooner than half of it, 5 s at most."""
    agent = Agent(tmp_path, "a", engine, time)

    def later(*_: object, **__: object) -> None:
        error = EngineUnavailable("too many requests")
        error.retry_after_s = 4.0
        raise error

    monkeypatch.setattr(engine, "transact", later)
    monkeypatch.setattr(engine, "get", later)
    assert 2.0 <= agent.keeper.step() <= 5.0


def test_claims_ahead(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """As addresses go, blocks come: growing demand is met with runs that double."""
    agent = Agent(tmp_path, "a", engine, time)
    served = 0
    agent.turns(0.2)
    for _ in range(40):
        served += agent.add(50)
        agent.turns(0.2)
    assert served == 2000
    assert agent.keeper.status.counts.transactions <= 8


def test_waiting_adds_are_told(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """ADDs that find nothing wait; one claim is large enough for all, and they are woken."""
    agent = Agent(tmp_path, "a", engine, time)
    agent.keeper.step()
    assert agent.add(1000) < 300
    agent.keeper.step()
    assert agent.woken
    assert agent.add(700) == 700


def test_free_addresses_that_no_search_finds(
    engine: MemoryEngine, time: Time, tmp_path: Path
) -> None:
    """The keeper lists a block again that is in no list and does not serve, and wakes who waits."""
    agent = Agent(tmp_path, "a", engine, time, minimumAge=0)
    agent.turns(1)
    assert agent.add(3) == 3
    with agent.store.write() as txn:  # the round robin stands elsewhere, and the list is empty
        pool_id = agent.network._pool_in(txn)
        assert pool_id is not None
        state = txn.pool_state(pool_id)
        state.move_cursor(0, 4, 0xC0000202)
        txn.save(state)
        for key in list(tables.BLOCKS.scan_keys(txn, block_record.open_prefix(pool_id, 4))):
            tables.BLOCKS.delete(txn, key)
    assert {one.kind for one in verify(agent.store)} == {"block-unlisted"}

    def fault(_call: str, _at: str) -> None:
        raise EngineUnavailable("connection refused")

    engine.fault = fault  # no new block hides it
    assert agent.add(1) == 0
    woken = agent.woken
    agent.turns(2)
    assert agent.woken > woken
    assert agent.add(1) == 1
    assert verify(agent.store) == []


def test_every_block_is_owned(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """A waiting ADD hears that no block is free, who has most and what to type, until one is."""
    rich = Machine(tmp_path, "rich", engine)
    node = rich.joined()
    while len(rich.active()) < 13:
        claim(node, 1)
    rich.network.allocate_many([(f"r{number}", "eth0") for number in range(13 * 256 - 3)])
    other = Machine(tmp_path, "other", engine)
    node = other.joined()
    while len(other.active()) < 3:
        claim(node, 1)
    poor = Agent(tmp_path, "poor", engine, time)
    poor.turns(1)
    poor.keeper.need("c1")
    poor.turns(1)
    told = poor.keeper.need("c1")
    assert "no block is free, 16 of 16 are owned (rich has 13, other has 3)" in told
    assert "fastipam cluster release-node" in told
    release_node(rich.node(), "other", Deadline(5))
    poor.turns(2)
    assert poor.add(1) == 1
    assert "used up" not in poor.keeper.need("c2")


def test_forgotten_init(time: Time, tmp_path: Path) -> None:
    """What an ADD is answered before ``cluster init`` says what to type."""
    agent = Agent(tmp_path, "a", MemoryEngine(clock=time), time)
    agent.turns(1)
    assert "run `fastipam cluster init` once" in agent.keeper.need("c1")
    assert agent.keeper.status.refused


def test_gives_back(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """What is wholly free and old enough goes back; one block and the high water stay."""
    now_ns = [10**18]
    agent = Agent(tmp_path, "a", engine, time, minimumAge=60)
    agent.store.clock = lambda: now_ns[0]
    agent.turns(0.2)
    for _ in range(10):
        agent.add(200)
        agent.turns(0.2)
    many = len(agent.active())
    for each in range(1, 2001):
        agent.network.release(f"c{each}")
    agent.turns(30)
    assert len(agent.active()) == many
    now_ns[0] += 61 * 10**9
    agent.turns(30)
    assert 2 <= len(agent.active()) < many
    left = len(agent.active())
    agent.turns(60)
    assert len(agent.active()) == left
    assert_settled(engine, agent)


def test_gives_back_what_has_cooled(
    engine: MemoryEngine, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node from which all pods have gone gives its blocks back, though it assigns nothing."""
    now_ns = [10**18]
    agent = Agent(tmp_path, "a", engine, time, minimumAge=60)
    agent.network.policy = Policy(cooldown_s=30)
    agent.store.clock = lambda: now_ns[0]
    agent.turns(0.2)
    for _ in range(10):
        agent.add(200)
        agent.turns(0.2)
    for each in range(1, 2001):
        agent.network.release(f"c{each}")
    now_ns[0] += 61 * 10**9
    agent.turns(30)
    assert len(agent.active()) >= 8  # in which the 2,000 are: each still has its bit
    monkeypatch.setattr(open_stores, "get", lambda *_, **__: agent.store)
    chores = Housekeeping(agent.store.path, clock=time)
    while chores.wait_s() == 0.0:
        chores.step()
    agent.turns(30)
    assert 2 <= len(agent.active()) < 8
    assert_settled(engine, agent)


def test_donation(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """With the pool used up, a node in need has a block of another's within two seconds."""
    rich, poor = Agent(tmp_path, "a", engine, time), Agent(tmp_path, "b", engine, time)
    rich.keeper.step()
    node = rich.node()
    while node.claim(node.settings.geometries[0], 1, Deadline(5)):
        pass
    assert len(rich.active()) == 16
    assert poor.add(1) == 0
    began = time.now
    seen = set()
    while not poor.woken and time.now < began + 5:
        time.now += min(poor.keeper.step(), rich.keeper.step(), 0.05)
        for mark in inside(node).marks(1)[0]:
            if mark.revision not in seen:
                seen.add(mark.revision)
                rich.keeper.marks.see(mark)
    assert time.now - began < 2
    assert poor.add(1) == 1
    poor.turns(1)
    assert_settled(engine, rich, poor)


def test_unreachable(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """While nothing answers, what is owned is assigned; then claims resume by themselves."""
    agent = Agent(tmp_path, "a", engine, time)
    agent.keeper.step()

    def fault(_call: str, _at: str) -> None:
        raise EngineUnavailable("connection refused")

    engine.fault = fault
    time.now += 20
    agent.turns(5)
    assert not agent.keeper.status.connected
    assert "refused" in agent.keeper.status.reason
    free = agent.add(300)
    assert 250 < free <= 256
    engine.fault = None
    agent.turns(15)
    assert agent.keeper.status.connected
    assert agent.add(10) == 10


def test_a_start_is_three_writes(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """A new node opens a session, registers with it in one transaction, and claims: no more."""
    before = engine.calls.copy()
    agent = Agent(tmp_path, "a", engine, time)
    agent.keeper.step()
    calls = engine.calls - before
    assert (calls["open_session"], calls["transact"]) == (1, 2)
    assert not calls["get"]
    assert agent.add(1) == 1
    assert engine.get(inside(agent.node()).keys.session("a"), deadline_s=1) is not None
    assert_settled(engine, agent)


def test_refused_node_keeps_its_session_for_the_next_attempt(
    engine: MemoryEngine, time: Time, tmp_path: Path
) -> None:
    """A node that is refused again and again does not open a session each time."""
    agent = Agent(tmp_path, "a", engine, time, blockSize=26)
    for _ in range(5):
        agent.keeper.step()
    assert "10.32.0.0/20=26" in agent.keeper.status.reason
    assert engine.calls["open_session"] == 1
    time.now += 1000
    agent.keeper.step()
    assert engine.calls["open_session"] == 2


def test_session_gone(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """A session that ended while the node was cut off is opened again; its blocks are its own."""
    agent = Agent(tmp_path, "a", engine, time)
    agent.keeper.step()
    time.now += 1000
    assert engine.get(inside(agent.node()).keys.session("a"), deadline_s=1) is None
    agent.turns(2)
    assert engine.get(inside(agent.node()).keys.session("a"), deadline_s=1) is not None
    assert_settled(engine, agent)


def test_removed_while_cut_off(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """Removed while it was away, a node finds out in its first step, and claims again."""
    agent, other = Agent(tmp_path, "a", engine, time), Agent(tmp_path, "b", engine, time)
    agent.keeper.step()
    (pair,) = agent.active()
    time.now += 1000
    release_node(other.node(), "a", Deadline(5))
    node = other.joined()
    while pair not in owners(engine):
        assert node.claim(node.settings.geometries[0], 1, Deadline(5))
    node.give_back(sorted(other.active() - {pair}), Deadline(5))
    agent.turns(2)
    assert pair not in agent.active()
    assert agent.add(1) == 1
    assert_settled(engine, agent, other)


def test_fencing(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """With fencing, ownership is proven for the session's time from before it was kept."""
    agent = Agent(tmp_path, "a", engine, time, fencing=True, sessionTTL=20)
    before = blocks.boottime_ns()  # type: ignore[attr-defined]
    agent.keeper.step()
    with agent.store.read() as txn:
        pool_id = agent.network._pool_in(txn)
        assert pool_id is not None
        until = blocks.proven_until(txn, pool_id)
    assert before + 20 * 10**9 <= until <= blocks.boottime_ns() + 20 * 10**9  # type: ignore[attr-defined]
    assert agent.add(1) == 1


def test_restarted_agent(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """A new process of the same node goes on where the last one was."""
    agent = Agent(tmp_path, "a", engine, time)
    agent.keeper.step()
    active = agent.active()
    agent.restart()
    agent.turns(1)
    assert agent.active() == active
    assert_settled(engine, agent)


def test_restored_under_a_running_agent(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """A backup that is put back under an agent is not trusted: the next step compares again."""
    agent = Agent(tmp_path, "a", engine, time)
    agent.keeper.step()
    backup(agent.store, tmp_path / "copy")
    restore(agent.store, tmp_path / "copy", replace=True)
    assert agent.add(1) == 0
    agent.turns(1)
    assert agent.add(1) == 1
    assert_settled(engine, agent)


def test_claims_that_cannot_be_locked(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """The keeper outlives a lock file that cannot be opened, says so, and goes on when it can."""
    agent = Agent(tmp_path, "a", engine, time)
    lock = agent.path / "cluster.lock"
    lock.symlink_to(tmp_path / "elsewhere")
    assert agent.keeper.step() > 0
    assert "cluster.lock" in agent.keeper.status.reason
    lock.unlink()
    agent.turns(1)
    assert agent.keeper.status.connected
    assert agent.add(1) == 1


def test_both_stores_fail_at_once(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """When neither store answers, a step ends with a pause all the same."""
    agent = Agent(tmp_path, "a", engine, time)
    agent.keeper.step()
    time.now += 20

    def fault(_call: str, _at: str) -> None:
        agent.store.close()
        raise EngineUnavailable("connection refused")

    engine.fault = fault
    assert agent.keeper.step() > 0
    assert not agent.keeper.status.connected


def test_a_mark_that_cannot_be_read(engine: MemoryEngine, time: Time, tmp_path: Path) -> None:
    """What somebody else has written among the marks keeps no other from being answered."""
    marks = Agent(tmp_path, "a", engine, time).keeper.marks
    keys = inside(marks._node).keys
    values = {"b": b"help!", "c": schema.Mark(1, 1, 1, 4).pack()}
    for name, value in values.items():
        engine.transact([], [Put(keys.mark(name), value)], deadline_s=1)
    marks.replace(inside(marks._node).marks(1)[0])
    time.now += 10
    assert [one.needy for one in marks.due()] == ["c"]


def test_a_watch_that_fails_in_an_odd_way(
    engine: MemoryEngine,
    time: Time,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer that nobody has thought of is logged, and does not end the watching."""
    monkeypatch.setattr(registry, "_WATCH_S", 0.05)
    agent = Agent(tmp_path, "a", engine, time)
    marks, keys = agent.keeper.marks, inside(agent.keeper.node).keys
    odd = ["watch", "list"]

    def fault(call: str, at: str) -> None:
        if at == "before" and call in odd:
            odd.remove(call)
            raise KeyError("header")

    engine.fault = fault
    want = Put(keys.mark("b"), schema.Mark(1, 1, 1, 4).pack())
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            engine.transact([], [want], deadline_s=1)

    inside(agent.keeper.node).follow_requests(marks, lambda: bool(marks), pause)
    assert len(pauses) == 2
    assert caplog.text.count("internal error in the watch") == 2
