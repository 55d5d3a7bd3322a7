"""What an operator is told of a node's share, and every way in which two stores can disagree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from fastipam.agent.web import readings
from fastipam.allocation import blocks
from fastipam.cluster.admin import report
from fastipam.cluster.admin.admin import release_node
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import Delete, Put
from fastipam.cluster.errors import NoBlock
from fastipam.picture import cells
from fastipam.storage.records import block as block_record
from tests.cluster.memory import MemoryEngine
from tests.counting import counts

from .nodes import Machine, init, inside
from .test_claims import claim

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def engine() -> MemoryEngine:
    """A cluster's store with the settings written."""
    made = MemoryEngine()
    init(made)
    return made


def _texts(machine: Machine, *, has_store: bool = True) -> list[str]:
    found = report.compare(machine.node(), has_store, Deadline(5))
    return sorted(f"{one['node']}: {one['text']}" for one in found)


def _write(engine: MemoryEngine, *writes: Put | Delete) -> None:
    assert engine.transact([], list(writes), deadline_s=1).succeeded


def test_of_a_node(engine: MemoryEngine, tmp_path: Path) -> None:
    """Registered or not, its blocks by state, its addresses; without a store it has nothing."""
    machine = Machine(tmp_path, "a", engine)
    assert report.of_node(machine.node(), False)["registered"] is False
    assert report.of_node(machine.node(), True)["registered"] is False
    claim(machine.joined(), 2)
    machine.network.allocate("c1")
    told = report.of_node(machine.node(), True)
    assert told["registered"] is True
    assert told["blocks"] == {"active": 2}
    assert told["used"] == 1
    assert told["used"] + told["free"] == told["addresses"]
    assert "assigns_nothing" not in told


def test_counts_are_one_count(engine: MemoryEngine, tmp_path: Path) -> None:
    """Library, page, metrics and picture count the addresses of the node's own blocks."""
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined(), 2)
    machine.network.allocate("c1")
    stats = counts(machine.network)
    assert stats["size"] < machine.settings.pool.size
    with machine.store.read() as txn:
        reading, picture = readings.read(txn, "podnet"), cells.read(txn, "podnet")
    assert reading is not None
    assert picture is not None
    assert reading.counts == picture.stats == stats


def test_of_a_node_that_was_removed(engine: MemoryEngine, tmp_path: Path) -> None:
    """A node whose registration is gone assigns nothing, and the report says why."""
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    claim(node)
    node.share.forget_registration()
    assert "not registered" in report.of_node(node, True)["assigns_nothing"]


def test_of_the_cluster(engine: MemoryEngine, tmp_path: Path) -> None:
    """Nodes, blocks owned and not, and whether the settings there are the ones here."""
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    claim(node, 4)
    told = report.of_cluster(node, Deadline(5))
    assert told["settings"] == report.AGREED
    assert (told["cluster_nodes"], told["cluster_blocks"]) == (1, 16)
    assert (told["owned"], told["unowned"]) == (4, 12)
    other = Machine(tmp_path, "b", engine, blockSize=25)
    assert report.of_cluster(other.node(), Deadline(5))["settings"].startswith(
        "the cluster has other settings: "
    )
    empty = Machine(tmp_path, "c", MemoryEngine())
    assert "fastipam cluster init" in report.of_cluster(empty.node(), Deadline(5))["settings"]


def test_claim(engine: MemoryEngine, tmp_path: Path) -> None:
    """An operator's claim registers the node and names the blocks; it says when none is free."""
    machine = Machine(tmp_path, "a", engine)
    named = report.claim(machine.node(), 4, 4, Deadline(5))
    assert len(named) == 4
    assert all(one.endswith("/24") for one in named)
    for _ in range(12):
        report.claim(machine.node(), 4, 1, Deadline(5))
    with pytest.raises(NoBlock, match=r"no block is free, 16 of 16 are owned \(a has 16\)"):
        report.claim(machine.node(), 4, 1, Deadline(5))


def test_agreement(engine: MemoryEngine, tmp_path: Path) -> None:
    """Two nodes that follow the protocol: nothing to report, with a store and without."""
    one, two = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    claim(one.joined(), 2)
    claim(two.joined())
    assert _texts(one) == []
    assert _texts(two, has_store=False) == []


def test_disagreements_inside_the_shared_store(engine: MemoryEngine, tmp_path: Path) -> None:
    """An owner that never was, one that was removed, and lists that are not the same."""
    one, two = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    (pair,) = claim(one.joined())
    claim(two.joined())
    keys = inside(one.node()).keys
    value = engine.get(keys.block(*pair), deadline_s=1)
    assert value is not None
    _write(
        engine,
        Delete(keys.owned("a", *pair)),
        Put(keys.owned("b", *pair), b""),
        Put(keys.block(4, 0x0A630000), value.value.replace(b"node=a", b"node=ghost")),
    )
    told = _texts(one, has_store=False)
    assert "b: node b lists it, and node a owns it" in told
    assert "ghost: the block's owner ghost never registered" in told
    assert "ghost: the block is in no pool" in told
    assert "ghost: node ghost owns it and does not list it" in told


def test_disagreements_with_this_node(engine: MemoryEngine, tmp_path: Path) -> None:
    """Active here and another's there, not known here, begun, lost, and of another revision."""
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    pairs = claim(node, 8)
    keys = inside(node).keys
    entry = engine.get(keys.block(*pairs[0]), deadline_s=1)
    assert entry is not None
    _write(engine, Delete(keys.block(*pairs[0])), Delete(keys.owned("a", *pairs[0])))
    _write(engine, Put(keys.block(*pairs[1]), entry.value))  # written anew: another revision
    with machine.store.write() as txn:
        pool_id = machine.network._pool_in(txn)
        assert pool_id is not None
        blocks.delete(txn, pool_id, *pairs[2])
        for pair, state in ((pairs[3], block_record.LOST), (pairs[4], block_record.RELEASING)):
            one = blocks.get(txn, pool_id, *pair)
            assert one is not None
            one.state = state
            blocks.put(txn, pool_id, one)
    told = "\n".join(_texts(machine))
    assert "active here, but in etcd no node owns it" in told
    assert re.search(r"the block's revision is \d+ here, but \d+ in etcd", told)
    assert "etcd says that this node owns it, but the node's own store does not have it" in told
    assert "another node owns the block, but addresses of it are in use here" in told
    assert "the block is in state releasing: the change was not finished" in told


def test_a_removed_owner(engine: MemoryEngine, tmp_path: Path) -> None:
    """The blocks of a node that was removed are free again: nothing is left to report."""
    one, two = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    claim(one.joined())
    other = two.joined()
    release_node(other, "a", Deadline(5), force=True)
    assert _texts(two) == []
    assert any("active here, but in etcd no node owns it" in one for one in _texts(one))
