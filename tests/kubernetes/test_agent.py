"""An agent and plugins of one node, with the conflist that both read."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.cluster.errors import ClusterRefused
from fastipam.cluster.node.identity import identify
from fastipam.cluster.node.share import Share
from fastipam.configuration.cluster import Settings
from fastipam.network import Network
from fastipam.verify import verify

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import Agent, ask, until
from ..cni.conftest import call, plugin  # noqa: F401  # fixtures of the same name
from . import bodies
from .fake import Fault
from .machines import accept, owners, take
from .rest import BLOCKS, NODES, POOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..cni.plugin import Call
    from .conftest import Api
    from .fake import FakeServer

    Start = Callable[..., Agent]


class Site:
    """A node: its conflist and its store."""

    def __init__(self, api: Api, path: Path, name: str = "a") -> None:
        self.api = api
        self.name = name
        self.path = path
        self.store = path / "store"
        rest = api.node(name, fastipam_boot())
        file = path / "kubeconfig"
        file.write_text(json.dumps(kubeconfig(rest.port, api.ca, rest.token)))
        self.cluster: dict[str, Any] = {
            "engine": "kubernetes",
            "node": name,
            "kubeconfig": str(file),
            "address": "192.0.2.1",
        }
        self.conflist = path / "10-fastipam.conflist"
        self.write()

    def write(self, **more: Any) -> None:
        """Write the conflist."""
        only = {"type": "ptp", "ipam": self.ipam(**more)}
        document = {"cniVersion": "1.1.0", "name": "podnet", "plugins": [only]}
        self.conflist.write_text(json.dumps(document))

    def ipam(self, **more: Any) -> dict[str, Any]:
        """The ipam section."""
        return {"type": "fastipam", "dataDir": str(self.store), "cluster": self.cluster | more}

    def config(self, **more: Any) -> dict[str, Any]:
        """What the plugin is sent."""
        return {"cniVersion": "1.1.0", "name": "podnet", "type": "ptp", "ipam": self.ipam(**more)}

    def has_pools(self) -> bool:
        """Whether the agent has noted the pools."""
        try:
            with fastipam.open(self.store, create=False) as ipam:
                return ipam.network("podnet").stats().free > 0
        except (FileNotFoundError, fastipam.FastipamError):
            return False


def fastipam_boot() -> str:
    """The boot id of this machine, as the kubelet reports it."""
    from fastipam.storage.boot import read_boot_id

    return read_boot_id()


def kubeconfig(port: int, ca: Path, token: str) -> dict[str, Any]:
    """A kubeconfig for a token, which kubectl reads as well."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "c",
                "cluster": {
                    "server": f"https://127.0.0.1:{port}",
                    "certificate-authority": str(ca),
                },
            }
        ],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


@pytest.fixture
def site(api: Api, tmp_path: Path) -> Iterator[Site]:
    """A node in a cluster without pools; its store is consistent when the test ends."""
    made = Site(api, tmp_path)
    yield made
    if (made.store / "data.mdb").exists():
        with fastipam.open(made.store) as ipam:
            assert not verify(ipam.store)


def test_an_agent_and_plugins(site: Site, start: Start, call: Call) -> None:  # noqa: F811
    """The agent notes the pools and has a block; plugins assign from it and ask nobody."""
    early = call("ADD", site.config(), "c0")
    assert early.code == 11, early
    assert "not known on this node yet" in early.message
    assert call("STATUS", site.config()).code == 50
    accept(site.api)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    assert len(owners(site.api)) == 1
    served = ask(agent.path, "ADD", site.config(), "c1")
    assert served.status == 0, served
    direct = call("ADD", site.config(), "c2")
    assert direct.status == 0, direct
    assert call("STATUS", site.config()).status == 0
    assert call("CHECK", site.config() | {"prevResult": direct.document}, "c2").status == 0
    assert call("DEL", site.config(), "c2").status == 0
    (entry,) = site.api.admin.get(NODES).done()["items"]
    assert (entry["metadata"]["name"], entry["spec"]["epoch"]) == ("a", 1)


def test_a_node_that_is_renamed(site: Site, start: Start) -> None:  # noqa: F811
    """Its store is the old name's: the agent does not join, and STATUS says both names."""
    accept(site.api)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    agent.terminate()
    site.write(node="b")
    again = start("--cluster", str(site.conflist), name="t")

    def status() -> str:
        told = ask(again.path, "STATUS", site.config(node="b"), "")
        return str(told.document["msg"]) if told.status else ""

    until(status, "the new name is refused")
    assert status().startswith("this store belongs to node a, but the configuration says b")


def test_settings_of_etcd_for_this_store(site: Site, start: Start) -> None:  # noqa: F811
    """The same pool in an etcd is another cluster: refused with both names."""
    accept(site.api, cidr="10.32.0.0/24", size=28)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    agent.terminate()
    holder = {"node": "a", "endpoints": ["http://127.0.0.1:1"], "pool": "10.32.0.0/24"}
    settings = Settings(holder | {"blocksize": 28})
    with fastipam.open(site.store) as ipam:
        network = Network(ipam.store, "podnet", settings.pool, remember=False)
        share = Share(ipam.store, network, settings)
        with pytest.raises(ClusterRefused, match="from kubernetes, but the settings say etcd"):
            identify(share, "", lambda _: None)


