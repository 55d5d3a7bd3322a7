"""The engine on etcd v3, through the JSON gateway that every member has on its client port.

Reads are linearizable. ``members.py`` decides which member is asked, and which requests are
repeated.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from fastipam.cluster.engine import (
    Compacted,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    History,
    Outcome,
    Put,
    SessionGone,
    check_transaction,
)
from fastipam.cluster.engines.etcd import gateway
from fastipam.cluster.engines.etcd.members import Members
from fastipam.cluster.engines.etcd.settings import Credentials, parse_endpoint
from fastipam.cluster.engines.http import local_addresses
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from fastipam.cluster.engine import Compare, Delete, KeyEvent, KeyValue
    from fastipam.cluster.engines.etcd.watch import Stream
    from fastipam.cluster.engines.pool import Endpoint
    from fastipam.configuration.cluster import Settings

    T = TypeVar("T")

_PAGE = 1000  # keys per round trip: far below the 2 MiB that etcd sends at once
# A watch that was quiet for so long is opened again: the network may have dropped it silently.
_QUIET_S = 30.0
_PAUSE_S = 0.02  # before a watch is opened again


def open_engine(settings: Settings) -> EtcdEngine:
    """Open the engine that a node's settings describe. Raises ConfigError."""
    return EtcdEngine(
        settings.endpoints, Credentials.of(settings), field=settings.field("endpoints")
    )


