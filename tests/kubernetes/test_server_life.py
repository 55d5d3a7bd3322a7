"""An API server that is killed, put back, slowed; a cluster's controllers beside our objects."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .bodies import answered, block, block_name, lease, node, pool, request
from .conftest import StartServer
from .rest import BLOCKS, LEASES, NODES, POOLS, REQUESTS, Rest
from .server import ApiServer, until

CIDR = "10.32.7.0/24"
AT = f"{BLOCKS}/{block_name(CIDR)}"
_CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
_GONE = {"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "no-such-uid"}


def test_killed_and_started(own_api_server: ApiServer) -> None:
    """Objects, versions, tokens and the certificate are the same after it."""
    agent = own_api_server.node("a")
    made = agent.create(BLOCKS, block(CIDR, "a")).done()
    own_api_server.kill_server()
    with pytest.raises(OSError, match="refused"):
        agent.get(AT)
    own_api_server.start_server()
    until(lambda: agent.get(AT).status == 200, "the agent's right to read")
    assert agent.get(AT).done() == made
    agent.replace(AT, made | {"spec": made["spec"] | {"epoch": 2}}).done()


def test_put_back(own_api_server: ApiServer, tmp_path: Path) -> None:
    """What was claimed since the copy is forgotten, and free for another."""
    admin = own_api_server.admin
    kept = admin.create(BLOCKS, block(CIDR, "a")).done()
    own_api_server.copy(tmp_path / "copy")
    later = admin.create(BLOCKS, block("10.32.8.0/24", "a")).done()
    own_api_server.put_back(tmp_path / "copy")
    (found,) = admin.get(BLOCKS).done()["items"]
    assert found == kept
    again = admin.create(BLOCKS, block("10.32.8.0/24", "b")).done()
    assert again["metadata"]["uid"] != later["metadata"]["uid"]


def test_flags(start_server: StartServer) -> None:
    """A server for a test that wants it small: of five seats, agents have a few."""
    server = start_server("--max-requests-inflight=3", "--max-mutating-requests-inflight=2")
    text = server.admin.get("/metrics").text
    seats = r'apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"} (\S+)'
    found = re.search(seats, text)
    assert found
    assert float(found[1]) <= 3
    server.stop()


# The cluster's own controllers ------------------------------------------------------------------


@pytest.fixture
def controllers(
    own_api_server: ApiServer, kubernetes_program: Callable[[str], Path]
) -> Iterator[ApiServer]:
    """A server with a kube-controller-manager, which has all controllers that it has by default."""
    program = kubernetes_program("kube-controller-manager")
    config = own_api_server.kubeconfig()
    log = (own_api_server.directory / "controllers.log").open("wb")
    command = [
        str(program),
        f"--kubeconfig={config}",
        f"--service-account-private-key-file={own_api_server.service_account_key}",
        f"--root-ca-file={own_api_server.ca}",
        *("--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0"),
    ]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        yield own_api_server
        process.kill()


def _joined(server: ApiServer, name: str, cidr: str) -> Rest:
    """A node with all objects that agents make."""
    agent = server.node(name)
    agent.create(NODES, node(name)).done()
    agent.create(BLOCKS, block(cidr, name)).done()
    agent.create(LEASES, lease(name)).done()
    return agent


def _until_gone(admin: Rest, path: str) -> None:
    until(lambda: admin.get(path).status == 404, f"{path} is collected")


def test_objects_survive_the_garbage_collector(controllers: ApiServer) -> None:
    """It collects what has an owner that is gone; ours have none, also when their Node is deleted.

    That it works, and knows our kinds, show a ConfigMap and a block with such an owner, which
    somebody has made by hand: both go.
    """
    admin = controllers.admin
    admin.create(POOLS, pool("default", "10.32.0.0/12", 24)).done()
    a = _joined(controllers, "a", CIDR)
    b = _joined(controllers, "b", "10.32.8.0/24")
    made = b.create(REQUESTS, request("b")).done()
    given = answered("a", block_name(CIDR))
    a.replace(f"{REQUESTS}/b/status", made | {"status": given}).done()
    ours = (POOLS, BLOCKS, NODES, REQUESTS, LEASES)
    before = [admin.get(path).done()["items"] for path in ours]
    admin.delete("/api/v1/nodes/b").done()

    orphan = {"name": "orphan", "ownerReferences": [_GONE]}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": orphan}
    owned = block("10.32.9.0/24", "a")
    owned["metadata"]["ownerReferences"] = [_GONE]
    admin.create(_CONFIG_MAPS, config_map).done()
    admin.create(BLOCKS, owned).done()
    _until_gone(admin, f"{_CONFIG_MAPS}/orphan")
    _until_gone(admin, f"{BLOCKS}/{owned['metadata']['name']}")
    assert [admin.get(path).done()["items"] for path in ours] == before


def test_node_that_comes_again(api_server: ApiServer) -> None:
    """A machine of the same name has another Node object, and its agent's token names it."""
    old = api_server.node("a", "boot-1")
    uid = old.get("/api/v1/nodes/a").done()["metadata"]["uid"]
    api_server.admin.delete("/api/v1/nodes/a").done()
    new = api_server.node("a", "boot-2")
    found = new.get("/api/v1/nodes/a").done()
    assert found["metadata"]["uid"] != uid
    assert found["status"]["nodeInfo"]["bootID"] == "boot-2"
    new.create(NODES, node("a")).done()
