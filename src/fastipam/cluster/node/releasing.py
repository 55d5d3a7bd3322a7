"""How a block that is wholly free leaves this node: given back, or handed to one in need."""

from __future__ import annotations

from fastipam.allocation import blocks
from fastipam.cluster.engine import MAX_OPERATIONS, Compare, Delete, EngineTimeout, Put
from fastipam.cluster.node.localnode import LocalNode
from fastipam.cluster.schema import BlockEntry, Want
from fastipam.storage.records.block import ACTIVE, RELEASING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import KeyValue
    from fastipam.cluster.node.localnode import Pair
    from fastipam.storage.records.block import Block

# In one transaction with the mark: three operations a block, one for the mark.
_MOST_DONATED = (MAX_OPERATIONS - 1) // 3


class ReleasingNode(LocalNode):
    """A node that gives blocks away. ``releasing`` is said before the shared store is asked."""

    def _begin_release(self, pairs: Sequence[Pair]) -> list[Block]:
        """Those of the blocks that are active and wholly free: nothing is assigned from them now.

        Wholly free in one transaction with the change of state: an ADD comes before or after it.
        """
        begun = []
        with self.store.write() as txn:
            ledger = self._enter(txn)
            network_id = ledger.state.network_id
            for family, base in pairs:
                block = blocks.get(txn, network_id, family, base)
                if block is None or block.state != ACTIVE:
                    continue
                if self._used(txn, ledger, family, base):
                    continue
                block.state = RELEASING
                blocks.put(txn, network_id, block)
                begun.append(block)
        self.step("releasing")
        return begun

    def give_back(self, pairs: Sequence[Pair], deadline: Deadline) -> int:
        """Make blocks free for everybody; returns how many. Those that are in use stay."""
        given = 0
        for block in self._begin_release(pairs):
            self._finish_release(block, deadline)
            given += 1
        self.counts.released += given
        return given

    def _finish_release(self, block: Block, deadline: Deadline) -> None:
        """Delete a releasing block's owner, then its record. Asked again until it is known."""
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
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            found = blocks.get(txn, network_id, block.family, block.base)
            if found is not None and found.state == RELEASING:
                blocks.delete(txn, network_id, block.family, block.base)
        self.step("forgotten")

    def donate(self, needy: str, mark: KeyValue, pairs: Sequence[Pair], deadline: Deadline) -> int:
        """Hand wholly free blocks to a node that asked for them; returns how many it got.

        Blocks and mark change in one transaction: a mark is answered once, by one node, and with
        no more blocks than a transaction has room for.
        """
        begun = self._begin_release(pairs[:_MOST_DONATED])
        if not begun:
            return 0
        want = Want.read(mark.key, mark.value)
        entry = BlockEntry(needy, want.epoch, self.store.clock(), want.number)
        conditions = [Compare(mark.key, "mod_revision", mark.mod_revision)]
        operations: list[Put | Delete] = [Delete(mark.key)]
        for block in begun:
            key = self.keys.block(block.family, block.base)
            conditions.append(Compare(key, "mod_revision", block.revision))
            operations.append(Put(key, entry.pack()))
            operations.append(Put(self.keys.owned(needy, block.family, block.base), entry.pack()))
            operations.append(Delete(self.keys.owned(self.name, block.family, block.base)))
        try:
            outcome = self.engine.transact(conditions, operations, deadline_s=deadline.call_s())
        except EngineTimeout as error:
            if error.ambiguous:
                # It may be made yet: these blocks are not this node's any more, or become free.
                for block in begun:
                    self._finish_release(block, deadline)
                return 0
            self._resume(begun)
            raise
        self.step("donated")
        if not outcome.succeeded:
            self._resume(begun)
            return 0
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            for block in begun:
                blocks.delete(txn, network_id, block.family, block.base)
        self.step("forgotten")
        self.counts.donated += len(begun)
        return len(begun)

    def _resume(self, begun: Sequence[Block]) -> None:
        """The shared store has said no: the blocks are this node's as before."""
        with self.store.write() as txn:
            ledger = self._enter(txn)
            for block in begun:
                found = blocks.get(txn, ledger.state.network_id, block.family, block.base)
                if found is not None and found.state == RELEASING:
                    self._activate(txn, ledger, found)
