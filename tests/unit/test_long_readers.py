"""Who reads slowly holds no read transaction: LMDB reuses no space that an open one may see."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam.backup import backup, restore
from fastipam.cli import rows
from fastipam.cli.filters import EVERYTHING, Filter
from fastipam.cli.follow import Changes
from fastipam.ipam import Ipam, open_with
from fastipam.network import Network
from fastipam.storage import tables
from fastipam.testing import Clock

FASTIPAM = str(Path(sys.executable).with_name("fastipam"))
PAGE = 64  # entries, for the tests in this process
MANY = 100  # more than a page

ITERATORS: dict[str, Callable[[Ipam, Network], Iterator[Any]]] = {
    "leases": lambda _, net: net.leases(),
    "records": lambda _, net: net._records(),
    "raw leases": lambda _, net: net._raw_leases(),
    "reservations": lambda _, net: net.reservations(),
    "history": lambda _, net: net.history(),
    "unlisted": lambda _, net: net._unlisted((), 1 << 62),
    "list": lambda ipam, _: rows.rows(ipam),
    "list of cooling": lambda ipam, _: rows.rows(
        ipam, wanted=Filter(states=frozenset({"COOLING"}))
    ),
    "list --all": lambda ipam, _: rows.rows(ipam, with_free=True),
}


def _shorten(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let a page have so many entries."""
    monkeypatch.setattr(tables, "PAGE", most)
    assert tables.Table.page.__kwdefaults__ is not None
    monkeypatch.setitem(tables.Table.page.__kwdefaults__, "most", most)


@pytest.fixture
def network(ipam: Ipam, monkeypatch: pytest.MonkeyPatch) -> Network:
    """More leases, cooling addresses, reservations and events than a page has."""
    _shorten(monkeypatch, PAGE)
    net = ipam.network("n", "10.0.0.0/22", history=1000)
    net.allocate_many([(f"c{at}", "eth0") for at in range(2 * MANY)])
    with ipam.transaction() as txn:
        inside = txn.network("n")
        for at in range(MANY):
            inside.release(f"c{at}")
    net.reserve("10.0.3.0/25", owner="ns/db")
    return net


@pytest.mark.parametrize("name", ITERATORS)
def test_no_transaction_between_two_entries(ipam: Ipam, network: Network, name: str) -> None:
    """Every iterator of the library and of a listing holds no reader while its caller has one."""
    found = ITERATORS[name](ipam, network)
    first = next(found)
    assert ipam.store.readers() == []
    rest = list(found)
    assert len(rest) >= MANY - 1
    assert rest[0] != first


def test_the_file_does_not_grow_behind_a_slow_reader(ipam: Ipam, network: Network) -> None:
    """A caller that stops in the middle of an iteration costs the file nothing."""

    def churn() -> int:
        for at in range(300):
            short.allocate(f"x{at}")
            short.release(f"x{at}")
        return ipam.store.file_bytes()

    short = ipam.network("short", "10.9.0.0/24", cooldown_s=0, history=10)
    churn()
    before = churn()
    iterators = [make(ipam, network) for make in ITERATORS.values()]
    for each in iterators:
        next(each)
    assert churn() == before
    for each in iterators:
        assert sum(1 for _ in each) >= MANY - 1


def test_changes_during_an_iteration(network: Network) -> None:
    """Each address comes at most once, in order; what changes behind the page is seen."""
    leases = network.leases()
    first = next(leases)
    network.release(first.container_id)
    last = list(network.leases())[-1]
    network.release(last.container_id)
    late = network.allocate("late", addresses=["10.0.2.255"])
    found = [first.value, *(lease.value for lease in leases)]
    assert found == sorted(set(found))
    assert last.value not in found
    assert late.value in found


def test_a_restore_during_an_iteration(
    ipam: Ipam, network: Network, tmp_path: Path, clock: Clock
) -> None:
    """The name is looked up again for each page: a restored network may have another number."""
    with open_with(tmp_path / "other", "relaxed", clock=clock) as other:
        other.network("first", "10.9.0.0/16").allocate("x")
        other.network("n", "10.0.0.0/22").allocate("y", addresses=["10.0.3.200"])
        backup(other.store, tmp_path / "backup")
    leases = network.leases()
    next(leases)
    restore(ipam.store, tmp_path / "backup", replace=True)
    assert [lease.container_id for lease in leases][-1] == "y"


