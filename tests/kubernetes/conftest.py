"""Fixtures: real API servers, where scripts/kubernetes-tools has built their programs.

A test that uses one has the mark ``kubernetes``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..cluster.conftest import any_binary
from ..e2e.tools import not_built
from .rest import Rest
from .server import ApiServer
from .tools.build import program

StartServer = Callable[..., ApiServer]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a built program."""
    for item in items:
        if "kubernetes_program" in getattr(item, "fixturenames", ()):
            item.add_marker("kubernetes")


@pytest.fixture(scope="session")
def kubernetes_program() -> Callable[[str], Path]:
    """A function: the path of a program of Kubernetes."""

    def find(name: str) -> Path:
        found = program(name)
        if found is None:
            not_built(f"{name} is not built: scripts/kubernetes-tools builds it")
        return found

    return find


@pytest.fixture(scope="session")
def start_server(
    kubernetes_program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartServer]:
    """A function that starts a server with these flags; all end with the tests of this process."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> ApiServer:
            directory = tmp_path_factory.mktemp("kubernetes")
            server = ApiServer(kubernetes_program("kube-apiserver"), any_binary(), directory, flags)
            stack.enter_context(server)
            server.install()
            return server

        yield start


@pytest.fixture(scope="session")
def shared_api_server(start_server: StartServer) -> ApiServer:
    """One server for all tests of this process; use ``api_server``, which clears it."""
    return start_server()


@pytest.fixture
def api_server(shared_api_server: ApiServer) -> Iterator[ApiServer]:
    """A server with no objects of our kinds; the test leaves it running, with what it likes."""
    yield shared_api_server
    shared_api_server.clear()


@pytest.fixture
def own_api_server(start_server: StartServer) -> Iterator[ApiServer]:
    """A server that the test may kill, put back, and leave in any state."""
    server = start_server()
    yield server
    server.stop()


@pytest.fixture
def admin(api_server: ApiServer) -> Rest:
    """The API as a cluster's administrator may use it."""
    return api_server.admin
