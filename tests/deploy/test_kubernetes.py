"""The rendered DaemonSet and Deployment: what they say of the command line, the image, the node."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import pytest

import fastipam
from fastipam.agent.protocol import DEFAULT_SOCKET
from fastipam.cluster.controller import first_pools
from fastipam.configuration.policy import DEFAULT_DATA_DIR

from .. import rendering
from ..e2e import tools
from .support import CONTAINERFILE, subcommand

# The oldest that is supported: tokens name their nodes since 1.32.
VERSIONS = ("1.32", "1.33", "1.35")
WORKLOADS = ("DaemonSet", "Deployment")
PATHS = (rendering.RENDERING, rendering.UNINSTALL)


def _pod(kind: str) -> dict[str, Any]:
    """What a pod of the agent's DaemonSet or the controller's Deployment is."""
    tools.require_module("yaml")
    (found,) = rendering.documents(kind)
    spec = found["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.fixture(params=WORKLOADS)
def workload(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The DaemonSet, and the Deployment."""
    tools.require_module("yaml")
    (found,) = rendering.documents(request.param)
    return found


@pytest.fixture
def agent() -> dict[str, Any]:
    """The agent's container."""
    (found,) = _pod("DaemonSet")["containers"]
    assert isinstance(found, dict)
    return found


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def _all_containers() -> list[dict[str, Any]]:
    return [one for kind in WORKLOADS for one in _containers(_pod(kind))]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", PATHS, ids=lambda each: each.stem)
def test_schema(path: Path, version: str) -> None:
    """Every field exists and has the right type; fields that Kubernetes would drop are errors."""
    validate = tools.require_module("kubernetes_validate").validate
    for each in rendering.documents(path=path):
        validate(each, version, strict=True)


