"""A node's side of the protocol: how a block gets into its store and back, whatever dies meanwhile.

Two stores cannot change in one transaction: the shared one says who owns a block, the local one
(``share``) whether addresses are assigned from it. These rules make it safe:

1. The local store says ``active`` only after the shared one has answered that the block is this
   node's. It says ``releasing`` before the shared one is asked to give the block to somebody else.
2. A change of the shared store names the revision that it was based on. A delayed change that
   arrives after somebody else's changes nothing.
3. The node never guesses an answer that did not come: it reads again, or the block waits in its
   state. ``releasing`` goes back to ``active`` only when the shared store has said no.
4. One process of a node at a time works on claims: it holds ``cluster.lock`` beside the store,
   which the kernel releases when the process dies. The holder may finish what it finds begun.

Every step that changes something is followed by ``step(name)``: tests kill the process there.
"""

from __future__ import annotations

import os
import time

from fastipam.addressing.addresses import BITS
from fastipam.cluster import schema
from fastipam.cluster.engine import (
    MAX_OPERATIONS,
    Compare,
    Delete,
    EngineError,
    EngineFull,
    EngineTimeout,
    HistoryLost,
    Outcome,
    Put,
)
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node.losses import Losses
from fastipam.cluster.node.registration import Registration
from fastipam.cluster.node.session import Session
from fastipam.cluster.planner import Look, Search
from fastipam.cluster.schema import BlockEntry, Mark
from fastipam.storage.records.block import ACTIVE, CLAIMING, FOUND, LOST, RELEASING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import Engine, KeyValue
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.schema import BlockId
    from fastipam.configuration.cluster import Geometry
    from fastipam.storage.records.block import Block, Member

# Blocks of a donation: three operations each, and one for the mark, in one transaction.
_MOST_DONATED = (MAX_OPERATIONS - 1) // 3


def _revision(block: Block) -> int:
    return block.revision


def _nothing(_: str) -> None:
    """Do nothing: no failpoint."""


class Counts:
    """What a node has done since the object was made; all but two count blocks.

    ``transactions`` were sent for claims, at ``conflicts`` of them another node was faster.
    """

    __slots__ = ("claims", "conflicts", "donated", "granted", "released", "transactions")

    def __init__(self) -> None:
        self.claims = self.conflicts = self.donated = 0
        self.granted = self.released = self.transactions = 0


