"""Nodes of a cluster on the Kubernetes API, each with a store of its own, in one process."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from fastipam.addressing.addresses import BITS, format_cidr
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.node.node import Node
from fastipam.cluster.node.share import Share
from fastipam.cluster.registries.kubernetes.access import Access, parse_server
from fastipam.cluster.registries.kubernetes.client import Client
from fastipam.cluster.registries.kubernetes.objects import REQUESTS
from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry
from fastipam.configuration.cluster import Settings
from fastipam.configuration.policy import Policy
from fastipam.network import Network
from fastipam.storage.records import block as block_record
from fastipam.storage.records.block import ACTIVE
from fastipam.storage.store import Store

from . import bodies
from .rest import BLOCKS, POOLS
from .server import until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fastipam.cluster.registry import Request

    from .conftest import Api
    from .rest import Rest

NETWORK = "podnet"


def accept(
    api: Api, name: str = "default", cidr: str = "10.32.0.0/20", size: int = 24, **more: Any
) -> None:
    """Make a pool, and accept it as the controller does."""
    take(api, api.admin.create(POOLS, bodies.pool(name, cidr, size, **more)).done())


def take(api: Api, made: dict[str, Any]) -> None:
    """Accept a pool as it is now, and wait until a list from the server's cache has it."""
    name = made["metadata"]["name"]
    accepted = {"generation": made["metadata"]["generation"], "spec": made["spec"]}
    path = f"{POOLS}/{name}/status"
    api.admin.replace(path, {**made, "status": {"accepted": accepted}}).done()

    def is_listed() -> bool:
        items = api.admin.get(POOLS, resourceVersion="0").done()["items"]
        found = [one for one in items if one["metadata"]["name"] == name]
        return any(one.get("status", {}).get("accepted") == accepted for one in found)

    until(is_listed, f"the server's cache has the pool {name}")


def owners(api: Api) -> dict[str, str]:
    """Return the owner of each block, by its CIDR."""
    found = api.admin.get(BLOCKS).done()
    return {one["spec"]["cidr"]: one["spec"]["node"] for one in found["items"]}


class Machine:
    """A node's store, and what runs on it."""

    def __init__(
        self,
        path: Path,
        api: Api,
        name: str,
        *,
        boot: str = "boot-1",
        urls: Sequence[str] = (),
        rest: Rest | None = None,
        **more: Any,
    ) -> None:
        """``rest``: that of a machine which is there already, and has this name."""
        self.path = path / name
        self.api = api
        self.name = name
        self.boot = boot
        self.rest: Rest = rest or api.node(name, boot)
        self.urls = list(urls) or [f"https://127.0.0.1:{self.rest.port}"]
        holder = {"engine": "kubernetes", "node": name, "address": "192.0.2.1"} | more
        self.holder = {key.casefold(): value for key, value in holder.items()}
        self.settings = Settings(self.holder)
        self.clock = time.monotonic
        self.clients: list[Client] = []
        self.open()

    def open(self) -> None:
        """Open the store, after a reboot too."""
        boot = self.boot
        self.store = Store(self.path, "relaxed", boot_id=lambda: boot)
        network = Network(self.store, NETWORK, self.settings.pool, policy=Policy(cooldown_s=0))
        self.share = Share(self.store, network, self.settings)

    def client(self, token: str = "") -> Client:
        """A client with this node's token, or another one."""
        servers = [parse_server(one) for one in self.urls]
        token = token or self.rest.token
        found = Client(Access(servers, ca=str(self.api.ca), token=token))
        self.clients.append(found)
        return found

    def registry(self, step: Callable[[str], None] = lambda _: None) -> KubernetesRegistry:
        """The registry of a process of this node."""
        return KubernetesRegistry(self.share, self.client(), self.clock, step)

    def node(self, step: Callable[[str], None] = lambda _: None) -> Node:
        """A process that works on this node's claims; it knows the pools."""
        registry = self.registry(step)
        node = Node(self.share, registry, step=step)
        pools = registry.pools(Deadline(10))
        if pools:
            self.share.adopt_pools(pools)
        return node

    def operator(self, step: Callable[[str], None] = lambda _: None) -> Node:
        """A person at this node's command line, with the rights of an administrator."""
        registry = KubernetesRegistry(self.share, self.client(self.api.admin.token), step=step)
        return Node(self.share, registry, step=step)

    def joined(self, step: Callable[[str], None] = lambda _: None) -> Node:
        """The same, registered."""
        node = self.node(step)
        node.join(Deadline(10), agent=True)
        return node

    def requests(self) -> list[Request]:
        """The requests that wait for an answer, as this node reads them."""
        registry = self.registry()
        listed, _ = registry.api.client.list(REQUESTS, deadline_s=5)
        read = (registry.read_request(one) for one in listed)
        return [one for one in read if one is not None]

    @staticmethod
    def registry_of(node: Node) -> KubernetesRegistry:
        """The registry of a node, with what only this one has."""
        assert isinstance(node.registry, KubernetesRegistry)
        return node.registry

    @property
    def network(self) -> Network:
        """The network, as a plugin uses it."""
        pool = self.share.settings.pool
        return Network(self.store, NETWORK, pool, policy=Policy(cooldown_s=0), remember=False)

    def active(self) -> set[str]:
        """The blocks from which this node assigns, as CIDRs."""
        found = set()
        for one in self.share.blocks():
            if one.state == ACTIVE:
                found.add(self._cidr(one.family, one.base))
        return found

    def _cidr(self, family: int, base: int) -> str:
        geometry = self.share.settings.geometry_of(family, base)
        assert geometry is not None
        return format_cidr(family, base, BITS[family] - geometry.host_bits)

    def states(self) -> Counter[str]:
        """How many blocks are in which state."""
        return Counter(block_record.STATES[each.state] for each in self.share.blocks())

    def close_clients(self) -> None:
        """Close all connections."""
        for one in self.clients:
            one.close()

    def close(self) -> None:
        """Close everything."""
        self.close_clients()
        self.store.close()


def claim(node: Node, run: int = 1) -> list[tuple[int, int]]:
    """Claim blocks of the first pool."""
    return node.claim(node.settings.geometries[0], run, Deadline(10))


def assert_settled(api: Api, *machines: Machine) -> None:
    """What is owned is what is assigned from, and nothing is begun and not finished."""
    owned = owners(api)
    for machine in machines:
        mine = {cidr for cidr, name in owned.items() if name == machine.name}
        assert machine.active() == mine, (machine.name, machine.states())
        assert set(machine.states()) <= {"active", "lost"}
