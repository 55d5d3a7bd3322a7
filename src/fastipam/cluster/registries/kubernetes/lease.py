"""The sign of life of a node with fencing: a Lease of coordination.k8s.io.

The API does not expire a Lease. To end a node, a process waits until the Lease was unchanged for
longer than its duration, on the process's own clock, and then deletes the Lease by its version:
that succeeds only if the node has not renewed it. No clocks of two machines are compared
(docs/cluster.md, "Fencing"). The controller does this for a node that is gone, and the node itself
for the Lease of a store that it has lost.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC

from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import AlreadyExists, Conflict, NotFound
from fastipam.storage.boot import boottime_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.client import Client


MARGIN = 1.05  # of a Lease's duration: for clocks that run at different speeds
UNKNOWN_DURATION_S = 3600  # of a Lease that has no duration


class Lease:
    """The Lease of one node. ``since_ns``: a time of this boot, before it was last renewed."""

    __slots__ = (
        "_client", "_clock", "_holder", "_name", "_seconds", "_seen", "_version", "since_ns", "uid",
    )  # fmt: skip

    def __init__(
        self,
        client: Client,
        name: str,
        seconds: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._clock = clock
        self._seen = (0, 0.0)  # version of another incarnation's Lease, and when it was first read
        self._name = name
        self._seconds = seconds
        self._holder = ""
        self._version = 0
        self.since_ns = 0
        self.uid = ""

    @property
    def is_held(self) -> bool:
        """Whether this process keeps the Lease."""
        return bool(self._version)

    def hold(self, incarnation: str, deadline: Deadline) -> None:
        """Take the Lease of this incarnation of the node, or create it. Three requests at most.

        The Lease of another incarnation is deleted after it was unchanged for longer than its
        duration, which takes several calls. Until then this raises ClusterRefused. Raises NoBlock
        when the Lease was changed meanwhile, or has just been deleted.
        """
        self._holder = incarnation
        began_ns = boottime_ns()
        try:
            made = self._client.create(objects.LEASES, self._body(0), deadline_s=deadline.call_s())
        except AlreadyExists:
            found = self._client.get(objects.LEASES, self._name, deadline_s=deadline.call_s())
            if found is None:
                raise NoBlock("the Lease of this node was changed meanwhile") from None
            if found.get("spec", {}).get("holderIdentity") != incarnation:
                self._end_other(found, deadline)
                raise NoBlock(
                    "the Lease of this node's earlier store has just been ended"
                ) from None
            self._version, self.uid = objects.version_of(found), objects.uid_of(found)
            if not self.renew(deadline):
                raise NoBlock("the Lease of this node was changed meanwhile") from None
            return
        self._version, self.since_ns = objects.version_of(made), began_ns
        self.uid = objects.uid_of(made)

    def _end_other(self, found: dict[str, Any], deadline: Deadline) -> None:
        """Delete another incarnation's Lease. Raises ClusterRefused while it may be renewed."""
        version = objects.version_of(found)
        if self._seen[0] != version:
            self._seen = version, self._clock()
        lasts = found.get("spec", {}).get("leaseDurationSeconds") or UNKNOWN_DURATION_S
        left_s = self._seen[1] + MARGIN * int(lasts) - self._clock()
        if left_s > 0:
            raise ClusterRefused(
                f"there is another node named {self._name}, or it has just ended",
                hint='give this node another name with "node", or wait: this node takes the name '
                f"over if the other node's Lease is not renewed for {left_s:.0f} s",
            )
        with suppress(Conflict):  # it was renewed: the other one is alive
            self._client.delete(
                objects.LEASES, self._name, version=str(version), deadline_s=deadline.call_s()
            )

    def renew(self, deadline: Deadline) -> bool:
        """Renew the Lease; return False if it has ended or another process has changed it.

        One request. A missing answer proves nothing: if the renewal was made, the next one gets a
        conflict, and the Lease is taken again.
        """
        began_ns = boottime_ns()
        try:
            made = self._client.replace(
                objects.LEASES, self._body(self._version), deadline_s=deadline.call_s()
            )
        except (Conflict, NotFound):
            self._version = 0
            return False
        if objects.uid_of(made) != self.uid:  # a PUT creates a Lease that is gone
            self._version = 0
            return False
        self._version, self.since_ns = objects.version_of(made), began_ns
        return True

    def let_go(self) -> None:
        """Stop renewing the Lease."""
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
    """Return a Lease object; with ``version`` it replaces the Lease that has this version."""
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
