"""Fill a /12 with the pods of deployments."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from bench.stores import BATCH, IFNAME
from bench.workloads.traces import container

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam import Network

SPACES = ("web", "checkout", "payments", "search", "batch", "ci", "mail", "monitoring")
RESERVED = "10.33.16.0/21"
_SEED = 12


class Deployment(NamedTuple):
    """Pods that were started one after the other."""

    number: int
    first: int
    pods: int

    @property
    def space(self) -> str:
        """The namespace of the deployment's pods."""
        return SPACES[self.number % len(SPACES)]

    @property
    def numbers(self) -> range:
        """The numbers of the containers of its pods."""
        return range(self.first, self.first + self.pods)

    @property
    def owners(self) -> list[tuple[str, str]]:
        """The owners (container, interface) of its pods."""
        return [(container(at), IFNAME) for at in self.numbers]

    def pod(self, at: int) -> tuple[str, str]:
        """Return (namespace, name) of the pod whose container has this number."""
        return self.space, f"{self.space}-{self.number}-{at - self.first}"


def deployments(pods: int) -> list[Deployment]:
    """Return deployments of different sizes that have ``pods`` pods together."""
    chance = random.Random(_SEED)
    made: list[Deployment] = []
    first = 0
    while first < pods:
        size = min(chance.randrange(200, 5000), pods - first)
        made.append(Deployment(len(made), first, size))
        first += size
    return made


def fill(network: Network, listed: Sequence[Deployment], advance: Callable[[int], object]) -> None:
    """Assign an address to every pod, in large transactions, each on disk before the next."""
    owners: list[tuple[str, str]] = []
    pods: list[tuple[str, str]] = []

    def commit(count: int) -> None:
        network.allocate_many(owners[:count], pods=pods[:count])
        del owners[:count], pods[:count]
        advance(count)

    for one in listed:
        owners += one.owners
        pods += [one.pod(at) for at in one.numbers]
        while len(owners) >= BATCH:
            commit(BATCH)
    commit(len(owners))


def choose(listed: Sequence[Deployment], pods: int) -> list[Deployment]:
    """Return random deployments, from all over the pool, with ``pods`` or more pods together."""
    chosen: list[Deployment] = []
    for one in random.Random(_SEED).sample(listed, len(listed)):
        if pods <= 0:
            break
        chosen.append(one)
        pods -= one.pods
    return chosen
