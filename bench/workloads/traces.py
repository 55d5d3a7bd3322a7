"""The workloads: what is assigned and released in which order. No clock, no plugin, no chance.

Every sequence is made from a fixed seed: each contender gets the same one. A workload begins with
so many pods that are there already, whose making is not timed.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADD, DEL = "ADD", "DEL"
SEED = 20260101
PODS_A_NODE = 110  # kubelet's default limit
AT_ONCE = 16  # sandboxes that a runtime starts beside each other after a restart
POOL_V4 = "10.32.0.0/12"
POOL_V6 = "2001:db8::/64"


class Step(NamedTuple):
    """One call for one container."""

    verb: str
    container: str


@dataclass(frozen=True)
class Workload:
    """What happens to ``present`` pods; ``steps(n)`` when only n of them could be made."""

    name: str
    title: str
    present: int
    calls: int  # of a whole run
    steps: Callable[[int], Iterator[Step]]
    at_once: int = 1  # processes in flight
    dual: bool = False

    @property
    def pools(self) -> tuple[str, ...]:
        """The CIDRs that addresses come from: one of each."""
        return (POOL_V4, POOL_V6) if self.dual else (POOL_V4,)


def container(number: int) -> str:
    """A container id as runtimes make them."""
    return f"{number:064x}"


def fill(_: int) -> Iterator[Step]:
    """Pods come and none goes."""
    return (Step(ADD, container(number)) for number in range(10_000))


def churn(present: int) -> Iterator[Step]:
    """Pods live for exponentially distributed times; each is replaced when it ends.

    The steady state of a node: which pod ends next has nothing to do with its age.
    """
    chance = Random(SEED)
    ends = [(chance.expovariate(1.0), number) for number in range(present)]
    heapq.heapify(ends)
    for number in range(present, present + 2_000 if present else 0):
        now, ended = heapq.heappop(ends)
        yield Step(DEL, container(ended))
        yield Step(ADD, container(number))
        heapq.heappush(ends, (now + chance.expovariate(1.0), number))


def restart(present: int) -> Iterator[Step]:
    """A node comes back: the runtime deletes what it had, then starts every pod anew, again."""
    for round_ in range(10):
        first = round_ * present
        yield from (Step(DEL, container(first + at)) for at in range(present))
        yield from (Step(ADD, container(first + present + at)) for at in range(present))


def crash_loop(present: int) -> Iterator[Step]:
    """One pod among others ends as soon as it has started, a new container each time."""
    numbers = range(present, present + 2_000)
    return chain.from_iterable(
        (Step(ADD, container(number)), Step(DEL, container(number))) for number in numbers
    )


def rolling_update(present: int) -> Iterator[Step]:
    """Every pod is replaced: the new one is there before the old one goes."""
    for number in range(present):
        yield Step(ADD, container(present + number))
        yield Step(DEL, container(number))


WORKLOADS = (
    Workload("fill", "Fill: pods come, none goes", 0, 10_000, fill),
    Workload("churn", "Steady churn of a node, exponential lifetimes", PODS_A_NODE, 4_000, churn),
    Workload("restart", "Burst of a node restart", PODS_A_NODE, 20 * PODS_A_NODE, restart, AT_ONCE),
    Workload("crash loop", "A crash-looping pod among 250", 250, 4_000, crash_loop),
    Workload("rolling", "Rolling update of 10,000 pods", 10_000, 20_000, rolling_update),
    Workload("dual", "Steady churn, dual stack", PODS_A_NODE, 4_000, churn, dual=True),
)


def growth(leases: int) -> Workload:
    """Pairs beside so many leases: what a call costs against their number."""
    return Workload(f"{leases:,} leases", "", leases, 400, lambda n: islice(crash_loop(n), 400))
