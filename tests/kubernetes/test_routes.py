"""Agents that set the routes between nodes: three namespaces as nodes, ptp, an API server."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.routing import kernel

from ..agent.processes import FASTIPAM, ask, until
from ..cluster.conftest import election_ms, etcd  # noqa: F401  # fixtures of the same name
from ..e2e import tools
from ..e2e.conftest import plugin_dir  # noqa: F401  # a fixture of this name
from ..e2e.netns import within
from ..options import options
from .links import EtcdNode, Link, LinkNode, expected, settle
from .machines import accept, owners, take
from .rest import BLOCKS, POOLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cluster.etcd import Etcd
    from ..e2e.netns import NetNS
    from .conftest import Api
    from .fake import FakeServer

_OUTAGE_S = 610  # of the long form: more than the time between two comparisons of the table


@pytest.fixture
def link(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    plugin_dir: Path,  # noqa: F811
) -> Iterator[Link]:
    """A link without nodes, and pools of both families."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "ping")
    tools.require_cni_plugins("ptp")
    name = "api" if "api" in request.fixturenames else "fake_api"
    api: Api = request.getfixturevalue(name)
    accept(api, "four", "10.32.0.0/20", 24)
    accept(api, "six", "fd32::/112", 120)
    with Link(partial(LinkNode, api), tmp_path, plugin_dir) as made:
        yield made


def api_of(link: Link) -> Api:
    """The API of its nodes."""
    return link.nodes[0].api


def three(link: Link) -> list[LinkNode]:
    """Three nodes with all their routes."""
    nodes = [link.node(name) for name in ("a", "b", "c")]
    for one in nodes:
        one.start()
    until(lambda: len(owners(api_of(link))) == 6, "each node has a block of each family")
    settle(*nodes, api=api_of(link))
    return nodes


def move(link: Link, cidr: str, to: LinkNode) -> None:
    """A block changes hands, as when its owner answers a request."""
    (found,) = (
        one for one in api_of(link).admin.get(BLOCKS).done()["items"] if one["spec"]["cidr"] == cidr
    )
    owner = found["spec"]["node"]
    found["spec"] |= {"node": to.name, "via": [to.addresses[":" in cidr]]}
    found["spec"]["grant"] = {"request": "r", "number": 1, "from": owner}
    api_of(link).admin.replace(f"{BLOCKS}/{found['metadata']['name']}", found).done()


def test_pods_of_three_nodes(link: Link, api: Api) -> None:
    """Every pod reaches every pod, in both families, over nodes that come and go."""
    nodes = three(link)
    pods = [one.add(link.plugin_dir) for one in nodes]
    for pod in pods:
        for other in pods:
            pod.ping(other)
    late = link.node("d")
    late.start()
    until(lambda: len(owners(api)) == 8, "the fourth node has blocks")
    settle(*nodes, late, api=api)
    newest = late.add(link.plugin_dir)
    pods[0].ping(newest)
    newest.ping(pods[1])
    settle(*nodes, late, api=api)


def test_a_pod_that_is_gone(link: Link) -> None:
    """Its address is unreachable on every node: no packet leaves by the default route."""
    nodes = three(link)
    for one in nodes:
        one.ip("route", "add", "default", "via", "192.0.2.99")
        one.ip("-6", "route", "add", "default", "via", "2001:db8::99")
    own = next(
        one for one in nodes[0].routes() if one.startswith("unreachable 10.32.") and "/24" in one
    )
    address = own.partition(" ")[2].rpartition(".")[0] + ".77"
    got = nodes[0].host.run("ip", "route", "get", address, check=False)
    assert "Host is unreachable" in got.stderr or "No route to host" in got.stderr, got
    assert "via 192.0.2.1 " in nodes[1].ip("route", "get", address)
    nobody = "fd32::ff77"
    got = nodes[2].host.run("ip", "-6", "route", "get", nobody, check=False)
    assert "unreachable" in got.stdout + got.stderr or "No route to host" in got.stderr


