"""fastipam behind the interface plugins: addresses that work, and that come back."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from . import tools
from .backend import PLUGIN_TYPE, assigned
from .cni import Attachment, Document, Network, gateways, refusal, run_plugin
from .conftest import NewNetNS
from .netns import NetNS, require_ipv6, require_link_type, require_nat

V4 = "10.23.0.0/24"
V6 = "fd00:23::/64"
STACKS = {"ipv4": [V4], "ipv6": [V6], "dual": [V4, V6]}

INTERFACE_PLUGINS: dict[str, Document] = {
    "bridge": {"type": "bridge", "bridge": "cni0", "isGateway": True},
    "ptp": {"type": "ptp"},
    "macvlan": {"type": "macvlan", "master": "uplink0", "mode": "bridge"},
    "ipvlan": {"type": "ipvlan", "master": "uplink0", "mode": "l2"},
}
LINK_TYPES = {"bridge": "bridge", "ptp": "veth", "macvlan": "macvlan", "ipvlan": "ipvlan"}
GATEWAY_ON_HOST = {"bridge", "ptp"}

NewNetwork = Callable[[Document], Network]


@pytest.fixture
def network(plugin_dir: Path, host: NetNS) -> NewNetwork:
    """Return a function that makes a network of a configuration or a configuration list."""

    def make(conf: Document) -> Network:
        kind = Network if "plugins" in conf else Network.of_plugin
        return kind(conf, plugin_dir, host)

    return make


def prepare(plugin: str, host: NetNS) -> None:
    """Skip where the plugin cannot work; make the uplink that macvlan and ipvlan sit on."""
    tools.require_cni_plugins(plugin)
    require_link_type(LINK_TYPES[plugin])
    if "master" in INTERFACE_PLUGINS[plugin]:
        host.run("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "uplink1")
        host.run("ip", "link", "set", "uplink0", "up")
        host.run("ip", "link", "set", "uplink1", "up")


def ipam(data_dir: Path, subnets: list[str]) -> Document:
    """Return an `ipam` section with one range set and one default route for each subnet."""
    defaults = {4: "0.0.0.0/0", 6: "::/0"}
    return {
        "type": PLUGIN_TYPE,
        "dataDir": str(data_dir),
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": defaults[ipaddress.ip_network(subnet).version]} for subnet in subnets],
    }


def configuration(plugin: str, data_dir: Path, subnets: list[str]) -> Document:
    """Return the configuration of an interface plugin over these subnets."""
    head = {"cniVersion": "1.0.0", "name": "mynet"}
    return {**head, **INTERFACE_PLUGINS[plugin], "ipam": ipam(data_dir, subnets)}


def held(data_dir: Path) -> set[tuple[str, str, str]]:
    """Return what the store says is in use: container, interface, address."""
    return {(one.container_id, one.ifname, one.address) for one in assigned(data_dir)}


def given(*attachments: Attachment) -> set[tuple[str, str, str]]:
    """Return what the results say is in use, in the shape of `held`."""
    return {
        (one.container_id, one.ifname, str(address.ip))
        for one in attachments
        for address in one.addresses
    }


def ping_all(source: NetNS, target: Attachment) -> None:
    """Ping every address of the attachment."""
    for address in target.addresses:
        source.ping(str(address.ip))


def documented_bridge(version: str, subnet: str, data_dir: Path) -> Document:
    """Return the bridge configuration that most tutorials and README files start with."""
    return {
        "cniVersion": version,
        "name": "mynet",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "ipam": {
            "type": PLUGIN_TYPE,
            "subnet": subnet,
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(data_dir),
        },
    }


@pytest.mark.parametrize("subnet", ["10.22.0.0/16", "10.32.0.0/12"])
@pytest.mark.parametrize("version", ["0.2.0", "1.0.0"])
def test_bridge_containers_reach_each_other_and_the_gateway(
    version: str,
    subnet: str,
    host: NetNS,
    new_netns: NewNetNS,
    network: NewNetwork,
    data_dir: Path,
) -> None:
    """Two containers on one bridge ping each other and the gateway; DEL frees both addresses."""
    prepare("bridge", host)
    net = network(documented_bridge(version, subnet, data_dir))
    first_ns, second_ns = new_netns("one"), new_netns("two")
    first, second = net.add(first_ns), net.add(second_ns)

    pool = ipaddress.ip_network(subnet)
    assert [address.network for one in (first, second) for address in one.addresses] == [pool] * 2
    assert first.addresses != second.addresses
    assert gateways(first.result) == [str(pool[1])]
    assert held(data_dir) == given(first, second)

    ping_all(first_ns, second)
    ping_all(second_ns, first)
    first_ns.ping(str(pool[1]))
    if version == "1.0.0":
        net.check(first)
        net.check(second)

    net.delete(first)
    assert held(data_dir) == given(second)
    net.delete(second)
    assert held(data_dir) == set()


def test_bridge_check_is_refused_before_0_4_0(
    host: NetNS, new_netns: NewNetNS, network: NewNetwork, data_dir: Path
) -> None:
    """CHECK is an incompatible-version error for a configuration older than the command."""
    prepare("bridge", host)
    net = network(documented_bridge("0.2.0", "10.22.0.0/16", data_dir))
    attachment = net.add(new_netns("one"))
    assert net.check_error(attachment)["code"] == 1
    net.delete(attachment)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("plugin", INTERFACE_PLUGINS)
def test_containers_ping_over_the_assigned_addresses(
    plugin: str,
    stack: str,
    host: NetNS,
    new_netns: NewNetNS,
    network: NewNetwork,
    data_dir: Path,
) -> None:
    """Every address of a result answers from another container, in each family and in both."""
    prepare(plugin, host)
    if stack != "ipv4":
        require_ipv6()
    net = network(configuration(plugin, data_dir, STACKS[stack]))
    first_ns, second_ns = new_netns("one"), new_netns("two")
    first, second = net.add(first_ns), net.add(second_ns)

    assert [str(one.network) for one in first.addresses] == STACKS[stack]
    assert held(data_dir) == given(first, second)
    ping_all(first_ns, second)
    if plugin in GATEWAY_ON_HOST:
        ping_all(host, first)
        for gateway in gateways(first.result):
            second_ns.ping(gateway)

    net.check(first)
    for attachment in (first, second):
        net.delete(attachment)
    assert held(data_dir) == set()


@pytest.mark.parametrize("stack", ["ipv4", "dual"])
@pytest.mark.parametrize("plugin", INTERFACE_PLUGINS)
def test_delete_after_the_namespace_is_gone_frees_the_addresses(
    plugin: str,
    stack: str,
    host: NetNS,
    new_netns: NewNetNS,
    network: NewNetwork,
    data_dir: Path,
) -> None:
    """DEL gives everything back when CNI_NETNS names a file that exists no more."""
    prepare(plugin, host)
    net = network(configuration(plugin, data_dir, STACKS[stack]))
    container = new_netns("one")
    attachment = net.add(container)
    container.delete()
    net.delete(attachment)
    assert held(data_dir) == set()


@pytest.mark.parametrize("plugin", INTERFACE_PLUGINS)
def test_delete_with_an_empty_netns_frees_the_address(
    plugin: str, host: NetNS, new_netns: NewNetNS, network: NewNetwork, data_dir: Path
) -> None:
    """DEL gives the address back when CNI_NETNS is empty, and a further DEL changes nothing."""
    prepare(plugin, host)
    net = network(configuration(plugin, data_dir, STACKS["ipv4"]))
    attachment = net.add(new_netns("one"))
    net.delete(attachment, netns="")
    assert held(data_dir) == set()
    net.delete(attachment, netns="")
    assert held(data_dir) == set()


def test_two_interfaces_of_one_container_hold_an_address_each(
    host: NetNS, new_netns: NewNetNS, plugin_dir: Path, data_dir: Path
) -> None:
    """DEL of one interface leaves the address of the container's other interface alone."""
    prepare("bridge", host)
    conf = configuration("bridge", data_dir, STACKS["ipv4"])
    container_id, container = uuid4().hex, new_netns("one")

    def run(command: str, ifname: str) -> Any:
        target = (conf, container_id, container.path, ifname)
        return run_plugin("bridge", command, *target, inside=host, plugin_dir=plugin_dir)

    run("ADD", "eth0").result()
    run("ADD", "eth1").result()
    assert {lease.ifname for lease in assigned(data_dir)} == {"eth0", "eth1"}
    run("DEL", "eth0").silent()
    assert [lease.ifname for lease in assigned(data_dir)] == ["eth1"]
    run("DEL", "eth1").silent()


