"""Fixtures of the deployment tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A directory for sockets: its path is short."""
    with tempfile.TemporaryDirectory(prefix="fastipam-") as made:
        yield Path(made)
