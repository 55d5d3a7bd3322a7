"""The agent's loop: it reads requests and hands them to the lanes of their stores.

A request is complete when all of its bytes have arrived. All requests of a store that are complete
at the same time are one batch of its lane, with one commit. A request that comes alone is served by
the loop's own thread, which saves a switch of threads. If that takes long, another thread continues
the loop: see "Who serves a request" in docs/architecture.md. A client that sends slowly, or does
not read its answer, delays no other client.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import select
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from fastipam._ledger import Alarm, accept
from fastipam.agent import protocol
from fastipam.agent.client import Client
from fastipam.agent.lanes import Ticket
from fastipam.agent.requests import LATER

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from fastipam.agent.lanes import Lanes
    from fastipam.agent.requests import Answer

log = logging.getLogger("fastipam.agent")

_CHUNK = 1 << 18  # bytes per read: nearly every request is far smaller
_ACCEPT_AT_ONCE = 256  # connections that are accepted before the requests so far are served
_ACCEPT_AGAIN_S = 0.1  # before a retry when accept has failed, for example without descriptors
_ANSWERS = b"a"  # what a lane writes to wake the loop; keepers and signals write another byte
_MOMENT_S = 0.005  # how long the front thread serves a request before the other runs the loop
_AT_ONCE_S = 1e-6
_LOOK_AGAIN_S = 0.05  # between two tries of a request whose event may not wake the loop


# A launcher sends its request within this time. A connection that is idle for longer may be closed
# to make room for another one.
_IDLE_S = 0.25
_LOOKED_AT = 64  # how many connections are searched for one that has sent no request
_LARGEST_UNFINISHED = 64 << 20  # bytes that all incomplete requests may have together
_TELL_AGAIN_S = 1.0  # between two log lines that a client can cause


class Limits(NamedTuple):
    """The limits of a server.

    ``connections`` may be open at once. A client has ``seconds`` to send a request or to read an
    answer.
    """

    connections: int = 1024
    seconds: float = 10.0

    @property
    def of_a_process(self) -> int:
        """The number of connections that one process may have. A launcher needs one."""
        return max(64, self.connections // 4)


class Server:
    """Serves a listening Unix socket until :meth:`stop`, then finishes the requests in progress.

    ``lanes`` answer the requests. A request with the answer LATER is handed to its lane again,
    after a short time or when the loop is woken. Only clients of uid 0 and of this process's own
    uid are served.
    """

    def __init__(
        self,
        listener: socket.socket,
        lanes: Lanes,
        limits: Limits = Limits(),  # noqa: B008  # a named tuple: it cannot change
    ) -> None:
        self._listener = listener
        self._lanes = lanes
        self._limits = limits
        self._allowed = {0, os.geteuid()}
        self._clients: dict[int, Client] = {}
        # Clients in the order of their deadlines: each deadline is set the same time ahead.
        self._waiting: OrderedDict[int, Client] = OrderedDict()
        # Clients by the process id of the peer. A process in another PID namespace, with id 0, is
        # not counted.
        self._of_process: dict[int, OrderedDict[int, Client]] = {}
        self._unfinished = 0  # an upper bound of the bytes of incomplete requests
        self._tell_at = 0.0
        # Requests answered with LATER, and the latest time to hand them to the lanes again.
        self._parked: list[Ticket] = []
        self._look_at = math.inf
        self._listening = False
        self._listen_at = math.inf  # when to accept again after accept failed
        self._failing = False  # accept fails, and the log says so
        self._stopping = self._draining = False
        self._stop_by = 0.0
        self._new: list[Client] = []  # accepted in this step
        # Held by the one of two threads that runs the loop: see :meth:`run`.
        self._turn = threading.Lock()
        self._alarm = Alarm()
        self._moment_s = _MOMENT_S
        self._in_front = True
        self._is_back = False  # the thread in front waits for the turn
        self._ended = False
        self._failure: BaseException | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # One buffer for all reads: allocating one of this size for each read would call mmap.
        self._buffer = memoryview(bytearray(_CHUNK))
        self._buffers = (self._buffer,)
        self._epoll = select.epoll()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        listener.setblocking(False)
        self._listen(True)

    def begin(self, paths: Iterable[str] = ()) -> None:
        """Start the lanes, with one for each store in ``paths``."""
        self._lanes.start(self._send, self._wake, paths)

    def _send(self, ticket: Ticket, answer: Answer) -> None:
        """Write an answer, or as much of it as the socket accepts. Called in a lane."""
        client: Client = ticket.owner
        with client.lock:
            if answer is not LATER and not ticket.dropped:
                client.outgoing = protocol.pack_answer(*answer[:3])
                client.send()

    def _wake(self, ticket: Ticket | None, answer: Answer | None) -> None:
        """Wake the loop if an answer leaves it something to do, or a lane has failed (None)."""
        # The loop has nothing to do for a client whose answer is sent: the client closes the
        # connection or sends another request, and both wake the loop.
        if ticket is not None and answer is not LATER:
            client: Client = ticket.owner
            if client.ticket is not ticket:
                return  # the loop has already found the answer
            more = client.outgoing or client.incoming or client.failed or client.awaited == 0
            if not more and not self._stopping:
                return
        self._nudge(_ANSWERS)

    @property
    def wake_descriptor(self) -> int:
        """The descriptor to which a signal handler writes a byte to wake the loop."""
        return self._wake_write

    def stop(self, seconds: float = 5.0) -> None:
        """Stop accepting connections.

        :meth:`run` serves the requests that have begun to arrive, for ``seconds`` at most, and
        returns. Safe to call from a signal handler or another thread.
        """
        self._stop_by = time.monotonic() + seconds
        self._stopping = True
        self._nudge(b".")

    def run(self) -> None:
        """Serve until :meth:`stop`; return when every request that had begun is answered.

        Two threads share the loop. The thread in front runs it and serves single requests; the
        calling thread, in which signal handlers run, stands behind and takes over while a request
        takes long. Raises the exception of a lane or of the loop, which is a defect.
        """
        front = threading.Thread(target=self._run_in_front, name="loop", daemon=True)
        try:
            try:
                front.start()
            except RuntimeError as error:  # this thread runs the loop alone
                log.warning("the thread of the agent's main loop could not be started: %s", error)
                self._go_round(lambda: False)
            else:
                self._stand_behind()
        finally:
            self._ended = True
            self._nudge(_ANSWERS)
            with self._turn:  # now no other thread runs the loop
                for client in list(self._clients.values()):
                    self._drop(client)
        if self._failure is not None:
            raise self._failure

    def _go_round(self, until: Callable[[], bool]) -> None:
        while not self._ended and not until():
            if self._stopping and self._drained():
                self._ended = True
            else:
                self._step()

    def _run_in_front(self) -> None:
        try:
            with self._turn:
                self._go_round(lambda: False)
        except BaseException as error:
            self._failure = error
        self._ended = True
        self._alarm.set(_AT_ONCE_S)

    def _stand_behind(self) -> None:
        """Run the loop while the thread in front serves a request that takes long."""
        while not self._ended:
            self._alarm.wait()
            self._moment_s = _MOMENT_S
            if self._turn.acquire(blocking=False):
                try:
                    self._in_front = False
                    self._go_round(lambda: self._is_back)
                finally:
                    self._in_front = True
                    self._turn.release()

    def _aside(self, serve: Callable[[], object]) -> None:
        """Serve a request in the front thread; the other one runs the loop if that takes long."""
        self._turn.release()  # before the alarm: the thread that it wakes takes the turn
        self._alarm.set(self._moment_s)
        try:
            serve()
        finally:
            if not self._turn.acquire(blocking=False):
                self._is_back = True
                self._nudge(_ANSWERS)
                self._turn.acquire()
                self._is_back = False
            self._alarm.set(0.0)

    def _nudge(self, what: bytes) -> None:
        """Wake the thread that runs the loop."""
        with suppress(OSError):  # the pipe is full and the thread wakes anyway, or it has ended
            os.write(self._wake_write, what)

    def close(self) -> None:
        """Close the descriptors; no signal handler may use the wake descriptor after that."""
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _drained(self) -> bool:
        """Return whether no request waits for an answer, or the time to wait is over."""
        if not self._draining:
            self._draining = True
            ready: list[Ticket] = []
            while self._accept(ready):
                pass  # connections in the listener's queue are served too
            self._settle_new()
            self._lanes.put(ready)
            self._listen(False)
            return False
        busy = any(
            client.incoming or client.outgoing or client.ticket for client in self._clients.values()
        )
        return not busy or time.monotonic() >= self._stop_by

    def _step(self) -> None:
        """Wait for events and hand all complete requests to the lanes."""
        events = self._epoll.poll(self._timeout(), self._limits.connections + 2)
        now = time.monotonic()
        # Collect first: a client with an event may already have read an answer.
        ready = self._collect() if self._lanes.have_answered else []
        accepting = False
        for descriptor, event in events:
            if descriptor == self._listener.fileno():
                accepting = True
            elif descriptor == self._wake_read:
                if os.read(self._wake_read, 4096).strip(_ANSWERS):
                    self._look_at = now
                    # It may be a signal: wake the thread behind, in which its handler runs.
                    self._moment_s = _AT_ONCE_S
                    self._alarm.set(_AT_ONCE_S)
            elif descriptor in self._clients:  # else it was closed in this step
                self._serve_event(self._clients[descriptor], event, ready)
        if accepting:  # last: a new connection may get the descriptor of a closed one
            self._accept(ready)
        if now >= self._look_at:
            self._look_at = math.inf
            ready = [*(one for one in self._parked if not one.dropped), *ready]
            self._parked = []
        if len(ready) == 1 and self._in_front:
            # The other thread may take the turn: register the other new clients for it first.
            client: Client = ready[0].owner
            if self._new != [client]:
                self._settle_new(but=client)
            if self._lanes.serve(ready[0], self._aside):
                ready = []
                if self._ended:
                    return
        self._settle_new()
        ready += self._collect()
        while ready:
            self._lanes.put(ready)
            ready = self._collect()
        self._expire(now)
        if now >= self._listen_at and not self._stopping:
            self._listen(True)

    def _serve_event(self, client: Client, event: int, ready: list[Ticket]) -> None:
        # The state of the client may be newer than the event: _collect has run since.
        gone = event & (select.EPOLLHUP | select.EPOLLERR)
        if client.ticket is not None or client.outgoing:
            if gone:
                self._drop(client)  # it has closed both directions: it cannot read an answer
            elif client.ticket is not None:
                self._await(client, 0)  # leave its next request in the socket for now
            elif event & select.EPOLLOUT:
                self._send_rest(client, ready)
        elif event & select.EPOLLIN:
            self._read(client, ready)
        elif gone:
            self._drop(client)

    def _send_rest(self, client: Client, ready: list[Ticket]) -> None:
        client.send()
        self._after_sending(client)
        if not client.outgoing:
            self._restart_clock(client)
            self._next(client, ready)

    def _timeout(self) -> float | None:
        """Return the seconds until the loop has something to do, or None when only events count."""
        if self._stopping:
            return _LOOK_AGAIN_S
        first = next(iter(self._waiting.values()), None)
        due = min(self._listen_at, self._look_at)
        if first is not None:
            due = min(first.deadline, due)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _collect(self) -> list[Ticket]:
        """Collect what the lanes have answered; return the next requests of the same clients."""
        following: list[Ticket] = []
        for ticket, answer in self._lanes.done():
            client: Client = ticket.owner
            if ticket.dropped:
                continue
            if answer is LATER:
                self._await(client, 0)  # read no more, but notice when the client closes
                self._parked.append(ticket)
                self._look_at = min(self._look_at, time.monotonic() + _LOOK_AGAIN_S)
                continue
            client.ticket = None
            self._restart_clock(client)
            self._after_sending(client)
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

    def _accept(self, ready: list[Ticket]) -> bool:
        """Accept waiting connections within the limits, and read what they have sent.

        Return whether there were any. Connections of other users are closed.
        """
        found = False
        for _ in range(_ACCEPT_AT_ONCE):
            if len(self._clients) >= self._limits.connections and not self._make_room():
                break
            try:
                accepted = accept(self._listener.fileno())
            except OSError as error:
                if error.errno in (errno.ECONNABORTED, errno.EINTR):
                    continue
                # There may be no descriptor left. The connection stays in the queue, and epoll
                # would report it again at once: accept later, or when a connection is closed.
                if not self._failing:
                    log.warning("accept() on the agent's socket failed: %s", error)
                    self._failing = True
                self._listen(False)
                self._listen_at = time.monotonic() + _ACCEPT_AGAIN_S
                break
            if accepted is None:
                break
            self._failing, found = False, True
            descriptor, peer, uid, data = accepted
            if uid not in self._allowed:
                self._tell("peer=%d uid=%d refused: this user may not call the agent", peer, uid)
                os.close(descriptor)
                continue
            client = self._clients[descriptor] = Client(descriptor, peer)
            self._new.append(client)
            if data is not None:
                self._take(client, data, ready)
        return found

    def _settle_new(self, but: Client | None = None) -> None:
        """Register each new client except ``but``: with epoll, its deadline and its process.

        This can wait until a request that came with a new connection is served.
        """
        new, self._new = self._new, []
        for client in new:
            if client is but:
                self._new.append(client)
            elif self._clients.get(client.descriptor) is client:
                if client.awaited is None:
                    self._await(client, select.EPOLLIN)
                if client.ticket is None:
                    self._restart_clock(client)
                self._limit_process(client)

    def _make_room(self) -> bool:
        """Close an idle connection if another one waits, and return whether one was closed."""
        if not select.select([self._listener], [], [], 0)[0]:
            return False
        now = time.monotonic()
        self._tell("connections=%d the limit of connections is reached", len(self._clients))
        longest = next(iter(self._waiting.values()), None)
        idle_at = now if longest is None else longest.deadline - self._limits.seconds
        idle_at += _IDLE_S
        if longest is None or now < idle_at:  # all are being served, or have just connected
            self._listen(False)
            self._listen_at = idle_at
            return False
        idle = (one for one in islice(self._waiting.values(), _LOOKED_AT) if not one.asked)
        self._drop(next(idle, longest))
        return True

    def _limit_process(self, client: Client) -> None:
        """Count a new connection of a process; close its longest idle one if it has too many."""
        if not client.peer or self._clients.get(client.descriptor) is not client:
            return
        own = self._of_process.setdefault(client.peer, OrderedDict())
        own[client.descriptor] = client
        if len(own) <= self._limits.of_a_process:
            return
        idle = [one for one in own.values() if one.ticket is None]
        if idle:  # otherwise all of them are being served
            self._tell("peer=%d has more than %d connections", client.peer, len(own) - 1)
            self._drop(next((one for one in idle if not one.asked), idle[0]))

    def _tell(self, text: str, *values: object) -> None:
        """Log a warning that a client can cause, at most once a second."""
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_AGAIN_S
            log.warning(text, *values)

    def _restart_clock(self, client: Client) -> None:
        if self._clients.get(client.descriptor) is not client:
            return  # the client was closed meanwhile
        client.deadline = time.monotonic() + self._limits.seconds
        self._waiting[client.descriptor] = client
        self._waiting.move_to_end(client.descriptor)

    def _read(self, client: Client, ready: list[Ticket]) -> None:
        try:
            size = os.readv(client.descriptor, self._buffers)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._take(client, self._buffer[:size], ready)

    def _take(self, client: Client, data: bytes | memoryview, ready: list[Ticket]) -> None:
        """Add received data to the client's request; close the connection if no data came."""
        if not data:
            self._drop(client)
            return
        if not client.arrived_ns:
            client.arrived_ns = time.time_ns()
        client.incoming += data
        self._unfinished += len(data)
        if self._unfinished > _LARGEST_UNFINISHED:
            self._forget_largest()
        self._next(client, ready)

    def _forget_largest(self) -> None:
        """Close the clients with the longest incomplete requests, until the rest fits the limit."""
        self._unfinished = sum(len(one.incoming) for one in self._clients.values())
        while self._unfinished > _LARGEST_UNFINISHED:
            largest = max(self._clients.values(), key=lambda one: len(one.incoming))
            self._unfinished -= len(largest.incoming)
            self._tell(
                "peer=%d disconnected: all incomplete requests together are too large", largest.peer
            )
            self._drop(largest)

    def _next(self, client: Client, ready: list[Ticket]) -> None:
        """Add the client's next complete request to ``ready``: one at a time for each client."""
        try:
            request = client.take_request()
        except protocol.ProtocolError as error:
            self._tell("peer=%d %s", client.peer, error)
            self._drop(client)
            return
        if request is not None:
            client.ticket = Ticket(client, request)
            self._waiting.pop(client.descriptor, None)  # no deadline while the client waits for us
            ready.append(client.ticket)

    def _after_sending(self, client: Client) -> None:
        """Wait for the client to read the rest of an answer, or to send its next request."""
        if client.failed:
            self._drop(client)
        else:
            self._await(client, select.EPOLLOUT if client.outgoing else select.EPOLLIN)

    def _await(self, client: Client, events: int) -> None:
        """Have epoll report ``events`` and the end of the connection.

        It makes no system call if epoll reports them already.
        """
        if client.awaited is None:
            self._epoll.register(client.descriptor, events)
        elif client.awaited != events:
            self._epoll.modify(client.descriptor, events)
        client.awaited = events

    def _expire(self, now: float) -> None:
        """Close the connections whose deadline has passed."""
        while self._waiting:
            client = next(iter(self._waiting.values()))
            if client.deadline > now:
                return
            if client.incoming or client.outgoing:
                self._tell(
                    "peer=%d disconnected: a request or its answer took more than %gs",
                    client.peer,
                    self._limits.seconds,
                )
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if self._clients.get(client.descriptor) is not client:  # dropped already
            return
        del self._clients[client.descriptor]
        self._waiting.pop(client.descriptor, None)
        own = self._of_process.get(client.peer)
        if own is not None:
            own.pop(client.descriptor, None)
            if not own:
                del self._of_process[client.peer]
        client.close()
        if not self._stopping:
            self._listen(True)
