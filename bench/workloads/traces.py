"""The workloads: sequences of ADDs and DELs, without a clock or a plugin.

Every sequence is made from a fixed seed, so that each contender gets the same one. A workload
begins with some initial pods, whose addresses are assigned untimed.
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
AT_ONCE = 16  # sandboxes that a runtime starts at the same time after a restart
POOL_V4 = "10.32.0.0/12"
POOL_V6 = "2001:db8::/64"


class Step(NamedTuple):
    """A call for a container."""

    verb: str
    container: str


@dataclass(frozen=True)
class Workload:
    """A sequence of calls beside ``present`` initial pods.

    ``steps(n)`` returns the sequence when only n of the initial pods got an address.
    """

    name: str
    title: str
    present: int
    calls: int  # the calls of a whole run
    steps: Callable[[int], Iterator[Step]]
    at_once: int = 1  # processes at the same time
    phased: bool = False  # whether a verb's calls have ended before another verb's begin
    dual: bool = False
    pool: str = POOL_V4

    @property
    def pools(self) -> tuple[str, ...]:
        """The CIDRs of the pools, each of which gives an address."""
        return (self.pool, POOL_V6) if self.dual else (self.pool,)


def container(number: int) -> str:
    """Return a container id like a runtime's."""
    return f"{number:064x}"


def fill(_: int) -> Iterator[Step]:
    """Yield pods that start; no pod stops."""
    return (Step(ADD, container(number)) for number in range(10_000))


def churn(present: int) -> Iterator[Step]:
    """Yield pods with exponentially distributed lifetimes, each replaced when it stops.

    This is the steady state of a node: which pod stops next does not depend on its age.
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
    """Yield restarts of a node, in which the runtime deletes all pods and starts them again."""
    for round_ in range(10):
        first = round_ * present
        yield from (Step(DEL, container(first + at)) for at in range(present))
        yield from (Step(ADD, container(first + present + at)) for at in range(present))


def crash_loop(present: int) -> Iterator[Step]:
    """Yield a pod that stops as soon as it has started, each time as a new container."""
    numbers = range(present, present + 2_000)
    return chain.from_iterable(
        (Step(ADD, container(number)), Step(DEL, container(number))) for number in numbers
    )


def rolling_update(present: int) -> Iterator[Step]:
    """Yield the replacement of every pod. Each new pod starts before the old one stops."""
    for number in range(present):
        yield Step(ADD, container(present + number))
        yield Step(DEL, container(number))


WORKLOADS = (
    Workload("fill", "Fill: pods come, none goes", 0, 10_000, fill),
    Workload("churn", "Steady churn of a node, exponential lifetimes", PODS_A_NODE, 4_000, churn),
    *(
        Workload(f"churn {width}", f"The same, {width} at once", PODS_A_NODE, 4_000, churn, width)
        for width in (8, 64)
    ),
    Workload(
        "restart", "Burst of a node restart", PODS_A_NODE, 20 * PODS_A_NODE, restart, AT_ONCE, True
    ),
    Workload("crash loop", "A crash-looping pod among 250", 250, 4_000, crash_loop),
    Workload("rolling", "Rolling update of 10,000 pods", 10_000, 20_000, rolling_update),
    Workload("dual", "Steady churn, dual stack", PODS_A_NODE, 4_000, churn, dual=True),
)


def growth(leases: int) -> Workload:
    """Return a workload of pairs beside this many leases, to measure their effect on a call."""
    return Workload(
        f"{leases:,} leases",
        f"Beside {leases:,} leases",
        leases,
        400,
        lambda n: islice(crash_loop(n), 400),
    )
