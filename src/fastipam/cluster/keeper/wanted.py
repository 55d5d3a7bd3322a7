"""The marks of other nodes in need: a watch reads them, the keeper answers those that are due."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from fastipam.cluster import planner, schema
from fastipam.cluster.engine import Compacted, HistoryLost, KeyValue
from fastipam.cluster.errors import ClusterCorrupt
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.node.node import Node

log = logging.getLogger("fastipam.cluster")

_LIST_S = 5.0
_WATCH_S = 30.0


class Marks:
    """The marks of other nodes, and when to answer each. Safe to use from several threads.

    True while there is any. ``wake`` is called when a mark was added.
    """

    def __init__(self, node: Node, clock: Callable[[], float], wake: Callable[[], object]) -> None:
        self._node = node
        self._clock = clock
        self._wake = wake
        self._marks: dict[str, tuple[float, KeyValue]] = {}  # node in need -> (answer at, its mark)
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._marks)

    def see(self, mark: KeyValue) -> None:
        """Add a mark, unless it is this node's own; the planner says when it is due."""
        needy = schema.name_of(mark.key)
        if needy == self._node.name:
            return
        try:
            number = schema.Mark.read(mark.key, mark.value).number
        except ClusterCorrupt as error:  # the other marks must be answered nevertheless
            log.warning("network=%s %s", self._node.network.name, error)
            return
        delay = planner.donor_delay_s(self._node.name, needy, number, planner.SPREAD_S)
        with self._lock:
            self._marks[needy] = self._clock() + delay, mark
        self._wake()

    def forget(self, needy: str) -> None:
        """Remove the mark of a node: its need is met."""
        with self._lock:
            self._marks.pop(needy, None)

    def replace(self, listed: Sequence[KeyValue]) -> None:
        """Replace all marks by those of a listing."""
        with self._lock:
            self._marks.clear()
        for mark in listed:
            self.see(mark)

    def next_answer(self) -> float:
        """Return when the next mark is due; infinity without any."""
        with self._lock:
            return min((at for at, _ in self._marks.values()), default=float("inf"))

    def due(self) -> list[tuple[str, KeyValue]]:
        """Return the nodes to answer now, with their marks."""
        now = self._clock()
        with self._lock:
            return [(needy, mark) for needy, (at, mark) in self._marks.items() if at <= now]

    def answered(self, needy: str, mark: KeyValue, given: int) -> None:
        """Remove an answered mark; if no block was given, it is due again later."""
        with self._lock:
            if self._marks.get(needy, (0.0, mark))[1] is mark:
                if given:
                    self._marks.pop(needy, None)
                else:
                    self._marks[needy] = self._clock() + planner.SPREAD_S, mark

    def follow(
        self, is_over: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Watch the marks until ``is_over``; after a lost watch list them again. Raises nothing.

        An exception would end the thread unnoticed, and this node would answer no mark.
        """
        engine, prefix = self._node.engine, self._node.keys.wanted
        failures = 0
        revision = 0
        while not is_over():
            try:
                if not revision:
                    listed, revision = engine.list(prefix, deadline_s=_LIST_S)
                    self.replace(listed)
                events, revision = engine.watch(prefix, revision, deadline_s=_WATCH_S)
                for event in events:
                    if event.kind == "put":
                        self.see(KeyValue(event.key, event.value, 0, event.revision, 0))
                    else:
                        self.forget(schema.name_of(event.key))
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
