"""Pods of two nodes with addresses of one pool: who sees which source address.

The agents write the standard network configuration, libcni's order of calls runs it in namespaces
that are the nodes, and the kernel carries the packets.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

import pytest

from fastipam.cni import conflists

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import until
from ..e2e import netns, tools
from ..e2e.cni import Network
from ..e2e.conftest import plugin_dir  # noqa: F401  # a fixture of the same name
from .machines import accept, owners
from .test_agent import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..agent.processes import Agent
    from ..e2e.cni import Attachment
    from ..e2e.netns import NetNS
    from .fake import FakeServer

    Start = Callable[..., Agent]

OUTSIDE = {4: "192.0.2.100", 6: "2001:db8::100"}
LENGTHS = {4: 24, 6: 64}
NODES = {"a": {4: "192.0.2.1", 6: "2001:db8::1"}, "b": {4: "192.0.2.2", 6: "2001:db8::2"}}
SIX = "fd00:10::/104"
_SERVE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 7000), family=family) as server:
    server.settimeout(20)
    print("ready", flush=True)
    print(server.accept()[1][0], flush=True)
"""
_CONNECT = """
import socket, sys
socket.create_connection((sys.argv[1], 7000), timeout=20).close()
"""


class Pod(NamedTuple):
    """A pod's namespace, and what ADD has answered."""

    inside: NetNS
    attachment: Attachment

    def address(self, family: int) -> str:
        """The pod's address of a family."""
        found = self.attachment.addresses
        return next(str(one.ip) for one in found if one.version == family)


class World:
    """Two nodes and a machine outside on one link; a pod on each node."""

    def __init__(self, stack: ExitStack) -> None:
        def new(label: str) -> NetNS:
            return stack.enter_context(netns.temporary(label))

        self.wire = new("wire")
        self.nodes = {name: new(f"node-{name}") for name in NODES}
        self.new = new
        self.pods: dict[str, Pod] = {}
        self.wire.run("ip", "link", "add", "br0", "type", "bridge")
        self.wire.run("ip", "link", "set", "br0", "up")
        self._give(self.wire, "br0", OUTSIDE)
        for name, node in self.nodes.items():
            port = f"to-{name}"
            self.wire.run(
                *("ip", "link", "add", port, "type", "veth"),
                *("peer", "name", "eth0", "netns", node.path),
            )
            self.wire.run("ip", "link", "set", port, "master", "br0", "up")
            node.run("ip", "link", "set", "eth0", "up")
            self._give(node, "eth0", NODES[name])

    @staticmethod
    def _give(inside: NetNS, link: str, addresses: dict[int, str]) -> None:
        for family, address in addresses.items():
            text = f"{address}/{LENGTHS[family]}"
            inside.run("ip", f"-{family}", "address", "add", text, "dev", link, "nodad")

    def source(self, client: NetNS, server: NetNS, address: str) -> str:
        """The address from which a server in a namespace sees a connection of a client."""
        command = server.command("python3", "-c", _SERVE, address)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            client.run("python3", "-c", _CONNECT, address)
            seen = process.stdout.readline().strip()
        return str(ip_address(seen.removeprefix("::ffff:")))


@pytest.fixture(params=conflists.PLUGINS)
def world(
    request: pytest.FixtureRequest,
    fake_api: FakeServer,
    tmp_path: Path,
    start: Start,  # noqa: F811
    plugin_dir: Path,  # noqa: F811
) -> Iterator[World]:
    """The nodes, with the configurations that their agents have written, and the routes."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "ping", "iptables", "ip6tables")
    tools.require_cni_plugins(request.param, "portmap", "bandwidth")
    netns.require_link_type("veth")
    netns.require_link_type("bridge")
    netns.require_nat()
    netns.require_ipv6()
    accept(fake_api, cidr="10.32.0.0/20", gateway="10.32.0.1")
    accept(fake_api, "six", SIX, 120, gateway="fd00:10::1")
    with ExitStack() as stack:
        made = World(stack)
        networks = {}
        for name in NODES:
            path = tmp_path / name
            path.mkdir()
            networks[name] = _network(request.param, Site(fake_api, path, name), start, plugin_dir)
        for name, network in networks.items():
            inside = made.new(f"pod-{name}")
            pod = network(made.nodes[name]).add(inside)
            made.pods[name] = Pod(inside, pod)
        for cidr, owner in owners(fake_api).items():
            family = 6 if ":" in cidr else 4
            for name, node in made.nodes.items():
                if name != owner:
                    node.run("ip", "route", "add", cidr, "via", NODES[owner][family])
                    if request.param == conflists.BRIDGE:
                        _proxy(node, [made.pods[owner].address(family)])
        yield made


def _network(plugin: str, site: Site, start: Start, plugins: Path) -> Callable[[NetNS], Network]:  # noqa: F811
    """Have the agent of a node write its configuration; return what runs it in a namespace."""
    document = conflists.standard(plugin)
    document["plugins"][0]["ipam"] |= site.ipam()
    template = site.path / "template.conflist"
    template.write_bytes(conflists.encode(document))
    target = site.path / "10-fastipam.conflist"
    target.unlink()
    options = ("--cluster", str(template), "--write-conflist", str(target), "--mtu", "1400")
    start(*options, name=site.name)
    until(target.exists, "the configuration is written")
    return lambda inside: Network(json.loads(target.read_text()), plugins, inside)


def _proxy(node: NetNS, addresses: list[str]) -> None:
    """Have the bridge answer for pods of other nodes, which its pods take for neighbours."""
    for address in addresses:
        node.run("ip", "neighbour", "add", "proxy", address, "dev", "cni0")
    node.run("sh", "-ec", "echo 1 > /proc/sys/net/ipv6/conf/cni0/proxy_ndp")
    node.run("sh", "-ec", "echo 1 > /proc/sys/net/ipv4/conf/cni0/proxy_arp")


def test_masquerading_spares_the_pool(world: World) -> None:
    """A pod of another node sees the pod's address; a machine outside sees the node's."""
    a, b = world.pods["a"], world.pods["b"]
    for family in (4, 6):
        assert world.source(a.inside, b.inside, b.address(family)) == a.address(family)
        assert world.source(b.inside, a.inside, a.address(family)) == b.address(family)
        outside = world.source(a.inside, world.wire, OUTSIDE[family])
        assert outside == NODES["a"][family]
    link = json.loads(a.inside.run("ip", "-j", "link", "show", "eth0").stdout)
    assert link[0]["mtu"] == 1400
