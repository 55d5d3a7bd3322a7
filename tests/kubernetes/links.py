"""Nodes in network namespaces on one link, whose agents set routes, and pods on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ..agent.processes import Agent, until
from ..cluster.proxy import Proxy
from ..e2e import netns
from ..e2e.cni import Network
from ..e2e.netns import within
from .test_agent import Site

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Self

    from ..e2e.cni import Attachment
    from ..e2e.netns import NetNS
    from .conftest import Api

V4, V6 = "192.0.2.{}", "2001:db8::{}"


class Pod:
    """A namespace with an interface of the node's network."""

    def __init__(self, namespace: NetNS, attachment: Attachment) -> None:
        self.namespace = namespace
        self.attachment = attachment
        self.addresses = [str(one.ip) for one in attachment.addresses]

    def ping(self, other: Pod) -> None:
        """Reach all addresses of another one."""
        for address in other.addresses:
            self.namespace.ping(address)


class LinkNode(Site):
    """A node in a namespace of its own; its agent reaches the API through a proxy there."""

    def __init__(self, api: Api, path: Path, name: str, host: NetNS, number: int) -> None:
        path.mkdir()
        super().__init__(api, path, name)
        port = json.loads((path / "kubeconfig").read_text())["clusters"][0]["cluster"]["server"]
        self.place(host, number, int(port.rpartition(":")[2]))
        self._point_at(self.proxy.port)

    def place(self, host: NetNS, number: int, port: int) -> None:
        """Put the node into a namespace, with a way to this port of the test's own one."""
        self.host = host
        self.addresses = [V4.format(number), V6.format(number)]
        self.proxy = within(host, lambda: Proxy(port))
        self.cluster["address"] = self.addresses
        self.write()
        self.agent: Agent | None = None
        self.stack = ExitStack()
        self.stack.enter_context(self.proxy)

    def _point_at(self, port: int) -> None:
        file = self.path / "kubeconfig"
        document = json.loads(file.read_text())
        document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        file.write_text(json.dumps(document))

    def ipam(self, **more: Any) -> dict[str, Any]:
        """The ipam section, with routes for pods of both families."""
        return super().ipam(**more) | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}

    def start(self, *options: str, routes: str = "host-gw") -> Agent:
        """Start the agent."""
        self.agent = Agent(
            self.path / "s",
            "--cluster", str(self.conflist), "--routes", routes, "--log-level", "info",
            "--sweep-interval", "0", *options,
            prefix=self.host.command(),
        )  # fmt: skip
        return self.agent

    def ip(self, *words: str, check: bool = True) -> str:
        """Run ip here; return what it prints."""
        return self.host.run("ip", *words, check=check).stdout

    def routes(self) -> set[str]:
        """The routes of fastipam's protocol: "10.32.1.0/24 via 192.0.2.2", "unreachable …"."""
        found = set()
        for family in ("-4", "-6"):
            for line in self.ip(family, "route", "show", "proto", "147").splitlines():
                words = line.split()
                size = 2 if words[0] == "unreachable" else 3
                assert size == 2 or words[1] == "via", line
                found.add(" ".join(words[:size]))
        return found

    def gateways(self) -> set[str]:
        """Those that lead to other nodes."""
        return {one for one in self.routes() if " via " in one}

    def add(self, plugin_dir: Path, label: str = "pod") -> Pod:
        """Start a pod: ptp, with an address of each family that the pools have."""
        assert self.agent is not None
        namespace = self.stack.enter_context(netns.temporary(label))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FASTIPAM_SOCKET", str(self.agent.path))
            network = Network(self.document(), plugin_dir, self.host)
            return Pod(namespace, network.add(namespace))

    def document(self) -> dict[str, Any]:
        """The conflist."""
        found: dict[str, Any] = json.loads(self.conflist.read_text())
        return found | {"cniVersion": "1.0.0"}  # Debian's ptp knows no later one

    def close(self) -> None:
        """End everything here."""
        if self.agent is not None:
            self.agent.finish()
        self.stack.close()


class EtcdNode(LinkNode):
    """The same with etcd, at this port, as the shared store."""

    def __init__(self, port: int, path: Path, name: str, host: NetNS, number: int) -> None:
        path.mkdir()
        self.name = name
        self.path = path
        self.store = path / "store"
        self.conflist = path / "10-fastipam.conflist"
        self.cluster = {"pool": ["10.32.0.0/20", "fd32::/112"], "blockSize": [24, 120]}
        self.cluster |= {"node": name, "endpoints": ["http://127.0.0.1:1"]}
        self.place(host, number, port)
        self.cluster["endpoints"] = [f"http://127.0.0.1:{self.proxy.port}"]
        self.write()


Make = Callable[["Path", str, "NetNS", int], LinkNode]


class Link:
    """A switch, and the nodes on it, which ``make`` makes. A context manager."""

    def __init__(self, make: Make, path: Path, plugin_dir: Path) -> None:
        self.make = make
        self.path = path
        self.plugin_dir = plugin_dir
        self.nodes: list[LinkNode] = []
        self._stack = ExitStack()
        self.switch = self._stack.enter_context(netns.temporary("switch"))
        self.switch.run("ip", "link", "add", "s0", "type", "bridge")
        self.switch.run("ip", "link", "set", "s0", "up")

    def node(self, name: str) -> LinkNode:
        """A node with an interface on the link."""
        host = self._stack.enter_context(netns.temporary(name))
        number = len(self.nodes) + 1
        port = f"p{number}"
        made = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", port]
        host.run(*made, "netns", self.switch.name)
        self.switch.run("ip", "link", "set", port, "master", "s0", "up")
        node = self.make(self.path / name, name, host, number)
        self._stack.callback(node.close)
        self.plug(node)
        self.nodes.append(node)
        return node

    def plug(self, node: LinkNode) -> None:
        """Bring its interface up, with its addresses."""
        node.ip("link", "set", "eth0", "up")
        node.ip("address", "replace", f"{node.addresses[0]}/24", "dev", "eth0")
        node.ip("address", "replace", f"{node.addresses[1]}/64", "dev", "eth0", "nodad")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def settle(*nodes: LinkNode, api: Api) -> None:
    """Wait until every node has a route to each block of the others, and unreachable own ones."""
    until(lambda: all(node.routes() == expected(node, nodes, api) for node in nodes), "all routes")


def expected(node: LinkNode, nodes: tuple[LinkNode, ...], api: Api) -> set[str]:
    """The routes that a node should have, if no two blocks of a node are adjacent."""
    from .machines import owners
    from .rest import POOLS

    found = {f"unreachable {one['spec']['cidr']}" for one in api.admin.get(POOLS).done()["items"]}
    by_name = {one.name: one for one in nodes}
    for cidr, owner in owners(api).items():
        if owner == node.name:
            found.add(f"unreachable {cidr}")
        else:
            found.add(f"{cidr} via {by_name[owner].addresses[':' in cidr]}")
    return found
