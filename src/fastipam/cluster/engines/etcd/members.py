"""The requests to etcd's members: which one to ask, the idle connections, and the login.

A read goes on to the next endpoint until the deadline. A change is sent to the next endpoint only
while it is certain that nothing was proposed: the connection was refused, or the member said that
it has no leader. Every other failure of a change is an EngineTimeout with ``ambiguous``: the caller
reads whether the change was made.
"""

from __future__ import annotations

import time

from fastipam.cluster.engine import EngineDenied, EngineTimeout, EngineUnavailable
from fastipam.cluster.engines.etcd import gateway
from fastipam.cluster.engines.http import request
from fastipam.cluster.engines.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from fastipam.cluster.engines.etcd.settings import Credentials
    from fastipam.cluster.engines.http import Connection, Server
    from fastipam.cluster.engines.pool import Endpoint

    T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.3  # between two rounds over all endpoints


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
        tls = credentials.tls() if any(one.tls for one in servers) else None
        self._pool = Pool(servers, lambda: tls)
        self._login = credentials.login
        self._token = ""

    @property
    def endpoints(self) -> list[Endpoint]:
        """The members' endpoints."""
        return self._pool.endpoints

    @property
    def idle(self) -> list[Connection]:
        """The connections that are kept for later requests."""
        return self._pool.idle

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._pool.closed

    def call(
        self,
        path: str,
        body: str,
        deadline_s: float,
        read: Callable[[Any], T],
        *,
        change: bool = False,
    ) -> T:
        """Send one request; return its answer, parsed by ``read``.

        An answer that ``read`` cannot parse counts as one that is not etcd's.
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
        """Ask one member after another, as long as no member can have made the change."""
        pause_s = _FIRST_PAUSE_S
        logins = 0
        last = "no endpoint was asked"
        waiting = False  # whether there is a member that cannot serve yet
        while True:
            for endpoint, until in self._pool.round(deadline, change=change):
                try:
                    answer = ask(endpoint, until)
                except gateway.Stale:
                    self._token = ""
                    logins += 1
                    if logins > len(self.endpoints):
                        raise EngineDenied(
                            f"{endpoint.server.text} refuses the token that it issued"
                        ) from None
                    waiting = True
                    continue
                except gateway.Retry as error:
                    last, waiting = str(error), True
                    endpoint.failed()
                except OSError as error:
                    last = f"{endpoint.server.text}: {error.strerror or error}"
                    waiting = waiting or isinstance(error, TimeoutError)
                    endpoint.failed()
                except EngineTimeout:
                    endpoint.failed()
                    raise
                else:
                    endpoint.worked()
                    return answer
            left = deadline - time.monotonic()
            if waiting and left > 0:
                time.sleep(min(pause_s, left))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            elif waiting and not change:
                raise EngineTimeout(f"no answer in time; {last}")
            else:
                raise EngineUnavailable(f"no endpoint can be reached; {last}")

    def _exchange(self, endpoint: Endpoint, call: _Call, until: float) -> Any:
        """Send one request to one member and read its answer.

        Raises OSError, Retry or Stale when nothing was done, or when the call is no change.
        """
        where = endpoint.server.text
        connection = self._pool.take(endpoint, until)
        token = self._logged_in(connection, until)
        message = _post(endpoint.server, call.path, call.body, token, until)
        try:
            status, _, raw = connection.ask(message, until)
        except OSError as error:
            if not call.is_change:
                raise
            raise EngineTimeout(
                f"a request was sent to {where}, but not answered: {error}", ambiguous=True
            ) from error
        self._pool.put_back(connection)
        if status != 200:
            raise gateway.failure(status, raw, where, change=call.is_change)
        try:
            answer = gateway.decode(raw)
            if "error" not in answer:  # a stream can fail after its status 200
                return call.read(answer)
        except gateway.MALFORMED as error:
            text = f"{where} sends an answer that is not of etcd's protocol: {error!r}"
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
        status, _, raw = connection.ask(login, until)
        if status == 200:
            try:
                self._token = str(gateway.decode(raw)["token"])
            except gateway.MALFORMED as error:
                connection.close()
                raise gateway.Retry(f"{server.text} answers a login without a token") from error
            return self._token
        if b"authentication is not enabled" in raw:  # no login is needed; etcdctl decides so too
            return ""
        self._pool.put_back(connection)
        raise gateway.failure(status, raw, server.text, change=False)

    def subscribe(self, endpoint: Endpoint, path: str, body: str, until: float) -> Connection:
        """Send a request whose answer is a stream; return its connection after the head.

        The caller closes the connection. Raises OSError, Retry, Stale, EngineError.
        """
        connection = self._pool.take(endpoint, until)
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
        self._pool.close()


def _post(server: Server, path: str, body: str, token: str, until: float | None = None) -> bytes:
    """Return a request that the member ends at ``until``, and refuses while it has no leader."""
    headers = ["Grpc-Metadata-Hasleader: true"]
    if until is not None:
        headers.append(f"Grpc-Timeout: {max(1, int(1000 * (until - time.monotonic())))}m")
    if token:
        headers.append(f"Authorization: {token}")
    return request("POST", server, path, headers, body)
