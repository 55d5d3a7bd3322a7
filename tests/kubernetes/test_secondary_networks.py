"""Two interfaces of one container, each with a configuration of its own, as Multus attaches them.

libcni itself makes the calls: cnitool is libcni as a command. Its cache, from which CHECK and DEL
have the result of ADD, is a directory of the test's.
"""

from __future__ import annotations

import json
import subprocess
from hashlib import sha512
from itertools import permutations
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import fastipam
from fastipam.cli.commands.install.executables import install
from fastipam.verify import verify

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..e2e import netns, tools
from ..measuring import passed_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..agent.processes import Agent
    from ..e2e.netns import NetNS

    Start = Callable[..., Agent]

# The interfaces, the plugins that make them, and the ranges of their configurations.
INTERFACES = {"eth0": ("ptp", "10.71.0.0/24"), "net1": ("bridge", "10.72.0.0/24")}
# In a mount namespace of its own, so that /var/lib/cni, libcni's cache, is the test's.
_RUN = 'mount --bind "$1" /var/lib; shift; exec nsenter --net="$@"'
NAMES = {"one name": ("podnet", "podnet"), "two names": ("podnet", "blue")}


class Held(NamedTuple):
    """An address in use: its network, container and interface."""

    network: str
    container: str
    ifname: str


class Node:
    """A node whose runtime uses libcni; ``names`` are the networks of eth0 and net1."""

    def __init__(
        self, path: Path, inside: NetNS, cnitool: Path, plugins: list[Path], names: tuple[str, str]
    ) -> None:
        self.path = path
        self.inside = inside
        self.store = path / "store"
        self.socket = path / "none"
        self.names = dict(zip(INTERFACES, names, strict=True))
        self._cnitool = cnitool
        self._plugins = plugins
        self._cache = path / "cache"
        for one in (self._cache, *(path / ifname for ifname in INTERFACES), path / "gc"):
            one.mkdir()
        for ifname, (kind, _) in INTERFACES.items():
            self._write(ifname, {"type": kind, "ipam": self._ipam(ifname)}, path / ifname)

    def _ipam(self, ifname: str) -> dict[str, Any]:
        subnet = INTERFACES[ifname][1]
        return {"type": "fastipam", "dataDir": str(self.store), "ranges": [[{"subnet": subnet}]]}

    def _write(self, ifname: str, plugin: dict[str, Any], directory: Path) -> None:
        more = {"bridge": "br1", "isGateway": True} if plugin["type"] == "bridge" else {}
        document = {"cniVersion": "1.1.0", "name": self.names[ifname], "plugins": [plugin | more]}
        (directory / "net.conflist").write_text(json.dumps(document))

    def call(
        self, command: str, ifname: str, pod: NetNS, directory: str = "", cache: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A call of libcni about one interface of a pod."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CNI_PATH": ":".join(map(str, self._plugins)),
            "NETCONFPATH": str(self.path / (directory or ifname)),
            "CNI_IFNAME": ifname,
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME={pod.name}",
            "FASTIPAM_SOCKET": str(self.socket),
        } | passed_on()
        words = ["unshare", "-m", "sh", "-ec", _RUN, "sh", str(cache or self._cache)]
        words += [self.inside.path, str(self._cnitool), command, self.names[ifname], pod.path]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    def do(self, command: str, ifname: str, pod: NetNS) -> str:
        """The same; it succeeds."""
        done = self.call(command, ifname, pod)
        assert done.returncode == 0, (command, ifname, done.stdout, done.stderr)
        return done.stdout

    def gc(self, ifname: str, valid: list[Held]) -> subprocess.CompletedProcess[str]:
        """GC of the network of an interface with a list, as libcni sends it.

        The main plugins of today hand GC to no IPAM plugin: here it is the plugin of the list.
        cnitool has no option for a list, so the configuration has it, and the cache is empty.
        """
        attachments = [{"containerID": one.container, "ifname": one.ifname} for one in valid]
        keys = ("cni.dev/valid-attachments", "cni.dev/attachments")
        plugin = {"type": "fastipam", "ipam": self._ipam(ifname)} | dict.fromkeys(keys, attachments)
        self._write(ifname, plugin, self.path / "gc")
        empty = self.path / "empty"
        empty.mkdir(exist_ok=True)
        return self.call("gc", ifname, self.inside, "gc", empty)

    def held(self) -> set[Held]:
        """What is in use; each address is of the ranges of its interface's configuration."""
        found = set()
        with fastipam.open(self.store) as ipam:
            for name in ipam.networks():
                for one in ipam.network(name).leases():
                    prefix = INTERFACES[one.ifname][1].removesuffix("0/24")
                    assert str(one.address).startswith(prefix), one
                    found.add(Held(name, one.container_id, one.ifname))
        return found

    def of(self, ifname: str, pod: NetNS) -> Held:
        """What an interface of a pod holds while it is attached; cnitool makes the id."""
        container = f"cnitool-{sha512(pod.path.encode()).hexdigest()[:20]}"
        return Held(self.names[ifname], container, ifname)


