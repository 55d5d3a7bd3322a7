"""Masquerading by one nftables table a family: who sees which source address, on two nodes.

Nodes and pods are network namespaces, agents set routes and rules, and the kernel carries packets.
"""

from __future__ import annotations

import json
import subprocess
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from fastipam.addressing.addresses import parse_cidr
from fastipam.cluster.masquerading import nft, ruleset
from fastipam.cluster.masquerading.masquerader import COMPARE_S, Masquerader

from ..agent.processes import FASTIPAM, ask, until
from ..e2e import netns, tools
from ..e2e.cni import Network
from ..e2e.conftest import plugin_dir  # noqa: F401  # a fixture of this name
from ..e2e.netns import within
from .links import Link, LinkNode
from .machines import accept, owners, take
from .rest import POOLS
from .test_pool_network import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..e2e.netns import NetNS
    from .fake import FakeServer
    from .links import Pod

OUTSIDE = ("192.0.2.100", "2001:db8::100")
FOREIGN = "table ip other { chain postrouting { type nat hook postrouting priority 100; }; }"


def prefixes(*cidrs: str) -> list[tuple[int, int, int]]:
    """CIDRs as (family, first address, length)."""
    return [parse_cidr(one) for one in cidrs]


# The rules --------------------------------------------------------------------------------------


def test_prefixes_that_touch_are_one() -> None:
    """The set has no element inside of another one, and each family its own."""
    told = prefixes("10.32.1.0/24", "10.32.0.0/24", "10.32.0.0/25", "fd00::/112", "10.64.0.0/16")
    assert ruleset.spared(4, told) == ["10.32.0.0/23", "10.64.0.0/16"]
    assert ruleset.spared(6, told) == ["fd00::/112"]


@pytest.fixture
def host() -> Iterator[NetNS]:
    """A network namespace, with a table of somebody else's."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "nft")
    netns.require_nat()
    with netns.temporary("host") as made:
        made.run("nft", FOREIGN)
        yield made


class Kept:
    """A masquerader in a namespace, on a clock that the test moves."""

    def __init__(self, host: NetNS) -> None:
        self.host = host
        self.seconds = 0.0
        self.pools = prefixes("10.32.0.0/20", "fd32::/112")
        self.begin()

    def begin(self) -> None:
        """Another process begins."""
        self.one = Masquerader(lambda: self.seconds)
        self.one.use("podnet", lambda: self.pools)

    def step(self, seconds: float = 0.0) -> None:
        """Let time go by, and do what is due."""
        self.seconds += seconds
        within(self.host, self.one.step)

    def rules(self, family: str = "ip") -> str:
        """What the kernel has of fastipam's."""
        done = self.host.run("nft", "list", "table", family, "fastipam", check=False)
        return str(done.stdout)


@pytest.fixture
def kept(host: NetNS) -> Kept:
    """A masquerader that has set its rules."""
    made = Kept(host)
    made.step()
    assert made.one.status == (True, "Set", "", 2, 1)
    return made


def test_the_rules_follow_the_pools(kept: Kept) -> None:
    """Both families in the tables of their own; a family without pools has none."""
    assert "10.32.0.0/20" in kept.rules("ip")
    assert "fd32::/112" in kept.rules("ip6")
    kept.pools = prefixes("10.32.0.0/19", "10.64.0.0/20")
    kept.step()
    assert "{ 10.32.0.0/19, 10.64.0.0/20 }" in kept.rules("ip")
    assert kept.rules("ip6") == ""
    kept.pools = []
    kept.step()
    assert kept.rules("ip") == ""
    assert kept.one.status.is_set


def test_the_next_process_finds_them_right(kept: Kept) -> None:
    """It replaces nothing that is as it should be, and nothing before the pools are known."""
    before = kept.host.run("nft", "--handle", "list", "ruleset").stdout
    pools, kept.pools = kept.pools, []
    kept.begin()
    kept.step()
    assert not kept.one.status.is_set
    kept.pools = pools
    kept.step()
    assert kept.one.status == (True, "Set", "", 2, 0)
    assert kept.host.run("nft", "--handle", "list", "ruleset").stdout == before


