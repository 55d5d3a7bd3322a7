"""Sending a request to a member that answers it: endpoints, idle connections, the login.

A read goes on to the next endpoint until the deadline. A change goes on only while it is certain
that nothing was proposed: the connection was refused, or the member said that it has no leader.
Every other failure of a change is an EngineTimeout with ``ambiguous``: the caller reads what
became of it.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from fastipam.cluster.engine import EngineDenied, EngineTimeout, EngineUnavailable
from fastipam.cluster.engines.etcd import gateway
from fastipam.cluster.engines.http import connect, post

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeVar

    from fastipam.cluster.engines.etcd.settings import Credentials
    from fastipam.cluster.engines.http import Connection, Server

    T = TypeVar("T")

# A connection that was quiet for longer may be broken. Opening another one costs less than the
# ambiguity of a transaction that was sent into a broken one.
_FRESH_S = 5.0
_IDLE_CONNECTIONS = 8  # that are kept, of all endpoints
# An endpoint that failed is asked after all others for a second, then two, four, …
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 30.0
_CONNECT_S = 1.0  # a member that runs accepts a connection sooner
# A read that is not answered for longer than an election takes is sent to another member.
_READ_S = 3.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.3  # between two rounds over all endpoints


class Endpoint:
    """A member's endpoint, how often it failed in a row, and until when it is asked last."""

    __slots__ = ("failures", "rests_until", "server")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.failures = 0
        self.rests_until = 0.0


class _Call:
    """A request to send to any member, and how to read its answer."""

    __slots__ = ("body", "is_change", "path", "read")

    def __init__(
        self, path: str, body: str, read: Callable[[Any], object], is_change: bool
    ) -> None:
        self.path = path
        self.body = body
        self.read = read
        self.is_change = is_change


