"""pytest fixtures: ``pytest_plugins = ["fastipam.testing.fixtures"]`` in a ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastipam.ipam import Ipam
from fastipam.network import Network
from fastipam.testing import (
    DEFAULT_RANGES,
    Clock,
    Requests,
    TemporaryNetns,
    TemporaryStore,
    temporary_netns,
    temporary_store,
)


@pytest.fixture
def fastipam_store() -> Iterator[TemporaryStore]:
    """A temporary data directory with its own clock and boot, verified when the test ends."""
    with temporary_store() as store:
        yield store


@pytest.fixture
def fastipam_clock(fastipam_store: TemporaryStore) -> Clock:
    """The clock of ``fastipam_store``, which only the test moves."""
    return fastipam_store.clock


@pytest.fixture
def fastipam_ipam(fastipam_store: TemporaryStore) -> Iterator[Ipam]:
    """The store in ``fastipam_store``, open."""
    with fastipam_store.open() as ipam:
        yield ipam


@pytest.fixture
def fastipam_network(fastipam_ipam: Ipam) -> Network:
    """The network "test" with the range 10.32.0.0/24, in ``fastipam_ipam``."""
    return fastipam_ipam.network("test", DEFAULT_RANGES)


@pytest.fixture
def fastipam_requests(fastipam_store: TemporaryStore) -> Requests:
    """Requests of the newest CNI version for the network "test" with the range 10.32.0.0/24."""
    return Requests(fastipam_store.path)


@pytest.fixture
def fastipam_netns() -> Iterator[TemporaryNetns]:
    """A file that stands for a network namespace, until the test ends it."""
    with temporary_netns() as netns:
        yield netns
