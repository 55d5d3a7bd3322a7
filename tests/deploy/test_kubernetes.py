"""The DaemonSet: Kubernetes' schemas, and what it says of the command line and the image."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest

import fastipam
from fastipam.agent.protocol import DEFAULT_SOCKET
from fastipam.configuration.policy import DEFAULT_DATA_DIR

from ..e2e import tools
from .support import CONTAINERFILE, DAEMONSET, subcommand

VERSIONS = ("1.30", "1.33", "1.35")


@pytest.fixture
def daemonset() -> dict[str, Any]:
    """The document."""
    (document,) = tools.require_module("yaml").safe_load_all(DAEMONSET.read_text())
    assert isinstance(document, dict)
    return document


@pytest.fixture
def pod(daemonset: dict[str, Any]) -> dict[str, Any]:
    """What a pod of it is."""
    found = daemonset["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["initContainers"], *pod["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_schema(daemonset: dict[str, Any], version: str) -> None:
    """Every field exists and has the right type; fields that Kubernetes would drop are errors."""
    tools.require_module("kubernetes_validate").validate(daemonset, version, strict=True)


def test_selector(daemonset: dict[str, Any]) -> None:
    """The DaemonSet selects its own pods; the API server checks that, the schema does not."""
    spec = daemonset["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_volumes(pod: dict[str, Any]) -> None:
    """Every mounted volume exists, every volume is mounted."""
    mounted = {mount["name"] for one in _containers(pod) for mount in one["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_command_lines(pod: dict[str, Any]) -> None:
    """The arguments are those of commands that exist."""
    for container in _containers(pod):
        command, *options = container["args"]
        subcommand(command).make_context(command, options)


def test_paths(pod: dict[str, Any]) -> None:
    """Sockets and stores are where launcher and plugin look for them on the node."""
    (agent,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in agent["volumeMounts"]}
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    assert all(volumes[name] == path.replace("/var/run", "/run") for path, name in mounts.items())
    assert str(PurePath(DEFAULT_SOCKET).parent) in mounts
    assert any(PurePath(DEFAULT_DATA_DIR).is_relative_to(path) for path in mounts)


def test_doctor_sees_the_node(pod: dict[str, Any]) -> None:
    """Every path that `fastipam doctor` looks at is mounted, where the node has it."""
    (agent,) = pod["containers"]
    mounts = [mount["mountPath"] for mount in agent["volumeMounts"]]
    options = subcommand("doctor").make_context("doctor", []).params
    paths = [options[name] for name in ("bin_dir", "conf_dir", "socket_path", "tree", "data_dir")]
    assert not [one for one in paths if not any(PurePath(one).is_relative_to(at) for at in mounts)]


def test_privileges(pod: dict[str, Any]) -> None:
    """No token, nothing privileged; the agent looks into the network namespaces of pods."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _containers(pod):
        security = container["securityContext"]
        assert security["privileged"] is False
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]
    (agent,) = pod["containers"]
    # tests/cluster/test_recovery.py shows that it needs both, and no other.
    assert agent["securityContext"]["capabilities"]["add"] == ["SYS_PTRACE", "SYS_ADMIN"]
    assert agent["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}
    (install,) = pod["initContainers"]
    assert "add" not in install["securityContext"]["capabilities"]


def test_image(pod: dict[str, Any]) -> None:
    """One image, of this version; the probes run what the Containerfile puts there."""
    assert {one["image"] for one in _containers(pod)} == {
        f"example.com/fastipam:{fastipam.__version__}"
    }
    (agent,) = pod["containers"]
    launcher = PurePath(agent["livenessProbe"]["exec"]["command"][-1])
    assert f"--bin-dir {launcher.parent}" in CONTAINERFILE.read_text()
    program, command, *options = agent["readinessProbe"]["exec"]["command"]
    assert program == "fastipam"
    context = subcommand(command).make_context(command, options)
    assert str(context.params["conf_dir"]) in {one["mountPath"] for one in agent["volumeMounts"]}
