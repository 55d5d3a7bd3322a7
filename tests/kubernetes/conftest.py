"""Fixtures: the fake API server, and real ones where scripts/kubernetes-tools has built them.

A test that uses a real one has the mark ``kubernetes``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from ..cluster.conftest import any_binary
from ..e2e.tools import not_built
from .fake import FakeServer
from .rest import Rest
from .server import ApiServer
from .tools.build import program

StartServer = Callable[..., ApiServer]


class Api(Protocol):
    """What a fake and a real server have in common."""

    @property
    def ca(self) -> Path:
        """The file of the authority to trust."""

    @property
    def admin(self) -> Rest:
        """The API as a cluster's administrator may use it."""

    def rest(self, token: str) -> Rest:
        """The API as the token's owner may use it."""

    def token(self, account: str, bound_to: dict[str, Any] | None = None) -> str:
        """A token of a service account of fastipam's, bound to a pod if one is given."""

    def node(self, name: str, boot_id: str = "boot-1") -> Rest:
        """Make a Node and its agent's Pod; return the API as that agent may use it."""


_WHOLE = tuple(Path(__file__).parent / name for name in ("nodes", "e2e"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the tests on real nodes out unless they are named: scripts/test-kubernetes does.

    They share one cluster, so they run in one process.
    """
    if not any(collection_path.is_relative_to(each) for each in _WHOLE):
        return None
    for each in config.args:
        path = Path(each.split("::")[0]).absolute()
        if any(path.is_relative_to(whole) for whole in _WHOLE):
            return None
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need a built program; no real nodes in one of several processes."""
    if hasattr(config, "workerinput"):
        items[:] = [
            each for each in items if not any(each.path.is_relative_to(whole) for whole in _WHOLE)
        ]
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


@pytest.fixture(scope="session")
def shared_fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    """One fake for all tests of this process; use ``fake_api``, which clears it."""
    with FakeServer(tmp_path_factory.mktemp("fake")) as server:
        yield server


@pytest.fixture
def fake_api(shared_fake: FakeServer) -> Iterator[FakeServer]:
    """A fake with no objects of our kinds and no faults, that has counted no request."""
    shared_fake.reset_counts()
    yield shared_fake
    shared_fake.clear()


@pytest.fixture(
    params=["fake_api", pytest.param("api_server", marks=pytest.mark.kubernetes)],
    ids=["fake", "real"],
)
def api(request: pytest.FixtureRequest) -> Api:
    """The fake, and a real server where one is built."""
    found: Api = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def admin(api: Api) -> Rest:
    """The API as a cluster's administrator may use it: the fake's, and a real one's."""
    return api.admin


@pytest.fixture
def real_admin(api_server: ApiServer) -> Rest:
    """The same for what only a real server has: tables, CRDs as objects, kubectl."""
    return api_server.admin
