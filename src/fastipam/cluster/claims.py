"""How a block gets from the shared store into this node's own, and back, whatever dies meanwhile.

Two stores that cannot change in one transaction: the shared one says who owns a block, the local
one (``fastipam.blocks``) whether addresses are assigned from it. The rules that make it safe:

1. The local store says ``active`` only after the shared one has answered that the block is this
   node's, and says ``releasing`` before the shared one is asked to give it to somebody else.
2. A change of the shared store names the revision that it was based on. One that is delayed,
   arrives after somebody has moved on, and changes nothing.
3. An answer that did not come is not guessed: it is read again, or the block waits in its state.
   ``releasing`` goes back to ``active`` only when the shared store has said no.
4. One process of a node at a time works on claims: it holds ``cluster.lock`` beside the store,
   which the kernel gives back when the process dies. Whoever holds it may finish what it finds
   begun.

Every step that changes something is followed by ``self.step(name)``: tests kill the process there.
"""

from __future__ import annotations

import fcntl
import os
import time

from fastipam import blocks
from fastipam.addresses import BITS, format_cidr
from fastipam.blocks import ACTIVE, CLAIMING, FOUND, LOST, RELEASING, Block, Member
from fastipam.cluster import layout
from fastipam.cluster.engine import Compare, Delete, EngineError, EngineTimeout, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.layout import BlockEntry, NodeEntry, Want
from fastipam.cluster.planner import Look, Search

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.engine import Engine, KeyValue, Outcome
    from fastipam.cluster.planner import Geometry
    from fastipam.cluster.settings import Settings
    from fastipam.ledger import Ledger
    from fastipam.network import Network
    from fastipam.ranges import RangeSet
    from fastipam.store import Store
    from fastipam.transaction import Transaction

    Pair = tuple[int, int]  # family, first address of a block

# One call of the shared store: a leader's death stalls writes for 1.3 to 1.7 s (measured).
CALL_S = 2.5


