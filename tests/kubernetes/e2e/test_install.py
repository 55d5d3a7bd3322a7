"""From nothing to a network: one command, and what an operator then sees."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import workloads
from .settled import settled
from .workloads import until_ready, workload

if TYPE_CHECKING:
    from .release import Release


def test_one_command(installed: Release) -> None:
    """Pods of two nodes reach each other in both families; the bar is 60 s."""
    cluster = installed.cluster
    workloads.apply(cluster, workload("Deployment", "first", 4, evenly=True))
    until_ready(cluster, "first", 4)
    settled(cluster)
    print(f"pods reach each other {time.monotonic() - installed.began:.1f} s after helm install")
    found = workloads.pods(cluster, "first")
    assert {each["spec"]["nodeName"] for each in found} == set(cluster.nodes)
    assert all(len(each["status"]["podIPs"]) == 2 for each in found)
    workloads.delete(cluster, "Deployment", "first")


def test_doctor_of_a_healthy_node(release: Release) -> None:
    """``fastipam doctor`` in the agent's container finds nothing wrong."""
    status, text = release.execute("n1", "fastipam", "doctor")
    assert status == 0, text


def test_version(release: Release) -> None:
    """The image runs the fastipam that it was made from."""
    import fastipam

    status, text = release.execute("n2", "fastipam", "--version")
    assert status == 0, text
    assert fastipam.__version__ in text
