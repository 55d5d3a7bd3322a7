"""Prometheus metrics of requests, networks, stores and clusters: see docs/observability.md."""

from __future__ import annotations

from collections import Counter as Counts
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder

import fastipam
from fastipam.agent.requests import Observer
from fastipam.agent.web.masquerading_metrics import Masquerading
from fastipam.agent.web.route_metrics import Routes
from fastipam.agent.web.samples import Watch, error_of
from fastipam.agent.web.server import Asked, Response, Route
from fastipam.allocation import history
from fastipam.allocation.states import STATES
from fastipam.cni import conflists
from fastipam.errors import FastipamError
from fastipam.storage import open_stores, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from fastipam.agent.requests import Request
    from fastipam.agent.web.readings import Reading
    from fastipam.cluster.keeper.keeper import Keeper
    from fastipam.cluster.masquerading.masquerader import Status as Masqueraded
    from fastipam.cluster.routing.setting import Status
    from fastipam.cni.conflists import Standing

    # Data directory, network, and the keeper of the network's blocks.
    Kept = tuple[str, str, Keeper]
    # Path of the network configuration that the agent writes, and a function returning its state.
    Conflist = tuple[str, Callable[[], Standing]]

_VERBS = frozenset(("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"))
_LATENCIES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_COMMITS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_NETWORK = ["data_dir", "network"]
_POOL = [*_NETWORK, "pool"]  # labels of a number that is the same for each network of a pool
_SET = [*_NETWORK, "family", "range_set"]  # the set's number in the configuration, from 0
_CLUSTER_COUNTERS = {
    "claims": "Blocks claimed.",
    "transactions": "Claim transactions tried.",
    "conflicts": "Claims lost to another node that claimed the block first.",
    "released": "Blocks released.",
    "donated": "Blocks donated to another node.",
    "granted": "Blocks received from another node.",
}


class _Registry(CollectorRegistry):
    """A registry without the ``_created`` series, which prometheus_client adds to every counter."""

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family


