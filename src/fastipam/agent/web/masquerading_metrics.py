"""Prometheus metrics of masquerading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from fastipam.cluster.masquerading.masquerader import Status


class Masquerading:
    """The collector of the masquerading metrics."""

    def __init__(self, status: Callable[[], Status | None]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; no sample when the agent does not masquerade."""
        is_set = GaugeMetricFamily(
            "fastipam_masquerading", "1 while the masquerading rules match the pools."
        )
        changes = CounterMetricFamily(
            "fastipam_masquerading_changes", "Replacements of the masquerading rules."
        )
        status = self._status()
        if status is not None:
            is_set.add_metric([], status.is_set)
            changes.add_metric([], status.changes)
        yield from (is_set, changes)
