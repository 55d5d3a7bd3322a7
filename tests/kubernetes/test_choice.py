"""Which pool a pod's addresses come from: each row of the table in docs/kubernetes.md.

One agent serves all rows. Its node has the labels that the pools ask for, or has not.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from fastipam.cni.pod_annotations import CAPABILITY

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import Agent, Client, Reply, until
from ..cni.conftest import call  # noqa: F401  # a fixture of the same name
from ..cni.plugin import environment
from . import bodies
from .agents import Agent as Machine
from .agents import Time
from .fake import FakeServer
from .machines import accept, owners, take
from .rest import POOLS
from .test_agent import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..cni.plugin import Call
    from .conftest import Api

    Start = Callable[..., Agent]

NAMESPACES = "/api/v1/namespaces"


def make_namespace(api: Any, name: str, **metadata: Any) -> None:
    """Make a namespace with labels or annotations."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, **metadata}}
    api.admin.create(NAMESPACES, body).done()


def label(api: Any, **labels: str) -> None:
    """Label the node."""
    api.admin.merge("/api/v1/nodes/a", {"metadata": {"labels": labels}}).done()


class Pods:
    """ADDs and DELs of pods, by a site's agent."""

    def __init__(self, site: Site, agent: Agent) -> None:
        self.site = site
        self.agent = agent
        self._numbers = itertools.count()

    def add(
        self, name: str = "", *, namespace: str = "plain", ipam_pool: Any = None, **annotations: str
    ) -> Reply:
        """ADD a pod with annotations of fastipam's."""
        config = self.config()
        if ipam_pool is not None:
            config["ipam"]["pool"] = ipam_pool
        found = {f"fastipam.io/{key}": value for key, value in annotations.items()}
        found["kubernetes.io/config.seen"] = str(next(self._numbers))
        config["runtimeConfig"] = {CAPABILITY: found}
        args = "IgnoreUnknown=1"
        if namespace:
            args += f";K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=p"
        variables = environment("ADD", name or f"c{next(self._numbers)}", args=args)
        with Client(self.agent.path) as client:
            client.send(variables, _encoded(config))
            return client.receive()

    def release(self, name: str) -> None:
        """DEL a pod."""
        with Client(self.agent.path) as client:
            assert client.ask("DEL", self.config(), name).status == 0

    def config(self) -> dict[str, Any]:
        """What the plugin is sent, without a cool-down."""
        config = self.site.config(timeout=2)
        config["ipam"]["cooldown"] = 0
        return config


def _encoded(config: dict[str, Any]) -> bytes:
    import json

    return json.dumps(config, separators=(",", ":")).encode()


def addresses(reply: Reply) -> list[str]:
    """The addresses of a result."""
    assert reply.status == 0, reply
    return [one["address"].partition("/")[0] for one in reply.document["ips"]]


def told(reply: Reply) -> str:
    """What ``kubectl describe pod`` shows of a refusal: libcni joins the two so."""
    assert reply.status == 1, reply
    return f"{reply.document['msg']}; {reply.document.get('details', '')}"


class Row(NamedTuple):
    """A row: what is there, and the begin of each address, or a part of the refusal."""

    wanted: list[str] | str
    annotations: dict[str, str] = {}  # noqa: RUF012  # nobody changes it
    namespace: str = "plain"
    pool: Any = None