def test_why_there_are_no_pools(site: Site, start: Start) -> None:  # noqa: F811
    """An ADD that the agent cannot serve yet says what the agent knows."""
    site.write(kubeconfig="/no/such/file")
    agent = start("--cluster", str(site.conflist))
    config = site.config(kubeconfig="/no/such/file")

    def told() -> bool:
        refused = ask(agent.path, "ADD", config, "c1")
        assert refused.document["code"] == 11, refused
        return "/no/such/file cannot be read" in refused.document["details"]

    until(told, "the agent says why")


def test_exclusions_of_one_configuration(tmp_path: Path, call: Call) -> None:  # noqa: F811
    """They would not count, because the pools are all nodes': the configuration is refused."""
    cluster = {"engine": "kubernetes", "node": "a"}
    ipam = {"type": "fastipam", "dataDir": str(tmp_path), "cluster": cluster}
    config = {"cniVersion": "1.1.0", "name": "podnet", "type": "ptp"}
    ipam["exclude"] = ["10.32.0.0/24"]
    refused = call("ADD", config | {"ipam": ipam}, "c1")
    assert refused.code == 7, refused
    assert "ipam.exclude" in refused.document["details"] + refused.message


def test_a_first_request_founds_the_store(site: Site, start: Start) -> None:  # noqa: F811
    """An agent that was told of no cluster hears of it by the first ADD, and makes the store."""
    accept(site.api)
    agent = start()
    assert ask(agent.path, "ADD", site.config(), "c1").status != 0
    until(site.has_pools, "the agent has a block")
    assert ask(agent.path, "ADD", site.config(), "c1").status == 0


@pytest.mark.parametrize("reaches_api", [True, False])
def test_a_renamed_node(
    site: Site,
    start: Start,  # noqa: F811
    call: Call,  # noqa: F811
    reaches_api: bool,
) -> None:
    """Its old blocks will be others': nothing is assigned from them, not directly either.

    The node's own store says so: nobody has to be asked.
    """
    accept(site.api)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    assert call("ADD", site.config(), "c1").status == 0
    agent.terminate()
    site.cluster["node"] = "other"
    if not reaches_api:
        file = site.path / "kubeconfig"
        file.write_text(json.dumps(kubeconfig(1, site.api.ca, "t")))
    site.write()
    again = start("--cluster", str(site.conflist), name="t")
    until(lambda: "belongs to node a" in again.log, "the agent is refused")
    refused = call("ADD", site.config(), "c2")
    assert refused.status != 0, refused
    assert call("DEL", site.config(), "c1").status == 0


def test_the_agent_claims_what_a_burst_needs(site: Site, start: Start) -> None:  # noqa: F811
    """More ADDs than a block has: those behind wait for the next block, and are served."""
    accept(site.api, size=28)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    answers = [ask(agent.path, "ADD", site.config(), f"c{at}") for at in range(40)]
    assert [one.status for one in answers] == [0] * 40
    assert len({one.address for one in answers}) == 40
    assert len(owners(site.api)) >= 3


def test_a_pool_that_is_used_up(site: Site, start: Start) -> None:  # noqa: F811
    """ADD says that no block is free, who has most, and what to type; the node stays ready.

    An address that only cools can be assigned, so it counts as one that an ADD could get. Blocks of
    a disabled pool do not count.
    """
    accept(site.api, cidr="10.32.0.0/28", size=29)
    accept(site.api, "old", cidr="10.33.0.0/28", size=29, disabled=True)
    site.api.admin.create(BLOCKS, bodies.block("10.33.0.0/29", "z", pool="old")).done()
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    served = 0
    while (reply := ask(agent.path, "ADD", site.config(timeout=1), f"c{served}")).status == 0:
        served += 1
    assert served >= 12
    assert reply.document["code"] in (11, 100)
    told = reply.document["msg"] + reply.document["details"]
    assert "no block is free, 2 of 2 are owned (a has 2)" in told
    assert "kubectl edit addresspool default" in told
    full = ask(agent.path, "STATUS", site.config())
    assert full.status == 0, full
    assert b"it is full" in full.messages
    assert ask(agent.path, "DEL", site.config(), "c0").status == 0
    assert ask(agent.path, "STATUS", site.config()) == full._replace(messages=b"")
    unavailable = site.config()
    unavailable["ipam"]["statusWhenFull"] = "unavailable"
    assert ask(agent.path, "STATUS", unavailable).status == 0
    assert ask(agent.path, "ADD", site.config(timeout=1), "again").status == 0
    assert ask(agent.path, "STATUS", unavailable).document["code"] == 50


