#!/usr/bin/env python3
"""A long-running controller that embeds fastipam: threads, retries, reconciliation, a clean end.

One :class:`fastipam.Ipam` serves all threads. Workers take events (a pod started, a pod stopped)
from a queue, and each event is one durable transaction. When the pool is full or the store is busy,
the event goes back into the queue. A reconciler compares the store with the pods that exist, in
case an event was missed. After SIGTERM or SIGINT the workers finish the queued events.

Here the events are simulated: pods start, and half of them stop.
"""

from __future__ import annotations

import argparse
import logging
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass, field

import fastipam

log = logging.getLogger("controller")

RETRY_S = 0.2
TRIES = 5


@dataclass
class Event:
    """A pod started or stopped. ``tries`` counts how often the event was put back."""

    kind: str
    pod: str
    tries: int = 0


@dataclass
class Controller:
    """Turns events into leases. ``pods`` is what should exist, for the reconciler."""

    network: fastipam.Network
    workers: int = 4
    pods: dict[str, str] = field(default_factory=dict)  # name -> address
    given_up: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The queue is bounded: a producer that is too fast waits, and memory does not grow.
        self._events: queue.Queue[Event | None] = queue.Queue(1024)
        self._starting: set[str] = set()  # pods that may have an address, and are not in pods yet
        self._lock = threading.Lock()  # for pods, _starting and given_up; the store needs no lock
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}")
            for number in range(self.workers)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def submit(self, kind: str, pod: str) -> None:
        """Queue an event. Events of one pod are handled in their order."""
        self._events.put(Event(kind, pod))

    def drain(self) -> None:
        """Wait until all events are handled."""
        self._events.join()

    def stop(self) -> None:
        """End the workers after the queued events."""
        for _ in self._threads:
            self._events.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._serve(event)
            except (fastipam.PoolExhausted, fastipam.StoreError) as error:
                self._later(event, error)
            except Exception:
                log.exception("%s %s: this is a defect", event.pod, event.kind)
                self._events.task_done()
            else:
                self._events.task_done()

    def _serve(self, event: Event) -> None:
        if event.kind == "gone":
            self.network.release(event.pod)  # idempotent, because an event may be handled twice
            with self._lock:
                self.pods.pop(event.pod, None)
            return
        # reconcile() must not release the lease of a pod that is not in ``pods`` yet.
        with self._lock:
            self._starting.add(event.pod)
        try:
            # "return": the event may be handled a second time, after a crash.
            lease = self.network.allocate(event.pod, existing="return")
            with self._lock:
                self.pods[event.pod] = lease.cidr
        finally:
            with self._lock:
                self._starting.discard(event.pod)

    def _later(self, event: Event, error: fastipam.FastipamError) -> None:
        event.tries += 1
        if event.tries > TRIES:
            log.error("%s: given up: %s", event.pod, error)
            with self._lock:
                self.given_up.append(event.pod)
            self._events.task_done()
            return
        timer = threading.Timer(RETRY_S * event.tries, self._again, [event])
        timer.daemon = True
        timer.start()

    def _again(self, event: Event) -> None:
        self._events.put(event)
        self._events.task_done()  # for the try before: drain() counted it until now

    def reconcile(self) -> int:
        """Release what belongs to no pod, and return how many addresses. Newer leases stay."""
        before_ns = time.time_ns()  # first the time, then the list: what comes between is newer
        with self._lock:
            valid = {(pod, "eth0") for pod in (*self.pods, *self._starting)}
        return len(self.network.retain(valid, before_ns))


def main() -> int:
    """Run the simulated events and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir")
    parser.add_argument("--subnet", default="10.32.0.0/20")
    parser.add_argument("--pods", type=int, default=200)
    options = parser.parse_args()
    ending = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: ending.set())
    with fastipam.open(options.data_dir) as ipam:
        controller = Controller(ipam.network("pods", options.subnet))
        controller.start()
        try:
            for number in range(options.pods):
                if ending.is_set():
                    break
                controller.submit("came", f"pod-{number}")
            controller.drain()
            for pod in list(controller.pods)[::2]:
                controller.submit("gone", pod)
            controller.drain()
        finally:
            controller.stop()
        freed = controller.reconcile()
        stats = controller.network.stats()
    print(f"{len(controller.pods)} pods, {stats.assigned} leases, {freed} reconciled")
    return 0 if stats.assigned == len(controller.pods) else 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(threadName)s: %(message)s")
    sys.exit(main())