class EtcdEngine:
    """An Engine on etcd 3.4 or later; it connects at its first call.

    Safe to use from several threads; each call in flight has a connection of its own. After a
    fork the child opens its own connections.

    ``endpoints``: ``https://host:port``, ``http://…``, or ``host:port``, which means https when
    the credentials have a ``ca`` or ``cert``. Raises ConfigError for an endpoint that cannot be
    read.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        credentials: Credentials | None = None,
        *,
        field: str = "",
    ) -> None:
        if not endpoints:
            raise ConfigError("no endpoint is given", field="endpoints", value=list(endpoints))
        credentials = credentials or Credentials()
        servers = [
            parse_endpoint(
                text, tls=credentials.has_tls, field=f"{field}[{at}]" if field else "endpoints"
            )
            for at, text in enumerate(endpoints)
        ]
        self._first = servers[0]
        self.history = History()
        self.members = Members(servers, credentials)
        self._streams: dict[bytes, Stream] = {}
        self._lock = allocate_lock()
        self._process = os.getpid()

    # The engine's interface.

    def get(self, key: bytes, *, deadline_s: float) -> KeyValue | None:
        """See Engine."""
        body = f'{{"key":{gateway.encode(key)}}}'
        found = self._ask("/v3/kv/range", body, deadline_s, _key_values)
        return found[0] if found else None

    def list(
        self, prefix: bytes, *, limit: int = 0, deadline_s: float
    ) -> tuple[builtins.list[KeyValue], int]:
        """See Engine. The listing begins again if a compaction removes its revision."""
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
        body = gateway.transaction(compares, operations)
        has_puts = any(isinstance(one, Put) for one in operations)
        return self._ask("/v3/kv/txn", body, deadline_s, _outcome, change=True, has_puts=has_puts)

    def open_session(self, ttl_s: int, *, deadline_s: float) -> int:
        """See Engine. etcd's shortest TTL is one and a half times its election timeout."""
        if ttl_s < 1:
            raise ValueError(f"ttl_s {ttl_s} is less than a second")
        body = f'{{"TTL":"{ttl_s}"}}'
        return self._ask(
            "/v3/lease/grant", body, deadline_s, lambda answer: int(answer["ID"]), ordered=False
        )

    def keep_session(self, session: int, *, deadline_s: float) -> float:
        """See Engine."""
        body = f'{{"ID":"{session}"}}'
        try:
            return self._ask(
                "/v3/lease/keepalive",
                body,
                deadline_s,
                lambda answer: float(answer["result"].get("TTL", 0)),
                ordered=False,
            )
        except SessionGone:
            return 0.0

    def close_session(self, session: int, *, deadline_s: float) -> None:
        """See Engine."""
        try:
            body = f'{{"ID":"{session}"}}'
            self.members.call("/v3/lease/revoke", body, deadline_s, lambda answer: answer)
        except SessionGone:
            return
        except EngineTimeout as error:
            error.ambiguous = True
            raise

    def watch(
        self, prefix: bytes, revision: int, *, deadline_s: float
    ) -> tuple[builtins.list[KeyEvent], int]:
        """See Engine. A watch that the network dropped silently is noticed after half a minute."""
        deadline = time.monotonic() + deadline_s
        stream = self._take_stream(prefix, revision)
        while True:
            if stream is None:
                try:
                    stream = self._subscribed(prefix, revision, deadline)
                except EngineTimeout:  # no answer in time means no event
                    return [], revision
                revision = stream.revision
            try:
                events = stream.wait(min(deadline, stream.heard_at + _QUIET_S))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    self._keep_stream(prefix, stream)
                    return [], stream.revision
            except (OSError, gateway.Retry, gateway.Stale):
                pass
            except EngineError:
                stream.close()
                raise
            else:
                self._keep_stream(prefix, stream)
                return events, stream.revision
            stream.close()
            stream = None
            time.sleep(_PAUSE_S)  # a member without a leader ends each watch at once

    def problem(self, *, deadline_s: float) -> str:
        """See Engine: the alarms of all members, as one member knows them."""
        return self.members.call("/v3/maintenance/status", "{}", deadline_s, _alarms)

    def local_addresses(self) -> tuple[str, ...]:
        """See Engine. It is the address from which this machine reaches the first endpoint."""
        return local_addresses(self._first)

    def close(self) -> None:
        """See Engine."""
        self.members.close()
        with self._lock:
            self._drop_streams()

    # Parts of a call.

    def _ask(
        self,
        path: str,
        body: str,
        deadline_s: float,
        read: Callable[[Any], T],
        *,
        change: bool = False,
        ordered: bool = True,
        has_puts: bool = False,
    ) -> T:
        """Send one request, and compare the revision in its answer with the history.

        An answer about leases is not ``ordered``: its revision is that of one member, which may be
        behind the others. A change that ``has_puts`` has a revision of its own.
        """
        floor = self.history.begin()

        def heard(answer: Any) -> T:
            header = answer.get("header") or answer["result"]["header"]
            revision = int(header["revision"]) if ordered else 0
            found = read(answer)
            changed = isinstance(found, Outcome) and found.succeeded and has_puts
            self.history.hear(int(header["cluster_id"]), revision, floor, changed=changed)
            return found

        return self.members.call(path, body, deadline_s, heard, change=change)

    def _pages(
        self, prefix: bytes, limit: int, deadline: float
    ) -> tuple[builtins.list[KeyValue], int]:
        start = prefix or gateway.FIRST_KEY
        end = gateway.encode(gateway.range_end(prefix))
        found: builtins.list[KeyValue] = []
        revision = 0
        while True:
            page = min(_PAGE, limit - len(found)) if limit else _PAGE
            body = (
                f'{{"key":{gateway.encode(start)},"range_end":{end},"limit":"{page}",'
                f'"revision":"{revision}"}}'
            )
            here, at, more = self._ask("/v3/kv/range", body, deadline - time.monotonic(), _page)
            found += here
            revision = revision or at
            if not more or not here or (limit and len(found) >= limit):
                return found, revision
            start = found[-1].key + b"\0"

    def _subscribed(self, prefix: bytes, revision: int, deadline: float) -> Stream:
        return self.members.attempt(
            lambda endpoint, until: self._subscribe(endpoint, prefix, revision, until), deadline
        )

    def _subscribe(self, endpoint: Endpoint, prefix: bytes, revision: int, until: float) -> Stream:
        """Open a watch at one member; return it after the member has acknowledged it."""
        from fastipam.cluster.engines.etcd.watch import Stream  # a claim does not watch

        body = gateway.subscription(prefix, revision + 1 if revision else 0)
        connection = self.members.subscribe(endpoint, "/v3/watch", body, until)
        try:
            return Stream(connection, revision, until)
        except BaseException:
            connection.close()
            raise

    def _take_stream(self, prefix: bytes, revision: int) -> Stream | None:
        """Return the idle watch that an earlier call has left open, or None.

        A watch that was quiet for too long, or is at another revision, is closed.
        """
        with self._lock:
            if self.members.closed:
                raise EngineUnavailable("the engine is closed")
            if self._process != os.getpid():
                self._drop_streams()
                self._process = os.getpid()
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
            closed = self.members.closed
            if not closed:
                self._streams[prefix] = stream
        for one in (before, stream if closed else None):
            if one is not None:
                one.close()

    def _drop_streams(self) -> None:
        """Close all idle streams. In a child this closes only the child's descriptors."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()


def _key_values(answer: Any) -> list[KeyValue]:
    """Return the keys of a range request's answer."""
    return [gateway.key_value(one) for one in answer.get("kvs", ())]


def _page(answer: Any) -> tuple[list[KeyValue], int, bool]:
    """Return the keys of a page, its revision, and whether there are more keys."""
    return _key_values(answer), int(answer["header"]["revision"]), bool(answer.get("more"))


def _alarms(answer: Any) -> str:
    """Return the alarms in a member's status ("memberID:1 alarm:NOSPACE"), in words."""
    alarms = " ".join(map(str, answer.get("errors") or ()))
    if "NOSPACE" in alarms:
        return f"etcd is out of space; {gateway.MAKE_ROOM}"
    if "CORRUPT" in alarms:
        return "a member of etcd has different data; replace this member first"
    return alarms


def _outcome(answer: Any) -> Outcome:
    """Return the outcome of a transaction; a failed transaction lists the compared keys."""
    succeeded = bool(answer.get("succeeded"))
    responses = () if succeeded else answer.get("responses", ())
    existing = [
        one for response in responses for one in _key_values(response.get("response_range", {}))
    ]
    return Outcome(succeeded, int(answer["header"]["revision"]), existing)
