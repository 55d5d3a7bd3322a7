"""The agent's HTTP server: it checks requests, finds their route and sends the answers.

It is read-only. Each request gets a thread of its own for a few seconds. The number of these
threads is limited, in all and for each client address, and health checks have a limit of their own.
None of the threads touches the loop that serves the plugin calls.
"""

from __future__ import annotations

import gzip
import io
import logging
import socket
import sys
import threading
from collections import Counter
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from fastipam.agent import protocol
from fastipam.agent.web.heads import Connection, Heads
from fastipam.errors import ConfigError, FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger("fastipam.agent")

PLAIN = "text/plain; charset=utf-8"
MOST_REQUESTS = 32  # requests that are served at the same time, each in a thread
MOST_OF_AN_ADDRESS = 16  # of these, requests of one client address
MOST_HEALTH = 4  # health checks at the same time, in addition to MOST_REQUESTS
HEALTH = "/healthz"
_HEALTH_S = 2.0
_MOST_FIELDS = 16  # fields in a URL's query; no route reads more than four
_COMPRESS_FROM = 600  # bytes; a smaller body fits into one packet anyway
# With this policy a script injected into the page could not load from another host or send to it,
# and no other page can put this one into a frame.
_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ("Cache-Control", "private, no-cache"),
    ("Vary", "Accept-Encoding"),
)


class Asked(NamedTuple):
    """A request: the fields of its query, its Accept header, and the ETag that the client has."""

    query: Mapping[str, str]
    accept: str
    known_tag: str


class Response(NamedTuple):
    """An answer. ``tag`` is its ETag: a client that sends the same tag gets no body."""

    status: int
    body: bytes
    kind: str = PLAIN
    tag: str = ""


class Route(NamedTuple):
    """The function that answers a path. With ``open`` any Host header is accepted."""

    answer: Callable[[Asked], Response]
    open: bool = False


def serve(address: str, port: int, routes: Mapping[str, Route]) -> Service:
    """Start to answer these paths, in threads, until ``Service.stop`` is called.

    Raises ConfigError when the address cannot be used.
    """
    family = _Server6 if ":" in address else _Server
    try:
        server = family((address, port), _Handler)
    except OSError as error:
        raise ConfigError(
            f"{address} port {port}: {error.strerror}", field="--http", value=address
        ) from error
    server.routes = routes
    heads = Heads(server.socket, server.begin, lambda: _Handler.timeout)
    thread = threading.Thread(target=heads.run, name="http", daemon=True)
    thread.start()

    def stop() -> None:
        heads.stop()
        thread.join(1.0)
        server.server_close()

    return Service(server.server_port, stop)


class Service(NamedTuple):
    """A running server: its port, and the function that stops it."""

    port: int
    stop: Callable[[], None]


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_healthy(agent_address: str | bytes) -> bool:
    """Return whether the loop answers a VERSION request over its socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_HEALTH_S)
            connection.connect(agent_address)
            return protocol.ask(connection, {"CNI_COMMAND": "VERSION"}, b"")[0] == 0
    except Exception:
        return False


def health(agent_address: str | bytes) -> Route:
    """Return the route of the health check."""

    def answer(_: Asked) -> Response:
        if is_healthy(agent_address):
            return Response(200, b"ok\n")
        return Response(503, b"no answer\n")

    return Route(answer, open=True)


def tag_of(body: bytes) -> str:
    """Return an ETag computed from the body, for an answer without a cheaper tag."""
    return blake2b(body, digest_size=12).hexdigest()


class _Server(ThreadingMixIn, HTTPServer):
    request_queue_size = 128
    daemon_threads = True
    routes: Mapping[str, Route] = {}  # replaced, never changed

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._lock = threading.Lock()
        self._places: Counter[str] = Counter()  # requests being served, by client address or HEALTH
        self.heads: dict[Any, bytes] = {}
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind like the base class, but do not ask a name server for the name of the address."""
        TCPServer.server_bind(self)
        host, self.server_port = self.socket.getsockname()[:2]
        self.server_name = str(host)

    def begin(self, connection: Connection) -> None:
        """Start a thread for a request whose head was read; at a limit, close the connection."""
        head = bytes(connection.head)
        place = HEALTH if _is_health(head) else connection.host
        if not self._take(place):
            self.shutdown_request(connection.socket)
            return
        self.heads[connection.socket] = head
        try:
            # From here on the thread owns the place, and frees it at its end.
            super().process_request(connection.socket, (place, *connection.address[1:]))
        except RuntimeError:  # there may be no more threads
            self._give_back(connection.socket, place)
            self.shutdown_request(connection.socket)

    def _take(self, place: str) -> bool:
        with self._lock:
            if place == HEALTH:
                free = self._places[HEALTH] < MOST_HEALTH
            else:
                others = self._places.total() - self._places[HEALTH]
                free = others < MOST_REQUESTS and self._places[place] < MOST_OF_AN_ADDRESS
            self._places[place] += free
            return free

    def _give_back(self, request: Any, place: str) -> None:
        self.heads.pop(request, None)
        with self._lock:
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve like the base class, then free the request's place among those being served."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._give_back(request, client_address[0])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log a defect. Ignore OSError: the client closed its connection or was silent."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a request over HTTP failed")