class Node:
    """One node of a cluster. Call what changes something only while :class:`NodeLock` is held.

    Raises EngineError, ClusterRefused, StoreError. :meth:`join` finishes what was begun.
    """

    def __init__(
        self,
        share: Share,
        engine: Engine,
        *,
        step: Callable[[str], None] = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.share = share
        self.settings = share.settings
        self.network = share.network
        self.name = share.settings.node
        self.engine = engine
        self.keys = schema.Keys(share.settings.prefix, share.network.name)
        self.session = Session(share, engine, self.keys, clock)
        self.losses = Losses(share, engine, self.keys)
        self.registration = Registration(share, engine, self.keys, self.session, step)
        self.step = step
        self.counts = Counts()

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

        With ``sign`` a new node ties its sign of life to a session in the same transaction. After a
        crash, a removal or a lost disk this finishes what was begun. Returns the blocks that are
        this node's though its store does not know which of their addresses are in use.
        ``restored``: the shared store has lost changes.

        Raises ClusterRefused: other settings, or another live node of this name.
        """
        self.losses.remember()
        member, is_new = self.registration.register(deadline, agent=agent, sign=sign)
        before = self.share.heard().era
        era = None if is_new else self.losses.read_era(deadline)
        restored |= era is not None and era != (before or "")
        # A new node owns nothing yet.
        owned = {} if is_new else self._owned(deadline)
        found, granted = self.share.reconcile(
            member,
            owned,
            self.registration.machine,
            self.losses.heard(era),
            restored=restored,
        )
        self.counts.granted += granted
        self.step("reconciled")
        for block in self.share.blocks():
            if block.state == RELEASING:
                self._finish_release(block, deadline)
            elif block.state == LOST:
                self._claim_again(block, member, deadline)
        return found

    def _owned(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return what the shared store lists for this node. One read."""
        listed, _ = self.engine.list(self.keys.owned_by(self.name), deadline_s=deadline.call_s())
        return schema.read_blocks(listed)

    def _claim_again(self, block: Block, member: Member, deadline: Deadline) -> None:
        """Claim a block that was taken from this node while addresses of it are in use."""
        # An operator removed the node while it was away, or the shared store was restored. If
        # another node has claimed the block since, it stays lost.
        ids = [(block.family, block.base)]
        entry = BlockEntry(self.name, member.epoch, block.claimed_ns)
        conditions, operations = self._claim(member, ids, entry)
        if not block.revision:  # it was not this node's when the shared store lost changes
            conditions.append(self.losses.nobody_holds_back())
        outcome = self.engine.transact(conditions, operations, deadline_s=deadline.call_s())
        if outcome.succeeded:
            self.share.activate(ids, LOST, outcome.revision)

    def confirm_found(self, ids: Sequence[BlockId]) -> None:
        """Activate found blocks, after their addresses in use were entered."""
        self.share.activate(ids, FOUND)
        self.step("found confirmed")

    # Claiming -------------------------------------------------------------------------------

    def claim_family(self, family: int, run: int, deadline: Deadline) -> bool:
        """Claim in the first pool of a family that has a free block; return False if none has."""
        return any(self.claim(pool, run, deadline) for pool in self.settings.geometries_of(family))

    def claim(self, pool: Geometry, run: int, deadline: Deadline) -> list[BlockId]:
        """Claim an aligned run of up to ``run`` blocks; return them, none of a used up pool.

        One transaction unless another node was faster. Raises NoBlock: not in time, or another
        node was faster each time.
        """
        member = self.share.member()
        if member is None or not member.revision:
            self.join(deadline)
            member = self.share.member()
            assert member is not None
        self.losses.remember()
        have = self.share.blocks()
        if have and not self.losses.knows_era():
            self.losses.learn_era(deadline)
        mine = (pool.number(each.base) for each in have if each.family == pool.family)
        newest = max((each for each in have if each.state == ACTIVE), key=_revision, default=None)
        owned = frozenset(one for one in mine if one is not None)
        search = Search(pool, self.name, owned, run)
        while search.step is not None:
            numbers = search.step.blocks
            if isinstance(search.step, Look):
                search.looked(self._look(pool, numbers, deadline) | owned)
                continue
            ids = [(pool.family, pool.address(one)) for one in numbers]
            taken = self._try(ids, member, newest, deadline)
            if taken is None:
                search.claimed()
                return ids
            self.counts.conflicts += 1
            search.conflict(_numbers(pool, taken))
        if search.exhausted:
            return []
        raise NoBlock("every block that was tried was claimed by somebody else meanwhile")

    def _look(self, pool: Geometry, numbers: range, deadline: Deadline) -> frozenset[int]:
        """Return those of the blocks that a node owns. One read."""
        shared_bits = BITS[pool.family] - pool.host_bits - (len(numbers).bit_length() - 1)
        prefix = self.keys.blocks_of(pool.family, pool.address(numbers.start), shared_bits)
        listed, _ = self.engine.list(prefix, deadline_s=deadline.call_s())
        return _numbers(pool, listed)

    def _claim(
        self, member: Member, ids: Sequence[BlockId], entry: BlockEntry
    ) -> tuple[list[Compare], list[Put | Delete]]:
        """Return the transaction of a claim: all of the blocks, or none."""
        conditions = [Compare(self.keys.node(self.name), "mod_revision", member.revision)]
        conditions += [Compare(self.keys.block(*each), "absent") for each in ids]
        value = entry.pack()
        operations: list[Put | Delete] = [Put(self.keys.block(*each), value) for each in ids]
        operations += [Put(self.keys.owned(self.name, *each), value) for each in ids]
        return conditions, operations

    def _try(
        self, ids: Sequence[BlockId], member: Member, newest: Block | None, deadline: Deadline
    ) -> list[KeyValue] | None:
        """Claim these blocks; return None if they are this node's, else those that others own.

        ``newest`` is the block that this node has claimed last: if the shared store does not know
        that claim, it has lost it.
        """
        entry = BlockEntry(self.name, member.epoch, self.share.store.clock())
        self.share.begin_claim(ids, member.epoch, entry.claimed_ns)
        self.step("intent")
        conditions, operations = self._claim(member, ids, entry)
        conditions += self.losses.conditions(newest)
        outcome = self._ask_until_known(ids, conditions, operations, deadline)
        self.step("claimed")
        existing = {one.key: one for one in outcome.existing}
        keys = [self.keys.block(*each) for each in ids]
        theirs = [existing[each] for each in keys if each in existing]
        # If all that exists has our own value, an earlier request of this very claim was made.
        if outcome.succeeded or sum(one.value == entry.pack() for one in theirs) == len(ids):
            revision = outcome.revision if outcome.succeeded else theirs[-1].mod_revision
            self.share.activate(ids, CLAIMING, revision)
            self.step("active")
            self.counts.claims += len(ids)
            return None
        self.share.forget(ids, CLAIMING)
        node = existing.get(self.keys.node(self.name))
        if node is None or node.mod_revision != member.revision:
            self.share.forget_registration()
            raise ClusterRefused(
                f"the entry of node {self.name} was changed: this node was removed meanwhile, "
                "or another one has its name"
            )
        self.losses.check(existing, newest)
        return theirs

    def _ask_until_known(
        self,
        ids: Sequence[BlockId],
        conditions: Sequence[Compare],
        operations: Sequence[Put | Delete],
        deadline: Deadline,
    ) -> Outcome:
        """Return the answer to a claim. The intents stay while it may be made without an answer."""
        is_uncertain = False
        while True:
            self.counts.transactions += 1
            try:
                return self.engine.transact(conditions, operations, deadline_s=deadline.call_s())
            except HistoryLost:
                raise  # the comparison settles the intents
            except EngineFull:
                made = self._made(ids, operations, deadline)
                if made is not None:
                    return made
                if not is_uncertain:
                    self.share.forget(ids, CLAIMING)
                raise
            except (EngineError, NoBlock) as error:
                if isinstance(error, EngineTimeout) and error.ambiguous:
                    # Ask again. If the claim was made, it fails now and shows our own value.
                    is_uncertain = True
                    continue
                if not is_uncertain:
                    self.share.forget(ids, CLAIMING)
                raise

    def _made(
        self, ids: Sequence[BlockId], operations: Sequence[Put | Delete], deadline: Deadline
    ) -> Outcome | None:
        """Return the outcome of a claim that was made although the store says that it is full."""
        found = [
            self.engine.get(self.keys.block(*each), deadline_s=deadline.call_s()) for each in ids
        ]
        wanted = {one.key: one.value for one in operations if isinstance(one, Put)}
        mine = [one for one in found if one is not None and one.value == wanted[one.key]]
        return Outcome(False, 0, mine) if len(mine) == len(ids) else None

    # Releasing ------------------------------------------------------------------------------

    def give_back(self, ids: Sequence[BlockId], deadline: Deadline) -> int:
        """Make blocks free for all nodes; return how many. Blocks in use stay."""
        begun = self._begin_release(ids)
        for block in begun:
            self._finish_release(block, deadline)
        self.counts.released += len(begun)
        return len(begun)

    def _begin_release(self, ids: Sequence[BlockId]) -> list[Block]:
        begun = self.share.begin_release(ids)
        self.step("releasing")
        return begun

    def _finish_release(self, block: Block, deadline: Deadline) -> None:
        """Delete a releasing block's owner, then its record. Asks until the outcome is known."""
        key = self.keys.block(block.family, block.base)
        owned = self.keys.owned(self.name, block.family, block.base)
        revision = block.revision
        while True:
            try:
                outcome = self.engine.transact(
                    [Compare(key, "mod_revision", revision)],
                    [Delete(key), Delete(owned)],
                    deadline_s=deadline.call_s(),
                )
            except EngineTimeout as error:
                if not error.ambiguous:
                    raise
                continue
            if outcome.succeeded or not outcome.existing:
                break
            (existing,) = outcome.existing
            if BlockEntry.read(key, existing.value).node != self.name:
                break
            revision = existing.mod_revision
        self.step("released")
        self.share.forget([(block.family, block.base)], RELEASING)
        self.step("forgotten")

    def donate(self, needy: str, mark: KeyValue, ids: Sequence[BlockId], deadline: Deadline) -> int:
        """Hand wholly free blocks to a node in need; return how many it got.

        Blocks and mark change in one transaction: one node answers a mark, once, and with no more
        blocks than a transaction has room for.
        """
        begun = self._begin_release(ids[:_MOST_DONATED])
        if not begun:
            return 0
        wanted = Mark.read(mark.key, mark.value)
        value = BlockEntry(needy, wanted.epoch, self.share.store.clock(), wanted.number).pack()
        conditions = [Compare(mark.key, "mod_revision", mark.mod_revision)]
        operations: list[Put | Delete] = [Delete(mark.key)]
        for block in begun:
            key = self.keys.block(block.family, block.base)
            conditions.append(Compare(key, "mod_revision", block.revision))
            operations.append(Put(key, value))
            operations.append(Put(self.keys.owned(needy, block.family, block.base), value))
            operations.append(Delete(self.keys.owned(self.name, block.family, block.base)))
        given = [(block.family, block.base) for block in begun]
        try:
            outcome = self.engine.transact(conditions, operations, deadline_s=deadline.call_s())
        except EngineTimeout as error:
            if error.ambiguous:
                # It may still be made: these blocks are not this node's any more, or become free.
                for block in begun:
                    self._finish_release(block, deadline)
                return 0
            self.share.activate(given, RELEASING)
            raise
        self.step("donated")
        if not outcome.succeeded:
            self.share.activate(given, RELEASING)
            return 0
        self.share.forget(given, RELEASING)
        self.step("forgotten")
        self.counts.donated += len(given)
        return len(given)

    # In need --------------------------------------------------------------------------------

    def write_mark(self, family: int, count: int, session: int, deadline: Deadline) -> None:
        """Ask the other nodes for blocks. The mark ends with the session, or when one answers."""
        number = int.from_bytes(os.urandom(6), "big") | 1
        member = self.share.set_mark(number)
        mark = Mark(number, count, member.epoch, family)
        outcome = self.engine.transact(
            [Compare(self.keys.node(self.name), "mod_revision", member.revision)],
            [Put(self.keys.mark(self.name), mark.pack(), session)],
            deadline_s=deadline.call_s(),
        )
        if not outcome.succeeded:
            self.share.forget_registration()
            raise ClusterRefused(f"node {self.name} was removed meanwhile")
        self.step("marked")

    def delete_mark(self, deadline: Deadline) -> None:
        """Withdraw the mark: this node needs no blocks any more."""
        self.engine.transact([], [Delete(self.keys.mark(self.name))], deadline_s=deadline.call_s())

    def collect(self, deadline: Deadline) -> list[BlockId]:
        """Activate what donors have handed to this node since it wrote its mark. One read."""
        member = self.share.member()
        if member is None or not member.mark:
            return []
        taken = self.share.add_granted(member, self._owned(deadline))
        self.counts.granted += len(taken)
        if taken:
            self.step("collected")
        return taken


def _numbers(pool: Geometry, listed: Sequence[KeyValue]) -> frozenset[int]:
    """Return the numbers of the blocks whose keys are listed, as far as they are the pool's."""
    found = (pool.number(schema.read_block_key(one.key)[1]) for one in listed)
    return frozenset(one for one in found if one is not None)
