"""Nodes as processes of their own, in a cluster whose settings they are given."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fastipam.cluster import schema
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import Compare, Put
from fastipam.cluster.node.node import Node
from fastipam.cluster.node.share import Share
from fastipam.cluster.registries.keyvalue.registry import KeyValueRegistry
from fastipam.configuration.cluster import Settings
from fastipam.configuration.policy import Policy
from fastipam.network import Network
from fastipam.storage.store import Store

from .etcd import surely
from .history import Report, read

if TYPE_CHECKING:
    import random
    from typing import Any

    from .etcd import Etcd

PROGRAM = Path(__file__).with_name("chaos_node.py")
PATIENCE_S = 120.0  # for what takes a moment on a machine that is not busy
_clusters = itertools.count()


def document(endpoints: list[str], **more: Any) -> dict[str, Any]:
    """The settings of a cluster of the test's own: 32 blocks of 16 addresses, soon used up."""
    return {
        "endpoints": endpoints,
        "pool": "10.32.0.0/23",
        "blockSize": 28,
        "prefix": f"/chaos-{next(_clusters)}/",
        "minimumAge": 1,
        "sessionTTL": 5,
        "address": "192.0.2.1",
    } | more


def init(etcd: Etcd, written: dict[str, Any]) -> Settings:
    """What ``fastipam cluster init`` writes."""
    settings = Settings({key.casefold(): value for key, value in written.items()} | {"node": "i"})
    key = schema.Keys(settings.prefix, "podnet").settings
    with contextlib.closing(etcd.engine()) as engine:
        puts = [Put(key, settings.text.encode())]
        surely(engine, [Compare(key, "absent")], puts)
    return settings


class Crowd:
    """Nodes as processes; a context manager that ends those that still run.

    ``add_s``: for how long an ADD that finds no address asks again. In the settings ``{node}``
    stands for the node's name.
    """

    def __init__(self, path: Path, count: int, written: dict[str, Any], *, add_s: float) -> None:
        self.path = path
        self.names = [f"node-{at:02}" for at in range(count)]
        self.histories = {name: path / f"{name}.history" for name in self.names}
        self._stop = path / "stop"
        self._add_s = add_s
        self._document = json.dumps(written)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def start(self) -> None:
        """Start all."""
        for name in self.names:
            self._start(name)

    def _start(self, name: str) -> None:
        with (self.path / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    *(sys.executable, str(PROGRAM), str(self.path / name), name),
                    *(str(self.histories[name]), str(self._stop), str(self._add_s)),
                    self._document.replace("{node}", name),
                ],
                stdout=log,
                stderr=log,
            )

    def answers(self) -> int:
        """How many addresses were assigned so far."""
        return sum(
            path.read_bytes().count(b" has ") for path in self.histories.values() if path.exists()
        )

    def served(self, count: int, least_s: float = 0.0) -> None:
        """Wait until so many more addresses are assigned, and so long at least."""
        begin, before = time.monotonic(), self.answers()
        while self.answers() < before + count or time.monotonic() < begin + least_s:
            assert time.monotonic() < begin + least_s + PATIENCE_S, "the nodes do not get on"
            time.sleep(0.1)

    def kill_one(self, chance: random.Random) -> None:
        """SIGKILL to one of them, and a new process with the same store."""
        name = chance.choice(self.names)
        self.processes[name].kill()
        self.processes[name].wait()
        self.kills += 1
        self._start(name)

    def finish(self) -> Report:
        """Tell all to end, wait until they have, and read what they wrote."""
        self._stop.touch()
        for name, process in self.processes.items():
            status = process.wait(PATIENCE_S)
            assert status == 0, (name, (self.path / f"{name}.log").read_text()[-3000:])
        return read(self.histories)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def told(title: str, report: Report, **more: object) -> None:
    """The figures, for ``-s``."""
    print(
        f"\n{title}: {report.answers} addresses assigned, worst wait {report.worst_ms:.0f} ms, "
        f"{len(report.unserved)} not served, {report.counts} {more}"
    )


def assert_settled(crowd: Crowd, etcd: Etcd, written: dict[str, Any]) -> None:
    """What the stores have assigned is each node's own by etcd, and nobody's twice."""
    seen: dict[str, str] = {}
    for name in crowd.names:
        settings = Settings(
            {key.casefold(): value for key, value in written.items()}
            | {"node": name, "endpoints": etcd.endpoints}
        )
        store = Store(crowd.path / name, "relaxed")
        network = Network(store, "podnet", settings.pool, policy=Policy(cooldown_s=0))
        with contextlib.closing(etcd.engine()) as engine, contextlib.closing(store):
            share = Share(store, network, settings)
            registry = KeyValueRegistry(share, engine)
            node = Node(share, registry)
            node.join(Deadline(PATIENCE_S), agent=True)
            assert not node.share.has_begun()
            prefix = registry.keys.owned_by(name)
            owned = {
                schema.read_block_key(one.key)[1]
                for one in engine.list(prefix, deadline_s=PATIENCE_S)[0]
            }
            for lease in network.leases():
                assert seen.setdefault(lease.cidr.partition("/")[0], name) == name
                assert lease.value & ~15 in owned, (name, lease.cidr.partition("/")[0])
