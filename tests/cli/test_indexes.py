"""``list`` reads an index where there is one, and finds the same as by reading every lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastipam.cli import rows
from fastipam.cli.filters import COOLING, Filter

if TYPE_CHECKING:
    from fastipam.ipam import Ipam
    from fastipam.storage.tables import Item
    from fastipam.storage.transaction import Snapshot
    from fastipam.testing import Clock


@pytest.mark.parametrize("what", ["owner", "cooling", "since"])
def test_an_index_is_read(
    ipam: Ipam, clock: Clock, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of owners, of what cools, of the history's end; not every lease."""
    ipam.network("before", "10.0.0.0/24").allocate("c1")
    net = ipam.network("n", "10.0.0.0/24")
    for at in range(12):
        net.allocate(f"c{at}")
    clock.advance(3600)
    net.release("c3")
    net.allocate("late")
    wanted, address = {
        "owner": (Filter(container="c1", ifname="eth0"), "10.0.0.3"),
        "cooling": (Filter(states=frozenset({COOLING})), "10.0.0.5"),
        "since": (Filter(since_ns=clock.now_ns), "10.0.0.14"),
    }[what]
    seen: list[list[bytes] | None] = []
    real = rows._Listing._leases

    def spy(
        self: rows._Listing,
        txn: Snapshot,
        prefix: bytes,
        start: bytes,
        indexed: list[bytes] | None,
    ) -> tuple[list[Item], bytes | None]:
        seen.append(indexed)
        return real(self, txn, prefix, start, indexed)

    monkeypatch.setattr(rows._Listing, "_leases", spy)
    assert [row["address"] for row in rows.rows(ipam, "n", wanted)] == [address]
    assert all(one is not None for one in seen)
    assert seen
