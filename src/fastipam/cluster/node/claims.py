"""How a block gets from the shared store into this node's own, and back, whatever dies meanwhile.

Two stores that cannot change in one transaction: the shared one says who owns a block, the local
one (``fastipam.allocation.blocks``) whether addresses are assigned from it. The rules that make it
safe:

1. The local store says ``active`` only after the shared one has answered that the block is this
   node's, and says ``releasing`` before the shared one is asked to give it to somebody else.
2. A change of the shared store names the revision that it was based on. One that is delayed,
   arrives after somebody has moved on, and changes nothing.
3. An answer that did not come is not guessed: it is read again, or the block waits in its state.
   ``releasing`` goes back to ``active`` only when the shared store has said no.
4. One process of a node at a time works on claims: it holds ``cluster.lock`` beside the store,
   which the kernel gives back when the process dies. Whoever holds it may finish what it finds
   begun.

The protocol is in layers, each a module: ``localnode`` (this node's own records), ``releasing``,
``joining``, and here claims and marks.

Every step that changes something is followed by ``self.step(name)``: tests kill the process there.
"""

from __future__ import annotations

import os

from fastipam.addressing.addresses import BITS
from fastipam.allocation import blocks
from fastipam.cluster import schema
from fastipam.cluster.engine import Compare, Delete, EngineError, EngineTimeout, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node.joining import JoiningNode
from fastipam.cluster.planner import Look, Search
from fastipam.cluster.schema import BlockEntry, Want
from fastipam.storage.records.block import ACTIVE, Block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import Outcome
    from fastipam.cluster.node.localnode import Pair
    from fastipam.cluster.planner import Geometry
    from fastipam.storage.records.block import Member


