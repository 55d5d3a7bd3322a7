"""Stores, requests, clocks and faults for the test suites of programs that embed fastipam.

Nothing here is mocked: a test works on a real, relaxed store in a temporary directory, on a tmpfs
if the machine has one. A test decides only the time, the boot, when a namespace ends, and when an
operation fails or a process is killed. The store is verified at the end of the ``with`` block, so a
test that leaves a damaged store fails.

As pytest fixtures: ``pytest_plugins = ["fastipam.testing.fixtures"]`` in a ``conftest.py``.
"""

from __future__ import annotations

from fastipam.testing.clock import Clock
from fastipam.testing.faults import failing
from fastipam.testing.namespaces import TemporaryNetns, temporary_netns
from fastipam.testing.requests import PluginRequest, Requests
from fastipam.testing.results import Contents, assert_same_result, contents
from fastipam.testing.stores import (
    DEFAULT_RANGES,
    TemporaryStore,
    exhaust,
    temporary_network,
    temporary_store,
)

__all__ = [
    "DEFAULT_RANGES", "Clock", "Contents", "PluginRequest", "Requests", "TemporaryNetns",
    "TemporaryStore", "assert_same_result", "contents", "exhaust", "failing", "temporary_netns",
    "temporary_network", "temporary_store",
]  # fmt: skip
