"""Prometheus metrics of the routes between nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from fastipam.cluster.routing.setting import Status


class Routes:
    """The collector of the route metrics."""

    def __init__(self, status: Callable[[], Status | None]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; no sample when the agent sets no routes."""
        routes = GaugeMetricFamily(
            "fastipam_routes",
            "Routes of protocol 147 by type: gateway, unreachable.",
            labels=["family", "type"],
        )
        left_out = GaugeMetricFamily(
            "fastipam_routes_left_out",
            "Nodes and prefixes that have no route, by reason.",
            labels=["reason"],
        )
        complete = GaugeMetricFamily(
            "fastipam_routes_complete",
            "1 while the clusters' stores are reachable; routes are deleted only then.",
        )
        refused = CounterMetricFamily(
            "fastipam_routes_refused", "Route changes refused by the kernel."
        )
        status = self._status()
        if status is not None:
            from fastipam.cluster.routing.plan import REASONS  # only an agent that routes loads it

            for (family, kind), count in sorted(status.counts.items()):
                routes.add_metric([str(family), kind], count)
            for reason in REASONS:
                left_out.add_metric([reason], status.left_out.get(reason, 0))
            complete.add_metric([], status.is_complete)
            refused.add_metric([], status.refused)
        yield from (routes, left_out, complete, refused)
