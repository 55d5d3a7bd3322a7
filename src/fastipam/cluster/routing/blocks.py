"""The blocks of one network as its shared store reports them: owners and their addresses."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from fastipam.addressing.addresses import V6, parse_ip, unusable
from fastipam.cluster.routing.table import merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fastipam.cluster.registry import Owners
    from fastipam.cluster.routing.table import Address, Prefix
    from fastipam.cluster.schema import BlockEntry, BlockId

# How long a block that is missing in a list still counts as owned. A shared store that was restored
# to an older state lacks blocks: all nodes compare theirs within half a minute, and claim the
# missing ones again within seconds.
HOLD_S = 60.0
_LINK_LOCAL = 0xFE80 >> 6  # the first ten bits of an address that is unique only on its link


class Wanted:
    """The routes that a network needs; a value.

    ``gateways`` has the owner's address for each prefix of other nodes' blocks. ``rejects`` has the
    prefixes that get an unreachable route, for the addresses that no pod has. ``without`` has
    (node, family) of the owners without a known address of the family. ``nodes`` has the node's
    name for each address in ``gateways``. ``is_complete``: no other route is needed.
    """

    __slots__ = ("gateways", "is_complete", "nodes", "rejects", "without")

    def __init__(self) -> None:
        self.gateways: dict[Prefix, int] = {}
        self.rejects: set[Prefix] = set()
        self.without: set[tuple[str, int]] = set()
        self.nodes: dict[Address, str] = {}
        self.is_complete = False


class Blocks:
    """The known state of a network's blocks. The methods may be called by any thread.

    ``node`` is this node's name. ``changed`` is called when the result of :meth:`wanted` may have
    changed. ``pools`` returns the network's pools, or none while they are not known.
    """

    def __init__(
        self,
        node: str,
        changed: Callable[[], object] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self.pools: Callable[[], Iterable[Prefix]] = tuple
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()
        self._blocks: dict[BlockId, tuple[int, str, tuple[str, ...]]] = {}
        self._nodes: dict[str, tuple[str, ...]] = {}
        self._missed: dict[BlockId, float] = {}  # missing in a list -> since when
        self._shared: dict[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]] = {}
        self._is_told = self._is_reached = False

    def begin_anew(self, pools: Callable[[], Iterable[Prefix]]) -> None:
        """Expect the whole state again, from another keeper; use these pools from now on."""
        with self._lock:
            self.pools = pools
            self._is_reached = False
            self._missed = dict.fromkeys(self._blocks, self._clock())

    # What a registry reports ----------------------------------------------------------------

    def see(self, pair: BlockId, length: int, entry: BlockEntry) -> None:
        """Record the owner of a block."""
        with self._lock:
            # Ten thousand blocks have few owners: each name and list of addresses is kept once.
            node, via = self._shared.setdefault((entry.node, entry.via), (entry.node, entry.via))
            self._blocks[pair] = length, node, via
            self._missed.pop(pair, None)
        self._changed()

    def see_node(self, name: str, addresses: Sequence[str]) -> None:
        """Record the addresses of a node.

        A removed node's addresses stay, because its blocks may still exist.
        """
        with self._lock:
            if self._nodes.get(name) == (*addresses,):
                return
            self._nodes[name] = (*addresses,)
        self._changed()

    def forget(self, pair: BlockId, *, certain: bool) -> None:
        """Record that a block has no owner; if this is not certain, wait for ``HOLD_S`` first."""
        with self._lock:
            if certain:
                self._blocks.pop(pair, None)
                self._missed.pop(pair, None)
            elif pair in self._blocks:
                self._missed.setdefault(pair, self._clock())
        self._changed()

    def complete(self) -> None:
        """Record that the whole state was reported."""
        self._is_told = self._is_reached = True
        self._changed()

    def reached(self) -> None:
        """Record that the shared store is reached."""
        was_reached, self._is_reached = self._is_reached, True
        if not was_reached:
            self._changed()

    def lost(self) -> None:
        """Record that the shared store is not reached."""
        self._is_reached = False

    # What the routes are made of ------------------------------------------------------------

    @property
    def is_told(self) -> bool:
        """Whether all blocks were reported once."""
        return self._is_told

    @property
    def is_reached(self) -> bool:
        """Whether the shared store is reached, and all blocks were reported."""
        return self._is_told and self._is_reached

    def due_s(self) -> float | None:
        """Return the seconds until a block that a list lacked counts as free, or None."""
        with self._lock:
            if not self._missed or not self.is_reached:
                return None
            return max(0.0, min(self._missed.values()) + HOLD_S - self._clock())

    def wanted(self) -> Wanted:
        """Return the routes that are needed now. O(blocks log blocks)."""
        found = Wanted()
        with self._lock:
            if self.is_reached:
                self._drop_missed()
            blocks = list(self._blocks.items())
            nodes = dict(self._nodes)
        pools = list(self.pools())
        found.is_complete = self.is_reached and bool(pools)
        ways = self._ways(blocks, nodes)
        leading = []
        own = []
        for (family, base), (length, node, via) in blocks:
            if node == self.node:
                own.append(((family, base, length), 0))
                continue
            address = _first(via, family) or ways.get((node, family))
            if address is None:
                found.without.add((node, family))
            else:
                leading.append(((family, base, length), address))
                found.nodes[family, address] = node
        found.gateways = dict(merged(leading))
        found.rejects = {prefix for prefix, _ in merged(own)}.union(pools)
        return found

    def _drop_missed(self) -> None:
        oldest = self._clock() - HOLD_S
        for pair, when in list(self._missed.items()):
            if when <= oldest:
                del self._missed[pair]
                self._blocks.pop(pair, None)

    @staticmethod
    def _ways(
        blocks: Iterable[tuple[BlockId, tuple[int, str, tuple[str, ...]]]],
        nodes: dict[str, tuple[str, ...]],
    ) -> dict[tuple[str, int], int]:
        """Return the address of each (node, family), for blocks whose entry has none.

        A block that was handed over has no address until its new owner has written one. The
        owner's other blocks have it.
        """
        found = {
            (node, family): address
            for node, texts in nodes.items()
            for family, address in _addresses(texts)
        }
        for owner in {(node, via) for _, (_, node, via) in blocks if via}:
            for family, address in _addresses(owner[1]):
                found.setdefault((owner[0], family), address)
        return found


def _first(texts: Iterable[str], family: int) -> int | None:
    """Return the first address of a family that a route can lead to, or None."""
    return next((address for its, address in _addresses(texts) if its == family), None)


def _addresses(texts: Iterable[str]) -> Iterator[Address]:
    """Yield the addresses that can be a route's gateway, as (family, integer)."""
    for text in texts:
        try:
            family, value = parse_ip(text)
        except ValueError:
            continue
        if not unusable(family, value) and not (family == V6 and value >> 118 == _LINK_LOCAL):
            yield family, value


if TYPE_CHECKING:

    def _is_owners(one: Blocks) -> Owners:
        return one
