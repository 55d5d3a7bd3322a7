"""The requests of nodes in need: a watch reads them, the keeper answers those that are due."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fastipam.cluster import planner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.node.node import Node
    from fastipam.cluster.registry import Request


class Marks:
    """The marks of other nodes, and when to answer each. Safe to use from several threads.

    An instance is true while there is a mark that does not name its blocks. ``wake`` is called when
    a mark was added.
    """

    def __init__(self, node: Node, clock: Callable[[], float], wake: Callable[[], object]) -> None:
        self._node = node
        self._clock = clock
        self.wake = wake
        self._marks: dict[
            str, tuple[float, Request]
        ] = {}  # node in need -> (answer at, its request)
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return any(not request.mark.named for _, request in list(self._marks.values()))

    def see(self, request: Request) -> None:
        """Add a request, unless it is this node's own; the planner says when it is due."""
        needy, number = request.needy, request.mark.number
        if needy == self._node.name:
            return
        delay = 0.0  # a named block has only one owner, which can answer at once
        if not request.mark.named:
            delay = planner.donor_delay_s(self._node.name, needy, number, planner.SPREAD_S)
        with self._lock:
            self._marks[needy] = self._clock() + delay, request
        self.wake()

    def forget(self, needy: str) -> None:
        """Remove the mark of a node: it was answered or withdrawn."""
        with self._lock:
            self._marks.pop(needy, None)

    def replace(self, listed: Sequence[Request]) -> None:
        """Replace all marks by the listed requests' marks."""
        with self._lock:
            self._marks.clear()
        for mark in listed:
            self.see(mark)

    def next_answer(self) -> float:
        """Return when the next mark is due, or infinity when there is none."""
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
                    again_s = planner.LOOK_AGAIN_S if request.mark.named else planner.SPREAD_S
                    self._marks[needy] = self._clock() + again_s, request
