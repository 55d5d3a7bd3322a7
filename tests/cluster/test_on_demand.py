"""A block claimed by an ADD's own process: who waits for whom, and what is said when none comes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.admin.admin import release_node
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineUnavailable
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.keeper import on_demand
from fastipam.cluster.node.lock import NodeLock
from tests.cluster.memory import MemoryEngine

from .nodes import Machine, assert_settled, init, inside, over
from .test_claims import claim

if TYPE_CHECKING:
    from pathlib import Path

    from fastipam.cluster.registry import Registry


class Shared(MemoryEngine):
    """One store for every connection: closing one is counted, and ends no other."""

    closed = 0

    def close(self) -> None:
        """Count it."""
        self.closed += 1


@pytest.fixture
def engine() -> Shared:
    """A cluster's store with the settings written."""
    made = Shared()
    init(made)
    return made


def _never(_: float) -> None:
    raise AssertionError("nobody has to be waited for")


def test_first_block(engine: Shared, tmp_path: Path) -> None:
    """A node that has never registered does so and claims one block; a second call needs none."""
    machine = Machine(tmp_path, "a", engine)
    now = partial(on_demand.claim_now, machine.share, sleep=_never)
    assert machine.share.lacking() == [4]
    now(opened=over(engine))
    assert machine.share.lacking() == []
    assert len(machine.active()) == 1
    assert engine.closed == 1
    now(opened=_unreachable)  # nothing to ask
    assert_settled(engine, machine)


def _unreachable(_: object) -> Registry:
    raise EngineUnavailable("no endpoint answers")


def test_store_of_the_cluster_is_unreachable(engine: MemoryEngine, tmp_path: Path) -> None:
    """Without etcd the reason is told, and the lock is given back: the next one may try."""
    machine = Machine(tmp_path, "a", engine)
    for _ in range(2):
        with pytest.raises(NoBlock, match="no endpoint answers") as caught:
            on_demand.claim_now(machine.share, opened=_unreachable)
        assert "free address in this node's blocks" in str(caught.value.hint)


def test_another_process_is_busy(engine: MemoryEngine, tmp_path: Path) -> None:
    """Who works on the claims is waited for until the time is up; what he gets is enough."""
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    call = partial(
        on_demand.claim_now,
        machine.share,
        opened=over(engine),
    )
    with NodeLock(machine.store):
        with pytest.raises(NoBlock, match="another process of this node"):
            call(timeout_s=0)
        waits: list[float] = []

        def the_other_one_claims(seconds: float) -> None:
            waits.append(seconds)
            claim(node)

        call(timeout_s=60, sleep=the_other_one_claims)
        assert len(waits) == 1
    assert len(machine.active()) == 1


def _full(engine: MemoryEngine, path: Path) -> tuple[Machine, Machine]:
    """A node that has all sixteen blocks, and one that has none."""
    rich, poor = Machine(path, "rich", engine), Machine(path, "poor", engine)
    assert len(claim(rich.joined(), 16)) == 16
    return rich, poor


def test_used_up(engine: MemoryEngine, tmp_path: Path) -> None:
    """No block is free and nobody answers: the error says what an operator can do."""
    _, poor = _full(engine, tmp_path)
    clock = iter(range(10_000))
    deadline = Deadline(1.0, clock=lambda: next(clock) * 0.01)
    node = poor.joined()
    with pytest.raises(NoBlock, match="pool is used up") as caught:
        on_demand._wait_for_donor(node, 4, deadline, lambda _: None)
    assert "16 of 16 are owned (rich has 16)" in caught.value.message
    assert "release-node" in str(caught.value.hint)
    listed, _ = engine.list(inside(node).keys.prefix + b"wanted/", deadline_s=1)
    assert not listed, "the mark goes with its session"


def test_a_block_becomes_free_meanwhile(engine: MemoryEngine, tmp_path: Path) -> None:
    """While nobody answers the mark, the pool is looked at again."""
    rich, poor = _full(engine, tmp_path)

    def meanwhile(_: float) -> None:
        if len(rich.active()) == 16:
            base = max(rich.active())[1]
            rich.node().give_back([(4, base)], Deadline(5))

    on_demand._wait_for_donor(poor.joined(), 4, Deadline(60), meanwhile)
    assert len(poor.active()) == 1
    assert_settled(engine, rich, poor)


def test_fencing_and_a_node_that_was_removed(tmp_path: Path) -> None:
    """With fencing a claim proves ownership first; a node that was removed meanwhile is refused."""
    engine = Shared()
    init(engine, fencing=True)
    machine = Machine(tmp_path, "a", engine, fencing=True)
    on_demand.claim_now(
        machine.share,
        opened=over(engine),
        sleep=_never,
    )
    assert machine.network.allocate("c1").value
    node = machine.node()
    release_node(
        Machine(tmp_path, "b", engine, fencing=True).joined(), "a", Deadline(5), force=True
    )
    with pytest.raises(ClusterRefused, match="removed meanwhile"):
        inside(node).session.hold(Deadline(5))
