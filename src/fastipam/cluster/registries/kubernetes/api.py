"""The Kubernetes API as one node uses it: what the modules of its registry share."""

from __future__ import annotations

from fastipam.cluster.engines.http import local_addresses
from fastipam.cluster.own_addresses import own_addresses
from fastipam.cluster.registries.kubernetes.objects import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registries.kubernetes.calls import Kind
    from fastipam.cluster.registries.kubernetes.client import Client
    from fastipam.configuration.address_pools import AddressPool

TRIES = 8  # to change an object that somebody else changes meanwhile
_PAUSE_S = 0.02  # before a request is repeated; doubles


class Api:
    """A node, its client and its pools. ``step`` is called after each change, with a name."""

    __slots__ = ("client", "clock", "name", "share", "step")

    def __init__(
        self,
        share: Share,
        client: Client,
        clock: Callable[[], float],
        step: Callable[[str], None],
    ) -> None:
        self.share = share
        self.client = client
        self.clock = clock
        self.step = step
        self.name = share.settings.node

    def get(self, kind: Kind, name: str, deadline: Deadline) -> dict[str, Any] | None:
        """Return the object as it is now, None when there is none. One request."""
        return self.client.get(kind, name, deadline_s=deadline.call_s())

    def pause(self, tries: int, deadline: Deadline) -> None:
        """Wait a moment before a request is repeated, longer each time."""
        self.client.pause(min(_PAUSE_S * (1 << tries), deadline.left_s()))

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses of this node."""
        server = self.client.access.servers[0]
        return own_addresses(self.share.settings, lambda: local_addresses(server))

    def pools(self) -> Sequence[AddressPool]:
        """Return the pools that the node's settings have."""
        return self.share.settings.pools

    def families(self) -> dict[str, int]:
        """Return the family of each pool."""
        return {one.name: one.family for one in self.pools()}

    def place(self, family: int, base: int) -> Place | None:
        """Return a block as the API names it, None when it lies in none of the node's pools."""
        for one in self.pools():
            low = one.whole()
            if one.family == family and low[1] <= base <= low[2]:
                return Place(family, base, one.block_length, one.name, is_gone=one.is_gone)
        return None


def list_s(deadline: Deadline) -> float:
    """Return the seconds for a list, which may be many requests. Raises NoBlock if none is left."""
    return max(deadline.call_s(), deadline.left_s())
