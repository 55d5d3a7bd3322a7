"""``fastipam cluster`` on the Kubernetes API: what it says on etcd, it says here."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cluster.admin import pool_report
from fastipam.cluster.deadline import Deadline
from fastipam.configuration.policy import Policy
from fastipam.network import Network

from ..agent.processes import FASTIPAM
from ..cli.terminal import assert_unwritten
from .machines import Machine, accept, claim
from .rest import POOLS
from .test_agent import kubeconfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Api


class Site:
    """Two nodes with blocks, and an operator's file of settings."""

    def __init__(self, api: Api, path: Path) -> None:
        accept(api)
        self.api = api
        self.machines = [Machine(path, api, name) for name in ("a", "b")]
        one, two = self.machines
        assert len(claim(two.joined(), 4)) == 4
        assert len(claim(one.joined())) == 1
        admin = path / "admin.kubeconfig"
        admin.write_text(json.dumps(kubeconfig(api.admin.port, api.ca, api.admin.token)))
        self.file = path / "cluster.json"
        settings = {"engine": "kubernetes", "network": "podnet", "node": "a"}
        settings |= {"kubeconfig": str(admin), "dataDir": str(path / "a")}
        self.file.write_text(json.dumps(settings))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the group to its end."""
        command = [str(FASTIPAM), "cluster", *words, "-c", str(self.file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def json(self, *words: str) -> list[dict[str, object]]:
        """The rows that a command prints."""
        done = self.run(*words, *([] if "routes" in words else ["--json"]))
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)
        return found


@pytest.fixture
def site(api: Api, tmp_path: Path) -> Iterator[Site]:
    """The nodes' stores are closed in the end."""
    made = Site(api, tmp_path)
    yield made
    for one in made.machines:
        one.close()


def test_nodes_blocks_and_routes(site: Site) -> None:
    """Who owns what, and where it is."""
    rows = {row["node"]: row for row in site.json("nodes")}
    assert {name: row["blocks"] for name, row in rows.items()} == {"a": 1, "b": 4}
    assert rows["a"]["addresses"] == ["192.0.2.1"]
    blocks = site.json("blocks")
    assert len(blocks) == 5
    assert {row["node"] for row in blocks} == {"a", "b"}
    routes = site.json("routes")
    assert [(row["node"], row["gw"]) for row in routes] == [("b", "192.0.2.1")]
    assert str(routes[0]["dst"]).endswith("/22"), "an aligned run is one route"


def test_outputs_that_take_nothing(site: Site) -> None:
    """A full output is one line and status 1; a reader that went away is no failure."""
    for words in ("nodes", "blocks", "blocks --json", "status", "routes"):
        assert_unwritten([str(FASTIPAM), "cluster", *words.split(), "-c", str(site.file)])


