"""What this node's own store says of its blocks, and how its records are changed."""

from __future__ import annotations

from fastipam.allocation import blocks, openblocks
from fastipam.allocation.ledger import read_state
from fastipam.cluster import schema
from fastipam.storage.records.block import ACTIVE, CLAIMING, RELEASING, Block, Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.addressing.ranges import RangeSet
    from fastipam.allocation.ledger import Ledger
    from fastipam.cluster.engine import Engine
    from fastipam.configuration.cluster import Settings
    from fastipam.network import Network
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Transaction

    Pair = tuple[int, int]  # family, first address of a block


def _nothing(_: str) -> None:
    """Where no failpoint is."""


class Counts:
    """What a node has asked of the shared store for its claims, since it was made."""

    __slots__ = ("claimed", "conflicts", "donated", "granted", "looks", "released", "transactions")

    def __init__(self) -> None:
        self.claimed = self.conflicts = self.donated = self.granted = 0
        self.looks = self.released = self.transactions = 0


class LocalNode:
    """A node as its own store knows it: the ground on which the protocol's parts stand."""

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
        self.keys = schema.Keys(settings.prefix, network.name)
        self.name = settings.node
        self.step = step
        self.counts = Counts()
        self.session = 0

    def _enter(self, txn: Transaction) -> Ledger:
        return self.network.enter(txn)

    def _range_set(self, family: int) -> RangeSet:
        return next(each for each in self.settings.pool.sets if each.family == family)

    def member(self) -> Member | None:
        """Who this node is, as the local store remembers it."""
        with self.store.read() as txn:
            network_id = self.network.id_in(txn)
            return None if network_id is None else blocks.get_member(txn, network_id)

    def local(self) -> list[Block]:
        """The records of all blocks."""
        with self.store.read() as txn:
            network_id = self.network.id_in(txn)
            return [] if network_id is None else blocks.read_all(txn, network_id)

    def has_begun(self) -> bool:
        """Whether a claim or a release was begun and not finished: :meth:`join` finishes it."""
        return any(each.state in (CLAIMING, RELEASING) for each in self.local())

    def _activate(self, txn: Transaction, ledger: Ledger, block: Block) -> None:
        """From now on addresses are assigned from it."""
        block.state = ACTIVE
        network_id = ledger.state.network_id
        blocks.put(txn, network_id, block)
        openblocks.list_open(txn, network_id, self._range_set(block.family), block.base)

    def _used(self, txn: Transaction, ledger: Ledger, family: int, base: int) -> int:
        """How many addresses of a block are not free, gateways and exclusions left out."""
        pages = txn.pages(ledger.state.network_id, family)
        return blocks.used_in(pages, self._range_set(family), base)

    def _write_intents(self, pairs: Sequence[Pair], epoch: int, now_ns: int) -> None:
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            for family, base in pairs:
                block = Block(family, base, CLAIMING, now_ns, epoch)
                blocks.put(txn, network_id, block)

    def _drop_intents(self, pairs: Sequence[Pair]) -> None:
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            for family, base in pairs:
                block = blocks.get(txn, network_id, family, base)
                if block is not None and block.state == CLAIMING:
                    blocks.delete(txn, network_id, family, base)

    def _activate_claimed(self, pairs: Sequence[Pair], revision: int) -> None:
        with self.store.write() as txn:
            ledger = self._enter(txn)
            for family, base in pairs:
                block = blocks.get(txn, ledger.state.network_id, family, base)
                if block is not None and block.state == CLAIMING:
                    block.revision = revision
                    self._activate(txn, ledger, block)
        self.step("active")

    def forget_registration(self) -> None:
        """What this node knows of its place in the cluster is out of date: assign nothing more."""
        with self.store.write() as txn:
            network_id = self._enter(txn).state.network_id
            member = blocks.get_member(txn, network_id)
            if member is not None:
                member.revision = 0
                blocks.put_member(txn, network_id, member)

    def reindex(self) -> None:
        """Bring blocks back that the list of those with free addresses has forgotten. O(blocks).

        Nothing is written, and no disk is waited for, when it has forgotten none.
        """
        sets = list(enumerate(self.settings.pool.sets))
        with self.store.read() as txn:
            network_id = self.network.id_in(txn)
            if network_id is None:
                return
            state = read_state(txn, network_id)
            if all(
                openblocks.is_indexed(txn, network_id, each, state.cursor(index, each.family))
                for index, each in sets
            ):
                return
        with self.store.write() as txn:
            ledger = self._enter(txn)
            for index, each in sets:
                cursor = ledger.state.cursor(index, each.family)
                openblocks.reindex(txn, ledger.state.network_id, each, cursor)

    def prove_until(self, until_ns: int) -> None:
        """Ownership is certain until then: nobody may take a block of a live session before."""
        with self.store.write() as txn:
            blocks.prove(txn, self._enter(txn).state.network_id, until_ns)
