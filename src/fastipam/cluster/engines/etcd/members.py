"""How a request finds a member that answers it: endpoints, kept connections, the login.

Reads go on to the next endpoint until the deadline. A change goes on only as long as it is certain
that nothing was proposed: the connection was refused, or the member said that it has no leader.
Everything else is an EngineTimeout with ``ambiguous``, and for the caller to look at.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from fastipam.cluster.engine import EngineDenied, EngineTimeout, EngineUnavailable
from fastipam.cluster.engines.etcd import gateway
from fastipam.cluster.engines.http import connect
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeVar

    from fastipam.cluster.engines.http import Address, Connection, Tls

    T = TypeVar("T")

__all__ = ["Members"]

# A connection that was quiet for longer may lead nowhere any more. To open another costs less than
# the ambiguity of a transaction that was sent into it.
_FRESH_S = 5.0
_IDLE_CONNECTIONS = 8  # that are kept, of all endpoints
# An endpoint that failed is asked after all others for a second, then two, four, …
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 30.0
_CONNECT_S = 1.0  # no member that lives takes longer to take a connection
# A read that is not answered for longer than an election takes is tried elsewhere.
_READ_S = 3.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.3  # between two rounds over all endpoints


class Endpoint:
    """A member, and since when it does not answer."""

    __slots__ = ("address", "failures", "rests_until")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.failures = 0
        self.rests_until = 0.0


class Members:
    """The members of one etcd. Safe to use from several threads, and after a fork."""

    def __init__(
        self, addresses: Sequence[Address], tls: Tls, username: str, password: str
    ) -> None:
        if password and not username:
            raise ConfigError("there is a password without a username", field="username", value="")
        # Nodes with the same configuration do not all ask the same member.
        first = int.from_bytes(os.urandom(2), "big") % len(addresses)
        self.endpoints = [Endpoint(one) for one in (*addresses[first:], *addresses[:first])]
        self.closed = False
        self._tls = tls
        self._login = (
            f'{{"name":{gateway.quote(username)},"password":{gateway.quote(password)}}}'
            if username
            else ""
        )
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
        """One request; what ``read`` makes of its answer.

        An answer in which ``read`` does not find what it looks for is none of etcd's.
        """
        return self.attempt(
            lambda endpoint, until: self._exchange(
                endpoint, path, body, until, read, change=change
            ),
            time.monotonic() + deadline_s,
            change=change,
        )

    def attempt(
        self, ask: Callable[[Endpoint, float], T], deadline: float, *, change: bool = False
    ) -> T:
        """Ask one member after the other, as long as nothing can have been done."""
        pause_s = _FIRST_PAUSE_S
        logins = 0
        last = "no endpoint was asked"
        waiting = False  # some member is there, and cannot serve yet
        while True:
            for endpoint, until in self._round(deadline, change=change):
                try:
                    answer = ask(endpoint, until)
                except gateway.Stale:
                    self._token = ""
                    logins += 1
                    if logins > len(self.endpoints):
                        raise EngineDenied(f"{endpoint.address.text} takes no token") from None
                    waiting = True
                    continue
                except gateway.Retry as error:
                    last, waiting = str(error), True
                    self._failed(endpoint)
                except OSError as error:
                    last = f"{endpoint.address.text}: {error.strerror or error}"
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
        """The endpoints in the order in which to ask them, and until when to wait for each.

        A read gives each half of the time that is left, but not long, the last all; a change, all.
        """
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

    def _exchange(
        self,
        endpoint: Endpoint,
        path: str,
        body: str,
        until: float,
        read: Callable[[Any], T],
        *,
        change: bool,
    ) -> T:
        """Send one request to one member and read its answer.

        Raises OSError, Retry or Stale when nothing was done, or when it is no change.
        """
        connection = self._connection(endpoint, until)
        token = self._logged_in(connection, until)
        try:
            connection.send(_request(endpoint.address, path, body, token, until), until)
            status, headers = connection.read_head(until)
            raw = connection.read_body(headers, until)
        except OSError as error:
            connection.close()
            if refused := _tls_refusal(error, endpoint.address.text):
                raise refused from error
            if not change:
                raise
            raise EngineTimeout(
                f"{endpoint.address.text} was asked and did not answer: {error}", ambiguous=True
            ) from error
        except BaseException:
            connection.close()
            raise
        if headers.get("connection", "").lower() == "close":
            connection.close()
        else:
            self._put_back(connection)
        if status != 200:
            raise gateway.failure(status, raw, endpoint.address.text, change=change)
        try:
            answer = gateway.decode(raw)
            if "error" not in answer:  # a stream's answer has begun with 200
                return read(answer)
        except gateway.MALFORMED as error:
            text = f"{endpoint.address.text} answers with something that is not etcd's: {error!r}"
            if change:
                raise EngineTimeout(text, ambiguous=True) from error
            raise gateway.Retry(text) from error
        raise gateway.failure(status, raw, endpoint.address.text, change=change)

    def _logged_in(self, connection: Connection, until: float) -> str:
        """The token to send; asked for once, and again when it has been refused. May be empty."""
        if not self._login or self._token:
            return self._token
        where = connection.address
        try:
            connection.send(_request(where, "/v3/auth/authenticate", self._login, "", until), until)
            status, headers = connection.read_head(until)
            raw = connection.read_body(headers, until)
        except OSError as error:
            connection.close()
            if refused := _tls_refusal(error, where.text):
                raise refused from error
            raise
        if status == 200:
            try:
                self._token = str(gateway.decode(raw)["token"])
            except gateway.MALFORMED as error:
                connection.close()
                raise gateway.Retry(f"{where.text} answers a login without a token") from error
            return self._token
        if b"authentication is not enabled" in raw:  # as etcdctl: nobody needs to log in
            return ""
        self._put_back(connection)
        raise gateway.failure(status, raw, where.text, change=False)

    def subscribe(self, endpoint: Endpoint, path: str, body: str, until: float) -> Connection:
        """Send a request whose answer is a stream; the connection, its head read, is the caller's.

        Raises OSError, Retry, Stale, EngineError.
        """
        connection = self._connection(endpoint, until)
        try:
            token = self._logged_in(connection, until)
            connection.send(_request(endpoint.address, path, body, token), until)
            status, headers = connection.read_head(until)
            if status != 200:
                raw = connection.read_body(headers, until)
                raise gateway.failure(status, raw, endpoint.address.text, change=False)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Give up all connections; nothing is served any more. Idempotent."""
        with self._lock:
            self.closed = True
            self._drop_all()

    # Connections that are kept.

    def _connection(self, endpoint: Endpoint, until: float) -> Connection:
        """A connection to that member that nobody else uses."""
        oldest = time.monotonic() - _FRESH_S
        while True:
            with self._lock:
                if self.closed:
                    raise EngineUnavailable("the engine is closed")
                if self._process != os.getpid():
                    self._drop_all()
                    self._process = os.getpid()
                at = next(
                    (i for i, one in enumerate(self.idle) if one.address is endpoint.address), None
                )
                kept = self.idle.pop(at) if at is not None else None
            if kept is None:
                break
            if kept.used_at >= oldest and kept.idle():
                return kept
            kept.close()
        try:
            return connect(endpoint.address, self._tls, min(until, time.monotonic() + _CONNECT_S))
        except OSError as error:
            if refused := _tls_refusal(error, endpoint.address.text):
                raise refused from error
            if isinstance(error, TimeoutError):  # nothing has been sent: as if refused
                raise ConnectionError(f"{endpoint.address.text} takes no connection") from error
            raise

    def _put_back(self, connection: Connection) -> None:
        with self._lock:
            if not self.closed and self._process == os.getpid():
                self.idle.insert(0, connection)
                surplus = self.idle[_IDLE_CONNECTIONS:]
                del self.idle[_IDLE_CONNECTIONS:]
            else:
                surplus = [connection]
        for one in surplus:
            one.close()

    def _drop_all(self) -> None:
        """Close all that is kept. In a child this closes only the child's handles."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()


def _request(
    address: Address, path: str, body: str, token: str, until: float | None = None
) -> bytes:
    """A request; the member gives it up at the deadline, and refuses it when it has no leader."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}:{address.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Grpc-Metadata-Hasleader: true",
    ]
    if until is not None:
        lines.append(f"Grpc-Timeout: {max(1, int(1000 * (until - time.monotonic())))}m")
    if token:
        lines.append(f"Authorization: {token}")
    return "\r\n".join((*lines, "", body)).encode()


def _tls_refusal(error: OSError, where: str) -> EngineDenied | None:
    """The error as EngineDenied, if TLS was refused by either side for its certificate."""
    reason = getattr(error, "reason", None)
    if not isinstance(reason, str):  # no ssl.SSLError
        return None
    if reason == "CERTIFICATE_VERIFY_FAILED":
        why = getattr(error, "verify_message", reason)
        return EngineDenied(
            f"{where} has a certificate that is not trusted: {why}", hint="look at ca"
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return EngineDenied(
            f"{where} refuses this client's certificate: {reason.lower().replace('_', ' ')}",
            hint="look at cert and key",
        )
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return EngineDenied(f"{where} does not speak TLS", hint="write http:// in the endpoint")
    return None
