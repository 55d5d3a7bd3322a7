"""Kubernetes API servers in virtual time: their processors, queues, and the store behind them.

The objects come from the tests' fake API server, which passes the same test suite as a real one.
The costs of requests are an input (:class:`Costs`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from heapq import heapreplace
from typing import TYPE_CHECKING, Any

from tests.kubernetes import bodies
from tests.kubernetes.fake import ApiError, manifests
from tests.kubernetes.fake.access import User
from tests.kubernetes.fake.api import Answer, Api, WatchStart, dump
from tests.kubernetes.fake.front import Front, Watch
from tests.kubernetes.fake.requests import Request, parse

from bench.kubernetes_sim.apf import Level, Work
from bench.kubernetes_sim.world import Box
from fastipam.cluster.engines import pool as pool_module
from fastipam.cluster.engines.http import Connection, Server
from fastipam.cluster.registries.kubernetes import objects

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes.fake.front import Selector
    from tests.kubernetes.fake.manifests import Kind
    from tests.kubernetes.fake.store import Key, Stored

    from bench.kubernetes_sim.world import World
    from fastipam.cluster.engines.tls import TlsFiles

_TOKEN = "admin"
# The server's own estimate of what the watchers of a write cost.
_WATCHES_A_SEAT, _EVENT_S, _MOST_SEATS = 10, 0.005, 10
_BYTES_A_SEAT, _OBJECT_BYTES = 100_000, 600
_PAGE = 500
_CHANGES = ("POST", "PUT", "DELETE", "PATCH")


class Costs:
    """The costs of requests, in milliseconds.

    Processor time: ``get``, ``post``, ``put``, ``delete`` and ``list`` for a whole request, and
    ``object`` more for each stored object that a list reads. ``refuse`` is for an answer 429; every
    other request spends as much before its queue. ``tls`` is for a new connection, ``event`` for
    one event of one watcher, ``client`` for the client, if it runs on the same processors.

    Other times: ``sync`` until the store has a write on its disk, ``trip`` through the network and
    back.
    """

    def __init__(self, **given: float) -> None:
        self.refuse = self.get = self.post = self.put = self.delete = self.list = 0.0
        self.object = self.tls = self.event = self.client = self.sync = self.trip = 0.0
        vars(self).update(given)

    def of(self, request: Request, stored: int) -> float:
        """Return the processor time of a request after its queue, in seconds."""
        verb = request.verb
        whole: float = vars(self)[
            "get" if verb == "WATCH" else verb.lower().replace("patch", "put")
        ]
        if verb == "LIST":
            whole += self.object * stored
        return max(0.0, whole - self.refuse) / 1000


class Processors:
    """A number of processors, each of which does one piece of work after the other."""

    def __init__(self, world: World, count: float) -> None:
        self.busy_s = 0.0
        self._world = world
        whole = max(1, math.ceil(count))
        self._slower = whole / count  # 1.5 processors are modelled as two slower ones
        self._free_at = [0.0] * whole

    def run(self, seconds: float, then: Callable[[], object]) -> None:
        """Do a piece of work that takes ``seconds``, then call ``then``."""
        seconds *= self._slower
        end = max(self._world.now, self._free_at[0]) + seconds
        self.busy_s += seconds
        heapreplace(self._free_at, end)
        self._world.at(end, then)


class Store:
    """The etcd behind all servers, which makes one write after the other."""

    def __init__(self, world: World, writes_per_s: float, sync_s: float) -> None:
        self._world = world
        self._each_s = 1 / writes_per_s
        self._sync_s = sync_s
        self._free_at = 0.0

    def write(self, then: Callable[[], object]) -> None:
        """Make a write, then call ``then``."""
        self._free_at = max(self._world.now, self._free_at) + self._each_s
        self._world.at(self._free_at + self._sync_s, then)


class _Objects(Api):
    """The objects of the servers, without checks: other tests prove that they are valid."""

    @staticmethod
    def _check(*_: object) -> None:
        """Accept every object: checks would take most of the time of a simulation."""

    @staticmethod
    def _page(
        kind: Kind, held: dict[Key, Stored], chosen: Selector, version: int, start: str, limit: int
    ) -> bytes:
        fields = [(path[1], value) for path, equal, value in chosen.terms if path[0] == "spec"]
        if fields and len(fields) == len(chosen.terms):  # filter first, so that less is sorted
            name, value = fields[-1]
            held = {key: one for key, one in held.items() if one.value["spec"].get(name) == value}
        return Api._page(kind, held, chosen, version, start, limit)


class Cluster:
    """The API servers over one state. It has to be created before any client."""

    def __init__(
        self,
        world: World,
        costs: Costs,
        *,
        servers: int = 1,
        processors: float = 2.0,
        writes_per_s: float = 1000.0,
        phase_s: float | None = None,
    ) -> None:
        self.world = world
        self.costs = costs
        self.api = _Objects(manifests.load())
        self.api.access.policies.clear()  # all requests come from an administrator
        self.api.access.add(_TOKEN, User("admin", ("system:masters",)))
        self.store = Store(world, writes_per_s, costs.sync / 1000)
        self.served = Counter[tuple[str, str]]()  # requests that were not answered 429
        self.watchers = 0  # of the blocks, for routes; spread evenly over the servers
        self.servers: list[ApiServer] = []
        for at in range(servers):
            phase = world.random.random() * 10 if phase_s is None else phase_s
            processor = Processors(world, processors)
            self.servers.append(
                ApiServer(self, processor, phase, Server(f"https://api-{at}", "api", 1 + at, True))
            )
        self.api.wrote = self._wrote
        world.take_clocks()
        vars(pool_module)["connect"] = self.connect

    def _wrote(self) -> None:
        for one in self.servers:
            one.front.advance()

    def connect(self, server: Server, _: TlsFiles | None, deadline: float) -> Connection:
        """Open a connection, as ``fastipam.cluster.engines.http.connect`` does."""
        found = self.servers[server.port - 1]
        box = Box(self.world)
        work_s = self.costs.tls / 1000
        self.world.at(self.world.now + found.trip(), lambda: found.processors.run(work_s, box.fill))
        if not self.world.wait(box, deadline):
            raise TimeoutError("no connection in time")
        return VirtualConnection(self.world, found)

    def do(self, method: str, target: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make a request as an administrator, which takes no time; return the object."""
        request = parse(method, target, _headers(method), dump(body), self.api.kinds)
        answer = self.servers[0].answer(request)
        assert isinstance(answer, Answer)
        assert answer.code < 300, answer.body
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def accept(self, cidr: str, block_size: int) -> None:
        """Create a pool that is in force."""
        path = "/apis/fastipam.io/v1alpha1/addresspools"
        made = self.do("POST", path, bodies.pool("default", cidr, block_size))
        accepted = {"generation": made["metadata"]["generation"], "spec": made["spec"]}
        self.do("PUT", f"{path}/default/status", {**made, "status": {"accepted": accepted}})

    @property
    def refused(self) -> int:
        """The number of answers 429 of all servers."""
        return sum(one.level.refused for one in self.servers)


