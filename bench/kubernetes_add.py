"""What an ADD costs the agent on a Kubernetes cluster: ``python -m bench.kubernetes_add``.

Two agents in turns, with a cluster's pool and without, on a real API server of its own; then the
same with that server killed. Judged is the processor time of the loops that serve (bars: 1.1 and
1.2 times). Exit status 1: a bar is missed; 2: something is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.agent.processes import Agent, ask
from tests.cluster.etcd import debian_etcd, packaged_etcd
from tests.kubernetes.machines import accept
from tests.kubernetes.server import ApiServer
from tests.kubernetes.test_agent import fastipam_boot, kubeconfig
from tests.kubernetes.tools.build import program

from bench.cluster_add import compare, configuration, one_round

SERVED_BAR, STOPPED_BAR = 1.1, 1.2
_PATIENCE_S = 30.0


def _until_served(agent: Agent, stdin: bytes) -> None:
    """Wait until the agent has a block."""
    end = time.monotonic() + _PATIENCE_S
    while ask(agent.path, "ADD", json.loads(stdin), "first").status:
        if time.monotonic() > end:
            raise SystemExit(f"no address within {_PATIENCE_S:g} s: {agent.log[-2000:]}")
        time.sleep(0.1)


def _run(api: ApiServer, place: Path, rounds: int) -> list[tuple[float, float]]:
    """Return (ratio, bar) for both measurements."""
    rest = api.node("n1", fastipam_boot())
    file = place / "kubeconfig"
    file.write_text(json.dumps(kubeconfig(rest.port, api.ca, rest.token)))
    cluster = {"engine": "kubernetes", "node": "n1", "address": "192.0.2.1"}
    cluster["kubeconfig"] = str(file)
    stdin = configuration(place / "a", None), configuration(place / "b", cluster)
    agents = [Agent(place / name) for name in ("plain", "shared")]
    try:
        for agent, one in zip(agents, stdin, strict=True):
            _until_served(agent, one)
            one_round(agent.path, one, 50)
        label = "ADD through the agent, without and with"
        served = compare(label, agents, stdin, rounds, SERVED_BAR)
        api.kill_server()
        label = "the same, the API server killed"
        stopped = compare(label, agents, stdin, rounds, STOPPED_BAR)
    finally:
        for agent in agents:
            agent.terminate()
    return [(served, SERVED_BAR), (stopped, STOPPED_BAR)]


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes_add", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    server, etcd = program("kube-apiserver"), debian_etcd() or packaged_etcd()
    if server is None or etcd is None:
        print("kube-apiserver or etcd is missing: scripts/kubernetes-tools builds the first")
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="fi-") as made,
        ApiServer(server, etcd, Path(made)) as api,
    ):
        api.install()
        accept(api, cidr="10.32.0.0/12", size=24)
        found = _run(api, Path(made), options.rounds)
    for ratio, bar in found:
        met = "met   " if ratio <= bar else "MISSED"
        print(f"{met} {ratio:.3f} times the processor time, bar {bar:g}", file=sys.stderr)
    return 0 if all(ratio <= bar for ratio, bar in found) else 1


if __name__ == "__main__":
    sys.exit(main())