@pytest.mark.parametrize(
    "deed",
    [
        "delete table ip fastipam",
        "flush chain ip fastipam postrouting",
        "add element ip fastipam pools { 192.0.2.0/24 }",
        "add rule ip6 fastipam postrouting accept",
        "flush ruleset",
    ],
)
def test_what_others_change_is_set_again(
    kept: Kept, deed: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At the next comparison, and the log says so."""
    kept.host.run("nft", deed)
    kept.step(COMPARE_S - 1)
    assert kept.one.status.changes == 1
    kept.step(1)
    assert kept.one.status.changes == 2
    assert "10.32.0.0/20" in kept.rules("ip")
    assert "192.0.2.0/24" not in kept.rules("ip")
    assert "accept\n" not in kept.rules("ip6").replace("policy accept", "")
    assert "another program changed the nftables table fastipam" in caplog.text
    kept.step(COMPARE_S)
    assert kept.one.status.changes == 2


def test_tables_of_others_stay(kept: Kept) -> None:
    """Whatever is replaced or removed here."""
    assert "chain postrouting" in kept.host.run("nft", "list", "table", "ip", "other").stdout
    within(kept.host, lambda: nft.replace({4: "", 6: ""}))
    assert within(kept.host, nft.tables) == []
    assert kept.host.run("nft", "list", "tables").stdout == "table ip other\n"


def test_without_the_program(
    host: NetNS, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says once what to install; when it is there, the rules are set."""
    with monkeypatch.context() as patch:
        patch.setattr(nft, "_program", lambda: None)
        kept = Kept(host)
        for _ in range(5):
            kept.step(60)
        assert (kept.one.status.is_set, kept.one.status.reason) == (False, "NotFound")
        assert caplog.text.count("install the package nftables") == 1
    kept.step(60)
    assert kept.one.status.is_set


# Agents -----------------------------------------------------------------------------------------


@pytest.fixture
def link(fake_api: FakeServer, tmp_path: Path, plugin_dir: Path) -> Iterator[Link]:  # noqa: F811
    """A link with a machine outside, and two pools a family, of which the later are disabled."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "ping", "nft", "iptables", "ip6tables")
    tools.require_cni_plugins("ptp")
    netns.require_nat()
    netns.require_ipv6()
    for name, cidr, size, disabled in (
        ("four", "10.32.0.0/20", 24, False),
        ("six", "fd32::/112", 120, False),
        ("four-more", "10.64.0.0/20", 24, True),
        ("six-more", "fd64::/112", 120, True),
    ):
        accept(fake_api, name, cidr, size, disabled=disabled)
    with Link(partial(LinkNode, fake_api), tmp_path, plugin_dir) as made:
        for address, length in zip(OUTSIDE, (24, 64), strict=True):
            made.switch.run("ip", "address", "add", f"{address}/{length}", "dev", "s0", "nodad")
        yield made


def use_the_later_pools(link: Link) -> None:
    """Disable the first pools, and enable the later ones; wait until the nodes have blocks."""
    api = link.nodes[0].api
    for name in ("four", "six", "four-more", "six-more"):
        found = api.admin.get(f"{POOLS}/{name}").done()
        found["spec"]["disabled"] = "more" not in name
        take(api, api.admin.replace(f"{POOLS}/{name}", found).done())

    def are_claimed() -> bool:
        later = {(cidr[:4], node) for cidr, node in owners(api).items() if "64" in cidr[:5]}
        return len(later) == 4

    until(are_claimed, "each node has a block of the later pools")


def wait_for_routes(*nodes: LinkNode) -> None:
    """Wait until every node has a route to each block of the others."""

    def are_set() -> bool:
        blocks = [(node, ip_network(cidr)) for cidr, node in owners(nodes[0].api).items()]
        for one in nodes:
            there = [ip_network(each.split()[0]) for each in one.gateways()]
            for node, block in blocks:
                found = [each for each in there if block.network_address in each]
                if node != one.name and not found:
                    return False
        return True

    until(are_set, "the routes are set")


def source(client: Pod, server: NetNS, address: str) -> str:
    """The address from which a server sees a connection of a pod."""
    return World.source(None, client.namespace, server, address)  # type: ignore[arg-type]


def sees(link: Link, one: Pod, other: Pod, node: LinkNode) -> None:
    """The other pod sees the pod's own address, and a machine outside that of its node."""
    for at in (0, 1):
        assert source(one, other.namespace, other.addresses[at]) == one.addresses[at]
        assert source(one, link.switch, OUTSIDE[at]) == node.addresses[at]


def rules(node: LinkNode, family: str = "ip") -> str:
    """What the node's kernel has of fastipam's."""
    return str(node.host.run("nft", "list", "table", family, "fastipam", check=False).stdout)


def test_two_pools(link: Link) -> None:
    """Pods of two pools see each other's own addresses, on two nodes, in both families."""
    a, b = (link.node(name) for name in "ab")
    for one in (a, b):
        one.start("--masquerade")
    until(lambda: len(owners(link.nodes[0].api)) == 4, "each node has a block of each family")
    first = a.add(link.plugin_dir)
    use_the_later_pools(link)
    wait_for_routes(a, b)
    second, third = a.add(link.plugin_dir), b.add(link.plugin_dir)
    assert first.addresses[0].startswith("10.32.")
    assert third.addresses[0].startswith("10.64.")
    for pod, other, node in ((first, third, a), (third, first, b), (first, second, a)):
        sees(link, pod, other, node)


def test_pods_with_a_rule_of_ptp(link: Link) -> None:
    """A node goes over while pods run that ptp masquerades: they and new ones reach all they did.

    A new pod's address is seen by all pods; that of an old one by those of its own pool.
    """
    a, b = (link.node(name) for name in "ab")
    document = json.loads(a.conflist.read_text())
    document["plugins"][0]["ipMasq"] = True
    a.conflist.write_text(json.dumps(document))
    for one in (a, b):
        one.start()
    until(lambda: len(owners(link.nodes[0].api)) == 4, "each node has a block of each family")
    old = a.add(link.plugin_dir)
    a.write()
    for one in (a, b):
        assert one.agent is not None
        one.agent.terminate()
        one.start("--masquerade")
        until(lambda: "10.64.0.0/20" in rules(one), "the rules are set")  # noqa: B023
    wait_for_routes(a, b)
    same = b.add(link.plugin_dir)
    sees(link, old, same, a)
    sees(link, same, old, b)
    use_the_later_pools(link)
    wait_for_routes(a, b)
    new = b.add(link.plugin_dir)
    sees(link, new, old, b)
    for at in (0, 1):
        assert source(old, new.namespace, new.addresses[at]) == a.addresses[at]
    old.namespace.ping(new.addresses[0])
    assert left_of_plugins(a) == 2
    with pytest.MonkeyPatch.context() as patch:
        assert a.agent is not None
        patch.setenv("FASTIPAM_SOCKET", str(a.agent.path))
        Network(a.document(), link.plugin_dir, a.host).delete(old.attachment)
    assert left_of_plugins(a) == 2  # the configuration says nothing of them any more


def left_of_plugins(node: LinkNode) -> int:
    """How many pods' addresses the rules of plugins name."""
    told = [node.host.run(f"{one}-save", "-t", "nat").stdout for one in ("iptables", "ip6tables")]
    return sum(line.startswith("-A POSTROUTING -s") for each in told for line in each.splitlines())


def test_they_stay_until_they_are_removed(link: Link) -> None:
    """They outlive the agent, come from the node's own store while the API is down, and go."""
    node = link.node("a")
    node.start("--masquerade")
    until(lambda: "10.64.0.0/20" in rules(node), "the rules are set")
    assert node.agent is not None
    node.agent.terminate()
    assert "10.64.0.0/20" in rules(node)
    node.host.run("nft", "flush", "ruleset")  # as a reboot does
    node.proxy.become("mute")
    node.proxy.cut()
    node.start("--masquerade")
    until(lambda: "10.64.0.0/20" in rules(node), "the rules are set again")
    node.agent.terminate()
    command = [
        *node.host.command(), str(FASTIPAM), "uninstall", "--force", "--json",
        *("--conflist", str(node.path / "none"), "--bin-dir", str(node.path)),
        *("--socket", str(node.path / "s"), "--data-dir", str(node.store)),
    ]  # fmt: skip
    for became in ("removed", "absent"):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        parts = {one["what"]: one for one in json.loads(done.stdout)["parts"]}
        assert parts["masquerading"]["became"] == became
    assert rules(node) == rules(node, "ip6") == ""


def test_without_the_right(link: Link) -> None:
    """Pods get their addresses; the log and a metric say what is missing."""
    tools.require_tools("setpriv")
    node = link.node("a")
    prefix = [*node.host.command(), "setpriv", "--bounding-set", "-net_admin"]
    from ..agent.processes import Agent

    options = ("--cluster", str(node.conflist), "--masquerade", "--http", "127.0.0.1:7001")
    node.agent = Agent(node.path / "s", *options, prefix=prefix)
    until(lambda: "needs the capability NET_ADMIN" in node.agent.log, "the log says it")  # type: ignore[union-attr]
    until(node.has_pools, "the agent has a block")
    assert ask(node.agent.path, "ADD", node.config(), "c1").status == 0
    fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:7001/metrics').read())"
    assert "fastipam_masquerading 0.0" in node.host.run("python3", "-c", fetch).stdout


def test_one_agent_a_machine(link: Link) -> None:
    """Two would replace each other's rules; and one needs to know a network."""
    node = link.node("a")
    node.start("--masquerade")

    def refused(*options: str) -> str:
        command = [*node.host.command(), str(FASTIPAM), "agent", "--socket", str(node.path / "t")]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 1, done
        return done.stderr

    told = refused("--masquerade", "--cluster", str(node.conflist))
    assert "another agent masquerades on this machine" in told
    assert node.agent is not None
    node.agent.terminate()
    assert "--cluster FILE" in refused("--masquerade")
