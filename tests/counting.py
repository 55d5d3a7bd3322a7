"""Count the addresses of a network: as its counters say, and as every record says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastipam.allocation import states
from fastipam.allocation.lookup import look_up
from fastipam.storage.records import lease

if TYPE_CHECKING:
    from fastipam.network import Network


COUNTED = ("size", "assigned", "cooling", "reserved", "free")


def counts(network: Network) -> dict[str, Any]:
    """Return what ``stats`` counts of the whole network."""
    stats = network.stats()
    return {key: getattr(stats, key) for key in ("size", *states.STATES)}


def looked_at(network: Network) -> list[dict[str, int]]:
    """Return the counts of each range set, from a look at every record."""
    with network._store.read() as txn:
        known = look_up(txn, network.name)
    pool = network.pool if known is None else known[2]  # other ranges count from the next ADD on
    assert pool is not None
    found = [
        {"size": each.size, "assigned": 0, "cooling": 0, "reserved": 0, "free": each.size}
        for each in pool.sets
    ]

    def add(family: int, value: int, state: str) -> None:
        index = pool.index_of(family, value)
        if index is not None:
            found[index][state] += 1
            found[index]["free"] -= 1

    leased = set()
    for family, value, record, _ in network._records():
        leased.add((family, value))
        add(family, value, "cooling" if record.state == lease.COOLING else "assigned")
    for one in network.reservations():
        if (one.family, one.value) not in leased:
            add(one.family, one.value, "reserved")
    return found
