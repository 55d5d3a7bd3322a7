"""Nodes that all start in one instant, on a real API server: ``python -m bench.kubernetes_crowd``.

Each client is a node with a store of its own: it registers, claims one block and reads its entry
again, through ``Registry`` as an agent does, with a token that is bound to its pod. The clients are
threads of a few processes, which wait for each other at the start. Server, etcd and clients share
this machine's processors. Exit status 1: a bar is missed; 2: something is missing.

``--json`` has what ``python -m bench.kubernetes_sim --like`` takes: what each kind of request cost
(``cost_ms``), and how much of the processors there was for it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from tests.cluster.etcd import debian_etcd, packaged_etcd
from tests.kubernetes.machines import accept
from tests.kubernetes.server import ApiServer
from tests.kubernetes.tools.build import program

from bench.kubernetes_sim import calibrate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.engines.http import Connection
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.registries.kubernetes.client import Client

ALL_S = 15.0  # the bar for the time until the last of 500 nodes has its block
POSTS_BAR = 1.2  # the bar for creations per claim
PATIENCE_S = 300.0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes_crowd", description=__doc__)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# A part of the nodes, in a process of its own ---------------------------------------------------


def _part(file: str, go: str) -> int:
    """Run the nodes in ``file`` when ``go`` exists, and print a JSON object for each."""
    from fastipam.cluster.engines import pool
    from fastipam.cluster.engines.http import connect
    from fastipam.cluster.registries.kubernetes.access import Access, parse_server
    from fastipam.cluster.registries.kubernetes.client import Client

    told = json.loads(Path(file).read_text())
    rows: list[dict[str, Any]] = []
    connections = Counter[str]()

    def counted(*given: Any) -> Connection:
        connections["made"] += 1
        return connect(*given)

    vars(pool)["connect"] = counted
    began = [0.0]
    barrier = threading.Barrier(len(told["tokens"]) + 1)

    def run(name: str, token: str) -> None:
        access = Access([parse_server(told["url"])], ca=told["ca"], token=token)
        client = Client(access)
        node = _node(name, client, Path(told["stores"]) / name)
        barrier.wait()
        rows.append(first_block(node, client, time.monotonic, time.sleep, began[0]))
        client.close()
        node.share.store.close()

    threads = [threading.Thread(target=run, args=each) for each in told["tokens"].items()]
    for one in threads:
        one.start()
    while barrier.n_waiting < len(threads):
        time.sleep(0.01)
    print("ready", flush=True)
    while not Path(go).exists():
        time.sleep(0.005)
    before_s, began[0] = time.process_time(), time.monotonic()
    barrier.wait()
    for one in threads:
        one.join()
    print(json.dumps({"cpu_s": time.process_time() - before_s, "connections": connections["made"]}))
    for row in rows:
        print(json.dumps(row))
    return 0


def _node(name: str, client: Any, path: Path) -> Node:
    """Return a node with a store of its own."""
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry
    from fastipam.configuration.cluster import Settings
    from fastipam.network import Network
    from fastipam.storage.store import Store

    settings = Settings({"engine": "kubernetes", "node": name, "address": "192.0.2.1"})
    store = Store(path, "relaxed")
    network = Network(store, "podnet", settings.pool, remember=False)
    share = Share(store, network, settings)
    return Node(share, KubernetesRegistry(share, client))


def first_block(
    node: Node,
    client: Client,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    began: float,
) -> dict[str, Any]:
    """Claim until the node has a block, as an agent does; return the time since ``began``."""
    from fastipam.cluster import planner
    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import EngineError
    from fastipam.cluster.errors import NoBlock

    share, registry = node.share, node.registry
    failures = 0
    while True:
        try:
            deadline = Deadline(registry.operation_s, clock, call_s=registry.call_s)
            if share.has_begun():
                node.join(deadline, agent=True)
                if share.blocks():
                    break
            if not share.settings.pools:
                share.adopt_pools(registry.pools(deadline) or [])
            if node.claim(node.settings.geometries[0], 1, deadline):
                break
        except (EngineError, NoBlock):
            failures += 1
            if clock() - began > PATIENCE_S:
                return {"node": node.name, "seconds": None}
            sleep(planner.backoff_s(node.name, failures))
    requests = {f"{method} {plural}": n for (method, plural), n in client.requests.items()}
    (block,) = share.blocks()
    return {
        "node": node.name,
        "seconds": clock() - began,
        "requests": requests,
        "base": block.base,
        "postponed": client.postponed,
        "failures": failures,
    }


# The whole ------------------------------------------------------------------------------------


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def _run(
    options: argparse.Namespace, api: ApiServer, place: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each node, and the simulator's inputs that were measured in this run."""
    costs = calibrate.probe(api)
    names = [f"node-{at:04}" for at in range(options.nodes)]
    tokens = {name: api.node(name).token for name in names}
    go, parts = place / "go", []
    for at in range(options.processes):
        file = place / f"part-{at}.json"
        told = {
            "url": api.url,
            "ca": str(api.ca),
            "stores": str(place),
            "tokens": {name: tokens[name] for name in names[at :: options.processes]},
        }
        file.write_text(json.dumps(told))
        command = [sys.executable, "-m", "bench.kubernetes_crowd", "--part", str(file), str(go)]
        parts.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for part in parts:
        assert part.stdout is not None
        assert part.stdout.readline() == "ready\n"
    phase_s = calibrate.phase_s(api, time.time())
    pids = calibrate.pids_of(api)
    began, used_s, idle_s = time.monotonic(), calibrate.processor_s(pids), calibrate.idle_s()
    go.touch()
    rows, clients_s, connections = [], 0.0, 0
    for part in parts:
        out, _ = part.communicate(timeout=2 * PATIENCE_S)
        first, *lines = out.splitlines()
        told = json.loads(first)
        clients_s += told["cpu_s"]
        connections += told["connections"]
        rows += [json.loads(line) for line in lines]
    seconds = time.monotonic() - began
    used_s, idle_s = calibrate.processor_s(pids) - used_s, calibrate.idle_s() - idle_s
    requests = Counter[str]()
    for row in rows:
        requests.update(row.get("requests", {}))
    costs = calibrate.scaled(
        costs, requests, connections, sum(row.get("postponed", 0) for row in rows), used_s
    )
    costs["client"] = round(1000 * clients_s / requests.total(), 3)
    return rows, {
        "cost_ms": costs,
        "processors": round((used_s + clients_s + idle_s) / seconds, 3),
        "phase_s": phase_s,
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the whole crowd."""
    served = [row for row in rows if row["seconds"] is not None]
    seconds = sorted(row["seconds"] for row in served)
    posts = sum(row["requests"].get("POST addressblocks", 0) for row in served)
    all_requests = sum(sum(row["requests"].values()) for row in served)
    writes = sum(
        count
        for row in served
        for what, count in row["requests"].items()
        if what.startswith(("POST", "PUT", "DELETE"))
    )
    count = max(1, len(served))
    return {
        "nodes": len(rows),
        "served": len(served),
        "twice": len(served) - len({row["base"] for row in served}),
        "median_s": round(median(seconds), 2) if seconds else 0,
        "last_s": round(max(seconds), 2) if seconds else 0,
        "posts_a_claim": round(posts / count, 3),
        "requests_a_node": round(all_requests / count, 2),
        "writes_a_node": round(writes / count, 2),
        "postponed_a_node": round(sum(row["postponed"] for row in served) / count, 3),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    options = _arguments(argv)
    if options.part:
        return _part(*options.part)
    server, etcd = program("kube-apiserver"), debian_etcd() or packaged_etcd()
    if server is None or etcd is None:
        print("kube-apiserver or etcd is missing: scripts/kubernetes-tools builds the first")
        return 2
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        with ApiServer(server, etcd, place) as api:
            api.install()
            accept(api, cidr="10.32.0.0/12", size=24)
            before = _resident_kib(api.pid)
            rows, measured = _run(options, api, place)
            grown_kib = _resident_kib(api.pid) - before
    found = figures(rows)
    found["server_kib_a_node"] = round(grown_kib / max(1, found["served"]))
    if options.json:
        print(json.dumps(found | measured))
    else:
        table = Table("figure", "value", title=f"{options.nodes} nodes in one instant")
        for name, value in found.items():
            table.add_row(name.replace("_", " "), f"{value:,}")
        Console(width=None if sys.stdout.isatty() else 100).print(table)
    bars = [
        (
            "every node is served, none twice",
            found["served"] == found["nodes"] and not found["twice"],
        ),
        (f"the last one within {ALL_S:g} s", found["last_s"] <= ALL_S),
        (f"at most {POSTS_BAR} creations a claim", found["posts_a_claim"] <= POSTS_BAR),
    ]
    for text, met in bars:
        print(f"{'met   ' if met else 'MISSED'} {text}", file=sys.stderr)
    return 0 if all(met for _, met in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
