"""Keep samples of each range set's counts over time, for a forecast, and the last refusals.

The memory is bounded, and no timer runs. A thread takes a sample after a batch, at most one every
``INTERVAL_S``; a request for the page or the metrics takes one too. A node without requests takes
no samples and needs none, because its counters do not change.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from fastipam.agent.requests import Observer
from fastipam.agent.web import readings
from fastipam.agent.web.pulse import Pulse
from fastipam.agent.web.refusals import Refusal, refusal_of
from fastipam.allocation.states import ASSIGNED, COOLING, RESERVED
from fastipam.errors import FastipamError
from fastipam.storage import open_stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fastipam.agent.requests import Request
    from fastipam.agent.web.readings import Reading
    from fastipam.allocation.counts import SetCounts

log = logging.getLogger("fastipam.agent")

INTERVAL_S = 10.0
FINE = 360  # samples of the last hour
COARSE_S = 300.0
COARSE = 288  # samples of the last day
MOST_SERIES = 128  # range sets with samples
RECENT_S = 900.0  # the forecast uses the samples of the last 15 minutes
LEAST_S = 30.0  # the least time that these samples have to cover to show a trend
RUN_AGE_S = 15.0  # the least age at which a longest free run is computed again
REFUSALS = 50


SAMPLED = ("size", ASSIGNED, COOLING, RESERVED)  # the counts of a range set that a sample has


class Sample(NamedTuple):
    """The addresses of a range set by state at one moment, in seconds since the epoch."""

    at: float
    size: int
    assigned: int
    cooling: int
    reserved: int


class _Series:
    """The samples of one range set: fine ones of the last hour, coarse ones of the last day."""

    __slots__ = ("coarse", "fine", "ranges")

    def __init__(self, ranges: str) -> None:
        self.ranges = ranges
        self.fine: deque[Sample] = deque(maxlen=FINE)
        self.coarse: deque[Sample] = deque(maxlen=COARSE)

    def add(self, sample: Sample) -> None:
        if self.fine and sample.at - self.fine[-1].at < INTERVAL_S / 2:
            # Two readers sampled at once, or the clock stepped back: keep the newest sample.
            self.fine[-1] = sample
        else:
            self.fine.append(sample)
        if not self.coarse or abs(sample.at - self.coarse[-1].at) >= COARSE_S:
            self.coarse.append(sample)

    def all(self) -> list[Sample]:
        """Return the samples, oldest first: coarse ones up to the first fine one, then the fine."""
        begin = self.fine[0].at if self.fine else math.inf
        return [one for one in self.coarse if one.at < begin] + list(self.fine)


class Watch(Observer):
    """The samples and refusals of this process. Safe to use from several threads."""

    def __init__(
        self,
        data_dirs: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
        idle: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dirs = tuple(data_dirs)
        self._clock = clock
        self._monotonic = idle
        self._series: dict[tuple[str, str, int], _Series] = {}
        self._runs: dict[tuple[str, str], tuple[int, float, dict[str, int] | None]] = {}
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._runs_wanted = False
        self._sampled = -math.inf
        self._stopped = False
        self._refusals: deque[Refusal] = deque(maxlen=REFUSALS)
        self._codes: Counter[int] = Counter()
        self.requests = 0
        self.pulse = Pulse(clock, idle)

    @property
    def refusals(self) -> list[Refusal]:
        """A copy of the last refusals, oldest first."""
        with self._lock:
            return list(self._refusals)

    @property
    def codes(self) -> dict[int, int]:
        """The number of refusals by code."""
        with self._lock:
            return dict(self._codes)

    # Reports of the executor ----------------------------------------------------------------

    def request(
        self,
        verb: str,
        status: int,
        output: bytes,
        seconds: float,
        asked: Request | None = None,
    ) -> None:
        """Count a request, and keep it if it was refused."""
        self.pulse.request(seconds)
        with self._lock:
            self.requests += 1
        if not status:
            return
        refusal = refusal_of(self._clock(), verb, output, asked)
        with self._lock:
            self._codes[refusal.code] += 1
            self._refusals.append(refusal)

    def swept(self, data_dir: str, network: str, counts: Sequence[int]) -> None:
        """Keep the counts of the last sweep of a network."""
        self.pulse.swept((data_dir, network), counts)

    def batch(self, size: int, commit_seconds: float) -> None:  # noqa: ARG002
        """Have a sample taken if the last one is old enough, because counters may have changed."""
        self.pulse.commit(commit_seconds)
        if self._monotonic() - self._sampled >= INTERVAL_S:
            self._wanted.set()

    # Samples --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread that takes samples when it is woken."""
        logging.getLogger("fastipam").addHandler(self.pulse)
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        logging.getLogger("fastipam").removeHandler(self.pulse)
        self._stopped = True
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._stopped:
                return
            try:
                self._look()
            except Exception:  # if the thread ended, the page would show old numbers for ever
                log.exception("a sample could not be taken")

    def _look(self) -> None:
        found = self.sample()
        if self._runs_wanted:
            self._runs_wanted = False
            for reading in found:
                self._compute_run(reading)

    def sample(self) -> list[Reading]:
        """Read every network now, keep a sample of each range set and return the readings."""
        readings.watch_directories(self._data_dirs)
        self._sampled = self._monotonic()
        found = readings.read_all()
        at = self._clock()
        with self._lock:
            known = {reading.key for reading in found}
            for key in self._runs.keys() - known:
                del self._runs[key]
            keys = {(*reading.key, one.number) for reading in found for one in reading.sets}
            for each in self._series.keys() - keys:
                del self._series[each]  # its store is closed, and a new store may get this path
            for reading in found:
                for one in reading.sets:
                    self._keep(reading.key, one, at)
        return found

    def _keep(self, key: tuple[str, str], one: SetCounts, at: float) -> None:
        """Keep a sample of a range set. The caller holds the lock."""
        its_key = *key, one.number
        ranges = str(one.range_set)
        series = self._series.get(its_key)
        if series is None or series.ranges != ranges:  # the set has other ranges: start anew
            if series is None and len(self._series) >= MOST_SERIES:
                return
            series = self._series[its_key] = _Series(ranges)
        series.add(Sample(at, **{name: one.counts[name] for name in SAMPLED}))

    def series(self, key: tuple[str, str], number: int = 0) -> list[Sample]:
        """Return the samples of a range set of a network, oldest first."""
        with self._lock:
            found = self._series.get((*key, number))
            return [] if found is None else found.all()

    def exhaustion_s(self, key: tuple[str, str], number: int = 0) -> float:
        """Return the seconds until a range set has no address left, at the last 15 minutes' rate.

        Return infinity when the use does not grow, or the samples cover too little time. A cooling
        address counts as left.
        """
        samples = self.series(key, number)
        if not samples:
            return math.inf
        last = samples[-1]
        left = last.size - last.assigned - last.reserved
        if left <= 0:
            return 0.0
        first = next(one for one in samples if one.at >= last.at - RECENT_S)
        seconds = last.at - first.at
        grown = last.assigned + last.reserved - first.assigned - first.reserved
        if seconds < LEAST_S or grown <= 0:
            return math.inf
        return left * seconds / grown

    def soonest_s(self, reading: Reading) -> float:
        """Return the seconds until the first of a network's range sets has no address left."""
        return min(
            (self.exhaustion_s(reading.key, one.number) for one in reading.sets), default=math.inf
        )

    # The longest free run -------------------------------------------------------------------

    def longest_runs(self, reading: Reading) -> dict[str, int]:
        """Return the last computed longest free run of each range set, by the set's ranges. O(1).

        Computing reads every page, so the thread does it when the runs are out of date, and the
        next call returns the new ones. So they are at most one scrape older than the other numbers.
        """
        with self._lock:
            change, at, runs = self._runs.get(reading.key, (-1, -math.inf, None))
        if change != reading.change and self._monotonic() - at >= RUN_AGE_S:
            self._runs_wanted = True
            self._wanted.set()
        return runs or {}

    def _compute_run(self, reading: Reading) -> None:
        with self._lock:
            change, at, _ = self._runs.get(reading.key, (-1, -math.inf, None))
        if change == reading.change or self._monotonic() - at < RUN_AGE_S:
            return
        runs = None
        for store in open_stores.all_open():
            if store.path == reading.data_dir:
                try:
                    with store.read() as txn:
                        runs = readings.longest_free_runs(txn, reading.network)
                except (FastipamError, OSError):
                    return
        with self._lock:
            self._runs[reading.key] = reading.change, self._monotonic(), runs


def error_of(output: bytes) -> tuple[int, str]:
    """Return code and text of an answer's error object, or -1 and "" for anything else."""
    try:
        document = json.loads(output)
        parts = (str(document.get(key) or "") for key in ("msg", "details"))
        return int(document["code"]), "; ".join(filter(None, parts))
    except (ValueError, KeyError, TypeError, AttributeError):
        return -1, ""
