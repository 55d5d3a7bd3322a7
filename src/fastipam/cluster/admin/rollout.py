"""The progress of a DaemonSet: on which nodes a ready pod of its current version runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.cluster.registries.kubernetes.calls import Kind

if TYPE_CHECKING:
    from fastipam.cluster.registries.kubernetes.client import Client

_CALL_S = 10.0


class Rollout(NamedTuple):
    """A DaemonSet's counts, and the nodes whose pod is not ready.

    ``known``: the DaemonSet controller has processed the current version.
    """

    known: bool
    wanted: int
    ready: int
    left: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether a ready pod of the current version runs on every node that is to have one."""
        return self.known and self.ready >= self.wanted

    def __str__(self) -> str:
        if not self.known:
            return "the DaemonSet controller has not processed it yet"
        left = f"; not on {', '.join(self.left)}" if self.left else ""
        return f"ready on {self.ready} of {self.wanted} nodes{left}"


def look(client: Client, namespace: str, name: str) -> Rollout | None:
    """Return the progress of a DaemonSet, or None when there is none of this name.

    Two requests. Raises EngineError.
    """
    found = client.get(Kind("/apis/apps/v1", "daemonsets", namespace), name, deadline_s=_CALL_S)
    if found is None:
        return None
    status = found.get("status", {})
    listed, _ = client.list(Kind("/api/v1", "pods", namespace), deadline_s=_CALL_S)
    uid = found["metadata"]["uid"]
    pods = [one for one in listed if _is_of(one, uid)]
    left = {_node_of(one) for one in pods if not _is_ready(one)}
    return Rollout(
        status.get("observedGeneration", 0) >= found["metadata"]["generation"],
        int(status.get("desiredNumberScheduled", 0)),
        min(int(status.get("updatedNumberScheduled", 0)), int(status.get("numberReady", 0))),
        tuple(sorted(left)),
    )


def _is_of(pod: dict[str, Any], uid: str) -> bool:
    owners = pod["metadata"].get("ownerReferences", ())
    return any(one.get("uid") == uid for one in owners)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _node_of(pod: dict[str, Any]) -> str:
    return str(pod.get("spec", {}).get("nodeName") or pod["metadata"]["name"])