class _Server6(_Server):
    address_family = socket.AF_INET6


def _is_health(head: bytes) -> bool:
    """Return whether a request asks for the path of the health check."""
    path = head.partition(b"\n")[0].split()[1:2]
    return path == [HEALTH.encode()]


class _Handler(BaseHTTPRequestHandler):
    timeout = 5.0  # seconds for a request, and again for its answer
    server: _Server
    server_version = "fastipam"
    sys_version = ""

    def setup(self) -> None:
        """Set up like the base class, but read the head that has already been received."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(self.server.heads[self.request])

    def do_GET(self) -> None:
        """Answer a GET request."""
        self._send(self._respond())

    do_HEAD = do_GET  # noqa: N815

    def _respond(self) -> Response:
        try:
            parts = urlsplit(self.path)
            fields = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        except ValueError:
            return Response(400, b"the path or its query is not valid\n")
        route = self.server.routes.get(parts.path)
        if route is None:
            known = ", ".join(sorted(self.server.routes))
            return Response(404, f"not found; the paths are {known}\n".encode())
        if not route.open and not self._is_our_name():
            return Response(421, b"ask by an IP address, as localhost or by this host's name\n")
        asked = Asked(dict(fields), self.headers.get("Accept", ""), self._known_tag())
        return self._answer(route, asked)

    def _known_tag(self) -> str:
        """Return the ETag of the answer that the client already has, or ""."""
        return self.headers.get("If-None-Match", "").strip().removeprefix("W/").strip('"')

    @staticmethod
    def _answer(route: Route, asked: Asked) -> Response:
        try:
            return route.answer(asked)
        except ConfigError as error:  # a field of the query
            return Response(400, f"{error.field}: {error.message}\n".encode("utf-8", "replace"))
        except (FastipamError, OSError) as error:  # a store may just have been closed
            return Response(503, f"{error}\n".encode("utf-8", "replace"))
        except Exception:
            log.exception("an answer over HTTP failed")
            return Response(500, b"this failed; the agent's log says why\n")

    def _refuse(self) -> None:
        self._send(Response(405, b"only reading is possible\n"))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def _is_our_name(self) -> bool:
        """Return whether the Host header is an IP address or a name of this machine."""
        # This check prevents DNS rebinding: otherwise a foreign page whose name resolves first to
        # its own server and then to 127.0.0.1 could have a browser read the answers.
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if host in ("localhost", socket.gethostname().lower()):
                return True
            ip_address(host)
        except ValueError:
            return False
        return True

    def _send(self, response: Response) -> None:
        self.connection.settimeout(self.timeout)
        status, body, kind, tag = response
        if tag and status == 200 and tag == self._known_tag():
            status, body = 304, b""
        compressed = (
            len(body) >= _COMPRESS_FROM
            and "gzip" in self.headers.get("Accept-Encoding", "").lower()
        )
        if compressed:
            body = gzip.compress(body, 1, mtime=0)
        self.send_response(status)
        for name, value in _HEADERS:
            self.send_header(name, value)
        if status == 405:
            self.send_header("Allow", "GET, HEAD")
        if compressed:
            self.send_header("Content-Encoding", "gzip")
        if tag:
            self.send_header("ETag", f'W/"{tag}"')
        if status != 304:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error of the base class in the same form as every answer."""
        self.close_connection = True
        if not hasattr(self, "headers"):  # there was no request line
            self.headers = self.MessageClass()
            self.command = self.command or ""
        text = message or explain or "this request cannot be answered"
        self._send(Response(int(code), f"{text}\n".encode("utf-8", "replace")))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: scrapes come every few seconds."""
