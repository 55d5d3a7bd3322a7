"""The life of a node: it joins, boots, loses its disk, is deleted, comes again, is renamed."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from ...options import options
from ..nodes.cluster import RENAMED
from ..server import until
from . import workloads
from .settled import blocks, leases, settled, used_blocks
from .workloads import until_ready, workload

if TYPE_CHECKING:
    from ..nodes.cluster import Cluster
    from ..nodes.node import Node
    from .release import Release

_PODS = 12


def _blocks(cluster: Cluster, node: str) -> list[str]:
    """The blocks that a node owns."""
    return [cidr for cidr, owner in blocks(cluster).items() if owner == node]


def _spread(cluster: Cluster) -> set[str]:
    """The nodes that have pods of the workload."""
    return {each["spec"]["nodeName"] for each in workloads.pods(cluster, "web")}


def _until_ready(cluster: Cluster) -> None:
    until(lambda: cluster.ready_nodes() == set(cluster.nodes), "all nodes are Ready")


def _lose_disk(node: Node) -> None:
    """Remove the node's stores, as a new disk would not have them."""
    for each in node.own("/var/lib/cni").iterdir():
        shutil.rmtree(each)


def test_joins_and_is_deleted(release: Release) -> None:
    """A node joins and gets pods; it is drained, ends, is deleted: its blocks become free.

    The long form: a machine with that name and an empty disk joins, and gets blocks and pods.
    """
    cluster = release.cluster
    for _ in range(2 if options.long else 1):
        cluster.add("n3")
        _until_ready(cluster)
        workloads.apply(cluster, workload("Deployment", "web", _PODS))
        until_ready(cluster, "web", _PODS)
        assert _spread(cluster) == {"n1", "n2", "n3"}
        assert _blocks(cluster, "n3")
        settled(cluster)
        release.remove("n3")
        until(lambda: not _blocks(cluster, "n3"), "the blocks of the deleted node are free")
        until_ready(cluster, "web", _PODS)
        settled(cluster)
        workloads.delete(cluster, "Deployment", "web")


def test_boots_again(release: Release) -> None:
    """A node boots: its leases of before are released, and it has its blocks still."""
    cluster = release.cluster
    workloads.apply(cluster, workload("Deployment", "web", _PODS))
    until_ready(cluster, "web", _PODS)
    node = cluster.nodes["n2"]
    before = used_blocks(cluster)
    node.reboot()
    _until_ready(cluster)
    release.until_rolled_out()
    until_ready(cluster, "web", _PODS)
    settled(cluster)
    assert "n2" in before.values()
    assert before.items() <= blocks(cluster).items()


def _leases(node: Node) -> dict[str, str]:
    """The leases of a node whose store may not be there yet."""
    try:
        return leases(node)
    except (AssertionError, json.JSONDecodeError):
        return {}


def _not_ready(cluster: Cluster, node: str) -> str:
    """Why a node is not ready, as ``kubectl describe node`` says it; "" when it does not say."""
    found = cluster.admin.get(f"/api/v1/nodes/{node}")
    conditions = found.done()["status"].get("conditions", ()) if found.status == 200 else ()
    return "".join(each["message"] for each in conditions if each["type"] == "Ready")


if options.long:  # they wait for the sweep, and for a cool-down

    def test_is_renamed(release: Release) -> None:
        """A node is renamed under its pods: it says so, and two commands make it a node again."""
        cluster = release.cluster
        cluster.add("n3")
        _until_ready(cluster)
        workloads.apply(cluster, workload("Deployment", "web", _PODS))
        until_ready(cluster, "web", _PODS)
        assert leases(cluster.nodes["n3"])
        owned = _blocks(cluster, "n3")
        cluster.rename("n3", RENAMED)
        words = f"this store belongs to node n3, but the configuration says {RENAMED}"
        until(lambda: words in _not_ready(cluster, RENAMED), "the node says what is wrong")
        assert owned == _blocks(cluster, "n3")

        cluster.kubectl("delete", "node", "n3")
        leave = ("fastipam", "cluster", "leave", "--config", "/etc/fastipam/network.conflist")
        refused = release.execute(RENAMED, *leave)
        if refused[0]:  # for as long as the addresses of the pods that have ended cool
            assert "assigned, cooling or reserved" in refused[1]
            until(lambda: not release.execute(RENAMED, *leave)[0], "no address is cooling")
        _until_ready(cluster)
        until(lambda: not _blocks(cluster, "n3"), "the blocks of the old name are free")
        assert _blocks(cluster, RENAMED)
        until_ready(cluster, "web", _PODS)
        workloads.restart(cluster, "Deployment", "web", "renamed")
        until(lambda: workloads.rolled_out(cluster, "Deployment", "web"), "the restart is done")
        assert _spread(cluster) == {"n1", "n2", RENAMED}
        settled(cluster)
        release.remove(RENAMED)
        until(lambda: not _blocks(cluster, RENAMED), "the blocks of the deleted node are free")

    def test_loses_its_disk(release: Release) -> None:
        """The store is lost under running pods: they are found, and keep their addresses."""
        cluster = release.cluster
        workloads.apply(cluster, workload("Deployment", "web", _PODS))
        until_ready(cluster, "web", _PODS)
        node = cluster.nodes["n2"]
        before, used = leases(node), used_blocks(cluster)
        _lose_disk(node)
        release.kill_agent(node)
        until(lambda: set(before) <= set(_leases(node)), "the addresses of running pods are known")
        workloads.scale(cluster, "Deployment", "web", _PODS + 8)
        until_ready(cluster, "web", _PODS + 8)
        assert used.items() <= blocks(cluster).items()
        workloads.restart(cluster, "Deployment", "web", "after the loss")
        until(lambda: workloads.rolled_out(cluster, "Deployment", "web"), "the restart is done")
        until_ready(cluster, "web", _PODS + 8)
        settled(cluster)
