"""Agents of a cluster on the Kubernetes API, step by step on a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastipam.allocation import blocks
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.keeper.keeper import Keeper
from fastipam.cluster.node.share import Share
from fastipam.cluster.registries.kubernetes.objects import REQUESTS
from fastipam.configuration import address_pools
from fastipam.configuration.cluster import Settings
from fastipam.configuration.policy import Policy
from fastipam.errors import PoolExhausted
from fastipam.network import Network
from fastipam.storage.records.block import CLAIMING, RELEASING

from .fake import FakeServer
from .machines import NETWORK, Machine
from .machines import owners as listed_owners

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fastipam.cluster.registries.kubernetes.client import Client
    from fastipam.cluster.registries.kubernetes.pools import Pools
    from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry
    from fastipam.storage.records.block import Block

    from .conftest import Api


class Killed(BaseException):
    """The process of a node was killed here."""


def owners(api: Api) -> dict[str, str]:
    """The owner of each block, without a request to the fake that would be counted."""
    if isinstance(api, FakeServer):
        found = api.objects("addressblocks").values()
        return {one["spec"]["cidr"]: one["spec"]["node"] for one in found}
    return listed_owners(api)


class Time:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Agent(Machine):
    """A machine whose agent lives as long as the test says. All its processes share a client."""

    def __init__(self, path: Path, api: Api, name: str, time: Time, **more: Any) -> None:
        super().__init__(path, api, name, **more)
        self.clock = self.time = time
        self.added = 0
        self.begin()

    def client(self, token: str = "") -> Client:
        """The client of this machine, or one with another token."""
        if token or not self.clients:
            return super().client(token)
        return self.clients[0]

    def begin(self) -> None:
        """The agent's process begins."""
        self.keeper = Keeper(self.share, self.opened, clock=self.time, directories=())

    def opened(self, share: Share) -> KubernetesRegistry:
        """What the keeper uses; the share of every later process knows what this one learns."""
        self.share = share
        return self.registry()

    def miss_pools(self) -> None:
        """The watch of the pools stands still from now on: the agent hears of no change."""
        pools = self._pools()
        pools._followed = pools.in_force(Deadline(10))

    def hear_pools(self) -> None:
        """The agent reads the pools again."""
        self._pools()._followed = None

    def _pools(self) -> Pools:
        return self.registry_of(self.keeper.node)._pools

    def fence(self) -> None:
        """Its settings want fencing from now on."""
        self.settings = Settings(self.holder | {"fencing": True})
        self.store.close()
        self.open()
        self.begin()

    def read_founding(self) -> None:
        """Take the pools from the node's own store, as plugins and a new agent do."""
        with self.store.read() as txn:
            pool_id = self.share.network._pool_in(txn)
            founding = None if pool_id is None else blocks.get_founding(txn, pool_id)
        assert founding is not None
        settings = self.share.settings.with_pools(address_pools.read(founding.pools))
        network = Network(self.store, NETWORK, settings.pool, policy=Policy(cooldown_s=0))
        self.share = Share(self.store, network, settings)

    def reboot(self, boot: str) -> None:
        """The machine starts anew, and the kubelet says so."""
        self.store.close()
        self.boot = boot
        path = f"/api/v1/nodes/{self.name}"
        found = self.api.admin.get(path).done()
        found["status"] = {"nodeInfo": {"bootID": boot}}
        self.api.admin.replace(f"{path}/status", found).done()
        self.open()

    def turn(self, seconds: float = 0.0) -> None:
        """Let the keeper do what is due, after so many seconds."""
        registry = self.registry_of(self.keeper.node)
        listed, _ = registry.api.client.list(REQUESTS, deadline_s=60)
        for one in listed:  # what a watch would tell
            request = registry.read_request(one)
            if request is not None:
                self.keeper.marks.see(request)
        self.turn_alone(seconds)

    def turn_alone(self, seconds: float = 0.0) -> None:
        """The same, without what a watch would tell."""
        self.time.now += seconds
        self.keeper.step()

    def uses(self, block: Block) -> int:
        """How many addresses of a block are not free."""
        with self.store.read() as txn:
            pool_id = self.network._pool_in(txn)
            assert pool_id is not None
            pages = txn.pages(pool_id, block.family)
            (its_set,) = (
                one for one in self.share.settings.pool.sets if one.family == block.family
            )
            return blocks.used_in(pages, its_set, block.base)

    def cidr(self, block: Block) -> str:
        """A block as the API writes it."""
        return self._cidr(block.family, block.base)

    def add(self, count: int = 1) -> int:
        """As many ADDs; how many were served."""
        served = 0
        for _ in range(count):
            self.added += 1
            try:
                self.network.allocate(f"c{self.added}")
            except PoolExhausted:
                self.keeper.need(f"c{self.added}")
            else:
                served += 1
        return served


def assert_agree(api: Api, machines: Iterable[Machine]) -> None:
    """Nobody assigns from a block that is not his."""
    owned = owners(api)
    for machine in machines:
        for cidr in machine.active():
            assert owned.get(cidr) == machine.name, (cidr, machine.name, owned.get(cidr))


def unsettled(api: Api, machines: Iterable[Machine]) -> list[str]:
    """What is begun and not finished: a block that its owner does not assign from, or the like."""
    owned = owners(api)
    found = []
    by_name = {machine.name: machine for machine in machines}
    for name, machine in by_name.items():
        active = machine.active()
        found += [
            f"{cidr} is {name}'s, in vain"
            for cidr in sorted({cidr for cidr, owner in owned.items() if owner == name} - active)
        ]
        found += [
            f"{name} assigns from {cidr}" for cidr in sorted(active) if owned.get(cidr) != name
        ]
        found += [
            f"{name}'s {one.base:x} is {'claimed' if one.state == CLAIMING else 'released'}"
            for one in machine.share.blocks()
            if one.state in (CLAIMING, RELEASING)
        ]
    found += [
        f"{cidr} is {owner}'s, whom nobody knows"
        for cidr, owner in owned.items()
        if owner not in by_name
    ]
    return found
