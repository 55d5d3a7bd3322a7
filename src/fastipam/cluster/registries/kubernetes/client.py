"""A client of the Kubernetes API that turns answers into results and exceptions.

Every call takes ``deadline_s`` and returns or raises within that many seconds. The errors are those
of ``cluster/engine.py``; they say what has become of a change::

    EngineError
    ├── EngineUnavailable     nothing was changed: refused, 429, 503 (``retry_after_s``)
    ├── EngineTimeout         unknown (``ambiguous``): no answer, half an answer, 500, 502, 504
    │   └── Behind            no server has reached the version that a list must have
    ├── EngineDenied          401 twice, 403, a certificate: tell the operator
    ├── Compacted             410: list again
    └── Refused               a definite no: nothing was changed
        ├── AlreadyExists     409 on create
        ├── Conflict          409: another version, another uid
        ├── NotFound          404 on replace and status
        └── Invalid           422: the schema, a rule or a policy

A read is repeated, on every server, until the deadline. A change is repeated only while it is
certain that nothing was done: no connection, 401 (once), 429 and 503.
"""

from __future__ import annotations

import json
import os
import sys
import time
from _thread import allocate_lock
from collections import Counter

from fastipam.cluster.engine import EngineDenied, EngineError, EngineTimeout, EngineUnavailable
from fastipam.cluster.engines.http import WantsTls, request
from fastipam.cluster.engines.pool import Pool
from fastipam.cluster.registries.kubernetes.answers import (
    MALFORMED,
    AlreadyExists,
    Behind,
    Conflict,
    Invalid,
    NotFound,
    Refused,
    Retry,
    Unauthorized,
    Untrusted,
    failure,
    shown,
)
from fastipam.cluster.registries.kubernetes.calls import Call, Kind, name_of, query_of
from fastipam.cluster.registries.kubernetes.listing import Page
from fastipam.cluster.registries.kubernetes.stream import Watch, ends_initial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from fastipam.cluster.engines.http import Connection
    from fastipam.cluster.engines.pool import Endpoint
    from fastipam.cluster.registries.kubernetes.access import Access

    T = TypeVar("T")

__all__ = [
    "AlreadyExists", "Behind", "Client", "Conflict", "Invalid", "Kind", "NotFound", "Refused",
    "Watch", "ends_initial", "random_fraction",
]  # fmt: skip

PAGE = 500  # objects per page, as in client-go
_LARGEST_PAGE = 64 << 20  # a list from the cache comes in one piece: 100,000 blocks
# A server that starts, or is asked by all nodes in one instant, takes seconds for its part of TLS.
_CONNECT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0  # between two rounds over all servers
# The longest wait before a retry. Servers ask for up to 32 s when thousands of nodes start at once,
# and can serve again long before that.
_LONGEST_WAIT_S = 5.0
_OPEN_S = 10.0  # for a watch to begin
_GRACE_S = 10.0  # beyond a watch's deadline, in which the server should end it


class _Round:
    """The failures of one round, in which each server is asked once."""

    def __init__(self) -> None:
        self.waits: list[float] = []  # the pauses that busy servers ask for
        self._last = "the deadline had passed before any server was asked"
        self._is_behind = self._is_silent = False
        self._denied: EngineDenied | None = None
        self._others = 0  # failures that a retry may solve
        self.has_asked = False

    def note(self, error: Retry | Untrusted | OSError, endpoint: Endpoint) -> None:
        """Record the failure of one server."""
        self.has_asked = True
        if isinstance(error, WantsTls):
            error = Untrusted(EngineDenied(str(error), hint="write https:// in its URL"))
        self._others += not isinstance(error, Untrusted)
        if isinstance(error, Retry):
            self._last = str(error)
            self._is_behind = self._is_behind or error.is_behind
            self.waits.append(error.after_s)
        elif isinstance(error, Untrusted):
            self._denied = error.denied
        else:
            self._last = f"{endpoint.server.text}: {error.strerror or error}"
            self._is_silent = self._is_silent or isinstance(error, TimeoutError)

    @property
    def is_final(self) -> bool:
        """Whether no server is trusted, or none trusts this client: waiting does not help."""
        return self._denied is not None and not self._others

    @property
    def after_s(self) -> float:
        """The pause after which the first of the servers may be asked again, in seconds."""
        return min(self.waits, default=0.0)

    def error(self) -> EngineError:
        """Return the error for the caller, which says that nothing was changed."""
        if self._denied:
            return self._denied
        if self._is_behind:
            return Behind(f"no answer in time: {self._last}")
        if self._is_silent:
            return EngineTimeout(f"no answer in time: {self._last}")
        error = EngineUnavailable(f"the Kubernetes API cannot serve: {self._last}")
        error.retry_after_s = self.after_s
        return error


