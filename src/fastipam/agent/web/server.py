"""The agent's HTTP server: who may ask what, and how an answer is sent. What is answered: views.py.

Nothing can be written through it. Each connection has a thread of its own, up to a limit, for one
request and for a few seconds; none of them touches the loop that serves the plugin calls.
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
_ACCEPT_AGAIN_S = 0.1  # after there was no descriptor for a connection, say
_MOST_FIELDS = 16  # of a query; a path knows four at most
_COMPRESS_FROM = 600  # bytes: less fits into one packet anyway
# Whatever got into the page could fetch nothing from elsewhere, send nothing anywhere, and not be
# framed by another page.
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
    """A request: the fields of its query, its headers, and the tag that the client has already."""

    query: Mapping[str, str]
    accept: str
    known_tag: str


class Response(NamedTuple):
    """An answer. ``tag`` names this state of it: a client that has it gets no body."""

    status: int
    body: bytes
    kind: str = PLAIN
    tag: str = ""


class Route(NamedTuple):
    """What answers a path. ``open`` to any Host: see :meth:`_Handler._is_our_name`."""

    answer: Callable[[Asked], Response]
    open: bool = False


def serve(address: str, port: int, routes: Mapping[str, Route]) -> Service:
    """Answer these paths in threads until :meth:`Service.stop`.

    Raises ConfigError when the address cannot be had.
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
        # No timeout: an idle thread wakes for requests, and never to look around.
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
    """Whether only this machine reaches an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_healthy(agent_address: str | bytes) -> bool:
    """Whether the loop answers a VERSION request over its socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_HEALTH_S)
            connection.connect(agent_address)
            return protocol.ask(connection, {"CNI_COMMAND": "VERSION"}, b"")[0] == 0
    except Exception:
        return False


def health(agent_address: str | bytes) -> Route:
    """The route of the health check."""

    def answer(_: Asked) -> Response:
        if is_healthy(agent_address):
            return Response(200, b"ok\n")
        return Response(503, b"no answer\n")

    return Route(answer, open=True)


def tag_of(body: bytes) -> str:
    """A tag of an answer that has no better one."""
    return blake2b(body, digest_size=12).hexdigest()


class _Server(ThreadingMixIn, HTTPServer):
    request_queue_size = 16
    daemon_threads = True
    routes: Mapping[str, Route] = {}  # replaced, never changed

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._room = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """As inherited, but without asking a name server what this address is called."""
        TCPServer.server_bind(self)
        host, self.server_port = self.socket.getsockname()[:2]
        self.server_name = str(host)

    def get_request(self) -> tuple[Any, Any]:
        """As inherited. Who cannot be let in waits, and would be reported at once again."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_ACCEPT_AGAIN_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection; none for one too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As inherited; then there is room for another one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that went away, or was silent, is no news; a defect is."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a request over HTTP failed")


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Prompt(io.RawIOBase):
    """What comes over a connection, as long as all of it comes within so many seconds."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As a socket's. Raises TimeoutError."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request takes too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds for a request, and again for its answer: then the thread is for others
    server: _Server
    server_version = "fastipam"
    sys_version = ""

    def setup(self) -> None:
        """As inherited; but a byte now and then buys no more time."""
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
        """The tag of what the client has already."""
        return self.headers.get("If-None-Match", "").strip().removeprefix("W/").strip('"')

    @staticmethod
    def _answer(route: Route, asked: Asked) -> Response:
        try:
            return route.answer(asked)
        except ConfigError as error:  # a field of the query
            return Response(400, f"{error.field}: {error.message}\n".encode("utf-8", "replace"))
        except (FastipamError, OSError) as error:  # a store that was just closed, say
            return Response(503, f"{error}\n".encode("utf-8", "replace"))
        except Exception:
            log.exception("an answer over HTTP failed")
            return Response(500, b"this failed; the agent's log says why\n")

    def _refuse(self) -> None:
        self._send(Response(405, b"only reading is possible\n"))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def _is_our_name(self) -> bool:
        """Whether the Host is this machine, and no name that somebody let lead here.

        Without it a page from anywhere could, with a name that first leads to its own server and
        then to 127.0.0.1, have the reader's browser read all this (DNS rebinding).
        """
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
        """What the base class refuses, in the same form as everything else."""
        self.close_connection = True
        if not hasattr(self, "headers"):  # not even a request line
            self.headers = self.MessageClass()
            self.command = self.command or ""
        text = message or explain or "this request cannot be answered"
        self._send(Response(int(code), f"{text}\n".encode("utf-8", "replace")))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Scrapes are no news."""
