"""A thread for work that would block a lane: searches of /proc, and sweeps for a request."""

from __future__ import annotations

import logging
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from fastipam import processes
from fastipam.network import Network
from fastipam.storage.open_stores import close_store, open_store
from fastipam.sweep import DEFAULT_GRACE_S, Report, release_dead

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fastipam.processes import Found

    Addresses = tuple[tuple[int, int], ...]

log = logging.getLogger("fastipam.agent")

KEPT_S = 1.0  # how long a result is reused for callers that ask for the same work


class Worker:
    """One thread that does slow work for callers. A caller gets None until the result is there.

    The thread calls ``wake`` after each piece of work. Its result is kept for a second and shared
    by all callers that ask for the same work, which is done at most once a second. An exception is
    kept like a result, and raised in each of these callers.
    """

    def __init__(
        self,
        wake: Callable[[], object] = lambda: None,
        *,
        grace_s: float = DEFAULT_GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wake = wake
        self._grace_s = grace_s
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: set[object] = set()
        self._answers: dict[object, tuple[float, Any]] = {}
        self._questions: SimpleQueue[tuple[object, Callable[[], Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def look(
        self, wanted: Collection[int], newest_ns: int, runtime_pid_ns: Collection[int]
    ) -> Found | None:
        """Return the result of ``processes.look``, or None until it is done."""
        chosen = frozenset(wanted)

        def look() -> Found:
            return processes.look(chosen, newest_ns, runtime_pid_ns)

        found: Found | None = self._ask(("look", chosen, newest_ns), look)
        return found

    def release_dead(self, network: Network, only: Addresses | None) -> Report | None:
        """Return the result of ``sweep.release_dead``, or None until it is done."""
        path, name = network.store.path, network.name

        def release() -> Report:
            store = open_store(path, create=False)  # it stays open for this thread
            try:
                report = release_dead(Network(store, name, None), only, grace_s=self._grace_s)
            finally:
                close_store(store)
            for lease in report.released:
                log.warning(
                    "network=%s address=%s container=%s ifname=%s netns=%s released for an ADD: "
                    "its network namespace is gone",
                    name,
                    lease.cidr,
                    lease.container_id,
                    lease.ifname,
                    lease.netns,
                )
            return report

        report: Report | None = self._ask(("release", path, name, only), release)
        return report

    def _ask(self, key: object, question: Callable[[], Any]) -> Any:
        with self._lock:
            now = self._clock()
            for old in [one for one, had in self._answers.items() if now >= had[0] + KEPT_S]:
                del self._answers[old]
            if key in self._answers:
                answer = self._answers[key][1]
            elif key in self._asked:
                return None
            else:
                self._asked.add(key)
                self._questions.put((key, question))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
                    self._thread.start()
                return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self) -> None:
        while (asked := self._questions.get()) is not None:
            key, question = asked
            answer: Any
            try:
                answer = question()
            except Exception as error:
                answer = error
            with self._lock:
                self._asked.discard(key)
                self._answers[key] = self._clock(), answer
            self.wake()

    def stop(self) -> None:
        """End the thread after its current work, for which this waits up to 5 s."""
        if self._thread is not None:
            self._questions.put(None)
            self._thread.join(5.0)
            self._thread = None