class Node(JoiningNode):
    """This node's side of the protocol. Call its methods only while :class:`NodeLock` is held.

    ``network`` is the cluster's network in the local store, ``settings`` what the node was told.
    Raises EngineError, ClusterRefused, StoreError; what was begun is finished by :meth:`join`.
    """

    # Claiming -------------------------------------------------------------------------------

    def claim(self, pool: Geometry, run: int, deadline: Deadline) -> list[Pair]:
        """Claim an aligned run of up to ``run`` blocks; empty: the pool is used up.

        One transaction when nobody was faster. Raises NoBlock: not in time, or others always were.
        """
        member = self.member()
        if member is None or not member.revision:
            self.join(deadline)
            member = self.member()
            assert member is not None
        owned = self._owned_numbers(pool)
        search = Search(pool, self.name, owned, run)
        while search.step is not None:
            if isinstance(search.step, Look):
                self.counts.looks += 1
                search.looked(self._look(pool, search.step.blocks, deadline) | owned)
                continue
            numbers = search.step.blocks
            taken = self._try(pool, numbers, member, deadline)
            if taken is None:
                search.claimed()
                return [(pool.family, pool.address(one)) for one in numbers]
            self.counts.conflicts += 1
            search.conflict(taken)
        if search.exhausted:
            return []
        raise NoBlock("every block that was tried was claimed by somebody else meanwhile")

    def _owned_numbers(self, pool: Geometry) -> frozenset[int]:
        numbers = (pool.number(each.base) for each in self.local() if each.family == pool.family)
        return frozenset(one for one in numbers if one is not None)

    def _look(self, pool: Geometry, numbers: range, deadline: Deadline) -> frozenset[int]:
        """Those of the blocks that somebody owns. One read."""
        shared_bits = BITS[pool.family] - pool.host_bits - (len(numbers).bit_length() - 1)
        prefix = self.keys.blocks_of(pool.family, pool.address(numbers.start), shared_bits)
        listed, _ = self.engine.list(prefix, deadline_s=deadline.call_s())
        found = (pool.number(schema.read_block_key(one.key)[1]) for one in listed)
        return frozenset(one for one in found if one is not None)

    def _try(
        self, pool: Geometry, numbers: range, member: Member, deadline: Deadline
    ) -> list[int] | None:
        """One claim; None: these blocks are this node's. Else those that others have."""
        now_ns = self.store.clock()
        entry = BlockEntry(self.name, member.epoch, now_ns)
        pairs = [(pool.family, pool.address(one)) for one in numbers]
        self._write_intents(pairs, member.epoch, now_ns)
        self.step("intent")
        key = self.keys.node(self.name)
        conditions = [Compare(key, "mod_revision", member.revision)]
        conditions += [Compare(self.keys.block(*pair), "absent") for pair in pairs]
        value = entry.pack()
        operations = [Put(self.keys.block(*pair), value) for pair in pairs]
        operations += [Put(self.keys.owned(self.name, *pair), value) for pair in pairs]
        outcome = self._ask_until_known(conditions, operations, pairs, deadline)
        self.step("claimed")
        ours = outcome.succeeded or self._is_ours(outcome, value, len(pairs))
        if ours:
            revision = outcome.revision if outcome.succeeded else outcome.existing[-1].mod_revision
            self._activate_claimed(pairs, revision)
            self.counts.claimed += len(pairs)
            return None
        self._drop_intents(pairs)
        node = next((one for one in outcome.existing if one.key == key), None)
        if node is None or node.mod_revision != member.revision:
            self.forget_registration()
            raise ClusterRefused(
                f"the entry of node {self.name} was changed: this node was removed meanwhile, "
                "or another one has its name"
            )
        held = (
            pool.number(schema.read_block_key(one.key)[1])
            for one in outcome.existing
            if one.key != key
        )
        return [one for one in held if one is not None]

    def _ask_until_known(
        self,
        conditions: Sequence[Compare],
        operations: Sequence[Put | Delete],
        pairs: Sequence[Pair],
        deadline: Deadline,
    ) -> Outcome:
        """The answer to a claim. Without one, the intents stay for as long as it may be made."""
        uncertain = False
        while True:
            self.counts.transactions += 1
            try:
                return self.engine.transact(conditions, operations, deadline_s=deadline.call_s())
            except EngineTimeout as error:
                if error.ambiguous:
                    # Ask the same again. If it was made, that one fails, and shows our own value.
                    uncertain = True
                    continue
                if not uncertain:
                    self._drop_intents(pairs)
                raise
            except (EngineError, NoBlock):
                if not uncertain:
                    self._drop_intents(pairs)
                raise

    @staticmethod
    def _is_ours(outcome: Outcome, value: bytes, count: int) -> bool:
        """Whether all that exists is what this very claim has written."""
        return sum(one.value == value for one in outcome.existing) == count

    # In need --------------------------------------------------------------------------------

    def raise_mark(self, family: int, count: int, session: int, deadline: Deadline) -> Want:
        """Ask the other nodes for blocks. The mark ends with the session, or when one answers."""
        number = int.from_bytes(os.urandom(6), "big") | 1
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            member = blocks.get_member(txn, network_id)
            if member is None or not member.revision:
                raise NoBlock("this node is not registered in its cluster")
            member.mark = number
            blocks.put_member(txn, network_id, member)
        want = Want(number, count, member.epoch, family)
        outcome = self.engine.transact(
            [Compare(self.keys.node(self.name), "mod_revision", member.revision)],
            [Put(self.keys.want(self.name), want.pack(), session)],
            deadline_s=deadline.call_s(),
        )
        if not outcome.succeeded:
            self.forget_registration()
            raise ClusterRefused(f"node {self.name} was removed meanwhile")
        self.step("marked")
        return want

    def lower_mark(self, deadline: Deadline) -> None:
        """Nothing is needed any more."""
        self.engine.transact([], [Delete(self.keys.want(self.name))], deadline_s=deadline.call_s())

    def collect(self, deadline: Deadline) -> list[Pair]:
        """What others have handed to this node since it raised its mark. One read."""
        member = self.member()
        if member is None or not member.mark:
            return []
        listed, _ = self.engine.list(self.keys.owned_by(self.name), deadline_s=deadline.call_s())
        taken = []
        with self.store.write() as txn:
            ledger = self._enter(txn)
            network_id = ledger.state.network_id
            for one in listed:
                family, base = schema.read_block_key(one.key)
                entry = BlockEntry.read(one.key, one.value)
                known = blocks.get(txn, network_id, family, base)
                if known is None and entry.grant == member.mark:
                    block = Block(
                        family, base, ACTIVE, entry.claimed_ns, member.epoch, one.mod_revision
                    )
                    self._activate(txn, ledger, block)
                    taken.append((family, base))
        self.counts.granted += len(taken)
        if taken:
            self.step("collected")
        return taken
