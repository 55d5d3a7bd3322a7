"""The chart as Helm renders it: what is committed, and with odd values something valid.

Those with the mark ``kubernetes`` need the helm that scripts/kubernetes-tools builds.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam.cli.commands.agent import host_and_port
from fastipam.cni import conflists

from .. import rendering
from ..e2e.tools import require_module

VALUES = rendering.CHART / "values.yaml"
SCHEMA = rendering.CHART / "values.schema.json"
ROOT = rendering.CHART.parents[1]

Render = Callable[..., list[dict[str, Any]]]


class Refused(Exception):
    """Helm does not render; the text is what it says."""


@pytest.fixture(scope="session")
def helm(kubernetes_program: Callable[[str], Path]) -> Callable[..., str]:
    """A function: what helm prints. Raises Refused."""
    program = kubernetes_program("helm")

    def run(*arguments: str, values: Any = None) -> str:
        given = ["--values", "-"] if values is not None else []
        done = subprocess.run(
            [str(program), *arguments, *given],
            input=None if values is None else json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    return run


@pytest.fixture
def render(helm: Callable[..., str]) -> Render:
    """A function: the documents of the chart with these values."""

    def run(*options: str, **values: Any) -> list[dict[str, Any]]:
        chart = str(rendering.CHART)
        return rendering.parse(helm("template", "it", chart, *options, values=values))

    return run


def one(documents: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The one document of a kind, and a name."""
    (found,) = (
        each
        for each in documents
        if each["kind"] == kind and name in ("", each["metadata"]["name"])
    )
    return found


