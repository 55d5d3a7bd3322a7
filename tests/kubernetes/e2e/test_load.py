"""Many pods come and go, and what they need is killed meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ...options import options
from ..server import until
from . import workloads
from .settled import addresses, settled
from .workloads import until_ready, workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..nodes.cluster import Cluster
    from .release import Release

_PODS = 60 if options.long else 24


@pytest.fixture
def loaded(installed: Release) -> Release:
    """The release with pods that are ready. They stay, and the next test has them."""
    installed.with_pods(_PODS)
    return installed


def _uids(cluster: Cluster) -> set[str]:
    """The pods that are there."""
    return {each["metadata"]["uid"] for each in workloads.pods(cluster, "web")}


def _agent(release: Release) -> None:
    for node in release.cluster.nodes.values():
        release.kill_agent(node)


def _containerd(release: Release) -> None:
    for node in release.cluster.nodes.values():
        node.kill_containerd()
        node.start_containerd()


def _api_server(release: Release) -> None:
    release.cluster.control.kill_server()
    release.cluster.control.start_server()


def test_scale(cluster: Cluster) -> None:
    """From 0 to 60 pods and back: no lease and no route is left over."""
    workloads.apply(cluster, workload("Deployment", "web", 0))
    began = time.monotonic()
    workloads.scale(cluster, "Deployment", "web", 60)
    until_ready(cluster, "web", 60)
    print(f"60 pods are ready after {time.monotonic() - began:.1f} s")
    settled(cluster)
    began = time.monotonic()
    workloads.scale(cluster, "Deployment", "web", 0)
    until_ready(cluster, "web", 0)
    print(f"60 pods are gone after {time.monotonic() - began:.1f} s")
    settled(cluster)


def test_rolling_restart(loaded: Release) -> None:
    """All pods are replaced: none has the address of one that is there."""
    cluster = loaded.cluster
    before = _uids(cluster)
    workloads.restart(cluster, "Deployment", "web", "once")
    until(lambda: workloads.rolled_out(cluster, "Deployment", "web"), "the restart is done")
    until_ready(cluster, "web", _PODS)
    assert before.isdisjoint(_uids(cluster))
    settled(cluster)


@pytest.mark.parametrize("kill", [_agent, _containerd, _api_server])
def test_killed_under_load(loaded: Release, kill: Callable[[Release], None]) -> None:
    """It is killed while all pods are being replaced, and everything settles by itself."""
    cluster = loaded.cluster
    before = _uids(cluster)
    workloads.restart(cluster, "Deployment", "web", kill.__name__)
    until(lambda: len(before - _uids(cluster)) >= _PODS // 3, "a third of the pods is replaced")
    kill(loaded)
    until(lambda: workloads.rolled_out(cluster, "Deployment", "web"), "the restart is done")
    until_ready(cluster, "web", _PODS)
    loaded.until_rolled_out()
    settled(cluster)


def test_drain(loaded: Release) -> None:
    """A node is drained: its pods move, and the node keeps no lease of theirs."""
    cluster = loaded.cluster
    cluster.kubectl(
        "drain", "n2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"
    )
    until_ready(cluster, "web", _PODS)
    assert {each["spec"]["nodeName"] for each in workloads.pods(cluster, "web")} == {"n1"}
    settled(cluster)
    cluster.kubectl("uncordon", "n2")


def test_stateful_set(cluster: Cluster) -> None:
    """Its pods come again under their names, one after the other, and each has two addresses."""
    document = workload("StatefulSet", "db", 4)
    workloads.apply(cluster, document)
    until_ready(cluster, "db", 4)
    settled(cluster)
    before = {each["metadata"]["name"]: addresses(each) for each in workloads.pods(cluster, "db")}
    workloads.restart(cluster, "StatefulSet", "db", "once")
    until(lambda: workloads.rolled_out(cluster, "StatefulSet", "db"), "the restart is done")
    until_ready(cluster, "db", 4)
    after = {each["metadata"]["name"]: addresses(each) for each in workloads.pods(cluster, "db")}
    assert after.keys() == before.keys() == {f"db-{number}" for number in range(4)}
    assert all(len(each) == 2 for each in after.values())
    settled(cluster)
