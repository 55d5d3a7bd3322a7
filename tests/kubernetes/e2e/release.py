"""The chart on a cluster: installed, changed, rolled back with helm; its pods found and killed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nodes import image
from ..nodes.control import PORT
from ..rest import SYSTEM
from ..server import until
from . import workloads

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..nodes.cluster import Cluster
    from ..nodes.node import Node

CHART = Path(__file__).parents[3] / "deploy" / "chart"
NAME = "fastipam"
AGENT, CONTROLLER = "fastipam-agent", "fastipam-controller"
POOL = {"name": "default", "cidr": "10.32.0.0/16", "blockSize": 28, "gateway": "10.32.0.1"}
POOL6 = {"name": "default6", "cidr": "fd32::/112", "blockSize": 124, "gateway": "fd32::1"}
# The image under two tags: an upgrade is from one to the other.
TAG, NEXT_TAG = "1", "2"
# So soon an address comes again, and a block of a removed node becomes free. By default the agent
# waits for 30 s and looks each minute; the controller waits for ten minutes.
COOLDOWN_S, SWEEP_S, RECLAIM_S = 10, 10, 15


def values(cluster: Cluster, **changes: Any) -> dict[str, Any]:
    """The chart's values for a cluster without kube-proxy, whose image is there already."""
    return {
        "image": {"repository": image.NAME, "tag": TAG, "pullPolicy": "Never"},
        "kubernetes": {"host": cluster.control.address, "port": PORT},
        "network": {"ipam": {"cooldown": COOLDOWN_S}},
        "agent": {"args": [f"--sweep-interval={SWEEP_S}"]},
        "pools": [POOL, POOL6],
        "controller": {"reclaimAfter": RECLAIM_S},
    } | changes


class Release:
    """The release of the chart. ``began`` is the moment before ``helm install``."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.began = 0.0
        self._expected: list[tuple[Callable[[], object], str]] = []

    def install(self, **changes: Any) -> None:
        """Run the one command; return when helm does."""
        self.began = time.monotonic()
        self._helm("install", values(self.cluster, **changes))

    def upgrade(self, **changes: Any) -> None:
        """Change values, and wait until agents and controllers are the new ones."""
        self._helm("upgrade", values(self.cluster, **changes))
        self.until_rolled_out()

    def rollback(self) -> None:
        """Go back to the release before the last one, and wait as after an upgrade."""
        self._run("rollback", NAME)
        self.until_rolled_out()

    def _helm(self, verb: str, told: dict[str, Any]) -> None:
        self._run(verb, NAME, str(CHART), "--values", "-", stdin=json.dumps(told))

    def _run(self, *arguments: str, stdin: str = "") -> None:
        done = self.cluster.tool("helm", *arguments, stdin=stdin)
        assert done.returncode == 0, f"helm {arguments}: {done.stdout}{done.stderr}"

    def until_rolled_out(self) -> None:
        """Wait until all agents and controllers are ready, and of the newest template."""
        until(self._agents_rolled_out, "the agents are rolled out")
        rolled = workloads.rolled_out
        until(
            lambda: rolled(self.cluster, "Deployment", CONTROLLER, SYSTEM),
            "the controllers are rolled out",
        )

    def _agents_rolled_out(self) -> bool:
        path = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/{AGENT}"
        found = self.cluster.admin.get(path).done()
        status, wanted = found["status"], len(self.cluster.ready_nodes())
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return False
        keys = ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady")
        return wanted > 0 and all(status.get(each, 0) == wanted for each in keys)

    def with_pods(self, count: int) -> None:
        """Wait until the release is rolled out, and a Deployment ``web`` has so many ready pods."""
        self.until_rolled_out()
        workloads.apply(self.cluster, workloads.workload("Deployment", "web", count))
        workloads.until_ready(self.cluster, "web", count)

    def expect(self, true: Callable[[], object], what: str) -> None:
        """Let ``until_expected`` wait for something that takes long, while other tests run."""
        self._expected.append((true, what))

    def until_expected(self) -> None:
        """Wait for all that was expected."""
        while self._expected:
            until(*self._expected.pop())

    # Nodes and pods -------------------------------------------------------------------------

    def remove(self, node: str) -> None:
        """Drain a node, end it and delete it, with the pods that were left on it.

        The controllers of Kubernetes delete those a minute later, and look at the DaemonSet then.
        """
        self.cluster.kubectl("drain", node, "--ignore-daemonsets", "--timeout=120s")
        self.cluster.remove(node)
        self.cluster.kubectl("delete", "node", node)
        left = ("--all-namespaces", "--field-selector", f"spec.nodeName={node}")
        self.cluster.kubectl("delete", "pods", *left, "--force", "--grace-period=0")

    def pods(self, app: str = AGENT) -> list[dict[str, Any]]:
        """The pods of the agent, or of the controller."""
        path = workloads.path("Pod", namespace=SYSTEM)
        query = {"labelSelector": f"app.kubernetes.io/name={app}"}
        found: list[dict[str, Any]] = self.cluster.admin.get(path, **query).done()["items"]
        return found

    def agent(self, node: str) -> str:
        """The name of a node's agent pod."""
        (found,) = [each for each in self.pods() if each["spec"]["nodeName"] == node]
        return str(found["metadata"]["name"])

    def kill_agent(self, node: Node) -> None:
        """SIGKILL the process of a node's agent; the kubelet starts it again."""
        arguments = ("ps", "--quiet", "--name", "agent", "--state", "running")
        for container in node.crictl(*arguments).stdout.split():
            pid = node.json(*_inspect(node, container))["info"]["pid"]
            node.run("kill", "-9", str(pid), check=False)

    def execute(self, node: str, *command: str) -> tuple[int, str]:
        """Run a command in a node's agent container; return its status and what it prints."""
        done = self.cluster.tool(
            "kubectl", "-n", SYSTEM, "exec", self.agent(node), "-c", "agent", "--", *command
        )
        return done.returncode, done.stdout + done.stderr


def _inspect(node: Node, container: str) -> tuple[str, ...]:
    return (*node.crictl_command(), "inspect", container)
