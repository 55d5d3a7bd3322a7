"""Fixtures: one cluster of real nodes for all tests, with the chart installed by one command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..nodes import image, interruption
from ..nodes.cluster import Cluster
from ..nodes.node import require
from . import settled, workloads
from .release import NEXT_TAG, TAG, Release


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look at the installation first: it is a moment old then."""
    items.sort(key=lambda item: item.path.name != "test_install.py")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Two nodes, and the chart that was installed on them a moment ago."""
    require()
    directory = tmp_path_factory.mktemp("cluster")
    archive = directory / "fastipam.tar"
    name = image.build(archive, TAG)
    tags = {name: f"{image.NAME}:{NEXT_TAG}"}
    with Cluster(directory / "nodes", images=[archive], tags=tags) as cluster:
        release = Release(cluster)
        release.install()
        yield release
        if not interruption.arrived():
            release.until_expected()


@pytest.fixture
def release(installed: Release) -> Iterator[Release]:
    """The release, rolled out. After the test its workloads go, and all has to be in order."""
    installed.until_rolled_out()
    _end_workloads(installed)  # of tests that have left theirs to the next one
    yield installed
    if interruption.arrived():
        return
    _end_workloads(installed)
    settled.settled(installed.cluster)


def _end_workloads(installed: Release) -> None:
    for kind in ("Deployment", "StatefulSet"):
        for each in installed.cluster.admin.get(workloads.path(kind)).done()["items"]:
            workloads.delete(installed.cluster, kind, each["metadata"]["name"])


@pytest.fixture
def cluster(release: Release) -> Cluster:
    """The cluster of the release."""
    return release.cluster