def test_status_and_check(site: Site) -> None:
    """All is well; then a block is deleted by hand, and the check says so."""
    status = site.run("status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert "as configured" in status.stdout
    assert site.run("check").returncode == 0
    (block,) = site.machines[0].share.blocks()
    site.machines[0].registry().release(block, Deadline(5))
    found = site.run("check")
    assert found.returncode == 1
    assert "active here, but in the Kubernetes API no node owns it" in found.stdout


def test_status_of_the_pools(site: Site) -> None:
    """A row a pool: how it is chosen, and for whom; and what keeps one that is being deleted."""
    labels = {"matchLabels": {"disk": "ssd"}}
    pools: dict[str, dict[str, Any]] = {
        "manual": {"assignment": "Manual", "priority": 7},
        "some": {"nodeSelector": labels, "namespaceSelector": {"matchLabels": {"team": "red"}}},
    }
    for name, more in pools.items():
        accept(site.api, name, f"10.{len(name)}.0.0/20", 24, **more)
    machine = site.machines[0]
    machine.share.adopt_pools(machine.registry().pools(Deadline(10)) or ())
    status = site.run("status")
    assert status.returncode == 0, status.stdout + status.stderr
    table = status.stdout.partition("\n\n")[2].splitlines()
    assert [line.split() for line in table] == [
        ["POOL", "CIDR", "BLOCK", "ASSIGNMENT", "PRIORITY", "STATE", "FOR"],
        ["manual", "10.6.0.0/20", "24", "manual", "7", "in", "use", "all"],
        ["default", "10.32.0.0/20", "24", "automatic", "0", "in", "use", "all"],
        ["some", "10.4.0.0/20", "24", "automatic", "0", "other", "nodes",
         "nodes", "disk=ssd,", "namespaces", "team=red"],
    ]  # fmt: skip


def test_what_keeps_a_deleted_pool(site: Site) -> None:
    """The pods and the reservations of this node, each with what to type."""
    machine = site.machines[0]
    network = Network(
        machine.store, "podnet", machine.share.settings.pool, policy=Policy(sticky_s=3600)
    )
    network.allocate("c1", pod=("shop", "web-0"))
    kept = network.allocate("c2", pod=("shop", "web-1")).address.ip
    network.release("c2")
    site.api.admin.merge(f"{POOLS}/default", {"metadata": {"finalizers": ["a.b/c"]}}).done()
    site.api.admin.delete(f"{POOLS}/default").done()
    machine.share.adopt_pools(machine.registry().pools(Deadline(10)) or ())
    (row,) = pool_report.of_pools(machine.node(), has_store=True)
    told = f"{kept} is reserved for shop/web-1: sticky, fastipam unreserve {kept}"
    assert row["held_by"] == ["1 address is assigned: fastipam list --network podnet", told]
    assert f"pool default keeps its blocks on this node: {told}\n" in site.run("status").stdout
    site.api.admin.merge(f"{POOLS}/default", {"metadata": {"finalizers": []}}).done()


def test_status_with_an_agents_token(site: Site) -> None:
    """It shows what that token may read, names the missing right, and exits 0."""
    machine = site.machines[0]
    file = site.file.with_name("agent.kubeconfig")
    file.write_text(json.dumps(kubeconfig(machine.rest.port, site.api.ca, machine.rest.token)))
    settings = json.loads(site.file.read_text()) | {"kubeconfig": str(file)}
    site.file.write_text(json.dumps(settings))
    status = site.run("status")
    assert status.returncode == 0, status.stdout + status.stderr
    lines = dict(line.split(maxsplit=1) for line in status.stdout.splitlines() if " " in line)
    assert lines["reachable"] == "yes"
    assert lines["owned"] == "5"
    assert "addressnodes" in status.stdout
    assert "check the roles of the user" in status.stdout
    assert "alive" not in lines


def test_a_node_that_is_alive_is_not_released(site: Site) -> None:
    """The message and the hint speak of the Node object and the Lease."""
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    site.api.admin.merge("/api/v1/nodes/b/status", ready).done()
    refused = site.run("release-node", "b")
    assert refused.returncode == 1
    assert "node b is alive: its Node object is Ready" in refused.stderr
    assert "delete its Node object" in refused.stderr
    assert "session" not in refused.stderr


def test_a_url_without_tls_for_a_server_with_it(site: Site) -> None:
    """The message says what to type."""
    port = site.machines[0].rest.port
    file = site.file.with_name("http.kubeconfig")
    content = kubeconfig(port, site.api.ca, "t")
    content["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
    file.write_text(json.dumps(content))
    settings = json.loads(site.file.read_text()) | {"kubeconfig": str(file)}
    site.file.write_text(json.dumps(settings))
    refused = site.run("nodes", "--timeout", "3")
    assert refused.returncode == 1
    assert f"http://127.0.0.1:{port}" in refused.stderr
    assert "https://" in refused.stderr


def test_release_node(site: Site) -> None:
    """A node that is gone; and the command for pools says who makes them."""
    done = site.run("release-node", "b", "--force")
    assert done.stdout == "node b: 4 blocks released, epoch 2\n", done.stderr
    assert len(site.json("blocks")) == 1
    refused = site.run("init")
    assert refused.returncode == 1
    assert "`kubectl apply` of an AddressPool" in refused.stderr