ROWS = {
    "nothing is named": Row(["10.1.0.", "fd01::"]),
    "ipam.pool": Row(["10.2.0."], pool="low"),
    "ipam.pool, a list": Row(["10.2.0.", "fd01::"], pool=["low", "six"]),
    "namespace before ipam.pool": Row(["10.3.0."], namespace="named", pool="low"),
    "pod before namespace": Row(["10.2.0."], {"pool": "low"}, namespace="named"),
    "pod, a Manual pool": Row(["10.3.0."], {"pool": "manual"}),
    "pod, both families": Row(["10.3.0.", "fd01::"], {"pool": "six, manual"}),
    "one family": Row(["10.1.0."], {"families": "v4"}),
    "the other family": Row(["fd01::"], {"families": "v6"}),
    "families and pool": Row(["fd01::"], {"families": "v6", "pool": "manual,six"}),
    "families, and a disabled pool of the other": Row(
        ["fd01::"], {"families": "v6", "pool": "off,six"}
    ),
    "families, and an address of the other": Row(
        "pod annotation fastipam.io/families: the requested address 10.8.0.1 is an IPv4 address, "
        "but the pod may have IPv6 only",
        {"families": "v6", "addresses": "10.8.0.1"},
    ),
    "addresses of each family, and a pool that is not there": Row(
        ["10.8.0.2", "fd02::2"], {"addresses": "10.8.0.2,fd02::2", "pool": "new"}
    ),
    "addresses of a disabled pool": Row(
        "pod annotation fastipam.io/addresses: the requested address 10.7.0.9 cannot be assigned: "
        "pool off is disabled",
        {"addresses": "10.7.0.9"},
    ),
    "a namespace that is none": Row(
        "K8S_POD_NAMESPACE: '../../x' is not a valid namespace name", namespace="../../x"
    ),
    "a family that no pool has": Row(
        "pod annotation fastipam.io/families: no pool that this pod may use has IPv6 addresses",
        {"families": "v6", "pool": "low"},
    ),
    "not accepted": Row(
        "pod annotation fastipam.io/pool: AddressPool new does not exist, or the "
        "controller has not accepted it; kubectl",
        {"pool": "new"},
    ),
    "disabled": Row(
        "pod annotation fastipam.io/pool: no pool may give this pod an IPv4 address: pool "
        "off is disabled (kubectl patch addresspool off",
        {"pool": "off"},
    ),
    "disabled, and another one": Row(["10.2.0."], {"pool": "off,low"}),
    "nodeSelector": Row(["10.4.0."], {"pool": "here"}),
    "nodeSelector refuses": Row(
        'pool: no pool may give this pod an IPv4 address: the nodeSelector "disk=tape" of '
        "pool there does not select node a (kubectl label node a KEY=VALUE)",
        {"pool": "there"},
    ),
    "namespaceSelector": Row(["10.5.0."], {"pool": "team"}, namespace="red"),
    "namespaceSelector refuses": Row(
        'the namespaceSelector "team=red" of pool team does not select namespace plain (kubectl '
        "label namespace plain KEY=VALUE)",
        {"pool": "team"},
    ),
    "filters of ipam.pool": Row(
        "ipam.pool: no pool may give this pod an IPv4 address: pool off is disabled",
        pool="off",
    ),
    "filters of the namespace's annotation": Row(
        "annotation of namespace closed fastipam.io/pool: no pool may give this pod an IPv4 "
        "address: pool off is disabled",
        namespace="closed",
    ),
    "a name that is none": Row(
        "pod annotation fastipam.io/pool: 'Low' is not a valid AddressPool name", {"pool": "Low"}
    ),
    "a name in ipam.pool that is none": Row(
        "ipam.pool[1]: 'Low' is not a valid AddressPool name", pool=["low", "Low"]
    ),
    "no namespace": Row(
        'the namespaceSelector "team=red" of pool team selects nothing: the request names no',
        {"pool": "team"},
        namespace="",
    ),
    "single addresses": Row(
        "pool one assigns addresses on request only, because its blocks are as small as "
        "10.8.0.0/32 (annotate the pod: fastipam.io/addresses: ADDRESS)",
        {"pool": "one"},
    ),
}


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    """A node whose agent has pools of every kind."""
    path = tmp_path_factory.mktemp("choice")
    with (
        FakeServer(tmp_path_factory.mktemp("fake")) as api,
        tempfile.TemporaryDirectory(prefix="fastipam-") as run,
    ):
        site = Site(api, path)
        label(api, disk="ssd")
        for name, metadata in {
            "plain": {},
            "red": {"labels": {"team": "red"}},
            "named": {"annotations": {"fastipam.io/pool": "manual"}},
            "closed": {"annotations": {"fastipam.io/pool": "off"}},
        }.items():
            make_namespace(api, name, **metadata)
        accept(api, "high", "10.1.0.0/24", 28, priority=10)
        accept(api, "low", "10.2.0.0/24", 28, assignment="Automatic", priority=0)
        accept(api, "manual", "10.3.0.0/24", 28, assignment="Manual", priority=50)
        accept(api, "here", "10.4.0.0/24", 28, nodeSelector={"matchLabels": {"disk": "ssd"}})
        accept(api, "there", "10.6.0.0/24", 28, nodeSelector={"matchLabels": {"disk": "tape"}})
        red = {"matchExpressions": [{"key": "team", "operator": "In", "values": ["red"]}]}
        accept(api, "team", "10.5.0.0/24", 28, namespaceSelector=red, priority=-1)
        accept(api, "off", "10.7.0.0/24", 28, disabled=True, priority=99)
        accept(api, "one", "10.8.0.0/28", 32)
        accept(api, "one-six", "fd02::/124", 128)
        accept(api, "six", "fd01::/112", 120)
        api.admin.create("/apis/fastipam.io/v1alpha1/addresspools",
                         bodies.pool("new", "10.9.0.0/24", 28)).done()  # fmt: skip
        site.cluster["namespaces"] = True
        site.write()
        agent = Agent(Path(run) / "s", "--cluster", str(site.conflist))
        try:
            until(site.has_pools, "the agent has a block")
            yield Pods(site, agent)
        finally:
            agent.finish()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_row(pods: Pods, row: Row) -> None:
    """The addresses are of the pools that the row says; or the refusal names the filter."""
    reply = pods.add(namespace=row.namespace, ipam_pool=row.pool, **row.annotations)
    if isinstance(row.wanted, str):
        assert row.wanted in told(reply)
        return
    found = addresses(reply)
    assert [one.startswith(begin) for one, begin in zip(found, row.wanted, strict=True)], (
        f"{found}, wanted {row.wanted}"
    )
    assert all(one.startswith(begin) for one, begin in zip(found, row.wanted, strict=True)), found


