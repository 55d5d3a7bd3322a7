"""Measure how the agent serves: requests per second, latencies, commits, sweeps, the last error.

The memory is bounded. A request costs one append under a lock, and so does a commit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RECENT_S = 60.0
_KEPT = 4096  # the newest requests, and commits, that are kept to compute the numbers
_LONGEST = 300  # characters of an error that are kept
_COUNTED = ("looked", "released", "missing", "unknown")


class Sweep(NamedTuple):
    """The last sweep of a network: its time, and how many leases had each result."""

    at: float
    looked: int
    released: int
    missing: int
    unknown: int


class Pulse(logging.Handler):
    """The numbers of the last minute, and the last warning in the log. Safe for several threads."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        idle: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._monotonic = idle
        self._guard = threading.Lock()
        self._requests: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._commits: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._sweeps: dict[tuple[str, str], Sweep] = {}
        self._error: tuple[float, str, str] | None = None

    def request(self, seconds: float) -> None:
        """Record a request by the seconds until its answer."""
        with self._guard:
            self._requests.append((self._monotonic(), seconds))

    def commit(self, seconds: float) -> None:
        """Record a commit by the seconds that it took."""
        with self._guard:
            self._commits.append((self._monotonic(), seconds))

    def swept(self, key: tuple[str, str], counts: Sequence[int]) -> None:
        """Record the sweep of a network: leases checked, released, missing and unknown."""
        with self._guard:
            self._sweeps[key] = Sweep(self._clock(), *counts)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the last warning or error of the log."""
        text = record.getMessage()[:_LONGEST]
        with self._guard:
            self._error = self._clock(), record.levelname.lower(), text

    def report(self, *, private: bool) -> dict[str, Any]:
        """Return the numbers for the page, with None for unknown ones. O(kept requests)."""
        now = self._monotonic()
        with self._guard:
            requests, commits = list(self._requests), list(self._commits)
            sweeps, error = list(self._sweeps.values()), self._error
        latencies = sorted(seconds for at, seconds in requests if now - at <= RECENT_S)
        syncs = sorted(seconds for at, seconds in commits if now - at <= RECENT_S)
        return {
            "requests_per_s": _rate(requests, now),
            "p50_s": _quantile(latencies, 0.5),
            "p99_s": _quantile(latencies, 0.99),
            "commit_p50_s": _quantile(syncs, 0.5),
            "commit_p99_s": _quantile(syncs, 0.99),
            "sweep": _added(sweeps),
            "error": None
            if error is None
            else {"at": error[0], "level": error[1], "message": "" if private else error[2]},
        }


def _rate(requests: Sequence[tuple[float, float]], now: float) -> float:
    """Return the requests per second over the last minute, or over the time of the kept ones."""
    recent = [at for at, _ in requests if now - at <= RECENT_S]
    if not recent:
        return 0.0
    # When the deque is full of requests of the last minute, they cover less than a minute.
    covered = now - recent[0] if len(recent) == len(requests) == _KEPT else RECENT_S
    return len(recent) / max(covered, 1e-3)


def _quantile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which this share of sorted values lies, or None without values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def _added(sweeps: Sequence[Sweep]) -> dict[str, Any] | None:
    """Return the sums over all networks and the time of the last sweep, or None without a sweep."""
    if not sweeps:
        return None
    return {
        "at": max(one.at for one in sweeps),
        **{name: sum(getattr(one, name) for one in sweeps) for name in _COUNTED},
    }
