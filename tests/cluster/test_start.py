"""Many nodes that start in one moment, on a real etcd; what Prometheus sees of one."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest

import fastipam
from fastipam.agent.clusters import Clusters
from fastipam.agent.web.metrics import Metrics
from fastipam.cluster import deadline
from fastipam.cluster.deadline import Deadline
from fastipam.storage import open_stores
from tests.cluster.memory import MemoryEngine

from .etcd import Etcd
from .nodes import Machine, init, over, settings

if TYPE_CHECKING:
    from fastipam.cluster.node.node import Node

NODES = 200
PATIENCE_S = 120.0  # for all of them, on a machine that is busy with other things


def test_two_hundred_nodes_at_once(
    etcd: Etcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each claims a block of a /12: at most 1.2 transactions a claim, none twice."""
    # A claim that is not answered in time is asked for again, and would count: all of these nodes
    # share one machine with etcd, whose speed is not looked at here.
    monkeypatch.setattr(deadline, "CALL_S", PATIENCE_S)
    more = {"pool": "10.32.0.0/12", "prefix": "/start/"}
    engines = [etcd.engine() for _ in range(NODES)]
    init(engines[0], **more)
    machines = [
        Machine(tmp_path, f"node-{at}", engine, **more) for at, engine in enumerate(engines)
    ]
    nodes = [machine.node() for machine in machines]
    for node in nodes:
        node.join(Deadline(PATIENCE_S), agent=True)
    faults: list[BaseException] = []
    together = threading.Barrier(NODES)

    def claim(node: Node) -> None:
        try:
            together.wait(PATIENCE_S)
            assert node.claim(node.settings.geometries[0], 1, Deadline(PATIENCE_S))
        except BaseException as error:
            faults.append(error)
            together.abort()

    threads = [threading.Thread(target=claim, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]
    transactions = sum(node.counts.transactions for node in nodes)
    print(f"\n{NODES} nodes at once: {transactions / NODES:.3f} transactions a claim")
    assert sum(node.counts.claims for node in nodes) == NODES
    assert transactions <= 1.2 * NODES
    assert len({pair for machine in machines for pair in machine.active()}) == NODES
    for machine in machines:
        machine.engine.close()
        machine.store.close()


def test_metrics(tmp_path: Path) -> None:
    """Whether the shared store answers, blocks by state, and claims are counted for a network."""
    engine = MemoryEngine()
    init(engine)
    path = tmp_path / "store"
    fastipam.open(path, "relaxed").close()
    clusters = Clusters(over(engine))
    keeper = clusters.get(str(path), "podnet", settings("a"))
    try:
        while not keeper.status.states.get("active"):
            keeper.need("c1")
        open_stores.get(str(path), None)
        text = generate_latest(Metrics(keepers=clusters.all).registry).decode()
    finally:
        clusters.stop()
        open_stores.close_all()
    labels = f'{{data_dir="{path}",network="podnet"'
    assert f"fastipam_cluster_reachable{labels}}} 1.0" in text
    assert re.search(r'fastipam_blocks{.*family="4",.*range_set="0",state="active"} ', text)
    assert f"fastipam_cluster_claims_total{labels}}} " in text