def test_a_block_changes_hands(link: Link) -> None:
    """A hand-over moves the route on every node; a release deletes it."""
    nodes = three(link)
    cidr = next(
        cidr for cidr, owner in owners(api_of(link)).items() if owner == "b" and "." in cidr
    )
    assert nodes[1].agent is not None
    nodes[1].agent.terminate()
    move(link, cidr, nodes[2])
    until(lambda: f"{cidr} via 192.0.2.3" in nodes[0].routes(), "the route is moved")
    until(lambda: f"unreachable {cidr}" in nodes[2].routes(), "the new owner has it")
    assert not any(one.startswith(f"{cidr} via 192.0.2.2") for one in nodes[0].routes())
    name = cidr.replace(".", "-").replace("/", "-")
    api_of(link).admin.delete(f"{BLOCKS}/{name}").done()
    until(lambda: not any(cidr in one for one in nodes[0].routes()), "the route is deleted")


def test_an_agent_is_started_again(link: Link) -> None:
    """Routes stay while there is none; the next one sets what is missing, deletes what is stale."""
    a, b, c = three(link)
    before = a.routes()
    assert a.agent is not None
    a.agent.kill()
    assert a.routes() == before
    gone = sorted(a.gateways())
    a.ip("route", "del", next(one for one in gone if "." in one.partition("/")[0]).split()[0])
    a.ip("route", "add", "10.32.99.0/24", "via", "192.0.2.3", "proto", "147", "metric", "1470")
    a.ip("route", "add", "10.32.98.0/24", "via", "192.0.2.3", "proto", "147")
    a.ip("route", "add", "10.99.0.0/24", "via", "192.0.2.3")  # an administrator's
    a.start()
    settle(a, b, c, api=api_of(link))
    assert "via 192.0.2.3" in a.ip("route", "show", "10.99.0.0/24")


def test_the_api_is_down(link: Link, fake_api: FakeServer) -> None:
    """No route is lost: by an agent that runs, by one that starts, or with a link.

    The long form goes on for ten minutes, after which each agent compares the whole table.
    """
    a, b, c = nodes = three(link)
    pods = [one.add(link.plugin_dir) for one in nodes]
    before = [one.routes() for one in nodes]
    for one in nodes:
        one.proxy.become("refuse")
    assert a.agent is not None
    a.agent.kill()
    a.start()  # it knows only what the kernel has
    for node in (a, b):
        node.ip("link", "set", "eth0", "down")
        assert not node.gateways()
        link.plug(node)
    a.ip("route", "add", "unreachable", "10.32.97.0/24", "proto", "147", "metric", "14700")
    b.ip("route", "add", "unreachable", "10.32.97.0/24", "proto", "147", "metric", "14700")
    stale = {"unreachable 10.32.97.0/24"}
    until(lambda: b.routes() == before[1] | stale, "b has its routes again")
    until(lambda: a.routes() == before[0] | stale, "a has its routes again")
    assert c.routes() == before[2]
    if options.long:
        time.sleep(_OUTAGE_S)
        assert a.routes() == before[0] | stale
        assert b.routes() == before[1] | stale
        assert c.routes() == before[2]
    pods[0].ping(pods[1])
    pods[2].ping(pods[0])
    for one in nodes:
        one.proxy.become("pass")
    settle(*nodes, api=fake_api)  # and what is stale is deleted


def test_a_link_that_flaps(link: Link) -> None:
    """Routes that the kernel takes with a link come back with it."""
    nodes = three(link)
    for _ in range(3):
        nodes[0].ip("link", "set", "eth0", "down")
        link.plug(nodes[0])
    settle(*nodes, api=api_of(link))
    nodes[1].ip("route", "flush", "proto", "147")
    nodes[1].ip("-6", "route", "flush", "proto", "147")
    settle(*nodes, api=api_of(link))


