"""The DaemonSet is upgraded and rolled back while pods are replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...options import options
from ..nodes import image
from ..server import until
from . import workloads
from .release import NEXT_TAG, TAG
from .settled import settled
from .workloads import until_ready, workload

if TYPE_CHECKING:
    from .release import Release

_PODS = 60 if options.long else 16


def _tags(release: Release) -> set[str]:
    """The tags of the images of the running agents."""
    images = (each["spec"]["containers"][0]["image"] for each in release.pods())
    return {each.rpartition(":")[2] for each in images}


def test_upgrade_and_rollback_under_load(release: Release) -> None:
    """Neither direction loses an address or a pod, and the configuration stays on the nodes."""
    cluster = release.cluster
    workloads.apply(cluster, workload("Deployment", "web", _PODS))
    until_ready(cluster, "web", _PODS)
    workloads.restart(cluster, "Deployment", "web", "upgrade")
    release.upgrade(image={"repository": image.NAME, "tag": NEXT_TAG, "pullPolicy": "Never"})
    assert _tags(release) == {NEXT_TAG}
    until(lambda: workloads.rolled_out(cluster, "Deployment", "web"), "the restart is done")
    until_ready(cluster, "web", _PODS)
    settled(cluster)
    workloads.restart(cluster, "Deployment", "web", "rollback")
    release.rollback()
    assert _tags(release) == {TAG}
    until(lambda: workloads.rolled_out(cluster, "Deployment", "web"), "the restart is done")
    until_ready(cluster, "web", _PODS)
    settled(cluster)
