"""Helm and a real API server: installed, upgraded, rolled back, removed and installed again.

No kubelet and no controller runs: what they would write is written here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .. import rendering
from ..cluster.conftest import any_binary
from . import bodies
from .rest import BLOCKS, LEASES, POOLS, SYSTEM, Answer
from .server import ApiServer, until

SETS = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets"
JOBS = f"/apis/batch/v1/namespaces/{SYSTEM}/jobs"
MAPS = f"/api/v1/namespaces/{SYSTEM}/configmaps"
KINDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# Helm makes the namespace: the chart's own would be deleted by a controller that is not here.
PLACE = ("--namespace", SYSTEM)
DOCUMENT = rendering.CHART.parents[1] / "docs" / "kubernetes.md"
_AT = "2026-01-01T00:00:00Z"


class Cluster:
    """A server with nothing of fastipam on it, and Helm for it."""

    def __init__(self, server: ApiServer, helm: Path, kubectl: Path) -> None:
        self.server = server
        self._kubectl = kubectl
        self.admin = server.admin
        self._helm = helm

    def helm(self, *words: str, **values: Any) -> str:
        """What Helm prints."""
        done = self._run(*words, values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def helm_fails(self, *words: str) -> bool:
        """Whether Helm does not do it."""
        return self._run(*words).returncode == 1

    def _run(self, *words: str, values: Any = None) -> subprocess.CompletedProcess[str]:
        home = self.server.directory / "helm"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),  # for its caches
            "KUBECONFIG": str(self.server.kubeconfig()),
        }
        given = ["--values", "-"] if values else []
        return subprocess.run(
            [str(self._helm), *words, *PLACE, *given],
            input=json.dumps(values),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def type(self, commands: str) -> None:
        """Run commands of a shell, among them kubectl."""
        environment = {
            "PATH": f"{self._kubectl.parent}:{os.environ['PATH']}",
            "HOME": str(self.server.directory / "helm"),
            "KUBECONFIG": str(self.server.kubeconfig()),
        }
        subprocess.run(["bash", "-euc", commands], env=environment, check=True, timeout=120)

    def has(self, path: str, name: str) -> bool:
        """Whether there is such an object, which is not being deleted."""
        answer: Answer = self.admin.get(f"{path}/{name}")
        return answer.status == 200 and "deletionTimestamp" not in answer.body["metadata"]

    def agents(self) -> str:
        """What the first container of the DaemonSet's pods does."""
        spec = self.admin.get(f"{SETS}/fastipam-agent").done()["spec"]["template"]["spec"]
        return str(spec["initContainers"][0]["args"][0])


@pytest.fixture
def cluster(kubernetes_program: Callable[[str], Path], tmp_path: Path) -> Iterator[Cluster]:
    """One that has nothing of fastipam."""
    program, helm = kubernetes_program("kube-apiserver"), kubernetes_program("helm")
    with ApiServer(program, any_binary(), tmp_path) as server:
        yield Cluster(server, helm, kubernetes_program("kubectl"))


def _do(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def _finish(cluster: Cluster) -> None:
    """What the controllers of Kubernetes write when the uninstallation is done."""
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": _AT}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    status = {
        "startTime": _AT,
        "completionTime": _AT,
        "succeeded": 1,
        "uncountedTerminatedPods": {},
        "conditions": conditions,
    }
    at = f"{JOBS}/fastipam-uninstall/status"
    cluster.admin.merge(at, {"status": status}).done()


