"""Prometheus metrics: what the agent does, and the state of the networks. docs/observability.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder

import fastipam
from fastipam.agent.batch import Observer
from fastipam.agent.web.samples import Watch, error_of
from fastipam.agent.web.server import Asked, Response, Route
from fastipam.errors import FastipamError
from fastipam.storage import open_stores, tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

_VERBS = frozenset(("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"))
_LATENCIES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_COMMITS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics(Observer):
    """Counts what the agent does, and reads what the stores hold when it is asked."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "fastipam_requests", "Answered requests.", ["verb", "code"], registry=self.registry
        )
        self._seconds = Histogram(
            "fastipam_request_seconds",
            "From the first byte of a request to its answer.",
            ["verb"],
            buckets=_LATENCIES_S,
            registry=self.registry,
        )
        self._batches = Histogram(
            "fastipam_batch_requests",
            "Requests in one commit.",
            buckets=_BATCHES,
            registry=self.registry,
        )
        self._commits = Histogram(
            "fastipam_commit_seconds",
            "Commits, with their sync to disk.",
            buckets=_COMMITS_S,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(_Networks(watch or Watch()))

    def request(self, verb: str, status: int, output: bytes, seconds: float) -> None:
        """Count a request by its verb and the code of its error object (0: none)."""
        verb = verb if verb in _VERBS else "other"
        code = error_of(output)[0] if status else 0
        self._requests.labels(verb, str(code)).inc()
        self._seconds.labels(verb).observe(seconds)

    def batch(self, size: int, commit_seconds: float) -> None:
        """Count a commit."""
        self._batches.observe(size)
        self._commits.observe(commit_seconds)

    @property
    def route(self) -> Route:
        """What answers a scrape."""
        return Route(self._answer, open=True)

    def _answer(self, asked: Asked) -> Response:
        encode, kind = choose_encoder(asked.accept)
        return Response(200, encode(self.registry), kind)


class _Networks:
    """The state of every network and store. O(networks), whatever they hold."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """Read the counters of each network of each open store."""
        yield InfoMetricFamily(
            "fastipam_agent", "What runs here.", {"version": fastipam.__version__}
        )
        names = ["data_dir", "network"]
        addresses = _gauge("addresses", "Addresses by state.", [*names, "state"])
        exhaustion = _gauge(
            "exhaustion_seconds",
            "Seconds until no address is left, as the last 15 minutes went; +Inf: not in sight.",
            names,
        )
        oldest = _gauge(
            "oldest_cooling_seconds", "How long the longest cooling address has cooled.", names
        )
        longest = _gauge(
            "longest_free_run", "The most free addresses in a row, as of the last scrape.", names
        )
        assignments = CounterMetricFamily(
            "fastipam_assignments", "Assignments since the network was made.", labels=names
        )
        blocks = _gauge("blocks", "Blocks of the cluster's pool, by state.", [*names, "state"])
        for reading in self._watch.sample():
            for state, count in reading.blocks.items():
                blocks.add_metric([*reading.key, state], count)
            for state, count in reading.states.items():
                addresses.add_metric([*reading.key, state], count)
            exhaustion.add_metric(reading.key, self._watch.exhaustion_s(reading.key))
            oldest.add_metric(reading.key, reading.oldest_cooling_s)
            assignments.add_metric(reading.key, reading.assignments)
            run = self._watch.longest_run(reading)
            if run is not None:
                longest.add_metric(reading.key, run)
        yield from (addresses, exhaustion, oldest, longest, assignments, blocks)
        yield from _stores()


def _stores() -> Iterator[Metric]:
    sizes = _gauge("store_bytes", "Size of the store's file.", ["data_dir"])
    missing = _gauge(
        "leases_without_netns",
        "Leases whose network namespace was gone when the sweeper looked.",
        ["data_dir"],
    )
    history = _gauge("events", "Events that the history holds.", ["data_dir"])
    for store in open_stores.all_open():
        try:
            with open_stores.staying_open, store.read() as txn:
                counts = [table.count(txn) for table in (tables.MISSING, tables.EVENTS)]
            sizes.add_metric([store.path], store.file_bytes())
            missing.add_metric([store.path], counts[0])
            history.add_metric([store.path], counts[1])
        except (FastipamError, OSError):
            continue  # it was closed or removed meanwhile: its requests say so
    yield from (sizes, missing, history)


def _gauge(name: str, documentation: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"fastipam_{name}", documentation, labels=labels)