def _headers(method: str) -> dict[str, str]:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    return {"authorization": f"Bearer {_TOKEN}", "content-type": kind}


class ApiServer:
    """An API server: its processors, its priority level and its watches."""

    def __init__(
        self, cluster: Cluster, processors: Processors, phase_s: float, server: Server
    ) -> None:
        self.cluster = cluster
        self.server = server
        self.processors = processors
        self.level = Level(cluster.world, phase_s)
        self.front = Front(cluster.api.store)
        self._half_s = cluster.costs.trip / 2000

    def trip(self) -> float:
        """Return the seconds of one way through the network."""
        return self._half_s * (0.5 + self.cluster.world.random.random())

    def answer(self, request: Request) -> Answer | WatchStart:
        """Serve a request, which takes no time here."""
        api = self.cluster.api
        try:
            api.authenticate(request)
            return api.handle(request, self.front)
        except ApiError as error:
            return Answer(error.code, dump(error.status), error.headers)

    def take(self, message: bytes, reply: Callable[[Any], None]) -> Callable[[], object]:
        """Serve a request; return the function that a client calls when it gives up."""
        head, _, body = message.partition(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        request = parse(method, target, _headers(method), body, self.cluster.api.kinds)
        world, costs = self.cluster.world, self.cluster.costs
        work = self._estimate(request)

        def send(answer: Any) -> None:
            world.at(world.now + self.trip(), lambda: reply(answer))

        def refuse(retry_s: int) -> None:
            send(Answer(429, b"Too many requests", {"Retry-After": str(retry_s)}))

        def begin() -> None:
            seconds = costs.of(request, self._stored(request))
            is_change = request.method in _CHANGES
            end = (lambda: self.cluster.store.write(finish)) if is_change else finish
            self.processors.run(seconds, end)

        def finish() -> None:
            answer = self.answer(request)
            self.cluster.served[request.method, request.resource] += 1
            if work.linger_s:
                watchers = self._watchers(request)
                for one in self.cluster.servers:
                    one.processors.run(watchers * costs.event / 1000, _nothing)
            self.level.finish(work)
            send(answer)

        work.start = begin

        def arrive() -> None:
            self.processors.run(costs.refuse / 1000, lambda: self.level.arrive(work, refuse))

        def leave() -> None:
            world.at(world.now + self.trip(), arrive)

        if costs.client:
            self.processors.run(costs.client / 1000, leave)
        else:
            leave()
        return lambda: self.level.cancel(work)

    def begin_watch(self) -> None:
        """Add a watcher of all blocks. Its first list costs time; then it is only counted."""
        stored = self.cluster.api.store.objects
        blocks = [kind for kind in stored if kind.plural == objects.BLOCKS.plural]
        listed = sum(len(stored[kind]) for kind in blocks)
        self.processors.run(self.cluster.costs.object * listed / 1000, _nothing)
        self.cluster.watchers += 1

    def _stored(self, request: Request) -> int:
        kind = request.kind
        return 0 if kind is None else len(self.cluster.api.store.objects[kind])

    def _watchers(self, request: Request) -> int:
        kind = request.kind
        assert kind is not None
        is_block = kind.plural == "addressblocks"
        more = self.cluster.watchers // len(self.cluster.servers) if is_block else 0
        return len(self.front.watches[kind]) + more

    def _estimate(self, request: Request) -> Work:
        """Return the server's estimate of a request, before its cost is known."""
        if request.method in _CHANGES:
            watchers = self._watchers(request)
            if watchers < _WATCHES_A_SEAT:
                return Work(1, 0.0, _nothing)
            wide = math.ceil(watchers / _WATCHES_A_SEAT)
            seats = min(wide, _MOST_SEATS)
            return Work(seats, wide * _EVENT_S / seats, _nothing)
        if request.verb == "LIST":
            in_memory = min(_PAGE, self._stored(request)) * _OBJECT_BYTES
            return Work(max(1, math.ceil(in_memory / _BYTES_A_SEAT)), 0.0, _nothing)
        return Work(1, 0.0, _nothing)


def _nothing() -> None:
    """Do nothing at the end of work for which no client waits."""


class VirtualConnection(Connection):
    """A connection of a client to a server."""

    def __init__(self, world: World, to: ApiServer) -> None:
        self.server = to.server
        self.is_reusable = True
        self.used_at = world.now
        self._world = world
        self._to = to
        self._is_open = True
        self._box = Box(world)
        self._chunks: list[bytes] = []
        self._watch: Watch | None = None

    def close(self) -> None:
        self._is_open = False
        if self._watch is not None:
            self._to.front.stop(self._watch)

    def shut_down(self) -> None:
        self.close()
        self._box.fill()

    def idle(self) -> bool:
        return self._is_open

    def ask(
        self,
        request: bytes,
        deadline: float,
        most: int = 0,  # noqa: ARG002
    ) -> tuple[int, dict[str, str], bytes]:
        answer = self._send(request, deadline)
        return answer.code, _lower(answer.headers), answer.body

    def _send(self, message: bytes, deadline: float) -> Any:
        world, box = self._world, Box(self._world)
        end = self._to.take(message, box.fill)
        if not world.wait(box, deadline):
            end()
            self.close()
            raise TimeoutError("no answer in time")
        self.used_at = world.now
        return box.value

    def begin(self, request: bytes, deadline: float) -> tuple[int, dict[str, str]]:
        answer = self._send(request, deadline)
        if isinstance(answer, WatchStart):
            self._watch = Watch(
                answer.kind, answer.chosen, self._hear, self.close, bookmarks=answer.bookmarks
            )
            self._to.front.start(self._watch, answer.version, initial=answer.initial)
            return 200, {"transfer-encoding": "chunked"}
        self._chunks.append(answer.body)
        return answer.code, _lower(answer.headers)

    def read_body(self, headers: dict[str, str], deadline: float, most: int = 0) -> bytes:  # noqa: ARG002
        return b"".join(self._chunks)

    def _hear(self, text: bytes) -> None:
        def arrive() -> None:
            self._chunks.append(text)
            self._box.fill()

        self._world.at(self._world.now + self._to.trip(), arrive)

    def chunk(self, deadline: float, most: int = 0) -> bytes | None:  # noqa: ARG002
        # A real follower wakes twice a second during a quiet watch; here ten seconds are enough.
        deadline = max(deadline, self._world.now + 10)
        if not self._chunks and not self._world.wait(self._box, deadline):
            raise TimeoutError("no event in time")
        self._box.empty()
        if not self._is_open:
            raise ConnectionResetError("the connection was closed")
        found = b"".join(self._chunks)
        self._chunks.clear()
        return found


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
