"""The blocks that ADDs request by name: the keeper gets them, or says which node owns them.

An address that is a block of its own follows its pod. When an ADD requests the address, the ADD's
node claims the block if nobody owns it, and otherwise asks the owner for it by name. One request
names all blocks that ADDs of this node wait for. Each owner hands over those that are free; a new
request names those that are still missing. A block is given back when its address is free and no
ADD wants it any more.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from fastipam.addressing.addresses import BITS, format_cidr, format_ip
from fastipam.cluster import planner
from fastipam.storage.records.block import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.keeper.membership import Membership
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.planner import Use
    from fastipam.cluster.schema import BlockId
    from fastipam.configuration.cluster import Geometry
    from fastipam.configuration.pool_lines import Wanted

WANT_S = 3.0  # an ADD that has not asked again for this long has ended
TELL_S = 2.0  # how long the owner of a block counts as known after a read
TURN_S = 2.0  # how long a node keeps its only request open when it needs other blocks too
IDLE_S = 5.0  # how long a block is kept while no pod has its address
MOST_NAMED = 32  # blocks in one request


class Told(NamedTuple):
    """Why a requested address cannot be assigned here; ``is_final``: waiting does not help."""

    text: str
    hint: str = ""
    is_final: bool = False


_COMING = Told("the block of the requested address is being claimed for this node")


class Named:
    """The addresses that ADDs have requested. :meth:`want` may be called by any thread.

    ``marked`` has the pools for which the keeper has asked other nodes. A node can have only one
    request at a time, so a request by name waits while a pool is marked, but only for ``TURN_S``.
    ``clock`` gives seconds.
    """

    def __init__(
        self,
        node: Node,
        membership: Membership,
        marked: set[Wanted],
        clock: Callable[[], float],
        wake: Callable[[], object],
    ) -> None:
        self._node = node
        self._membership = membership
        self._marked = marked
        self._clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._wants: dict[str, tuple[float, tuple[BlockId, ...]]] = {}  # ADD -> (when, blocks)
        self._told: dict[BlockId, tuple[float, Told]] = {}
        self._tried: Sequence[BlockId] = ()  # the missing blocks, and when to try them again
        self._try_at = 0.0
        self._asked: frozenset[BlockId] = frozenset()  # named by the request, if there is one
        self._asked_at = 0.0
        self._marked_at = 0.0  # since when a request for a pool delays one by name, or 0.0
        self._free_since: dict[BlockId, float] = {}

    # Called for requests --------------------------------------------------------------------

    def want(self, who: str, addresses: Iterable[tuple[int, int]]) -> Told:
        """Record an ADD that requests these addresses; return why it cannot have them yet."""
        wanted = tuple(self._block_of(*one) for one in addresses)
        now = self._clock()
        with self._lock:
            self._wants[who] = now, wanted
            told = [self._told[one][1] for one in wanted if one in self._told]
        self._wake()
        return next((one for one in told if one.is_final), told[0] if told else _COMING)

    def _block_of(self, family: int, value: int) -> BlockId:
        pool = self._node.settings.geometry_of(family, value)
        number = None if pool is None else pool.number(value)
        return (family, value if pool is None or number is None else pool.address(number))

    def wanted(self) -> frozenset[BlockId]:
        """Return the blocks for which an ADD waits now."""
        oldest = self._clock() - WANT_S
        with self._lock:
            for who in [who for who, (when, _) in self._wants.items() if when < oldest]:
                del self._wants[who]
            return frozenset(one for _, some in self._wants.values() for one in some)

    # One step -------------------------------------------------------------------------------

    def get(self, deadline: Deadline) -> bool:
        """Claim the wanted blocks, or ask for them; return whether this node has all of them."""
        wanted = self.wanted()
        self._forget_told(wanted)
        if not wanted:
            self.withdraw(deadline)
            return False
        mine = {(one.family, one.base): one.state for one in self._node.share.blocks()}
        missing = sorted(wanted - mine.keys())
        if not missing:
            self.withdraw(deadline)
            is_here = all(mine[one] == ACTIVE for one in wanted)
            if is_here:
                with self._lock:
                    self._wants.clear()
            return is_here
        now = self._clock()
        if now < self._try_at and missing == self._tried:
            return False
        self._tried, self._try_at = missing, now + planner.LOOK_AGAIN_S
        return self._get(missing, deadline)

    def _get(self, missing: Sequence[BlockId], deadline: Deadline) -> bool:
        """Claim the free blocks, and ask other nodes for the rest; return whether any was free."""
        single = [one for one in missing if self._is_single(one)]
        for one in missing:
            if one not in single:
                self._tell(one, deadline)
        single = single[:MOST_NAMED]
        won = self._node.claim_named(single, deadline) if single else []
        others = [one for one in single if one not in won]
        held = [one for one in others if self._tell(one, deadline)]
        if held:
            self._ask(held, deadline)
        return bool(won)

    def _is_single(self, pair: BlockId) -> bool:
        pool = self._node.settings.geometry_of(*pair)
        return pool is not None and pool.is_single and self._node.settings.may_claim(pool)

    # Asking ---------------------------------------------------------------------------------

    def _ask(self, held: Sequence[BlockId], deadline: Deadline) -> None:
        """Request these blocks by name, unless this node's request is for something else."""
        now, registry = self._clock(), self._node.registry
        if self._asked.issuperset(held) and registry.is_asked(deadline):
            return
        if self._marked:
            self._marked_at = self._marked_at or now
            if now < self._marked_at + TURN_S:
                return
            self._marked.clear()
        self._marked_at = 0.0
        if registry.awaits:
            registry.unask(deadline)
            if registry.awaits:  # it was answered: its blocks are collected first
                return
        self._node.write_mark(held[0][0], len(held), deadline, named=held)
        self._asked, self._asked_at = frozenset(held), now

    def withdraw(self, deadline: Deadline) -> None:
        """Withdraw the request that names blocks, if there is one."""
        self._marked_at = 0.0
        if self._asked:
            self._asked = frozenset()
            self._node.registry.unask(deadline)

    def makes_way(self, deadline: Deadline) -> bool:
        """Return whether the keeper may request any blocks of a pool now: no request is open.

        A request that names blocks is withdrawn first if it has been open for ``TURN_S``.
        """
        if self._asked and self._clock() >= self._asked_at + TURN_S:
            self.withdraw(deadline)
        return not self._node.registry.awaits

    # Telling --------------------------------------------------------------------------------

    def _tell(self, pair: BlockId, deadline: Deadline) -> bool:
        """Record a block's owner, for the error of its ADD; return whether to ask that owner."""
        owner = self._node.registry.owner(pair, deadline)
        if owner is not None and owner.node == self._node.name:
            self._membership.doubt()  # this node's store has no record of the block
            return False
        pool = self._node.settings.geometry_of(*pair)
        name = owner.node if owner is not None else ""
        if pool is None:
            return False
        told = _held(pair, name) if pool.is_single else _of_a_node(pool, pair, name)
        if name or not pool.is_single:
            with self._lock:
                self._told[pair] = self._clock() + TELL_S, told
        return bool(name) and pool.is_single

    def _forget_told(self, wanted: frozenset[BlockId]) -> None:
        now = self._clock()
        with self._lock:
            for one, (until, _) in list(self._told.items()):
                if now >= until or one not in wanted:
                    del self._told[one]

    # Giving ---------------------------------------------------------------------------------

    def to_donate(self, ids: Iterable[BlockId]) -> list[BlockId]:
        """Return the blocks that this node can spare: no pod has them, and no ADD wants them.

        It writes nothing, because a request may wait long for a pod to end.
        """
        wanted = self.wanted()
        return self._node.share.spare(one for one in ids if one not in wanted)

    def to_give_back(self, uses: Iterable[tuple[Geometry, Use]]) -> list[BlockId]:
        """Return the single-address blocks that were free for ``IDLE_S`` and that no ADD wants."""
        now, wanted = self._clock(), self.wanted()
        free = {
            (pool.family, pool.address(one.number))
            for pool, one in uses
            if pool.is_single and not one.used
        } - wanted
        self._free_since = {one: self._free_since.get(one, now) for one in free}
        return sorted(one for one, since in self._free_since.items() if now >= since + IDLE_S)


def _held(pair: BlockId, name: str) -> Told:
    return Told(
        f"the requested address {format_ip(*pair)} belongs to node {name}, which has not "
        "released it: a pod there has it, or the node's agent does not run",
        f"`fastipam list` on {name} shows the pod; if the machine is gone for good, type "
        f"`kubectl delete node {name}`",
    )


def _of_a_node(pool: Geometry, pair: BlockId, name: str) -> Told:
    cidr = format_cidr(*pair, BITS[pool.family] - pool.host_bits)
    owner = f"which node {name} owns: only that node assigns it"
    if not name:
        owner = "which no node owns now: only a node that claims the block can assign it"
    return Told(
        f"the requested address lies in block {cidr} of the cluster's pool, {owner}",
        "run the pod there, or request an address of an AddressPool with blockSize 32 (IPv6: 128): "
        "it follows the pod to any node",
        is_final=True,
    )
