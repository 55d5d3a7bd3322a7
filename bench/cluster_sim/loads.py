"""The loads: pods that start and stop, as events (second, node, pod, starts) in order of time."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    Event = tuple[float, int, int, bool]


def all_at_once(nodes: int) -> Iterator[Event]:
    """Yield a pod that starts on every node, all at the same moment."""
    for node in range(nodes):
        yield 0.0, node, node, True


def growth(nodes: int, pods: int, seconds: float, seed: int) -> Iterator[Event]:
    """Yield pods that start, half of them on a fifth of the nodes; one in ten stops later."""
    chance = random.Random(seed)
    favoured = max(1, nodes // 5)
    stops: list[tuple[float, int, int]] = []
    for number in range(pods):
        moment = seconds * number / pods
        while stops and stops[0][0] <= moment:
            when, node, pod = heapq.heappop(stops)
            yield when, node, pod, False
        node = chance.randrange(favoured) if chance.random() < 0.5 else chance.randrange(nodes)
        yield moment, node, number, True
        if chance.random() < 0.1:
            heapq.heappush(stops, (moment + chance.expovariate(1 / 60), node, number))


def shift(nodes: int, size: int, seed: int) -> Iterator[Event]:
    """Yield demand that moves from all nodes to a tenth of them, the hot nodes.

    In the first five minutes the pods of all nodes grow evenly to 55 % of the pool. Then half of
    the cold nodes are drained, and on the other half one in three pods stops, in random order,
    while the hot nodes start pods until 90 % of the pool is in use.
    """
    chance = random.Random(seed)
    hot = max(1, nodes // 10)
    first = int(size * 0.55)
    running: list[list[int]] = [[] for _ in range(nodes)]
    for pod in range(first):
        node = pod % nodes
        running[node].append(pod)
        yield 300.0 * pod / first, node, pod, True
    stops = []
    for node in range(hot, nodes):
        drained = node % 2
        stops += [(node, pod) for pod in running[node] if drained or chance.random() < 1 / 3]
    chance.shuffle(stops)
    starts = int(size * 0.90) - (first - len(stops))
    events = [(300.0 + 300.0 * at / len(stops), *stop, False) for at, stop in enumerate(stops)]
    events += [
        (360.0 + 540.0 * at / starts, chance.randrange(hot), first + at, True)
        for at in range(starts)
    ]
    yield from sorted(events)
