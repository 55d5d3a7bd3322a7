"""From kubeadm's podCIDRs and host-local to fastipam with the pods running, and back.

Real network namespaces with the pods' addresses, the real host-local where it is built, agents as
processes. Nine pods on three nodes, fifty with ``--long``.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam import host_local
from fastipam.verify import verify

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import FASTIPAM, ask, until
from ..cni.plugin import environment
from ..e2e.tools import not_built, require_root, require_tools
from ..options import options
from .leaders import Leader, close_all, condition
from .machines import owners
from .rest import POOLS
from .test_agent import Site
from .test_node_cidrs import change, give, make
from .tools.build import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Api
    from .test_agent import Start

PODS = 50 if options.long else 9
_numbers = count()
# Recovery sees every namespace of this machine, so also those of a test that runs beside this one.
_PREFIX = f"10.{130 + os.getpid() % 100}"


@dataclass
class Pod:
    """A pod that runs: a network namespace with an address."""

    node: Node
    container: str
    address: str
    netns: str

    def really_has(self) -> list[str]:
        """The addresses in its namespace."""
        command = ["ip", "-n", self.netns, "-json", "-4", "address", "show", "dev", "lo"]
        shown = json.loads(subprocess.check_output(command))
        return [one["local"] for one in shown[0]["addr_info"]]


@dataclass
class Node:
    """A node that begins with host-local on its podCIDR."""

    site: Site
    cidr: str
    plugin: Path
    pods: list[Pod] = field(default_factory=list)

    @property
    def tree(self) -> Path:
        """Where host-local has its leases: the dataDir of both plugins."""
        return self.site.store / "podnet"

    def host_local(self, command: str, container: str, netns: str = "/x") -> Any:
        """Call host-local as a runtime does."""
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": self.cidr}]],
            "dataDir": str(self.site.store),
        }
        config = {"cniVersion": "1.0.0", "name": "podnet", "type": "ptp", "ipam": ipam}
        variables = environment(command, container) | {"CNI_NETNS": netns}
        done = subprocess.run(
            [self.plugin],
            input=json.dumps(config),
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return json.loads(done.stdout) if done.stdout else None

    def start_pod(self, address: str = "", container: str = "") -> Pod:
        """Start a pod: of host-local's address, or of this one."""
        number = next(_numbers)
        name = f"fi{os.getpid()}-{number}"
        container = container or f"{self.site.name}{number:05}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        if not address:
            found = self.host_local("ADD", container, f"/run/netns/{name}")
            address = found["ips"][0]["address"].partition("/")[0]
        command = ["ip", "-n", name, "address", "add", f"{address}/32", "dev", "lo"]
        subprocess.run(command, check=True)
        pod = Pod(self, container, address, name)
        self.pods.append(pod)
        return pod

    def owners(self) -> dict[str, str]:
        """The container of each address, as fastipam has it."""
        with fastipam.open(self.site.store, create=False) as ipam:
            leases = ipam.network("podnet").leases()
            return {str(one.address.ip): one.container_id for one in leases}

    def in_files(self) -> dict[str, str]:
        """The container of each address, as host-local has it."""
        return {
            one.name: host_local.owner_of(one.read_text())[0]
            for one in self.tree.iterdir()
            if one.name[0].isdigit()
        }


@pytest.fixture
def nodes(api: Api, tmp_path: Path) -> Iterator[list[Node]]:
    """Three nodes whose pods run on host-local's addresses."""
    require_root()
    require_tools("ip")
    plugin = program("host-local")
    if plugin is None:
        not_built("host-local is not built: scripts/kubernetes-tools host-local builds it")
    made = []
    for at, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        site = Site(api, tmp_path / name, name)
        site.store.mkdir()
        made.append(Node(site, f"{_PREFIX}.{at}.0/24", plugin))
        give(api, name, made[-1].cidr)
    try:
        for at in range(PODS):
            made[at % 3].start_pod()
        yield made
    finally:
        for node in made:
            for pod in node.pods:
                subprocess.run(["ip", "netns", "delete", pod.netns], check=False)
    for node in made:
        with fastipam.open(node.site.store) as ipam:
            assert not verify(ipam.store)


def test_there_and_back(api: Api, nodes: list[Node], start: Start) -> None:  # noqa: F811
    """No pod's address changes, none is given twice, and host-local goes on where it was."""
    leader = Leader(api)
    make(api, f"{_PREFIX}.0.0/16")
    leader.settle()
    assert owners(api) == {node.cidr: node.site.name for node in nodes}
    agents = [
        start("--cluster", str(node.site.conflist), name=f"s{at}") for at, node in enumerate(nodes)
    ]
    first = [pod for node in nodes for pod in node.pods]
    for node in nodes:
        wanted = {pod.address for pod in node.pods}
        until(lambda: node.site.has_pools() and wanted <= set(node.owners()), "adopted")  # noqa: B023
    # The runtimes still call host-local: it assigns until they have read the new configuration.
    late = [node.start_pod() for node in nodes]
    for node, agent in zip(nodes, agents, strict=True):
        taken = {pod.address for pod in node.pods}
        answer = ask(agent.path, "ADD", node.site.config(), f"new-{node.site.name}")
        assert answer.status == 0, answer
        assert answer.address not in taken
        node.start_pod(answer.address, f"new-{node.site.name}")
        assert node.owners() == {pod.address: pod.container for pod in node.pods}
    # Pods of before end, as any.
    for node, agent in zip(nodes, agents, strict=True):
        gone = node.pods.pop(0)
        first.remove(gone)
        subprocess.run(["ip", "netns", "delete", gone.netns], check=True)
        assert ask(agent.path, "DEL", node.site.config(), gone.container).status == 0
        assert gone.address not in node.in_files()
        assert ask(agent.path, "ADD", node.site.config(), f"more-{node.site.name}").status == 0
        assert gone.container not in node.owners().values()
        assert ask(agent.path, "DEL", node.site.config(), f"more-{node.site.name}").status == 0
    change(api, claims="Any")
    leader.settle()
    assert condition(api, "default")[:2] == ("True", "Accepted")
    # And back: the podCIDRs only, then host-local's files.
    change(api, claims="NodeCIDRs")
    leader.settle()
    for node, agent in zip(nodes, agents, strict=True):
        agent.terminate()
        store = str(node.site.store)
        command = [str(FASTIPAM), "export", "host-local", store, "--data-dir", store]
        subprocess.run(command, check=True, capture_output=True)
        assert node.in_files() == {pod.address: pod.container for pod in node.pods}
        taken = set(node.in_files())
        assert node.start_pod().address not in taken
    for pod in first + late:
        assert pod.address in pod.really_has()
        pod.node.host_local("DEL", pod.container)
        assert pod.address not in pod.node.in_files()
    close_all()
    assert api.admin.get(f"{POOLS}/default").done()["spec"]["claims"] == "NodeCIDRs"
