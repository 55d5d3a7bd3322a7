"""Agents in virtual time: the real keeper, planner, node, registry and client of each node.

Only the parts that use this machine are replaced. A node's records are in memory
(:class:`Records`, with the transactions of ``fastipam.cluster.node.share``), because one process
cannot have thousands of LMDB environments. Addresses are only counted. Threads are processes of the
world.
"""

from __future__ import annotations

import logging
from copy import copy
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bench.kubernetes_sim.world import Box
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.keeper import keeper as keeper_module
from fastipam.cluster.keeper import membership
from fastipam.cluster.keeper.keeper import Keeper
from fastipam.cluster.node.share import Share
from fastipam.cluster.planner import Use
from fastipam.cluster.registries.kubernetes.client import Client
from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry
from fastipam.configuration.cluster import Settings
from fastipam.storage.records.block import (
    ACTIVE,
    CLAIMING,
    FOUND,
    LOST,
    RELEASING,
    STATES,
    Block,
    Heard,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bench.kubernetes_sim.server import Cluster
    from fastipam.cluster.schema import BlockEntry, BlockId
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.cluster import Geometry
    from fastipam.configuration.pool_lines import Lines
    from fastipam.storage.records.block import Member

_EPOCH_NS = 1_700_000_000 * 10**9


class _Lock:
    """A stand-in for the lock of a node, which nothing else locks."""

    def __init__(self, _: object) -> None:
        pass

    def try_take(self) -> bool:
        """Take the lock, which always succeeds."""
        return True

    def release(self) -> None:
        """Release the lock."""


def _recover(node: Any, found: Sequence[BlockId], _: object) -> Any:
    """Confirm found blocks, because no running pod can have addresses of them."""
    node.confirm_found(found)
    return SimpleNamespace(entered=(), remarks=())


class Records(Share):
    """The records of a node, in memory instead of a store."""

    __slots__ = ("_blocks", "_heard", "_member", "changes", "used")

    def __init__(self, cluster: Cluster, name: str) -> None:
        world = cluster.world
        store: Any = SimpleNamespace(
            clock=lambda: _EPOCH_NS + int(world.now * 1e9),
            boot=1,
            boot_id=lambda: "boot-1",
            identity=(0, 0, 0),
        )
        network: Any = SimpleNamespace(name="podnet")
        settings = {"engine": "kubernetes", "node": name, "address": "192.0.2.1"}
        super().__init__(store, network, Settings(settings))
        self._member: Member | None = None
        self._heard = Heard()
        self._blocks: dict[BlockId, Block] = {}
        self.used: dict[BlockId, int] = {}  # the number of addresses in a block that are not free
        self.changes = 0

    def adopt_pools(self, pools: Sequence[AddressPool]) -> bool:
        settings = self.settings.with_pools(pools)
        if self.settings.pools and settings.pools == self.settings.pools:
            return False
        self.settings = settings
        return True

    def require_engine(self) -> None:
        pass  # the engine never changes

    def member(self) -> Member | None:
        return copy(self._member)

    def put_member(self, member: Member) -> None:
        self._member = copy(member)

    def blocks(self) -> list[Block]:
        return [copy(self._blocks[each]) for each in sorted(self._blocks)]

    def doubt(self) -> str:
        return "" if self._member and self._member.revision else "not registered"

    def free(self) -> int:
        """Return the number of addresses that can be assigned."""
        return sum(use.size - use.used for _, use in self.survey()[0])

    def lacking(self, lines: Lines | None = None) -> list[int]:  # noqa: ARG002  # there is one
        return [4] if self.doubt() or self.free() <= 0 else []

    def generation(self) -> tuple[int, int]:
        """Return a value that changes with each assignment."""
        return self.changes, sum(self.used.values())

    def survey(self) -> tuple[list[tuple[Geometry, Use]], dict[str, int]]:
        """Return the use of each active block, and the number of blocks by state."""
        uses, states = [], dict[str, int]()
        for pair, block in self._blocks.items():
            states[STATES[block.state]] = states.get(STATES[block.state], 0) + 1
            pool = self.settings.geometry_of(*pair)
            if pool is not None and block.state == ACTIVE:
                number = pool.number(block.base)
                assert number is not None
                used = self.used.get(pair, 0)
                uses.append((pool, Use(number, pool.size - 3, used, block.claimed_ns / 1e9)))
        return uses, states

    def active(self) -> list[BlockId]:
        """Return the active blocks, from which addresses are assigned."""
        return [pair for pair, each in self._blocks.items() if each.state == ACTIVE]

    def forget_registration(self) -> None:
        if self._member is not None:
            self._member.revision = 0

    def is_copy(self, member: Member, machine: str) -> bool:  # noqa: ARG002
        return False

    def set_mark(self, number: int) -> Member:
        assert self._member is not None
        self._member.mark = number
        return copy(self._member)

    def heard(self) -> Heard:
        return copy(self._heard)

    def note_heard(self, identity: int, revision: int) -> None:
        self._heard.identity, self._heard.revision = identity, revision

    def begin_claim(self, ids: Iterable[BlockId], epoch: int, claimed_ns: int) -> None:
        for family, base in ids:
            self._blocks[family, base] = Block(family, base, CLAIMING, claimed_ns, epoch)

    def begin_release(
        self,
        ids: Iterable[BlockId],
        *,
        named: bool = False,  # noqa: ARG002  # no address cools down here
    ) -> list[Block]:
        begun = []
        for pair in ids:
            block = self._blocks.get(pair)
            if block is not None and block.state == ACTIVE and not self.used.get(pair):
                block.state = RELEASING
                begun.append(copy(block))
        return begun

    def activate(self, revisions: Mapping[BlockId, int], state: int) -> None:
        for pair, revision in revisions.items():
            block = self._blocks.get(pair)
            if block is not None and block.state == state:
                block.revision = revision or block.revision
                block.state = ACTIVE
        self.changes += 1

    def forget(self, ids: Iterable[BlockId], state: int) -> None:
        for pair in ids:
            block = self._blocks.get(pair)
            if block is not None and block.state == state:
                del self._blocks[pair]

    def add_granted(self, member: Member, owned: Mapping[BlockId, BlockEntry]) -> list[BlockId]:
        added = []
        for pair, theirs in owned.items():
            if theirs.grant == member.mark and pair not in self._blocks:
                self._enter(pair, theirs, member.epoch, ACTIVE)
                added.append(pair)
        return added

    def _enter(self, pair: BlockId, theirs: BlockEntry, epoch: int, state: int) -> None:
        self._blocks[pair] = Block(*pair, state, theirs.claimed_ns, epoch, theirs.revision)
        self.changes += 1

    def reconcile(
        self,
        member: Member,
        owned: Mapping[BlockId, BlockEntry],
        machine: str = "",  # noqa: ARG002
        heard: Heard | None = None,
        *,
        restored: bool = False,
    ) -> tuple[list[BlockId], int]:
        assert not restored, "nothing is put back here"
        unknown = dict(owned)
        for pair, block in list(self._blocks.items()):
            theirs = unknown.pop(pair, None)
            if theirs is None:
                assert not self.used.get(pair), "a block in use was taken from its node"
                del self._blocks[pair]
            elif block.state in (CLAIMING, LOST):
                block.state, block.revision = ACTIVE, theirs.revision
        granted = 0
        for pair, theirs in unknown.items():
            is_granted = bool(theirs.grant) and theirs.grant == member.mark
            granted += is_granted
            self._enter(pair, theirs, member.epoch, ACTIVE if is_granted else FOUND)
        self.put_member(member)
        self._heard = heard or self._heard
        self.changes += 1
        return [pair for pair, each in self._blocks.items() if each.state == FOUND], granted

    def reindex(self) -> bool:
        return False


def _ignore(*_: object) -> None:
    """Discard a log line."""


def _defect(*_: object) -> None:
    """Raise the exception that a keeper would only log, to end the simulation."""
    raise  # noqa: PLE0704  # the caller handles the exception


def install(cluster: Cluster) -> None:
    """Replace parts of the keeper by the stand-ins. Call it once, before the first agent."""
    logging.disable(logging.CRITICAL)
    log = SimpleNamespace(info=_ignore, warning=_ignore, exception=_defect)
    stand_ins: dict[str, object] = {
        "NodeLock": _Lock,
        "log": log,
        "usage": SimpleNamespace(generation=Records.generation, survey=Records.survey),
        "Deadline": partial(Deadline, clock=lambda: cluster.world.now),
    }
    vars(keeper_module).update(stand_ins)
    vars(membership)["recovery"] = SimpleNamespace(recover=_recover)


def virtual_client(cluster: Cluster) -> Client:
    """Return the real client, with the connections and the clock of the world."""
    access: Any = SimpleNamespace(
        servers=[one.server for one in cluster.servers],
        tls=lambda: None,
        authorization=lambda _: "",
        base="",
        trust="",
    )
    world = cluster.world
    return Client(access, sleep=world.sleep, chance=world.random.random)


class Agent:
    """The agent of a node. ``served_s`` has the wait of each pod for its address.

    With ``has_routes`` it watches all blocks once it has a block itself; only the cost of that is
    simulated.
    """

    def __init__(
        self, cluster: Cluster, name: str, *, follows: bool, has_routes: bool = False
    ) -> None:
        world = cluster.world
        self.records = Records(cluster, name)
        self.client = virtual_client(cluster)
        clock = lambda: world.now  # noqa: E731
        self.keeper = Keeper(
            self.records,
            lambda share: KubernetesRegistry(share, self.client, clock),
            on_blocks=self._serve,
            clock=clock,
        )
        self.served_s: list[float] = []  # how long each pod waited for its address
        self.waiting: list[float] = []  # since when each waiting pod waits
        self.handing = 0  # requests to ask for blocks, donate them and collect them
        self.gave = self.came_late = 0  # donations that succeeded, and that another node preceded
        node = self.keeper.node
        for what in ("write_mark", "donate", "collect"):
            vars(node)[what] = partial(self._count, what, getattr(node, what))
        self.follows = follows
        has_block: Any = SimpleNamespace(set=partial(self._watch_blocks, cluster))
        self.keeper._has_block = has_block
        self._watches = not has_routes
        self._world = world
        self._wake = Box(world)
        wake: Any = SimpleNamespace(set=self._wake.fill)
        self.keeper._wake = wake
        self.keeper.marks.wake = self._wake.fill

    def _count(self, what: str, work: Callable[..., object], *given: Any, **more: Any) -> object:
        before = self.client.requests.total()
        found = work(*given, **more)
        if what == "donate":
            self.gave += bool(found)
            self.came_late += not found
        if what != "donate" or found:
            self.handing += self.client.requests.total() - before
        return found

    def start(self, moment: float = 0.0) -> None:
        """Start the processes of the agent."""
        self._world.start(self._run, moment)
        if self.follows:
            self._world.start(self.keeper._watch_marks, moment)
            for _, follow in self.keeper.registry.threads(self._wake.fill):
                self._world.start(partial(follow, lambda: False), moment)

    def _watch_blocks(self, cluster: Cluster) -> None:
        if not self._watches:
            self._watches = True
            self._world.random.choice(cluster.servers).begin_watch()

    def add_pod(self) -> None:
        """Start a pod, which asks for an address."""
        self.waiting.append(self._world.now)
        self._serve()
        if self.waiting:
            self.keeper.need("pod")

    def fill(self) -> None:
        """Mark all addresses of the node's blocks as used."""
        for _, use in self.records.survey()[0]:
            pool = self.records.settings.geometries[0]
            self.records.used[4, pool.address(use.number)] = use.size
        self.records.changes += 1

    def _serve(self) -> None:
        pairs = [(4, use.number) for _, use in self.records.survey()[0] if use.used < use.size]
        while self.waiting and pairs:
            pool = self.records.settings.geometries[0]
            pair = (4, pool.address(pairs[0][1]))
            self.records.used[pair] = self.records.used.get(pair, 0) + 1
            self.records.changes += 1
            self.served_s.append(self._world.now - self.waiting.pop(0))

    def _run(self) -> None:
        while True:
            if self.waiting:
                self.keeper.need("pod")  # the plugin asks again
                self._wake.empty()
            seconds = self.keeper.step()
            self._world.wait(self._wake, self._world.now + seconds)
            self._wake.empty()