def test_a_store_that_is_closed_during_an_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next page is refused: the store is closed."""
    _shorten(monkeypatch, PAGE)
    ipam = fastipam.open(tmp_path / "store", "relaxed")
    network = ipam.network("n", "10.0.0.0/22")
    network.allocate_many([(f"c{at}", "eth0") for at in range(MANY)])
    leases = network.leases()
    next(leases)
    ipam.close()
    with pytest.raises(fastipam.StoreClosed):
        list(leases)


FILTERS = [
    EVERYTHING,
    Filter(interval=(4, 0x0A000005, 0x0A000020)),
    Filter(interval=(6, 0, 1 << 127)),
    Filter(states=frozenset({"COOLING"})),
    Filter(states=frozenset({"RESERVED"})),
    Filter(states=frozenset({"COOLING", "RESERVED"}), interval=(4, 0x0A000004, 0x0A00000A)),
    Filter(container="c1"),
    Filter(container="c13", ifname="eth0"),
    Filter(owner="ns/db"),
    Filter(since_ns=1),
]


@pytest.mark.parametrize("wanted", FILTERS)
@pytest.mark.parametrize("with_free", [False, True])
def test_pages_of_a_listing(
    ipam: Ipam, monkeypatch: pytest.MonkeyPatch, wanted: Filter, with_free: bool
) -> None:
    """A listing has the same rows, however its leases and reservations fall into pages."""
    net = ipam.network("n", ["10.0.0.0/26", "fd00::/122"])
    for at in range(20):
        net.allocate(f"c{at}")
    for at in (3, 4, 5, 11):
        net.release(f"c{at}")
    for one in ("10.0.0.2", "10.0.0.9", "10.0.0.16/28", "10.0.0.60", "fd00::20/124"):
        net.reserve(one, owner="ns/db")
    ipam.network("m", "10.1.0.0/29").allocate("other")
    expected = list(rows.rows(ipam, wanted=wanted, with_free=with_free))
    for most in (1, 2, 3, 7, 20):
        _shorten(monkeypatch, most)
        assert list(rows.rows(ipam, wanted=wanted, with_free=with_free)) == expected


def test_pages_of_changes(ipam: Ipam, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened since the last look comes once and in order, a page at a time."""
    _shorten(monkeypatch, 3)
    net = ipam.network("n", "10.0.0.0/26")
    net.allocate("before")
    changes = Changes(ipam, None)
    for at in range(10):
        net.allocate(f"c{at}")
    look = changes.look()
    first = next(look)
    assert ipam.store.readers() == []
    found = [event.container_id for _, event in (first, *look)]
    assert found == [f"c{at}" for at in range(10)]
    assert list(changes.look()) == []


@pytest.mark.parametrize("words", ["list", "list --json", "list --all", "history", "list --watch"])
def test_a_pager_that_nobody_scrolls(tmp_path: Path, words: str) -> None:
    """A command whose output is not read waits without a read transaction."""
    with fastipam.open(tmp_path / "store", "relaxed") as ipam:
        net = ipam.network("n", "10.0.0.0/17")
        net.allocate_many([(f"c{at}", "eth0") for at in range(tables.PAGE)])
        read_end, write_end = os.pipe()
        process = subprocess.Popen(
            [FASTIPAM, *words.split(), "--data-dir", ipam.path], stdout=write_end
        )
        try:
            _wait_until_full(write_end, process)
            assert [one for one in ipam.store.readers() if one[0] == process.pid] == []
        finally:
            process.kill()
            process.wait()
            os.close(write_end)
            os.close(read_end)


def _wait_until_full(write_end: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process that writes into a pipe sleeps, because the pipe is full."""
    for _ in range(3000):
        assert process.poll() is None
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "S" and not select.select([], [write_end], [], 0)[1]:
            return
        time.sleep(0.01)
    raise AssertionError("the pipe is not full")