@pytest.fixture(params=["agent", "direct"])
def make(
    request: pytest.FixtureRequest,
    kubernetes_program: Callable[[str], Path],
    run_dir: Path,  # noqa: F811
    start: Start,  # noqa: F811
) -> Iterator[Callable[[str], Node]]:
    """A function that makes a node of so many names, with an agent and without."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "unshare")
    cnitool = kubernetes_program("cnitool")
    mains = [kubernetes_program(kind).parent for kind, _ in INTERFACES.values()]
    with netns.temporary("host") as inside:

        def made(names: str) -> Node:
            plugins = [install(run_dir / "bin").parent, *mains]
            node = Node(run_dir, inside, cnitool, plugins, NAMES[names])
            if request.param == "agent":
                node.socket = start("--data-dir", str(node.store)).path
            return node

        yield made


@pytest.fixture
def pods() -> Iterator[tuple[NetNS, NetNS]]:
    """The namespaces of two pods."""
    tools.require_root()
    with netns.temporary("one") as one, netns.temporary("two") as two:
        yield one, two


@pytest.mark.parametrize("names", NAMES)
def test_interfaces_come_and_go(
    make: Callable[[str], Node], pods: tuple[NetNS, NetNS], names: str
) -> None:
    """ADD, CHECK and DEL of one interface leave the other's lease, and the other pod's, alone."""
    node, (pod, other) = make(names), pods
    both = {node.of(ifname, pod) for ifname in INTERFACES}
    others = {node.of(ifname, other) for ifname in INTERFACES}
    for ifname in INTERFACES:
        node.do("add", ifname, other)
    for order in permutations(INTERFACES):
        for ifname in INTERFACES:
            node.do("add", ifname, pod)
        assert node.held() == both | others
        for ifname in (*INTERFACES, *INTERFACES):
            node.do("check", ifname, pod)
        first, last = order
        for _ in range(3):  # the kubelet repeats a DEL
            node.do("del", first, pod)
            assert node.held() == {node.of(last, pod)} | others
        node.do("check", last, pod)
        assert "eth0" not in node.call("check", first, pod).stdout
        assert node.call("check", first, pod).returncode == 1
        node.do("del", last, pod)
        node.do("del", first, pod)
        assert node.held() == others
    for ifname in INTERFACES:
        node.do("check", ifname, other)
        node.do("del", ifname, other)
    assert node.held() == set()
    with fastipam.open(node.store) as ipam:
        assert not verify(ipam.store)


@pytest.mark.parametrize("names", NAMES)
def test_gc_by_list(make: Callable[[str], Node], pods: tuple[NetNS, NetNS], names: str) -> None:
    """A pod whose DEL was lost gives back what it has of the network that is collected.

    A list is of a network by its name, as in libcni's own cache: of one name it has the attachments
    of both configurations.
    """
    node, (pod, gone) = make(names), pods
    for one in pods:
        for ifname in INTERFACES:
            node.do("add", ifname, one)
    everything = node.held()
    assert len(everything) == 4
    for ifname in INTERFACES:
        valid = [one for one in everything if one.container == node.of("eth0", pod).container]
        valid = [one for one in valid if one.network == node.names[ifname]]
        done = node.gc(ifname, valid)
        assert done.returncode == 0, done.stdout + done.stderr
        lost = {node.of(each, gone) for each in INTERFACES}
        everything -= {one for one in lost if one.network == node.names[ifname]}
        assert node.held() == everything
    assert everything == {node.of(ifname, pod) for ifname in INTERFACES}
    for ifname in INTERFACES:
        node.do("check", ifname, pod)


def test_gc_of_one_network_by_libcni(
    make: Callable[[str], Node], pods: tuple[NetNS, NetNS]
) -> None:
    """Without a list libcni sends DEL for all attachments of the name in its cache, no others."""
    node = make("two names")
    for one in pods:
        for ifname in INTERFACES:
            node.do("add", ifname, one)
    node.do("gc", "eth0", pods[0])
    assert node.held() == {node.of("net1", one) for one in pods}
    for one in pods:
        node.do("check", "net1", one)


@pytest.mark.parametrize("names", NAMES)
def test_gc_without_a_list(
    make: Callable[[str], Node], pods: tuple[NetNS, NetNS], names: str
) -> None:
    """The plugin refuses GC without a list, and releases nothing of either interface."""
    node, (pod, _) = make(names), pods
    for ifname in INTERFACES:
        node.do("add", ifname, pod)
    before = node.held()
    plugin = {"type": "fastipam", "ipam": node._ipam("eth0")}
    node._write("eth0", plugin, node.path / "gc")
    empty = node.path / "empty"
    empty.mkdir()
    done = node.call("gc", "eth0", pod, "gc", empty)
    assert done.returncode == 1
    assert "the list of valid attachments is missing: nothing was released" in done.stderr
    assert node.held() == before
