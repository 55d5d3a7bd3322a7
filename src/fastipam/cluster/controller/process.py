"""The process of a controller: its threads, its signals and its end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from fastipam.cluster.controller.controller import Controller
from fastipam.cluster.controller.leader import Election
from fastipam.cluster.controller.reclaim import RECLAIM_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.registries.kubernetes.client import Client

log = logging.getLogger("fastipam.controller")

_SHORTEST_TURN_S = 0.1  # between two turns, however many pools change
_END_S = 0.6  # for a turn that is under way when the process is to end
_STALE_S = 60.0  # a loop whose last round began so long ago is stuck


class Process:
    """A controller and its election, which work from :meth:`run` until :meth:`stop`.

    The controller uses ``client``, and the election uses ``other``. So the Lease is renewed while
    all connections of ``client`` are in use, and can be given up after ``client`` is closed.
    """

    def __init__(
        self,
        client: Client,
        other: Client,
        *,
        reclaim_after_s: float = RECLAIM_AFTER_S,
        pools: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._client, self._other = client, other
        self._wake, self._over = threading.Event(), threading.Event()
        identity = f"{socket.gethostname()}_{os.getpid()}_{os.urandom(4).hex()}"
        self.election = Election(other, identity)
        self.controller = Controller(
            client,
            reclaim_after_s=reclaim_after_s,
            pools=pools,
            is_leading=lambda: self.election.is_leading and not self._over.is_set(),
            wake=self._wake.set,
        )
        self._came_round = {"controller": time.monotonic(), "election": time.monotonic()}

    def run(self) -> None:
        """Work until :meth:`stop`, and return within a second after it. Raises nothing."""
        worker = self._thread("controller", self._work)
        elector = self._thread("election", self._elect)
        for follower in self.controller.view.followers():
            self._thread("follower", partial(follower.run, self._over.is_set))
        while not self._over.wait(3600.0):
            pass
        self._wake.set()
        self._client.close()
        worker.join(_END_S)
        elector.join(_END_S / 2)
        if not worker.is_alive() and not elector.is_alive():
            self.election.resign()  # else this one might change something while another leads
        self._other.close()

    def stop(self) -> None:
        """Make :meth:`run` return. For signal handlers and any thread."""
        self._over.set()

    def stop_at_signals(self) -> None:
        """Stop at SIGTERM and SIGINT. Only the main thread can call this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def problem(self) -> str:
        """Return what is wrong with this process, or an empty text.

        An API that cannot be reached is not a problem of this process: a restart would not help.
        """
        oldest = time.monotonic() - _STALE_S
        stuck = [name for name, at in self._came_round.items() if at < oldest]
        return f"the {' and the '.join(stuck)} is stuck" if stuck else ""

    @staticmethod
    def _thread(name: str, target: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        while not self._over.is_set():
            self._came_round["controller"] = time.monotonic()
            pause_s = self.controller.turn()
            self._over.wait(_SHORTEST_TURN_S)
            self._wake.wait(pause_s)
            self._wake.clear()

    def _elect(self) -> None:
        while not self._over.is_set():
            self._came_round["election"] = time.monotonic()
            was_leading = self.election.is_leading
            pause_s = self.election.step()
            if self.election.is_leading and not was_leading:
                self._wake.set()
            self._over.wait(pause_s)
