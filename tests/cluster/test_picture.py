"""The blocks of a cluster as the map, the agent's page and the metrics see them."""

from __future__ import annotations

from pathlib import Path

from fastipam.agent.web import readings
from fastipam.picture import cells, layers
from fastipam.picture.blocks import Owned, owned
from tests.cluster.memory import MemoryEngine
from tests.counting import counts

from .nodes import NETWORK, Machine, init
from .test_claims import claim


def test_blocks_of_a_node(tmp_path: Path) -> None:
    """Each claimed block is there with its bounds and state, and coloured by it."""
    engine = MemoryEngine()
    init(engine)
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    with machine.store.read() as txn:
        assert owned(txn, 1, node.settings.pool) == []
    claim(node, 2)
    with machine.store.read() as txn:
        found = owned(txn, 1, node.settings.pool)
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
