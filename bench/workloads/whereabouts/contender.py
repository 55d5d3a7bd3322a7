"""Build whereabouts and start a real API server for it. Each workload gets pools of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import rendering
from tests.cluster.etcd import debian_etcd, packaged_etcd
from tests.kubernetes.server import ApiServer, until
from tests.kubernetes.tools import build

from bench.errors import Missing
from bench.stores import IFNAME
from bench.workloads.contenders import Plugin, TakesNoPart
from bench.workloads.traces import container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.workloads.traces import Workload

NAME = "whereabouts"
DURABILITY = "synced to the disk by the etcd behind the API server, before the answer"
_PROJECT = "github.com/k8snetworkplumbingwg/whereabouts"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_POOLS = "/apis/whereabouts.cni.cncf.io/v1alpha1/namespaces/kube-system/ippools"


class Whereabouts(Plugin):
    """whereabouts with its defaults. Its leases are written directly, as one object per pool."""

    durability = DURABILITY

    def __init__(
        self, server: ApiServer, binary: Path, workload: Workload, scratch: Path, root: Path
    ) -> None:
        scratch.mkdir(parents=True)
        self._server = server
        self._pools = workload.pools
        words = "-".join(scratch.relative_to(root).parts)
        self._network = re.sub(r"[^a-z0-9]+", "-", words.lower())
        flat = scratch / "whereabouts.conf"
        flat.write_text(json.dumps({"kubernetes": {"kubeconfig": str(server.kubeconfig())}}))
        ipam = {
            "type": NAME,
            "ipRanges": [{"range": pool} for pool in self._pools],
            "network_name": self._network,
            "configuration_path": str(flat),
        }
        super().__init__(NAME, binary, ipam, scratch)

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:  # noqa: ARG002
        if not leases:
            return 0
        held = {
            str(number + 1): {
                "id": container(number),
                "ifname": IFNAME,
                "podref": f"bench/pod-{container(number)[-16:]}",
            }
            for number in range(leases)
        }
        for pool in self._pools:
            name = f"{self._network}-{re.sub('[:/]', '-', pool)}"
            spec = {"range": pool, "allocations": held}
            body = {
                "apiVersion": "whereabouts.cni.cncf.io/v1alpha1",
                "kind": "IPPool",
                "metadata": {"name": name},
                "spec": spec,
            }
            self._server.admin.delete(f"{_POOLS}/{name}")  # ``try_out`` has created it
            try:
                answer = self._server.admin.create(_POOLS, body)
                why = "" if answer.status == 201 else answer.message[:120]
            except OSError as error:  # the server closes the connection during a large request
                why = f"the API server ended the connection: {error}"
            if why:
                raise TakesNoPart(f"no IPPool has room for {leases:,} allocations: {why}")
        return leases


@contextmanager
def running(scratch: Path) -> Iterator[Callable[[Workload, Path], Plugin]]:
    """Start etcd and an API server in ``scratch``; yield the function that makes the contender.

    Raises Missing when a program is missing that this module does not build.
    """
    program, etcd = build.program("kube-apiserver"), packaged_etcd() or debian_etcd()
    if program is None:
        raise Missing("kube-apiserver has not been built: scripts/kubernetes-tools kube-apiserver")
    if etcd is None:
        raise Missing("etcd is missing; install Debian's etcd-server")
    binary, kinds = built()
    directory = scratch / "api-server"
    directory.mkdir()
    with ApiServer(program, etcd, directory) as server:
        for kind in kinds:
            server.admin.create(_CRDS, kind).done()
        until(lambda: server.admin.get(_POOLS).status == 200, "whereabouts' kinds are served")
        yield lambda workload, here: Whereabouts(server, binary, workload, here, scratch)


def built() -> tuple[Path, list[dict[str, Any]]]:
    """Return whereabouts, built unless it is in the cache, and its CRDs. Raises Missing."""
    module = build.Module(Path(__file__).parent)
    module.commands = {NAME: next(iter(module.commands.values()))}
    kinds = module.directory / "crds"
    try:
        module.ensure(NAME)
    except SystemExit as error:
        raise Missing(f"--whereabouts: {error}") from error
    if not kinds.exists():
        _copy_kinds(kinds)
    documents = [
        document
        for path in sorted(kinds.glob("whereabouts*.yaml"))
        for document in rendering.parse(path.read_text())
    ]
    return module.directory / NAME, documents


def _copy_kinds(to: Path) -> None:
    command = ["go", "list", "-m", "-f", "{{.Dir}}", _PROJECT]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise Missing(f"--whereabouts: its kinds cannot be found: {error}") from error
    shutil.copytree(Path(done.stdout.strip()) / "doc" / "crds", to)