def test_selector(workload: dict[str, Any]) -> None:
    """It selects its own pods; the API server checks that, the schema does not."""
    spec = workload["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()


def test_names_exist(workload: dict[str, Any]) -> None:
    """Its account and the ConfigMaps that it mounts are in the rendering."""
    pod = workload["spec"]["template"]["spec"]
    namespace = workload["metadata"]["namespace"]
    there = {
        (one["kind"], one["metadata"]["name"])
        for one in rendering.documents()
        if one["metadata"].get("namespace") == namespace
    }
    assert ("ServiceAccount", pod["serviceAccountName"]) in there
    maps = [each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each]
    assert maps
    assert all(("ConfigMap", name) in there for name in maps)


def test_volumes(workload: dict[str, Any]) -> None:
    """Every mounted volume exists, every volume is mounted."""
    pod = workload["spec"]["template"]["spec"]
    mounted = {mount["name"] for one in _containers(pod) for mount in one["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def _keys(container: dict[str, Any]) -> set[str]:
    """The files that its ConfigMaps have."""
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volumes = [one for kind in WORKLOADS for one in _pod(kind)["volumes"] if "configMap" in one]
    return {
        f"{mounted[volume['name']]}/{key}"
        for volume in volumes
        if volume["name"] in mounted
        for key in rendering.document("ConfigMap", volume["configMap"]["name"])["data"]
    }


def test_command_lines(tmp_path: Path) -> None:
    """The arguments are those of commands that exist, and the files that they name are there."""
    for container in _all_containers():
        command, *options = container["args"]
        for at, option in enumerate(options):
            name, _, value = option.partition("=")
            if value.startswith("/etc/fastipam/"):
                assert value in _keys(container)
                (tmp_path / "file").touch()
                options[at] = f"{name}={tmp_path / 'file'}"
        subcommand(command).make_context(command, options)


def test_paths(agent: dict[str, Any]) -> None:
    """Sockets and stores are where launcher and plugin look for them on the node."""
    mounts = {mount["mountPath"]: mount["name"] for mount in agent["volumeMounts"]}
    volumes = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in _pod("DaemonSet")["volumes"]
        if "hostPath" in volume
    }
    assert all(
        volumes[name] == path.replace("/var/run", "/run")
        for path, name in mounts.items()
        if name in volumes
    )
    assert str(PurePath(DEFAULT_SOCKET).parent) in mounts
    assert any(PurePath(DEFAULT_DATA_DIR).is_relative_to(path) for path in mounts)


def test_doctor_sees_the_node(agent: dict[str, Any]) -> None:
    """Every path that `fastipam doctor` looks at is mounted, where the node has it."""
    mounts = [mount["mountPath"] for mount in agent["volumeMounts"]]
    options = subcommand("doctor").make_context("doctor", []).params
    paths = [options[name] for name in ("bin_dir", "conf_dir", "socket_path", "tree", "data_dir")]
    assert not [one for one in paths if not any(PurePath(one).is_relative_to(at) for at in mounts)]


def test_privileges(agent: dict[str, Any]) -> None:
    """Nothing is privileged, and the agent alone has capabilities; the controller is not root."""
    for kind in WORKLOADS:
        assert _pod(kind)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _all_containers():
        security = container["securityContext"]
        assert security["privileged"] is False
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]
        assert container["name"] == "agent" or "add" not in security["capabilities"]
    added = agent["securityContext"]["capabilities"]["add"]
    # tests/cluster/test_recovery.py shows that it needs the first two, test_security_context.py of
    # tests/kubernetes that it needs the third, for routes.
    assert added == ["SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN"]
    assert agent["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}
    assert _pod("Deployment")["securityContext"]["runAsNonRoot"] is True


def test_it_needs_no_network() -> None:
    """No network, no controller, no pool, no network: it is no circle.

    Agents and controller live in the nodes' network, tolerate nodes that are not ready, and ask no
    DNS server that runs in pods.
    """
    for kind in WORKLOADS:
        pod = _pod(kind)
        assert pod["hostNetwork"] is True
        assert pod["dnsPolicy"] == "Default"
        tolerated = {one.get("key") for one in pod["tolerations"] if one["operator"] == "Exists"}
        wanted = {"node.kubernetes.io/not-ready", "node-role.kubernetes.io/control-plane"}
        assert None in tolerated or wanted <= tolerated
        assert pod["priorityClassName"].startswith("system-")
    # The controller leaves a node that is unreachable.
    assert "node.kubernetes.io/unreachable" not in tolerated
    assert None not in tolerated


def test_two_controllers_on_two_nodes() -> None:
    """A second one takes over; they want one port, and a drain takes one of them at a time."""
    (deployment,) = rendering.documents("Deployment")
    (budget,) = rendering.documents("PodDisruptionBudget")
    labels = deployment["spec"]["selector"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    apart = _pod("Deployment")["affinity"]["podAntiAffinity"]
    (term,) = apart["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term == {"topologyKey": "kubernetes.io/hostname", "labelSelector": labels}
    assert budget["spec"] == {"maxUnavailable": 1, "selector": labels}


def test_image(agent: dict[str, Any]) -> None:
    """One image, of this version; the probes run what the Containerfile puts there."""
    assert {one["image"] for one in _all_containers()} == {
        f"example.com/fastipam:{fastipam.__version__}"
    }
    launcher = PurePath(agent["livenessProbe"]["exec"]["command"][-1])
    assert f"--bin-dir {launcher.parent}" in CONTAINERFILE.read_text()
    program, command, *options = agent["readinessProbe"]["exec"]["command"]
    assert program == "fastipam"
    context = subcommand(command).make_context(command, options)
    assert str(context.params["conf_dir"]) in {one["mountPath"] for one in agent["volumeMounts"]}


def test_controller_probe() -> None:
    """It asks where the controller serves: the loopback interface of the node."""
    (container,) = _pod("Deployment")["containers"]
    (port,) = container["ports"]
    (http,) = (one.partition("=")[2] for one in container["args"] if one.startswith("--http="))
    asked = container["livenessProbe"]["httpGet"]
    assert asked["port"] == port["name"]
    assert f"{asked['host']}:{port['containerPort']}" == http


def test_pools(tmp_path: Path) -> None:
    """The controller can read the first pools, and the API accepts them (test_server_rules)."""
    text = rendering.document("ConfigMap", "fastipam-pools")["data"]["pools.json"]
    (tmp_path / "pools.json").write_text(text)
    (found,) = first_pools.read(tmp_path / "pools.json")
    assert found["metadata"]["name"] == "default"
    assert found["spec"] == {"cidr": "10.32.0.0/12", "blockSize": 24, "gateway": "10.32.0.1"}


def test_uninstallation_command_line() -> None:
    """Its arguments are those of the command, which is not refused for containers that are left."""
    tools.require_module("yaml")
    (daemonset,) = rendering.documents(path=rendering.UNINSTALL)
    (first,) = daemonset["spec"]["template"]["spec"]["initContainers"]
    command, *options = first["args"]
    context = subcommand(command).make_context(command, options)
    assert context.params["force"] is True
    assert context.params["wait_s"] > _pod("DaemonSet")["terminationGracePeriodSeconds"]
    mounts = {each["mountPath"] for each in first["volumeMounts"]}
    for name in ("conflist", "bin_dir", "socket_path", "data_dir"):
        assert any(PurePath(context.params[name]).is_relative_to(one) for one in mounts), name