def test_an_interface_plugin_that_fails_gives_the_address_back(
    host: NetNS, new_netns: NewNetNS, plugin_dir: Path, data_dir: Path
) -> None:
    """A ptp that cannot make its interface takes back the address it had asked for."""
    prepare("ptp", host)
    container = new_netns("one")
    container.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    conf = configuration("ptp", data_dir, STACKS["ipv4"])
    target = (conf, uuid4().hex, container.path)
    failure = run_plugin("ptp", "ADD", *target, inside=host, plugin_dir=plugin_dir).error()
    assert "exist" in failure["msg"]
    assert held(data_dir) == set()


def test_an_exhausted_pool_is_reported_by_the_interface_plugin(
    host: NetNS, new_netns: NewNetNS, plugin_dir: Path, network: NewNetwork, data_dir: Path
) -> None:
    """A bridge hands on the error for a full pool, and a DEL makes room."""
    prepare("bridge", host)
    conf = configuration("bridge", data_dir, ["10.23.0.0/30"])
    net = network(conf)
    holder = net.add(new_netns("one"))

    target = (conf, uuid4().hex, new_netns("two").path)
    full = run_plugin("bridge", "ADD", *target, inside=host, plugin_dir=plugin_dir).error()
    assert refusal(conf, inside=host, plugin_dir=plugin_dir) in full["msg"]
    assert held(data_dir) == given(holder)

    net.delete(holder)
    successor = net.add(new_netns("three"))
    assert successor.addresses == holder.addresses
    net.delete(successor)