def test_plain_ranges_on_a_clusters_node(site: Site, start: Start, call: Call) -> None:  # noqa: F811
    """One name with the cluster, then with ranges of its own, then with the cluster: it serves."""
    accept(site.api)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    assert ask(agent.path, "ADD", site.config(), "c1").status == 0
    plain = site.config()
    del plain["ipam"]["cluster"]
    plain["ipam"]["subnet"] = "192.0.2.0/24"
    for number, reply in enumerate(
        (ask(agent.path, "ADD", plain, "p1"), ask(agent.path, "STATUS", plain))
    ):
        assert reply.document["code"] == 7, reply
        assert "in blocks of /24" in reply.document["msg"]
        assert ask(agent.path, "ADD", site.config(), f"c{number + 2}").status == 0
    direct = call("ADD", plain, "p2")
    assert direct.code == 7, direct
    assert call("ADD", site.config(), "c4").status == 0


SOON_S = 1.0  # the specification of this project says 0.1, for a machine that does nothing else


def test_status_asks_nobody(fake_api: FakeServer, tmp_path: Path, start: Start) -> None:  # noqa: F811
    """STATUS of a node whose API does not answer is answered at once, by what is known."""
    site = Site(fake_api, tmp_path)
    accept(fake_api, cidr="10.32.0.0/28", size=29)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    silence = fake_api.fault(Fault("silent", times=0))
    config, names = site.config(timeout=1, lowWater=1), (f"c{at}" for at in itertools.count())
    while ask(agent.path, "ADD", config, next(names)).status == 0:
        pass  # until the blocks are full, and the agent asks for one that nobody answers
    until(lambda: silence.hits, "the agent has asked")
    began = time.monotonic()
    full = ask(agent.path, "STATUS", config)
    assert time.monotonic() - began < SOON_S
    assert full.status == 0, full
    assert b"it is full" in full.messages


def test_a_direct_plugin_never_asks(site: Site, start: Start, call: Call) -> None:  # noqa: F811
    """When the node's blocks are full it says so; only the agent claims."""
    accept(site.api, cidr="10.32.0.0/26", size=29)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    agent.terminate()
    before = len(owners(site.api))
    answers = [call("ADD", site.config(), f"c{at}") for at in range(8 * before + 1)]
    assert answers[-1].code == 11, answers[-1]
    assert "only its agent can claim another block" in answers[-1].document["details"]
    assert len(owners(site.api)) == before


def test_pools_change_while_it_runs(site: Site, start: Start, call: Call) -> None:  # noqa: F811
    """Disabled: no new address; excluded: not these; enabled again: served. No restart."""
    accept(site.api)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    assert ask(agent.path, "ADD", site.config(), "c1").status == 0
    path = f"{POOLS}/default"

    def edit(**spec: Any) -> None:
        found = site.api.admin.get(path).done()
        found["spec"] |= spec
        take(site.api, site.api.admin.replace(path, found).done())

    def refuses() -> bool:
        return ask(agent.path, "ADD", site.config(), f"d{time.monotonic_ns()}").status != 0

    def serves() -> bool:
        return call("ADD", site.config(), f"e{time.monotonic_ns()}").status == 0

    edit(disabled=True)
    until(refuses, "the pool is disabled on the node")
    assert call("ADD", site.config(), "c9").status != 0
    refused = ask(agent.path, "ADD", site.config(), "c9")
    assert "pool default is disabled (kubectl patch addresspool" in refused.document["msg"]
    assert ask(agent.path, "DEL", site.config(), "c1").status == 0
    edit(disabled=False)
    until(serves, "the pool is enabled again")


def test_an_add_asks_nobody(fake_api: FakeServer, tmp_path: Path, start: Start) -> None:  # noqa: F811
    """A hundred ADDs and DELs, and the API has not heard of one; nor is it needed."""
    accept(fake_api)
    site = Site(fake_api, tmp_path)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    before = sum(fake_api.requests.values())
    for at in range(100):
        assert ask(agent.path, "ADD", site.config(), f"c{at}").status == 0
        assert ask(agent.path, "DEL", site.config(), f"c{at}").status == 0
    assert sum(fake_api.requests.values()) == before
    fake_api.down()
    try:
        assert ask(agent.path, "ADD", site.config(), "d1").status == 0
        agent.terminate()
        again = start("--cluster", str(site.conflist), name="t")
        assert ask(again.path, "ADD", site.config(), "d2").status == 0
    finally:
        fake_api.up()


def test_an_idle_agent_asks_nothing(
    fake_api: FakeServer,
    tmp_path: Path,
    start: Start,  # noqa: F811
) -> None:
    """Two long connections, and no request and no write for as long as nothing happens."""
    accept(fake_api)
    site = Site(fake_api, tmp_path)
    agent = start("--cluster", str(site.conflist))
    until(site.has_pools, "the agent has a block")
    assert ask(agent.path, "ADD", site.config(), "c1").status == 0
    time.sleep(2)
    before = dict(fake_api.requests)
    time.sleep(5)
    assert dict(fake_api.requests) == before
    watched = {resource for (method, resource, *_) in before if method == "WATCH"}
    assert watched == {"addresspools", "addressrequests"}, before