def test_a_node_off_the_link(link: Link) -> None:
    """It is named in the log, the metrics and the condition, and no node has a route to it."""
    a, b = link.node("a"), link.node("b")
    b.cluster["address"] = ["198.51.100.2", "2001:db8:1::2"]
    b.write()
    a.ip("route", "add", "default", "via", "192.0.2.99")
    a.ip("-6", "route", "add", "default", "via", "2001:db8::99")
    a.start("--http", "9464")
    b.start()
    until(lambda: len(owners(api_of(link))) == 4, "both have blocks")
    until(lambda: a.agent is not None and a.agent.log.count("is not on a link") == 2, "it is told")
    own = {cidr for cidr, owner in owners(api_of(link)).items() if owner == "a"}
    pools = {"10.32.0.0/20", "fd32::/112"}
    assert a.routes() == {f"unreachable {one}" for one in own | pools}
    text = within(a.host, _metrics)
    assert 'fastipam_routes_left_out{reason="NodeOffLink"} 2.0' in text
    assert "fastipam_routes_complete 1.0" in text
    assert 'fastipam_routes{family="4",type="unreachable"} 2.0' in text


def _metrics() -> str:
    """What the agent of this namespace tells Prometheus."""
    with urllib.request.urlopen("http://127.0.0.1:9464/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def test_foreign_routes(link: Link) -> None:
    """Those of others stay: the same prefix, a wider and a narrower one; one by hand wins."""
    a, b = link.node("a"), link.node("b")
    b.start()
    until(lambda: len(owners(api_of(link))) == 2, "b has blocks")
    cidr = next(one for one in owners(api_of(link)) if "." in one)
    foreign = {cidr: "192.0.2.77", "10.0.0.0/8": "192.0.2.78", f"{cidr[:-5]}.128/25": "192.0.2.79"}
    for prefix, gateway in foreign.items():
        a.ip("route", "add", prefix, "via", gateway)
    a.start()
    until(lambda: len(owners(api_of(link))) == 4, "a has blocks")
    settle(a, b, api=api_of(link))
    for prefix, gateway in foreign.items():
        assert f"via {gateway}" in a.ip("route", "show", prefix)
    assert "via 192.0.2.77" in a.ip("route", "get", f"{cidr[:-5]}.5")
    assert a.agent is not None
    a.agent.terminate()
    assert within(a.host, kernel.remove_all) == len(expected(a, (a, b), api_of(link)))
    assert not a.routes()
    for prefix, gateway in foreign.items():
        assert f"via {gateway}" in a.ip("route", "show", prefix)


def test_two_agents(link: Link) -> None:
    """The second one that would set routes on a machine is refused, whatever its socket is."""
    node = link.node("a")
    node.start()
    command = [
        *node.host.command(), str(FASTIPAM), "agent", "--socket", str(node.path / "other"),
        "--cluster", str(node.conflist), "--routes", "host-gw",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "another agent sets the routes of this machine" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_net_admin(link: Link) -> None:
    """It says what is missing, and does not start; without --routes it needs nothing."""
    node = link.node("a")
    command = [
        *node.host.command(), "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin",
        str(FASTIPAM), "agent", "--socket", str(node.path / "s"),
    ]  # fmt: skip
    more = ["--cluster", str(node.conflist), "--routes", "host-gw"]
    done = subprocess.run(
        [*command, *more], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "may not change the machine's routes" in done.stderr
    assert "NET_ADMIN" in done.stderr
    done = subprocess.run(
        [*command, "--routes", "host-gw"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "no --cluster file names a network to set routes for" in done.stderr


def test_a_disabled_pool(link: Link) -> None:
    """Its blocks keep their routes, and it stays unreachable beside them; pods go on."""
    nodes = three(link)
    pods = [one.add(link.plugin_dir) for one in nodes]
    found = api_of(link).admin.get(f"{POOLS}/four").done()
    found["spec"]["disabled"] = True
    made = api_of(link).admin.replace(f"{POOLS}/four", found).done()
    take(api_of(link), made)
    accept(api_of(link), "more", "10.48.0.0/20", 24)
    until(lambda: all("unreachable 10.48.0.0/20" in one.routes() for one in nodes), "the new pool")

    def of_others(routes: set[str]) -> set[str]:
        return {one for one in routes if "10.48." not in one}  # of the new pool some are adjacent

    until(
        lambda: all(
            of_others(one.routes()) == of_others(expected(one, tuple(nodes), api_of(link)))
            for one in nodes
        ),
        "the other routes",
    )
    pods[0].ping(pods[2])


def test_an_overlay(link: Link) -> None:
    """Nodes behind a router, and host-gw over a VXLAN that is made as docs/routes.md does it."""
    a, b = nodes = [link.node("a"), link.node("b")]
    for address in ("192.0.2.254/24", "198.51.100.254/24"):
        link.switch.run("ip", "address", "add", address, "dev", "s0")
    link.switch.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    b.ip("address", "flush", "dev", "eth0")
    b.ip("address", "add", "198.51.100.2/24", "dev", "eth0")
    a.ip("route", "add", "default", "via", "192.0.2.254")
    b.ip("route", "add", "default", "via", "198.51.100.254")
    own = {"a": "192.0.2.1", "b": "198.51.100.2"}
    for number, node in enumerate(nodes, 1):
        vxlan = ["type", "vxlan", "id", "147", "dstport", "4789", "nolearning", "local"]
        made = node.host.run("ip", "link", "add", "vx0", *vxlan, own[node.name], check=False)
        if made.returncode:
            tools.unsupported(f"the kernel makes no VXLAN: {made.stderr}")
        node.addresses = [f"100.64.0.{number}", f"fd64::{number}"]
        node.ip("address", "add", f"{node.addresses[0]}/24", "dev", "vx0")
        node.ip("address", "add", f"{node.addresses[1]}/64", "dev", "vx0", "nodad")
        node.ip("link", "set", "vx0", "mtu", "1450", "up")
        (other,) = (address for name, address in own.items() if name != node.name)
        flood = ["fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", other]
        node.host.run("bridge", *flood)
        node.cluster["address"] = node.addresses
        node.write()
        node.start()
    until(lambda: len(owners(api_of(link))) == 4, "each node has a block of each family")
    settle(a, b, api=api_of(link))
    pods = [node.add(link.plugin_dir) for node in nodes]
    pods[0].ping(pods[1])


def test_own_routes_only(link: Link) -> None:
    """Somebody else routes: an agent with --routes own has unreachable routes, and no other."""
    a, b = link.node("a"), link.node("b")
    a.start(routes="own")
    b.start()
    until(lambda: len(owners(api_of(link))) == 4, "each node has a block of each family")
    until(lambda: b.routes() == expected(b, (a, b), api_of(link)), "b routes to a")
    mine = {cidr for cidr, owner in owners(api_of(link)).items() if owner == "a"}
    wanted = {f"unreachable {one}" for one in (*mine, "10.32.0.0/20", "fd32::/112")}
    until(lambda: a.routes() == wanted, "only unreachable ones")


def test_etcd(tmp_path: Path, plugin_dir: Path, etcd: Etcd) -> None:  # noqa: F811
    """The same with etcd: pods reach each other, over an outage and a node that is removed."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "ping")
    tools.require_cni_plugins("ptp")
    port = int(etcd.endpoints[0].rpartition(":")[2])
    with Link(partial(EtcdNode, port), tmp_path, plugin_dir) as link:
        nodes = [link.node(name) for name in ("a", "b")]
        (a, b), conflist = nodes, str(nodes[0].conflist)
        run = partial(a.host.run, str(FASTIPAM), "cluster")
        run("init", "--config", conflist)
        for one in nodes:
            one.start()
        until(lambda: len(a.gateways()) == len(b.gateways()) == 2, "routes to each other")
        pods = [one.add(plugin_dir) for one in nodes]
        pods[0].ping(pods[1])
        pods[1].ping(pods[0])
        before = a.routes()
        a.proxy.become("refuse")
        a.ip("link", "set", "eth0", "down")
        link.plug(a)
        until(lambda: a.routes() == before, "the routes are there again")
        pods[0].ping(pods[1])
        a.proxy.become("pass")
        b.host.run(str(FASTIPAM), "cluster", "claim", "--family", "4", "--config", str(b.conflist))
        until(lambda: a.gateways() - before, "the agent follows again")
        assert b.agent is not None
        b.agent.terminate()
        run("release-node", "b", "--force", "--config", conflist)
        until(lambda: not a.gateways(), "the routes of the removed node are gone")
        assert len(a.routes()) == 4


def test_a_new_block(link: Link) -> None:
    """ADDs that need more blocks: the other node's routes lead to every address that was given."""
    a, b = link.node("a"), link.node("b")
    for one in (a, b):
        one.start()
    until(lambda: len(owners(api_of(link))) == 4, "each node has a block of each family")
    assert b.agent is not None
    given = []
    for at in range(300):  # a block has 254
        answer = ask(b.agent.path, "ADD", b.config(), f"c{at}")
        assert answer.status == 0, answer
        given += [one["address"].partition("/")[0] for one in answer.document["ips"]]
    last = time.monotonic()

    def is_reached(address: str) -> bool:
        gateway = b.addresses[":" in address]
        return f"via {gateway} " in a.ip("route", "get", address, check=False)

    until(lambda: all(map(is_reached, given[-2:])), "the last pod's addresses are routed")
    print(f"{time.monotonic() - last:.3f} s after the last ADD")  # shown with -s
    until(lambda: is_reached(given[0]), "the first one's are, too")
    assert len(owners(api_of(link))) > 4


def test_bgp(link: Link) -> None:
    """BIRD as docs/routes.md has it, on two nodes behind a router; the agents set own routes."""
    tools.require_tools("bird")
    a, b = nodes = [link.node("a"), link.node("b")]
    router = {"a": "192.0.2.254", "b": "198.51.100.254"}
    for address in router.values():
        link.switch.run("ip", "address", "add", f"{address}/24", "dev", "s0")
    link.switch.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    b.ip("address", "flush", "dev", "eth0")
    b.ip("address", "add", "198.51.100.2/24", "dev", "eth0")
    b.addresses[0] = "198.51.100.2"
    text = (Path(__file__).parents[2] / "docs" / "routes.md").read_text()
    documented = text[text.index("router id") :].partition("```")[0]
    peers = (
        "router id 192.0.2.254;\nprotocol device {}\nprotocol kernel { ipv4 { export all; }; }\n"
    )
    with ExitStack() as stack:
        for number, node in enumerate(nodes, 64512):
            node.ip("route", "add", "default", "via", router[node.name])
            here, peer = node.addresses[0], router[node.name]
            own = documented.replace("192.0.2.254", peer).replace("192.0.2.1", here)
            own = own.replace(">= 20", ">= 21")  # the pool is a /20 here
            own = own.replace("64512", str(number)).replace(" uplink {", f" uplink {{ {_QUICK}")
            stack.callback(_bird(node.host, node.path, own).wait)
            peers += f"protocol bgp {node.name} {{ local {peer} as 64500; "
            peers += f"neighbor {here} as {number}; {_QUICK} "
            peers += "ipv4 { import all; export all; next hop self; }; }\n"
            node.start(routes="own")
        (link.path / "router").mkdir()
        stack.callback(_bird(link.switch, link.path / "router", peers).wait)
        for directory in (*(node.path for node in nodes), link.path / "router"):
            stack.callback(_end_bird, directory)
        until(lambda: len(owners(api_of(link))) == 4, "each node has a block of each family")
        pods = [node.add(link.plugin_dir) for node in nodes]
        address = pods[1].addresses[0]
        until(lambda: "proto bird" in a.ip("route", "show", "match", address), "a has b's route")
        address = pods[0].addresses[0]
        until(lambda: "proto bird" in b.ip("route", "show", "match", address), "b has a's route")
        pods[0].namespace.ping(pods[1].addresses[0])
        assert not a.gateways()


_QUICK = "connect delay time 1; connect retry time 1;"


def _bird(host: NetNS, directory: Path, configuration: str) -> subprocess.Popen[bytes]:
    """Start BIRD in a namespace, with its files in a directory."""
    file = directory / "bird.conf"
    file.write_text(configuration)
    own = ["-f", "-c", str(file), "-s", f"{directory}/bird.ctl", "-P", f"{directory}/bird.pid"]
    return subprocess.Popen(host.command("bird", *own))


def _end_bird(directory: Path) -> None:
    os.kill(int((directory / "bird.pid").read_text()), signal.SIGTERM)
