"""Any record of a store is damaged in any way: ``repair`` repairs it, and calls are served again.

Bits are flipped, values cut short, filled, exchanged and removed, keys changed, one or several at a
time. Before the repair every call does its work or says what is wrong. After the repair the
store is consistent, every address that had an owner has an owner or is reserved, and every
operation works. ``--long`` takes thousands of damages instead of some.
"""

from __future__ import annotations

import random
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam import Network
from fastipam.addressing.parsing import parse_ranges
from fastipam.addressing.ranges import Pool, RangeSet
from fastipam.agent.housekeeping import Housekeeping
from fastipam.allocation import blocks
from fastipam.backup import backup
from fastipam.configuration.policy import Policy
from fastipam.ipam import open_with
from fastipam.lease import Requester
from fastipam.namespaces import Netns, mount_namespace
from fastipam.repair import repair
from fastipam.storage import open_stores, tables
from fastipam.storage.records.block import ACTIVE, Block, Member
from fastipam.sweep import finish_reboot, sweep
from fastipam.testing import Clock
from fastipam.verify import verify

from ..options import options
from .damage import DATABASES, damage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from fastipam.ipam import Ipam
    from fastipam.storage.store import Store

pytestmark = pytest.mark.campaign

LONG = options.long
SEEDS = range(100 if LONG else 4)
CASES = 60 if LONG else 25
SETS = ["10.0.0.0/24", "2001:db8::/120"]
COOLDOWN_S, STICKY_S = 30, 100
POOL = Pool([RangeSet(parse_ranges("10.7.0.0/16").sets[0].ranges, block_length=24)])


def _open(path: Path, clock: Clock) -> Ipam:
    return open_with(path, "relaxed", clock=clock, boot_id=lambda: "boot")


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
                pod=("ns", f"p{at % 7}") if at % 2 else None,
                netns=Netns(
                    str(directory / ("gone" if at % 5 else "alive")),
                    inode=(directory / "alive").stat().st_ino,
                    mount_ns=mount_namespace(),
                ),
            )
        for at in range(0, 30, 3):
            net.release(f"c{at}")
            clock.advance(1)
        net.reserve("10.0.0.200/30", owner="ns/db", reason="a printer")
        net.reserve("10.0.0.220")
        ipam.network("m", "10.9.0.0/30").allocate("z")
        _own_blocks(ipam)
        sweep(ipam)
        with ipam.store.read() as txn:
            for name in DATABASES:
                entries = getattr(tables, name.upper()).count(txn)
                assert entries, f"there is nothing to damage in {name}"
    return directory / "store"


def _cut(ipam: Ipam) -> Network:
    return Network(ipam.store, "cut", POOL)


def _own_blocks(ipam: Ipam) -> None:
    """Make the store that of a node with two blocks of a cluster's pool."""
    network = _cut(ipam)
    with ipam.store.write() as txn:
        pool_id = network._enter(txn).state.pool_id
        file, boot = blocks.file_of(ipam.store), ipam.store.boot
        member = Member("node", "incarnation", "", epoch=1, revision=1, file=file, boot=boot)
        blocks.put_member(txn, pool_id, member)
        blocks.prove(txn, pool_id, 1 << 62)
        for base in (0x0A070000, 0x0A070100):
            blocks.put(txn, pool_id, Block(4, base, ACTIVE, 0, 1))
            blocks.list_open(txn, pool_id, POOL.sets[0], base)
    for at in range(5):
        network.allocate(f"cut{at}")


def _assigned(store: Store) -> set[bytes]:
    """The keys of the addresses that somebody has."""
    with store.read() as txn:
        return {key for key, value in tables.LEASES.scan(txn) if value[0] == 1}


def _taken(store: Store) -> set[bytes]:
    """The keys of the addresses that nobody else can get."""
    with store.read() as txn:
        both: list[Any] = [tables.LEASES, tables.RESERVATIONS]
        return {key for db in both for key in db.scan_keys(txn)}


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
            net.allocate(f"new{at}", pod=("ns", f"p{at}"))
        for at in range(5):
            net.release(f"new{at}")
        clock.advance(2 * STICKY_S)
    ipam.network("fresh", "10.8.0.0/29").allocate("first")
    for _ in range(2):
        sweep(ipam, grace_s=0)
    finish_reboot(ipam)


def _read(look: Callable[[], Iterable[object]]) -> int:
    return len(list(look()))


def _calls(ipam: Ipam, path: Path, clock: Clock) -> Iterator[Callable[[], object]]:
    """Everything that one can do with a store, one call at a time."""
    net = Network(ipam.store, "n", parse_ranges(SETS), policy=Policy(sticky_s=STICKY_S))
    for at in range(8):
        pod = ("ns", f"p{at}" if at % 2 else "db")
        yield partial(net.allocate, f"new{at}", pod=pod)
    yield from (partial(net.release, f"c{at}") for at in range(30))
    yield from (partial(net.release_address, lease) for lease in ("10.0.0.7", "2001:db8::8"))
    yield partial(net.retain, {("c1", "eth0")}, clock.now_ns)
    clock.advance(2 * STICKY_S)
    yield partial(net.allocate_many, [("many1", "eth0"), ("many2", "eth0")])
    cut = _cut(ipam)
    yield from (partial(cut.allocate, f"more{at}") for at in range(3))
    yield from (partial(cut.release, f"cut{at}") for at in range(5))
    yield from (cut._exhausted, cut.stats)
    yield partial(net.reserve, "10.0.0.192/28", owner="ns/db")
    yield partial(net.unreserve, "10.0.0.0/24")
    yield partial(net._adopt, Requester("taken", ""), 4, 0x0A000050, clock.now_ns)
    for look in (net.leases, net._records, net.reservations, net.history):
        yield partial(_read, look)
    yield from (net.stats, net._exhausted, net._cursors, ipam.networks)
    yield partial(net.check, "c1", "eth0")
    yield partial(ipam.network, "n")
    yield from 2 * (partial(sweep, ipam, grace_s=0),)
    yield partial(finish_reboot, ipam)
    chores = Housekeeping(str(path), interval_s=1, grace_s=0)
    yield from 20 * (chores.step,)
    yield partial(backup, ipam.store, path / "copy")
    yield partial(verify, ipam.store)


@pytest.mark.parametrize("seed", SEEDS)
def test_damage_that_nobody_has_mended(seed: int, whole: Path, tmp_path: Path) -> None:
    """Each call does its work, or says that the store is damaged; none ends in another error."""
    chance = random.Random(seed)
    for case in range(CASES):
        path, clock = tmp_path / f"store{case}", Clock()
        clock.advance(100)
        shutil.copytree(whole, path)
        boot = chance.choice(("boot", "boot", "next"))
        with open_with(path, "relaxed", clock=clock, boot_id=lambda boot=boot: boot) as ipam:
            done = [damage(ipam.store, chance) for _ in range(chance.choice((1, 1, 2, 3)))]
            for call in _calls(ipam, path, clock):
                try:
                    call()
                except fastipam.FastipamError:
                    continue
                except Exception as error:
                    raise AssertionError(f"seed {seed}, case {case}: {done}, {call}") from error
        open_stores.close_all()
        shutil.rmtree(path)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_damage(seed: int, whole: Path, tmp_path: Path) -> None:
    """It is repaired, no address that has an owner is freed, and the store works."""
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
