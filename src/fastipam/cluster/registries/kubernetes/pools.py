"""The pools in force, as a node has read them from the Kubernetes API.

A node keeps a new block only if it has read, within ``POOLS_FRESH_S``, that the block's pool is in
force (I9). A watch may be late, and meanwhile a pool may be deleted and created again with blocks
of another size.
"""

from __future__ import annotations

import math

from fastipam.addressing.addresses import parse_cidr
from fastipam.cluster.registries.kubernetes import objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registries.kubernetes.watch import Follower
    from fastipam.configuration.address_pools import AddressPool


class Pools:
    """The pools that a node knows, from a follower or from the last list."""

    def __init__(self, api: Api) -> None:
        self.follower: Follower | None = None
        self._api = api
        self._followed: list[AddressPool] | None = None
        self._listed: list[AddressPool] = []
        self._listed_at = -math.inf  # when that list was requested

    def told(self, found: Iterable[dict[str, Any]]) -> None:
        """Take over the follower's pools. For any thread."""
        self._followed = _read(found)

    def in_force(self, deadline: Deadline) -> list[AddressPool]:
        """Return the pools that are in force, by name.

        One list request if no follower has read them.
        """
        return self._list(deadline) if self._followed is None else self._followed

    def have(self, cidrs: Iterable[str], deadline: Deadline, *, deleting: bool = False) -> bool:
        """Return whether blocks that were written belong to pools that are in force (I9).

        With ``deleting``, pools that are being deleted count as well. It sends no request if the
        pools were read less than ``POOLS_FRESH_S`` ago, else one list.
        """
        since = self._api.clock() - objects.POOLS_FRESH_S
        follower = self.follower
        if self._followed is not None and follower is not None and follower.current_at >= since:
            pools = self._followed
        elif self._listed_at >= since:
            pools = self._listed
        else:
            pools = self._list(deadline)
        if all(_is_block(one, pools, deleting=deleting) for one in cidrs):
            return True
        if follower is not None:
            follower.begin_anew()
        return False

    def _list(self, deadline: Deadline) -> list[AddressPool]:
        now = self._api.clock()
        listed, _ = self._api.client.list(objects.POOLS, deadline_s=deadline.call_s())
        self._listed, self._listed_at = _read(listed), now
        return self._listed


def _read(listed: Iterable[dict[str, Any]]) -> list[AddressPool]:
    found = (objects.read_pool(one) for one in listed)
    return sorted((one for one in found if one is not None), key=lambda one: one.name)


def _is_block(cidr: str, pools: Iterable[AddressPool], *, deleting: bool) -> bool:
    """Return whether a CIDR is a block of one of the pools."""
    family, base, length = parse_cidr(cidr)
    for one in pools:
        its_family, low, high = one.whole()
        if family == its_family and low <= base <= high:
            return length == one.block_length and (deleting or not one.deleting)
    return False
