"""Agents on the Kubernetes API while they are killed, and the API is cut off, killed or compacted.

Short by default. ``scripts/campaign cluster --registry kubernetes`` is the long form: ten minutes
of sixteen nodes on the fake, and as long on a real server.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cluster.engine import EngineError
from fastipam.storage.boot import read_boot_id

from ..cluster.crowd import Crowd, told
from ..cluster.proxy import Proxy
from ..options import options
from .agents import Agent, Time, assert_agree, owners, unsettled
from .fake import FakeServer, Fault
from .machines import accept, take
from .rest import POOLS
from .server import ApiServer, until

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Api, StartServer
    from .fake.faults import Deed
    from .rest import Rest

pytestmark = pytest.mark.campaign

LONG = options.long
NODES = 16 if LONG else 6
LEAST_S, LEAST_FAULTS = (60 * (options.minutes or 10), 25) if LONG else (6.0, 12)
# As the etcd form: blocks of 16 addresses, soon used up; some ADDs are to find nothing.
CIDR, BLOCK_LENGTH = "10.32.0.0/23" if LONG else "10.32.0.0/24", 28
ADD_S = 5.0
RESOURCES = ("addressblocks", "addressnodes", "addressrequests", "addressrequests/status")


class Scene:
    """An API, a proxy before it, and the nodes."""

    def __init__(self, api: Api, port: int, path: Path) -> None:
        self.api = api
        self.proxy = Proxy(port)
        self.path = path
        self.rests: dict[str, Rest] = {}
        self.spec: dict[str, Any] = {}

    def prepare(self) -> dict[str, Any]:
        """Make the pool and the nodes with their credentials; the settings of a node."""
        accept(self.api, cidr=CIDR, size=BLOCK_LENGTH)
        accept(self.api, "fixed", "10.33.0.0/28", 32)
        for at in range(NODES):
            name = f"node-{at:02}"
            rest = self.rests[name] = self.api.node(name, read_boot_id())
            self._write(name, rest.token)
        return {
            "engine": "kubernetes",
            "kubeconfig": str(self.path / "{node}.kubeconfig"),
            "minimumAge": 1,
            "address": "192.0.2.1",
        }

    def _write(self, name: str, token: str) -> None:
        server = f"https://127.0.0.1:{self.proxy.port}"
        cluster = {"server": server, "certificate-authority": str(self.api.ca)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        (self.path / f"{name}.kubeconfig").write_text(json.dumps(document))

    def disturb(self, crowd: Crowd, chance: random.Random) -> str:
        """One fault, chosen at random; what it was."""
        match chance.randrange(12):
            case 0 | 1 | 2:
                crowd.kill_one(chance)
                return "node killed"
            case 3 | 4:
                self.proxy.cut()
                return "cut"
            case 5 | 6:
                self.proxy.become("mute" if chance.random() < 0.5 else "swallow")
                time.sleep(0.3)
                self.proxy.cut()
                self.proxy.become("pass")
                return "answers lost"
            case 7:
                self.proxy.delay_s = chance.choice((0.0, 0.0, 0.02))
                return "delay"
            case 8:
                self.pool(disabled=True)
                time.sleep(chance.uniform(0.1, 0.5))
                self.pool(disabled=False)
                return "pool disabled"
            case 9:
                self.compact()
                return "compaction"
            case _:
                return self.more(chance)

    def pool(self, **spec: Any) -> None:
        """Change the pool, and accept it."""
        path = f"{POOLS}/default"

        def change() -> bool:  # a fault, or a server without a seat, may be in the way
            with contextlib.suppress(AssertionError, OSError, http.client.HTTPException):
                found = self.api.admin.get(path).done()
                found["spec"] |= spec
                take(self.api, self.api.admin.replace(path, found).done())
                return True
            return False

        until(change, "the pool is changed")

    def compact(self) -> None:
        """Have the history forgotten."""
        raise NotImplementedError

    def more(self, chance: random.Random) -> str:
        """A fault of this kind of server."""
        raise NotImplementedError

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self.proxy.delay_s = 0.0


class FakeScene(Scene):
    """The fake, which makes every fault."""

    api: FakeServer

    def compact(self) -> None:
        """Have the history forgotten."""
        self.api.compact()

    def more(self, chance: random.Random) -> str:
        """A restart, or answers that a server gives when it is busy or half dead."""
        match chance.randrange(5):
            case 0:
                self.api.restart(chance.uniform(0.0, 0.5))
                return "API restarted"
            case 1:
                self.fault(chance, "answer", times=3, code=429, retry_after_s=1)
                return "429"
            case 2:
                self.fault(chance, "answer_after", times=2, code=chance.choice((500, 504)))
                return "500 after the change"
            case 3:
                self.fault(chance, "twice", times=3, delay_s=chance.uniform(0.1, 3))
                return "delivered twice"
            case _:
                self.fault(chance, "hold", times=2, delay_s=chance.uniform(0.1, 3))
                return "late requests"

    def fault(self, chance: random.Random, do: Deed, **more: Any) -> None:
        """Arm a fault for each kind of change of the agents', in any order."""
        for resource in chance.sample(RESOURCES, len(RESOURCES)):
            for verb in ("POST", "PUT", "DELETE"):
                self.api.fault(Fault(do, verb, resource, **more))

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        super().heal()
        self.api.heal()


