"""The selectors of pools: which of them match this node's Node object, or a namespace.

Neither Node objects nor namespaces are watched: a Node object changes every few minutes, and there
may be many namespaces.
"""

from __future__ import annotations

from fastipam.cluster.engine import EngineError
from fastipam.cluster.errors import NoBlock
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registry import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.configuration.address_pools import AddressPool

_LOOK_S = 60.0  # between two reads of this Node's labels, while a pool selects nodes


class Selection:
    """The labels of this node's Node object, as last read, and the objects of namespaces."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._labels: dict[str, str] | None = None
        self._look_at = 0.0

    def for_node(self, pools: Sequence[AddressPool], deadline: Deadline) -> list[AddressPool]:
        """Return the pools as this node may use them. One read per minute if one selects nodes.

        While the API cannot be reached, the labels that were read last count. Raises the errors of
        the first read.
        """
        if not any(one.node_selector for one in pools):
            return list(pools)
        if self._labels is None or self._api.clock() >= self._look_at:
            self._look_at = self._api.clock() + _LOOK_S
            try:
                found = self._api.get(objects.MACHINES, self._api.name, deadline)
                self._labels = _texts(found, "labels")
            except (EngineError, NoBlock):
                if self._labels is None:
                    raise
        return [one.for_node(self._labels) for one in pools]

    def namespace(self, name: str, deadline: Deadline) -> Namespace:
        """Return the labels and annotations of a namespace, from the server's cache. One read.

        A namespace that does not exist has neither.
        """
        found = self._api.client.get(
            objects.NAMESPACES, name, from_cache=True, deadline_s=deadline.call_s()
        )
        return Namespace(_texts(found, "labels"), _texts(found, "annotations"))


def _texts(found: dict[str, Any] | None, key: str) -> dict[str, str]:
    """Return labels or annotations of an object."""
    there = ((found or {}).get("metadata") or {}).get(key)
    if not isinstance(there, dict):
        return {}
    return {str(one): str(value) for one, value in there.items()}
