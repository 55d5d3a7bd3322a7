"""The API server is down: what runs goes on, and a whole cluster boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ...options import options
from ..server import until
from . import workloads
from .settled import addresses, blocks, settled, used_blocks
from .workloads import until_ready

if TYPE_CHECKING:
    from .release import Release

_PODS = 40 if options.long else 12


@pytest.fixture
def loaded(installed: Release) -> Release:
    """The release with pods that are ready, and stay.

    After an outage a kubelet waits for up to half a minute before it hears that a pod is deleted.
    """
    installed.with_pods(_PODS)
    return installed


def test_sandboxes_are_made_again(loaded: Release) -> None:
    """Agent and pods end while the API is down: the kubelet makes both again, without the API."""
    cluster = loaded.cluster
    before = used_blocks(cluster)
    node = cluster.nodes["n2"]
    here = {
        each["metadata"]["name"]
        for each in workloads.pods(cluster, "web")
        if each["spec"]["nodeName"] == "n2"
    }
    cluster.control.kill_server()
    try:
        loaded.kill_agent(node)
        label = ("--label", "app=web", "--state", "Ready", "--quiet")
        old = set(node.crictl("pods", *label).stdout.split())
        assert len(old) == len(here)

        def stopped() -> bool:  # as soon as an agent is there again
            return node.crictl("stopp", *old, check=False).returncode == 0

        until(stopped, "the pods have ended")

        def again() -> bool:
            return len(set(node.crictl("pods", *label).stdout.split()) - old) == len(here)

        until(again, "the kubelet has made the pods again")
    finally:
        cluster.control.start_server()
    until_ready(cluster, "web", _PODS)
    settled(cluster)
    assert before.items() <= blocks(cluster).items()


def test_whole_cluster_boots(loaded: Release) -> None:
    """All nodes boot while the API is down; when it serves, pods get addresses of their blocks."""
    cluster = loaded.cluster
    before = used_blocks(cluster)
    cluster.control.kill_server()
    for node in cluster.nodes.values():
        node.cut_power()
    for node in cluster.nodes.values():
        node.start()
        node.start_kubelet()
    cluster.control.start_server()
    until(lambda: cluster.ready_nodes() == set(cluster.nodes), "all nodes are Ready")
    loaded.until_rolled_out()
    # A status may still be of before: then the sandbox is gone, and the pod is not settled.
    until_ready(cluster, "web", _PODS)
    settled(cluster)
    assert before.items() <= blocks(cluster).items()
    assert all(len(addresses(each)) == 2 for each in workloads.pods(cluster, "web"))
