"""The stores that a registry is there for, as one suite of tests uses them."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import Compare, Put
from fastipam.cluster.schema import Keys
from fastipam.storage.records.block import ACTIVE, STATES
from tests.cluster import nodes
from tests.cluster.memory import MemoryEngine

from . import machines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastipam.cluster.engine import Engine
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.registry import Request
    from fastipam.cluster.schema import BlockId
    from fastipam.network import Network
    from fastipam.storage.store import Store

    from .conftest import Api
    from .rest import Rest

BLOCKS = 16
S = 20.0  # for an operation that is answered at once, on a machine that may be busy
_prefixes = itertools.count()


class Machine(Protocol):
    """A node's store, and what runs on it."""

    path: Path
    store: Store

    @property
    def network(self) -> Network:
        """The network, as a plugin uses it."""

    @property
    def boot(self) -> Any:
        """The boot of its kernel."""

    @boot.setter
    def boot(self, boot: str) -> None: ...

    def open(self) -> None:
        """Open the store."""

    def node(self, step: Callable[[str], None] = ...) -> Node:
        """A process that works on this node's claims."""


class World:
    """A cluster with one pool of sixteen blocks. ``wins_parts``: a claim may win a part of it."""

    wins_parts = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: dict[str, Machine] = {}
        self._close = contextlib.ExitStack()

    def make(self, name: str, path: Path, boot: str) -> Machine:
        """Make a machine of this name with an empty store."""
        raise NotImplementedError

    def machine(self, name: str) -> Machine:
        """A new machine of this name."""
        made = self.all[name] = self.make(name, self.path, "boot-1")
        self._close.callback(lambda one: one.store.close(), made)
        return made

    def live(self, node: Node) -> None:
        """The node gives its sign of life, if this store has one."""
        node.registry.hold(Deadline(S))

    def operator(self, name: str) -> Node:
        """A person at the command line of this machine."""
        return self.all[name].node()

    def requests(self, name: str) -> list[Request]:
        """The requests that this node may answer."""
        raise NotImplementedError

    def reboot(self, name: str) -> None:
        """The machine of this name has started anew, and its store is open."""
        machine = self.all[name]
        machine.store.close()
        machine.boot = "boot-2"
        machine.open()

    def lose_store(self, name: str) -> None:
        """The machine of this name has an empty store."""
        machine = self.all[name]
        machine.store.close()
        machine.path = machine.path.with_name(f"{machine.path.name}-anew")
        machine.open()

    def owners(self) -> dict[BlockId, str]:
        """Every owned block and its node, as the shared store has it."""
        node = next(iter(self.all.values())).node()
        return {pair: entry.node for pair, entry in node.registry.blocks(Deadline(S)).items()}

    def check(self) -> None:
        """Nobody assigns from a block that is not his, and nothing is begun and not finished."""
        owned = self.owners()
        for name, machine in self.all.items():
            mine = {pair for pair, owner in owned.items() if owner == name}
            assert active(machine) == mine, (name, states(machine))
            assert set(states(machine)) <= {"active", "lost"}
        assert set(owned.values()) <= set(self.all)

    def close(self) -> None:
        """Close everything."""
        self._close.close()


class KeyValueWorld(World):
    """On an engine, below a prefix of its own."""

    def __init__(self, path: Path, engine: Engine) -> None:
        super().__init__(path)
        self.engine = engine
        self.prefix = f"/suite-{next(_prefixes)}/"
        keys = Keys(self.prefix, nodes.NETWORK)
        text = nodes.settings("init", prefix=self.prefix).text.encode()
        engine.transact(
            [Compare(keys.settings, "absent")], [Put(keys.settings, text)], deadline_s=S
        )

    def make(self, name: str, path: Path, boot: str) -> Machine:
        """Make a machine of this name with an empty store."""
        return nodes.Machine(path, name, self.engine, boot, prefix=self.prefix)

    def requests(self, name: str) -> list[Request]:
        """The marks."""
        registry = nodes.inside(self.all[name].node())
        return registry.marks(S)[0]


class MemoryWorld(KeyValueWorld):
    """On the engine in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, MemoryEngine())


class KubernetesWorld(World):
    """On the API: the fake, or a real server."""

    wins_parts = True

    def __init__(self, path: Path, api: Api) -> None:
        super().__init__(path)
        self.api = api
        self._rest: dict[str, Rest] = {}
        machines.accept(api)

    def make(self, name: str, path: Path, boot: str) -> Machine:
        """Make a machine of this name with an empty store; the Node is the first one's."""
        made = machines.Machine(path, self.api, name, boot=boot, rest=self._rest.get(name))
        self._rest[name] = made.rest
        self._close.callback(made.close_clients)
        return made

    def operator(self, name: str) -> Node:
        """With the rights of an administrator."""
        machine = self.all[name]
        assert isinstance(machine, machines.Machine)
        return machine.operator()

    def requests(self, name: str) -> list[Request]:
        """The objects."""
        machine = self.all[name]
        assert isinstance(machine, machines.Machine)
        return machine.requests()

    def reboot(self, name: str) -> None:
        """And the kubelet says so."""
        super().reboot(name)
        path = f"/api/v1/nodes/{name}"
        found = self.api.admin.get(path).done()
        found.setdefault("status", {})["nodeInfo"] = {
            **(found["status"].get("nodeInfo") or {}),
            "bootID": "boot-2",
        }
        self.api.admin.replace(f"{path}/status", found).done()


def active(machine: Machine) -> set[BlockId]:
    """The blocks from which a node assigns."""
    return {(one.family, one.base) for one in machine.node().share.blocks() if one.state == ACTIVE}


def states(machine: Machine) -> Counter[str]:
    """How many of a node's blocks are in which state."""
    return Counter(STATES[one.state] for one in machine.node().share.blocks())
