"""A StatefulSet whose pods keep their addresses while their nodes are drained."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING

from ..bodies import pool
from ..rest import POOLS
from ..server import until
from . import workloads
from .settled import addresses, blocks, leases, names, settled
from .workloads import until_ready, workload

if TYPE_CHECKING:
    from ..nodes.cluster import Cluster
    from .release import Release

_PODS = 8
_POOLS = {"fixed", "fixed6"}
_LIST = "10.33.0.16/29,fd33::10/125"
_FIXED = {
    f"web-{at}": [f"10.33.0.{16 + at}", str(ipaddress.ip_address("fd33::10") + at)]
    for at in range(_PODS)
}


def _pods(cluster: Cluster) -> dict[str, list[str]]:
    """The addresses of each pod."""
    return {one["metadata"]["name"]: addresses(one) for one in workloads.pods(cluster, "web")}


def _owners(cluster: Cluster) -> dict[str, str]:
    """The node of each address that is a block."""
    found = {}
    for cidr, owner in blocks(cluster).items():
        base, _, length = cidr.partition("/")
        if length == ("128" if ":" in base else "32"):
            found[base] = owner
    return found


def _on(cluster: Cluster, node: str) -> list[str]:
    """What a node that was drained has yet of the addresses: blocks and leases."""
    kept = [one for one, owner in _owners(cluster).items() if owner == node]
    return kept + [one for one in leases(cluster.nodes[node]) if one.startswith(("10.33", "fd33"))]


def test_a_stateful_set_is_drained_twice(release: Release) -> None:
    """Eight pods on three nodes keep both addresses; nothing stays on nodes that are drained."""
    cluster = release.cluster
    cluster.add("n3")
    until(lambda: cluster.ready_nodes() == set(cluster.nodes), "all nodes are Ready")
    cluster.apply(pool("fixed", "10.33.0.0/24", 32), pool("fixed6", "fd33::/112", 128))
    until(
        lambda: all(one.get("status", {}).get("accepted") for one in cluster.get("addresspools")),
        "the pools are accepted",
    )
    web = workload("StatefulSet", "web", _PODS)
    web["spec"]["template"]["metadata"]["annotations"] = {"fastipam.io/addresses": _LIST}
    workloads.apply(cluster, web)
    until_ready(cluster, "web", _PODS)
    assert _pods(cluster) == _FIXED
    settled(cluster)
    for node in ("n1", "n2"):
        began = time.monotonic()
        cluster.kubectl("drain", node, "--ignore-daemonsets", "--timeout=120s")
        until_ready(cluster, "web", _PODS)
        print(f"{node} is drained, and its pods are Ready, in {time.monotonic() - began:.1f} s")
        assert _pods(cluster) == _FIXED
        until(lambda one=node: not _on(cluster, one), f"nothing is left on {node}")  # type: ignore[misc]
        cluster.kubectl("uncordon", node)
        settled(cluster)
    workloads.delete(cluster, "StatefulSet", "web")
    release.remove("n3")
    for name in _POOLS:
        cluster.admin.request("DELETE", f"{POOLS}/{name}").done()
    release.expect(lambda: "n3" not in blocks(cluster).values(), "the blocks of n3 are free")
    release.expect(lambda: not _owners(cluster), "every address is free")
    release.expect(lambda: not cluster.get("addressrequests"), "no request is left")
    release.expect(lambda: not _POOLS & names(cluster, POOLS), "the pools are gone")
