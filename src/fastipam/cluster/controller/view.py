"""The controller's copy of the API's objects, from watches: pools, nodes, blocks, Node objects.

The copy may be out of date, so an object is read again from the API before a change is decided.
Memory: each pool's object, and about 600 bytes for each block, node and Node object.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.addressing.addresses import format_cidr, parse_cidr, prefix_bounds
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.watch import Follower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastipam.cluster.registries.kubernetes.calls import Kind
    from fastipam.cluster.registries.kubernetes.client import Client

log = logging.getLogger("fastipam.controller")

KINDS = (objects.POOLS, objects.NODES, objects.BLOCKS, objects.MACHINES)
_LOAD_S = 30.0
_SPREAD_S = 5.0  # there are two controllers, not thousands


class Entry(NamedTuple):
    """A node's entry; ``removed_s``: when its tombstone was written, ``uses``: what it reported."""

    version: int
    incarnation: str
    epoch: int
    removed_s: float | None
    uses: tuple[tuple[str, int, int], ...]  # pool, used addresses, free ones


class Owned(NamedTuple):
    """A block that a node owns."""

    version: int
    node: str
    pool: str
    epoch: int
    whole: tuple[int, int, int]  # family, first and last address
    length: int

    @property
    def cidr(self) -> str:
        """The block as a CIDR."""
        return format_cidr(self.whole[0], self.whole[1], self.length)


class View:
    """The last reported state. Safe to use from several threads.

    ``wake`` is called when pools change.
    """

    def __init__(self, client: Client, wake: Callable[[], object] = lambda: None) -> None:
        self._client = client
        self._wake = wake
        self._lock = threading.Lock()
        self._pools: dict[str, dict[str, Any]] = {}
        self._entries: dict[str, Entry] = {}
        self._blocks: dict[str, Owned] = {}
        self._by_node: dict[str, set[str]] = {}
        self._machines: dict[str, tuple[str, ...]] = {}  # Node object -> its podCIDRs
        self._returned: set[str] = set()

    # Queries --------------------------------------------------------------------------------

    def pools(self) -> dict[str, dict[str, Any]]:
        """Return the pools' objects by name."""
        with self._lock:
            return dict(self._pools)

    def entries(self) -> dict[str, Entry]:
        """Return the nodes' entries by name."""
        with self._lock:
            return dict(self._entries)

    def owners(self) -> set[str]:
        """Return the nodes that own a block."""
        with self._lock:
            return set(self._by_node)

    def owned_by(self, node: str) -> list[Owned]:
        """Return the blocks of one node."""
        with self._lock:
            return [self._blocks[one] for one in self._by_node.get(node, ())]

    def forget(self, gone: Iterable[Owned]) -> None:
        """Forget deleted blocks before the watch reports the deletion; keep newer ones."""
        with self._lock:
            for one in gone:
                names = self._by_node.get(one.node, ())
                for name in [each for each in names if self._blocks[each] == one]:
                    self._drop(name)

    def blocks(self) -> list[Owned]:
        """Return the blocks of all nodes."""
        with self._lock:
            return list(self._blocks.values())

    def count_blocks(self) -> int:
        """Return how many blocks nodes own. O(1)."""
        with self._lock:
            return len(self._blocks)

    def by_name(self) -> dict[str, Owned]:
        """Return the blocks of all nodes by the names of their objects."""
        with self._lock:
            return dict(self._blocks)

    def machines(self) -> dict[str, tuple[str, ...]]:
        """Return the podCIDRs of each Node object."""
        with self._lock:
            return dict(self._machines)

    def has_machine(self, name: str) -> bool:
        """Return whether there is a Node object of this name."""
        with self._lock:
            return name in self._machines

    def returned(self) -> set[str]:
        """Return the names of the Node objects that were added since the last call."""
        with self._lock:
            found, self._returned = self._returned, set()
            return found

    # Updates --------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the state of all kinds from the API: four lists. Raises EngineError."""
        for kind in KINDS:
            listed, _ = self._client.list(kind, deadline_s=_LOAD_S)
            self._replace(kind, listed)

    def followers(self) -> list[Follower]:
        """Return the followers of the kinds, each for a thread of its own."""
        return [self._follower(kind) for kind in KINDS]

    def _follower(self, kind: Kind) -> Follower:
        return Follower(
            self._client,
            kind,
            lambda what, found: self.see(kind, what, found),
            on_synced=self._wake,
            on_error=lambda error: log.info("watch of %s: %s", kind.plural, error),
            spread_s=_SPREAD_S,
        )

    def _replace(self, kind: Kind, listed: Iterable[dict[str, Any]]) -> None:
        names = set()
        for found in listed:
            names.add(objects.name_of(found))
            self.see(kind, "MODIFIED", found)
        with self._lock:
            known = set(self._known(kind))
        for name in known - names:
            self.see(kind, "DELETED", {"metadata": {"name": name}})

    def _known(self, kind: Kind) -> Iterable[str]:
        tables: dict[str, Iterable[str]] = {
            objects.POOLS.plural: self._pools,
            objects.NODES.plural: self._entries,
            objects.BLOCKS.plural: self._blocks,
            objects.MACHINES.plural: self._machines,
        }
        return tables[kind.plural]

    def see(self, kind: Kind, what: str, found: dict[str, Any]) -> None:
        """Apply an event: ADDED, MODIFIED or DELETED, and the object."""
        name, is_gone = objects.name_of(found), what == "DELETED"
        if kind == objects.POOLS:
            self._see_pool(name, None if is_gone else found)
            self._wake()
        elif kind == objects.NODES:
            self._see_entry(name, None if is_gone else _entry(found))
        elif kind == objects.BLOCKS:
            self._see_block(name, None if is_gone else _owned(found))
        else:
            self._see_machine(name, None if is_gone else objects.pod_cidrs(found))

    def _see_pool(self, name: str, found: dict[str, Any] | None) -> None:
        with self._lock:
            if found is None:
                self._pools.pop(name, None)
            else:
                self._pools[name] = found

    def _see_entry(self, name: str, found: Entry | None) -> None:
        with self._lock:
            if found is None:
                self._entries.pop(name, None)
            else:
                self._entries[name] = found

    def _see_block(self, name: str, found: Owned | None) -> None:
        with self._lock:
            self._drop(name)
            if found is not None:
                self._blocks[name] = found
                self._by_node.setdefault(found.node, set()).add(name)

    def _drop(self, name: str) -> None:
        before = self._blocks.pop(name, None)
        if before is not None:
            mine = self._by_node[before.node]
            mine.discard(name)
            if not mine:
                del self._by_node[before.node]

    def _see_machine(self, name: str, pod_cidrs: tuple[str, ...] | None) -> None:
        with self._lock:
            if pod_cidrs is None:
                self._machines.pop(name, None)
                return
            if name not in self._machines:
                self._returned.add(name)
            self._machines[name] = pod_cidrs


def _entry(found: dict[str, Any]) -> Entry:
    there = objects.read_node(found)
    annotations = found["metadata"].get("annotations") or {}
    removed_s = objects.read_stamp(annotations.get(objects.REMOVED))
    return Entry(
        objects.version_of(found),
        there.incarnation,
        there.epoch,
        None if there.incarnation else removed_s,
        objects.read_uses(found),
    )


def _owned(found: dict[str, Any]) -> Owned:
    (family, base), entry = objects.read_block(found)
    _, _, length = parse_cidr(found["spec"]["cidr"])
    whole = (family, *prefix_bounds(family, base, length))
    pool = str(found["spec"].get("pool") or "")
    return Owned(entry.revision, entry.node, pool, entry.epoch, whole, length)
