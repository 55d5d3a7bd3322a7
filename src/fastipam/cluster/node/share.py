"""A node's blocks of a cluster: their records in the local store, and their changes."""

from __future__ import annotations

from fastipam.allocation import blocks, cooldown
from fastipam.allocation.lookup import read_record
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.configuration import address_pools
from fastipam.configuration.cluster import ETCD, KUBERNETES
from fastipam.network import Network, room
from fastipam.storage.records.block import (
    ACTIVE,
    CLAIMING,
    COPIED,
    FOUND,
    LOST,
    NO_FILE,
    RELEASING,
    RESTORED,
    Block,
    Founding,
    Heard,
    Member,
)
from fastipam.storage.records.keys import encode
from fastipam.storage.records.lease import ASSIGNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fastipam.addressing.ranges import RangeSet
    from fastipam.allocation.ledger import Ledger
    from fastipam.cluster.schema import BlockEntry, BlockId
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.pool_lines import Lines
    from fastipam.lease import Requester
    from fastipam.storage.records.lease import Record
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Transaction

_NOT_REGISTERED = "this node is not registered in its cluster"


class Share:
    """This node's identity, and the state of each of its blocks, in its own store.

    ``network`` is the cluster's network in the local store, ``settings`` are the node's settings.
    ``gone`` has the pools that are no longer in force but of which this node still has blocks.
    ``left_out`` has the pools in force that cannot be used together with pools of ``gone``. Each
    method is one transaction. Raises StoreError.
    """

    __slots__ = ("gone", "left_out", "network", "settings", "store")

    def __init__(self, store: Store, network: Network, settings: Settings) -> None:
        self.store = store
        self.network = network
        self.settings = settings
        self.gone: tuple[AddressPool, ...] = ()
        self.left_out: tuple[AddressPool, ...] = ()

    def adopt_pools(self, pools: Sequence[AddressPool]) -> bool:
        """Use these pools from now on; return whether they differ from those before.

        They are written to the founding record, with the engine and the node's name: plugins read
        it. A pool that is not in force any more stays, disabled, while this node has blocks of it.
        A pool in force that overlaps it is used as before, or left out if it is new.

        Raises ConfigError, and changes nothing, for pools that cannot be used together.
        """
        member = self.member()
        if member is not None and member.epoch and member.node != self.settings.node:
            return False  # the node has another name now, and is refused when it registers
        noted, mine = self._noted()
        gone = address_pools.gone(noted, mine, pools)
        used = address_pools.beside(gone, noted, pools)
        settings = self.settings.with_pools([*gone, *used])
        self.gone, self.left_out = tuple(gone), tuple(one for one in pools if one not in used)
        network = Network(self.store, self.network.name, settings.pool, remember=False)
        founding = Founding(settings.engine, settings.node, address_pools.pack(settings.pools))
        with self.store.write() as txn:
            pool_id = network._pool_in(txn)
            there = None if pool_id is None else blocks.get_founding(txn, pool_id)
            if there is not None and there.pack() == founding.pack():
                if self.settings.pools == settings.pools:
                    return False
            elif settings.pool.sets:
                self._require_engine(txn, pool_id, there, founding)
                ledger = network._enter(txn)
                ledger.adopt_pool(encode("network", network.name), settings.pool)
                blocks.put_founding(txn, ledger.state.pool_id, founding)
        self.settings, self.network = settings, network
        return True

    def prefixes(self) -> list[tuple[int, int, int]]:
        """Return (family, first address, length) of each pool, disabled ones too.

        Until the pools in force are known, these are the pools of the founding record.
        """
        pools = self.settings.pools
        if not self.settings.is_founded_by_agent:
            return self.settings.prefixes
        ranges = [one.range for one in pools or self._noted()[0]]
        return [(one.family, one.network, one.length) for one in ranges]

    def _noted(self) -> tuple[list[AddressPool], list[BlockId]]:
        """Return the pools of the founding record, and this node's blocks."""
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            founding = None if pool_id is None else blocks.get_founding(txn, pool_id)
            mine = [] if pool_id is None else blocks.read_all(txn, pool_id)
        noted = [] if founding is None else address_pools.read(founding.pools)
        return noted, [(one.family, one.base) for one in mine]

    @staticmethod
    def _require_engine(
        txn: Transaction, pool_id: int | None, there: Founding | None, wanted: Founding
    ) -> None:
        """Raise ClusterRefused when the blocks of this store come from another shared store."""
        member = None if pool_id is None else blocks.get_member(txn, pool_id)
        before = there.engine if there is not None else ETCD if member and member.epoch else ""
        if before not in ("", wanted.engine):
            raise _of_another_engine(before, wanted.engine)

    def require_engine(self) -> None:
        """Raise ClusterRefused when the founding record names another engine. One read."""
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            there = None if pool_id is None else blocks.get_founding(txn, pool_id)
        if there is not None and there.engine != self.settings.engine:
            raise _of_another_engine(there.engine, self.settings.engine)

    # Reading --------------------------------------------------------------------------------

    def member(self) -> Member | None:
        """Return this node's identity in its cluster, or None before it first registers."""
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            return None if pool_id is None else blocks.get_member(txn, pool_id)

    def blocks(self) -> list[Block]:
        """Return the records of all blocks, in address order. O(blocks)."""
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            return [] if pool_id is None else blocks.read_all(txn, pool_id)

    def has_begun(self) -> bool:
        """Return whether a claim or a release was started and not finished. O(blocks)."""
        return any(each.state in (CLAIMING, RELEASING) for each in self.blocks())

    def doubt(self) -> str:
        """Return why this node may not assign addresses from its blocks, or ""."""
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            return _NOT_REGISTERED if pool_id is None else blocks.doubt(txn, pool_id)

    def lacking(self, lines: Lines | None = None) -> list[int]:
        """Return the families of ``lines`` without a free address in this node's blocks.

        The default is the lines of a pod that chooses no pool. Returns all families when the node
        may not assign addresses. O(groups), except for blocks that just filled.
        """
        if lines is None:
            lines = self.settings.lines
        indexes = {each.family: index for index, each in enumerate(self.settings.pool.sets)}
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            if pool_id is None or blocks.doubt(txn, pool_id):
                return [family for family, _ in lines]
            return [
                family
                for family, groups in lines
                if not any(
                    room.can_serve(
                        self.network,
                        txn,
                        indexes[family],
                        self.settings.set_of_group(family, group),
                    )
                    for group in groups
                )
            ]

    # This node ------------------------------------------------------------------------------

    def put_member(self, member: Member) -> None:
        """Store this node's identity."""
        with self.store.write() as txn:
            blocks.put_member(txn, self._pool_id(txn), member)

    def forget_registration(self) -> None:
        """Assign nothing until the node has registered again: its entry was changed."""
        with self.store.write() as txn:
            pool_id = self._pool_id(txn)
            member = blocks.get_member(txn, pool_id)
            if member is not None:
                member.revision = 0
                blocks.put_member(txn, pool_id, member)

    def is_copy(self, member: Member, machine: str) -> bool:
        """Return whether the store was copied since the node's incarnation was chosen for it.

        ``machine`` is this machine's id, or "" if it is not known. Within a boot, a store that is
        another file than before is a copy. After a boot the file proves nothing, so the machine's
        id decides.
        """
        if member.file == RESTORED:
            return True
        if member.boot == self.store.boot:
            return member.file not in (NO_FILE, COPIED, blocks.file_of(self.store))
        return bool(machine and member.machine) and machine != member.machine

    def set_mark(self, number: int) -> Member:
        """Store the number of the mark that this node is about to write; return the identity.

        Raises NoBlock when the node is not registered.
        """
        with self.store.write() as txn:
            pool_id = self._pool_id(txn)
            member = blocks.get_member(txn, pool_id)
            if member is None or not member.revision:
                raise NoBlock(_NOT_REGISTERED)
            member.mark = number
            blocks.put_member(txn, pool_id, member)
        return member

    def prove_until(self, until_ns: int) -> None:
        """Record until when ownership is proven: until then no other node takes these blocks."""
        with self.store.write() as txn:
            blocks.prove(txn, self._pool_id(txn), until_ns)

    # The shared store -----------------------------------------------------------------------

    def heard(self) -> Heard:
        """Return the last known state of the shared store."""
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            return Heard() if pool_id is None else blocks.get_heard(txn, pool_id)

    def note_heard(self, identity: int, revision: int) -> None:
        """Store the identity and revision of the shared store; write nothing if both are known."""
        heard = self.heard()
        if (heard.identity, heard.revision) != (identity, revision):
            heard.identity, heard.revision = identity, revision
            with self.store.write() as txn:
                blocks.put_heard(txn, self._pool_id(txn), heard)

    def note_era(self, era: str) -> None:
        """Store the era: the value of the shared store's key ``history``."""
        with self.store.write() as txn:
            pool_id = self._pool_id(txn)
            heard = blocks.get_heard(txn, pool_id)
            heard.era = era
            blocks.put_heard(txn, pool_id, heard)

    # Blocks ---------------------------------------------------------------------------------

    def begin_claim(self, ids: Iterable[BlockId], epoch: int, claimed_ns: int) -> None:
        """Record the intent to claim these blocks, before the shared store is asked."""
        with self.store.write() as txn:
            pool_id = self._pool_id(txn)
            for family, base in ids:
                blocks.put(txn, pool_id, Block(family, base, CLAIMING, claimed_ns, epoch))

    def begin_release(self, ids: Iterable[BlockId], *, named: bool = False) -> list[Block]:
        """Mark the blocks that are active and wholly free as releasing; return them.

        No address is assigned from them any more. The check and the change are one transaction:
        an ADD comes before or after it. ``named``: another node wants these very blocks. Then the
        cool-down of an address that is a block of its own ends.
        """
        begun = []
        has_changed = False
        with self.store.write() as txn:
            ledger = self.network._enter(txn)
            pool_id = ledger.state.pool_id
            for family, base in ids:
                block = blocks.get(txn, pool_id, family, base)
                if block is None or block.state != ACTIVE:
                    continue
                if named and not blocks.host_bits(self._range_set(family), base):
                    has_changed |= cooldown.end(ledger, family, base)
                if self._used(txn, ledger, block):
                    continue
                block.state = RELEASING
                blocks.put(txn, pool_id, block)
                begun.append(block)
            if has_changed:
                ledger.save()
        return begun

    def spare(self, ids: Iterable[BlockId]) -> list[BlockId]:
        """Return the active blocks whose first address no pod has."""
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            if pool_id is None:
                return []
            found = []
            for family, base in ids:
                record = read_record(txn, pool_id, family, base)
                is_active = blocks.is_active(txn, pool_id, family, base)
                if is_active and (record is None or record.state != ASSIGNED):
                    found.append((family, base))
            return found

    def activate(self, revisions: Mapping[BlockId, int], state: int) -> None:
        """Activate the blocks that are in ``state``: their addresses can be assigned from now on.

        ``revisions`` has the revision of each block in the shared store, or 0 if it is unchanged.
        """
        with self.store.write() as txn:
            ledger = self.network._enter(txn)
            for (family, base), revision in revisions.items():
                block = blocks.get(txn, ledger.state.pool_id, family, base)
                if block is not None and block.state == state:
                    block.revision = revision or block.revision
                    self._activate(txn, ledger, block)
            if newest := max(revisions.values(), default=0):
                self._hear(txn, ledger, newest)

    def forget(self, ids: Iterable[BlockId], state: int) -> None:
        """Delete the records of the blocks that are in ``state``."""
        with self.store.write() as txn:
            pool_id = self._pool_id(txn)
            for family, base in ids:
                block = blocks.get(txn, pool_id, family, base)
                if block is not None and block.state == state:
                    blocks.delete(txn, pool_id, family, base)

    def add_granted(self, member: Member, owned: Mapping[BlockId, BlockEntry]) -> list[BlockId]:
        """Activate the blocks that a donor granted to this node's last mark; return them.

        ``owned`` has the blocks that the shared store lists for this node.
        """
        added = []
        with self.store.write() as txn:
            ledger = self.network._enter(txn)
            for (family, base), theirs in owned.items():
                if theirs.grant != member.mark:
                    continue
                if blocks.get(txn, ledger.state.pool_id, family, base) is None:
                    self._activate(txn, ledger, _block(family, base, theirs, member.epoch))
                    added.append((family, base))
        return added

    def reconcile(
        self,
        member: Member,
        owned: Mapping[BlockId, BlockEntry],
        machine: str = "",
        heard: Heard | None = None,
        *,
        restored: bool = False,
    ) -> tuple[list[BlockId], int]:
        """Make the records agree with ``owned``, the shared store's list of this node's blocks.

        ``member`` has its new epoch and revision, ``machine`` is this machine's id. Returns the
        found blocks (this node's, but this store does not know which of their addresses are in
        use), and how many granted blocks were activated.

        ``heard`` is stored in the same transaction. ``restored``: the shared store has lost
        changes, so the local store is right. A block that only the shared store lists is released,
        unless an address of it is in use: this node gave it up after the restored state, and
        another node may own it now.
        """
        unknown = dict(owned)
        granted = 0
        # An older copy of the store does not know which addresses are in use now.
        copied = member.file == COPIED
        restored = restored and not copied
        with self.store.write() as txn:
            ledger = self.network._enter(txn)
            pool_id = ledger.state.pool_id
            for block in blocks.read_all(txn, pool_id):
                theirs = unknown.pop((block.family, block.base), None)
                if theirs is None:
                    self._disown(txn, ledger, block, restored)
                    continue
                block.revision = theirs.revision
                if restored and block.state == CLAIMING:
                    block.state = RELEASING
                self._confirm(txn, ledger, block, copied)
            for (family, base), theirs in unknown.items():
                if self.settings.geometry_of(family, base) is None:
                    continue
                block = _block(family, base, theirs, member.epoch)
                if restored and not self._used(txn, ledger, block):
                    block.state = RELEASING
                    blocks.put(txn, pool_id, block)
                elif theirs.grant and theirs.grant == member.mark and not copied:
                    granted += 1
                    self._activate(txn, ledger, block)
                else:
                    blocks.put(txn, pool_id, block)
            member.settings = self.settings.text
            member.file = blocks.file_of(self.store)
            member.boot = self.store.boot
            member.machine = machine or member.machine
            member.fencing = self.settings.fencing
            member.steady = self.settings.engine == KUBERNETES and not self.settings.fencing
            blocks.put_member(txn, pool_id, member)
            if heard is not None:
                blocks.put_heard(txn, pool_id, heard)
            found = [
                (block.family, block.base)
                for block in blocks.read_all(txn, pool_id)
                if block.state == FOUND
            ]
        return found, granted

    def reindex(self) -> bool:
        """Add blocks with free addresses to the open list; return whether any were missing.

        O(blocks). Writes nothing, and waits for no disk, when none was missing.
        """
        sets = list(enumerate(self.settings.pool.sets))
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            if pool_id is None:
                return False
            state = txn.pool_state(pool_id)
            if all(
                blocks.is_indexed(txn, pool_id, each, state.cursor(index, each.family))
                for index, each in sets
            ):
                return False
        with self.store.write() as txn:
            ledger = self.network._enter(txn)
            for index, each in sets:
                cursor = ledger.state.cursor(index, each.family)
                blocks.reindex(txn, ledger.state.pool_id, each, cursor)
        return True

    def adopt_running(self, owner: Requester, family: int, value: int) -> Record | None:
        """Assign an address to the container that runs with it, whichever owner the store names.

        Returns the lease that is replaced, or None. Raises AddressInUse when the store contradicts
        itself.
        """
        from fastipam.allocation import adoption

        with self.store.write() as txn:
            ledger = self.network._enter(txn)
            replaced = adoption.adopt_running(ledger, owner, family, value, self.store.clock())
            ledger.save()
        return replaced

    # Leaving --------------------------------------------------------------------------------

    def begin_leaving(self, *, force: bool) -> bool:
        """Assign nothing from now on, because this node leaves; return False if it is not a member.

        Raises ClusterRefused, and changes nothing, while addresses of its blocks are in use, unless
        ``force``. The check and the change are one transaction: an ADD comes before or after it.
        """
        with self.store.write() as txn:
            pool_id = self.network._pool_in(txn)
            member = None if pool_id is None else blocks.get_member(txn, pool_id)
            if pool_id is None or member is None:
                return False
            used = sum(
                0
                if its_set is None
                else blocks.used_in(txn.pages(pool_id, block.family), its_set, block.base)
                for block, its_set in blocks.walk(txn, pool_id, self.settings.pool.sets)
            )
            if used and not force:
                raise ClusterRefused(
                    f"{used} addresses of this node's blocks are assigned, cooling or reserved",
                    hint=(
                        "remove the node's pods first (`fastipam list` shows them); --force "
                        "releases the blocks anyway, and other nodes may assign those addresses "
                        "again"
                    ),
                )
            member.revision = 0
            blocks.put_member(txn, pool_id, member)
        return True

    def forget_cluster(self) -> int:
        """Delete the records of this node's membership and blocks; return how many blocks.

        The network may have any ranges from then on.
        """
        with self.store.write() as txn:
            pool_id = self.network._pool_in(txn)
            return 0 if pool_id is None else blocks.delete_all(txn, pool_id)

    # Inside a transaction -------------------------------------------------------------------

    def _pool_id(self, txn: Transaction) -> int:
        return self.network._enter(txn).state.pool_id

    def _range_set(self, family: int) -> RangeSet:
        return next(each for each in self.settings.pool.sets if each.family == family)

    def _used(self, txn: Transaction, ledger: Ledger, block: Block) -> int:
        """Return how many addresses of a block are not free, without gateways and exclusions."""
        pages = txn.pages(ledger.state.pool_id, block.family)
        return blocks.used_in(pages, self._range_set(block.family), block.base)

    def _activate(self, txn: Transaction, ledger: Ledger, block: Block) -> None:
        block.state = ACTIVE
        pool_id = ledger.state.pool_id
        blocks.put(txn, pool_id, block)
        blocks.list_open(txn, pool_id, self._range_set(block.family), block.base)

    def _confirm(self, txn: Transaction, ledger: Ledger, block: Block, copied: bool) -> None:
        """Keep a block that the shared store lists for this node."""
        if block.state in (CLAIMING, LOST) and not copied:
            self._activate(txn, ledger, block)
            return
        if copied and block.state != RELEASING:
            block.state = FOUND
        blocks.put(txn, ledger.state.pool_id, block)

    def _hear(self, txn: Transaction, ledger: Ledger, revision: int) -> None:
        heard = blocks.get_heard(txn, ledger.state.pool_id)
        if heard.revision < revision:
            heard.revision = revision
            blocks.put_heard(txn, ledger.state.pool_id, heard)

    def _disown(self, txn: Transaction, ledger: Ledger, block: Block, restored: bool) -> None:
        """Delete the record of a block that the shared store does not list, or mark it as lost.

        A block is lost if addresses of it are in use. With ``restored`` a lost block keeps its
        revision: it was this node's until the shared store lost changes.
        """
        pool_id = ledger.state.pool_id
        if block.state == ACTIVE and not restored:
            block.revision = 0
        if block.state == CLAIMING or not self._used(txn, ledger, block):
            blocks.delete(txn, pool_id, block.family, block.base)
        else:
            block.state = LOST
            blocks.put(txn, pool_id, block)


def _of_another_engine(before: str, wanted: str) -> ClusterRefused:
    return ClusterRefused(
        f"the blocks of this store come from {before}, but the settings say {wanted}",
        hint="a store cannot be switched: drain the node, stop the agent, and run "
        "`fastipam cluster leave` with the earlier settings",
    )


def _block(family: int, base: int, theirs: BlockEntry, epoch: int) -> Block:
    """Return the record of a block that this store did not know."""
    return Block(family, base, FOUND, theirs.claimed_ns, epoch, theirs.revision)
