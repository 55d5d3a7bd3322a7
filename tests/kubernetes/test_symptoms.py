"""Symptoms of docs/kubernetes.md that no other test produces: what an operator sees then."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .. import rendering
from ..agent.conftest import Start, run_dir, start  # noqa: F401  # fixtures
from ..agent.processes import until as soon
from ..e2e import netns, tools
from .fake import FakeServer
from .rest import SYSTEM, Rest
from .server import ApiServer, until
from .test_agent import Site, kubeconfig

PODS = f"/api/v1/namespaces/{SYSTEM}/pods"


def _pod(kind: str, name: str, namespace: str = SYSTEM) -> dict[str, Any]:
    """A pod as the DaemonSet or the Deployment makes them."""
    (workload,) = rendering.documents(kind)
    template = copy.deepcopy(workload["spec"]["template"])
    # No service account admission and no priority classes are here.
    template["spec"].pop("priorityClassName")
    metadata = template["metadata"] | {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A namespace that enforces the Pod Security Standard that most clusters choose."""
    name, label = "guarded", "pod-security.kubernetes.io/enforce"
    metadata = {"name": name, "labels": {label: "baseline"}}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    path = f"/api/v1/namespaces/{name}"
    api_server.admin.apply(path, body).done()
    return name


def test_pod_security(api_server: ApiServer, namespace: str) -> None:
    """Agents are refused in a namespace without the chart's label, and not in the chart's."""
    for kind in ("DaemonSet", "Deployment"):
        path = f"/api/v1/namespaces/{namespace}/pods"
        refused = api_server.admin.create(path, _pod(kind, "it", namespace))
        refused.refused(403, 'violates PodSecurity "baseline')
        api_server.admin.create(PODS, _pod(kind, f"it-{kind.lower()}")).done()


def test_installed_by_other_means(
    kubernetes_program: Callable[[str], Path], api_server: ApiServer
) -> None:
    """Helm does not take what kubectl has made, unless it is told to."""
    command = [str(kubernetes_program("helm")), "install", "fastipam", str(rendering.CHART)]
    home = str(api_server.directory)
    environment = {
        "PATH": os.environ["PATH"], "HOME": home, "KUBECONFIG": str(api_server.kubeconfig())
    }  # fmt: skip

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        words = [*command, "--dry-run=server", *options]
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    refused = run()
    assert refused.returncode == 1
    assert "exists and cannot be imported into the current release" in refused.stderr
    assert run("--take-ownership").returncode == 0


@pytest.fixture
def scheduler(
    kubernetes_program: Callable[[str], Path], api_server: ApiServer, tmp_path: Path
) -> Iterator[None]:
    """A scheduler for the server."""
    program = kubernetes_program("kube-scheduler")
    command = [
        *(str(program), f"--kubeconfig={api_server.kubeconfig()}", "--leader-elect=false"),
        *("--secure-port=0", "--authentication-skip-lookup"),
    ]
    with (tmp_path / "scheduler.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    yield
    process.kill()
    process.wait()


def _machine(admin: Rest, name: str) -> None:
    """A Node that is not ready yet, as the kubelet of a node without a network registers it."""
    taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [taint]},
    }
    admin.create("/api/v1/nodes", node).done()
    room = {"cpu": "4", "memory": "4Gi", "pods": "10"}
    status = {"status": {"capacity": room, "allocatable": room}}
    admin.merge(f"/api/v1/nodes/{name}/status", status).done()


def test_second_controller_is_pending(api_server: ApiServer, scheduler: None) -> None:  # noqa: ARG001
    """A node runs one controller, before it is ready, too; the other one waits for a node."""
    admin = api_server.admin
    _machine(admin, "n1")
    for name in ("first", "second"):
        admin.create(PODS, _pod("Deployment", name)).done()

    def nodes() -> dict[str, str]:
        pods = admin.get(PODS).done()["items"]
        return {each["metadata"]["name"]: each["spec"].get("nodeName", "") for each in pods}

    def why() -> str:
        for each in admin.get(PODS).done()["items"]:
            for one in each.get("status", {}).get("conditions", ()):
                if one.get("reason") == "Unschedulable":
                    return str(one["message"])
        return ""

    until(lambda: sorted(nodes().values()) == ["", "n1"] and why(), "one is scheduled")
    assert "anti-affinity" in why() or "free ports" in why(), why()
    _machine(admin, "n2")
    until(lambda: sorted(nodes().values()) == ["n1", "n2"], "the other one has a node")


def test_a_plugin_is_missing(kubernetes_program: Callable[[str], Path], tmp_path: Path) -> None:
    """libcni says which one, and where it looked."""
    tools.require_root()
    program = kubernetes_program("cnitool")
    text = rendering.document("ConfigMap", "fastipam-network")["data"]["network.conflist"]
    (tmp_path / "10-fastipam.conflist").write_text(text)
    environment = {
        "PATH": os.environ["PATH"], "NETCONFPATH": str(tmp_path), "CNI_PATH": "/no/plugins"
    }  # fmt: skip
    with netns.temporary("pod") as inside:
        words = [str(program), "add", "podnet", f"/run/netns/{inside.name}"]
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode != 0
    assert 'failed to find plugin "ptp" in path [/no/plugins]' in done.stdout + done.stderr


@pytest.mark.slow
def test_no_kube_proxy(
    fake_api: FakeServer,
    tmp_path: Path,
    start: Start,  # noqa: F811
) -> None:
    """The agent says which server it cannot reach."""
    site = Site(fake_api, tmp_path)
    file = Path(site.cluster["kubeconfig"])
    file.write_text(json.dumps(kubeconfig(1, fake_api.ca, "t")))
    (tmp_path / "net.d").mkdir()
    written = str(tmp_path / "net.d" / "10-fastipam.conflist")
    agent = start(
        *("--cluster", str(site.conflist), "--write-conflist", written, "--log-level", "info")
    )
    soon(lambda: "the Kubernetes API cannot serve" in agent.log, "it says so")
    assert "https://127.0.0.1:1: Connection refused" in agent.log
