"""Nodes of one cluster inside a test: a store and a name each, one shared engine."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from fastipam.cluster import schema
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.node.node import Node
from fastipam.cluster.node.share import Share
from fastipam.cluster.registries.keyvalue.registry import KeyValueRegistry
from fastipam.configuration.cluster import Settings
from fastipam.configuration.policy import Policy
from fastipam.network import Network
from fastipam.storage.records import block as block_record
from fastipam.storage.records.block import ACTIVE
from fastipam.storage.store import Store
from tests.cluster.memory import MemoryEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastipam.cluster.engine import Engine
    from fastipam.cluster.registries.connect import Open

NETWORK = "podnet"


class Killed(BaseException):
    """The process of a node was killed here."""


def settings(node: str, **more: Any) -> Settings:
    """A /20 in sixteen blocks, unless it is said otherwise."""
    holder = {
        "endpoints": ["http://127.0.0.1:1"],
        "pool": "10.32.0.0/20",
        "blocksize": 24,
        "node": node,
    } | {key.casefold(): value for key, value in more.items()}
    return Settings(holder)


def over(engine: Engine, clock: Callable[[], float] = time.monotonic) -> Open:
    """How a node opens its cluster's store: on this engine."""
    return lambda share: KeyValueRegistry(share, engine, clock)


def inside(node: Node) -> KeyValueRegistry:
    """The registry of a node, with its keys and its session."""
    assert isinstance(node.registry, KeyValueRegistry)
    return node.registry


class Machine:
    """A node's store, and what runs on it."""

    def __init__(
        self, path: Path, name: str, engine: Engine, boot: str | None = "boot-1", **more: Any
    ) -> None:
        self.path = path / name
        self.engine = engine
        self.boot = boot  # None: this machine's own
        self.settings = settings(name, **more)
        self.open()

    def open(self) -> None:
        """Open the store, after a reboot or a copy too."""
        boot = self.boot
        self.store = Store(self.path, "relaxed", boot_id=None if boot is None else lambda: boot)
        self.network = Network(self.store, NETWORK, self.settings.pool, policy=Policy(cooldown_s=0))

    @property
    def share(self) -> Share:
        """The node's records in its store."""
        return Share(self.store, self.network, self.settings)

    def node(self, step: Callable[[str], None] | None = None) -> Node:
        """A process that works on this node's claims."""
        if step is None:
            return Node(self.share, over(self.engine)(self.share))
        return Node(self.share, over(self.engine)(self.share), step=step)

    def joined(self) -> Node:
        """The same, registered."""
        node = self.node()
        node.join(Deadline(5), agent=True)
        return node

    def active(self) -> set[tuple[int, int]]:
        """The blocks from which this node assigns."""
        return {
            (each.family, each.base) for each in self.node().share.blocks() if each.state == ACTIVE
        }

    def states(self) -> Counter[str]:
        """How many blocks are in which state."""
        return Counter(block_record.STATES[each.state] for each in self.node().share.blocks())


def init(engine: Engine, **more: Any) -> None:
    """What ``fastipam cluster init`` does."""
    from fastipam.cluster.engine import Compare, Put

    one = settings("init", **more)
    key = schema.Keys(one.prefix, NETWORK).settings
    engine.transact([Compare(key, "absent")], [Put(key, one.text.encode())], deadline_s=1)


def owners(engine: MemoryEngine) -> dict[tuple[int, int], str]:
    """Every owned block and its node, as the shared store has it."""
    keys = schema.Keys("/fastipam/", NETWORK)
    listed, _ = engine.list(keys.blocks, deadline_s=1)
    return {
        schema.read_block_key(one.key): schema.BlockEntry.read(one.key, one.value).node
        for one in listed
    }


def assert_agree(engine: MemoryEngine, *machines: Machine) -> None:
    """Nobody assigns from a block that is not his; both lists of owners say the same."""
    owned = owners(engine)
    for machine in machines:
        for pair in machine.active():
            assert owned.get(pair) == machine.settings.node, (pair, machine.settings.node)
    keys = schema.Keys("/fastipam/", NETWORK)
    listed, _ = engine.list(keys.prefix + b"owned/", deadline_s=1)
    second = {schema.read_block_key(one.key): one.key.split(b"/")[4].decode() for one in listed}
    assert second == owned


def assert_settled(engine: MemoryEngine, *machines: Machine) -> None:
    """And nothing is begun and not finished: what is owned is what is assigned from."""
    assert_agree(engine, *machines)
    owned = owners(engine)
    for machine in machines:
        mine = {pair for pair, name in owned.items() if name == machine.settings.node}
        assert machine.active() == mine
        assert set(machine.states()) <= {"active", "lost"}
