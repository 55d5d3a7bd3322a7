"""Real nodes: pods of two nodes, a reboot, and nothing left over."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..server import until
from . import leftovers
from .cluster import Cluster, condition
from .node import PAUSE, require


def _conflist(number: int) -> str:
    """A network of the plugins themselves, without fastipam."""
    ranges = [[{"subnet": f"10.32.{number}.0/24"}], [{"subnet": f"fd32:0:0:{number}::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [{"type": "ptp", "ipam": ipam}]
    return json.dumps({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins})


def _pod(name: str, node: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "a", "image": PAUSE, "imagePullPolicy": "Never"}],
        },
    }


def test_two_nodes(tmp_path: Path) -> None:
    """Pods run on both nodes, a node boots again, and the machine is as it was before."""
    require()
    began = time.monotonic()
    with Cluster(tmp_path / "cluster") as cluster:
        print(f"two nodes after {time.monotonic() - began:.1f} s")
        for number, node in enumerate(cluster.nodes.values(), 1):
            (node.own("/etc/cni/net.d") / "10-podnet.conflist").write_text(_conflist(number))
        until(lambda: cluster.ready_nodes() == {"n1", "n2"}, "both nodes are Ready")
        print(f"both Ready after {time.monotonic() - began:.1f} s")
        until(lambda: cluster.get("serviceaccounts", "-n", "default"), "a service account")
        cluster.apply(_pod("a", "n1"), _pod("b", "n2"))

        def ready() -> list[str]:
            pods = cluster.get("pods")
            return [each["metadata"]["name"] for each in pods if condition(each, "Ready")]

        until(lambda: ready() == ["a", "b"], "both pods are Ready")
        print(f"both pods Ready after {time.monotonic() - began:.1f} s")
        addresses = {each["status"]["podIP"] for each in cluster.get("pods")}
        assert {each.rsplit(".", 1)[0] for each in addresses} == {"10.32.1", "10.32.2"}
        node = cluster.nodes["n2"]
        node.reboot()
        until(lambda: ready() == ["a", "b"], "the pods of a node that has booted are Ready")
    assert not leftovers.left(cluster.identity, tmp_path)
