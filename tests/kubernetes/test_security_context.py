"""Agent and controller with what the chart's securityContext leaves them, and with less.

tests/kubernetes/e2e runs them in containerd; here the kernel's part of it is enough: capabilities,
no_new_privs, a read-only root, another user.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from .. import rendering
from ..agent.processes import FASTIPAM, Agent, until
from ..e2e import tools
from ..e2e.conftest import plugin_dir  # noqa: F401  # a fixture of this name
from .fake import FakeServer
from .leaders import in_force
from .links import Link, LinkNode, settle
from .machines import accept, owners
from .test_agent import kubeconfig

_READ_ONLY = 'for one in $WRITABLE; do mount --bind "$one" "$one"; done; mount -o remount,bind,ro /'


def _security(kind: str) -> dict[str, Any]:
    """The securityContext of the one container of the agent or the controller, with its pod's."""
    tools.require_module("yaml")
    (workload,) = rendering.documents(kind)
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    found: dict[str, Any] = pod["securityContext"] | container["securityContext"]
    return found


def confined(security: dict[str, Any], *writable: Path, without: str = "") -> list[str]:
    """The words before a command that give it this and no more; its root directory is read-only."""
    added = [one.lower() for one in security["capabilities"].get("add", ()) if one != without]
    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    return [
        *("env", f"WRITABLE={' '.join(map(str, writable))}"),
        *("unshare", "--mount", "--propagation", "slave"),
        *("sh", "-euc", f'{_READ_ONLY}; exec "$@"', "sh"),
        *("setpriv", "--no-new-privs", "--inh-caps=-all"),
        f"--bounding-set={','.join(['-all', *(f'+{one}' for one in added)])}",
        *(f"--reuid={security['runAsUser']}", f"--regid={security['runAsGroup']}"),
        "--clear-groups",
    ]


@pytest.fixture
def nodes(fake_api: FakeServer, tmp_path: Path, plugin_dir: Path) -> Iterator[list[LinkNode]]:  # noqa: F811
    """Two nodes on a link, and pools of both families."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "setpriv", "unshare")
    accept(fake_api, "four", "10.32.0.0/20", 24)
    accept(fake_api, "six", "fd32::/112", 120)
    with Link(partial(LinkNode, fake_api), tmp_path, plugin_dir) as link:
        yield [link.node(name) for name in ("a", "b")]


def _start(node: LinkNode, without: str = "") -> Agent:
    """An agent that writes its node's configuration, and sets routes."""
    confined_to = confined(_security("DaemonSet"), node.path, without=without)
    (node.path / "net.d").mkdir()
    node.agent = Agent(
        node.path / "s",
        *("--cluster", str(node.conflist), "--routes", "host-gw", "--log-level", "info"),
        *("--write-conflist", str(_written(node)), "--data-dir", str(node.store)),
        prefix=(*node.host.command(), *confined_to),
    )
    return node.agent


def _written(node: LinkNode) -> Path:
    return node.path / "net.d" / "10-fastipam.conflist"


def test_agent(nodes: list[LinkNode], fake_api: FakeServer) -> None:
    """It claims, writes the network configuration, and sets the routes."""
    for node in nodes:
        _start(node)
    until(lambda: len(owners(fake_api)) == 4, "each node has a block of each family")
    settle(*nodes, api=fake_api)
    for node in nodes:
        until(_written(node).exists, "the configuration is written")
        assert node.agent is not None
        assert node.agent.process.poll() is None


def test_it_is_confined(nodes: list[LinkNode]) -> None:
    """The agent of the test above cannot write elsewhere, and has the chart's capabilities only."""
    agent = _start(nodes[0])
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    told = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    # SYS_PTRACE, SYS_ADMIN and NET_ADMIN are the bits 19, 21 and 12 (capability.h).
    assert int(told["CapEff"], 16) == int(told["CapBnd"], 16) == 1 << 19 | 1 << 21 | 1 << 12
    assert told["NoNewPrivs"].strip() == "1"
    inside = ["nsenter", f"--mount=/proc/{agent.process.pid}/ns/mnt", "touch", "/etc/fastipam-test"]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert "Read-only file system" in done.stderr


def test_routes_take_net_admin(nodes: list[LinkNode]) -> None:
    """Without it the agent ends, and says what it takes."""
    with pytest.raises(AssertionError) as caught:
        _start(nodes[0], without="NET_ADMIN")
    assert "NET_ADMIN" in str(caught.value)


def test_controller(fake_api: FakeServer, tmp_path: Path) -> None:
    """Another user than root, without a capability, makes and accepts the first pools."""
    tools.require_tools("unshare")
    tools.as_another_user(_security("Deployment")["runAsUser"])
    tools.open_to_all(tmp_path)
    tools.open_to_all(fake_api.ca.parent)
    config, pools = tmp_path / "kubeconfig", tmp_path / "pools.json"
    token = fake_api.token("fastipam-controller")
    config.write_text(json.dumps(kubeconfig(fake_api.admin.port, fake_api.ca, token)))
    pools.write_text(rendering.document("ConfigMap", "fastipam-pools")["data"]["pools.json"])
    for each in (config, pools, fake_api.ca):
        each.chmod(0o644)
    program = [FASTIPAM, "controller", "--kubeconfig", config, "--pools", pools, "--http", "0"]
    command = [*confined(_security("Deployment")), *map(str, program)]
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(
            lambda: started.poll() is not None or in_force(fake_api) == {"default": "10.32.0.0/12"},
            "the pool is in force",
        )
        assert started.poll() is None, (tmp_path / "log").read_text()
    finally:
        started.terminate()
        assert started.wait(20) == 0, (tmp_path / "log").read_text()
