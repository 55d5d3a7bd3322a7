"""Any record of a store is damaged in any way: ``repair`` mends it, and all goes on.

Bits are flipped, values cut short, filled, exchanged and removed, keys changed, one or several at a
time. After the repair the store is consistent, every address that had an owner has an owner or is
reserved, and every operation works. ``FASTIPAM_LONG=1`` takes thousands of damages instead of some.
"""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.lease import mount_namespace
from fastipam.repair import repair
from fastipam.sweep import finish_reboot, sweep
from fastipam.verify import verify

from ..conftest import Clock
from .damage import DATABASES, damage

if TYPE_CHECKING:
    from pathlib import Path

    from fastipam.ipam import Ipam
    from fastipam.store import Store

LONG = os.environ.get("FASTIPAM_LONG") == "1"
SEEDS = range(100 if LONG else 4)
CASES = 60 if LONG else 25
SETS = ["10.0.0.0/24", "2001:db8::/120"]
COOLDOWN_S, STICKY_S = 30, 100


def _open(path: Path, clock: Clock) -> Ipam:
    return fastipam.open(path, "relaxed", clock=clock, boot_id=lambda: "boot")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with everything in it: leases, cooling, kept and reserved ones, notes."""
    directory = tmp_path_factory.mktemp("whole")
    clock = Clock()
    with _open(directory / "store", clock) as ipam:
        net = ipam.network("n", SETS, cooldown_s=COOLDOWN_S, sticky_s=STICKY_S)
        (directory / "alive").touch()
        for at in range(30):
            net.allocate(
                f"c{at}",
                pod_namespace="ns",
                pod_name=f"p{at % 7}" if at % 2 else "",
                netns=str(directory / ("gone" if at % 5 else "alive")),
                inode=(directory / "alive").stat().st_ino,
                mount_ns=mount_namespace(),
            )
        for at in range(0, 30, 3):
            net.release(f"c{at}")
            clock.advance(1)
        net.reserve("10.0.0.200/30", owner="ns/db", reason="a printer")
        net.reserve("10.0.0.220")
        ipam.network("m", "10.9.0.0/30").allocate("z")
        sweep(ipam)
        with ipam.store.read() as txn:
            for name in DATABASES:
                entries = txn.txn.stat(getattr(ipam.store, f"db_{name}"))["entries"]
                assert entries, f"there is nothing to damage in {name}"
    return directory / "store"


def _assigned(store: Store) -> set[bytes]:
    """The keys of the addresses that somebody has."""
    with store.read() as txn:
        return {key for key, value in txn.txn.cursor(store.db_leases) if value[0] == 1}


def _taken(store: Store) -> set[bytes]:
    """The keys of the addresses that nobody else can get."""
    with store.read() as txn:
        both: list[Any] = [store.db_leases, store.db_reservations]
        return {key for db in both for key, _ in txn.txn.cursor(db)}


def _use(ipam: Ipam, clock: Clock) -> None:
    """Everything that one can do with a store."""
    for name in ipam.networks():
        net = ipam.network(name)
        leases = list(net.leases())
        net.stats()
        list(net.reservations())
        list(net.history())
        for lease in leases[:5]:
            net.release(lease.container_id, lease.ifname)
    net = ipam.network("n", SETS, cooldown_s=COOLDOWN_S, sticky_s=STICKY_S)
    for _ in range(2):
        for at in range(5):
            net.allocate(f"new{at}", pod_namespace="ns", pod_name=f"p{at}")
        for at in range(5):
            net.release(f"new{at}")
        clock.advance(2 * STICKY_S)
    ipam.network("fresh", "10.8.0.0/29").allocate("first")
    for _ in range(2):
        sweep(ipam, grace_s=0)
    finish_reboot(ipam)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_damage(seed: int, whole: Path, tmp_path: Path) -> None:
    """It is mended, frees nothing that has an owner, and leaves a store that works."""
    chance = random.Random(seed)
    for case in range(CASES):
        path, clock = tmp_path / f"store{case}", Clock()
        clock.advance(100)
        shutil.copytree(whole, path)
        with _open(path, clock) as ipam:
            before = _assigned(ipam.store)
            count = chance.choice((1, 1, 1, 2, 4))
            done = [damage(ipam.store, chance) for _ in range(count)]
            try:
                repair(ipam.store)
                assert not verify(ipam.store)
                if count == 1:  # more may hit a lease and its owner's entry
                    assert before <= _taken(ipam.store)
                _use(ipam, clock)
                assert not verify(ipam.store)
            except Exception as error:
                raise AssertionError(f"seed {seed}, case {case}: {done}") from error
        shutil.rmtree(path)
