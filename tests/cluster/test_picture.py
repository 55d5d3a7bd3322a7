"""The blocks of a cluster as the map, the agent's page and the metrics see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastipam.agent.web import readings
from fastipam.cluster.admin import report
from fastipam.cluster.deadline import Deadline
from fastipam.picture import cells, layers, text
from fastipam.picture.blocks import Owned, owned
from tests.cluster.memory import MemoryEngine
from tests.counting import counts
from tests.ids import POOL_ID

from .nodes import NETWORK, Machine, init
from .test_claims import claim


def test_blocks_of_a_node(tmp_path: Path) -> None:
    """Each claimed block is there with its bounds and state, and coloured by it."""
    engine = MemoryEngine()
    init(engine)
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    with machine.store.read() as txn:
        assert owned(txn, POOL_ID, node.settings.pool) == []
    claim(node, 2)
    with machine.store.read() as txn:
        found = owned(txn, POOL_ID, node.settings.pool)
        assert {(one.family, one.first) for one in found} == machine.active()
        assert all(one == Owned(4, one.first, one.first + 255, "active") for one in found)
        picture = cells.read(txn, NETWORK)
        assert picture is not None
        layer = layers.read(txn, picture, layers.BLOCK)
    assert layer.labels == ["active"]
    assert layer.sizes == [512]
    assert sum(int((values == 0).sum()) for values in layer.values) == 512


def test_every_count_is_of_the_nodes_share(tmp_path: Path) -> None:
    """``stats``, the metrics, the page and the picture count the node's blocks, not the pool."""
    engine = MemoryEngine()
    init(engine, pool="10.32.0.0/16")
    machine = Machine(tmp_path, "a", engine, pool="10.32.0.0/16")
    claim(machine.joined(), 1)
    machine.network.allocate("c1")
    told = counts(machine.network)
    size = told["size"]
    assert 250 <= size <= 256
    assert told == {"size": size, "assigned": 1, "cooling": 0, "reserved": 0, "free": size - 1}
    with machine.store.read() as txn:
        reading = readings.read(txn, NETWORK)
        picture = cells.read(txn, NETWORK)
    assert reading is not None
    assert picture is not None
    assert reading.counts == told
    assert picture.stats == told


@pytest.mark.parametrize("max_bits", [20, 10])
def test_the_map_of_a_node_has_the_free_addresses_of_its_blocks(
    tmp_path: Path, max_bits: int
) -> None:
    """Addresses of blocks that the node does not have are drawn and counted as elsewhere."""
    engine = MemoryEngine()
    init(engine, pool="10.32.0.0/16")
    machine = Machine(tmp_path, "a", engine, pool="10.32.0.0/16")
    claim(machine.joined(), 2)
    machine.network.allocate("c1")
    (own,) = machine.network.stats().sets
    with machine.store.read() as txn:
        picture = cells.read(txn, NETWORK, max_bits)
    assert picture is not None
    tally = dict(
        zip(
            cells.STATES,
            sum(panel.tally(0)[0] for panel in picture.panels).tolist(),
            strict=True,
        )
    )
    assert (tally["free"], tally["assigned"]) == (own.free, 1)
    assert sum(tally.values()) == 1 << 16
    assert tally["elsewhere"] + own.size == machine.settings.pool.size
    ((_, line),) = text.counted(picture)
    assert f"size {own.size}  assigned 1" in line
    assert line.endswith(f"elsewhere {tally['elsewhere']:,}")
    assert own.blocks == 2


def test_a_cluster_of_both_families_is_counted_by_family(tmp_path: Path) -> None:
    """A node with a full IPv4 block is full, whatever its IPv6 block has left."""
    both: Any = {"pool": ["10.32.0.0/16", "fd00::/100"], "blockSize": [24, 116]}
    engine = MemoryEngine()
    init(engine, **both)
    machine = Machine(tmp_path, "a", engine, **both)
    node = machine.joined()
    for family in (4, 6):
        assert node.claim_family(family, 1, Deadline(5))
    machine.network.allocate_many([(f"c{number}", "eth0") for number in range(250)])
    v4, v6 = machine.network.stats().sets
    assert (v4.family, v4.blocks, v6.family, v6.blocks) == (4, 1, 6, 1)
    assert v4.assigned == v6.assigned == 250
    assert v4.size == v4.free + 250 <= 256
    told = report.of_node(node, True) | report.of_cluster(node, Deadline(5))
    assert told["free_by_family"] == {"IPv4": v4.free, "IPv6": v6.free}
    assert told["unowned_by_family"] == {"IPv4": 255, "IPv6": 65535}
    assert sum(told["unowned_by_family"].values()) == told["unowned"]