def test_a_life(cluster: Cluster) -> None:
    """One command installs all of it; whatever Helm does later, no block's object is lost."""
    chart = str(rendering.CHART)
    said = cluster.helm("install", "fastipam", chart, "--create-namespace")
    assert "fastipam 0.1.0 is installed in fastipam-system." in said
    for path, name in ((SETS, "fastipam-agent"), (MAPS, "fastipam-pools")):
        assert cluster.has(path, name)
    assert cluster.agents() == "install"
    pool = bodies.pool("default", "10.32.0.0/16", 24)
    until(lambda: cluster.admin.create(POOLS, pool).status in (201, 409), "the kinds are served")
    cluster.admin.create(BLOCKS, bodies.block("10.32.7.0/24", "n1")).done()

    # The kinds are upgraded with the rest: Helm never does so with a chart's folder crds.
    kind = f"{KINDS}/addressblocks.fastipam.io"
    before = cluster.admin.get(kind).done()["spec"]
    old = {"spec": before | {"names": before["names"] | {"shortNames": ["old"]}}}
    cluster.admin.merge(kind, old).done()
    cluster.helm(*("upgrade", "fastipam", chart, "--force-conflicts"), metrics={"dashboard": True})
    assert cluster.has(MAPS, "fastipam-dashboard")
    assert cluster.admin.get(kind).done()["spec"]["names"]["shortNames"] == ["ablk"]
    cluster.helm("rollback", "fastipam", "1")
    assert not cluster.has(MAPS, "fastipam-dashboard")

    # Agents end first, and Helm waits for the Job before it removes anything else.
    removal = _do(lambda: cluster.helm("uninstall", "fastipam"))
    until(lambda: cluster.has(JOBS, "fastipam-uninstall"), "the Job is there")
    assert cluster.agents() == "uninstall"
    assert cluster.has(MAPS, "fastipam-network")
    assert removal.is_alive()
    _finish(cluster)
    removal.join(60)
    assert not removal.is_alive()
    for path, name in (
        (SETS, "fastipam-agent"),
        (MAPS, "fastipam-network"),
        (f"/api/v1/namespaces/{SYSTEM}/serviceaccounts", "fastipam-uninstall"),
    ):
        assert not cluster.has(path, name)

    # A removal that fails can be taken back, and done without the hooks.
    cluster.helm("install", "fastipam", chart)
    assert cluster.helm_fails("uninstall", "fastipam", "--timeout", "1s")
    assert cluster.agents() == "uninstall"
    cluster.helm("rollback", "fastipam", "1", "--force-conflicts")
    assert cluster.agents() == "install"
    assert cluster.helm_fails("uninstall", "fastipam", "--timeout", "1s")
    cluster.helm("uninstall", "fastipam", "--no-hooks")
    assert not cluster.has(SETS, "fastipam-agent")

    # Who owns which block is still known, and a new installation goes on with it.
    assert cluster.has(BLOCKS, "10-32-7-0-24")
    assert cluster.has(POOLS, "default")
    cluster.helm("install", "fastipam", chart)
    assert cluster.has(SETS, "fastipam-agent")
    assert cluster.has(BLOCKS, "10-32-7-0-24")

    # To the end, as the document says.
    held = {"metadata": {"finalizers": ["fastipam.io/blocks"]}}
    cluster.admin.merge(f"{POOLS}/default", held).done()
    cluster.helm("uninstall", "fastipam", "--no-hooks")
    cluster.type(_shown("xargs -I POOL"))
    until(lambda: cluster.admin.get(POOLS).status == 404, "the kinds are gone")


def _shown(words: str) -> str:
    """The block of the document that has these words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = (each for each in blocks if words in each)
    return str(found)


def test_the_account_that_waits(cluster: Cluster) -> None:
    """It sees how far the DaemonSet is, and nothing else."""
    chart = str(rendering.CHART)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    cluster.admin.create("/api/v1/namespaces", namespace).done()
    text = cluster.helm("template", "fastipam", chart, uninstall={"hook": "always"})
    documents = [
        each for each in rendering.parse(text) if each["metadata"]["name"] == "fastipam-uninstall"
    ]
    cluster.server.apply(each for each in documents if each["kind"] != "Job")
    who = cluster.server.rest(cluster.server.token("fastipam-uninstall"))
    until(lambda: who.get(f"{SETS}/fastipam-agent").status == 404, "it may read the DaemonSet")
    pods = f"/api/v1/namespaces/{SYSTEM}/pods"
    assert who.get(pods).status == 200
    for refused in (
        who.get(SETS),
        who.get(f"{SETS}/another"),
        who.delete(f"{SETS}/fastipam-agent"),
        who.get("/api/v1/pods"),
        who.get(f"/api/v1/namespaces/{SYSTEM}/secrets"),
        who.get(LEASES),
    ):
        refused.refused(403, "forbidden")
