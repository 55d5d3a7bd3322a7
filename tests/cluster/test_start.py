"""Many nodes that start in one moment, on a real etcd; what Prometheus sees of one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest

import fastipam
from fastipam.agent.cluster_metrics import ClusterMetrics
from fastipam.agent.keepers import Keepers
from fastipam.cluster.claims import Deadline
from fastipam.cluster.engines.memory import MemoryEngine

from .etcd import Etcd
from .nodes import Machine, init, settings

if TYPE_CHECKING:
    from fastipam.cluster.claims import Node

NODES = 200


def test_two_hundred_nodes_at_once(etcd: Etcd, tmp_path: Path) -> None:
    """Each claims a block of a /12: at most 1.2 transactions a claim, none twice."""
    more = {"pool": "10.32.0.0/12", "prefix": "/start/"}
    engine = etcd.engine()
    init(engine, **more)
    machines = [Machine(tmp_path, f"node-{at}", engine, **more) for at in range(NODES)]
    nodes = [machine.joined() for machine in machines]
    faults: list[BaseException] = []
    together = threading.Barrier(NODES)

    def claim(node: Node) -> None:
        try:
            together.wait()
            assert node.claim(node.settings.geometries[0], 1, Deadline(30))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=claim, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]
    transactions = sum(node.counts.transactions for node in nodes)
    assert sum(node.counts.claimed for node in nodes) == NODES
    assert transactions <= 1.2 * NODES
    assert len({pair for machine in machines for pair in machine.active()}) == NODES
    engine.close()
    for machine in machines:
        machine.store.close()


def test_metrics(tmp_path: Path) -> None:
    """Whether the shared store answers, blocks by state, and claims are counted for a network."""
    engine = MemoryEngine()
    init(engine)
    path = tmp_path / "store"
    fastipam.open(path, "relaxed").close()
    keepers = Keepers(lambda _: engine)
    keeper = keepers.get(str(path), "podnet", settings("a"))
    try:
        while not keeper.status.states.get("active"):
            keeper.need("c1")
        registry = CollectorRegistry()
        registry.register(ClusterMetrics(keepers))
        text = generate_latest(registry).decode()
    finally:
        keepers.stop()
    labels = f'{{data_dir="{path}",network="podnet"'
    assert f"fastipam_cluster_reachable{labels}}} 1.0" in text
    assert f'fastipam_cluster_blocks{labels},state="active"}} ' in text
    assert f"fastipam_cluster_claims_total{labels}}} " in text
