"""What Prometheus sees of a node's share of a cluster. O(networks in cluster mode)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from fastipam.agent.clusters import Keepers

_LABELS = ("data_dir", "network")
_COUNTERS = {
    "claims": "Blocks that were claimed.",
    "transactions": "Claims that were tried.",
    "conflicts": "Claims at which somebody else was faster.",
    "released": "Blocks that were given back.",
    "donated": "Blocks that were handed to a node in need.",
    "granted": "Blocks that another node has handed over.",
}


class ClusterMetrics:
    """Reads the keepers when it is asked."""

    def __init__(self, keepers: Keepers) -> None:
        self._keepers = keepers

    def collect(self) -> Iterator[Metric]:
        """Whether the shared store answers, blocks by state, and what was done to them."""
        reachable = GaugeMetricFamily(
            "fastipam_cluster_reachable",
            "Whether the cluster's store answered the last call.",
            labels=_LABELS,
        )
        owned = GaugeMetricFamily(
            "fastipam_cluster_blocks", "Blocks by state.", labels=(*_LABELS, "state")
        )
        counters = {
            name: CounterMetricFamily(f"fastipam_cluster_{name}", text, labels=_LABELS)
            for name, text in _COUNTERS.items()
        }
        for data_dir, network, keeper in self._keepers.all():
            status = keeper.status
            reachable.add_metric([data_dir, network], status.connected)
            for state, count in status.states.items():
                owned.add_metric([data_dir, network, state], count)
            for name, family in counters.items():
                family.add_metric([data_dir, network], getattr(status, name))
        yield reachable
        yield owned
        yield from counters.values()
