"""Models of two other designs for the same load: Weave's ring and Calico's blocks.

Both models favour the other designs: no message is lost, no node is cut off, and a request costs
only its round trips. They model which addresses can serve which node:

- **Weave's ring**: each peer begins with an equal share. A peer without free addresses asks
  another one, chosen at random with its free addresses as weight, which gives half of its largest
  free range, down to a single address. Every peer stores the whole ring.
- **Calico's blocks**: a block has an affinity to a node, which takes three writes. A node takes a
  block when its own blocks are full, and gives a block back only when it is empty.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import accumulate
from typing import TYPE_CHECKING

from bench.cluster_sim.world import Waits

if TYPE_CHECKING:
    import random


class _Peer:
    """A peer of the ring: its free ranges [start, end), ascending."""

    __slots__ = ("ends", "free", "starts")

    def __init__(self, start: int, end: int) -> None:
        self.starts = [start]
        self.ends = [end]
        self.free = end - start

    def take(self) -> int:
        """Take the lowest free address."""
        address = self.starts[0]
        self.starts[0] += 1
        if self.starts[0] == self.ends[0]:
            del self.starts[0], self.ends[0]
        self.free -= 1
        return address

    def give(self, start: int, end: int) -> None:
        """Add a free range, and join it with neighbouring ones."""
        at = bisect_left(self.starts, start)
        self.free += end - start
        if at < len(self.starts) and self.starts[at] == end:
            self.starts[at] = start
        else:
            self.starts.insert(at, start)
            self.ends.insert(at, end)
        if at and self.ends[at - 1] == start:
            self.ends[at - 1] = self.ends[at]
            del self.starts[at], self.ends[at]

    def donate(self) -> tuple[int, int]:
        """Remove the upper half of the largest free range, and return it."""
        at = max(range(len(self.starts)), key=lambda at: self.ends[at] - self.starts[at])
        start, end = self.starts[at], self.ends[at]
        half = start + (end - start) // 2
        if half == start:
            del self.starts[at], self.ends[at]
        else:
            self.ends[at] = half
        self.free -= end - half
        return half, end


class Ring:
    """The model of Weave's ring: ``size`` addresses, shared equally at the beginning."""

    def __init__(self, nodes: int, size: int, chance: random.Random, round_trip_s: float) -> None:
        bounds = [size * at // nodes for at in range(nodes + 1)]
        self.waits = Waits()
        self.moves = 0
        self.messages = 0
        self._tokens = bounds[:-1]  # where the ranges of other peers begin
        self._owners = list(range(nodes))
        self._peers = [_Peer(bounds[at], bounds[at + 1]) for at in range(nodes)]
        self._pods: dict[int, int] = {}
        self._chance = chance
        self._round_trip_s = round_trip_s
        self._size = size

    @property
    def entries(self) -> int:
        """The number of ranges in the ring, which every peer stores and gossips."""
        return len(self._tokens)

    def add(self, node: int, pod: int) -> None:
        peer = self._peers[node]
        waited_s = 0.0
        if not peer.free:
            waited_s = self._ask(node)
            if not peer.free:
                self.waits.failed += 1
                return
        self._pods[pod] = peer.take()
        self.waits.serve(waited_s)

    def remove(self, node: int, pod: int) -> None:
        del node
        address = self._pods.pop(pod, None)
        if address is not None:  # it returns to the peer that owns it now
            owner = self._owners[bisect_right(self._tokens, address) - 1]
            self._peers[owner].give(address, address + 1)

    def _ask(self, node: int) -> float:
        weights = list(accumulate(peer.free for peer in self._peers))
        if not weights[-1]:
            return 0.0
        (giver,) = self._chance.choices(range(len(self._peers)), cum_weights=weights)
        start, end = self._peers[giver].donate()
        self.moves += 1
        self.messages += 2
        self._own(start, end, node)
        self._peers[node].give(start, end)
        return self._round_trip_s

    def _own(self, start: int, end: int, node: int) -> None:
        at = bisect_right(self._tokens, start) - 1
        before = self._owners[at]
        following = self._tokens[at + 1] if at + 1 < len(self._tokens) else self._size
        if self._tokens[at] == start:
            self._owners[at] = node
        else:
            at += 1
            self._tokens.insert(at, start)
            self._owners.insert(at, node)
        if end < following:
            self._tokens.insert(at + 1, end)
            self._owners.insert(at + 1, before)


class Affinity:
    """The model of Calico's blocks: ``count`` blocks of ``size`` addresses."""

    def __init__(self, nodes: int, count: int, size: int, round_trip_s: float) -> None:
        self.waits = Waits()
        self.writes = 0
        self.claims = 0
        self.released = 0
        self._free = list(range(count))
        self._size = size
        self._round_trip_s = round_trip_s
        self._used: list[dict[int, int]] = [{} for _ in range(nodes)]
        self._open: list[list[int]] = [
            [] for _ in range(nodes)
        ]  # blocks with free addresses, sorted
        self._pods: dict[int, int] = {}

    def add(self, node: int, pod: int) -> None:
        waited_s = 0.0
        if not self._open[node]:
            if not self._free:
                self.waits.failed += 1
                return
            number = self._free.pop()
            self._used[node][number] = 0
            self._open[node].append(number)
            self.claims += 1
            self.writes += 3
            waited_s = 3 * self._round_trip_s
        number = self._open[node][0]
        self._used[node][number] += 1
        if self._used[node][number] == self._size:
            del self._open[node][0]
        self._pods[pod] = number
        self.waits.serve(waited_s)

    def remove(self, node: int, pod: int) -> None:
        number = self._pods.pop(pod, None)
        if number is None:
            return
        used = self._used[node]
        if used[number] == self._size:
            insort(self._open[node], number)
        used[number] -= 1
        if not used[number]:
            del used[number]
            self._open[node].remove(number)
            self._free.append(number)
            self.released += 1
            self.writes += 2

    def movable(self) -> int:
        """Return the number of blocks without an owner."""
        return len(self._free)
