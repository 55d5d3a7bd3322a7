"""A node's side of the protocol: how it takes and gives back blocks, safe against crashes.

Two stores cannot change in one transaction: the shared one says who owns a block, the local one
(``share``) whether addresses are assigned from it. These rules make it safe:

1. The local store says ``active`` only after the shared one has answered that the block is this
   node's. It says ``releasing`` before the shared one is asked to free the block or hand it over.
2. A change of the shared store names the revision that it is based on. If it is delayed, and
   arrives after a change by another node, it has no effect.
3. The node never guesses an answer that did not come: it reads again, or leaves the block in its
   state. ``releasing`` goes back to ``active`` only when the shared store has refused the change.
4. One process of a node at a time works on claims: it holds ``cluster.lock`` beside the store,
   which the kernel releases when the process dies. The holder may finish what another has begun.

After each change the code calls ``step(name)``: tests kill the process there.
"""

from __future__ import annotations

import os

from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node import identity
from fastipam.cluster.planner import Look, Search
from fastipam.cluster.registry import Unsettled
from fastipam.cluster.schema import Mark
from fastipam.errors import FastipamError
from fastipam.storage import boot
from fastipam.storage.records.block import ACTIVE, CLAIMING, FOUND, LOST, RELEASING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registry import Registry, Request
    from fastipam.cluster.schema import BlockId
    from fastipam.configuration.cluster import Geometry, Settings
    from fastipam.network import Network
    from fastipam.storage.records.block import Block, Member


def _revision(block: Block) -> int:
    return block.revision


def _nothing(_: str) -> None:
    """Do nothing at a step: only tests have failpoints."""