class Members:
    """The members of one etcd. Safe to use from several threads, and after a fork."""

    def __init__(self, servers: Sequence[Server], credentials: Credentials) -> None:
        # Nodes with the same configuration do not all ask the same member.
        first = int.from_bytes(os.urandom(2), "big") % len(servers)
        self.endpoints = [Endpoint(one) for one in (*servers[first:], *servers[:first])]
        self.closed = False
        self._tls = credentials.tls() if any(one.tls for one in servers) else None
        self._login = credentials.login
        self._token = ""
        self._lock = allocate_lock()
        self.idle: list[Connection] = []
        self._process = os.getpid()

    def call(
        self,
        path: str,
        body: str,
        deadline_s: float,
        read: Callable[[Any], T],
        *,
        change: bool = False,
    ) -> T:
        """Send one request; return what ``read`` makes of its answer.

        An answer that ``read`` cannot read is not etcd's.
        """
        call = _Call(path, body, read, change)
        answer: T = self.attempt(
            lambda endpoint, until: self._exchange(endpoint, call, until),
            time.monotonic() + deadline_s,
            change=change,
        )
        return answer

    def attempt(
        self, ask: Callable[[Endpoint, float], T], deadline: float, *, change: bool = False
    ) -> T:
        """Ask one member after the other, as long as none can have made the change."""
        pause_s = _FIRST_PAUSE_S
        logins = 0
        last = "no endpoint was asked"
        waiting = False  # whether a member is there that cannot serve yet
        while True:
            for endpoint, until in self._round(deadline, change=change):
                try:
                    answer = ask(endpoint, until)
                except gateway.Stale:
                    self._token = ""
                    logins += 1
                    if logins > len(self.endpoints):
                        raise EngineDenied(f"{endpoint.server.text} takes no token") from None
                    waiting = True
                    continue
                except gateway.Retry as error:
                    last, waiting = str(error), True
                    self._failed(endpoint)
                except OSError as error:
                    last = f"{endpoint.server.text}: {error.strerror or error}"
                    waiting = waiting or isinstance(error, TimeoutError)
                    self._failed(endpoint)
                except EngineTimeout:
                    self._failed(endpoint)
                    raise
                else:
                    endpoint.failures, endpoint.rests_until = 0, 0.0
                    return answer
            left = deadline - time.monotonic()
            if waiting and left > 0:
                time.sleep(min(pause_s, left))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            elif waiting and not change:
                raise EngineTimeout(f"no answer in time; {last}")
            else:
                raise EngineUnavailable(f"no endpoint can be reached; {last}")

    def _round(self, deadline: float, *, change: bool) -> Iterator[tuple[Endpoint, float]]:
        """Return the endpoints in the order to ask them, and until when to wait for each."""
        # A read waits for each at most half of the time that is left, and at most ``_READ_S``; for
        # the last one all of it. A change waits for each all of it.
        now = time.monotonic()
        order = sorted(self.endpoints, key=lambda one: max(one.rests_until, now))
        for at, endpoint in enumerate(order):
            now = time.monotonic()
            if now >= deadline:
                return
            last = change or at == len(order) - 1
            yield endpoint, deadline if last else now + min((deadline - now) / 2, _READ_S)

    def _failed(self, endpoint: Endpoint) -> None:
        rest_s = min(_FIRST_REST_S * 2 ** min(endpoint.failures, 10), _LONGEST_REST_S)
        endpoint.failures += 1
        endpoint.rests_until = time.monotonic() + rest_s

    def _exchange(self, endpoint: Endpoint, call: _Call, until: float) -> Any:
        """Send one request to one member and read its answer.

        Raises OSError, Retry or Stale when nothing was done, or when the call is no change.
        """
        where = endpoint.server.text
        connection = self._connection(endpoint, until)
        token = self._logged_in(connection, until)
        request = _post(endpoint.server, call.path, call.body, token, until)
        try:
            status, raw = connection.ask(request, until)
        except OSError as error:
            if not call.is_change:
                raise
            raise EngineTimeout(
                f"{where} was asked and did not answer: {error}", ambiguous=True
            ) from error
        self._put_back(connection)
        if status != 200:
            raise gateway.failure(status, raw, where, change=call.is_change)
        try:
            answer = gateway.decode(raw)
            if "error" not in answer:  # a stream's answer has begun with 200
                return call.read(answer)
        except gateway.MALFORMED as error:
            text = f"{where} answers with something that is not etcd's: {error!r}"
            if call.is_change:
                raise EngineTimeout(text, ambiguous=True) from error
            raise gateway.Retry(text) from error
        raise gateway.failure(status, raw, where, change=call.is_change)

    def _logged_in(self, connection: Connection, until: float) -> str:
        """Return the token to send, "" without a login. Log in if there is no token."""
        if not self._login or self._token:
            return self._token
        server = connection.server
        login = _post(server, "/v3/auth/authenticate", self._login, "", until)
        status, raw = connection.ask(login, until)
        if status == 200:
            try:
                self._token = str(gateway.decode(raw)["token"])
            except gateway.MALFORMED as error:
                connection.close()
                raise gateway.Retry(f"{server.text} answers a login without a token") from error
            return self._token
        if b"authentication is not enabled" in raw:  # nobody needs to log in: etcdctl does the same
            return ""
        self._put_back(connection)
        raise gateway.failure(status, raw, server.text, change=False)

    def subscribe(self, endpoint: Endpoint, path: str, body: str, until: float) -> Connection:
        """Send a request whose answer is a stream; return its connection after the head.

        The caller closes the connection. Raises OSError, Retry, Stale, EngineError.
        """
        connection = self._connection(endpoint, until)
        try:
            token = self._logged_in(connection, until)
            status, headers = connection.begin(_post(endpoint.server, path, body, token), until)
            if status != 200:
                raw = connection.read_body(headers, until)
                raise gateway.failure(status, raw, endpoint.server.text, change=False)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close all connections; every later call raises EngineUnavailable. Idempotent."""
        with self._lock:
            self.closed = True
            self._drop_all()

    # Idle connections.

    def _connection(self, endpoint: Endpoint, until: float) -> Connection:
        """Return an idle connection to that member, or open one."""
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
            return connect(endpoint.server, self._tls, min(until, time.monotonic() + _CONNECT_S))
        except OSError as error:
            if isinstance(error, TimeoutError):  # nothing was sent: as if it had been refused
                raise ConnectionError(f"{endpoint.server.text} takes no connection") from error
            raise

    def _put_back(self, connection: Connection) -> None:
        with self._lock:
            if connection.is_reusable and not self.closed and self._process == os.getpid():
                self.idle.insert(0, connection)
                surplus = self.idle[_IDLE_CONNECTIONS:]
                del self.idle[_IDLE_CONNECTIONS:]
            else:
                surplus = [connection]
        for one in surplus:
            one.close()

    def _drop_all(self) -> None:
        """Close all idle connections. In a child this closes only the child's descriptors."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()


def _post(server: Server, path: str, body: str, token: str, until: float | None = None) -> bytes:
    """Return a request. The member gives it up at ``until``, and refuses it without a leader."""
    headers = ["Grpc-Metadata-Hasleader: true"]
    if until is not None:
        headers.append(f"Grpc-Timeout: {max(1, int(1000 * (until - time.monotonic())))}m")
    if token:
        headers.append(f"Authorization: {token}")
    return post(server, path, headers, body)
