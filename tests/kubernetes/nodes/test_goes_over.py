"""From host-local on podCIDRs to the chart with the pods running, and back, on real nodes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...options import options
from ..server import until
from . import image
from .cluster import Cluster, condition
from .control import PORT
from .node import PAUSE, require

if TYPE_CHECKING:
    from .node import Node

_ROOT = Path(__file__).parents[3]
_NODES, _PODS = (3, 17) if options.long else (2, 4)  # and pods of each node
_OLD, _NEW, _BACK = "10-podnet.conflist", "05-fastipam.conflist", "01-podnet.conflist"


def _conflist(number: int) -> str:
    """What a node has before: ptp and host-local on its podCIDR."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": f"10.244.{number}.0/24"}]]}
    plugins = [{"type": "ptp", "ipam": ipam | {"routes": [{"dst": "0.0.0.0/0"}]}}]
    return json.dumps({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins})


def _pods(node: str, first: int, count: int = _PODS) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{node}-{first + at}", "namespace": "default"},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "a", "image": PAUSE, "imagePullPolicy": "Never"}],
            },
        }
        for at in range(count)
    ]


def _addresses(cluster: Cluster) -> dict[str, str]:
    """The address of each pod that is Ready."""
    return {
        one["metadata"]["name"]: one["status"]["podIP"]
        for one in cluster.get("pods", "-n", "default")
        if condition(one, "Ready")
    }


def _fastipam(cluster: Cluster, node: Node, *arguments: str) -> str:
    """What fastipam says in the agent's pod of a node."""
    label = "app.kubernetes.io/name=fastipam-agent"
    pods = cluster.get("pods", "-n", "fastipam-system", "-l", label)
    (agent,) = (one["metadata"]["name"] for one in pods if one["spec"]["nodeName"] == node.name)
    command = ("-n", "fastipam-system", "exec", agent, "-c", "agent", "--", "fastipam")
    return cluster.kubectl(*command, *arguments)


def _leases(cluster: Cluster, node: Node) -> set[str]:
    """The addresses that fastipam has assigned on a node."""
    found = json.loads(_fastipam(cluster, node, "list", "--state", "ASSIGNED", "--json"))
    return {str(one["address"]).partition("/")[0] for one in found}


def test_there_and_back(tmp_path: Path) -> None:
    """No pod's address changes, and none is given twice; each step as docs/kubernetes.md has it.

    The long form has 51 pods on three nodes.
    """
    require()
    archive = tmp_path / "image.tar"
    name, _, tag = image.build(archive, "over").rpartition(":")
    values = tmp_path / "values.yaml"
    with Cluster(tmp_path / "cluster", nodes=_NODES, images=[archive]) as cluster:
        document = {
            "image": {"repository": name, "tag": tag, "pullPolicy": "Never"},
            "kubernetes": {"host": cluster.control.address, "port": PORT},
            "pools": [
                {"name": "default", "cidr": "10.244.0.0/16", "blockSize": 24, "claims": "NodeCIDRs"}
            ],
            "network": {"name": "podnet", "portmap": False, "bandwidth": False},
            "node": {"confName": _NEW},
            "routes": "none",
        }
        values.write_text(json.dumps(document))
        for number, (node_name, node) in enumerate(cluster.nodes.items(), 1):
            cidr = f"10.244.{number}.0/24"
            patch = json.dumps({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})
            cluster.kubectl("patch", "node", node_name, "--type=merge", "-p", patch)
            (node.own("/etc/cni/net.d") / _OLD).write_text(_conflist(number))
        until(lambda: len(cluster.ready_nodes()) == len(cluster.nodes), "nodes are Ready")
        until(lambda: cluster.get("serviceaccounts", "-n", "default"), "a service account")
        for node_name in cluster.nodes:
            cluster.apply(*_pods(node_name, 0))
        wanted = _PODS * len(cluster.nodes)
        until(lambda: len(_addresses(cluster)) == wanted, "pods of host-local run")
        before = _addresses(cluster)

        began = time.monotonic()
        done = cluster.tool(
            "helm", "install", "fastipam", str(_ROOT / "deploy/chart"), "--values", str(values)
        )
        assert done.returncode == 0, done.stderr
        for node in cluster.nodes.values():
            until((node.own("/etc/cni/net.d") / _NEW).exists, f"{node.name} has gone over")
        print(f"gone over after {time.monotonic() - began:.1f} s")
        assert _addresses(cluster) == before
        for node_name in cluster.nodes:
            cluster.apply(*_pods(node_name, _PODS))
        until(lambda: len(_addresses(cluster)) == 2 * wanted, "pods of fastipam run")
        after = _addresses(cluster)
        assert {one: after[one] for one in before} == before
        assert len(set(after.values())) == 2 * wanted, after
        for node in cluster.nodes.values():
            mine = {after[one] for one in after if one.startswith(f"{node.name}-")}
            assert mine <= _leases(cluster, node)
        cluster.kubectl("delete", "pod", *[f"{one}-0" for one in cluster.nodes], "--wait")
        for node in cluster.nodes.values():
            gone = before[f"{node.name}-0"]
            until(lambda: gone not in _leases(cluster, node), f"{gone} is released")  # noqa: B023

        for number, node in enumerate(cluster.nodes.values(), 1):
            cluster.kubectl("cordon", node.name)
            _fastipam(cluster, node, "export", "host-local")
            (node.own("/etc/cni/net.d") / _BACK).write_text(_conflist(number))
            until(lambda: "host-local" in node.crictl("info").stdout, "it is read")  # noqa: B023
            cluster.kubectl("uncordon", node.name)
        for node_name in cluster.nodes:
            cluster.apply(*_pods(node_name, 2 * _PODS))
        left = 3 * wanted - len(cluster.nodes)
        until(lambda: len(_addresses(cluster)) == left, "pods of host-local run again")
        last = _addresses(cluster)
        assert len(set(last.values())) == left, last
        assert all(last[one] == address for one, address in after.items() if one in last)
