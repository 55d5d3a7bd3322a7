"""Deployments and StatefulSets of pods that do nothing, and what is said of their pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..nodes.cluster import condition
from ..nodes.node import PAUSE
from ..server import until

if TYPE_CHECKING:
    from ..nodes.cluster import Cluster

_KINDS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "Pod": "pods"}


def workload(
    kind: str, name: str, replicas: int, *, evenly: bool = False, **spec: Any
) -> dict[str, Any]:
    """A Deployment or StatefulSet whose pods spread over the nodes.

    ``evenly``: a pod waits rather than be one more than on another node.
    """
    labels = {"app": name}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule" if evenly else "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "topologySpreadConstraints": [spread],
        "containers": [{"name": "a", "image": PAUSE, "imagePullPolicy": "Never"}],
    }
    pod |= spec.pop("pod", {})
    told = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    if kind == "StatefulSet":
        told |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": told | spec}


def path(kind: str, name: str = "", namespace: str = "default") -> str:
    """The path of an object, or of its kind, in the API."""
    group = "/api/v1" if kind == "Pod" else "/apis/apps/v1"
    return f"{group}/namespaces/{namespace}/{_KINDS[kind]}" + (f"/{name}" if name else "")


def apply(cluster: Cluster, document: dict[str, Any]) -> None:
    """Make or change a workload."""
    kind, name = document["kind"], document["metadata"]["name"]
    cluster.admin.apply(path(kind, name), document).done()


def scale(cluster: Cluster, kind: str, name: str, replicas: int) -> None:
    """Ask for so many pods; return at once."""
    cluster.admin.merge(path(kind, name), {"spec": {"replicas": replicas}}).done()


def restart(cluster: Cluster, kind: str, name: str, mark: str) -> None:
    """Replace all pods, as ``kubectl rollout restart`` does; return at once."""
    annotations = {"restarted": mark}
    template = {"metadata": {"annotations": annotations}}
    cluster.admin.merge(path(kind, name), {"spec": {"template": template}}).done()


def delete(cluster: Cluster, kind: str, name: str) -> None:
    """Delete a workload with its pods, and wait until the pods are gone."""
    body = {"propagationPolicy": "Background"}
    cluster.admin.request("DELETE", path(kind, name), body).done()
    until(lambda: not pods(cluster, name), f"no pod of {name} is left")


def pods(cluster: Cluster, app: str = "") -> list[dict[str, Any]]:
    """The pods of a workload, or of all that have addresses of their own."""
    query = {"labelSelector": f"app={app}"} if app else {}
    found = cluster.admin.get("/api/v1/pods", **query).done()["items"]
    return [each for each in found if not each["spec"].get("hostNetwork")]


def ready(cluster: Cluster, app: str) -> int:
    """The number of a workload's pods that are ready and not being deleted."""
    return sum(
        condition(each, "Ready") and "deletionTimestamp" not in each["metadata"]
        for each in pods(cluster, app)
    )


def rolled_out(cluster: Cluster, kind: str, name: str, namespace: str = "default") -> bool:
    """Whether all its pods are of the newest template, ready, and no other is left."""
    found = cluster.admin.get(path(kind, name, namespace)).done()
    status, replicas = found.get("status", {}), found["spec"].get("replicas")
    if status.get("observedGeneration") != found["metadata"]["generation"]:
        return False
    counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
    return counts == [replicas] * 3


def until_ready(cluster: Cluster, app: str, count: int) -> None:
    """Wait until a workload has so many pods, all of them ready."""

    def are() -> bool:
        return ready(cluster, app) == len(pods(cluster, app)) == count

    until(are, f"{count} pods of {app} are ready")
