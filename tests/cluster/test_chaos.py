"""Cluster mode on a real etcd while members die, connections break and nodes are killed.

Short by default. ``FASTIPAM_LONG=1 python -m pytest tests/cluster/test_chaos.py`` is the long form:
ten minutes of sixteen nodes. ``-s`` shows the figures.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastipam.cluster import layout
from fastipam.cluster.claims import Deadline, Node
from fastipam.cluster.connect import connect
from fastipam.cluster.engine import Compare, Put
from fastipam.cluster.keeper import Keeper
from fastipam.cluster.settings import Settings
from fastipam.errors import PoolExhausted
from fastipam.network import Network
from fastipam.policy import Policy
from fastipam.store import Store

from .etcd import Etcd
from .history import Report, read
from .proxy import Proxy

LONG = os.environ.get("FASTIPAM_LONG") == "1"
PROGRAM = Path(__file__).with_name("chaos_node.py")
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
    key = layout.Keys(settings.prefix, "podnet").settings
    with contextlib.closing(etcd.engine()) as engine:
        puts = [Put(key, settings.text.encode())]
        assert engine.transact([Compare(key, "absent")], puts, deadline_s=20).succeeded
    return settings


class Crowd:
    """Nodes as processes; a context manager that ends those that still run."""

    def __init__(self, path: Path, count: int, written: dict[str, Any]) -> None:
        self.path = path
        self.names = [f"node-{at:02}" for at in range(count)]
        self.histories = {name: path / f"{name}.history" for name in self.names}
        self._document = json.dumps(written)
        self._end = 0.0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def start(self, seconds: float) -> None:
        """Start all; each ends by itself."""
        self._end = time.monotonic() + seconds
        for name in self.names:
            self._start(name)

    def _start(self, name: str) -> None:
        left = self._end - time.monotonic()
        with (self.path / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    *(sys.executable, str(PROGRAM), str(self.path / name), name),
                    *(str(self.histories[name]), str(left), self._document),
                ],
                stdout=log,
                stderr=log,
            )

    def kill_one(self, chance: random.Random) -> None:
        """SIGKILL to one of them, and a new process with the same store."""
        name = chance.choice(self.names)
        self.processes[name].kill()
        self.processes[name].wait()
        self.kills += 1
        self._start(name)

    def finish(self) -> Report:
        """Wait until all have ended, and read what they wrote."""
        for name, process in self.processes.items():
            status = process.wait(60)
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
            node = Node(store, network, settings, engine)
            node.join(Deadline(30), agent=True)
            assert not node.has_begun()
            prefix = node.keys.owned_by(name)
            owned = {
                layout.read_block_key(one.key)[1] for one in engine.list(prefix, deadline_s=20)[0]
            }
            for lease in network.leases():
                assert seen.setdefault(lease.cidr.partition("/")[0], name) == name
                assert lease.value & ~15 in owned, (name, lease.cidr.partition("/")[0])


def test_no_address_twice(etcd: Etcd, tmp_path: Path) -> None:
    """Sixteen nodes under SIGKILL and cut connections: no address is ever two nodes'."""
    seconds = 600.0 if LONG else 20.0
    chance = random.Random(7)
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(member.client_port)) for member in etcd.members]
        written = document([proxy.endpoint for proxy in proxies])
        init(etcd, written)
        crowd = stack.enter_context(Crowd(tmp_path, 16, written))
        crowd.start(seconds)
        end = time.monotonic() + seconds - 6
        disturbances = 0
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.1, 0.6))
            proxy = chance.choice(proxies)
            match chance.randrange(6):
                case 0 | 1:
                    crowd.kill_one(chance)
                case 2 | 3:
                    proxy.cut()
                case 4:
                    proxy.become("mute" if chance.random() < 0.5 else "swallow")
                    time.sleep(0.3)
                    proxy.cut()
                    proxy.become("pass")
                case _:
                    proxy.delay_s = chance.choice((0.0, 0.0, 0.02))
            disturbances += 1
        for proxy in proxies:
            proxy.delay_s = 0.0
        report = crowd.finish()
    told("sixteen nodes", report, kills=crowd.kills, disturbances=disturbances)
    assert not report.conflicts
    assert crowd.kills > 2
    assert report.answers > 200
    assert_settled(crowd, etcd, written)