class Client:
    """A client of one API. Safe to use from several threads, and after a fork; has no thread.

    It connects at its first call, and keeps idle connections. ``requests`` counts the requests that
    were sent, by (method, plural); the method of a list is LIST, that of a watch WATCH.
    ``postponed`` counts the answers "later" (429, 503). ``sleep`` and ``chance`` (a number from 0
    to 1) are for tests.
    """

    def __init__(
        self,
        access: Access,
        *,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self.access = access
        self.requests: Counter[tuple[str, str]] = Counter()
        self.postponed = 0
        self.chance = chance or random_fraction
        self._sleep = sleep
        self._pool = Pool(access.servers, access.tls, _CONNECT_S)
        self._lock = allocate_lock()
        self._watches: set[Watch] = set()
        package = sys.modules[__name__.partition(".")[0]]
        self._headers = (
            "Accept: application/json",
            f"User-Agent: fastipam/{getattr(package, '__version__', 'unknown')}",
        )

    # Objects.

    def get(
        self, kind: Kind, name: str, *, from_cache: bool = False, deadline_s: float
    ) -> dict[str, Any] | None:
        """Return the object as it is now, None when there is none. Linearizable; one request.

        ``from_cache``: read it from the server's cache, which may be a little older.
        """
        path = kind.path(name) + ("?resourceVersion=0" if from_cache else "")
        try:
            return self._call(Call("GET", kind, path, name=name), deadline_s)
        except NotFound:
            return None

    def create(self, kind: Kind, body: dict[str, Any], *, deadline_s: float) -> dict[str, Any]:
        """Create an object; return it as it was stored. Raises AlreadyExists, Invalid."""
        call = Call("POST", kind, kind.path(), name=name_of(body), body=json.dumps(body))
        return self._call(call, deadline_s)

    def replace(
        self, kind: Kind, body: dict[str, Any], subresource: str = "", *, deadline_s: float
    ) -> dict[str, Any]:
        """Replace the object that has ``metadata.resourceVersion``; return it as it was stored.

        Raises Conflict when the object has another version, NotFound, Invalid; ValueError for a
        body without a version, which would overwrite another writer's change.
        """
        name = name_of(body)
        if not body["metadata"].get("resourceVersion"):
            raise ValueError(f"{name} is to be replaced, but its resourceVersion is not given")
        path = kind.path(name, subresource)
        return self._call(Call("PUT", kind, path, name=name, body=json.dumps(body)), deadline_s)

    def delete(
        self, kind: Kind, name: str, uid: str = "", version: str = "", *, deadline_s: float
    ) -> bool:
        """Delete an object if it has this uid and version; return False when there is none.

        Raises Conflict when it has another uid or version.
        """
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if conditions := {
            key: value for key, value in (("uid", uid), ("resourceVersion", version)) if value
        }:
            options["preconditions"] = conditions
        call = Call("DELETE", kind, kind.path(name), name=name, body=json.dumps(options))
        try:
            self._call(call, deadline_s)
        except NotFound:
            return False
        return True

    def patch_status(
        self, kind: Kind, name: str, body: dict[str, Any], *, deadline_s: float
    ) -> dict[str, Any]:
        """Merge ``body`` into the object's status (RFC 7396); return the object.

        Raises NotFound, Invalid, and Conflict if the body names a version.
        """
        call = Call(
            "PATCH",
            kind,
            kind.path(name, "status"),
            name=name,
            body=json.dumps(body),
            type="application/merge-patch+json",
        )
        return self._call(call, deadline_s)

    # Lists and watches.

    def list(
        self,
        kind: Kind,
        selector: str = "",
        at_least: str = "",
        from_cache: bool = False,
        *,
        deadline_s: float,
    ) -> tuple[Iterator[dict[str, Any]], str]:
        """Return an iterator over the objects, all at one version, and that version.

        ``selector``: a field selector. By default the list is linearizable. ``from_cache``: read it
        from the server's cache, whatever its version. ``at_least``: read it from the cache, once
        the cache has reached this version.

        The first page is read at once, the next ones by the iterator, all within the deadline. An
        object is decoded when the iterator reaches it. So the list takes the memory of one page
        (500 objects), or with ``at_least`` of its whole text (600 bytes per block).

        Raises Behind. Raises Compacted, also in the iterator: then call it again.
        """
        deadline = time.monotonic() + deadline_s
        query = {"fieldSelector": selector}
        if at_least or from_cache:
            query["resourceVersion"] = at_least or "0"
            query["resourceVersionMatch"] = "NotOlderThan"
        if not at_least:
            # Given a limit and a version, API servers before 1.34 read from etcd (apiserver,
            # cacher.go: shouldDelegateList); client-go's reflector sends no limit either.
            query["limit"] = str(PAGE)
        first = self._page(kind, query, deadline)
        return self._pages(kind, query, first, deadline), first.version

    def watch(
        self,
        kind: Kind,
        version: str,
        selector: str = "",
        *,
        initial: bool = False,
        deadline_s: float,
    ) -> Watch:
        """Return an iterator over the changes after ``version``, as (type, object).

        The types are ADDED, MODIFIED, DELETED and BOOKMARK; a bookmark has a version and nothing
        else. The watch ends when the server ends it, which it is asked to do after ``deadline_s``.

        With ``initial`` the current objects come first: an ADDED for each object, of a state that
        is not older than ``version``, then a bookmark for which :func:`ends_initial` is true.

        The call and the iterator raise Compacted and Refused. Refused means that the server does
        not support ``initial``, or that its etcd is too old for it.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "fieldSelector": selector,
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, int(deadline_s))),
        }
        if initial:
            query["sendInitialEvents"] = "true"
            query["resourceVersionMatch"] = "NotOlderThan"
        call = Call("GET", kind, kind.path() + query_of(query), verb="WATCH")
        now = time.monotonic()
        connection = self._attempt(
            call,
            now + min(deadline_s, _OPEN_S),
            lambda endpoint, until: self._subscribe(endpoint, call, until),
        )
        watch = Watch(connection, now + deadline_s + _GRACE_S, self._forget, initial=initial)
        with self._lock:
            self._watches.add(watch)
        if self._pool.closed:
            watch.close()
        return watch

    def pause(self, seconds: float) -> None:
        """Wait before a request is repeated."""
        self._sleep(seconds)

    def close(self) -> None:
        """Close all connections; calls and watches under way in other threads end soon. Idempotent.

        Every later call raises EngineUnavailable.
        """
        self._pool.close()
        with self._lock:
            watches = list(self._watches)
        for one in watches:
            one.shut_down()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._pool.closed

    def _forget(self, watch: Watch) -> None:
        with self._lock:
            self._watches.discard(watch)

    # Parts of a call.

    def _page(self, kind: Kind, query: dict[str, str], deadline: float) -> Page:
        call = Call("GET", kind, kind.path() + query_of(query), verb="LIST", most=_LARGEST_PAGE)

        def read(endpoint: Endpoint, until: float) -> Page:
            raw = self._exchange(endpoint, call, until)
            try:
                return Page(raw.decode())
            except MALFORMED as error:
                where = endpoint.server.text
                raise Retry(f"{where} answers with something other than a list: {error}") from error

        return self._attempt(call, deadline, read)

    def _pages(
        self, kind: Kind, query: dict[str, str], page: Page, deadline: float
    ) -> Iterator[dict[str, Any]]:
        while True:
            try:
                yield from page.items()
            except MALFORMED as error:
                raise EngineUnavailable(f"the list of {kind.plural} is damaged: {error}") from error
            if not page.more:
                return
            more = {"limit": str(PAGE), "continue": page.more}
            page = self._page(kind, {"fieldSelector": query["fieldSelector"], **more}, deadline)

    def _call(self, call: Call, deadline_s: float) -> dict[str, Any]:
        def read(endpoint: Endpoint, until: float) -> dict[str, Any]:
            raw = self._exchange(endpoint, call, until)
            try:
                found = json.loads(raw)
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, dict):
                return found
            text = (
                f"{endpoint.server.text} answers with something other than an object: {shown(raw)}"
            )
            if call.is_change:
                raise EngineTimeout(text, ambiguous=True)
            raise Retry(text)

        return self._attempt(call, time.monotonic() + deadline_s, read)

    def _attempt(self, call: Call, deadline: float, ask: Callable[[Endpoint, float], T]) -> T:
        """Ask one server after another, as long as no server can have made the change."""
        pause_s = _FIRST_PAUSE_S
        refusals = 0
        failed = _Round()
        while True:
            before, failed = failed, _Round()
            for endpoint, until in self._pool.round(deadline, change=call.is_change):
                try:
                    answer = ask(endpoint, until)
                except Unauthorized as error:
                    refusals += 1
                    if refusals > 1:
                        raise EngineDenied(
                            f"{error} (401, also after the token was read again)",
                            hint="check the token's age and the service account, or log in again",
                        ) from None
                    self.access.renew()
                    failed.waits, pause_s = [0.0], 0.0
                    break
                except (Retry, Untrusted, OSError) as error:
                    self.postponed += isinstance(error, Retry) and error.after_s > 0
                    failed.note(error, endpoint)
                    endpoint.failed()
                except EngineTimeout:
                    endpoint.failed()
                    raise
                except EngineError:
                    endpoint.worked()
                    raise
                else:
                    endpoint.worked()
                    return answer
            wait_s = max(pause_s, min(failed.after_s, _LONGEST_WAIT_S)) * (1 + self.chance() / 2)
            told = failed if failed.has_asked else before  # this round may have begun too late
            # A change is repeated only if a server has answered that it did nothing.
            if failed.is_final or (call.is_change and not failed.waits):
                raise told.error()
            if wait_s >= deadline - time.monotonic():
                raise told.error()
            self._sleep(wait_s)
            pause_s = min(2 * pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    def _exchange(self, endpoint: Endpoint, call: Call, until: float) -> bytes:
        """Send one request to one server; return the body of a successful answer.

        Raises OSError and Retry when nothing was done, or when the call is no change.
        """
        connection, message = self._prepared(endpoint, call, until)
        try:
            status, headers, raw = connection.ask(message, until, call.most)
        except OSError as error:
            if not call.is_change or isinstance(error, WantsTls):
                raise
            raise EngineTimeout(
                f"a request was sent to {endpoint.server.text}, but not answered: {error}",
                ambiguous=True,
            ) from error
        self._pool.put_back(connection)
        if not 200 <= status < 300:
            raise failure(status, headers, raw, endpoint.server.text, call)
        if headers.get("content-encoding", "identity") != "identity":
            raw = b""  # not asked for, and so treated as unreadable
        return raw

    def _subscribe(self, endpoint: Endpoint, call: Call, until: float) -> Connection:
        """Send a request whose answer is a stream; return the connection after reading the head."""
        connection, message = self._prepared(endpoint, call, until)
        try:
            status, headers = connection.begin(message, until)
            if status != 200:
                raw = connection.read_body(headers, until, call.most)
                raise failure(status, headers, raw, endpoint.server.text, call)
            if headers.get("transfer-encoding", "").lower() != "chunked":
                raise Retry(f"{endpoint.server.text} sends a watch without chunked encoding")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepared(self, endpoint: Endpoint, call: Call, until: float) -> tuple[Connection, bytes]:
        """Return a connection, and the bytes to send on it. Nothing is sent if this raises."""
        headers = [*self._headers]
        if authorization := self.access.authorization(until):
            headers.append(f"Authorization: {authorization}")
        path = self.access.base + call.path
        message = request(call.method, endpoint.server, path, headers, call.body, call.type)
        try:
            connection = self._pool.take(endpoint, until)
        except EngineDenied as error:
            hint = self.access.trust if "not trusted" in error.message else error.hint
            raise Untrusted(EngineDenied(error.message, hint=hint)) from error
        with self._lock:
            self.requests[call.count] += 1
        return connection, message


def random_fraction() -> float:
    """Return a random number from 0 to 1; importing ``random`` would take longer."""
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)
