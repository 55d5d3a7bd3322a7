"""The plugin in cluster mode on a real etcd: directly, and through an agent."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.node.node import Node
from fastipam.cluster.node.share import Share
from fastipam.cluster.registries.keyvalue.registry import KeyValueRegistry
from fastipam.configuration.cluster import Settings
from fastipam.network import Network
from fastipam.storage.records.block import ACTIVE
from fastipam.verify import verify

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import FASTIPAM, Client, until
from ..cni.conftest import call, plugin  # noqa: F401  # fixtures of the same name
from ..cni.plugin import Answer, Call
from .etcd import QUICK_MS, Etcd
from .proxy import Proxy

Start = Callable[..., Any]
PATIENCE_S = 30  # for a claim on a machine that is busy with other things
_names = itertools.count()


class Site:
    """A cluster on a test's etcd: its configurations, and what its nodes' stores hold."""

    def __init__(self, etcd: Etcd, path: Path, **more: Any) -> None:
        self.etcd = etcd
        self.path = path
        self.settings: dict[str, Any] = {
            "endpoints": etcd.endpoints,
            "pool": "10.32.0.0/20",
            "prefix": f"/test-{next(_names)}/",
            "timeout": PATIENCE_S,  # an agent's own limit is 8 s
            "sessionTTL": 5,
        } | more

    def config(self, node: str = "a", **more: Any) -> dict[str, Any]:
        """A node's CNI configuration."""
        ipam = {
            "type": "fastipam",
            "dataDir": str(self.path / node),
            "cluster": self.settings | {"node": node} | more,
        }
        return {"cniVersion": "1.1.0", "name": "podnet", "type": "bridge", "ipam": ipam}

    def file(self, node: str = "a") -> Path:
        """The same for the agent and the command line."""
        path = self.path / f"{node}.json"
        document = self.settings | {
            "node": node,
            "network": "podnet",
            "dataDir": str(self.path / node),
        }
        path.write_text(json.dumps(document))
        return path

    def run(self, *arguments: str, node: str = "a") -> subprocess.CompletedProcess[str]:
        """``fastipam cluster …`` as this node."""
        return subprocess.run(
            [FASTIPAM, "cluster", *arguments, "--config", str(self.file(node))],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def init(self) -> None:
        """Write the settings."""
        done = self.run("init")
        assert done.returncode == 0, done.stderr

    def free(self, name: str) -> int:
        """How many addresses of its own blocks a node has free, by the command line."""
        rows = json.loads(self.run("blocks", "--json", node=name).stdout)
        return sum(row["size"] - row["used"] for row in rows if row["node"] == name)

    def node(self, name: str, ipam: fastipam.Ipam) -> Node:
        """A node's side of the protocol, in this process."""
        folded = {key.casefold(): value for key, value in self.settings.items()}
        settings = Settings(folded | {"node": name})
        network = Network(ipam.store, "podnet", settings.pool, remember=False)
        share = Share(ipam.store, network, settings)
        return Node(share, KeyValueRegistry(share, self.etcd.engine()))


@pytest.fixture
def site(etcd: Etcd, tmp_path: Path) -> Iterator[Site]:
    """A cluster whose settings are written; its stores are consistent when the test ends."""
    made = Site(etcd, tmp_path)
    made.init()
    yield made
    for each in tmp_path.iterdir():
        if (each / "data.mdb").exists():
            with fastipam.open(each) as ipam:
                assert not verify(ipam.store)


def test_direct(site: Site, call: Call) -> None:  # noqa: F811
    """Without an agent the first ADD claims a block; the next ones need no etcd."""
    first = call("ADD", site.config("a"), "c1")
    other = call("ADD", site.config("b"), "c1")
    assert first.status == other.status == 0
    assert first.addresses[0].endswith("/20")
    assert first.addresses[0].rpartition(".")[0] != other.addresses[0].rpartition(".")[0]
    unreachable = site.config("a", endpoints=["http://127.0.0.1:1"])
    second = call("ADD", unreachable, "c2")
    assert second.status == 0, second
    assert call("DEL", unreachable, "c1").status == 0
    assert call("STATUS", unreachable).status == 0


def test_direct_remembers_the_policy(site: Site, call: Call) -> None:  # noqa: F811
    """The agent's chores and the command line free by the times that the configuration says."""
    conf = site.config("a")
    conf["ipam"] |= {"cooldown": 300, "history": 7}
    assert call("ADD", conf, "c1").status == 0
    with fastipam.open(site.path / "a", create=False) as ipam:
        policy = ipam.network("podnet").policy
    assert (policy.cooldown_ns, policy.strict, policy.history) == (300 * 10**9, False, 7)


def test_direct_without_etcd(site: Site, call: Call) -> None:  # noqa: F811
    """A node that has no block and cannot have one says "try again later", and why."""
    answer = call("ADD", site.config("a", endpoints=["http://127.0.0.1:1"]))
    assert answer.code == 11, answer
    assert "no block could be claimed" in answer.document["details"]
    status = call("STATUS", site.config("a", endpoints=["http://127.0.0.1:1"]))
    assert status.code == 50, status
    assert call("ADD", site.config("a")).status == 0


def test_direct_fills_block_after_block(site: Site, call: Call) -> None:  # noqa: F811
    """When a block is full the next one comes, until the pool is used up: code 11.

    A /26 has 61 addresses to serve: network, gateway and broadcast address are left out.
    """
    site.settings["pool"] = "10.32.0.0/26"
    site.settings["blockSize"] = 29
    site.settings["prefix"] = "/small/"
    site.init()
    answers = [call("ADD", site.config("a"), f"c{number}") for number in range(61)]
    assert [answer.status for answer in answers] == [0] * 61
    assert len({answer.addresses[0] for answer in answers}) == 61
    full = call("ADD", site.config("a", timeout=0.5), "c99")
    assert full.code == 11, full
    assert call("DEL", site.config("a"), "c7").status == 0


def test_a_block_is_tried_before_a_cooling_address(site: Site, call: Call) -> None:  # noqa: F811
    """Policy "prefer": while a block can be had nothing that cools is assigned, then it is."""
    site.settings |= {"pool": "10.32.0.0/28", "blockSize": 29, "prefix": "/cooling/"}
    site.init()
    config = site.config("a", timeout=0.5)
    config["ipam"] |= {"cooldown": 300, "cooldownPolicy": "prefer"}
    first = [call("ADD", config, f"c{number}") for number in range(6)]  # the first block is full
    assert call("DEL", config, "c0").status == 0
    second = [call("ADD", config, f"d{number}") for number in range(7)]
    taken = {answer.addresses[0] for answer in (*first, *second)}
    assert len(taken) == 13, "no cooling address was assigned"
    last = call("ADD", config, "e")
    assert last.addresses == first[0].addresses, "it has cooled for a moment only"


def test_settings_differ(site: Site, call: Call) -> None:  # noqa: F811
    """A node with another block size is refused, with both values."""
    answer = call("ADD", site.config("a", blockSize=26))
    assert answer.code == 105, answer
    assert "10.32.0.0/20=24" in answer.message
    assert "10.32.0.0/20=26" in answer.message


def test_plain_ranges_on_a_clusters_node(site: Site, start: Start) -> None:  # noqa: F811
    """Ranges of its own, or of one container, are refused: code 7, both values, what to type."""
    agent = start()
    cluster = site.config("a")
    plain = json.loads(json.dumps(cluster))
    del plain["ipam"]["cluster"]
    (first,) = adds(agent, cluster, ["c1"])
    assert first.status == 0, first
    own: list[dict[str, Any]] = [
        {"subnet": "10.32.0.0/20"},
        {"subnet": "192.0.2.0/24"},
        {"ranges": [[{"subnet": "10.32.0.0/24"}]]},
    ]
    configs = [plain | {"ipam": plain["ipam"] | one} for one in own]
    runtime = {"runtimeConfig": {"ipRanges": [[{"subnet": "192.0.2.0/24"}]]}}
    configs.append(plain | runtime | {"capabilities": {"ipRanges": True}})
    with Client(agent.path) as client:
        for number, config in enumerate(configs):
            for reply in (
                client.ask("ADD", config, f"p{number}"),
                client.ask("STATUS", config),
            ):
                assert reply.document["code"] == 7, reply
                assert "in blocks of /24" in reply.document["msg"]
                assert "fastipam cluster leave" in reply.document["details"]
            again = client.ask("ADD", cluster, f"c{number + 2}")
            assert again.status == 0, again
    assert agent.terminate() == 0


def test_leave_and_come_back(site: Site, call: Call) -> None:  # noqa: F811
    """Cluster, local ranges, cluster: a command leads from one to the other, and each serves."""
    cluster = site.config("a")
    plain = json.loads(json.dumps(cluster))
    del plain["ipam"]["cluster"]
    plain["ipam"]["subnet"] = "192.0.2.0/24"
    assert call("ADD", cluster, "c1").status == 0
    refused = site.run("leave")
    assert refused.returncode == 1
    assert "1 addresses of this node's blocks are assigned" in refused.stderr
    assert call("DEL", cluster, "c1").status == 0
    assert call("ADD", cluster | {"ipam": cluster["ipam"] | {"cooldown": 0}}, "c2").status == 0
    assert site.run("leave", "--force").returncode == 0
    assert call("ADD", plain, "c3").addresses[0] == "192.0.2.2/24"
    assert call("ADD", cluster, "c4").addresses[0].startswith("10.32.")


def test_dual_stack(etcd: Etcd, tmp_path: Path, call: Call) -> None:  # noqa: F811
    """A pool of each family: an ADD has an address of both, all or nothing."""
    site = Site(etcd, tmp_path, pool=["10.32.0.0/20", "fd00:32::/108"])
    site.init()
    answer = call("ADD", site.config("a"))
    assert answer.status == 0, answer
    v4, v6 = answer.addresses
    assert v4.endswith("/20")
    assert v6.startswith("fd00:32::")


def test_requested_address(site: Site, call: Call) -> None:  # noqa: F811
    """A wanted address outside this node's blocks is refused, and the block is named."""
    first = call("ADD", site.config("a"), "c1").addresses[0]
    block, _, _ = first.rpartition(".")
    other = "10.32.0" if block != "10.32.0" else "10.32.1"
    refused = call("ADD", site.config("a"), "c2", args=f"IP={other}.77")
    assert refused.code == 103, refused
    assert f"{other}.0/24" in refused.message
    assert call("ADD", site.config("a"), "c2", args=f"IP={block}.77").status == 0


def adds(agent: Any, config: dict[str, Any], names: list[str]) -> list[Answer]:
    """ADDs through an agent, one connection each, two hundred at once.

    What is answered with code 11 is asked again, as a runtime does: an agent lets nobody wait for
    longer than 8 s, and a machine that is busy with other things may need longer for a claim.
    """
    answers = dict(zip(names, _adds(agent, config, names), strict=True))
    end = time.monotonic() + 2 * PATIENCE_S
    while (late := [name for name in names if answers[name].code == 11]) and time.monotonic() < end:
        answers |= dict(zip(late, _adds(agent, config, late), strict=True))
    return list(answers.values())


# One process may have 256 connections to an agent; a launcher is a process of its own.
_AT_ONCE = 200


def _adds(agent: Any, config: dict[str, Any], names: list[str]) -> list[Answer]:
    groups = (names[at : at + _AT_ONCE] for at in range(0, len(names), _AT_ONCE))
    return [answer for group in groups for answer in _adds_at_once(agent, config, group)]


def _adds_at_once(agent: Any, config: dict[str, Any], names: list[str]) -> list[Answer]:
    clients = [Client(agent.path) for _ in names]
    answers = []
    try:
        from ..cni.plugin import environment

        for client, name in zip(clients, names, strict=True):
            client.send(environment("ADD", name), json.dumps(config).encode())
        for client in clients:
            reply = client.receive()
            answers.append(Answer(reply.status, reply.document, reply.messages.decode()))
    finally:
        for client in clients:
            client.socket.close()
    return answers


def test_agent(site: Site, start: Start) -> None:  # noqa: F811
    """Six hundred pods: requests wait for blocks, none fails, and no address is given twice."""
    agent = start()
    answers = adds(agent, site.config("a"), [f"c{number}" for number in range(600)])
    assert {answer.status for answer in answers} == {0}
    assert len({answer.addresses[0] for answer in answers}) == 600
    assert agent.terminate() == 0


def test_agent_status(site: Site, start: Start) -> None:  # noqa: F811
    """While etcd cannot be reached ADD goes on, and STATUS succeeds and says so on its log."""
    agent = start()
    config = site.config("a", endpoints=["http://127.0.0.1:1"], timeout=0.3)
    with Client(agent.path) as client:
        assert client.ask("ADD", site.config("a"), "c1").status == 0
    agent.terminate()
    agent = start()
    with Client(agent.path) as client:
        assert client.ask("ADD", config, "c2").status == 0
        until(lambda: client.ask("STATUS", config).messages, "STATUS says that etcd is away")
        reply = client.ask("STATUS", config)
        assert reply.status == 0
        assert b"cluster:" in reply.messages
        assert client.ask("ADD", config, "c3").status == 0


SOON_S = 1.0  # the specification of this project says 0.1, for a machine that does nothing else


def test_status_of_a_cluster_that_does_not_answer(site: Site, start: Start) -> None:  # noqa: F811
    """STATUS of a node whose blocks are full is answered at once, by what is known: it is ready."""
    site.settings |= {"pool": "10.32.0.0/26", "blockSize": 29, "prefix": "/silent/", "timeout": 1}
    site.init()
    port = int(site.etcd.endpoints[0].rpartition(":")[2])
    with Proxy(port) as proxy:
        config = site.config("a", endpoints=[proxy.endpoint], lowWater=0)
        config["ipam"] |= {"cooldown": 300}
        agent = start()
        with Client(agent.path) as client:
            assert client.ask("ADD", config, "c1").status == 0
            proxy.mode = "swallow"
            names = (f"c{number}" for number in itertools.count(2))
            while client.ask("ADD", config, next(names)).status == 0:
                pass
            began = time.monotonic()
            full = client.ask("STATUS", config)
            assert time.monotonic() - began < SOON_S
            assert full.status == 0, full
            assert b"it is full" in full.messages
            # Policy "prefer": an address that only cools could be assigned.
            assert client.ask("DEL", config, "c1").status == 0
            began = time.monotonic()
            assert client.ask("STATUS", config).status == 0
            assert time.monotonic() - began < SOON_S
        agent.terminate()


def test_status_of_a_node_that_never_had_a_block(site: Site, start: Start, call: Call) -> None:  # noqa: F811
    """It is not ready while its cluster does not answer, does not exist, or has other settings."""
    agent = start()
    port = int(site.etcd.endpoints[0].rpartition(":")[2])
    with Proxy(port) as proxy, Client(agent.path) as client:
        proxy.mode = "swallow"
        began = time.monotonic()
        silent = client.ask("STATUS", site.config("a", endpoints=[proxy.endpoint]))
        assert time.monotonic() - began < SOON_S
        assert silent.document["code"] == 50
        assert "has not reached the cluster's store yet" in silent.document["msg"]
        direct = call("STATUS", site.config("b", endpoints=[proxy.endpoint]))
        assert direct.status == 0, "nobody but an ADD could make it ready"
        assert "its first ADD registers it" in direct.stderr
    for changes, text in (
        ({"prefix": "/forgotten/"}, "fastipam cluster init"),
        ({"blockSize": 26}, "10.32.0.0/20=26"),
    ):
        answer = call("STATUS", site.config("c", **changes))
        assert answer.code == 50
        assert text in answer.message + answer.document["details"]
    agent.terminate()


def test_donation(site: Site, start: Start) -> None:  # noqa: F811
    """With every block owned by one node, the ADDs of another wait for one that is given."""
    rich = start(name="rich")
    (first,) = adds(rich, site.config("a"), ["c0"])
    assert first.status == 0
    for _ in range(15):
        done = site.run("claim")
    assert done.returncode == 0, done.stderr
    poor = start(name="poor")
    answers = adds(poor, site.config("b"), ["c1", "c2"])
    assert [answer.status for answer in answers] == [0, 0], answers
    assert rich.terminate() == 0
    assert site.run("check").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("election_ms", [QUICK_MS], scope="module")
def test_member_and_cluster_lost(fresh_etcd: Etcd, tmp_path: Path, start: Start) -> None:  # noqa: F811
    """The leader is killed under load: nothing fails. All are: ADD goes on; then claims do.

    What an ADD takes meanwhile is measured by ``python -m bench.cluster_add``.
    """
    # Three blocks are kept free ahead: an ADD waits for none of them.
    site = Site(fresh_etcd, tmp_path, lowWater=3, highWater=5)
    site.init()
    agent = start()
    config = site.config("a")
    names = (f"c{number}" for number in itertools.count())

    def add() -> None:
        with Client(agent.path) as client:
            reply = client.ask("ADD", config, next(names))
        assert reply.status == 0, reply

    for _ in range(100):
        add()
    fresh_etcd.leader().kill()
    for _ in range(500):
        add()
    until(lambda: site.free("a") > 300, "claims have caught up")
    for member in fresh_etcd.members:
        member.kill()
    for _ in range(300):
        add()
    fresh_etcd.start()
    for _ in range(600):
        add()
    assert agent.terminate() == 0
    assert site.run("check").returncode == 0


def test_command_line(site: Site, call: Call) -> None:  # noqa: F811
    """What an operator sees of two nodes, and what is left when one is removed."""
    site.settings["address"] = "192.0.2.7"
    for node in ("a", "b"):
        assert call("ADD", site.config(node)).status == 0
    rows = json.loads(site.run("nodes", "--json").stdout)
    assert [(row["node"], row["state"], row["blocks"]) for row in rows] == [
        ("a", "silent", 1),
        ("b", "silent", 1),
    ]
    listed = json.loads(site.run("blocks", "--json").stdout)
    own = next(row for row in listed if row["node"] == "a")
    assert (own["used"], own["state"], own["epoch"]) == (1, "active", 1)
    routes = json.loads(site.run("routes", "--all", "--format", "json").stdout)
    assert {row["gw"] for row in routes} == {"192.0.2.7"}
    lines = site.run("routes", "--format", "iproute2").stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("route replace 10.32.")
    assert site.run("check").returncode == 0
    assert "registered" in site.run("status").stdout
    done = site.run("release-node", "b")
    assert done.returncode == 0, done.stderr
    assert "1 blocks released, epoch 2" in done.stdout
    assert site.run("check", node="b").returncode == 1
    rows = json.loads(site.run("nodes", "--json").stdout)
    assert [(row["state"], row["blocks"]) for row in rows] == [("silent", 1), ("removed", 0)]
    unknown = site.run("release-node", "nobody")
    assert unknown.returncode == 1
    assert "nobody" in unknown.stderr


def test_routes_watch(site: Site, call: Call) -> None:  # noqa: F811
    """The command prints a line for each route as it comes, and for each that goes."""
    command = [str(FASTIPAM), "cluster", "routes", "--watch", "--format", "iproute2", "--config"]
    with subprocess.Popen(
        [*command, str(site.file("b"))], stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        try:
            site.settings["address"] = "192.0.2.7"
            address = call("ADD", site.config("a")).addresses[0].rpartition(".")[0]
            assert (
                watching.stdout.readline()
                == f"route replace {address}.0/24 via 192.0.2.7 proto 147\n"
            )
            assert site.run("release-node", "a").returncode == 0
            assert (
                watching.stdout.readline() == f"route del {address}.0/24 via 192.0.2.7 proto 147\n"
            )
        finally:
            watching.terminate()


def test_why_there_are_no_routes(site: Site, call: Call) -> None:  # noqa: F811
    """An empty table says why: nobody has a block, or its node has no usable address."""
    none = site.run("routes", "--all")
    assert (none.returncode, none.stdout.strip()) == (0, "[]")
    assert "no node owns a block" in none.stderr
    assert call("ADD", site.config("a")).status == 0  # etcd is on a loopback address
    for form in ("json", "iproute2"):
        done = site.run("routes", "--all", "--format", form)
        assert done.returncode == 0
        assert "no route leads to node a" in done.stderr
        assert 'set "address" in its settings' in done.stderr
    assert "no other node owns a block" in site.run("routes").stderr


def test_init_twice(site: Site) -> None:
    """The settings are written once; the same again is no change, others are refused."""
    assert "there already" in site.run("init").stdout
    site.settings["blockSize"] = 25
    done = site.run("init")
    assert done.returncode == 1
    assert "10.32.0.0/20=24" in done.stderr


def test_status_tells_of_the_settings(etcd: Etcd, tmp_path: Path) -> None:
    """Before the settings are written, and when they are others, a node cannot take part."""
    site = Site(etcd, tmp_path)
    before = site.run("status", "--json")
    assert before.returncode == 1
    assert "cluster init" in json.loads(before.stdout)["settings"]
    site.init()
    assert site.run("status").returncode == 0
    site.settings["blockSize"] = 25
    other = site.run("status")
    assert other.returncode == 1
    assert "other settings: 10.32.0.0/20=24" in other.stdout


def test_restored_store_finds_out(site: Site, call: Call) -> None:  # noqa: F811
    """What a backup says of blocks is confirmed before it is believed."""
    assert call("ADD", site.config("a"), "c1").status == 0
    from fastipam.backup import backup, restore

    with fastipam.open(site.path / "a") as ipam:
        backup(ipam.store, site.path / "copy")
        restore(ipam.store, site.path / "copy", replace=True)
        network = ipam.network("podnet")
        with pytest.raises(fastipam.PoolExhausted, match="restored or copied"):
            network.allocate("c2")
        node = site.node("a", ipam)
        assert len(node.join(Deadline(5))) == 1
        assert [each.state for each in node.share.blocks()] != [ACTIVE]
        node.registry.close()
