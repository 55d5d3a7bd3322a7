"""Prometheus metrics and a health check over HTTP; only looked at, never written through."""

from __future__ import annotations

import json
import socket
import threading
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import make_wsgi_app

from fastipam.agent import protocol
from fastipam.agent.batch import Observer
from fastipam.cni import stores
from fastipam.errors import ConfigError, StoreError
from fastipam.ipam import Ipam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

_VERBS = frozenset(("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"))
_LATENCIES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_COMMITS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_HEALTH_S = 2.0


class Metrics(Observer):
    """Counts what the agent does, and reads what the stores hold when it is asked."""

    def __init__(self, agent_address: str | bytes) -> None:
        self._agent_address = agent_address
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "fastipam_requests", "Answered requests.", ["verb", "code"], registry=self.registry
        )
        self._seconds = Histogram(
            "fastipam_request_seconds",
            "From the first byte of a request to its answer.",
            ["verb"],
            buckets=_LATENCIES_S,
            registry=self.registry,
        )
        self._batches = Histogram(
            "fastipam_batch_requests",
            "Requests in one commit.",
            buckets=_BATCHES,
            registry=self.registry,
        )
        self._commits = Histogram(
            "fastipam_commit_seconds",
            "Commits, with their sync to disk.",
            buckets=_COMMITS_S,
            registry=self.registry,
        )
        self.registry.register(_Stores())

    def request(self, verb: str, status: int, output: bytes, seconds: float) -> None:
        """Count a request by its verb and the code of its error object (0: none)."""
        verb = verb if verb in _VERBS else "other"
        code = 0
        if status:
            try:
                code = int(json.loads(output)["code"])
            except (ValueError, KeyError, TypeError):
                code = -1
        self._requests.labels(verb, str(code)).inc()
        self._seconds.labels(verb).observe(seconds)

    def batch(self, size: int, commit_seconds: float) -> None:
        """Count a commit."""
        self._batches.observe(size)
        self._commits.observe(commit_seconds)

    def serve(self, address: str, port: int) -> Callable[[], None]:
        """Answer ``/metrics`` and ``/healthz`` in a thread; returns what ends it."""
        family = _Server6 if ":" in address else _Server
        try:
            server = make_server(
                address, port, self._application, server_class=family, handler_class=_Quiet
            )
        except OSError as error:
            raise ConfigError(
                f"{address} port {port}: {error.strerror}", field="--http", value=address
            ) from error
        thread = threading.Thread(
            # No timeout: an idle thread wakes for requests, and never to look around.
            target=server.serve_forever,
            kwargs={"poll_interval": None},
            name="http",
            daemon=True,
        )
        thread.start()
        self.port = server.server_port
        return server.server_close

    def _application(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _plain(start_response, "405 Method Not Allowed", "only reading is possible\n")
        if path == "/metrics":
            answer: Iterable[bytes] = make_wsgi_app(self.registry)(environ, start_response)
            return answer
        if path == "/healthz":
            healthy = self._is_healthy()
            status = "200 OK" if healthy else "503 Service Unavailable"
            return _plain(start_response, status, "ok\n" if healthy else "no answer\n")
        return _plain(start_response, "404 Not Found", "/metrics, /healthz\n")

    def _is_healthy(self) -> bool:
        """Whether the loop answers a VERSION request over its socket."""
        request = protocol.pack_request({"CNI_COMMAND": "VERSION"}, b"")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_HEALTH_S)
                connection.connect(self._agent_address)
                connection.sendall(request)
                header = connection.recv(protocol.ANSWER.size, socket.MSG_WAITALL)
                return protocol.read_answer(header)[0] == 0
        except Exception:
            return False


def _plain(start_response: StartResponse, status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]


class _Server(WSGIServer):
    request_queue_size = 16

    def server_bind(self) -> None:
        """As inherited, but without asking a name server what this address is called."""
        TCPServer.server_bind(self)
        host, self.server_port = self.socket.getsockname()[:2]
        self.server_name = str(host)
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 5  # a client that sends nothing does not keep the next one waiting for ever

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Scrapes are no news."""


class _Stores:
    """Addresses by state, and sizes of files. O(networks), whatever they hold."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the counters of each network of each open store."""
        addresses = GaugeMetricFamily(
            "fastipam_addresses",
            "Addresses by state.",
            labels=["data_dir", "network", "state"],
        )
        sizes = GaugeMetricFamily(
            "fastipam_store_bytes", "Size of the store's file.", labels=["data_dir"]
        )
        for store in stores.all_open():
            ipam = Ipam(store)
            try:
                with stores.staying_open:
                    names = ipam.networks()
                for name in names:
                    # For one network at a time: a request that has to close the store waits for it.
                    with stores.staying_open:
                        counts = ipam.network(name).stats()
                    for state, count in counts.items():
                        if state != "size":
                            addresses.add_metric([store.path, name, state], count)
                sizes.add_metric([store.path], store.file_bytes())
            except (StoreError, OSError):
                continue  # it was closed or damaged meanwhile: its requests say so
        yield addresses
        yield sizes
