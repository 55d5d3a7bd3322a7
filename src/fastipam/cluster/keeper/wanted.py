"""The marks of other nodes in need: seen by a watch, and answered when this donor's time comes."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from fastipam.cluster import planner, schema
from fastipam.cluster.engine import Compacted, KeyValue
from fastipam.cluster.errors import ClusterCorrupt
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.node.claims import Node

log = logging.getLogger("fastipam.cluster")

_LIST_S = 5.0
_WATCH_S = 30.0


class Marks:
    """What others want, and when to answer. Safe to use from several threads.

    True while there is any. ``wake`` is called when one was seen.
    """

    def __init__(self, node: Node, clock: Callable[[], float], wake: Callable[[], object]) -> None:
        self._node = node
        self._clock = clock
        self._wake = wake
        self._marks: dict[str, tuple[float, KeyValue]] = {}  # needy node -> (answer at, its mark)
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._marks)

    def __contains__(self, mark: KeyValue) -> bool:
        with self._lock:
            return any(each.key == mark.key for _, each in self._marks.values())

    def see(self, mark: KeyValue) -> None:
        """A node in need was seen: answer it when this donor's time comes."""
        needy = schema.name_of(mark.key)
        if needy == self._node.name:
            return
        try:
            want = schema.Want.read(mark.key, mark.value)
        except ClusterCorrupt as error:  # it must not keep the other marks from being answered
            log.warning("network=%s %s", self._node.network.name, error)
            return
        delay = planner.donor_delay_s(self._node.name, needy, want.number, planner.SPREAD_S)
        with self._lock:
            self._marks[needy] = self._clock() + delay, mark
        self._wake()

    def forget(self, needy: str) -> None:
        """Its need is met."""
        with self._lock:
            self._marks.pop(needy, None)

    def replace(self, listed: Sequence[KeyValue]) -> None:
        """These are all that there are."""
        with self._lock:
            self._marks.clear()
        for mark in listed:
            self.see(mark)

    def next_answer(self) -> float:
        """When the next one is due; infinity when there is none."""
        with self._lock:
            return min((at for at, _ in self._marks.values()), default=float("inf"))

    def due(self) -> list[tuple[str, KeyValue]]:
        """The needy nodes to answer now, with their marks."""
        now = self._clock()
        with self._lock:
            return [(needy, mark) for needy, (at, mark) in self._marks.items() if at <= now]

    def answered(self, needy: str, mark: KeyValue, given: int) -> None:
        """So many blocks were given; with none it is tried again, while the mark is up."""
        with self._lock:
            if self._marks.get(needy, (0.0, mark))[1] is mark:
                if given:
                    self._marks.pop(needy, None)
                else:
                    self._marks[needy] = self._clock() + planner.SPREAD_S, mark

    def follow(
        self, is_over: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Watch them until it is over: a lost watch begins with a listing again. Raises nothing.

        Nobody would notice if it ended before: the node only would not hear of others in need.
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
                else:
                    log.exception("network=%s a defect in the watch", self._node.network.name)
                if not is_over():
                    sleep(planner.backoff_s(self._node.name, failures))
