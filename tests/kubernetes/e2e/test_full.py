"""A pool that is too small: the service goes on, and says what to type; then space appears."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from ..rest import POOLS
from ..server import until
from . import workloads
from .settled import settled
from .workloads import until_ready, workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..nodes.cluster import Cluster
    from ..nodes.node import Node
    from .release import Release

# Two blocks of 8 addresses: one for each node, or both for one of them, and then none to claim.
_SMALL = {"cidr": "10.34.0.0/28", "blockSize": 29, "gateway": "10.34.0.1"}
_PODS = 24
_SERVED = 5  # at least, wherever the blocks are


def _disable(cluster: Cluster, pool: str, disabled: bool) -> None:
    cluster.admin.merge(f"{POOLS}/{pool}", {"spec": {"disabled": disabled}}).done()


@pytest.fixture
def small_pool(release: Release) -> Iterator[Cluster]:
    """The cluster with a small pool in place of its own of that family."""
    cluster = release.cluster
    document = {
        "apiVersion": "fastipam.io/v1alpha1",
        "kind": "AddressPool",
        "metadata": {"name": "small"},
        "spec": _SMALL,
    }
    cluster.admin.apply(f"{POOLS}/small", document).done()
    _disable(cluster, "default", True)
    until(lambda: _accepted(cluster, "small"), "the small pool is accepted")
    yield cluster
    _disable(cluster, "default", False)
    _disable(cluster, "small", True)
    for each in cluster.admin.get(workloads.path("Deployment")).done()["items"]:
        workloads.delete(cluster, "Deployment", each["metadata"]["name"])
    cluster.admin.delete(f"{POOLS}/small").done()
    release.expect(
        lambda: cluster.admin.get(f"{POOLS}/small").status == 404, "the small pool is gone"
    )


def _accepted(cluster: Cluster, pool: str) -> bool:
    found = cluster.admin.get(f"{POOLS}/{pool}").done()
    return "accepted" in found.get("status", {})


def _waiting(cluster: Cluster) -> list[dict[str, Any]]:
    return [each for each in workloads.pods(cluster, "web") if not each["status"].get("podIPs")]


def _refusals(cluster: Cluster) -> list[str]:
    """The messages of the events of pods that got no address."""
    events = cluster.admin.get("/api/v1/namespaces/default/events").done()["items"]
    found = (each["message"] for each in events if each["reason"] == "FailedCreatePodSandBox")
    return [each for each in found if "no address is free" in each]


def _add(node: Node, container: str, command: str) -> bool:
    """Ask the plugin of the node as the runtime does; whether it did what was asked."""
    path = node.own("/etc/cni/net.d") / "10-fastipam.conflist"
    network = json.loads(path.read_text())
    document = {
        "cniVersion": "1.0.0",
        "name": network["name"],
        "ipam": network["plugins"][0]["ipam"],
    }
    environment = [
        *(f"CNI_COMMAND={command}", f"CNI_CONTAINERID={container}", "CNI_IFNAME=eth0"),
        *("CNI_NETNS=/run/netns/none", "CNI_PATH=/opt/cni/bin"),
    ]
    done = node.run(
        *("env", *environment, "/opt/cni/bin/fastipam"), check=False, stdin=json.dumps(document)
    )
    return done.returncode == 0


def test_nobody_is_evicted_and_space_is_taken(small_pool: Cluster) -> None:
    """A full pool takes no node down; a pool that is made is used at once.

    Pods of a node that is not Ready would be evicted after ten seconds here. The bars are 2 s for
    the next ADD, and 25 s for the pods, which the kubelet tries again by itself.
    """
    cluster = small_pool
    workloads.apply(cluster, workload("Deployment", "web", _PODS))
    until(lambda: _refusals(cluster), "an event says that the pool is full")
    until(lambda: workloads.ready(cluster, "web") >= _SERVED, "the others are ready")
    served = {each["metadata"]["uid"] for each in workloads.pods(cluster, "web")}
    end = time.monotonic() + 15  # longer than a pod is tolerated on a node that is not Ready
    while time.monotonic() < end:
        assert cluster.ready_nodes() == set(cluster.nodes)
        time.sleep(1)
    assert served == {each["metadata"]["uid"] for each in workloads.pods(cluster, "web")}
    text = "\n".join(_refusals(cluster))
    print(text.splitlines()[0])
    assert "kubectl edit addresspool small" in text, text
    node = cluster.nodes[_waiting(cluster)[0]["spec"]["nodeName"]]
    assert not _add(node, "probe", "ADD")
    _disable(cluster, "default", False)
    began = time.monotonic()
    until(lambda: _add(node, "probe", "ADD"), "an ADD is served")
    print(f"space appears: the next ADD succeeds after {time.monotonic() - began:.1f} s")
    assert _add(node, "probe", "DEL")
    until(lambda: not _waiting(cluster), "the waiting pods have addresses")
    until_ready(cluster, "web", _PODS)
    print(f"the waiting pods are ready after {time.monotonic() - began:.1f} s")
    settled(cluster)