class Deadline:
    """A moment that all calls of one operation share."""

    __slots__ = ("_at", "_clock")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    def left_s(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        return max(0.0, self._at - self._clock())

    def call_s(self) -> float:
        """Seconds for one call of the shared store. Raises NoBlock when nothing is left."""
        left = self.left_s()
        if left <= 0:
            raise NoBlock("the shared store did not answer in time")
        return min(left, CALL_S)


def _nothing(_: str) -> None:
    """Where no failpoint is."""


class Counts:
    """What a node has asked of the shared store for its claims, since it was made."""

    __slots__ = ("claimed", "conflicts", "donated", "granted", "looks", "released", "transactions")

    def __init__(self) -> None:
        self.claimed = self.conflicts = self.donated = self.granted = 0
        self.looks = self.released = self.transactions = 0


class Node:
    """This node's side of the protocol. Call its methods only while :class:`NodeLock` is held.

    ``network`` is the cluster's network in the local store, ``settings`` what the node was told.
    Raises EngineError, ClusterRefused, StoreError; what was begun is finished by :meth:`join`.
    """

    def __init__(
        self,
        store: Store,
        network: Network,
        settings: Settings,
        engine: Engine,
        *,
        step: Callable[[str], None] = _nothing,
    ) -> None:
        self.store = store
        self.network = network
        self.settings = settings
        self.engine = engine
        self.keys = layout.Keys(settings.prefix, network.name)
        self.name = settings.node
        self.step = step
        self.counts = Counts()
        self.session = 0

    # The local store ------------------------------------------------------------------------

    def _enter(self, txn: Transaction) -> Ledger:
        return self.network.enter(txn)

    def _range_set(self, family: int) -> RangeSet:
        return next(each for each in self.settings.pool.sets if each.family == family)

    def member(self) -> Member | None:
        """Who this node is, as the local store remembers it."""
        with self.store.read() as txn:
            network_id = self.network.id_in(txn)
            return None if network_id is None else blocks.get_member(txn, self.store, network_id)

    def local(self) -> list[Block]:
        """The records of all blocks."""
        with self.store.read() as txn:
            network_id = self.network.id_in(txn)
            return [] if network_id is None else blocks.read_all(txn, self.store, network_id)

    def has_begun(self) -> bool:
        """Whether a claim or a release was begun and not finished: :meth:`join` finishes it."""
        return any(each.state in (CLAIMING, RELEASING) for each in self.local())

    def _activate(self, txn: Transaction, ledger: Ledger, block: Block) -> None:
        """From now on addresses are assigned from it."""
        block.state = ACTIVE
        network_id = ledger.state.network_id
        blocks.put(txn, self.store, network_id, block)
        blocks.list_open(txn, self.store, network_id, self._range_set(block.family), block.base)

    def _used(self, txn: Transaction, ledger: Ledger, family: int, base: int) -> int:
        """How many addresses of a block are not free, gateways and exclusions left out."""
        pages = txn.pages(ledger.state.network_id, family)
        return blocks.used_in(pages, self._range_set(family), base)

    # Taking part ----------------------------------------------------------------------------

    def join(self, deadline: Deadline, *, agent: bool = False) -> list[Pair]:
        """Register, and make the local records agree with the shared store's.

        Idempotent: after a crash, a removal or a lost disk it finishes or finds out. Returns the
        blocks that are this node's though its store does not know their addresses (``found``).
        Raises ClusterRefused: other settings, or another live node of this name.
        """
        self._agree(deadline)
        key = self.keys.node(self.name)
        for _ in range(8):
            stored = self.engine.get(key, deadline_s=deadline.call_s())
            member = self.member() or Member(self.name, os.urandom(8).hex(), self.settings.text)
            if member.node != self.name:
                raise ClusterRefused(
                    f"this store belongs to node {member.node}, the configuration says {self.name}",
                    hint=f'set "node": "{member.node}", or release that node and use a new store',
                )
            wanted = self._entry(stored, member, agent=agent, deadline=deadline)
            if stored is not None and stored.value == wanted.pack():
                revision = stored.mod_revision
            else:
                condition = (
                    Compare(key, "absent")
                    if stored is None
                    else Compare(key, "mod_revision", stored.mod_revision)
                )
                conditions = [
                    condition,
                    Compare(self.keys.settings, "value", self.settings.text.encode()),
                ]
                if self._takes_over(stored, member):
                    conditions.append(Compare(self.keys.session(self.name), "absent"))
                try:
                    outcome = self.engine.transact(
                        conditions, [Put(key, wanted.pack())], deadline_s=deadline.call_s()
                    )
                except EngineTimeout:
                    continue  # look again what became of it
                if not outcome.succeeded:
                    continue
                revision = outcome.revision
            self.step("registered")
            return self._reconcile(member, wanted, revision, deadline)
        raise NoBlock(f"the entry of node {self.name} changes faster than it can be read")

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
        addresses = self.settings.addresses or local_addresses(self.settings.endpoints)
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
        self, member: Member, entry: NodeEntry, revision: int, deadline: Deadline
    ) -> list[Pair]:
        """Make the local records say what the shared store says."""
        listed, _ = self.engine.list(self.keys.owned_by(self.name), deadline_s=deadline.call_s())
        remote = {
            layout.read_block_key(one.key): BlockEntry.read(one.key, one.value, one.mod_revision)
            for one in listed
        }
        with self.store.write() as txn:
            ledger = self._enter(txn)
            network_id = ledger.state.network_id
            unknown = dict(remote)
            copied = member.inode not in (0, self.store.identity[1])
            for block in blocks.read_all(txn, self.store, network_id):
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
                    blocks.put(txn, self.store, network_id, block)
            member.epoch = entry.epoch
            member.revision = revision
            member.settings = self.settings.text
            member.inode = self.store.identity[1]
            member.fencing = self.settings.fencing
            blocks.put_member(txn, self.store, network_id, member)
            found = [
                (block.family, block.base)
                for block in blocks.read_all(txn, self.store, network_id)
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
                blocks.put(txn, self.store, network_id, block)
            elif block.state in (CLAIMING, LOST):
                self._activate(txn, ledger, block)
            else:
                blocks.put(txn, self.store, network_id, block)
        elif block.state == CLAIMING or not self._used(txn, ledger, block.family, block.base):
            blocks.delete(txn, self.store, network_id, block.family, block.base)
        else:
            block.state = LOST
            blocks.put(txn, self.store, network_id, block)

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
                block = blocks.get(txn, self.store, ledger.state.network_id, family, base)
                if block is not None and block.state == FOUND:
                    self._activate(txn, ledger, block)
        self.step("found confirmed")

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
        found = (pool.number(layout.read_block_key(one.key)[1]) for one in listed)
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
            pool.number(layout.read_block_key(one.key)[1])
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

    def _write_intents(self, pairs: Sequence[Pair], epoch: int, now_ns: int) -> None:
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            for family, base in pairs:
                block = Block(family, base, CLAIMING, now_ns, epoch)
                blocks.put(txn, self.store, network_id, block)

    def _drop_intents(self, pairs: Sequence[Pair]) -> None:
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            for family, base in pairs:
                block = blocks.get(txn, self.store, network_id, family, base)
                if block is not None and block.state == CLAIMING:
                    blocks.delete(txn, self.store, network_id, family, base)

    def _activate_claimed(self, pairs: Sequence[Pair], revision: int) -> None:
        with self.store.write() as txn:
            ledger = self._enter(txn)
            for family, base in pairs:
                block = blocks.get(txn, self.store, ledger.state.network_id, family, base)
                if block is not None and block.state == CLAIMING:
                    block.revision = revision
                    self._activate(txn, ledger, block)
        self.step("active")

    def forget_registration(self) -> None:
        """What this node knows of its place in the cluster is out of date: assign nothing more."""
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            member = blocks.get_member(txn, self.store, network_id)
            if member is not None:
                member.revision = 0
                blocks.put_member(txn, self.store, network_id, member)

    # Giving back ----------------------------------------------------------------------------

    def _begin_release(self, pairs: Sequence[Pair]) -> list[Block]:
        """Those of the blocks that are active and wholly free: nothing is assigned from them now.

        Wholly free in one transaction with the change of state: an ADD comes before or after it.
        """
        begun = []
        with self.store.write() as txn:
            ledger = self._enter(txn)
            network_id = ledger.state.network_id
            for family, base in pairs:
                block = blocks.get(txn, self.store, network_id, family, base)
                if block is None or block.state != ACTIVE:
                    continue
                if self._used(txn, ledger, family, base):
                    continue
                block.state = RELEASING
                blocks.put(txn, self.store, network_id, block)
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
            found = blocks.get(txn, self.store, network_id, block.family, block.base)
            if found is not None and found.state == RELEASING:
                blocks.delete(txn, self.store, network_id, block.family, block.base)
        self.step("forgotten")

    # In need --------------------------------------------------------------------------------

    def raise_mark(self, family: int, count: int, session: int, deadline: Deadline) -> Want:
        """Ask the other nodes for blocks. The mark ends with the session, or when one answers."""
        number = int.from_bytes(os.urandom(6), "big") | 1
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            member = blocks.get_member(txn, self.store, network_id)
            if member is None or not member.revision:
                raise NoBlock("this node is not registered in its cluster")
            member.mark = number
            blocks.put_member(txn, self.store, network_id, member)
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
                family, base = layout.read_block_key(one.key)
                entry = BlockEntry.read(one.key, one.value)
                known = blocks.get(txn, self.store, network_id, family, base)
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

    def donate(self, needy: str, mark: KeyValue, pairs: Sequence[Pair], deadline: Deadline) -> int:
        """Hand wholly free blocks to a node that asked for them; returns how many it got.

        Blocks and mark change in one transaction: a mark is answered once, by one node.
        """
        begun = self._begin_release(pairs)
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
                blocks.delete(txn, self.store, network_id, block.family, block.base)
        self.step("forgotten")
        self.counts.donated += len(begun)
        return len(begun)

    def _resume(self, begun: Sequence[Block]) -> None:
        """The shared store has said no: the blocks are this node's as before."""
        with self.store.write() as txn:
            ledger = self._enter(txn)
            for block in begun:
                found = blocks.get(
                    txn, self.store, ledger.state.network_id, block.family, block.base
                )
                if found is not None and found.state == RELEASING:
                    self._activate(txn, ledger, found)

    # Proof ----------------------------------------------------------------------------------

    def reindex(self) -> None:
        """Bring blocks back that the list of those with free addresses has forgotten. O(blocks)."""
        with self.store.write() as txn:
            ledger = self._enter(txn)
            for index, each in enumerate(self.settings.pool.sets):
                cursor = ledger.state.cursor(index, each.family)
                blocks.reindex(txn, self.store, ledger.state.network_id, each, cursor)

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

    def prove_until(self, until_ns: int) -> None:
        """Ownership is certain until then: nobody may take a block of a live session before."""
        with self.store.write() as txn:
            blocks.prove(txn, self.store, self._enter(txn).state.network_id, until_ns)


def local_addresses(endpoints: Sequence[str]) -> tuple[str, ...]:
    """The address from which this machine reaches the first endpoint; nothing is sent.

    Empty when it is a loopback one, or there is no route: nobody could be told to use it.
    """
    import socket

    host, _, port = endpoints[0].partition("://")[2].rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)
            found = str(probe.getsockname()[0]).partition("%")[0]
    except (OSError, ValueError):
        return ()
    return () if found == "::1" or found.startswith("127.") else (found,)


class NodeLock:
    """The right of one process (and one thread of it) to work on this node's claims.

    A lock of the kernel's on a file beside the store: it goes with the process that holds it.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, store: Store) -> None:
        self._path = os.path.join(store.path, "cluster.lock")
        self._descriptor = -1

    def try_take(self) -> bool:
        """Take it if nobody has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def give(self) -> None:
        """Let the next one have it."""
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> None:
        while not self.try_take():
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.give()


def block_text(family: int, base: int, block_length: int) -> str:
    """A block as CIDR."""
    return format_cidr(family, base, block_length)
