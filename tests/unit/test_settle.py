"""Network.tidy: what has cooled down, or was kept long enough, is free without an assignment."""

from __future__ import annotations

from fastipam.ipam import Ipam
from fastipam.testing import Clock

POOL = "10.0.0.0/29"  # .2 to .6


def test_cooled_down(ipam: Ipam, clock: Clock) -> None:
    """Nothing is freed before its time; then everything is, in batches, by what is remembered."""
    net = ipam.network("n", POOL, cooldown_s=30)
    for at in range(5):
        net.allocate(f"c{at}")
        net.release(f"c{at}")
    known = ipam.network("n")  # the agent has no configuration
    assert not known.tidy()
    clock.advance(29.9)
    assert not known.tidy()
    assert net.stats().cooling == 5
    clock.advance(0.2)
    assert known.tidy(limit=3)
    assert net.stats().cooling == 2
    assert known.tidy(limit=3)
    assert net.stats().free == 5
    assert not known.tidy(limit=3)


def test_nothing_is_written(ipam: Ipam) -> None:
    """With nothing due the store stays as it is, its transaction number too."""
    net = ipam.network("n", POOL)
    net.allocate("c1")
    net.release("c1")
    with ipam.store.read() as txn:
        before = txn.number
    assert not net.tidy()
    assert not ipam.network("unknown", POOL).tidy()
    with ipam.store.read() as txn:
        assert txn.number == before


def test_sticky(ipam: Ipam, clock: Clock) -> None:
    """An address that was kept for a pod is free when the pod does not come for it in time."""
    net = ipam.network("n", POOL, sticky_s=100)
    net.allocate("c1", pod=("ns", "db-0"))
    net.release("c1")
    clock.advance(99)
    assert not net.tidy()
    assert net.stats().reserved == 1
    clock.advance(2)
    assert net.tidy()
    assert (net.stats().reserved, list(net.reservations())) == (0, [])


def test_clock_steps_back(ipam: Ipam, clock: Clock) -> None:
    """A wall clock that steps back frees nothing early, and keeps nothing for ever."""
    net = ipam.network("n", POOL, cooldown_s=30)
    net.allocate("c1")
    net.release("c1")
    clock.advance(-3600)
    assert not net.tidy()
    clock.advance(31)
    net._note_clock()
    clock.advance(31)
    assert net.tidy()
    assert net.stats().free == 5