def test_one_member_killed(etcd: Etcd, tmp_path: Path) -> None:
    """The leader dies under load and comes back: every ADD is served."""
    written = document(etcd.endpoints, pool="10.32.0.0/20")
    init(etcd, written)
    with Crowd(tmp_path, 6, written) as crowd:
        crowd.start(40.0 if LONG else 14.0)
        time.sleep(3)
        etcd.leader().kill()
        time.sleep(5)
        etcd.start()
        report = crowd.finish()
    told("one member killed", report)
    assert not report.unserved
    assert not report.conflicts
    assert report.answers > 100
    assert_settled(crowd, etcd, written)


@pytest.fixture
def site(fresh_etcd: Etcd, tmp_path: Path) -> Iterator[tuple[Etcd, Settings, Store, Network]]:
    """A node with a store and an etcd that the test may end."""
    written = document(fresh_etcd.endpoints, highWater=8, minimumAge=3600)
    init(fresh_etcd, written)
    settings = Settings({key.casefold(): value for key, value in written.items()} | {"node": "a"})
    with contextlib.closing(Store(tmp_path / "a", "relaxed")) as store:
        yield (
            fresh_etcd,
            settings,
            store,
            Network(store, "podnet", settings.pool, policy=Policy(cooldown_s=0)),
        )


def wait_until(holds: Any, what: str, seconds: float = 30.0) -> None:
    """Look every moment until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def free(network: Network) -> int:
    """Free addresses of the node's own blocks: tried out, and given back."""
    taken = 0
    with contextlib.suppress(PoolExhausted):
        while True:
            network.allocate(f"try-{taken}")
            taken += 1
    for at in range(taken):
        network.release(f"try-{at}")
    return taken


def test_all_members_stopped(site: tuple[Etcd, Settings, Store, Network]) -> None:
    """Without etcd a node assigns what it owns and says what is wrong; then it catches up."""
    etcd, settings, store, network = site
    keeper = Keeper(store, network, settings, connect, directories=())
    keeper.start()
    try:
        wait_until(lambda: keeper.status.states.get("active", 0) >= 1, "a first block")
        owned = free(network)
        assert owned >= 14
        for member in etcd.members:
            member.kill()
        wait_until(lambda: not keeper.status.connected, "it is noticed", 60)
        assert keeper.status.reason
        owned = free(network)
        leases = [network.allocate(f"pod-{at}") for at in range(owned)]  # nothing fails
        assert len({lease.value for lease in leases}) == owned
        with pytest.raises(PoolExhausted):
            network.allocate("one-more")
        keeper.need("one-more")
        assert len(network.release("pod-0")) == 1  # DEL goes on, too
        network.allocate("another")
        etcd.start()
        wait_until(lambda: keeper.status.connected, "it is in touch again", 60)

        def served() -> bool:
            try:
                network.allocate("one-more")
            except PoolExhausted:
                keeper.need("one-more")
                return False
            return True

        wait_until(served, "claims resume by themselves", 60)
    finally:
        keeper.stop()


def test_many_nodes_start_at_once(etcd: Etcd, tmp_path: Path) -> None:
    """200 nodes claim their first block of a /12 at once: at most 1.2 transactions a claim."""
    written = document(etcd.endpoints, pool="10.32.0.0/12", blockSize=24)
    init(etcd, written)
    count = 200
    barrier = threading.Barrier(count)
    nodes: list[Node] = []
    for at in range(count):
        settings = Settings(
            {key.casefold(): value for key, value in written.items()} | {"node": f"node-{at}"}
        )
        store = Store(tmp_path / f"{at}", "relaxed")
        network = Network(store, "podnet", settings.pool, policy=Policy(cooldown_s=0))
        nodes.append(Node(store, network, settings, etcd.engine()))
    claimed: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def work(node: Node) -> None:
        try:
            node.join(Deadline(60), agent=True)
            barrier.wait(120)
            claimed.extend(node.claim(node.settings.geometries[0], 1, Deadline(60)))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(node,)) for node in nodes]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for node in nodes:
            node.engine.close()
            node.store.close()
    assert not failures
    assert len(claimed) == len(set(claimed)) == count
    ratio = sum(node.counts.transactions for node in nodes) / count
    print(f"\n{count} nodes at once: {ratio:.3f} transactions a claim")
    assert ratio <= 1.2
