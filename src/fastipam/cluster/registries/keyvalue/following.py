"""The owners of all blocks in a key-value store: first all of them, then each change."""

from __future__ import annotations

from fastipam.addressing.addresses import BITS
from fastipam.cluster import schema
from fastipam.cluster.engine import Compacted
from fastipam.cluster.errors import ClusterCorrupt
from fastipam.cluster.planner import backoff_s
from fastipam.cluster.registries.lost_watch import log_lost_watch
from fastipam.cluster.schema import BlockEntry, NodeEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.engine import Engine, KeyEvent
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registry import Layout, Owners
    from fastipam.cluster.schema import BlockId

_LIST_S = 5.0
_WATCH_S = 30.0


class Following:
    """Reports the owners to :class:`Owners`; ``layout`` reads who owns which block."""

    def __init__(
        self,
        share: Share,
        engine: Engine,
        keys: schema.Keys,
        layout: Callable[[float], Layout],
        owners: Owners,
    ) -> None:
        self._share = share
        self._engine = engine
        self._keys = keys
        self._layout = layout
        self._owners = owners
        self._told: set[BlockId] = set()

    def run(self, is_over: Callable[[], bool], sleep: Callable[[float], None]) -> None:
        """Follow until ``is_over``; after a lost watch read all owners again. Raises nothing."""
        failures = revision = 0
        while not is_over():
            try:
                if not revision:
                    revision = self._tell_all()
                events, revision = self._engine.watch(
                    self._keys.prefix, revision, deadline_s=_WATCH_S
                )
                for event in events:
                    self._tell(event)
                failures = 0
            except Compacted:
                revision = 0
            except Exception as error:
                self._owners.lost()
                revision = 0
                failures += 1
                log_lost_watch(self._share.network.name, "watch of the blocks", error)
                if not is_over():
                    sleep(backoff_s(self._share.settings.node, failures))

    def _tell_all(self) -> int:
        """Report all owners as they are now; return the revision to watch from. Two lists."""
        layout = self._layout(_LIST_S)
        for name, addresses in layout.addresses.items():
            self._owners.see_node(name, addresses)
        for pair, entry in layout.blocks.items():
            self._tell_block(pair, entry)
        for pair in self._told - layout.blocks.keys():
            self._owners.forget(pair, certain=False)
        self._told = set(layout.blocks)
        self._owners.complete()
        return layout.revision

    def _tell(self, event: KeyEvent) -> None:
        """Report a change of a block or of a node's entry; skip and log one that is malformed."""
        try:
            if event.key.startswith(self._keys.blocks):
                pair = schema.read_block_key(event.key)
                if event.kind == "delete":
                    self._told.discard(pair)
                    self._owners.forget(pair, certain=True)
                else:
                    self._told.add(pair)
                    entry = BlockEntry.read(event.key, event.value, event.revision)
                    self._tell_block(pair, entry)
            elif event.key.startswith(self._keys.nodes) and event.kind == "put":
                node = NodeEntry.read(event.key, event.value)
                self._owners.see_node(schema.name_of(event.key), node.addresses)
        except ClusterCorrupt as error:
            log_lost_watch(self._share.network.name, "an event of the blocks", error)

    def _tell_block(self, pair: BlockId, entry: BlockEntry) -> None:
        """Report the owner of a block, unless the block lies in no pool."""
        pool = self._share.settings.geometry_of(*pair)
        if pool is not None:
            self._owners.see(pair, BITS[pool.family] - pool.host_bits, entry)
