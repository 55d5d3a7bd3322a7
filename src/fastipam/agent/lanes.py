"""Serve each store in a thread of its own, so that a slow store does not delay the others.

Another process may hold a store's writer lock, and a disk may be slow, so the loop waits for no
store. The loop hands complete requests to the lane of their store, and the lane passes all its
waiting requests to ``serve`` at once. The lane writes the answers itself, so that no client waits
for the loop again. Between two batches a lane does the housekeeping of its store.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.agent.requests import LATER, Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fastipam.agent.housekeeping import Housekeeping
    from fastipam.agent.requests import Request

    Serve = Callable[[Sequence[Request]], Sequence[Answer]]

log = logging.getLogger("fastipam.agent")

MOST_LANES = 64  # threads; further stores share the lane of the requests that name no store
SHARED = ""
_TOO_MANY = Answer(
    1,
    json.dumps(
        {
            "cniVersion": "1.1.0",
            "code": 11,
            "msg": "too many calls already wait for this store",
            "details": "try again; `fastipam doctor` shows which process holds the store's lock",
        }
    ).encode(),
    b"",
)


class Ticket:
    """A request that is being served. ``owner`` gets the answer unless ``dropped`` is set."""

    __slots__ = ("dropped", "lane", "owner", "request")

    def __init__(self, owner: Any, request: Request) -> None:
        self.owner = owner
        self.request = request
        self.dropped = False
        self.lane: _Lane | None = None


class Work(NamedTuple):
    """The functions of a lane: serve a batch of requests, and do the housekeeping of its store.

    ``begin`` is called when the lane starts. None of these functions may raise.
    """

    serve: Serve
    chores: Housekeeping | None = None
    begin: Callable[[], object] = lambda: None


class Lanes:
    """The lanes of a server, one thread for each store. Only the loop's thread calls the methods.

    The lanes call two functions: ``send`` writes an answer, and ``wake``, called after it with the
    ticket, wakes the loop if the loop has something to do for that ticket. ``wake(None)`` always
    wakes the loop.

    ``work`` returns the :class:`Work` of a lane; its argument is the store's data directory,
    SHARED, or None for the loop's own work. ``route`` returns the key of a request's lane, or None
    if the request touches no store and the loop serves it. At most ``most`` requests wait for one
    store, so that there is room for requests of other stores; further requests are answered with
    "try again later".
    """

    def __init__(
        self,
        work: Callable[[str | None], Work],
        route: Callable[[Request], str | None] = lambda _: SHARED,
        most: int = sys.maxsize,
    ) -> None:
        self._most = most
        self._work = work
        self._route = route
        self._own = work(None)
        self._lanes: dict[str, _Lane] = {}
        self._done: deque[tuple[Ticket, Answer]] = deque()
        self._failure: BaseException | None = None
        self._send: Callable[[Ticket, Answer], object] = lambda *_: None
        self._wake: Callable[[Ticket | None, Answer | None], object] = lambda *_: None

    def start(
        self,
        send: Callable[[Ticket, Answer], object],
        wake: Callable[[Ticket | None, Answer | None], object],
        paths: Iterable[str] = (),
    ) -> None:
        """Start with a lane for each store in ``paths``."""
        self._send, self._wake = send, wake
        for path in paths:
            self._lane(path)

    def put(self, tickets: Sequence[Ticket]) -> None:
        """Hand requests to their lanes. The requests of one lane are served in the same batch."""
        parts: dict[str | None, list[Ticket]] = {}
        for ticket in tickets:
            parts.setdefault(self._route(ticket.request), []).append(ticket)
        for path, part in parts.items():
            lane = None if path is None else self._lane(path)
            if lane is None:
                self._answer(self._own.serve, part)
                continue
            room = max(0, self._most - lane.waiting)
            if part[room:]:
                self._answer(lambda late: [_TOO_MANY] * len(late), part[room:])
            if part[:room]:
                for ticket in part[:room]:
                    ticket.lane = lane
                lane.taken += len(part[:room])
                lane.queue.put(part[:room])

    def serve(self, ticket: Ticket, aside: Callable[[Callable[[], object]], object]) -> bool:
        """Serve a request in this thread if its lane is idle, and return whether it was served.

        ``aside`` is called with the function that serves the request, which may take long, and
        calls that function.
        """
        path = self._route(ticket.request)
        lane = None if path is None else self._lane(path)
        if lane is None or lane.waiting or not lane.turn.acquire(blocking=False):
            return False
        ticket.lane = lane
        lane.taken += 1

        def serve() -> None:
            try:
                self._answer(lane.work.serve, [ticket])
            finally:
                lane.turn.release()

        aside(serve)
        return True

    @property
    def have_answered(self) -> bool:
        """Whether :meth:`done` has something to return, or to raise."""
        return bool(self._done) or self._failure is not None

    def done(self) -> list[tuple[Ticket, Answer]]:
        """Return the requests that were answered since the last call.

        Raises the exception of a lane that has failed, which is a defect: the agent ends, and the
        service manager restarts it.
        """
        if self._failure is not None:
            raise self._failure
        found = []
        while self._done:
            found.append(self._done.popleft())
        return found

    def stop(self, seconds: float) -> bool:
        """Make the lanes end after their current work; return whether all of them have ended."""
        for lane in self._lanes.values():
            lane.queue.put(None)
        give_up = time.monotonic() + seconds
        for lane in self._lanes.values():
            lane.thread.join(max(0.0, give_up - time.monotonic()))
        return not any(
            lane.thread.is_alive() or lane.turn.locked() for lane in self._lanes.values()
        )

    def _lane(self, path: str) -> _Lane | None:
        """Return the lane of a path, or None when its thread cannot be started."""
        lane = self._lanes.get(path)
        if lane is None and len(self._lanes) >= MOST_LANES:
            path = SHARED
            lane = self._lanes.get(path)
        if lane is None:
            lane = _Lane(self._work(path), self._answer, self._fail)
            try:
                lane.thread.start()
            except RuntimeError as error:  # the loop then serves the request itself
                log.warning(
                    "store=%s the thread for this store could not be started: %s", path, error
                )
                return None
            self._lanes[path] = lane
        return lane

    def _answer(self, serve: Serve, tickets: list[Ticket]) -> None:
        answers = serve([ticket.request for ticket in tickets])
        for ticket, answer in zip(tickets, answers, strict=True):
            if answer.confirm is not None:
                answer = answer.confirm()  # noqa: PLW2901  # the last step before it is written
            # Counted before the answer is sent: the client may send its next request at once.
            if ticket.lane is not None:
                ticket.lane.answered += 1
                ticket.lane = None
            self._send(ticket, answer)
            # The loop reads ``_done`` after it has recorded that a client has sent more. So either
            # the loop finds the answer there, or this thread sees the record and wakes the loop.
            self._done.append((ticket, answer))
            self._wake(ticket, answer)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._wake(None, None)


class _Lane:
    """A thread and its queue of lists of requests. None in the queue ends the thread."""

    taken = 0  # requests that were handed to the lane; only the loop counts them
    answered = 0  # requests; only the thread that holds ``turn`` counts them

    @property
    def waiting(self) -> int:
        """The number of requests that are not answered yet."""
        return self.taken - self.answered

    def __init__(
        self,
        work: Work,
        answer: Callable[[Serve, list[Ticket]], object],
        fail: Callable[[BaseException], object],
    ) -> None:
        self.queue: SimpleQueue[list[Ticket] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="lane", daemon=True)
        self.turn = threading.Lock()  # held by the thread that serves, or does the housekeeping
        self.work = work
        self._answer = answer
        self._fail = fail

    def _run(self) -> None:
        try:
            with self.turn:
                self.work.begin()
            chores = self.work.chores
            while self._serve(None if chores is None else chores.wait_s()):
                pass
        except BaseException as error:
            self._fail(error)

    def _serve(self, wait_s: float | None) -> bool:
        """Wait for work, do all that is queued, and return False when the lane has to end."""
        parts = []
        with suppress(Empty):
            parts.append(
                self.queue.get(timeout=wait_s) if wait_s != 0.0 else self.queue.get_nowait()
            )
        with self.turn:
            with suppress(Empty):  # requests that came while another thread held the turn
                while None not in parts:
                    parts.append(self.queue.get_nowait())
            tickets = [ticket for part in parts if part is not None for ticket in part]
            # A client that has disconnected cannot receive its address: do not serve its request.
            left = [ticket for ticket in tickets if ticket.dropped]
            if left:
                self._answer(lambda gone: [LATER] * len(gone), left)
            tickets = [ticket for ticket in tickets if not ticket.dropped]
            if tickets:
                self._answer(self.work.serve, tickets)
            if None in parts:
                return False
            if self.work.chores is not None:
                self.work.chores.step()
        return True