class RealScene(Scene):
    """A real server."""

    api: ApiServer

    def compact(self) -> None:
        """Have the history forgotten."""
        etcd = self.api.etcd
        with contextlib.closing(etcd.engine()) as engine, contextlib.suppress(EngineError):
            etcd.compact(engine.list(b"revision", deadline_s=2.0)[1])

    def more(self, chance: random.Random) -> str:
        """A restart; a server takes some seconds for it, so there are few."""
        if chance.random() < (0.2 if LONG else 0.1):
            self.api.restart()
            return "API restarted"
        self.proxy.cut()
        return "cut"


def assert_settled(scene: Scene, crowd: Crowd) -> int:
    """What the stores have assigned is each node's own by the API; no block is an orphan.

    Returns how many blocks are owned.
    """
    clock = Time()
    agents = [
        Agent(crowd.path, scene.api, name, clock, rest=rest, boot=read_boot_id())
        for name, rest in scene.rests.items()
    ]
    try:
        for _ in range(2):
            for agent in agents:
                agent.turn(3)
        assert unsettled(scene.api, agents) == []
        assert_agree(scene.api, agents)
        seen: dict[str, str] = {}
        for agent in agents:
            mine = [ipaddress.ip_network(cidr) for cidr in agent.active()]
            for lease in agent.network.leases():
                address = lease.cidr.partition("/")[0]
                assert seen.setdefault(address, agent.name) == agent.name
                assert any(ipaddress.ip_address(address) in one for one in mine), address
    finally:
        for agent in agents:
            agent.close()
    return len(owners(scene.api))


def _nodes_with(prefix: str, crowd: Crowd) -> set[str]:
    """The nodes that had an address with this beginning."""
    word = f" has {prefix}".encode()
    return {name for name, path in crowd.histories.items() if word in path.read_bytes()}


def campaign(scene: Scene, path: Path, title: str) -> None:
    """Sixteen nodes under all that can go wrong: no address is two nodes', no block an orphan."""
    chance = random.Random(options.seed)
    with scene.proxy, Crowd(path, NODES, scene.prepare(), add_s=ADD_S) as crowd:
        crowd.start()
        crowd.served(20)
        begin = time.monotonic()
        done: dict[str, int] = {}
        while time.monotonic() < begin + LEAST_S or sum(done.values()) < LEAST_FAULTS:
            time.sleep(chance.uniform(0.1, 0.6 if LONG else 0.3))
            what = scene.disturb(crowd, chance)
            done[what] = done.get(what, 0) + 1
        scene.heal()
        crowd.served(50)
        seconds = time.monotonic() - begin
        report = crowd.finish()
        told(title, report, seconds=round(seconds), **done)
        assert not report.conflicts
        assert len(_nodes_with("10.33.", crowd)) > 1, "no address has followed a pod"
        assert crowd.kills
        print(
            f"{assert_settled(scene, crowd)} blocks owned in the end, each by who assigns from it"
        )


# asyncio leaves what it has accepted, and not greeted yet, when a listener is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_address_twice_on_the_fake(fake_api: FakeServer, tmp_path: Path) -> None:
    """Kills, cuts, restarts, 410, 429, answers 500 after the change, requests late and twice."""
    campaign(FakeScene(fake_api, fake_api.ports[0], tmp_path), tmp_path, "the fake")


@pytest.mark.kubernetes
def test_no_address_twice_on_a_real_server(start_server: StartServer, tmp_path: Path) -> None:
    """Kills, cuts, a server that is killed and has few seats, etcd compacted."""
    server = start_server("--max-requests-inflight=12", "--max-mutating-requests-inflight=6")
    try:
        campaign(RealScene(server, server.port, tmp_path), tmp_path, "a real server")
    finally:
        server.stop()
