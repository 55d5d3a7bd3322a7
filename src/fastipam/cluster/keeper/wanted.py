"""The requests of nodes in need: a watch reads them, the keeper answers those that are due."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from fastipam.cluster import planner
from fastipam.cluster.engine import Compacted, HistoryLost
from fastipam.cluster.registry import Request
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.node.node import Node

log = logging.getLogger("fastipam.cluster")

_LIST_S = 5.0


class Marks:
    """The marks of other nodes, and when to answer each. Safe to use from several threads.

    True while there is any. ``wake`` is called when a mark was added.
    """

    def __init__(self, node: Node, clock: Callable[[], float], wake: Callable[[], object]) -> None:
        self._node = node
        self._clock = clock
        self._wake = wake
        self._marks: dict[
            str, tuple[float, Request]
        ] = {}  # node in need -> (answer at, its request)
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._marks)

    def see(self, request: Request) -> None:
        """Add a request, unless it is this node's own; the planner says when it is due."""
        needy, number = request.needy, request.mark.number
        if needy == self._node.name:
            return
        delay = planner.donor_delay_s(self._node.name, needy, number, planner.SPREAD_S)
        with self._lock:
            self._marks[needy] = self._clock() + delay, request
        self._wake()

    def forget(self, needy: str) -> None:
        """Remove the mark of a node: its need is met."""
        with self._lock:
            self._marks.pop(needy, None)

    def replace(self, listed: Sequence[Request]) -> None:
        """Replace all marks by those of a listing."""
        with self._lock:
            self._marks.clear()
        for mark in listed:
            self.see(mark)

    def next_answer(self) -> float:
        """Return when the next mark is due; infinity without any."""
        with self._lock:
            return min((at for at, _ in self._marks.values()), default=float("inf"))

    def due(self) -> list[Request]:
        """Return the requests to answer now."""
        now = self._clock()
        with self._lock:
            return [request for at, request in self._marks.values() if at <= now]

    def answered(self, request: Request, given: int) -> None:
        """Remove an answered request; if no block was given, it is due again later."""
        needy = request.needy
        with self._lock:
            if self._marks.get(needy, (0.0, request))[1] is request:
                if given:
                    self._marks.pop(needy, None)
                else:
                    self._marks[needy] = self._clock() + planner.SPREAD_S, request

    def follow(
        self, is_over: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Watch the marks until ``is_over``; after a lost watch list them again. Raises nothing.

        An exception would end the thread unnoticed, and this node would answer no mark.
        """
        registry = self._node.registry
        failures = 0
        revision = 0
        while not is_over():
            try:
                if not revision:
                    listed, revision = registry.marks(_LIST_S)
                    self.replace(listed)
                for found, reached in registry.changed_marks(revision, is_over):
                    revision = reached
                    for one in found:
                        if isinstance(one, Request):
                            self.see(one)
                        else:
                            self.forget(one)
                    failures = 0
            except Compacted:
                revision = 0
            except Exception as error:
                revision = 0
                failures += 1
                if isinstance(error, FastipamError):
                    log.debug("network=%s watch lost: %s", self._node.network.name, error)
                    if isinstance(error, HistoryLost):
                        self._wake()  # the keeper settles it
                else:
                    log.exception("network=%s a defect in the watch", self._node.network.name)
                if not is_over():
                    sleep(planner.backoff_s(self._node.name, failures))
