"""How a node takes part: registered by name, and its records agree with the shared store's."""

from __future__ import annotations

import os

from fastipam.allocation import blocks
from fastipam.cluster import schema
from fastipam.cluster.engine import Compare, EngineTimeout, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node.releasing import ReleasingNode
from fastipam.cluster.schema import BlockEntry, NodeEntry
from fastipam.storage.records.block import CLAIMING, FOUND, LOST, RELEASING, Block, Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.allocation.ledger import Ledger
    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import Delete, KeyValue
    from fastipam.cluster.node.localnode import Pair
    from fastipam.storage.transaction import Transaction

ENTRY_TRIES = 8  # at a node's entry; each is lost to somebody who has changed it meanwhile


class JoiningNode(ReleasingNode):
    """A node that is registered, and finishes what it finds begun."""

    def join(self, deadline: Deadline, *, agent: bool = False, session: int = 0) -> list[Pair]:
        """Register, and make the local records agree with the shared store's.

        A node that nobody has heard of ties its sign of life to ``session`` in the same
        transaction; ``self.session`` says so.
        Idempotent: after a crash, a removal or a lost disk it finishes or finds out. Returns the
        blocks that are this node's though its store does not know their addresses (``found``).
        Raises ClusterRefused: other settings, or another live node of this name.
        """
        member = self._identity()
        if not member.epoch and (
            revision := self._register_first(member, deadline, agent=agent, session=session)
        ):
            entry = self._entry(None, member, agent=agent, deadline=deadline)
            return self._reconcile(member, entry, revision, deadline, is_new=True)
        self._agree(deadline)
        entry, revision = self._register(member, deadline, agent=agent)
        self.step("registered")
        return self._reconcile(member, entry, revision, deadline)

    def _register(
        self, member: Member, deadline: Deadline, *, agent: bool
    ) -> tuple[NodeEntry, int]:
        """Write this node's entry, whatever stands there, if it may; (entry, its revision)."""
        key = self.keys.node(self.name)
        for _ in range(ENTRY_TRIES):
            stored = self.engine.get(key, deadline_s=deadline.call_s())
            entry = self._entry(stored, member, agent=agent, deadline=deadline)
            if stored is not None and stored.value == entry.pack():
                return entry, stored.mod_revision
            conditions = [
                Compare(key, "mod_revision", 0 if stored is None else stored.mod_revision),
                Compare(self.keys.settings, "value", self.settings.text.encode()),
            ]
            if self._takes_over(stored, member):
                conditions.append(Compare(self.keys.session(self.name), "absent"))
            try:
                outcome = self.engine.transact(
                    conditions, [Put(key, entry.pack())], deadline_s=deadline.call_s()
                )
            except EngineTimeout:
                continue  # look again what became of it
            if outcome.succeeded:
                return entry, outcome.revision
        raise NoBlock(f"the entry of node {self.name} changes faster than it can be read")

    def _identity(self) -> Member:
        """Who this node is: written down before anybody is told, so that it knows itself again."""
        member = self.member()
        if member is not None and member.node == self.name:
            return member
        if member is not None and member.epoch:
            raise ClusterRefused(
                f"this store belongs to node {member.node}, the configuration says {self.name}",
                hint=f'set "node": "{member.node}", or release that node and use a new store',
            )
        member = Member(self.name, os.urandom(8).hex(), self.settings.text)
        with self.store.write() as txn:
            blocks.put_member(txn, self._enter(txn).state.network_id, member)
        self.step("named")
        return member

    def _register_first(
        self, member: Member, deadline: Deadline, *, agent: bool, session: int
    ) -> int:
        """Register a node that nobody has heard of, in one transaction; 0: somebody may have.

        Who has no entry owns nothing: nothing is read, which counts when all nodes start at once.
        """
        key = self.keys.node(self.name)
        entry = self._entry(None, member, agent=agent, deadline=deadline)
        conditions = [
            Compare(key, "absent"),
            Compare(self.keys.settings, "value", self.settings.text.encode()),
        ]
        operations: list[Put | Delete] = [Put(key, entry.pack())]
        if session:
            alive = schema.pack(incarnation=member.incarnation)
            operations.append(Put(self.keys.session(self.name), alive, session))
        try:
            outcome = self.engine.transact(conditions, operations, deadline_s=deadline.call_s())
        except EngineTimeout:
            return 0  # it may be made: look
        if not outcome.succeeded:
            return 0
        self.session = session
        self.step("registered")
        return outcome.revision

    def _agree(self, deadline: Deadline) -> None:
        """Raise ClusterRefused unless the cluster's settings are this node's."""
        stored = self.engine.get(self.keys.settings, deadline_s=deadline.call_s())
        if stored is None:
            raise ClusterRefused(
                f"the cluster has no settings for network {self.network.name}",
                hint="run `fastipam cluster init` once, on any node",
            )
        if stored.value != self.settings.text.encode():
            raise ClusterRefused(
                f"the cluster's pools are {stored.value.decode('utf-8', 'replace')!r}, "
                f"this node is configured with {self.settings.text!r}",
                hint="every node has to have the same pools and block size",
            )

    def _takes_over(self, stored: KeyValue | None, member: Member) -> bool:
        if stored is None:
            return False
        entry = NodeEntry.read(stored.key, stored.value)
        return bool(entry.incarnation) and entry.incarnation != member.incarnation

    def _entry(
        self, stored: KeyValue | None, member: Member, *, agent: bool, deadline: Deadline
    ) -> NodeEntry:
        """What this node's entry shall be. Raises ClusterRefused when it is another's."""
        boot = self.store.boot_id()
        addresses = self.settings.addresses or self.engine.local_addresses()
        if stored is None:
            return NodeEntry(member.incarnation, member.epoch + 1, boot, addresses, agent=agent)
        entry = NodeEntry.read(stored.key, stored.value)
        epoch = entry.epoch
        if self._takes_over(stored, member):
            # Its store is gone, or two nodes have one name. In one boot it is one machine, and a
            # node that has kept a session is gone when that is. A plugin that runs directly keeps
            # none, so nobody could find it out.
            alive = self.engine.get(self.keys.session(self.name), deadline_s=deadline.call_s())
            if alive is not None or not agent or not (entry.agent or entry.boot == boot):
                raise ClusterRefused(
                    f"there is another node named {self.name}"
                    + (" and it is alive" if alive is not None else ", or its store was lost"),
                    hint='give this one another name with "node"; or start its agent, which finds '
                    f"out; or, once that node is gone, `fastipam cluster release-node {self.name}`",
                )
            epoch += 1
        return NodeEntry(
            member.incarnation,
            epoch,
            boot,
            addresses or entry.addresses,
            agent=agent or (entry.agent and entry.incarnation == member.incarnation),
        )

    def _reconcile(
        self,
        member: Member,
        entry: NodeEntry,
        revision: int,
        deadline: Deadline,
        *,
        is_new: bool = False,
    ) -> list[Pair]:
        """Make the local records say what the shared store says; of a new node, it says nothing."""
        listed: list[KeyValue] = []
        if not is_new:
            prefix = self.keys.owned_by(self.name)
            listed, _ = self.engine.list(prefix, deadline_s=deadline.call_s())
        remote = {
            schema.read_block_key(one.key): BlockEntry.read(one.key, one.value, one.mod_revision)
            for one in listed
        }
        with self.store.write() as txn:
            ledger = self._enter(txn)
            network_id = ledger.state.network_id
            unknown = dict(remote)
            copied = member.inode not in (0, self.store.identity[1])
            for block in blocks.read_all(txn, network_id):
                theirs = unknown.pop((block.family, block.base), None)
                self._reconcile_one(txn, ledger, block, theirs, copied=copied)
            for (family, base), theirs in unknown.items():
                if self.settings.geometry_of(family, base) is None:
                    continue
                block = Block(family, base, FOUND, theirs.claimed_ns, entry.epoch, theirs.revision)
                if theirs.grant and theirs.grant == member.mark and not copied:
                    self.counts.granted += 1
                    self._activate(txn, ledger, block)
                else:
                    blocks.put(txn, network_id, block)
            member.epoch = entry.epoch
            member.revision = revision
            member.settings = self.settings.text
            member.inode = self.store.identity[1]
            member.fencing = self.settings.fencing
            blocks.put_member(txn, network_id, member)
            found = [
                (block.family, block.base)
                for block in blocks.read_all(txn, network_id)
                if block.state == FOUND
            ]
        self.step("reconciled")
        for block in self.local():
            if block.state == RELEASING:
                self._finish_release(block, deadline)
            elif block.state == LOST:
                self._claim_again(block, member, deadline)
        return found

    def _reconcile_one(
        self,
        txn: Transaction,
        ledger: Ledger,
        block: Block,
        theirs: BlockEntry | None,
        *,
        copied: bool,
    ) -> None:
        """One block of the local store; ``theirs`` is what the shared one says, None: not ours.

        ``copied``: the store is an older copy. What it says of addresses need not be true.
        """
        network_id = ledger.state.network_id
        if theirs is not None:
            block.revision = theirs.revision
            if copied and block.state != RELEASING:
                block.state = FOUND
                blocks.put(txn, network_id, block)
            elif block.state in (CLAIMING, LOST):
                self._activate(txn, ledger, block)
            else:
                blocks.put(txn, network_id, block)
        elif block.state == CLAIMING or not self._used(txn, ledger, block.family, block.base):
            blocks.delete(txn, network_id, block.family, block.base)
        else:
            block.state = LOST
            blocks.put(txn, network_id, block)

    def _claim_again(self, block: Block, member: Member, deadline: Deadline) -> None:
        """A block was taken from this node that has addresses in use: get it back if it is free.

        An operator removed the node while it was away, or the shared store was restored.
        """
        pair = block.family, block.base
        entry = BlockEntry(self.name, member.epoch, block.claimed_ns).pack()
        outcome = self.engine.transact(
            [
                Compare(self.keys.node(self.name), "mod_revision", member.revision),
                Compare(self.keys.block(*pair), "absent"),
            ],
            [
                Put(self.keys.block(*pair), entry),
                Put(self.keys.owned(self.name, *pair), entry),
            ],
            deadline_s=deadline.call_s(),
        )
        if outcome.succeeded:
            with self.store.write() as txn:
                block.revision = outcome.revision
                self._activate(txn, self._enter(txn), block)

    def confirm_found(self, pairs: Sequence[Pair]) -> None:
        """What is in use in these blocks is entered now: assign the rest of them."""
        with self.store.write() as txn:
            ledger = self._enter(txn)
            for family, base in pairs:
                block = blocks.get(txn, ledger.state.network_id, family, base)
                if block is not None and block.state == FOUND:
                    self._activate(txn, ledger, block)
        self.step("found confirmed")

    def is_still_registered(self, deadline: Deadline) -> bool:
        """Whether the node's entry is the one that this node wrote. One read."""
        member = self.member()
        if member is None or not member.revision:
            return False
        stored = self.engine.get(self.keys.node(self.name), deadline_s=deadline.call_s())
        if stored is not None and stored.mod_revision == member.revision:
            return True
        self.forget_registration()
        return False