class Node:
    """One node of a cluster.

    Call a method that changes something only while :class:`NodeLock` is held. Methods raise
    EngineError, ClusterRefused and StoreError; the next :meth:`join` finishes what was begun.
    """

    def __init__(
        self, share: Share, registry: Registry, *, step: Callable[[str], None] = _nothing
    ) -> None:
        self.share = share
        self.name = share.settings.node
        self.registry = registry
        self.machine = boot.read_machine()
        self.step = step
        self.counts = registry.counts

    @property
    def settings(self) -> Settings:
        """The settings of this node; its pools may change."""
        return self.share.settings

    @property
    def network(self) -> Network:
        """The cluster's network in the node's own store."""
        return self.share.network

    # Joining --------------------------------------------------------------------------------

    def join(
        self,
        deadline: Deadline,
        *,
        agent: bool = False,
        sign: bool = False,
        restored: bool = False,
    ) -> list[BlockId]:
        """Register, and make the local records agree with the shared store's. Idempotent.

        After a crash, a removal or a lost disk, this finishes what was begun. It returns the found
        blocks: this node owns them, but its store does not know which of their addresses are in
        use. With ``sign`` a new node also creates its sign of life. ``restored``: the shared store
        has lost changes.

        Raises ClusterRefused if the settings differ from the cluster's, or if another node with
        this name is alive.
        """
        registry = self.registry
        registry.remember()
        member = identity.identify(self.share, self.machine, self.step)
        is_new = registry.register(member, deadline, agent=agent, sign=sign)
        self.step("registered")
        era, lost = registry.read_era(is_new, deadline)
        # A new node owns nothing yet.
        owned = {} if is_new else registry.owned(deadline)
        found, granted = self.share.reconcile(
            member, owned, self.machine, registry.heard(era), restored=restored or lost
        )
        self.counts.granted += granted
        self.step("reconciled")
        for block in self.share.blocks():
            if block.state == RELEASING:
                self._finish_release(block, deadline)
            elif block.state == LOST:
                self._claim_again(block, member, deadline)
        return found

    def _claim_again(self, block: Block, member: Member, deadline: Deadline) -> None:
        """Claim a block again that was taken from this node while addresses of it were in use."""
        # An operator removed the node while it was away, or the shared store was restored. If
        # another node has claimed the block since, the block stays lost.
        revision = self.registry.claim_again(member, block, deadline)
        if revision:
            self.share.activate({(block.family, block.base): revision}, LOST)

    def confirm_found(self, ids: Sequence[BlockId]) -> None:
        """Activate found blocks, after leases were stored for their addresses in use."""
        self.share.activate(dict.fromkeys(ids, 0), FOUND)
        self.step("found confirmed")

    # Claiming -------------------------------------------------------------------------------

    def claim_family(self, family: int, run: int, deadline: Deadline) -> bool:
        """Claim from the first pool of a family that has a free block; return False if none has.

        It tries the pools for pods that choose no pool, in their order.
        """
        settings = self.settings
        groups = dict(settings.lines).get(family, ())
        pools = [pool for group in groups for pool in settings.in_group(family, group)]
        return any(self.claim(one, run, deadline) for one in filter(settings.claims_ahead, pools))

    def claim(self, pool: Geometry, run: int, deadline: Deadline) -> list[BlockId]:
        """Claim an aligned run of up to ``run`` blocks; return them, none if the pool is used up.

        One request, unless another node is faster. Raises NoBlock at the deadline, or when other
        nodes were faster each time.
        """
        member = self.share.member()
        if member is None or not member.revision:
            self.join(deadline)
            member = self.share.member()
            assert member is not None
        self.registry.remember()
        have = self.share.blocks()
        if have:
            self.registry.learn_history(deadline)
        mine = (pool.number(each.base) for each in have if each.family == pool.family)
        newest = max((each for each in have if each.state == ACTIVE), key=_revision, default=None)
        owned = frozenset(one for one in mine if one is not None)
        search = Search(pool, self.name, owned, run)
        while search.step is not None:
            numbers = search.step.blocks
            if isinstance(search.step, Look):
                search.looked(self.registry.taken(pool, numbers, deadline) | owned)
                continue
            ids = [(pool.family, pool.address(one)) for one in numbers]
            won, taken = self._try(ids, member, newest, deadline)
            if won:
                search.claimed()
                return won
            self.counts.conflicts += 1
            found = (pool.number(base) for _, base in taken)
            search.conflict(one for one in found if one is not None)
        if search.exhausted:
            return []
        raise NoBlock("other nodes claimed every block that was tried")

    def claim_named(self, ids: Sequence[BlockId], deadline: Deadline) -> list[BlockId]:
        """Claim exactly these blocks, none of which this node has; return those that it won.

        One request per block, and one more. Other nodes own the remaining blocks, or owned them a
        moment ago.
        """
        member = self.share.member()
        if member is None or not member.revision:
            raise NoBlock("this node is not registered in its cluster")
        self.registry.remember()
        return self._try(ids, member, None, deadline)[0]

    def _try(
        self, ids: Sequence[BlockId], member: Member, newest: Block | None, deadline: Deadline
    ) -> tuple[list[BlockId], Sequence[BlockId]]:
        """Claim these blocks; return those that are this node's now, and those that others own."""
        claimed_ns = self.share.store.clock()
        self.share.begin_claim(ids, member.epoch, claimed_ns)
        self.step("intent")
        try:
            answer = self.registry.claim(member, ids, claimed_ns, newest, deadline)
        except Unsettled as error:
            raise error.error from None  # the intents stay: the claim may still be made
        except FastipamError:
            self.share.forget(ids, CLAIMING)
            raise
        self.step("claimed")
        won = [each for each in ids if each in answer.won]
        if won:
            self.share.activate(answer.won, CLAIMING)
            self.step("active")
            self.counts.claims += len(won)
        if len(won) < len(ids):
            self.share.forget([each for each in ids if each not in answer.won], CLAIMING)
        return won, answer.taken

    # Releasing ------------------------------------------------------------------------------

    def give_back(self, ids: Sequence[BlockId], deadline: Deadline) -> int:
        """Give blocks back, so that any node can claim them; return how many.

        Blocks in use stay this node's.
        """
        begun = self._begin_release(ids)
        for block in begun:
            self._finish_release(block, deadline)
        self.counts.released += len(begun)
        return len(begun)

    def _begin_release(self, ids: Sequence[BlockId], *, named: bool = False) -> list[Block]:
        begun = self.share.begin_release(ids, named=named)
        self.step("releasing")
        return begun

    def _finish_release(self, block: Block, deadline: Deadline) -> None:
        """Free a releasing block, then delete its record. Retries until the outcome is known."""
        self.registry.release(block, deadline)
        self.step("released")
        self.share.forget([(block.family, block.base)], RELEASING)
        self.step("forgotten")

    def donate(self, request: Request, ids: Sequence[BlockId], deadline: Deadline) -> int:
        """Hand wholly free blocks to a node in need; return how many it got.

        Only one node answers a request, and only once. If the request names blocks of one address,
        the cool-down of their addresses ends.
        """
        most = self.registry.most_given
        begun = self._begin_release(ids[:most], named=bool(request.mark.named))
        if not begun:
            return 0
        given = [(block.family, block.base) for block in begun]
        claimed_ns = self.share.store.clock()
        try:
            done = self.registry.hand_over(request, begun, claimed_ns, deadline)
        except Unsettled:
            # The hand-over may still be made. Otherwise these blocks become free.
            for block in begun:
                self._finish_release(block, deadline)
            return 0
        except FastipamError:
            self.share.activate(dict.fromkeys(given, 0), RELEASING)
            raise
        self.step("donated")
        if not done:
            self.share.activate(dict.fromkeys(given, 0), RELEASING)
            return 0
        self.share.forget(given, RELEASING)
        self.step("forgotten")
        self.counts.donated += len(given)
        return len(given)

    # In need --------------------------------------------------------------------------------

    def write_mark(
        self,
        family: int,
        count: int,
        deadline: Deadline,
        *,
        brief: bool = False,
        pool: str = "",
        named: Sequence[BlockId] = (),
    ) -> None:
        """Ask the other nodes for blocks, until one answers or this node withdraws the request.

        ``pool`` names the AddressPool that the blocks must belong to. ``named`` lists the only
        blocks that are wanted, whatever their family.
        """
        number = int.from_bytes(os.urandom(6), "big") | 1
        member = self.share.set_mark(number)
        mark = Mark(number, count, member.epoch, family, tuple(named), pool)
        if not self.registry.ask(member, mark, deadline, brief=brief):
            self.share.forget_registration()
            raise ClusterRefused(f"node {self.name} was removed meanwhile")
        self.step("marked")

    def collect(self, deadline: Deadline) -> list[BlockId]:
        """Activate and return the blocks that donors have handed over since the last mark."""
        member = self.share.member()
        if member is None or not member.mark:
            return []
        taken = self.share.add_granted(member, self.registry.granted(deadline))
        self.counts.granted += len(taken)
        if taken:
            self.step("collected")
            self.registry.collected(taken, deadline)
        return taken
