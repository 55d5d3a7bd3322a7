"""The agent's loop: it reads requests, hands them to ``serve`` in batches and sends the answers.

There is one thread with one epoll. A request is complete when all of its bytes have arrived. All
requests that are complete at one moment go into one call of ``serve``, which commits once. A client
that sends slowly, or does not read its answer, delays nobody else: only the store can block.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import select
import socket
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from fastipam.agent import protocol
from fastipam.agent.requests import LATER, Request
from fastipam.cni.main import age_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.agent.housekeeping import Housekeeping
    from fastipam.agent.requests import Answer

log = logging.getLogger("fastipam.agent")

_CHUNK = 1 << 18  # bytes per read: nearly every request is far smaller
_ACCEPT_AT_ONCE = 256  # connections; then those that are connected are served
_ACCEPT_AGAIN_S = 0.1  # after accept failed, because there was no descriptor for example
_LOOK_AGAIN_S = 0.05  # while a request waits for something that may not wake the loop


class Limits(NamedTuple):
    """Bounds: ``connections`` at once, ``seconds`` of a client for one request or one answer."""

    connections: int = 1024
    seconds: float = 10.0


class _Client:
    """A connection: what has arrived of a request, and what is left to send of an answer."""

    __slots__ = (
        "arrived_ns", "awaited", "deadline", "descriptor", "incoming", "outgoing", "peer", "sizes",
        "socket",
    )  # fmt: skip

    def __init__(self, connection: socket.socket, peer: int) -> None:
        self.socket = connection
        self.descriptor = connection.fileno()
        self.peer = peer
        self.deadline = 0.0
        self.awaited: int = select.EPOLLIN
        self.incoming = bytearray()
        self.outgoing = b""
        self.sizes: tuple[int, int] | None = None
        # The first request begins with the connection: the launcher reads its input later.
        self.arrived_ns = time.time_ns()

    def take_request(self) -> Request | None:
        """Return the next complete request, or None. Raises ProtocolError."""
        header = protocol.REQUEST.size
        incoming = self.incoming
        if self.sizes is None:
            if len(incoming) < header:
                return None
            self.sizes = protocol.request_size(incoming[:header])
        variables, size = self.sizes
        end = header + variables + size
        if len(incoming) < end:
            return None
        environ = protocol.read_variables(bytes(incoming[header : header + variables]))
        stdin = bytes(incoming[header + variables : end])
        del incoming[:end]
        self.sizes = None
        arrived_ns, self.arrived_ns = self.arrived_ns, 0
        started = environ.pop(protocol.STARTED, "")
        if started:
            # The launcher began before it was accepted: GC spares leases younger than its start.
            arrived_ns = min(arrived_ns, time.time_ns() - age_ns(started))
        return Request(environ, stdin, self.peer, arrived_ns, environ.pop(protocol.NETNS, ""))


class Server:
    """Serve a listening Unix socket until :meth:`stop`, then finish what has begun.

    ``serve`` takes the requests of a batch and returns their answers in the same order. For the
    answer LATER it gets that request again, after a short time or when the loop is woken. It may
    not raise. ``housekeeping`` runs between batches. Only uid 0 and this process's own uid are
    served.
    """

    def __init__(
        self,
        listener: socket.socket,
        serve: Callable[[Sequence[Request]], Sequence[Answer]],
        limits: Limits = Limits(),  # noqa: B008  # a named tuple: it cannot change
        housekeeping: Housekeeping | None = None,
    ) -> None:
        self._listener = listener
        self._serve = serve
        self._limits = limits
        self._housekeeping = housekeeping
        self._allowed = {0, os.geteuid()}
        self._clients: dict[int, _Client] = {}
        # In the order of their deadlines, which are all set the same time ahead.
        self._waiting: OrderedDict[int, _Client] = OrderedDict()
        # Requests answered with LATER: they are handled again when the loop is woken.
        self._parked: dict[_Client, Request] = {}
        self._listening = False
        self._listen_at = math.inf  # when to accept again after accept failed
        self._failing = False  # accept fails, and the log says so
        self._stopping = self._draining = False
        self._stop_by = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # One buffer for all reads: a new one of this size would be mapped for each read.
        self._buffer = memoryview(bytearray(_CHUNK))
        self._epoll = select.epoll()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        listener.setblocking(False)
        self._listen(True)

    @property
    def wake_descriptor(self) -> int:
        """The descriptor to which a signal handler writes a byte to wake the loop."""
        return self._wake_write

    def stop(self, seconds: float = 5.0) -> None:
        """Accept no more connections; :meth:`run` serves what has begun to arrive, then returns.

        Safe to call from a signal handler or another thread.
        """
        self._stop_by = time.monotonic() + seconds
        self._stopping = True
        with suppress(OSError):  # the pipe is full: the loop wakes anyway
            os.write(self._wake_write, b".")

    def run(self) -> None:
        """Serve until :meth:`stop`; return when every request that had begun is answered."""
        try:
            while not (self._stopping and self._drained()):
                self._step()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)

    def close(self) -> None:
        """Close the descriptors; no signal handler may use the wake descriptor after that."""
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _drained(self) -> bool:
        """Return whether no request waits for an answer, or the time to stop has come."""
        if not self._draining:
            self._draining = True
            while self._accept():
                pass  # connections in the listener's queue are served too
            self._listen(False)
            return False  # the next step reads what they have sent
        busy = bool(self._parked) or any(
            client.incoming or client.outgoing for client in self._clients.values()
        )
        return not busy or time.monotonic() >= self._stop_by

    def _step(self) -> None:
        """Wait for events, then serve all requests that are complete."""
        ready: list[tuple[_Client, Request]] = []
        events = self._epoll.poll(self._timeout(), self._limits.connections + 2)
        now = time.monotonic()  # a client that sends while a batch commits is not slow
        for descriptor, event in events:
            if descriptor == self._listener.fileno():
                for client in self._accept():
                    self._read(client, ready)
            elif descriptor == self._wake_read:
                os.read(self._wake_read, 4096)
            else:
                client = self._clients[descriptor]
                if event & select.EPOLLOUT:
                    self._write(client)
                    if not client.outgoing:
                        self._restart_clock(client)
                        self._next(client, ready)
                elif event & select.EPOLLIN:
                    self._read(client, ready)
                else:
                    self._drop(client)
        if self._parked:  # only now: a client may have closed its connection meanwhile
            ready = [*self._parked.items(), *ready]
            self._parked = {}
        while ready:
            ready = self._answer(ready)
        self._expire(now)
        if now >= self._listen_at and not self._stopping:
            self._listen(True)
        if self._housekeeping is not None and not self._stopping:
            self._housekeeping.step()

    def _timeout(self) -> float | None:
        """Return the seconds until the loop has something to do, or None when it has to wait."""
        if self._stopping or self._parked:
            return _LOOK_AGAIN_S
        first = next(iter(self._waiting.values()), None)
        due = self._listen_at if first is None else min(first.deadline, self._listen_at)
        seconds = None if due == math.inf else max(0.0, due - time.monotonic())
        chore = None if self._housekeeping is None else self._housekeeping.wait_s()
        if chore is None or (seconds is not None and seconds < chore):
            return seconds
        return chore

    def _answer(self, ready: list[tuple[_Client, Request]]) -> list[tuple[_Client, Request]]:
        """Serve a batch and return the requests that its clients had sent already after it."""
        answers = self._serve([request for _, request in ready])
        following: list[tuple[_Client, Request]] = []
        deadline = time.monotonic() + self._limits.seconds
        for (client, request), answer in zip(ready, answers, strict=True):
            if answer is LATER:
                if self._clients.get(client.descriptor) is client:  # else it was closed
                    self._restart_clock(client, deadline)
                    self._await(client, 0)  # read no more, but notice that it is closed
                    self._parked[client] = request
                continue
            if answer.confirm is not None:
                answer = answer.confirm()  # noqa: PLW2901  # the last step before it is written
            client.outgoing = protocol.pack_answer(answer.status, answer.output, answer.messages)
            self._restart_clock(client, deadline)
            self._write(client)
            if client.incoming and not client.outgoing:
                self._next(client, following)
        return following

    def _listen(self, on: bool) -> None:
        self._listen_at = math.inf
        if on != self._listening:
            if on:
                self._epoll.register(self._listener, select.EPOLLIN)
            else:
                self._epoll.unregister(self._listener)
            self._listening = on

    def _accept(self) -> list[_Client]:
        """Accept and return waiting connections within the limit; close those of other users."""
        accepted = []
        for _ in range(_ACCEPT_AT_ONCE):
            if len(self._clients) >= self._limits.connections:
                log.warning("connections=%d limit reached", len(self._clients))
                self._listen(False)
                break
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.ECONNABORTED, errno.EINTR):
                    continue
                # There may be no descriptor. The connection stays in the queue, and epoll would
                # report it again at once: accept later, or when another connection is closed.
                if not self._failing:
                    log.warning("accept failed: %s", error)
                    self._failing = True
                self._listen(False)
                self._listen_at = time.monotonic() + _ACCEPT_AGAIN_S
                break
            self._failing = False
            peer, uid = protocol.peer_of(connection)
            if uid not in self._allowed:
                log.warning("peer=%d uid=%d refused", peer, uid)
                connection.close()
                continue
            connection.setblocking(False)
            client = _Client(connection, peer)
            self._clients[client.descriptor] = client
            self._epoll.register(client.descriptor, select.EPOLLIN)
            self._restart_clock(client)
            accepted.append(client)
        return accepted

    def _restart_clock(self, client: _Client, deadline: float | None = None) -> None:
        if self._clients.get(client.descriptor) is not client:
            return  # it was closed while it was served
        client.deadline = deadline or time.monotonic() + self._limits.seconds
        self._waiting[client.descriptor] = client
        self._waiting.move_to_end(client.descriptor)

    def _read(self, client: _Client, ready: list[tuple[_Client, Request]]) -> None:
        try:
            size = client.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._drop(client)
            return
        if not client.arrived_ns:
            client.arrived_ns = time.time_ns()
        client.incoming += self._buffer[:size]
        self._next(client, ready)

    def _next(self, client: _Client, ready: list[tuple[_Client, Request]]) -> None:
        """Add the client's next complete request to the batch: at most one a client."""
        try:
            request = client.take_request()
        except protocol.ProtocolError as error:
            log.warning("peer=%d %s", client.peer, error)
            self._drop(client)
            return
        if request is not None:
            ready.append((client, request))

    def _write(self, client: _Client) -> None:
        """Send what is left of an answer, or as much as the client reads now."""
        try:
            while client.outgoing:
                sent = client.socket.send(client.outgoing)
                client.outgoing = client.outgoing[sent:]
        except BlockingIOError:
            self._await(client, select.EPOLLOUT)
            return
        except OSError:
            self._drop(client)
            return
        self._await(client, select.EPOLLIN)

    def _await(self, client: _Client, events: int) -> None:
        """Have epoll report these events; without a system call when it does already."""
        if client.awaited != events:
            self._epoll.modify(client.descriptor, events)
            client.awaited = events

    def _expire(self, now: float) -> None:
        """Close the connections whose deadline is over."""
        while self._waiting:
            client = next(iter(self._waiting.values()))
            if client.deadline > now:
                return
            if client.incoming or client.outgoing:
                log.warning("peer=%d took more than %gs", client.peer, self._limits.seconds)
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.get(client.descriptor) is not client:  # dropped already
            return
        del self._clients[client.descriptor]
        self._waiting.pop(client.descriptor, None)
        client.outgoing = b""
        client.incoming.clear()
        self._parked.pop(client, None)
        client.socket.close()
        if not self._stopping:
            self._listen(True)
