"""A simulated cluster: its nodes, the state that they share, and the counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cluster_sim.nodes import ADD_TIMEOUT_S, SETTINGS, Node, Totals
from bench.cluster_sim.world import Waits
from fastipam.cluster import planner
from fastipam.cluster.engine import Put
from fastipam.cluster.schema import Keys
from fastipam.configuration.cluster import Watermarks

if TYPE_CHECKING:
    from bench.cluster_sim.world import World
    from fastipam.cluster.schema import Mark
    from fastipam.configuration.cluster import Geometry


class Cluster:
    """All nodes, the state that they share, and the counts."""

    def __init__(
        self,
        world: World,
        pool: Geometry,
        names: list[str],
        watermarks: Watermarks | None = None,
        *,
        add_timeout_s: float = ADD_TIMEOUT_S,
    ) -> None:
        self.world = world
        self.add_timeout_s = add_timeout_s
        self.pool = pool
        self.watermarks = watermarks or Watermarks()
        self.keys = Keys("/fastipam/", "podnet")
        world.engine.transact([], [Put(self.keys.settings, SETTINGS)], deadline_s=1)
        self.waits = Waits()
        self.totals = Totals()
        self.owned_blocks = 0
        self.nodes = [Node(self, name) for name in names]
        self.by_name = {node.name: node for node in self.nodes}
        self.marks: dict[str, tuple[bytes, int, Mark]] = {}
        self._counted_s = -1.0
        self._movable = 1.0

    def add(self, node: int, pod: int) -> None:
        """Start a pod on a node."""
        self.nodes[node].add(pod)

    def remove(self, node: int, pod: int) -> None:
        """Stop a pod. Nothing happens if the pod never got an address."""
        self.nodes[node].remove(pod)

    def movable(self) -> float:
        """Return the share of the pool in blocks that could move.

        These have no owner, or are wholly free and cooled. O(nodes), so they are counted only once
        in a tenth of a second.
        """
        if self.world.now < self._counted_s + planner.TICK_S:
            return self._movable
        self._counted_s = self.world.now
        free = self.pool.count - self.owned_blocks
        free += sum(node.wholly_free() for node in self.nodes if not node.is_cut)
        self._movable = free / self.pool.count
        return self._movable

    # Each node learns of a mark by its watch, after one way through the network.

    def mark_is_up(self, needy: str, key: bytes, revision: int, want: Mark) -> None:
        self.marks[needy] = (key, revision, want)
        for node in self.nodes:
            if node.name != needy and node.blocks:
                delay = planner.donor_delay_s(node.name, needy, want.number, planner.SPREAD_S)
                self.world.at(self.world.now + delay, node.answerer(needy, revision))

    def mark_is_down(self, needy: str, revision: int) -> None:
        if needy in self.marks and self.marks[needy][1] == revision:
            del self.marks[needy]
