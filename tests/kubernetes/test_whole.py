"""A cluster of processes: the controller with its own token, and agents; people write the pools."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import FASTIPAM, Agent, ask, until
from . import bodies
from .machines import owners
from .rest import BLOCKS, NODES, POOLS
from .test_agent import Site, kubeconfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Api

    Start = Callable[..., Agent]


@pytest.fixture
def controller(api: Api, tmp_path: Path) -> Iterator[Path]:
    """The controller, which reclaims nodes at once; return its log. It ends with SIGTERM."""
    config, log = tmp_path / "controller.kubeconfig", tmp_path / "controller.log"
    token = api.token("fastipam-controller")
    config.write_text(json.dumps(kubeconfig(api.admin.port, api.ca, token)))
    command = [str(FASTIPAM), "controller", "--kubeconfig", str(config), "--reclaim-after", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    yield log
    process.terminate()
    assert process.wait(30) == 0, log.read_text()


def _accepted(api: Api, name: str) -> str:
    """What the condition Accepted of a pool says."""
    found = api.admin.get(f"{POOLS}/{name}").done()
    conditions = found.get("status", {}).get("conditions", ())
    return next((one["status"] for one in conditions if one["type"] == "Accepted"), "")


def test_a_cluster(api: Api, controller: Path, tmp_path: Path, start: Start) -> None:  # noqa: F811
    """From kubectl apply to a pod's address in both families; then a node is deleted."""
    sites = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sites.append(Site(api, tmp_path / name, name))
    agents = [start("--cluster", str(one.conflist), name=one.name) for one in sites]
    api.admin.create(POOLS, bodies.pool("four", "10.32.0.0/20", 24)).done()
    api.admin.create(POOLS, bodies.pool("six", "fd32::/112", 120)).done()
    until(lambda: len(owners(api)) == 4, "each node has a block of each family")

    def both_families(at: int) -> bool:
        answer = ask(agents[at].path, "ADD", sites[at].config(), "c1")
        if answer.status:
            return False
        ips = answer.document["ips"]
        assert [":" in one["address"] for one in ips] == [False, True]
        return True

    for at in range(2):
        until(partial(both_families, at), "an address of each family")
    api.admin.create(POOLS, bodies.pool("late", "10.32.8.0/22", 24)).done()
    until(lambda: _accepted(api, "late") == "False", "the pool that overlaps is refused")
    agents[1].terminate()
    api.admin.delete("/api/v1/nodes/b").done()
    until(lambda: "b" not in owners(api).values(), "the blocks of the deleted node are free")
    entry = api.admin.get(f"{NODES}/b").done()
    assert (entry["spec"]["incarnation"], entry["spec"]["epoch"]) == ("", 2)
    assert set(owners(api).values()) == {"a"}
    assert ask(agents[0].path, "ADD", sites[0].config(), "c2").status == 0
    assert len(api.admin.get(BLOCKS).done()["items"]) == 2
    assert "Traceback" not in controller.read_text()
