"""The servers of a store, which of them to ask first, and the idle connections to them."""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from fastipam.cluster.engine import EngineUnavailable
from fastipam.cluster.engines.http import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastipam.cluster.engines.http import Connection, Server
    from fastipam.cluster.engines.tls import TlsFiles

# A connection that was idle for longer may be broken. Opening another one costs less than the
# ambiguous outcome of a transaction that was sent over a broken one.
_FRESH_S = 5.0
_IDLE_CONNECTIONS = 8  # that are kept, for all endpoints together
# An endpoint that failed is asked after all others for a second, then two, four, …
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 30.0
_CONNECT_S = 1.0  # a member that runs accepts a connection sooner
# A read that is not answered for longer than an election takes is sent to another member.
_READ_S = 3.0


class Endpoint:
    """A server, its failures in a row, and until when all other servers are asked before it."""

    __slots__ = ("failures", "rests_until", "server")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.failures = 0
        self.rests_until = 0.0

    def failed(self) -> None:
        """Record that the endpoint could not serve, so that it is asked last for a while."""
        rest_s = min(_FIRST_REST_S * 2 ** min(self.failures, 10), _LONGEST_REST_S)
        self.failures += 1
        self.rests_until = time.monotonic() + rest_s

    def worked(self) -> None:
        """Record that the endpoint has served."""
        self.failures, self.rests_until = 0, 0.0


class Pool:
    """The endpoints of one store, with idle connections. Safe to use from several threads.

    After a fork the child opens its own connections. ``tls`` is called for each new connection; it
    returns None when no server speaks TLS. An attempt to connect, with its TLS handshake, ends
    after ``connect_s``.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        tls: Callable[[], TlsFiles | None],
        connect_s: float = _CONNECT_S,
    ) -> None:
        # Nodes with the same configuration do not all ask the same server.
        first = int.from_bytes(os.urandom(2), "big") % len(servers)
        self.endpoints = [Endpoint(one) for one in (*servers[first:], *servers[:first])]
        self.closed = False
        self.idle: list[Connection] = []
        self._tls = tls
        self._connect_s = connect_s
        self._lock = allocate_lock()
        self._process = os.getpid()

    def round(self, deadline: float, *, change: bool) -> Iterator[tuple[Endpoint, float]]:
        """Yield the endpoints in the order to ask them, and until when to wait for each."""
        # A read waits for an endpoint at most half of the time that is left, and at most
        # ``_READ_S``; for the last endpoint it waits all of that time. A change waits all of it for
        # every endpoint.
        now = time.monotonic()
        order = sorted(self.endpoints, key=lambda one: max(one.rests_until, now))
        for at, endpoint in enumerate(order):
            now = time.monotonic()
            if now >= deadline:
                return
            last = change or at == len(order) - 1
            yield endpoint, deadline if last else now + min((deadline - now) / 2, _READ_S)

    def take(self, endpoint: Endpoint, until: float) -> Connection:
        """Return an idle connection to that endpoint, or open one.

        Raises EngineUnavailable after :meth:`close`; OSError and EngineDenied when no connection
        can be opened: then nothing was sent.
        """
        oldest = time.monotonic() - _FRESH_S
        while True:
            with self._lock:
                if self.closed:
                    raise EngineUnavailable("the engine is closed")
                if self._process != os.getpid():
                    self._drop_all()
                    self._process = os.getpid()
                at = next(
                    (i for i, one in enumerate(self.idle) if one.server is endpoint.server), None
                )
                kept = self.idle.pop(at) if at is not None else None
            if kept is None:
                break
            if kept.used_at >= oldest and kept.idle():
                return kept
            kept.close()
        try:
            until = min(until, time.monotonic() + self._connect_s)
            return connect(endpoint.server, self._tls(), until)
        except OSError as error:
            if isinstance(error, TimeoutError):  # nothing was sent: as if it had been refused
                raise ConnectionError(f"{endpoint.server.text} refuses connections") from error
            raise

    def put_back(self, connection: Connection) -> None:
        """Keep a connection for a later request, if its server lets it carry one."""
        with self._lock:
            if connection.is_reusable and not self.closed and self._process == os.getpid():
                self.idle.insert(0, connection)
                surplus = self.idle[_IDLE_CONNECTIONS:]
                del self.idle[_IDLE_CONNECTIONS:]
            else:
                surplus = [connection]
        for one in surplus:
            one.close()

    def close(self) -> None:
        """Close all idle connections; :meth:`take` raises from now on. Idempotent."""
        with self._lock:
            self.closed = True
            self._drop_all()

    def _drop_all(self) -> None:
        """Close all idle connections. In a child this closes only the child's descriptors."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()
