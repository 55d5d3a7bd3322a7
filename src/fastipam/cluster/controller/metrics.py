"""The metrics of a controller for Prometheus."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from fastipam.cluster.controller.process import Process


class Metrics:
    """A collector of the metrics of one process."""

    def __init__(self, process: Process) -> None:
        self.registry = CollectorRegistry()
        self._process = process
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric. O(nodes + blocks + pools)."""
        state = self._process.controller.state()
        gauges = {
            "leader": ("1 if this process is the leader.", int(self._process.election.is_leading)),
            "blocks": ("Blocks owned by nodes.", state.blocks),
            "nodes": ("Nodes that are registered and not removed.", state.nodes),
            "orphaned_blocks": (
                "Blocks whose owner was removed or is not registered; it returns to 0 soon "
                "after a removal.",
                state.orphans,
            ),
            "absent_nodes": (
                "Nodes without a Node object that are not removed yet.",
                state.waiting,
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"fastipam_controller_{name}", text, value)
        counters = {
            "nodes_removed": ("Nodes removed.", state.removed),
            "blocks_freed": ("Blocks reclaimed from removed nodes.", state.freed),
            "failures": (
                "Failures while handling a pool or a node.",
                state.failures,
            ),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"fastipam_controller_{name}", text, value)
        pools = GaugeMetricFamily(
            "fastipam_controller_pools", "Pools by their condition Accepted.", labels=["accepted"]
        )
        for accepted, count in sorted(Counter(state.pools.values()).items()):
            pools.add_metric([accepted], count)
        yield pools
