"""Pods that choose a pool: what an operator sees of one whose pool is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...options import options
from ..bodies import pool
from ..rest import POOLS
from ..server import until
from . import workloads
from .settled import addresses, names, settled
from .workloads import until_ready, workload

if TYPE_CHECKING:
    from ..nodes.cluster import Cluster

_POOLS = {
    "ssd": pool("ssd", "10.35.0.0/24", 28, nodeSelector={"matchLabels": {"disk": "ssd"}}),
    "red": pool("red", "10.36.0.0/24", 28, namespaceSelector={"matchLabels": {"team": "red"}}),
    "chosen": pool("chosen", "10.37.0.0/24", 28, assignment="Manual"),
}
_CHOSEN = list(_POOLS) if options.long else ["ssd", "red"]
_REFUSALS = {
    "ssd": 'the nodeSelector "disk=ssd" of pool ssd does not select node n',
    "red": 'the namespaceSelector "team=red" of pool red does not select namespace default',
}


def test_a_pod_chooses_its_pool(cluster: Cluster) -> None:
    """``kubectl describe pod`` names the filter that refuses a pool.

    The long form has a pool that serves, too; it waits for what cools before the pool is gone.
    """
    cluster.apply(*_POOLS.values())

    def accepted() -> bool:
        found = cluster.admin.get(POOLS).done()["items"]
        return all("accepted" in each.get("status", {}) for each in found)

    until(accepted, "the pools are accepted")
    for name in _CHOSEN:
        document = workload("Deployment", name, 2)
        annotations = {"fastipam.io/pool": name}
        document["spec"]["template"]["metadata"]["annotations"] = annotations
        workloads.apply(cluster, document)
    for name, words in _REFUSALS.items():
        until(lambda name=name, words=words: words in _described(cluster, name), words)  # type: ignore[misc]
        assert "kubectl label n" in _described(cluster, name)  # what to type
        assert workloads.ready(cluster, name) == 0
        workloads.delete(cluster, "Deployment", name)
    if options.long:
        until_ready(cluster, "chosen", 2)
        for each in workloads.pods(cluster, "chosen"):
            (address,) = addresses(each)  # the pool's one family
            assert address.startswith("10.37.0.")
        settled(cluster)
        workloads.delete(cluster, "Deployment", "chosen")
    for name in _POOLS:
        cluster.admin.request("DELETE", f"{POOLS}/{name}").done()
    until(lambda: not _POOLS.keys() & names(cluster, POOLS), "the pools are gone")


def _described(cluster: Cluster, app: str) -> str:
    return cluster.kubectl("describe", "pods", "--selector", f"app={app}", "--show-events")
