"""What nodes ask after their API server was started again: ``python -m bench.kubernetes_restart``.

The nodes have keepers, as in an agent, and follow pools and requests on a real server, which is
killed and started again. Each list that they ask for afterwards is counted. Exit status 1: the bar
is missed; 2: something is missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.etcd import debian_etcd, packaged_etcd
from tests.kubernetes.machines import Machine, accept
from tests.kubernetes.server import ApiServer
from tests.kubernetes.tools.build import program

from fastipam.cluster.keeper.keeper import Keeper
from fastipam.cluster.registries.kubernetes.losses import SPREAD_S
from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registries.kubernetes.client import Client

LISTS_BAR = 1  # lists of each node
_SETTLED_S = 2 * SPREAD_S
_QUIET_S = 10.0


class _Noting(Counter[tuple[str, str]]):
    """Counts requests, and records the time of each list and of each read of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.lists: list[tuple[float, str]] = []
        self.reads: list[float] = []

    def __setitem__(self, key: tuple[str, str], value: int) -> None:
        if key[0] == "LIST":
            self.lists.append((time.monotonic(), key[1]))
        if key == ("GET", "addressblocks"):
            self.reads.append(time.monotonic())
        super().__setitem__(key, value)


def _keeper(machine: Machine, client: Client) -> Keeper:
    def opened(share: Share) -> KubernetesRegistry:
        return KubernetesRegistry(share, client)

    return Keeper(machine.share, opened, directories=())


def _run(
    api: ApiServer, place: Path, nodes: int
) -> tuple[list[list[tuple[float, str]]], list[float]]:
    """Return the lists of each node after the restart, and the times of all reads of own blocks.

    Times are seconds since the server was killed; those of the reads are sorted.
    """
    machines = [Machine(place, api, f"node-{at:03}") for at in range(nodes)]
    notings, keepers = [], []
    for machine in machines:
        client = machine.client()
        noting = _Noting()
        client.requests = noting
        notings.append(noting)
        keepers.append(_keeper(machine, client))
        keepers[-1].start()
    while not all(machine.active() for machine in machines):
        time.sleep(0.2)
    time.sleep(_QUIET_S)  # until every watch has begun
    api.kill_server()
    began = time.monotonic()
    api.start_server()
    time.sleep(_SETTLED_S)
    found = [[(at - began, what) for at, what in one.lists if at > began] for one in notings]
    reads = sorted(at - began for one in notings for at in one.reads if at > began)
    for keeper in keepers:
        keeper.stop()
    for machine in machines:
        machine.close()
    return found, reads


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes_restart", description=__doc__)
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--etcd", type=Path, help="the etcd to start [default: Debian's, PyPI's]")
    options = parser.parse_args(argv)
    server = program("kube-apiserver")
    etcd = options.etcd or debian_etcd() or packaged_etcd()
    if server is None or etcd is None:
        print("kube-apiserver or etcd is missing: scripts/kubernetes-tools builds the first")
        return 2
    with tempfile.TemporaryDirectory() as made, ApiServer(server, etcd, Path(made)) as api:
        api.install()
        accept(api, cidr="10.32.0.0/12", size=24)
        rows, reads = _run(api, Path(made), options.nodes)
    counts = Counter(len(row) for row in rows)
    kinds = Counter(what for row in rows for _, what in row)
    moments = sorted(at for row in rows for at, _ in row)
    print(f"lists a node: {dict(sorted(counts.items()))}; of {dict(sorted(kinds.items()))}")
    if moments:
        print(f"the first after {moments[0]:.1f} s, the last after {moments[-1]:.1f} s")
    if reads:
        print(f"{len(reads)} reads of own blocks, {reads[0]:.1f} to {reads[-1]:.1f} s after it")
    met = max(counts, default=0) <= LISTS_BAR
    print(f"{'met   ' if met else 'MISSED'} at most {LISTS_BAR} list a node", file=sys.stderr)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
