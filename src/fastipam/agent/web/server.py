"""The agent's HTTP server: it checks requests, finds their route and sends the answers.

It is read-only. Each connection has a thread of its own for one request and a few seconds, up to a
limit of connections; none of these threads touches the loop that serves the plugin calls.
"""

from __future__ import annotations

import gzip
import io
import logging
import socket
import sys
import threading
import time
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from fastipam.agent import protocol
from fastipam.errors import ConfigError, FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger("fastipam.agent")

PLAIN = "text/plain; charset=utf-8"
MOST_CONNECTIONS = 32
_HEALTH_S = 2.0
_ACCEPT_AGAIN_S = 0.1  # after accept failed, because there was no descriptor for example
_MOST_FIELDS = 16  # fields in a URL's query; no route reads more than four
_COMPRESS_FROM = 600  # bytes; less fits into one packet anyway
# Script that got into the page could load nothing from another host and send nothing to one, and no
# other page can frame this one.
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
    """A request: the fields of its query, its Accept header, the tag that the client has."""

    query: Mapping[str, str]
    accept: str
    known_tag: str


class Response(NamedTuple):
    """An answer. ``tag`` is its ETag: a client that has the same one gets no body."""

    status: int
    body: bytes
    kind: str = PLAIN
    tag: str = ""


class Route(NamedTuple):
    """What answers a path; ``open`` to any Host header, see :meth:`_Handler._is_our_name`."""

    answer: Callable[[Asked], Response]
    open: bool = False


def serve(address: str, port: int, routes: Mapping[str, Route]) -> Service:
    """Answer these paths in threads until :meth:`Service.stop`.

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
    thread = threading.Thread(
        # Without a poll interval: an idle thread wakes for requests only.
        target=server.serve_forever,
        kwargs={"poll_interval": None},
        name="http",
        daemon=True,
    )
    thread.start()
    return Service(server.server_port, server.server_close)


class Service(NamedTuple):
    """A server that runs."""

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
    """Return a tag made of the body, for an answer without a cheaper one."""
    return blake2b(body, digest_size=12).hexdigest()


class _Server(ThreadingMixIn, HTTPServer):
    request_queue_size = 16
    daemon_threads = True
    routes: Mapping[str, Route] = {}  # replaced, never changed

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._room = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind as inherited, but without asking a name server for the name of the address."""
        TCPServer.server_bind(self)
        host, self.server_port = self.socket.getsockname()[:2]
        self.server_name = str(host)

    def get_request(self) -> tuple[Any, Any]:
        """Accept as inherited; wait after an error, since select would report it at once again."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_ACCEPT_AGAIN_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection, or close one above the limit."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve as inherited, then make room for another connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log a defect; ignore a client that closed its connection or was silent."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a request over HTTP failed")


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Prompt(io.RawIOBase):
    """The input of a connection, all of which has to arrive within some seconds."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as a socket does. Raises TimeoutError."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request takes too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds for a request, and again for its answer
    server: _Server
    server_version = "fastipam"
    sys_version = ""

    def setup(self) -> None:
        """Set up as inherited, with one deadline for the whole request: no client can extend it."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Prompt(self.connection, self.timeout))

    def do_GET(self) -> None:
        """Answer a path."""
        self._send(self._respond())

    do_HEAD = do_GET  # noqa: N815

    def _respond(self) -> Response:
        try:
            parts = urlsplit(self.path)
            fields = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        except ValueError:
            return Response(400, b"this is no path with a query\n")
        route = self.server.routes.get(parts.path)
        if route is None:
            known = ", ".join(sorted(self.server.routes))
            return Response(404, f"there are {known}\n".encode())
        if not route.open and not self._is_our_name():
            return Response(421, b"ask by an IP address, as localhost or by this host's name\n")
        asked = Asked(dict(fields), self.headers.get("Accept", ""), self._known_tag())
        return self._answer(route, asked)

    def _known_tag(self) -> str:
        """Return the tag of what the client has already."""
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
        # This prevents DNS rebinding: a foreign page whose name resolves first to its own server
        # and then to 127.0.0.1 could have a browser read the answers.
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
        """Send what the base class refuses in the same form as every answer."""
        self.close_connection = True
        if not hasattr(self, "headers"):  # there was no request line
            self.headers = self.MessageClass()
            self.command = self.command or ""
        text = message or explain or "this request cannot be answered"
        self._send(Response(int(code), f"{text}\n".encode("utf-8", "replace")))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: scrapes come every few seconds."""