@pytest.fixture
def node(fake_api: FakeServer, tmp_path: Path, start: Start) -> Callable[..., Pods]:  # noqa: F811
    """Start the agent of a node when its pools are there; ``cluster`` are more settings."""

    def begin(**cluster: Any) -> Pods:
        site = Site(fake_api, tmp_path)
        site.cluster |= cluster
        site.write()
        agent = start("--cluster", str(site.conflist))
        until(site.has_pools, "the agent has a block")
        return Pods(site, agent)

    return begin


def served(pods: Pods, count: int, **chosen: Any) -> list[str]:
    """The addresses of as many pods, in their order, without their last part."""
    found = [addresses(pods.add(f"s{at}", **chosen))[0] for at in range(count)]
    assert len(set(found)) == count
    return [one.rpartition(".")[0] for one in found]


def test_the_next_pool(node: Callable[..., Pods], fake_api: FakeServer) -> None:
    """A list's next pool, and the next priority, come when no block of the one before is free."""
    accept(fake_api, "a", "10.1.0.0/28", 29, assignment="Manual")  # 13 addresses
    accept(fake_api, "b", "10.2.0.0/28", 29, assignment="Manual")
    accept(fake_api, "high", "10.3.0.0/28", 29, priority=1)
    accept(fake_api, "low", "10.4.0.0/24", 29)
    pods = node()
    assert served(pods, 20, pool="a,b") == ["10.1.0"] * 13 + ["10.2.0"] * 7
    found = [addresses(pods.add())[0].rpartition(".")[0] for _ in range(20)]
    assert found == ["10.3.0"] * 13 + ["10.4.0"] * 7
    refused = told(pods.add(pool="a"))
    assert "the cluster's IPv4 pool a is used up: no block is free, 2 of 2 are owned" in refused
    assert "kubectl edit addresspool a" in refused


def test_blocks_of_a_manual_pool(node: Callable[..., Pods], fake_api: FakeServer) -> None:
    """The first one comes when a pod asks for it, and the last one goes when it is empty."""
    accept(fake_api, "auto", "10.1.0.0/24", 28)
    accept(fake_api, "manual", "10.2.0.0/24", 28, assignment="Manual")
    pods = node(minimumAge=0)
    until(lambda: owners(fake_api), "the node has a block")
    assert {one[:5] for one in owners(fake_api)} == {"10.1."}
    assert addresses(pods.add("m", pool="manual"))[0].startswith("10.2.0.")
    assert sorted(one[:5] for one in owners(fake_api)) == ["10.1.", "10.2."]
    assert addresses(pods.add("p"))[0].startswith("10.1.0.")
    pods.release("m")
    until(
        lambda: {one[:5] for one in owners(fake_api)} == {"10.1."}, "the empty block is given back"
    )


def test_labels_of_the_node_change(api: Api, tmp_path: Path) -> None:
    """A node claims of what selects it, and gives back what does not any more."""
    accept(api, "ssd", "10.2.0.0/24", 28, nodeSelector={"matchLabels": {"disk": "ssd"}})
    time = Time()
    one = Machine(tmp_path, api, "a", time)
    one.turn()
    assert owners(api) == {}
    label(api, disk="ssd")
    one.turn(30)
    assert owners(api) == {}
    one.turn(61)
    one.turn(1)
    assert list(owners(api).values()) == ["a"]
    assert one.add() == 1
    label(api, disk="tape")
    one.turn(61)
    assert one.add() == 0
    assert len(owners(api)) == 1
    network, (lease,) = one.network, one.network.leases()
    network.release(lease.container_id, lease.ifname)
    one.turn(61)
    assert owners(api) == {}
    one.close()


