"""The sign of life of a node with fencing: a Lease of coordination.k8s.io.

Nothing expires a Lease. Who wants a node ended has seen its Lease unchanged for longer than the
lease lasts, on his own clock, and then deletes it by its version: that succeeds only if the node
has not renewed it. No clocks of two machines are compared (docs/cluster.md, "Fencing").
"""

from __future__ import annotations

from datetime import UTC

from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import AlreadyExists, Conflict, NotFound
from fastipam.storage.boot import boottime_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.client import Client


class Lease:
    """The Lease of one node. ``since_ns``: the time of this boot before it was last renewed."""

    __slots__ = ("_client", "_holder", "_name", "_seconds", "_version", "since_ns", "uid")

    def __init__(self, client: Client, name: str, seconds: int) -> None:
        self._client = client
        self._name = name
        self._seconds = seconds
        self._holder = ""
        self._version = 0
        self.since_ns = 0
        self.uid = ""

    @property
    def is_held(self) -> bool:
        """Whether this process keeps it."""
        return bool(self._version)

    def hold(self, incarnation: str, deadline: Deadline) -> None:
        """Take the Lease of this incarnation of the node, or make it. Two requests at most.

        Raises ClusterRefused while another incarnation has it, NoBlock when it was changed
        meanwhile.
        """
        self._holder = incarnation
        began_ns = boottime_ns()
        try:
            made = self._client.create(objects.LEASES, self._body(0), deadline_s=deadline.call_s())
        except AlreadyExists:
            found = self._client.get(objects.LEASES, self._name, deadline_s=deadline.call_s())
            if found is None:
                raise NoBlock("the lease of this node was changed meanwhile") from None
            holder = found.get("spec", {}).get("holderIdentity")
            if holder != incarnation:
                raise ClusterRefused(
                    f"there is another node named {self._name}, or it has just ended",
                    hint='give this one another name with "node", or wait: the lease of a node '
                    "that is gone is ended by the controller",
                ) from None
            self._version, self.uid = objects.version_of(found), objects.uid_of(found)
            if not self.renew(deadline):
                raise NoBlock("the lease of this node was changed meanwhile") from None
            return
        self._version, self.since_ns = objects.version_of(made), began_ns
        self.uid = objects.uid_of(made)

    def renew(self, deadline: Deadline) -> bool:
        """Renew it; return False when it has ended, or somebody else has changed it. One request.

        An answer that did not come proves nothing: the next call finds the version changed, and
        the Lease is taken again.
        """
        began_ns = boottime_ns()
        try:
            made = self._client.replace(
                objects.LEASES, self._body(self._version), deadline_s=deadline.call_s()
            )
        except (Conflict, NotFound):
            self._version = 0
            return False
        if objects.uid_of(made) != self.uid:  # a PUT makes a Lease that is gone anew
            self._version = 0
            return False
        self._version, self.since_ns = objects.version_of(made), began_ns
        return True

    def let_go(self) -> None:
        """Forget which Lease is kept."""
        self._version = 0

    def _body(self, version: int) -> dict[str, Any]:
        uid = self.uid if version else ""
        return lease(self._name, self._holder, self._seconds, version=version, uid=uid)


def lease(
    name: str,
    holder: str,
    seconds: int,
    *,
    version: int = 0,
    uid: str = "",
    transitions: int = 0,
) -> dict[str, Any]:
    """Return the object of a Lease; with ``version`` it replaces the one that has this version."""
    from datetime import datetime

    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    metadata: dict[str, Any] = {"name": name, "namespace": objects.NAMESPACE}
    if version:
        metadata["resourceVersion"] = str(version)
    if uid:
        metadata["uid"] = uid
    spec: dict[str, Any] = {
        "holderIdentity": holder,
        "leaseDurationSeconds": seconds,
        "renewTime": now,
    }
    if transitions:
        spec["leaseTransitions"] = transitions
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": spec,
    }
