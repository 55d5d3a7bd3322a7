"""whereabouts as a contender: its build, configuration and leases. Nothing is built or run here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench.workloads import whereabouts
from bench.workloads.contenders import TakesNoPart
from bench.workloads.traces import Workload, container
from bench.workloads.whereabouts.contender import NAME, Whereabouts

from ..kubernetes.tools import build

DUAL = Workload("two 8", "", 3, 0, lambda _: iter(()), dual=True)


class _Admin:
    """Records what is created; answers with a status."""

    def __init__(self, status: int | OSError) -> None:
        self.status = status
        self.made: list[dict[str, Any]] = []

    def delete(self, path: str) -> None:
        assert "/ippools/" in path

    def create(self, _: str, body: dict[str, Any]) -> SimpleNamespace:
        if isinstance(self.status, OSError):
            raise self.status
        self.made.append(body)
        return SimpleNamespace(status=self.status, message="the request is too large")


def _made(admin: _Admin, root: Path) -> Whereabouts:
    server: Any = SimpleNamespace(admin=admin, kubeconfig=lambda: root / "kubeconfig")
    return Whereabouts(server, Path("/bin/false"), DUAL, root / "two-8" / "p4", root)


def test_module() -> None:
    """The go.mod names one program, by a package of the project, and its version."""
    directory = Path(whereabouts.__file__).parent
    module = build.Module(directory)
    assert list(module.commands.values()) == ["github.com/k8snetworkplumbingwg/whereabouts/cmd"]
    assert module.directory.name == f"{NAME}-{module.version}"
    assert f"whereabouts v{module.version} h1:" in (directory / "go.sum").read_text()


def test_configuration(tmp_path: Path) -> None:
    """Each workload has pools of its own, and the flat file that the plugin demands."""
    _made(_Admin(201), tmp_path)
    here = tmp_path / "two-8" / "p4"
    ipam = json.loads((here / "config.json").read_text())["ipam"]
    assert ipam["network_name"] == "two-8-p4"
    assert ipam["ipRanges"] == [{"range": pool} for pool in DUAL.pools]
    flat = json.loads(Path(ipam["configuration_path"]).read_text())
    assert flat == {"kubernetes": {"kubeconfig": str(tmp_path / "kubeconfig")}}


def test_seed(tmp_path: Path) -> None:
    """Leases are made as allocations of one object a pool, from its first address on."""
    admin = _Admin(201)
    assert _made(admin, tmp_path).seed(3, lambda: False) == 3
    names = [one["metadata"]["name"] for one in admin.made]
    assert names == ["two-8-p4-10.32.0.0-12", "two-8-p4-2001-db8---64"]
    held = admin.made[0]["spec"]["allocations"]
    assert list(held) == ["1", "2", "3"]
    assert held["3"]["id"] == container(2)


@pytest.mark.parametrize("status", [413, OSError("it ended")])
def test_object_that_is_too_large(status: int | OSError, tmp_path: Path) -> None:
    """What the API server refuses to store is told as the reason why it takes no part."""
    with pytest.raises(TakesNoPart, match=r"no IPPool has room for 9 allocations: the (req|API)"):
        _made(_Admin(status), tmp_path).seed(9, lambda: False)
