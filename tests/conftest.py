"""Fixtures of every test below: a store that is verified when the test ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import fastipam
from fastipam.ipam import Ipam, open_with
from fastipam.storage import create
from fastipam.storage.store import Store
from fastipam.testing import Clock
from fastipam.verify import verify

from . import ids
from .e2e.tools import NotBuilt, Unsupported
from .options import options, register
from .surroundings import clean

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "ci", max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=_SLOW
)
settings.register_profile(
    "long", max_examples=2000, stateful_step_count=120, deadline=None, suppress_health_check=_SLOW
)
settings.load_profile("ci")  # --hypothesis-profile long


# A shell's background job ignores Ctrl-C, and so would every program that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the suite's own options."""
    register(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options and clean the environment before any test module is imported."""
    options.read(config)
    clean(os.environ)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test with ``--require-all``, unless this machine cannot have what it lacks.

    What takes minutes to build has an option of its own, ``--require-kubernetes``.
    """
    report = yield
    if report.skipped and call.excinfo is not None:
        reason = call.excinfo.value
        if isinstance(reason, NotBuilt):
            required = options.require_kubernetes
        else:
            required = options.require_all and isinstance(reason, pytest.skip.Exception)
        if required and not isinstance(reason, Unsupported):
            report.outcome = "failed"
            report.longrepr = f"required here: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _ids_that_differ() -> Iterator[None]:
    """No network of a store that this process makes has the id of its pool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "create", ids.create_with_other_pools)
        yield


def assert_consistent(store: Store) -> None:
    """Fail with every finding of the verifier."""
    found = verify(store)
    assert not found, "\n".join(map(str, found))


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until the test moves it."""
    return Clock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A path at which there is no store yet."""
    return tmp_path / "store"


@pytest.fixture
def ipam(data_dir: Path, clock: Clock) -> Iterator[Ipam]:
    """An open store on the test's clock, consistent when the test ends."""
    with open_with(data_dir, "relaxed", clock=clock) as opened:
        yield opened
        assert_consistent(opened.store)


@pytest.fixture
def store(ipam: Ipam) -> Store:
    """The store below ``ipam``."""
    return ipam.store


@pytest.fixture
def verified() -> Callable[[Path], None]:
    """A function that opens the store of a directory and fails unless it is consistent."""

    def check(path: Path) -> None:
        with fastipam.open(path, create=False) as opened:
            assert_consistent(opened.store)

    return check