def chain(data_dir: Path, stack: str, plugin: Document, version: str = "1.0.0") -> Document:
    """Return a configuration list of a bridge and another plugin."""
    bridge = {**INTERFACE_PLUGINS["bridge"], "ipam": ipam(data_dir, STACKS[stack])}
    return {"cniVersion": version, "name": "chained", "plugins": [bridge, plugin]}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_a_chain_keeps_the_addresses_in_its_final_result(
    version: str, host: NetNS, new_netns: NewNetNS, network: NewNetwork, data_dir: Path
) -> None:
    """A chain of bridge and tuning returns the leased addresses, and DEL in reverse frees them."""
    prepare("bridge", host)
    tools.require_cni_plugins("tuning")
    require_ipv6()
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}
    net = network(chain(data_dir, "dual", tuning, version))
    first_ns, second_ns = new_netns("one"), new_netns("two")
    first, second = net.add(first_ns), net.add(second_ns)

    assert held(data_dir) == given(first, second)
    ping_all(first_ns, second)
    tuned = first_ns.run("cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter")
    assert tuned.stdout.strip() == "1"
    if version != "0.3.1":
        net.check(first)
    for attachment in (first, second):
        net.delete(attachment)
    assert held(data_dir) == set()


def test_a_published_port_reaches_the_assigned_address(
    host: NetNS, new_netns: NewNetNS, network: NewNetwork, data_dir: Path
) -> None:
    """A chain of bridge and portmap leads from a port of the node to the container's address."""
    prepare("bridge", host)
    tools.require_cni_plugins("portmap")
    tools.require_tools("iptables")
    require_nat()
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    net = network(chain(data_dir, "ipv4", portmap))
    published = {"portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]}
    container = new_netns("one")
    attachment = net.add(container, capabilities=published)
    gateway = gateways(attachment.result)[0]
    with greeting_server(container, str(attachment.addresses[0].ip), 80):
        assert fetch(host, gateway, 8081) == "hello"
    # No CHECK: portmap 1.1.1 looks for IPv6 rules whatever the addresses are.
    net.delete(attachment, capabilities=published)
    assert held(data_dir) == set()


def test_a_chain_may_end_with_bandwidth(
    host: NetNS, new_netns: NewNetNS, network: NewNetwork, data_dir: Path
) -> None:
    """A chain of bridge and bandwidth carries traffic, passes CHECK, and frees its addresses."""
    prepare("bridge", host)
    tools.require_cni_plugins("bandwidth")
    require_link_type("ifb")
    bandwidth = {
        "type": "bandwidth",
        "ingressRate": 8_000_000,
        "ingressBurst": 8_000_000,
        "egressRate": 8_000_000,
        "egressBurst": 8_000_000,
    }
    net = network(chain(data_dir, "ipv4", bandwidth))
    first_ns, second_ns = new_netns("one"), new_netns("two")
    first, second = net.add(first_ns), net.add(second_ns)
    ping_all(first_ns, second)
    net.check(first)
    for attachment in (first, second):
        net.delete(attachment)
    assert held(data_dir) == set()


_SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"hello")
"""

_CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
    print(connection.recv(64).decode(), end="")
"""


@contextmanager
def greeting_server(netns: NetNS, address: str, port: int) -> Iterator[None]:
    """Greet one connection inside the namespace."""
    argv = netns.command(sys.executable, "-I", "-c", _SERVER, address, str(port))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def fetch(netns: NetNS, address: str, port: int) -> str:
    """Return what a server says to a connection from inside the namespace."""
    return netns.run(sys.executable, "-I", "-c", _CLIENT, address, str(port)).stdout
