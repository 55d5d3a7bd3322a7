"""The chart is removed from real nodes and installed again: with Helm, and with kubectl alone."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from ...options import options
from ..rest import BLOCKS, POOLS, SYSTEM
from ..server import until
from . import workloads
from .release import AGENT, CHART, NAME, values
from .settled import PROTOCOL, names, settled
from .workloads import until_ready, workload

if TYPE_CHECKING:
    from ..nodes.cluster import Cluster
    from ..nodes.node import Node
    from .release import Release

_PATHS = (
    "/etc/cni/net.d/10-fastipam.conflist",
    "/opt/cni/bin/fastipam",
    "/run/fastipam/agent.sock",
)
_TABLES = ("table ip fastipam", "table ip6 fastipam")
_STORE = "/var/lib/cni/fastipam/data.mdb"
_PART = ("--selector", "app.kubernetes.io/part-of=fastipam")


def _left(node: Node) -> list[str]:
    """What of fastipam is on a node, but for its store."""
    found = [path for path in _PATHS if node.run("test", "-e", path, check=False).returncode == 0]
    for version in (4, 6):
        routes = node.json("ip", "-j", f"-{version}", "route", "show", "proto", PROTOCOL)
        found += [each["dst"] for each in routes or ()]
    tables = node.run("nft", "list", "tables").stdout.splitlines()
    return found + [each for each in tables if each in _TABLES]


def _works(cluster: Cluster, name: str) -> None:
    """Pods of both nodes reach each other."""
    until(lambda: cluster.ready_nodes() == set(cluster.nodes), "all nodes are ready")
    workloads.apply(cluster, workload("Deployment", name, 4, evenly=True))
    until_ready(cluster, name, 4)
    settled(cluster)
    assert all({*_PATHS, *_TABLES} < set(_left(node)) for node in cluster.nodes.values())
    workloads.delete(cluster, "Deployment", name)


def _gone(cluster: Cluster) -> None:
    """Nothing but the stores is on the nodes, and the kubelets say so."""
    for name, node in cluster.nodes.items():
        assert not _left(node), name
        assert node.run("test", "-e", _STORE, check=False).returncode == 0
    until(lambda: not cluster.ready_nodes(), "the kubelets say that there is no network")
    gone = ("get", "namespace", SYSTEM, "--ignore-not-found", "-o", "name")
    until(lambda: not cluster.kubectl(*gone), "the namespace is gone")


def _render(cluster: Cluster, *options: str, **changes: object) -> str:
    """What helm template prints."""
    told = json.dumps(values(cluster, **changes))
    done = cluster.tool("helm", "template", NAME, str(CHART), *options, "--values", "-", stdin=told)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _with_kubectl(cluster: Cluster) -> None:
    """Install the rendered chart, and remove it."""
    apply = ("apply", "--server-side", "-f", "-")
    cluster.kubectl(*apply, "--force-conflicts", stdin=_render(cluster))
    _works(cluster, "by-kubectl")
    uninstall = {"hook": "always", "timeout": 300, "deleteStore": False}
    only = ("--show-only", "templates/uninstall.yaml")
    cluster.kubectl(*apply, stdin=_render(cluster, *only, uninstall=uninstall))
    cluster.kubectl("-n", SYSTEM, "rollout", "status", f"daemonset/{AGENT}", "--timeout=180s")
    cluster.kubectl("delete", "namespace,clusterrole,clusterrolebinding", *_PART)
    policies = "validatingadmissionpolicy,validatingadmissionpolicybinding"
    cluster.kubectl("delete", policies, *_PART)
    _gone(cluster)


def test_removed_and_installed_again(release: Release) -> None:
    """Nothing of it is left on any node, and the API still knows who owns what.

    With ``--long`` with kubectl alone, too.
    """
    cluster = release.cluster
    release.until_expected()  # no pool of another test is being deleted
    _works(cluster, "before")
    blocks, pools = names(cluster, BLOCKS), names(cluster, POOLS)
    began = time.monotonic()
    done = cluster.tool("helm", "uninstall", NAME, "--timeout", "3m")
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"helm uninstall took {time.monotonic() - began:.1f} s")
    _gone(cluster)
    assert (names(cluster, BLOCKS), names(cluster, POOLS)) == (blocks, pools)

    if options.long:
        _with_kubectl(cluster)
        assert names(cluster, POOLS) == pools

    release.install()
    release.until_rolled_out()
    _works(cluster, "after")