def test_a_namespace_is_read_once(node: Callable[..., Pods], fake_api: FakeServer) -> None:
    """A hundred pods of a namespace are one request; while the API is away it is known."""
    accept(fake_api, "red", "10.1.0.0/24", 26, namespaceSelector={"matchLabels": {"team": "red"}})
    make_namespace(fake_api, "r", labels={"team": "red"})
    make_namespace(fake_api, "o")
    pods = node()
    assert addresses(pods.add(namespace="r"))[0].startswith("10.1.0.")
    assert "no pool may give this pod an IPv4 address: the namespaceSelector" in told(
        pods.add(namespace="o")
    )
    before = sum(fake_api.requests.values())
    for _ in range(40):
        assert pods.add(namespace="r").status == 0
    assert sum(fake_api.requests.values()) == before
    fake_api.down()
    try:
        assert pods.add(namespace="r").status == 0
        refused = told(pods.add(namespace="never-seen"))
        assert "the annotations of namespace never-seen are not known: " in refused
    finally:
        fake_api.up()


def test_a_family_whose_pool_is_disabled(node: Callable[..., Pods], fake_api: FakeServer) -> None:
    """A pod is told which pool it is, or names its family; no request stays with the API."""
    accept(fake_api, "four", "10.1.0.0/24", 28)
    accept(fake_api, "six", "fd01::/112", 120)
    pods = node()
    assert len(addresses(pods.add("both"))) == 2
    disabled = {"spec": {"disabled": True}}
    take(fake_api, fake_api.admin.merge(f"{POOLS}/six", disabled).done())
    until(lambda: pods.add("refused").status, "no pod gets an address of it")
    assert "no pool may give this pod an IPv6 address: pool six is disabled (kubectl" in told(
        pods.add("refused")
    )
    assert addresses(pods.add(families="v4"))[0].startswith("10.1.0.")
    until(lambda: not fake_api.objects("addressrequests"), "nothing is asked for")


def test_pools_change_under_a_choice(node: Callable[..., Pods], fake_api: FakeServer) -> None:
    """What was chosen before counts only while the pools are as they were."""
    for at, name in enumerate("ab"):
        accept(fake_api, name, f"10.{at + 1}.0.0/24", 28)
    pods = node()
    for _ in range(3):
        assert addresses(pods.add(pool="a"))[0].startswith("10.1.0.")
        assert addresses(pods.add(pool="b,a"))[0].startswith("10.2.0.")
    for name in "ab":
        disabled = {"spec": {"disabled": True}}
        take(fake_api, fake_api.admin.merge(f"{POOLS}/{name}", disabled).done())
        until(lambda name=name: pods.add(pool=name).status, f"{name} assigns nothing")  # type: ignore[misc]
        assert f"pool {name} is disabled (kubectl" in told(pods.add(pool=name))
        if name == "a":
            assert addresses(pods.add(pool="b,a"))[0].startswith("10.2.0.")
    enabled = {"spec": {"disabled": False}}
    take(fake_api, fake_api.admin.merge(f"{POOLS}/a", enabled).done())
    until(lambda: not pods.add(pool="b,a").status, "a assigns again")
    assert addresses(pods.add(pool="b,a"))[0].startswith("10.1.0.")


def test_nobody_waits_any_more(node: Callable[..., Pods], fake_api: FakeServer) -> None:
    """What a pod has waited for is not asked for when it has ended."""
    accept(fake_api, "auto", "10.1.0.0/24", 28)
    accept(fake_api, "small", "10.2.0.0/30", 30, assignment="Manual")
    pods = node()
    assert addresses(pods.add("m", pool="small"))[0].startswith("10.2.0.")
    assert "pool small is used up" in told(pods.add("n", pool="small"))
    until(lambda: not fake_api.objects("addressrequests"), "nothing is asked for")


def test_without_an_agent(
    node: Callable[..., Pods],
    fake_api: FakeServer,
    call: Call,  # noqa: F811
) -> None:
    """A plugin by itself uses what the node has, and says what only the agent can do."""
    accept(fake_api, "auto", "10.1.0.0/24", 28)
    accept(fake_api, "manual", "10.2.0.0/24", 28, assignment="Manual")
    accept(fake_api, "red", "10.3.0.0/24", 28, namespaceSelector={"matchLabels": {"team": "red"}})
    make_namespace(fake_api, "plain")
    pods = node()
    assert addresses(pods.add(pool="manual"))[0].startswith("10.2.0.")
    pods.agent.terminate()
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=plain;K8S_POD_NAME=p"

    def direct(name: str, pool: str) -> Any:
        config = pods.site.config() | {"runtimeConfig": {CAPABILITY: {"fastipam.io/pool": pool}}}
        return call("ADD", config, name, args=args)

    before = sum(fake_api.requests.values())
    assert direct("d1", "manual").addresses[0].startswith("10.2.0.")
    full = [direct(f"e{at}", "manual,auto") for at in range(16)][-1]
    assert full.code == 11, full
    assert "no free address of pool auto or manual, and only its agent" in full.document["details"]
    asked = direct("d2", "red")
    assert asked.code == 11, asked
    assert "only the agent asks the Kubernetes API" in asked.message
    assert sum(fake_api.requests.values()) == before
