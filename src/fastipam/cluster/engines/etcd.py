"""The engine on etcd v3, through the JSON gateway that every member has on its client port.

Reads are linearizable, and go on to the next endpoint until the deadline. A transaction goes on to
the next endpoint only as long as it is certain that nothing was proposed: the connection was
refused, or the member said that it has no leader. Everything else is an EngineTimeout with
``ambiguous``, and for the caller to look at.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from fastipam.cluster.engine import (
    Compacted,
    EngineDenied,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    Outcome,
    SessionGone,
    check_transaction,
)
from fastipam.cluster.engines import wire
from fastipam.cluster.engines.transport import Tls, connect, parse_endpoint
from fastipam.cluster.engines.watching import Stream
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeVar

    from fastipam.cluster.engine import Compare, Delete, Event, KeyValue, Put
    from fastipam.cluster.engines.transport import Address, Connection

    T = TypeVar("T")

__all__ = ["EtcdEngine"]

_PAGE = 1000  # keys a round trip: far below the 2 MiB that etcd sends at once
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
# A watch that heard nothing is set up anew: what lies between may have dropped it in silence.
_QUIET_S = 30.0


class _Endpoint:
    """A member, and since when it does not answer."""

    __slots__ = ("address", "failures", "rests_until")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.failures = 0
        self.rests_until = 0.0


class EtcdEngine:
    """An Engine on etcd 3.4 or later. It connects when it is first used.

    Safe to use from several threads; each call in flight has a connection of its own. After a
    fork the child opens connections of its own.

    Raises ConfigError for an endpoint that cannot be read, or a password without a user.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ca: str = "",
        cert: str = "",
        key: str = "",
        username: str = "",
        password: str = "",
    ) -> None:
        if not endpoints:
            raise ConfigError("no endpoint is given", field="endpoints", value=list(endpoints))
        if password and not username:
            raise ConfigError("there is a password without a username", field="username", value="")
        addresses = [parse_endpoint(text, tls=bool(ca or cert)) for text in endpoints]
        # Nodes with the same configuration do not all ask the same member.
        first = int.from_bytes(os.urandom(2), "big") % len(addresses)
        self._endpoints = [_Endpoint(one) for one in addresses[first:] + addresses[:first]]
        self._tls = Tls(ca, cert, key)
        self._login = (
            f'{{"name":{wire.quote(username)},"password":{wire.quote(password)}}}'
            if username
            else ""
        )
        self._token = ""
        self._lock = allocate_lock()
        self._idle: builtins.list[Connection] = []
        self._streams: dict[bytes, Stream] = {}
        self._process = os.getpid()
        self._closed = False

    # The engine's interface.

    def get(self, key: bytes, *, deadline_s: float) -> KeyValue | None:
        """See Engine."""
        answer = self._call("/v3/kv/range", f'{{"key":{wire.encode(key)}}}', deadline_s)
        found = answer.get("kvs")
        return wire.key_value(found[0]) if found else None

    def list(
        self, prefix: bytes, *, limit: int = 0, deadline_s: float
    ) -> tuple[builtins.list[KeyValue], int]:
        """See Engine. A listing that a compaction overtakes begins anew."""
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                return self._pages(prefix, limit, deadline)
            except Compacted:
                continue

    def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete], *, deadline_s: float
    ) -> Outcome:
        """See Engine."""
        check_transaction(compares, operations)
        body = wire.transaction(compares, operations)
        answer = self._call("/v3/kv/txn", body, deadline_s, change=True)
        succeeded = bool(answer.get("succeeded"))
        existing = [
            wire.key_value(found)
            for response in ([] if succeeded else answer.get("responses", ()))
            for found in response.get("response_range", {}).get("kvs", ())
        ]
        return Outcome(succeeded, int(answer["header"]["revision"]), existing)

    def open_session(self, ttl_s: int, *, deadline_s: float) -> int:
        """See Engine. The time is at least one and a half of etcd's election timeout."""
        if ttl_s < 1:
            raise ValueError(f"ttl_s {ttl_s} is less than a second")
        return int(self._call("/v3/lease/grant", f'{{"TTL":"{ttl_s}"}}', deadline_s)["ID"])

    def keep_session(self, session: int, *, deadline_s: float) -> float:
        """See Engine."""
        try:
            answer = self._call("/v3/lease/keepalive", f'{{"ID":"{session}"}}', deadline_s)
        except SessionGone:
            return 0.0
        return float(answer["result"].get("TTL", 0))

    def close_session(self, session: int, *, deadline_s: float) -> None:
        """See Engine."""
        try:
            self._call("/v3/lease/revoke", f'{{"ID":"{session}"}}', deadline_s)
        except SessionGone:
            return
        except EngineTimeout as error:
            error.ambiguous = True
            raise

    def watch(
        self, prefix: bytes, revision: int, *, deadline_s: float
    ) -> tuple[builtins.list[Event], int]:
        """See Engine. What a silent network swallows is noticed after half a minute."""
        deadline = time.monotonic() + deadline_s
        stream = self._take_stream(prefix, revision)
        while True:
            if stream is None:
                try:
                    stream = self._subscribed(prefix, revision, deadline)
                except EngineTimeout:  # nothing was heard in time: that is no event
                    return [], revision
                revision = stream.revision
            try:
                events = stream.wait(min(deadline, stream.heard_at + _QUIET_S))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    self._keep_stream(prefix, stream)
                    return [], stream.revision
            except (OSError, wire.Retry, wire.Stale):
                pass
            except EngineError:
                stream.close()
                raise
            else:
                self._keep_stream(prefix, stream)
                return events, stream.revision
            stream.close()
            stream = None
            time.sleep(_FIRST_PAUSE_S)  # a member without a leader ends each watch at once

    def close(self) -> None:
        """See Engine."""
        with self._lock:
            self._closed = True
            self._drop_all()

    # How a call finds a member.

    def _pages(
        self, prefix: bytes, limit: int, deadline: float
    ) -> tuple[builtins.list[KeyValue], int]:
        start = prefix or wire.FIRST_KEY
        end = wire.encode(wire.range_end(prefix))
        found: builtins.list[KeyValue] = []
        revision = 0
        while True:
            page = min(_PAGE, limit - len(found)) if limit else _PAGE
            body = (
                f'{{"key":{wire.encode(start)},"range_end":{end},"limit":"{page}",'
                f'"revision":"{revision}"}}'
            )
            answer = self._call("/v3/kv/range", body, deadline - time.monotonic())
            found += map(wire.key_value, answer.get("kvs", ()))
            revision = revision or int(answer["header"]["revision"])
            if not answer.get("more") or (limit and len(found) >= limit):
                return found, revision
            start = found[-1].key + b"\0"

    def _call(self, path: str, body: str, deadline_s: float, *, change: bool = False) -> Any:
        """One request and its answer, decoded."""
        return self._attempt(
            lambda endpoint, until: self._exchange(endpoint, path, body, until, change=change),
            time.monotonic() + deadline_s,
            change=change,
        )

    def _attempt(
        self, ask: Callable[[_Endpoint, float], T], deadline: float, *, change: bool = False
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
                except wire.Stale:
                    self._token = ""
                    logins += 1
                    if logins > len(self._endpoints):
                        raise EngineDenied(f"{endpoint.address.text} takes no token") from None
                    waiting = True
                    continue
                except wire.Retry as error:
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

    def _round(self, deadline: float, *, change: bool) -> Iterator[tuple[_Endpoint, float]]:
        """The endpoints in the order in which to ask them, and until when to wait for each.

        A read gives each half of the time that is left, but not long, the last all; a change, all.
        """
        now = time.monotonic()
        order = sorted(self._endpoints, key=lambda one: max(one.rests_until, now))
        for at, endpoint in enumerate(order):
            now = time.monotonic()
            if now >= deadline:
                return
            last = change or at == len(order) - 1
            yield endpoint, deadline if last else now + min((deadline - now) / 2, _READ_S)

    def _failed(self, endpoint: _Endpoint) -> None:
        rest_s = min(_FIRST_REST_S * 2 ** min(endpoint.failures, 10), _LONGEST_REST_S)
        endpoint.failures += 1
        endpoint.rests_until = time.monotonic() + rest_s

    def _exchange(
        self, endpoint: _Endpoint, path: str, body: str, until: float, *, change: bool
    ) -> Any:
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
            raise wire.failure(status, raw, endpoint.address.text, change=change)
        try:
            answer = wire.decode(raw)
        except ValueError as error:
            if change:
                raise EngineTimeout(f"{endpoint.address.text}: {error}", ambiguous=True) from error
            raise wire.Retry(f"{endpoint.address.text}: {error}") from error
        if "error" in answer:  # a stream's answer has begun with 200
            raise wire.failure(status, raw, endpoint.address.text, change=change)
        return answer

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
            self._token = str(wire.decode(raw)["token"])
            return self._token
        if b"authentication is not enabled" in raw:  # as etcdctl: nobody needs to log in
            return ""
        self._put_back(connection)
        raise wire.failure(status, raw, where.text, change=False)

    def _subscribed(self, prefix: bytes, revision: int, deadline: float) -> Stream:
        return self._attempt(
            lambda endpoint, until: self._subscribe(endpoint, prefix, revision, until), deadline
        )

    def _subscribe(self, endpoint: _Endpoint, prefix: bytes, revision: int, until: float) -> Stream:
        """A watch at one member, set up and acknowledged."""
        connection = self._connection(endpoint, until)
        try:
            token = self._logged_in(connection, until)
            body = wire.subscription(prefix, revision + 1 if revision else 0)
            connection.send(_request(endpoint.address, "/v3/watch", body, token), until)
            status, headers = connection.read_head(until)
            if status != 200:
                raw = connection.read_body(headers, until)
                raise wire.failure(status, raw, endpoint.address.text, change=False)
            return Stream(connection, revision, until)
        except BaseException:
            connection.close()
            raise

    # Connections that are kept.

    def _connection(self, endpoint: _Endpoint, until: float) -> Connection:
        """A connection to that member that nobody else uses."""
        oldest = time.monotonic() - _FRESH_S
        while True:
            with self._lock:
                if self._closed:
                    raise EngineUnavailable("the engine is closed")
                if self._process != os.getpid():
                    self._drop_all()
                    self._process = os.getpid()
                at = next(
                    (i for i, one in enumerate(self._idle) if one.address is endpoint.address), None
                )
                kept = self._idle.pop(at) if at is not None else None
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
            if not self._closed and self._process == os.getpid():
                self._idle.insert(0, connection)
                surplus = self._idle[_IDLE_CONNECTIONS:]
                del self._idle[_IDLE_CONNECTIONS:]
            else:
                surplus = [connection]
        for one in surplus:
            one.close()

    def _take_stream(self, prefix: bytes, revision: int) -> Stream | None:
        """The stream that an earlier call left at that revision, if it is to be trusted."""
        with self._lock:
            if self._closed:
                raise EngineUnavailable("the engine is closed")
            if self._process != os.getpid():
                return None
            stream = self._streams.pop(prefix, None)
        if stream is not None and (
            stream.revision != revision or time.monotonic() - stream.heard_at >= _QUIET_S
        ):
            stream.close()
            return None
        return stream

    def _keep_stream(self, prefix: bytes, stream: Stream) -> None:
        with self._lock:
            before = self._streams.pop(prefix, None)
            if not self._closed:
                self._streams[prefix] = stream
        for one in (before, stream if self._closed else None):
            if one is not None:
                one.close()

    def _drop_all(self) -> None:
        """Close all that is kept. In a child this closes only the child's handles."""
        for connection in self._idle:
            connection.close()
        for stream in self._streams.values():
            stream.close()
        self._idle.clear()
        self._streams.clear()


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
