#!/usr/bin/env python3
"""A long-running controller that embeds fastipam: threads, retries, reconciliation, a clean end.

One :class:`fastipam.Ipam` serves all threads. Workers take events (a pod came, a pod went) from a
queue; each event is one durable transaction. A full pool or a busy store is no reason to lose an
event: it comes back later. A reconciler compares the store with the pods that exist, for whoever
misses events. SIGTERM and SIGINT let the workers finish what they have begun.

Here the events are made up: so many pods come, half of them go.
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
    """A pod came or went; ``tries`` counts how often it was put back."""

    kind: str
    pod: str
    tries: int = 0


@dataclass
class Controller:
    """Events in, leases out. ``pods`` is what should exist: the truth for the reconciler."""

    network: fastipam.Network
    workers: int = 4
    pods: dict[str, str] = field(default_factory=dict)  # name -> address
    given_up: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Bounded: whoever makes events faster than they are served waits, and memory does not grow.
        self._events: queue.Queue[Event | None] = queue.Queue(1024)
        self._lock = threading.Lock()  # of pods and given_up; the store needs none of ours
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}")
            for number in range(self.workers)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def submit(self, kind: str, pod: str) -> None:
        """Queue an event; of one pod's, the next only when the one before is done."""
        self._events.put(Event(kind, pod))

    def drain(self) -> None:
        """Wait until all events are done."""
        self._events.join()

    def stop(self) -> None:
        """Let the workers end after the events that are queued."""
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
            self.network.release(event.pod)  # idempotent: an event may come twice
            with self._lock:
                self.pods.pop(event.pod, None)
            return
        # "return": the event may be a repetition, after a crash between commit and answer.
        lease = self.network.allocate(event.pod, existing="return", pod_name=event.pod)
        with self._lock:
            self.pods[event.pod] = lease.cidr

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
        self._events.task_done()  # of the try before: until now somebody was waiting for it

    def reconcile(self) -> int:
        """Free what belongs to no pod; returns how many addresses. Leases made meanwhile stay."""
        before_ns = time.time_ns()
        with self._lock:
            valid = {(pod, "eth0") for pod in self.pods}
        return len(self.network.retain(valid, before_ns))


def main() -> int:
    """Run the made-up events and print what became of them."""
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
    print(f"{len(controller.pods)} pods, {stats['assigned']} leases, {freed} reconciled")
    return 0 if stats["assigned"] == len(controller.pods) else 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(threadName)s: %(message)s")
    sys.exit(main())
