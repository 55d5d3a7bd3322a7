"""The loop: connections in, requests in batches to ``serve``, answers out.

One thread, one epoll. A request is complete when its bytes are here; all that are complete at one
moment go into one call of ``serve``, which commits once. A client that sends slowly, or not at all,
or does not read its answer, waits alone: nothing blocks but the store.
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

    from fastipam.agent.housekeeping import Chores
    from fastipam.agent.requests import Answer

log = logging.getLogger("fastipam.agent")

_CHUNK = 1 << 18  # bytes read at once: nearly every request is far smaller
_ACCEPT_AT_ONCE = 256  # then those that are connected are served
_ACCEPT_AGAIN_S = 0.1  # after there was no descriptor for a connection, say
_LOOK_AGAIN_S = 0.05  # at what waits for something that need not wake the loop


class Limits(NamedTuple):
    """``connections`` at once; ``seconds`` that a client may take for one request or answer."""

    connections: int = 1024
    seconds: float = 10.0


class _Client:
    """One connection: what has come of a request, what is left of an answer."""

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
        # The first request begins with the connection: the launcher reads its input after that.
        self.arrived_ns = time.time_ns()

    def take_request(self) -> Request | None:
        """The next complete request. Raises ProtocolError."""
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
            # The launcher began before it was accepted: GC spares what is younger than its start.
            arrived_ns = min(arrived_ns, time.time_ns() - age_ns(started))
        return Request(environ, stdin, self.peer, arrived_ns, environ.pop(protocol.NETNS, ""))


class Server:
    """Serve a listening Unix socket until :meth:`stop`, then finish what has begun.

    ``serve`` gets the requests of a batch and returns their answers in the same order; LATER
    means: it gets that request again, soon or when the loop is woken. It may not raise.
    ``chores`` are done between batches. Only uid 0 and this process's own uid are let in.
    """

    def __init__(
        self,
        listener: socket.socket,
        serve: Callable[[Sequence[Request]], Sequence[Answer]],
        limits: Limits = Limits(),  # noqa: B008  # a named tuple: it cannot change
        chores: Chores | None = None,
    ) -> None:
        self._listener = listener
        self._serve = serve
        self._limits = limits
        self._chores = chores
        self._allowed = {0, os.geteuid()}
        self._clients: dict[int, _Client] = {}
        # By deadline, soonest first: every deadline is set the same time ahead.
        self._waiting: OrderedDict[int, _Client] = OrderedDict()
        # Requests that wait for something else than this process: asked again when it was woken.
        self._parked: dict[_Client, Request] = {}
        self._listening = False
        self._listen_at = math.inf  # when to go on after a connection could not be taken
        self._failing = False  # and that was said
        self._stopping = self._draining = False
        self._stop_by = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # One for all: memory of this size for each call would be mapped and given back each time.
        self._buffer = memoryview(bytearray(_CHUNK))
        self._epoll = select.epoll()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        listener.setblocking(False)
        self._listen(True)

    @property
    def wake_descriptor(self) -> int:
        """A byte written here makes the loop look at what has changed (for signal handlers)."""
        return self._wake_write

    def stop(self, seconds: float = 5.0) -> None:
        """Take no new connection, serve what has begun to arrive, then return from :meth:`run`.

        Safe to call from a signal handler or another thread.
        """
        self._stop_by = time.monotonic() + seconds
        self._stopping = True
        with suppress(OSError):  # the pipe is full: it wakes already
            os.write(self._wake_write, b".")

    def run(self) -> None:
        """Serve. Returns after :meth:`stop`, when every request that was here is answered."""
        try:
            while not (self._stopping and self._drained()):
                self._turn()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)

    def close(self) -> None:
        """Give the descriptors back; no signal handler may use the wake descriptor any more."""
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _drained(self) -> bool:
        """Nothing waits for an answer, or it has had its time."""
        if not self._draining:
            self._draining = True
            while self._accept():
                pass  # whoever was in the queue is served, too
            self._listen(False)
            return False  # what they have sent is read by another turn
        busy = bool(self._parked) or any(
            client.incoming or client.outgoing for client in self._clients.values()
        )
        return not busy or time.monotonic() >= self._stop_by

    def _turn(self) -> None:
        """Wait for events, then serve all that is complete."""
        ready: list[tuple[_Client, Request]] = []
        events = self._epoll.poll(self._timeout(), self._limits.connections + 2)
        now = time.monotonic()  # who is silent now is slow; not who sends while a batch commits
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
        if self._parked:  # now: who has gone away meanwhile is not asked for
            ready = [*self._parked.items(), *ready]
            self._parked = {}
        while ready:
            ready = self._answer(ready)
        self._expire(now)
        if now >= self._listen_at and not self._stopping:
            self._listen(True)
        if self._chores is not None and not self._stopping:
            self._chores.step()

    def _timeout(self) -> float | None:
        """Seconds until something has to be given up; None: nothing is under way, no wake-up."""
        if self._stopping or self._parked:
            return _LOOK_AGAIN_S
        first = next(iter(self._waiting.values()), None)
        due = self._listen_at if first is None else min(first.deadline, self._listen_at)
        seconds = None if due == math.inf else max(0.0, due - time.monotonic())
        chores = None if self._chores is None else self._chores.wait_s()
        if chores is None or (seconds is not None and seconds < chores):
            return seconds
        return chores

    def _answer(self, ready: list[tuple[_Client, Request]]) -> list[tuple[_Client, Request]]:
        """Serve a batch; returns the requests that these clients had sent already behind it."""
        answers = self._serve([request for _, request in ready])
        following: list[tuple[_Client, Request]] = []
        deadline = time.monotonic() + self._limits.seconds
        for (client, request), answer in zip(ready, answers, strict=True):
            if answer is LATER:
                if self._clients.get(client.descriptor) is client:  # else it went away
                    self._restart_clock(client, deadline)
                    self._await(client, 0)  # nothing more is read, only that it hangs up
                    self._parked[client] = request
                continue
            client.outgoing = protocol.pack_answer(*answer)
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
        """The connections that wait, as far as the limit allows; refused ones are closed."""
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
                # Out of descriptors, say. The connection goes on waiting, and the epoll would
                # report it at once again: it is looked at later, or when another one is closed.
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
            return  # it went away while it was served
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
        """Put the client's next complete request into the batch; one a client at a time."""
        try:
            request = client.take_request()
        except protocol.ProtocolError as error:
            log.warning("peer=%d %s", client.peer, error)
            self._drop(client)
            return
        if request is not None:
            ready.append((client, request))

    def _write(self, client: _Client) -> None:
        """Send what is left of an answer; the rest when the client has read."""
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
        """Let the epoll look for this; a call only when it has looked for something else."""
        if client.awaited != events:
            self._epoll.modify(client.descriptor, events)
            client.awaited = events

    def _expire(self, now: float) -> None:
        """Close the connections that have had their time."""
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