class Metrics(Observer):
    """Counts requests and commits, and reads the counters of the stores at each scrape."""

    def __init__(
        self,
        watch: Watch | None = None,
        keepers: Callable[[], Sequence[Kept]] = tuple,
        conflist: Conflist | None = None,
        routes: Callable[[], Status | None] = lambda: None,
        masquerading: Callable[[], Masqueraded | None] = lambda: None,
    ) -> None:
        self.registry = _Registry()
        self._requests = Counter(
            "fastipam_requests", "Requests answered.", ["verb", "code"], registry=self.registry
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
        self.registry.register(_Clusters(keepers))
        self.registry.register(_Written(conflist))
        self.registry.register(Routes(routes))
        self.registry.register(Masquerading(masquerading))

    def request(
        self,
        verb: str,
        status: int,
        output: bytes,
        seconds: float,
        asked: Request | None = None,  # noqa: ARG002
    ) -> None:
        """Count a request by its verb and the code of its error object, or 0 without an error."""
        verb = verb if verb in _VERBS else "other"
        code = error_of(output)[0] if status else 0
        self._requests.labels(verb, str(code)).inc()
        self._seconds.labels(verb).observe(seconds)

    def batch(self, size: int, commit_seconds: float) -> None:
        """Count a batch, which is one commit."""
        self._batches.observe(size)
        self._commits.observe(commit_seconds)

    @property
    def route(self) -> Route:
        """The route that answers a scrape."""
        return Route(self._answer, open=True)

    def _answer(self, asked: Asked) -> Response:
        encode, kind = choose_encoder(asked.accept)
        return Response(200, encode(self.registry), kind)


class _Networks:
    """The collector of the counts of every network and store."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of each network of each open store, and of the stores."""
        yield InfoMetricFamily(
            "fastipam_agent", "The version of this agent.", {"version": fastipam.__version__}
        )
        found = self._watch.sample()
        yield from self._of_sets(found)
        yield from _of_networks(found)
        yield from _stores()

    def _of_sets(self, found: Iterable[Reading]) -> Iterator[Metric]:
        addresses = _gauge("addresses", "Addresses of a range set by state.", [*_SET, "state"])
        static = _gauge(
            "static_addresses",
            "Addresses of a range set that are assigned on request only, by state.",
            [*_SET, "state"],
        )
        full = _gauge(
            "range_set_full", "1 when the next ADD finds no address in the range set.", _SET
        )
        exhaustion = _gauge(
            "exhaustion_seconds",
            "Seconds until no address is left at the rate of the last 15 minutes; +Inf when use "
            "does not grow.",
            _SET,
        )
        longest = _gauge(
            "longest_free_run",
            "Longest run of consecutive free addresses, as of the last scrape.",
            _SET,
        )
        info = InfoMetricFamily("fastipam_range_set", "The ranges of a range set.", labels=_SET)
        for reading in found:
            runs = self._watch.longest_runs(reading)
            for one in reading.sets:
                key = [*reading.key, str(one.range_set.family), str(one.number)]
                for state in STATES:
                    addresses.add_metric([*key, state], one.counts[state])
                    if one.static is not None:
                        static.add_metric([*key, state], one.static[state])
                full.add_metric(key, one.full)
                exhaustion.add_metric(key, self._watch.exhaustion_s(reading.key, one.number))
                info.add_metric(key, {"ranges": one.ranges_text, "pool": reading.pool})
                run = runs.get(str(one.range_set))
                if run is not None:
                    longest.add_metric(key, run)
        yield from (addresses, static, full, exhaustion, longest, info)


def _of_networks(found: Iterable[Reading]) -> Iterator[Metric]:
    outside = _gauge("outside_addresses", "Addresses in use outside the ranges.", _POOL)
    oldest = _gauge(
        "oldest_cooling_seconds",
        "Seconds since the release of the address that has been cooling longest.",
        _POOL,
    )
    assignments = CounterMetricFamily(
        "fastipam_assignments", "Assignments since the pool was made.", labels=_POOL
    )
    blocks = _gauge("blocks", "The node's blocks of a cluster's pool, by state.", [*_SET, "state"])
    for reading in found:
        key = [*reading.key, reading.pool]
        outside.add_metric(key, reading.outside)
        oldest.add_metric(key, reading.oldest_cooling_s)
        assignments.add_metric(key, reading.assignments)
        counted = Counts((one.family, one.number, one.state) for one in reading.blocks)
        for (family, number, state), count in sorted(counted.items()):
            blocks.add_metric([*reading.key, str(family), str(number), state], count)
    yield from (outside, oldest, assignments, blocks)


def _stores() -> Iterator[Metric]:
    sizes = _gauge("store_bytes", "Size of the store's file.", ["data_dir"])
    missing = _gauge(
        "leases_without_netns",
        "Leases whose network namespace was gone when the sweeper looked.",
        ["data_dir"],
    )
    events = _gauge("events", "Events in the history.", ["data_dir"])
    for store in open_stores.all_open():
        try:
            with store.read() as txn:
                counts = [tables.MISSING.count(txn), history.count(txn)]
            sizes.add_metric([store.path], store.file_bytes())
            missing.add_metric([store.path], counts[0])
            events.add_metric([store.path], counts[1])
        except (FastipamError, OSError):
            continue  # the store was closed or removed meanwhile: its requests report that
    yield from (sizes, missing, events)


class _Clusters:
    """The collector of a node's counters in each cluster. O(networks in cluster mode)."""

    def __init__(self, keepers: Callable[[], Sequence[Kept]]) -> None:
        self._keepers = keepers

    def collect(self) -> Iterator[Metric]:
        """Yield the reachability of the cluster's store, and counters of claims."""
        reachable = _gauge(
            "cluster_reachable", "1 if the cluster's store answered the last call.", _NETWORK
        )
        counters = {
            name: CounterMetricFamily(f"fastipam_cluster_{name}", text, labels=_NETWORK)
            for name, text in _CLUSTER_COUNTERS.items()
        }
        for data_dir, network, keeper in self._keepers():
            status = keeper.status
            reachable.add_metric([data_dir, network], status.connected)
            for name, family in counters.items():
                family.add_metric([data_dir, network], getattr(status.counts, name))
        yield from (reachable, *counters.values())


class _Written:
    """The collector for the network configuration that the agent writes. O(1)."""

    def __init__(self, conflist: Conflist | None) -> None:
        self._conflist = conflist

    def collect(self) -> Iterator[Metric]:
        """Yield the state of the configuration file; no sample when the agent writes none."""
        state = _gauge(
            "conflist",
            "State of the network configuration that the agent writes.",
            ["path", "state"],
        )
        before = _gauge(
            "conflist_before",
            "Network configurations that sort before the agent's; a runtime prefers them.",
            ["path"],
        )
        failures = CounterMetricFamily(
            "fastipam_conflist_failures",
            "Failed writes of the network configuration.",
            labels=["path"],
        )
        if self._conflist is not None:
            path, standing = self._conflist[0], self._conflist[1]()
            for one in conflists.STATES:
                state.add_metric([path, one], one == standing.state)
            before.add_metric([path], len(standing.before))
            failures.add_metric([path], standing.failures)
        yield from (state, before, failures)


def _gauge(name: str, documentation: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"fastipam_{name}", documentation, labels=labels)