def container_of(documents: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The container of the one DaemonSet or Deployment of a name."""
    (found,) = one(documents, kind, name)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def agent_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The agent's container."""
    return container_of(documents, "DaemonSet", "fastipam-agent")


def conflist_of(documents: list[dict[str, Any]]) -> Any:
    """The network configuration."""
    return json.loads(one(documents, "ConfigMap", "fastipam-network")["data"]["network.conflist"])


# Without Helm -----------------------------------------------------------------------------------


def test_version() -> None:
    """The chart's version is the package's, and the oldest Kubernetes is the supported one."""
    require_module("yaml")
    (chart,) = rendering.parse((rendering.CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == fastipam.__version__
    assert chart["kubeVersion"] == ">=1.32.0-0"


def test_schema_is_one_and_takes_the_values() -> None:
    """values.yaml is what values.schema.json describes; every value has a description."""
    require_module("yaml")
    validator = require_module("jsonschema").Draft7Validator
    text = SCHEMA.read_text()
    schema = json.loads(text)
    assert text == json.dumps(schema, indent=2, ensure_ascii=False) + "\n", "a key is there twice"
    validator.check_schema(schema)
    (values,) = rendering.parse(VALUES.read_text())
    assert not list(validator(schema).iter_errors(values))

    def undescribed(each: dict[str, Any], name: str) -> Iterator[str]:
        for key, value in each.get("properties", {}).items():
            if "description" not in value:
                yield f"{name}{key}"
            yield from undescribed(value, f"{name}{key}.")
        yield from undescribed(each["items"], f"{name}[].") if "items" in each else ()

    assert not list(undescribed(schema, ""))


def test_documented_values() -> None:
    """What the document shows as values is accepted by the schema, and there is some of it."""
    require_module("yaml")
    validator = require_module("jsonschema").Draft7Validator(json.loads(SCHEMA.read_text()))
    (default,) = rendering.parse(VALUES.read_text())
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = re.findall(r"^( *)```yaml\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    shown = [each for _, block in blocks for each in rendering.parse(textwrap.dedent(block))]
    values = [each for each in shown if "kind" not in each]
    assert len(values) >= 2
    for each in values:
        merged = {
            key: default[key] | value if isinstance(value, dict) else value
            for key, value in each.items()
        }
        assert not list(validator.iter_errors(default | merged)), each


OWN_LIST = json.dumps(conflists.standard(network="own"))

# For every value of the schema another one than the default. Each has to change what is rendered.
OTHERS: dict[str, Any] = {
    "image.repository": "registry.example/other",
    "image.tag": "0.2.0@sha256:00",
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["login"],
    "namespace": "address-system",
    "crds.install": False,
    "kubernetes.host": "fd75::1",
    "kubernetes.port": 443,
    "pools": [],
    "pools[].name": "other",
    "pools[].cidr": "10.64.0.0/12",
    "pools[].blockSize": 26,
    "pools[].gateway": "10.32.0.2",
    "pools[].exclude": ["10.32.0.0/24"],
    "pools[].claims": "NodeCIDRs",
    "pools[].disabled": True,
    "network.name": "other",
    "network.plugin": "bridge",
    "network.mtu": 1400,
    "network.ipMasq": False,
    "network.portmap": False,
    "network.bandwidth": False,
    "network.ipam": {"statusWhenFull": "unavailable"},
    "network.conflist": OWN_LIST,
    "routes": "none",
    "cluster.fencing": True,
    "cluster.sessionTTL": 60,
    "cluster.timeout": 2,
    "cluster.lowWater": 0.5,
    "cluster.highWater": 3,
    "cluster.minimumAge": 60,
    "cluster.namespaces": True,
    "node.binDir": "/usr/lib/cni",
    "node.confDir": "/srv/net.d",
    "node.confName": "05-own.conflist",
    "agent.logLevel": "debug",
    "agent.maxUnavailable": "10%",
    "agent.args": ["--grace=5"],
    "agent.resources.requests": {"cpu": 1},
    "agent.resources.limits": {"memory": "1Gi"},
    "controller.replicas": 1,
    "controller.logLevel": "warning",
    "controller.reclaimAfter": 60,
    "controller.port": 9000,
    "controller.nodeSelector": {"trusted": "yes"},
    "controller.resources.requests": {"cpu": 1},
    "controller.resources.limits": {"memory": "1Gi"},
    "metrics.enabled": True,
    "metrics.port": 9001,
    "metrics.podMonitor": True,
    "metrics.alerts": True,
    "metrics.dashboard": True,
    "metrics.interval": "5s",
    "metrics.labels": {"release": "prometheus"},
    "flowControl.enabled": True,
    "flowControl.shares": 10,
    "flowControl.queueLength": 100,
    "uninstall.hook": "never",
    "uninstall.timeout": 60,
    "uninstall.deleteStore": True,
}
# What has to be on for a value to count.
NEEDED: dict[str, dict[str, Any]] = {
    "kubernetes.port": {"kubernetes": {"host": "192.0.2.1"}},
    "metrics.port": {"metrics": {"enabled": True}},
    "metrics.podMonitor": {"metrics": {"enabled": True}},
    "metrics.interval": {"metrics": {"enabled": True, "podMonitor": True}},
    "metrics.labels": {"metrics": {"enabled": True, "podMonitor": True}},
    "flowControl.shares": {"flowControl": {"enabled": True}},
    "flowControl.queueLength": {"flowControl": {"enabled": True}},
    "uninstall.hook": {"uninstall": {"hook": "always"}},
    "uninstall.timeout": {"uninstall": {"hook": "always"}},
    "uninstall.deleteStore": {"uninstall": {"hook": "always"}},
}


def _leaves(schema: dict[str, Any], name: str = "") -> Iterator[str]:
    """The names of all values, as the document's table has them."""
    for key, each in schema.get("properties", {}).items():
        if "properties" not in each:
            yield f"{name}{key}"
        yield from _leaves(each, f"{name}{key}.")
        yield from _leaves(each.get("items", {}), f"{name}{key}[].")


def test_every_value_is_tried() -> None:
    """A value that is added needs an example below, and one that is gone has none."""
    assert set(OTHERS) == set(_leaves(json.loads(SCHEMA.read_text())))


def _with(values: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Values with one of them changed; in a list, in its first item."""
    if name.startswith("pools[]."):
        (first,) = values["pools"]
        return values | {"pools": [first | {name.removeprefix("pools[]."): value}]}
    key, _, rest = name.partition(".")
    inner = values.get(key, {})
    return values | {key: _with(inner, rest, value) if rest else value}


# With Helm --------------------------------------------------------------------------------------


def test_committed(kubernetes_program: Callable[[str], Path], tmp_path: Path) -> None:
    """The renderings and the table of values are those of the chart as it is."""
    kubernetes_program("helm")
    script = str(ROOT / "scripts" / "render-chart")
    command = [script, "--venv", sys.prefix, "--output", str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    paths = [rendering.RENDERING, rendering.UNINSTALL, ROOT / "docs" / "kubernetes.md"]
    for path in paths:
        old, new = path.read_text(), (tmp_path / path.name).read_text()
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1)
        assert old == new, "run scripts/render-chart:\n" + "\n".join(lines)


def test_lint(helm: Callable[..., str]) -> None:
    """Helm has nothing to say but that there is no icon."""
    said = helm("lint", "--strict", str(rendering.CHART))
    assert re.findall(r"\[(?:WARNING|ERROR|INFO)\].*", said) == [
        "[INFO] Chart.yaml: icon is recommended"
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_every_value_counts(helm: Callable[..., str], name: str) -> None:
    """Another value, another rendering; the new one is a value of the schema."""
    (default,) = rendering.parse(VALUES.read_text())
    before = default
    for key, more in NEEDED.get(name, {}).items():
        before = before | {key: before[key] | more}
    after = _with(before, name, OTHERS[name])
    chart = str(rendering.CHART)
    old, new = (helm("template", "it", chart, values=each) for each in (before, after))
    assert old != new
    rendering.parse(new)


V6_ONLY = [{"name": "six", "cidr": "fd00:10::/104", "blockSize": 120}]
DUAL = [
    *V6_ONLY,
    {"name": "four", "cidr": "10.64.0.0/14", "blockSize": 26, "exclude": ["10.64.0.9"]},
]
ODD: dict[str, dict[str, Any]] = {
    "no pools": {"pools": []},
    "a bridge without its friends": {
        "network": {"plugin": "bridge", "portmap": False, "bandwidth": False, "mtu": 1450}
    },
    "no routes": {"routes": "none"},
    "fencing": {"cluster": {"fencing": True, "sessionTTL": 30}},
    "another namespace": {"namespace": "address-system"},
    "IPv6 only": {"pools": V6_ONLY, "kubernetes": {"host": "fd75::1"}},
    "dual stack": {"pools": DUAL},
    "everything that is off": {
        "metrics": {
            "enabled": True,
            "dashboard": True,
            "labels": {"release": "prometheus"},
        },
        "flowControl": {"enabled": True},
        "image": {"pullSecrets": ["login"]},
        "controller": {"replicas": 0, "nodeSelector": {"trusted": "yes"}},
    },
    "everything that is on": {
        "crds": {"install": False},
        "uninstall": {"hook": "never"},
        "network": {"ipMasq": False, "conflist": OWN_LIST},
    },
}


@pytest.mark.parametrize("version", ["1.32", "1.35"])
@pytest.mark.parametrize("values", ODD.values(), ids=list(ODD))
def test_odd_values(render: Render, values: dict[str, Any], version: str) -> None:
    """Every field of every document exists and has the right type."""
    validate = require_module("kubernetes_validate").validate
    documents = render(**values)
    for each in documents:
        validate(each, version, strict=True)
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(set(names)) == len(names)


def test_no_pools(render: Render) -> None:
    """The controller is not told of a file that is not there."""
    documents = render(pools=[])
    container = container_of(documents, "Deployment")
    assert not [each for each in container["args"] if each.startswith("--pools")]
    assert "volumeMounts" not in container


def test_an_empty_gateway(render: Render) -> None:
    """It is as if it were absent: the API refuses an empty one."""
    pool = {"name": "default", "cidr": "10.32.0.0/16", "blockSize": 24, "gateway": ""}
    (found,) = (one for one in render(pools=[pool]) if "pools.json" in one.get("data", {}))
    (made,) = json.loads(found["data"]["pools.json"])["items"]
    assert made["spec"] == {"cidr": "10.32.0.0/16", "blockSize": 24}


def test_who_masquerades(render: Render) -> None:
    """The agent, and no plugin; with a configuration of one's own that one's plugins."""
    own = json.dumps(conflists.standard())
    for network, wanted in (({}, True), ({"ipMasq": False}, False), ({"conflist": own}, False)):
        documents = render(network=network)
        assert ("--masquerade" in agent_of(documents)["args"]) is wanted, network
    assert conflist_of(render()) == conflists.standard(masquerade=False)


def test_bridge(render: Render) -> None:
    """As `fastipam conflist --plugin bridge` prints it."""
    network = {"plugin": "bridge", "portmap": False, "mtu": 1450, "ipMasq": False, "name": "own"}
    assert conflist_of(render(network=network)) == conflists.standard(
        "bridge", "own", masquerade=False, without=["portmap"], mtu=1450
    )


def test_a_conflist_of_ones_own(render: Render) -> None:
    """It is taken as it is."""
    assert conflist_of(render(network={"conflist": OWN_LIST})) == json.loads(OWN_LIST)


def test_settings_reach_the_configuration(render: Render) -> None:
    """What stands under `cluster`, and in the ipam section."""
    documents = render(
        cluster={"fencing": True, "lowWater": 0.5},
        network={"ipam": {"statusWhenFull": "unavailable", "routes": [{"dst": "10.0.0.0/8"}]}},
    )
    assert conflist_of(documents)["plugins"][0]["ipam"] == {
        "type": "fastipam",
        "cluster": {"engine": "kubernetes", "fencing": True, "lowWater": 0.5},
        "statusWhenFull": "unavailable",
        "routes": [{"dst": "10.0.0.0/8"}],
    }


def test_an_agent_starts_again_when_its_network_changes(render: Render) -> None:
    """A Pod has the network's sum in an annotation, the controller that of the pools."""
    (old, new) = (
        render(network={"mtu": mtu}, pools=pools) for mtu, pools in ((0, V6_ONLY), (9000, DUAL))
    )
    for kind, name in (("DaemonSet", "fastipam-agent"), ("Deployment", "")):
        assert (
            one(old, kind, name)["spec"]["template"]["metadata"]
            != (one(new, kind, name)["spec"]["template"]["metadata"])
        )


@pytest.mark.parametrize(
    ("routes", "masquerades"), [("none", False), ("none", True), ("own", False)]
)
def test_net_admin_is_for_routes(render: Render, routes: str, masquerades: bool) -> None:
    """Without routes and masquerading the agent does not have it."""
    agent = agent_of(render(routes=routes, network={"ipMasq": masquerades}))
    more = ["NET_ADMIN"] if (routes, masquerades) != ("none", False) else []
    assert agent["securityContext"]["capabilities"]["add"] == ["SYS_PTRACE", "SYS_ADMIN", *more]


def test_server(render: Render) -> None:
    """Agents and controller are told where the API is; by default the kubelet tells them."""
    names = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
    for values, wanted in (
        ({}, {}),
        (
            {"kubernetes": {"host": "192.0.2.9"}},
            dict(zip(names, ("192.0.2.9", "6443"), strict=True)),
        ),
    ):
        documents = render(**values)
        for container in (agent_of(documents), container_of(documents, "Deployment")):
            told = {each["name"]: each.get("value") for each in container["env"]}
            assert {name: told[name] for name in names if name in told} == wanted


def test_another_namespace(render: Render) -> None:
    """Everything is there, and the policies name the accounts of that namespace."""
    documents = render(namespace="address-system")
    assert "fastipam-system" not in json.dumps(documents)
    assert one(documents, "Namespace")["metadata"]["name"] == "address-system"
    namespaced = {each["metadata"].get("namespace", "address-system") for each in documents}
    assert namespaced == {"address-system"}


def test_helms_own_namespace(render: Render) -> None:
    """Helm makes it (--create-namespace), and would refuse to make it twice."""
    documents = render("--namespace", "fastipam-system")
    assert not [each for each in documents if each["kind"] == "Namespace"]


def test_metrics(render: Render) -> None:
    """Scraped where they are served; jobs and instances as alerts and dashboard know them."""
    metrics = {"enabled": True, "podMonitor": True, "alerts": True, "dashboard": True}
    documents = render(metrics=metrics)
    for kind, name in (("DaemonSet", "agent"), ("Deployment", "controller")):
        container = container_of(documents, kind, f"fastipam-{name}")
        monitor = one(documents, "PodMonitor", f"fastipam-{name}")
        (http,) = (each for each in container["args"] if each.startswith("--http="))
        (port,) = container["ports"]
        assert http == f"--http=[$(NODE_IP)]:{port['containerPort']}"
        for address in ("192.0.2.1", "2001:db8::1"):
            place = http.partition("=")[2].replace("$(NODE_IP)", address)
            assert host_and_port(place) == (address, port["containerPort"])
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] == port["name"]
        labels = one(documents, kind, f"fastipam-{name}")["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert "--http-private" in agent_of(documents)["args"]
    jobs = {
        relabeling["replacement"]
        for each in documents
        if each["kind"] == "PodMonitor"
        for relabeling in each["spec"]["podMetricsEndpoints"][0]["relabelings"]
        if relabeling["targetLabel"] == "job"
    }
    assert jobs == {"fastipam", "fastipam-controller"}
    rules = rendering.CHART / "files" / "alerts.yaml"
    (alerts,) = rendering.parse(rules.read_text())
    assert one(documents, "PrometheusRule")["spec"] == alerts
    assert "job=" in rules.read_text()
    assert "host" not in container_of(documents, "Deployment")["livenessProbe"]["httpGet"]
    shown = json.loads(one(documents, "ConfigMap", "fastipam-dashboard")["data"]["fastipam.json"])
    assert shown == json.loads((rendering.CHART / "files" / "dashboard.json").read_text())


def test_flow_control(render: Render) -> None:
    """Both accounts have the level, for all that they ask."""
    documents = render(flowControl={"enabled": True, "shares": 70})
    level, schema = one(documents, "PriorityLevelConfiguration"), one(documents, "FlowSchema")
    assert level["spec"]["limited"]["nominalConcurrencyShares"] == 70
    assert schema["spec"]["priorityLevelConfiguration"]["name"] == level["metadata"]["name"]
    (rule,) = schema["spec"]["rules"]
    assert {each["serviceAccount"]["name"] for each in rule["subjects"]} == {
        each["metadata"]["name"]
        for each in documents
        if each["kind"] == "ServiceAccount" and "annotations" not in each["metadata"]
    }


def test_kubectl_deletes_what_is_in_no_namespace(render: Render) -> None:
    """The documented removal names every kind of the chart that is not in the namespace."""
    documents = render(flowControl={"enabled": True}, metrics={"enabled": True, "alerts": True})
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    commands = re.findall(r"^kubectl delete (\S+) -l app.kubernetes.io/part-of", text, re.MULTILINE)
    named = {kind for each in commands for kind in each.split(",")}
    left = [
        each
        for each in documents
        if "namespace" not in each["metadata"] and each["kind"] != rendering.KINDS
    ]
    assert {each["kind"].lower() for each in left} == named
    part_of = "app.kubernetes.io/part-of"
    assert {each["metadata"]["labels"][part_of] for each in left} == {"fastipam"}


# The uninstallation ------------------------------------------------------------------------------


def _hooks(documents: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """Kind and name of what an uninstallation makes, with its weight."""
    marked = [
        (each, each["metadata"].get("annotations", {}))
        for each in documents
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    ]
    assert {notes["helm.sh/hook"] for _, notes in marked} <= {"pre-delete"}
    return {
        (each["kind"], each["metadata"]["name"]): int(notes["helm.sh/hook-weight"])
        for each, notes in marked
    }


def test_what_helm_template_prints_uninstalls_nothing(render: Render) -> None:
    """Kubectl knows no hooks: it would apply the uninstallation with the rest."""
    assert not _hooks(render())
    assert not _hooks(render(uninstall={"hook": "never"}))


def test_order_of_an_uninstallation(render: Render) -> None:
    """The account of the Job, what replaces the agents, the Job that waits for it."""
    hooks = _hooks(render(uninstall={"hook": "always"}))
    weights = {kind: weight for (kind, _), weight in hooks.items()}
    assert weights == {
        "ServiceAccount": 0,
        "Role": 0,
        "RoleBinding": 0,
        "DaemonSet": 1,
        "Job": 2,
    }
    assert ("DaemonSet", "fastipam-agent") in hooks


def test_the_uninstallation_removes_what_was_installed(render: Render) -> None:
    """The same directories, the file that the agent writes, on each node that had an agent."""
    node = {"binDir": "/usr/lib/cni", "confDir": "/srv/net.d", "confName": "05-own.conflist"}
    documents = render(uninstall={"hook": "always"}, node=node)
    agent, gone = (each for each in documents if each["kind"] == "DaemonSet")
    if "helm.sh/hook" in agent["metadata"].get("annotations", {}):
        agent, gone = gone, agent
    old, new = (each["spec"]["template"]["spec"] for each in (agent, gone))
    assert gone["spec"]["selector"] == agent["spec"]["selector"]
    for key in ("tolerations", "nodeSelector", "hostNetwork", "hostPID"):
        assert new[key] == old[key]
    volumes = {each["name"]: each for each in old["volumes"]}
    assert all(volumes[each["name"]] == each for each in new["volumes"])
    (first,) = new["initContainers"]
    mounted = {each["name"]: each["mountPath"] for each in first["volumeMounts"]}
    (written,) = (
        each.partition("=")[2]
        for each in agent_of([agent])["args"]
        if each.startswith("--write-conflist=")
    )
    assert f"--conflist={written}" in first["args"]
    assert written == f"{mounted['configurations']}/05-own.conflist"


def test_the_store_stays_unless_asked(render: Render) -> None:
    """It has who has which address."""
    for delete in (False, True):
        documents = render(uninstall={"hook": "always", "deleteStore": delete})
        texts = [json.dumps(each) for each in documents if each["kind"] == "DaemonSet"]
        assert any("--purge" in text for text in texts) is delete


# Values that are refused, and what the message has.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a value that there is not": ({"pool": []}, "additional properties 'pool' not allowed"),
    "kube-system": ({"namespace": "kube-system"}, "/namespace"),
    "a URL as host": ({"kubernetes": {"host": "https://192.0.2.1"}}, "/kubernetes/host"),
    "a pool without blockSize": ({"pools": [{"name": "a", "cidr": "10.0.0.0/8"}]}, "blockSize"),
    "a CIDR without a length": (
        {"pools": [{"name": "a", "cidr": "10.0.0.0", "blockSize": 24}]},
        "pools[0].cidr is 10.0.0.0, which is not a CIDR: type one such as",
    ),
    "routes that nobody knows": ({"routes": "vxlan"}, "/routes"),
    "a plugin that nobody knows": ({"network": {"plugin": "calico"}}, "/network/plugin"),
    "a relative directory": ({"node": {"confDir": "net.d"}}, "/node/confDir"),
    "a file that no runtime reads": ({"node": {"confName": "fastipam"}}, "/node/confName"),
    "a network that is no JSON": (
        {"network": {"conflist": "plugins: []"}},
        "network.conflist is not a network configuration list, but plugins: []: type a JSON object",
    ),
    "host bits": (
        {"pools": [{"name": "a", "cidr": "10.32.0.1/12", "blockSize": 24}]},
        "pools[0].cidr is 10.32.0.1/12, which has host bits: type 10.32.0.0/12",
    ),
    "two pools that overlap": (
        {
            "pools": [
                {"name": "a", "cidr": "10.32.0.0/12", "blockSize": 24},
                {"name": "b", "cidr": "10.40.0.0/14", "blockSize": 24},
            ]
        },
        "pools[1].cidr is 10.40.0.0/14, which overlaps 10.32.0.0/12 of the pool a",
    ),
    "two pools of a name": (
        {
            "pools": [
                {"name": "a", "cidr": "10.32.0.0/16", "blockSize": 24},
                {"name": "a", "cidr": "10.33.0.0/16", "blockSize": 24},
            ]
        },
        "pools[1].name is a, which an earlier pool has",
    ),
    "an MTU that no link has": ({"network": {"mtu": 5}}, "network.mtu is 5: type 0 "),
    "an MTU that is too small for IPv6": (
        {
            "network": {"mtu": 1000},
            "pools": [{"name": "a", "cidr": "fd00::/104", "blockSize": 120}],
        },
        "network.mtu is 1000, and an IPv6 link needs 1280 or more, for the pool a",
    ),
    "one port for both": (
        {"metrics": {"enabled": True, "port": 9465}},
        "metrics.port and controller.port are both 9465",
    ),
    "water marks": (
        {"cluster": {"lowWater": 3}},
        "cluster.highWater is 2, and less than one block above cluster.lowWater, 3",
    ),
    "a type of one's own": ({"network": {"ipam": {"type": "x"}}}, 'network.ipam.type is "x"'),
    "ranges beside pools": (
        {"network": {"ipam": {"exclude": ["10.32.0.9"]}}},
        'network.ipam.exclude is ["10.32.0.9"], and the AddressPools say',
    ),
    "a list without fastipam": (
        {"network": {"conflist": '{"name": "n", "plugins": [{"type": "ptp"}]}'}},
        "network.conflist has no plugin whose",
    ),
    "a default that is taken away": ({"network": {"name": None}}, "missing property 'name'"),
    "a label that is no name": (
        {"controller": {"nodeSelector": {"a b": "c"}}},
        'controller.nodeSelector has the key "a b", which cannot be a name',
    ),
    "monitors without metrics": (
        {"metrics": {"podMonitor": True}},
        "podMonitor is true, and needs metrics",
    ),
}


@pytest.mark.parametrize(("values", "said"), REFUSED.values(), ids=list(REFUSED))
def test_refused(render: Render, values: dict[str, Any], said: str) -> None:
    """Helm says which value is wrong, before anything is installed."""
    with pytest.raises(Refused) as caught:
        render(**values)
    assert said in str(caught.value)


def test_an_old_kubernetes(render: Render) -> None:
    """Its tokens do not name their nodes."""
    with pytest.raises(Refused, match=r"kubeVersion: >=1\.32\.0-0"):
        render("--kube-version", "1.31.9")
