"""How long pods take to be Ready on a real node: ``python -m bench.kubernetes_pods``.

One node with kubelet and containerd (tests/kubernetes/nodes) starts Deployments of 30 and 60 pods,
in turns with the plugin host-local and with fastipam as the chart installs it, behind the same
``ptp``. What of it is IPAM: the seconds of all ADDs by the agent's histogram, beside the seconds
of all pods from their creation until they were Ready. Exit status 2: something is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from _pytest.outcomes import Skipped
from rich.console import Console
from rich.table import Table
from tests.kubernetes.e2e import workloads
from tests.kubernetes.e2e.release import TAG, Release
from tests.kubernetes.nodes import image
from tests.kubernetes.nodes.cluster import Cluster
from tests.kubernetes.nodes.node import require
from tests.kubernetes.server import until

if TYPE_CHECKING:
    from collections.abc import Sequence

_COUNTS = (30, 60)
# The runtime takes the first file, and this name sorts before fastipam's.
_CONFIGURATION = "00-host-local.conflist"
_METRICS_PORT = 9464
_POOLS = [
    {"name": "default", "cidr": "10.32.0.0/12", "blockSize": 24, "gateway": "10.32.0.1"},
    {"name": "default-v6", "cidr": "fd00:10::/104", "blockSize": 120},
]


def _host_local() -> str:
    """Return the configuration for host-local: the same plugin ``ptp``, both families."""
    ranges = [[{"subnet": "10.99.0.0/16"}], [{"subnet": "fd99::/64"}]]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes}
    plugins = [
        {"type": "ptp", "ipMasq": True, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "other", "plugins": plugins})


class _Side:
    """One of the two IPAM plugins on the node, which can be made current and measured."""

    def __init__(self, cluster: Cluster, *, host_local: bool) -> None:
        self.cluster = cluster
        (self.node,) = cluster.nodes.values()
        self.host_local = host_local
        self.seconds: dict[int, list[float]] = {count: [] for count in _COUNTS}
        self.adds: list[tuple[int, float]] = []  # number of ADDs, and their seconds together
        self.waited = 0.0  # the seconds until Ready, of all pods together

    def choose(self) -> None:
        """Make the runtime use this plugin, and wait until it does."""
        path = self.node.own("/etc/cni/net.d") / _CONFIGURATION
        if self.host_local:
            path.write_text(_host_local())
        else:
            path.unlink(missing_ok=True)
        name = "other" if self.host_local else "podnet"
        until(
            lambda: name in self.node.crictl("info").stdout, f"the runtime has the network {name}"
        )

    def run(self, count: int) -> None:
        """Measure one Deployment of ``count`` pods, and wait until its pods are gone."""
        before = self._requests()
        began = time.monotonic()
        workloads.scale(self.cluster, "Deployment", "web", count)
        workloads.until_ready(self.cluster, "web", count)
        self.seconds[count].append(time.monotonic() - began)
        after = self._requests()
        self.adds.append((after[0] - before[0], after[1] - before[1]))
        self.waited += sum(map(_waited, workloads.pods(self.cluster, "web")))
        workloads.scale(self.cluster, "Deployment", "web", 0)
        workloads.until_ready(self.cluster, "web", 0)
        until(lambda: not self.node.run("ls", "/run/netns").stdout.split(), "namespaces are gone")

    def _requests(self) -> tuple[int, float]:
        """Return the number of ADDs that the agent has served, and their seconds together."""
        url = f"http://{self.node.addresses[0]}:{_METRICS_PORT}/metrics"
        program = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
        text = self.node.run(sys.executable, "-c", program).stdout
        found = {"count": 0.0, "sum": 0.0}
        for line in text.splitlines():
            for kind in found:
                if line.startswith(f"fastipam_request_seconds_{kind}{{") and '"ADD"' in line:
                    found[kind] += float(line.split()[-1])
        return int(found["count"]), found["sum"]


def _waited(pod: dict[str, Any]) -> float:
    """Return the seconds from a pod's creation until it was Ready."""
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    conditions = pod["status"]["conditions"]
    (ready,) = (each["lastTransitionTime"] for each in conditions if each["type"] == "Ready")
    return (datetime.fromisoformat(ready) - created).total_seconds()


def _measure(place: Path, rounds: int) -> list[_Side]:
    archive = place / "image.tar"
    image.build(archive, TAG)
    with Cluster(place / "nodes", nodes=1, images=[archive]) as cluster:
        release = Release(cluster)
        release.install(
            metrics={"enabled": True, "port": _METRICS_PORT},
            controller={"replicas": 1, "reclaimAfter": 600},  # one node has room for one
            pools=_POOLS,
        )
        release.until_rolled_out()
        workloads.apply(cluster, workloads.workload("Deployment", "web", 0))
        sides = [_Side(cluster, host_local=True), _Side(cluster, host_local=False)]
        for at in range(rounds + 1):  # the first round warms the caches of both
            for count in _COUNTS:
                for side in sides if at % 2 else sides[::-1]:
                    side.choose()
                    side.run(count)
            if at == 0:
                for side in sides:
                    side.seconds = {count: [] for count in _COUNTS}
                    side.adds.clear()
                    side.waited = 0.0
    return sides


def _told(seconds: list[float]) -> str:
    """Return the median and the single runs as text."""
    return f"{median(seconds):.1f} ({', '.join(f'{one:.1f}' for one in seconds)})"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes_pods", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side and count")
    options = parser.parse_args(argv)
    try:
        require()
    except Skipped as error:
        print(error)
        return 2
    with tempfile.TemporaryDirectory() as made:
        sides = _measure(Path(made), options.rounds)
    table = Table("pods", "host-local, s", "fastipam, s", title="until all pods are Ready")
    for count in _COUNTS:
        table.add_row(str(count), *(_told(side.seconds[count]) for side in sides))
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    fastipam = sides[1]
    adds = sum(count for count, _ in fastipam.adds)
    spent = sum(seconds for _, seconds in fastipam.adds)
    mean_ms, share = spent / max(1, adds) * 1000, spent / fastipam.waited * 100
    console.print(f"the agent: {adds} ADDs, {mean_ms:.1f} ms each")
    console.print(f"pods waited {fastipam.waited:.0f} s in all, {share:.2f} % of it for these ADDs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
