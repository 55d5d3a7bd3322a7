"""An operator's view of the Kubernetes API: all nodes, all blocks, the removal of a node."""

from __future__ import annotations

from fastipam.cluster.engine import Compacted
from fastipam.cluster.errors import ClusterRefused
from fastipam.cluster.registries.kubernetes import objects, removal
from fastipam.cluster.registries.kubernetes.api import list_s
from fastipam.cluster.registry import Layout, NodeRow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registries.kubernetes.pools import Pools
    from fastipam.cluster.schema import BlockEntry, BlockId

_WATCH_S = 300.0


class Overview:
    """The part of a registry that concerns all nodes."""

    alive_text = "its Node object is Ready"
    alive_hint = (
        "delete its Node object after the machine is off: the controller then ends its Lease, if "
        "it has one, and frees its blocks"
    )

    def __init__(self, api: Api, pools: Pools) -> None:
        self._api = api
        self._pools = pools

    def blocks(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return every owned block, in address order. O(blocks of all nodes)."""
        listed, _ = self._api.client.list(objects.BLOCKS, deadline_s=list_s(deadline))
        return dict(sorted(objects.read_block(one) for one in listed))

    def nodes(self, deadline: Deadline) -> list[NodeRow]:
        """Return every node that ever registered. Three lists."""
        listed, _ = self._api.client.list(objects.NODES, deadline_s=list_s(deadline))
        asking, _ = self._api.client.list(objects.REQUESTS, deadline_s=list_s(deadline))
        needy = {objects.name_of(one) for one in asking if not objects.answered_by(one)}
        entries = {objects.name_of(one): objects.read_node(one) for one in listed}
        machines, _ = self._api.client.list(objects.MACHINES, deadline_s=list_s(deadline))
        ready = {objects.name_of(one) for one in machines if _is_ready(one)}
        return [
            NodeRow(name, entry, alive=name in ready, needy=name in needy)
            for name, entry in sorted(entries.items())
        ]

    def contradictions(
        self, entries: Mapping[BlockId, BlockEntry], deadline: Deadline
    ) -> list[tuple[str, BlockId, str]]:
        """Return the blocks that an earlier epoch of their owner has left."""
        listed, _ = self._api.client.list(objects.NODES, deadline_s=list_s(deadline))
        epochs = {objects.name_of(one): objects.read_node(one).epoch for one in listed}
        return [
            (entry.node, pair, f"it is of epoch {entry.epoch}, but its owner is in epoch {epoch}")
            for pair, entry in entries.items()
            if (epoch := epochs.get(entry.node, entry.epoch)) != entry.epoch
        ]

    def layout(self, deadline_s: float) -> Layout:
        """Return who owns which block, and the owners' addresses. One list request."""
        listed, version = self._api.client.list(objects.BLOCKS, deadline_s=deadline_s)
        blocks = dict(objects.read_block(one) for one in listed)
        addresses: dict[str, list[str]] = {}
        for entry in blocks.values():
            addresses.setdefault(entry.node, []).extend(entry.via)
        return Layout(dict(sorted(blocks.items())), addresses, int(version or 0))

    def changes(self, revision: int, wait_s: float) -> Iterator[tuple[bool, int]]:
        """Yield whether a block has changed; end when the layout has to be read again."""
        try:
            watch = self._api.client.watch(objects.BLOCKS, str(revision), deadline_s=_WATCH_S)
        except Compacted:
            return
        try:
            while not watch.is_over:
                event = watch.wait(wait_s)
                if event is None:
                    yield False, revision
                    continue
                revision = max(revision, objects.version_of(event[1]))
                if event[0] != "BOOKMARK":
                    yield True, revision
        except Compacted:
            return
        finally:
            watch.close()

    def settings_text(self, deadline: Deadline) -> str | None:
        """Return the pools that are in force, None when there are none. One list request."""
        found = self._pools.in_force(deadline)
        return self._api.share.settings.with_pools(found).text if found else None

    def found_cluster(self, deadline: Deadline) -> str | None:  # noqa: ARG002  # no request
        """Raise ClusterRefused: the pools are objects that people make."""
        raise ClusterRefused(
            "the pools of this cluster are objects of the Kubernetes API",
            hint=(
                "add one with `kubectl apply` of an AddressPool; kubectl get addresspools lists "
                "them"
            ),
        )

    def is_alive(self, name: str, deadline: Deadline) -> bool:
        """Return whether the Node object of this name exists and is ready. One read."""
        found = self._api.get(objects.MACHINES, name, deadline)
        return found is not None and _is_ready(found)

    def end(self, name: str, deadline: Deadline, *, force: bool) -> int | None:
        """Write the tombstone of a node (I5); return its epoch, None when there is no such node."""

        def check() -> None:
            if not force and self.is_alive(name, deadline):
                raise ClusterRefused(f"node {name} is alive: {self.alive_text}")
            if not force and self._api.get(objects.LEASES, name, deadline) is not None:
                raise ClusterRefused(
                    f"node {name} may be alive: it has a Lease, so no other node may assign "
                    "addresses of its blocks"
                )

        return removal.end(self._api.client, name, deadline, check=check, step=self._api.step)

    def take_back(self, name: str, deadline: Deadline) -> int:
        """Delete the blocks of a removed node by their versions; return how many."""
        return removal.take_back(self._api.client, name, deadline, step=self._api.step)

    def problem(self, *, deadline_s: float) -> str:
        """Return what is wrong with the API, or an empty text. One list request."""
        self._api.client.list(objects.POOLS, from_cache=True, deadline_s=deadline_s)
        return ""


def _is_ready(machine: dict[str, Any]) -> bool:
    """Return whether a Node object says that its kubelet is ready."""
    conditions = machine.get("status", {}).get("conditions") or ()
    return any(
        isinstance(one, dict) and one.get("type") == "Ready" and one.get("status") == "True"
        for one in conditions
    )
