"""The installed plugin, and handle() in this process, for the tests of the CNI side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam import cni
from fastipam.cli.commands.install.executables import DIRECT, install
from fastipam.cni import handler
from fastipam.storage import open_stores

from ..measuring import instrument, sanitize
from .plugin import Answer, Held, Plugin, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    """The executable, installed once."""
    path, unmeasured = (install(tmp_path_factory.mktemp(name)) for name in ("bin", "unmeasured"))
    for one in (path, unmeasured):
        sanitize(one.with_name(DIRECT))
    instrument(path.with_name(DIRECT))
    return Plugin(path, unmeasured=unmeasured)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make a configuration on a store of the test's own: ``config(subnet=…, cniVersion=…)``."""

    def make(
        *, version: str = "1.1.0", name: str = "mynet", ipam: Any = None, **keys: Any
    ) -> dict[str, Any]:
        section = {"type": "fastipam", "dataDir": str(tmp_path / "store")} | (ipam or {})
        return {"cniVersion": version, "name": name, "type": "bridge", "ipam": section} | keys

    return make


@pytest.fixture
def held(tmp_path: Path) -> Held:
    """Who holds what in the test's store: ``held(network)`` maps addresses to owners."""

    def look(name: str = "mynet", store: str = "store") -> dict[str, tuple[str, str]]:
        try:
            ipam = fastipam.open(tmp_path / store, create=False)
        except FileNotFoundError:
            return {}
        with ipam:
            if name not in ipam.networks():
                return {}
            leases = ipam.network(name).leases()
            return {str(one.address.ip): (one.container_id, one.ifname) for one in leases}

    return look


@pytest.fixture
def call() -> Iterator[Callable[..., Answer]]:
    """``handle`` in this process: ``call(command, config, container_id, **variables)``."""

    def invoke(
        command: str,
        config: Mapping[str, Any] | bytes,
        container_id: str = "c1",
        *,
        log: Callable[[str], None] | None = None,
        started_ns: int | None = None,
        **variables: str,
    ) -> Answer:
        stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
        lines: list[str] = []
        status, stdout = cni.handle(
            environment(command, container_id, **variables),
            stdin,
            log=log or lines.append,
            started_ns=started_ns,
        )
        document = json.loads(stdout) if stdout else None
        return Answer(status, document, "\n".join(lines))

    yield invoke
    open_stores.close_all()
    handler._services.known.clear()  # a test may have changed what a configuration means
