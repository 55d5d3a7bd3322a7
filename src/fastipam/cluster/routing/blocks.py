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

# A store that was restored to an older state lacks blocks that their owners claim again within
# seconds of the comparison, which all nodes make within half a minute.
HOLD_S = 60.0
_LINK_LOCAL = 0xFE80 >> 6  # the first ten bits of such an address, which each link has again


class Wanted:
    """The routes that a network needs; a value.

    ``gateways`` has the address for each prefix of another node's blocks, ``rejects`` the prefixes
    whose other addresses nobody has. ``without`` are (node, family) of the owners whose address in
    the family is not known, ``nodes`` the name of the node that has an address. ``is_complete``:
    what is not in it is not needed.
    """

    __slots__ = ("gateways", "is_complete", "nodes", "rejects", "without")

    def __init__(self) -> None:
        self.gateways: dict[Prefix, int] = {}
        self.rejects: set[Prefix] = set()
        self.without: set[tuple[str, int]] = set()
        self.nodes: dict[Address, str] = {}
        self.is_complete = False


class Blocks:
    """What is known of a network's blocks. The methods may be called by any thread.

    ``node`` is this node's name, ``changed`` is called whenever :meth:`wanted` may be another. The
    pools are those that ``pools`` returns; none: they are not known yet.
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
        self._missed: dict[BlockId, float] = {}  # blocks that a list lacked -> when
        self._shared: dict[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]] = {}
        self._is_told = self._is_reached = False

    def begin_anew(self, pools: Callable[[], Iterable[Prefix]]) -> None:
        """Expect the whole state again, from another follower; use these pools from now on."""
        with self._lock:
            self.pools = pools
            self._is_reached = False
            self._missed = dict.fromkeys(self._blocks, self._clock())

    # What a registry tells ------------------------------------------------------------------

    def see(self, pair: BlockId, length: int, entry: BlockEntry) -> None:
        """Note the owner of a block."""
        with self._lock:
            # Ten thousand blocks have few owners: each name and list of addresses is kept once.
            node, via = self._shared.setdefault((entry.node, entry.via), (entry.node, entry.via))
            self._blocks[pair] = length, node, via
            self._missed.pop(pair, None)
        self._changed()

    def see_node(self, name: str, addresses: Sequence[str]) -> None:
        """Note the addresses of a node; those of a removed one stay, as its blocks do."""
        with self._lock:
            if self._nodes.get(name) == (*addresses,):
                return
            self._nodes[name] = (*addresses,)
        self._changed()

    def forget(self, pair: BlockId, *, certain: bool) -> None:
        """Note that a block has no owner; if this is not certain, wait a while first."""
        with self._lock:
            if certain:
                self._blocks.pop(pair, None)
                self._missed.pop(pair, None)
            elif pair in self._blocks:
                self._missed.setdefault(pair, self._clock())
        self._changed()

    def complete(self) -> None:
        """Note that the whole state was reported."""
        self._is_told = self._is_reached = True
        self._changed()

    def reached(self) -> None:
        """Note that the shared store is reached."""
        was_reached, self._is_reached = self._is_reached, True
        if not was_reached:
            self._changed()

    def lost(self) -> None:
        """Note that the shared store is not reached."""
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
        """Return the seconds until a block that was missed counts as free, or None."""
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
        """Return the address of each (node, family), for blocks that do not say it themselves.

        A block that was handed over has none until its new owner has written it; his other blocks
        have.
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
    """Return the first of the addresses that is of a family, or None."""
    return next((address for its, address in _addresses(texts) if its == family), None)


def _addresses(texts: Iterable[str]) -> Iterator[Address]:
    """Yield those of the addresses that a route can have as its gateway."""
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
