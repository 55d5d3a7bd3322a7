"""The fake API server: a thread that serves TLS on one port or more, and its commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
import traceback
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, TypeVar

from ..rest import Rest
from . import manifests, statuses
from .access import NODE_NAME, User
from .api import Answer, Api, NotYet, WatchStart, dump, expired_page, read_token
from .authority import Authority
from .connection import Connection, Cut
from .faults import Fault
from .front import Front, Watch, line
from .requests import Counted, Request, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .statuses import Json
    from .store import Snapshot

T = TypeVar("T")

NAMESPACE = "fastipam-system"
AGENT, CONTROLLER = "fastipam-agent", "fastipam-controller"
COMMANDS = (
    "heal", "clear", "deliver", "cut", "end_watches", "bookmark", "compact", "lag", "expire_tokens",
    "rotate_ca", "token", "reset_counts",
)  # fmt: skip
CACHE_WAIT_S = 3.0  # how long a real server waits for its cache to reach a version


class FakeServer:
    """A context manager. All methods may be called by any thread.

    ``directory`` takes the certificates; ``ports`` gives one server each (0: a free port), which
    share one state; ``paths`` are the manifests (default: deploy/kubernetes/fastipam.yaml).

    ``requests`` counts by (method, resource, flag, node), see ``requests.Counted``; ``log`` has
    the last 2,000 requests as lines. What goes wrong in the fake itself is raised by ``close``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ports: tuple[int, ...] = (0, 0),
        paths: tuple[Path, ...] = (),
        bookmark_s: float = 60.0,
    ) -> None:
        self.api = Api(manifests.load(paths))
        self.authority = Authority(directory)
        self.store = self.api.store
        self.fronts = [Front(self.store) for _port in ports]
        self.ports = list(ports)
        self.requests: Counter[Counted] = Counter()
        self.log: deque[str] = deque(maxlen=2000)
        self.faults: list[Fault] = []
        self.broken: list[str] = []
        self.bookmark_s = bookmark_s
        self.admin_token = f"admin-{secrets.token_hex(8)}"
        self.api.access.add(self.admin_token, User("admin", ("system:masters",)))
        self.api.wrote = self._wrote
        self._snapshots: list[Snapshot] = []
        self._held: list[tuple[Request, Front]] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake", daemon=True)
        self._began = time.monotonic()

    # -- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._loop.set_exception_handler(self._odd)
        self._thread.start()
        self.up()
        self._run(lambda: self._spawn(self._bookmarks()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving. Raises AssertionError if the fake itself failed at anything."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not self.broken, "\n".join(self.broken)

    async def _close(self) -> None:
        self._stop_listening()
        self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._loop.shutdown_default_executor()
        await self._loop.shutdown_asyncgens()

    def _odd(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError):  # a client that went away, a handshake that failed
            self.broken.append(f"{context['message']}: {error!r}")

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run(self, work: Callable[[], T]) -> T:
        """Call it in the server's thread."""
        if threading.current_thread() is self._thread:
            return work()

        async def wrapped() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(30)

    # -- what a client is given -----------------------------------------------------------------

    @property
    def url(self) -> str:
        """The first server's address."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """The servers' addresses."""
        return [f"https://127.0.0.1:{port}" for port in self.ports]

    @property
    def ca(self) -> Path:
        """The file of the authority to trust."""
        return self.authority.path

    def token(
        self,
        account: str = AGENT,
        bound_to: Json | None = None,
        *,
        node: str = "",
        seconds: float = 3600,
        namespace: str = NAMESPACE,
    ) -> str:
        """Return a service account's token: bound to a pod, or with the claim of a node."""
        if bound_to is not None:
            bound = {"kind": "Pod", "apiVersion": "v1", "name": bound_to["metadata"]["name"]}
            asked = {"spec": {"boundObjectRef": bound, "expirationSeconds": int(seconds)}}
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
            return str(self.do("POST", path, asked)["status"]["token"])
        issue = self.api.access.issue
        pod = f"{account}-{node}" if node else ""
        return self._run(lambda: issue(account, namespace, seconds=seconds, node=node, pod=pod))

    def rest(self, token: str, port: int = 0) -> Rest:
        """Return the API as the token's owner may use it."""
        return Rest(self.ports[port], self.ca, token)

    @property
    def admin(self) -> Rest:
        """The API as a cluster's administrator may use it."""
        return self.rest(self.admin_token)

    def node(self, name: str, boot_id: str = "boot-1") -> Rest:
        """Make a Node, and its agent's Pod; return the API as that agent may use it."""
        node = {"metadata": {"name": name}, "status": {"nodeInfo": {"bootID": boot_id}}}
        self.do("POST", "/api/v1/nodes", node)
        pod = {
            "metadata": {"name": f"agent-{name}"},
            "spec": {"nodeName": name, "serviceAccountName": AGENT},
        }
        made = self.do("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
        return self.rest(self.token(AGENT, made))

    # -- commands -------------------------------------------------------------------------------

    def fault(self, fault: Fault) -> Fault:
        """Arm a fault, behind those that are armed, and return it."""
        self._run(lambda: self.faults.append(fault))
        return fault

    def heal(self) -> None:
        """Disarm all faults, forget held requests, let all caches catch up."""
        self._run(self.faults.clear)
        self._run(self._held.clear)
        for port in range(len(self.fronts)):
            self.lag(0, port)

    def clear(self) -> None:
        """Heal, and delete the objects of the manifests' kinds, whatever holds them."""
        self.heal()

        def work() -> None:
            for kind, held in self.store.objects.items():
                if kind.schema is not None or kind.plural in ("leases", "nodes", "pods"):
                    for key in list(held):
                        self.store.delete(kind, key)
            self._wrote()

        self._run(work)

    def deliver(self) -> int:
        """Do the requests that ``hold`` and ``twice`` kept, in their order; return how many."""

        def work() -> int:
            held, self._held[:] = list(self._held), []
            for request, front in held:
                self._again(request, front)
            return len(held)

        return self._run(work)

    def down(self) -> None:
        """Stop listening and cut all connections; what is stored stays."""
        self._run(self._stop_listening)
        self._run(self._cut)

    def up(self) -> None:
        """Listen again, with empty watch histories, as servers that were started."""
        for front in self.fronts:
            self._run(front.restart)
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    def restart(self, down_s: float = 0.0) -> None:
        """Restart all servers: same state, connections cut, watch histories empty."""
        self.down()
        time.sleep(down_s)
        self.up()

    def cut(self) -> None:
        """Cut all connections; the servers go on."""
        self._run(self._cut)

    def end_watches(self) -> None:
        """End all watches in order, as a server does after half an hour to an hour."""
        self._run(lambda: [watch.end() for front in self.fronts for watch in front.all_watches()])

    def bookmark(self) -> None:
        """Send a bookmark of the present version to all watches that allow them.

        By itself the server sends one a minute and two seconds before the end, and knows only of
        its own kind's last change: an idle kind's watch may have an old version for long.
        """

        def work() -> None:
            for front in self.fronts:
                front.progress()
            self._mark()

        self._run(work)

    def compact(self, version: int = 0) -> None:
        """Forget the history before a version (default: the present one).

        Pages, exact lists and watches from before it are answered with 410; open watches go on.
        """

        def work() -> None:
            self.store.compact(version)
            for front in self.fronts:
                front.oldest = max(front.oldest, min(self.store.compacted, front.version))

        self._run(work)

    def lag(self, versions: int, port: int = 1, *, hold: bool = False) -> None:
        """Let a server's cache be so many versions behind (``hold``: stay where it is).

        Only its watches and its reads with resourceVersion show it: reads without are
        linearizable on a real server, too.
        """

        def work() -> None:
            front = self.fronts[port]
            front.lag, front.held = versions, hold
            front.advance()

        self._run(work)

    def snapshot(self) -> Snapshot:
        """Return the present state."""
        return self._run(self.store.snapshot)

    def put_back(self, snapshot: Snapshot, *, bump: int | None = None) -> None:
        """Restore a snapshot as if etcd was put back, and restart the servers (``Store``)."""
        self.down()
        self._run(lambda: self.store.put_back(snapshot, bump=bump))
        self.up()

    def expire_tokens(self, token: str = "") -> None:
        """Let a token (default: every service account's that is out) be expired: 401."""
        self._run(lambda: self.api.access.expire(token))

    def rotate_ca(self, *, write: bool = True, keep_old: bool = False) -> None:
        """Take a certificate of a new authority for new connections (``Authority.rotate``)."""
        self._run(lambda: self.authority.rotate(write=write, keep_old=keep_old))

    def objects(self, plural: str) -> dict[str, Json]:
        """Return a kind's objects by name (``namespace/name`` in a namespace), as they are now."""
        held = self._run(lambda: dict(self.store.objects[self.api.by_plural[plural]]))
        return {"/".join(filter(None, key)): one.value for key, one in held.items()}

    def do(self, method: str, target: str, body: Json | None = None) -> Json:
        """Do a request as admin without a connection; not counted, no faults.

        Raises ApiError.
        """

        def work() -> Json:
            text = json.dumps(body).encode() if body is not None else b""
            media = "application/merge-patch+json" if method == "PATCH" else "application/json"
            request = parse(method, target, {"content-type": media}, text, self.api.kinds)
            request.user = User("admin", ("system:masters",))
            answer = self.api.handle(request, self.fronts[0])
            assert isinstance(answer, Answer)
            found: Json = json.loads(answer.body)
            return found

        return self._run(work)

    def count(
        self,
        method: str | None = None,
        resource: str | None = None,
        flag: str | None = None,
        node: str | None = None,
    ) -> int:
        """Return how many requests came, of those that have all that is given."""
        wanted = (method, resource, flag, node)
        counted = self._run(self.requests.copy)
        return sum(
            number
            for key, number in counted.items()
            if all(one is None or one == has for one, has in zip(wanted, key, strict=True))
        )

    def reset_counts(self) -> None:
        """Count from 0."""
        self._run(self.requests.clear)

    # -- within the server's thread -------------------------------------------------------------

    def _wrote(self) -> None:
        for front in self.fronts:
            front.advance()

    async def _listen(self) -> None:
        for index, front in enumerate(self.fronts):

            async def serve(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                front: Front = front,
                index: int = index,
            ) -> None:
                await self._serve(reader, writer, front, index)

            listener = await asyncio.start_server(
                serve,
                "127.0.0.1",
                self.ports[index],
                ssl=self.authority.context,
                backlog=1024,
                limit=1 << 20,
            )
            self.ports[index] = listener.sockets[0].getsockname()[1]
            self._listeners.append(listener)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.cut()

    async def _bookmarks(self) -> None:
        while True:
            await asyncio.sleep(self.bookmark_s)
            self._mark()

    def _mark(self) -> None:
        for front in self.fronts:
            front.mark(front.all_watches())

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        front: Front,
        index: int,
    ) -> None:
        connection = Connection(reader, writer)
        self._connections.add(connection)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        gone = (Cut, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        try:
            with contextlib.suppress(*gone, asyncio.CancelledError):
                while True:
                    method, target, headers, body = await connection.read()
                    request = parse(method, target, headers, body, self.api.kinds)
                    request.certificate = connection.certificate
                    await self._one(request, connection, front, index)
                    if headers.get("connection", "").lower() == "close":
                        writer.close()
                        await writer.wait_closed()
                        return
        except Exception:
            self.broken.append(traceback.format_exc())
        finally:
            self._connections.discard(connection)
            connection.cut()

    async def _one(
        self, request: Request, connection: Connection, front: Front, index: int
    ) -> None:
        """Count it, see what fault is meant for it, do it, answer."""
        refusal: Answer | None = None
        try:
            self.api.authenticate(request)
        except statuses.ApiError as error:
            refusal = _refused(error)
        if request.path.startswith("/fake/"):
            await connection.send(connection.whole(refusal or await self._command(request)))
            return
        extra = request.user.extra if request.user is not None else {}
        node = extra.get(NODE_NAME, [""])[0]
        self.requests[Counted(request.verb, request.resource, request.flag, node)] += 1
        takes = (fault for fault in self.faults if fault.takes(request, node, index))
        fault = next(takes, None)
        note = f"{time.monotonic() - self._began:.3f} {index} {node} {request.verb}"
        note += f" {request.path} {dict(request.query) or ''} {fault.do if fault else ''}"
        try:
            answer: Answer | WatchStart | None = refusal
            if fault is not None:
                answer = await self._before(fault, request, connection, front) or refusal
            if answer is None:
                answer = await self._do(request, front)
            assert answer is not None
            note += f" {answer.code if isinstance(answer, Answer) else 'watch'}"
        finally:
            self.log.append(note)
        if isinstance(answer, WatchStart):
            if fault is not None and fault.do == "lose_answer":
                raise Cut
            if fault is not None and fault.do == "mute":
                await connection.gone()
            await self._watch(answer, connection, front, fault)
        elif fault is None:
            await connection.send(connection.whole(answer))
        else:
            await self._after(fault, answer, request, connection, front)

    async def _before(
        self, fault: Fault, request: Request, connection: Connection, front: Front
    ) -> Answer | None:
        """Do what a fault does before the request is done; an answer ends it."""
        match fault.do:
            case "answer":
                return _refused(statuses.on_command(fault.code, fault.retry_after_s))
            case "expired" if request.flag == "continue":
                return _refused(expired_page(read_token(request.query["continue"])[1]))
            case "expired" if request.verb != "WATCH":
                return _refused(statuses.expired(statuses.TOO_OLD_LIST))
            case "lose_request":
                raise Cut
            case "silent":
                await connection.gone()
            case "late_request":
                await asyncio.sleep(fault.delay_s)
            case "hold":
                self._keep(fault, request, front)
                raise Cut
        return None

    async def _after(
        self,
        fault: Fault,
        answer: Answer,
        request: Request,
        connection: Connection,
        front: Front,
    ) -> None:
        """Do what a fault does with the answer."""
        data = connection.whole(answer)
        match fault.do:
            case "answer_after":
                data = connection.whole(
                    _refused(statuses.on_command(fault.code, fault.retry_after_s))
                )
            case "lose_answer":
                raise Cut
            case "half_answer":
                await connection.send_half(answer)
            case "slow_body":
                await connection.send_slowly(answer, fault.delay_s)
                return
            case "late_answer":
                await asyncio.sleep(fault.delay_s)
            case "mute":
                await connection.gone()
            case "twice":
                self._keep(fault, request, front)
        await connection.send(data)

    def _keep(self, fault: Fault, request: Request, front: Front) -> None:
        """Do a request (again) later: after a time, or when it is told."""
        if fault.delay_s:
            self._loop.call_later(fault.delay_s, self._again, request, front)
        else:
            self._held.append((request, front))

    def _again(self, request: Request, front: Front) -> None:
        """Do a request whose answer nobody waits for."""
        note = f"{time.monotonic() - self._began:.3f} delayed {request.verb} {request.path}"
        try:
            answer = self.api.handle(request, front)
            note += f" {answer.code if isinstance(answer, Answer) else 'watch'}"
        except statuses.ApiError as error:
            note += f" {error.code}"
        except NotYet:
            note += " not yet"
        self.log.append(note)

    async def _do(self, request: Request, front: Front) -> Answer | WatchStart:
        """Do it; wait for the cache as long as a real server does."""
        try:
            try:
                return self.api.handle(request, front)
            except NotYet as early:
                reached = asyncio.Event()
                front.waiting.append((early.version, reached.set))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reached.wait(), CACHE_WAIT_S)
                request.waited = True
                return self.api.handle(request, front)
        except statuses.ApiError as error:
            if request.verb == "WATCH" and error.in_stream:
                text = line("ERROR", dump(error.status))
                return Answer(200, text, {"Transfer-Encoding": "chunked"})
            return _refused(error)

    async def _watch(
        self, start: WatchStart, connection: Connection, front: Front, fault: Fault | None
    ) -> None:
        """Serve a watch until it ends; the connection lives on if that was in order."""
        ended = asyncio.Event()
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        connection.writer.write(connection.head(200, headers))

        def send_half(text: bytes) -> None:
            if not ended.is_set():
                connection.writer.write(b"%x\r\n%s" % (len(text), text[: len(text) // 2]))
                ended.set()
                self._loop.call_soon(connection.cut)

        half = fault is not None and fault.do == "half_answer"
        send = send_half if half else connection.send_line
        watch = Watch(start.kind, start.chosen, send, ended.set, bookmarks=start.bookmarks)
        try:
            if fault is not None and fault.do == "expired":
                raise statuses.expired(f"too old resource version: {start.version} (on command)")
            front.start(watch, start.version, initial=start.initial)
        except statuses.ApiError as error:
            send(line("ERROR", dump(error.status)))
            ended.set()
        over = self._loop.create_task(ended.wait())
        # A client says nothing while it watches: what ends this read is the connection's end.
        gone = self._loop.create_task(connection.reader.read(1))
        try:
            if start.bookmarks and start.timeout_s > 2:
                left = start.timeout_s - 2
                await asyncio.wait({over, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not over.done() and not gone.done():
                    front.mark([watch])
                start.timeout_s = 2
            await asyncio.wait(
                {over, gone}, timeout=start.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if gone.done():
                raise Cut
        finally:
            front.stop(watch)
            over.cancel()
            gone.cancel()
            await asyncio.gather(over, gone, return_exceptions=True)
        await connection.send(b"0\r\n\r\n")

    # -- commands over HTTP ---------------------------------------------------------------------

    async def _command(self, request: Request) -> Answer:
        """``GET /fake/requests|log|faults|objects/PLURAL``, ``POST /fake/COMMAND`` with a body.

        A command is a method of this class, its arguments are the body. ``restart`` and
        ``put_back`` (of the number that ``snapshot`` returned) cut the connection that asks.
        """
        if request.user is None or "system:masters" not in request.user.groups:
            return _refused(statuses.failure(403, "Forbidden", "only the administrator may"))
        name, _, rest = request.path.removeprefix("/fake/").partition("/")
        given = json.loads(request.body or b"{}")
        match name:
            case "requests":
                found: Any = [[*key, number] for key, number in self.requests.items()]
            case "log":
                found = list(self.log)
            case "objects":
                found = self.objects(rest)
            case "faults" if request.method == "POST":
                found = self.fault(Fault(**given)).shown()
            case "faults":
                found = [fault.shown() for fault in self.faults]
            case "snapshot":
                self._snapshots.append(self.store.snapshot())
                found = len(self._snapshots) - 1
            case "put_back":
                given["snapshot"] = self._snapshots[given["snapshot"]]
                self._loop.run_in_executor(None, lambda: self.put_back(**given))
                raise Cut
            case "restart":
                self._loop.run_in_executor(None, lambda: self.restart(**given))
                raise Cut
            case name if name in COMMANDS:
                found = getattr(self, name)(**given)
            case _:
                return _refused(statuses.no_such_path())
        return Answer(200, dump({"result": found}))


def _refused(error: statuses.ApiError) -> Answer:
    return Answer(error.code, dump(error.status), dict(error.headers))
