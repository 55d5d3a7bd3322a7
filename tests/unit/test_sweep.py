"""The sweeper, with files for network namespaces: what it gives back, and what it never does."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from fastipam.addressing.ranges import Pool
from fastipam.backup import backup, restore
from fastipam.ipam import Ipam
from fastipam.namespaces import Netns, look, mount_namespace
from fastipam.network import Network
from fastipam.repair import repair
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.sweep import Report, Sweeper, missing_count, sweep
from fastipam.testing import Clock
from fastipam.verify import verify

from ..ids import POOL_ID

POOL = "10.0.0.0/16"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory in which the "namespaces" are."""
    directory = tmp_path / "netns"
    directory.mkdir()
    return directory


@pytest.fixture
def net(ipam: Ipam) -> Network:
    return ipam.network("n", POOL)


def start(net: Network, run: Path, name: str, *, mount_ns: int | None = None) -> Path:
    """A container with a namespace and an address."""
    path = run / name
    path.touch()
    add(net, path, name, mount_ns=mount_ns)
    return path


def add(
    net: Network, path: Path, name: str, ifname: str = "eth0", *, mount_ns: int | None = None
) -> None:
    """An ADD for what is at a path."""
    _, inode, born_ns = look(str(path))
    here = mount_namespace() if mount_ns is None else mount_ns
    net.allocate(name, ifname, netns=Netns(str(path), inode=inode, mount_ns=here, born_ns=born_ns))


def make_anew(path: Path) -> None:
    """Another namespace of the same path and, as the kernel has it, the same inode."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def names(net: Network) -> list[str]:
    return [lease.container_id for lease in net.leases()]


def numbers(report: Report) -> tuple[int, int, int, int]:
    return report.looked, len(report.missing), len(report.released), len(report.unknown)


def test_two_looks(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A namespace that is gone is noted, and after the grace time its address is given back."""
    start(net, run, "a")
    start(net, run, "b").unlink()
    assert numbers(sweep(ipam)) == (2, 1, 0, 0)
    assert missing_count(ipam.store) == 1
    clock.advance(59)
    assert numbers(sweep(ipam)) == (2, 1, 0, 0)
    clock.advance(1)
    report = sweep(ipam)
    assert [lease.container_id for lease in report.released] == ["b"]
    assert names(net) == ["a"]
    assert net.stats().cooling == 1
    assert [event.kind for event in net.history()][-1] == "swept"
    assert missing_count(ipam.store) == 0
    assert numbers(sweep(ipam)) == (1, 0, 0, 0)


def test_nothing_to_note(
    ipam: Ipam, net: Network, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that finds every namespace writes nothing: no writer waits for it."""
    start(net, run, "a")
    with ipam.store.read() as txn:
        before = txn.number

    def refuse() -> None:
        raise AssertionError("it writes")

    monkeypatch.setattr(ipam.store, "write", refuse)
    assert numbers(sweep(ipam)) == (1, 0, 0, 0)
    monkeypatch.undo()
    with ipam.store.read() as txn:
        assert txn.number == before


def test_grace_time_zero_wants_two_looks(ipam: Ipam, net: Network, run: Path) -> None:
    """One look is never enough."""
    start(net, run, "a").unlink()
    assert numbers(sweep(ipam, grace_s=0)) == (1, 1, 0, 0)
    assert numbers(sweep(ipam, grace_s=0)) == (1, 0, 1, 0)


def test_clock_steps_back(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A wall clock that is set back does not make a lease wait until it has caught up."""
    start(net, run, "a").unlink()
    clock.advance(-86_400)
    sweep(ipam)
    clock.advance(60)
    assert numbers(sweep(ipam)) == (1, 0, 1, 0)


def test_clock_that_was_ahead(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A first look while the wall clock is centuries ahead counts from then on, not for ever."""
    ahead_s = 150 * 365 * 86_400
    start(net, run, "a").unlink()
    clock.advance(ahead_s)
    assert numbers(sweep(ipam)) == (1, 1, 0, 0)
    clock.advance(-ahead_s)
    assert numbers(sweep(ipam)) == (1, 1, 0, 0)
    clock.advance(60)
    assert numbers(sweep(ipam)) == (1, 0, 1, 0)


def test_it_comes_back(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A namespace that is there again is as if it had never been away."""
    path = start(net, run, "a")
    other = run / "moved"
    path.rename(other)
    sweep(ipam)
    other.rename(path)
    clock.advance(61)
    assert numbers(sweep(ipam)) == (1, 0, 0, 0)
    path.unlink()
    assert numbers(sweep(ipam)) == (1, 1, 0, 0)


def test_name_taken_over(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A name that another namespace took since the first look has to be seen twice as well."""
    path = start(net, run, "a")
    keep = run / "keep"
    path.rename(keep)  # its inode stays in use
    sweep(ipam)
    clock.advance(61)
    path.touch()
    net.allocate(
        "new", netns=Netns(str(path), inode=path.stat().st_ino, mount_ns=mount_namespace())
    )
    assert numbers(sweep(ipam)) == (2, 1, 0, 0)
    clock.advance(61)
    assert numbers(sweep(ipam)) == (2, 0, 1, 0)
    assert names(net) == ["new"]


def test_successor_of_a_noted_address(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """Whoever gets the address of a noted lease begins without a note."""
    start(net, run, "a").unlink()
    sweep(ipam)
    net.release("a")
    clock.advance(61)
    path = run / "b"
    net.allocate(
        "b", addresses=["10.0.0.2"], netns=Netns(str(path), inode=7, mount_ns=mount_namespace())
    )
    assert numbers(sweep(ipam)) == (1, 1, 0, 0)
    assert names(net) == ["b"]


def test_note_of_a_lease_that_ended(ipam: Ipam, net: Network, run: Path) -> None:
    """A note does not outlive its lease."""
    start(net, run, "a").unlink()
    sweep(ipam)
    net.release("a")
    sweep(ipam)
    assert missing_count(ipam.store) == 0


def test_inode_used_again(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A new namespace of the same path and inode does not hide that the older one is gone."""
    path = start(net, run, "a")
    start(net, run, "other")
    make_anew(path)
    add(net, path, "b")
    assert numbers(sweep(ipam)) == (3, 1, 0, 0)
    assert missing_count(ipam.store) == 1
    clock.advance(59)
    assert numbers(sweep(ipam)) == (3, 1, 0, 0)
    clock.advance(1)
    assert [lease.container_id for lease in sweep(ipam).released] == ["a"]
    assert names(net) == ["other", "b"]
    assert missing_count(ipam.store) == 0


def test_inode_used_again_and_again(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """The third namespace in one place is a new finding; then both of the earlier ones are gone."""
    path = start(net, run, "a")
    make_anew(path)
    add(net, path, "b")
    sweep(ipam)
    clock.advance(61)
    make_anew(path)
    add(net, path, "c")
    assert numbers(sweep(ipam)) == (3, 2, 0, 0)
    clock.advance(61)
    assert len(sweep(ipam).released) == 2
    assert names(net) == ["c"]


@pytest.mark.parametrize(
    ("container", "ifname", "later"),
    [
        (None, "", True),  # mounted anew: nobody has said that there is another
        ("a", "net1", True),  # of the container that was there before
        ("b", "net1", True),  # may be a second interface of the namespace
        ("b", "eth0", False),  # the file was made anew after that one's ADD, too
    ],
)
def test_no_witness(  # fixtures, and a case
    ipam: Ipam,
    net: Network,
    run: Path,
    clock: Clock,
    container: str | None,
    ifname: str,
    later: bool,
) -> None:
    """Another time of the file alone frees nobody: the living may have been mounted anew."""
    path = start(net, run, "a")
    if not later and container:
        add(net, path, container, ifname)
    make_anew(path)
    if later and container:
        add(net, path, container, ifname)
    for _ in range(3):
        report = sweep(ipam)
        assert (report.missing, report.released, report.unknown) == ([], [], [])
        clock.advance(100)
    assert "a" in names(net)


def test_second_add_in_a_living_namespace(
    ipam: Ipam, net: Network, run: Path, clock: Clock
) -> None:
    """A failed ADD of another container in a namespace that lives takes nothing from it."""
    path = start(net, run, "a")
    add(net, path, "b")
    for _ in range(3):
        assert numbers(sweep(ipam)) == (2, 0, 0, 0)
        clock.advance(100)
    assert names(net) == ["a", "b"]


@pytest.mark.parametrize("mount_ns", [0, 1])
def test_mounts_that_do_not_come_here(
    ipam: Ipam, net: Network, run: Path, clock: Clock, mount_ns: int
) -> None:
    """Where new mounts are not seen, what was mounted later looks like a plain file: it stays.

    An agent in a container without mount propagation sees the namespaces that were there before
    it, and of the others the files on which they are mounted.
    """
    start(net, run, "before", mount_ns=mount_ns)
    (run / "later").touch()
    net.allocate("later", netns=Netns(str(run / "later"), inode=7, mount_ns=mount_ns, born_ns=8))
    for _ in range(3):
        report = sweep(ipam)
        assert numbers(report) == (2, 0, 0, 1)
        assert "do not propagate here" in report.unknown[0][1]
        clock.advance(100)
    (run / "later").unlink()
    sweep(ipam)
    clock.advance(100)
    assert numbers(sweep(ipam)) == (2, 0, 1, 0)


@pytest.mark.parametrize("seen", ["no path", "relative", "unreadable"])
def test_what_cannot_be_judged(
    ipam: Ipam, net: Network, run: Path, clock: Clock, seen: str
) -> None:
    """A lease whose namespace cannot be looked at stays, and the report says why."""
    path = {"no path": "", "relative": "netns/x", "unreadable": str(run / ("x" * 300))}[seen]
    net.allocate("a", netns=Netns(path, mount_ns=mount_namespace()))
    for _ in range(3):
        report = sweep(ipam)
        assert numbers(report) == (1, 0, 0, 1)
        assert report.unknown[0][0].container_id == "a"
        assert report.unknown[0][1]
        clock.advance(100)
    assert names(net) == ["a"]


@pytest.mark.parametrize("mount_ns", [0, 1])
def test_other_mount_namespace(
    ipam: Ipam, net: Network, run: Path, clock: Clock, mount_ns: int
) -> None:
    """A path that was noted elsewhere means nothing here, until a living lease proves it."""
    start(net, run, "a", mount_ns=mount_ns).unlink()
    for _ in range(3):
        assert numbers(sweep(ipam)) == (1, 0, 0, 1)
        clock.advance(100)
    start(net, run, "b", mount_ns=mount_ns)
    sweep(ipam)
    clock.advance(100)
    assert numbers(sweep(ipam)) == (2, 0, 1, 0)
    assert names(net) == ["b"]


def test_dry_run(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A dry run says what a sweep would do, and neither does nor notes it."""
    start(net, run, "a").unlink()
    assert numbers(sweep(ipam, dry_run=True)) == (1, 1, 0, 0)
    assert missing_count(ipam.store) == 0
    sweep(ipam)
    clock.advance(100)
    assert numbers(sweep(ipam, dry_run=True)) == (1, 0, 1, 0)
    assert names(net) == ["a"]


@pytest.mark.parametrize("taken", [True, False])
def test_younger_than_the_look(
    ipam: Ipam, net: Network, run: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """What was seen of a lease that ended meanwhile touches neither a successor nor any other."""
    for name in ("a", "z"):
        start(net, run, name).unlink()
    sweep(ipam, grace_s=0)
    ipam.network("n", cooldown_s=0)
    real = os.lstat

    def late(path: str, **options: object) -> os.stat_result:
        if str(path).endswith("netns/a") and "a" in names(net):
            net.release("a")
            if taken:
                net.allocate("b", addresses=["10.0.0.2"])
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("fastipam.namespaces.os.lstat", late)
    report = sweep(ipam, grace_s=0)
    assert [lease.container_id for lease in report.released] == ["z"]
    assert names(net) == (["b"] if taken else [])


def test_behind_a_link(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A path that is a link, as in /proc: what it leads to has no time, and is there or is not."""
    link = run / "link"
    for name in ("first", "second", "third"):
        (run / name).touch()
    link.symlink_to(run / "first")
    add(net, link, "a")
    for _ in range(3):
        assert numbers(sweep(ipam)) == (1, 0, 0, 0)
        clock.advance(100)
    for name in ("second", "third"):  # each of them is another finding
        link.unlink()
        link.symlink_to(run / name)
        assert numbers(sweep(ipam)) == (1, 1, 0, 0)
        clock.advance(100)
    assert numbers(sweep(ipam)) == (1, 0, 1, 0)


def test_address_0_between_two_steps(
    ipam: Ipam, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search goes on at the lease that did not fit, be its address 0."""
    monkeypatch.setattr("fastipam.sweep.sweeper._BATCH", 2)
    # No configuration can have the address 0, but a store of an earlier version may have it.
    pool = Pool.read("10.0.0.0/24 10.0.0.1 10.0.0.254 10.0.0.1\n::/64 :: ::ffff ::1")
    net = Network(ipam.store, "n", pool)
    for name in ("a", "b"):
        start(net, run, name)
    sweeper = Sweeper(ipam.store, net, dry_run=True)
    looked = [report.looked for report in islice(sweeper, 20)]
    assert [one for one in looked if one] == [2, 2]


def test_dual_stack_goes_together(ipam: Ipam, run: Path, clock: Clock) -> None:
    """What an owner has goes with the first of it that is due, and all of it is reported."""
    dual = ipam.network("d", ["10.1.0.0/24", "2001:db8::/64"])
    start(dual, run, "proof")
    start(dual, run, "a").unlink()
    assert numbers(sweep(ipam)) == (4, 2, 0, 0)
    clock.advance(60)
    report = sweep(ipam)
    assert [lease.cidr for lease in report.released] == ["10.1.0.3/24", "2001:db8::3/64"]
    assert report.missing == []
    assert names(dual) == ["proof", "proof"]
    assert missing_count(ipam.store) == 0


def test_half_of_an_owner_is_due(ipam: Ipam, run: Path, clock: Clock) -> None:
    """What the report calls given back is given back, if another address of the owner waited."""
    dual = ipam.network("d", ["10.1.0.0/24", "2001:db8::/64"])
    start(dual, run, "proof")
    start(dual, run, "a").unlink()
    sweep(ipam)
    clock.advance(60)
    (key,) = [one for one in _noted(ipam) if one[4] == 6]
    with ipam.store.write() as txn:
        tables.MISSING.delete(txn, key)
    assert len(sweep(ipam).released) == 2
    assert names(dual) == ["proof", "proof"]


def _noted(ipam: Ipam) -> list[bytes]:
    with ipam.store.read() as txn:
        return [bytes(key) for key, _ in tables.MISSING.scan(txn)]


def test_network_that_a_restore_takes_away(
    ipam: Ipam, net: Network, run: Path, tmp_path: Path
) -> None:
    """A sweep goes on when the store it looks at is replaced by one that has no such network."""
    backup(ipam.store, tmp_path / "empty")
    start(net, run, "a").unlink()
    for report in Sweeper(ipam.store, net, grace_s=0, dry_run=False):
        assert not report.released
        restore(ipam.store, tmp_path / "empty", replace=True)


def test_note_that_cannot_be_read(ipam: Ipam, net: Network, run: Path) -> None:
    """A damaged note says nothing: the lease is looked at twice from then on."""
    start(net, run, "a").unlink()
    sweep(ipam, grace_s=0)
    (key,) = _noted(ipam)
    with ipam.store.write() as txn:
        tables.MISSING.put(txn, key, b"?")
    assert numbers(sweep(ipam, grace_s=0)) == (1, 1, 0, 0)
    assert numbers(sweep(ipam, grace_s=0)) == (1, 0, 1, 0)


def test_restored_meanwhile(
    ipam: Ipam, net: Network, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that is restored during the look, without the network: there is nothing to do."""
    backup(ipam.store, tmp_path / "before")
    start(net, run, "a").unlink()
    looks = 0
    real = os.lstat

    def late(path: str, **options: object) -> os.stat_result:
        nonlocal looks
        if str(path).endswith("netns/a"):
            looks += 1
            if looks == 2:  # the one that is judged
                restore(ipam.store, tmp_path / "before", replace=True)
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("fastipam.namespaces.os.lstat", late)
    assert numbers(sweep(ipam)) == (1, 0, 0, 0)
    assert ipam.networks() == []


def test_reports_add_up(
    ipam: Ipam, run: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found a few leases at a time, in several networks, is in one report, in order."""
    monkeypatch.setattr("fastipam.sweep.sweeper._BATCH", 2)
    for name in ("m", "n"):
        net = ipam.network(name, POOL)
        for at in range(3):
            start(net, run, f"{name}-alive{at}")
            start(net, run, f"{name}-dead{at}").unlink()
            net.allocate(f"{name}-odd{at}")
    wanted = [f"{name}-dead{at}" for name in ("m", "n") for at in range(3)]
    steps: list[int] = []
    report = sweep(ipam, progress=steps.append)
    assert [lease.container_id for lease in report.missing] == wanted
    assert [lease.network for lease in report.missing] == ["m"] * 3 + ["n"] * 3
    assert [lease.container_id for lease, _ in report.unknown] == [
        f"{name}-odd{at}" for name in ("m", "n") for at in range(3)
    ]
    assert steps == sorted(steps)
    assert (steps[-1], report.looked, report.released) == (18, 18, [])
    assert missing_count(ipam.store) == 6
    clock.advance(60)
    report = sweep(ipam)
    assert [lease.container_id for lease in report.released] == wanted
    assert (report.looked, report.missing, missing_count(ipam.store)) == (18, [], 0)


def test_many_doubts(
    ipam: Ipam, net: Network, run: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubted leases with a witness go, those without lose their note, however many there are."""
    monkeypatch.setattr("fastipam.sweep.sweeper._BATCH", 2)
    living = [start(net, run, f"living{at}") for at in range(5)]
    for path in living:
        path.rename(run / f"{path.name}-away")
    replaced = [start(net, run, f"old{at}") for at in range(3)]
    assert numbers(sweep(ipam)) == (8, 5, 0, 0)
    for path in living:  # it is there again, mounted anew
        (run / f"{path.name}-away").rename(path)
        make_anew(path)
    for at, path in enumerate(replaced):
        make_anew(path)
        add(net, path, f"new{at}")
    assert numbers(sweep(ipam)) == (11, 3, 0, 0)
    assert missing_count(ipam.store) == 3
    clock.advance(60)
    assert [lease.container_id for lease in sweep(ipam).released] == ["old0", "old1", "old2"]
    assert missing_count(ipam.store) == 0


def test_notes_that_are_forgotten(
    ipam: Ipam, net: Network, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notes of leases that ended go, of this network alone, however many there are."""
    monkeypatch.setattr("fastipam.sweep.sweeper._BATCH", 2)
    other = ipam.network("other", POOL)
    for at in range(5):
        start(net, run, f"a{at}").unlink()
        start(other, run, f"b{at}").unlink()
    assert len(sweep(ipam).missing) == 10
    for at in range(5):
        net.release(f"a{at}")
        other.release(f"b{at}")
    sweep(ipam, network="other")
    assert missing_count(ipam.store) == 5
    sweep(ipam)
    assert missing_count(ipam.store) == 0


def test_many(ipam: Ipam, run: Path, clock: Clock) -> None:
    """More leases than fit in a batch, over two networks, with progress."""
    for name in ("n", "m"):
        net = ipam.network(name, POOL)
        net.allocate_many(
            [(f"{name}{at}", "eth0") for at in range(600)], netns=Netns(str(run / "shared"))
        )
    start(ipam.network("n"), run, "alive")
    (run / "shared").touch()
    steps: list[int] = []
    assert sweep(ipam, progress=steps.append).looked == 1201
    assert steps[-1] == 1201
    (run / "shared").unlink()
    sweep(ipam)
    clock.advance(100)
    assert len(sweep(ipam, network="n").released) == 600
    assert names(ipam.network("n")) == ["alive"]
    assert len(names(ipam.network("m"))) == 600
    assert not verify(ipam.store)


def test_repaired_meanwhile(ipam: Ipam, net: Network, run: Path, clock: Clock) -> None:
    """A lost state takes the pool's clock with it: the grace time begins at the next sweep."""
    start(net, run, "a").unlink()
    net.reserve("10.0.0.9")  # the pool's clock is ahead of the wall clock now
    sweep(ipam)
    assert missing_count(ipam.store) == 1
    with ipam.store.write() as txn:
        tables.MAIN.delete(txn, keys.state_key(POOL_ID))
    repair(ipam.store)
    assert missing_count(ipam.store) == 0
    sweep(ipam)
    clock.advance(60)
    assert [lease.container_id for lease in sweep(ipam).released] == ["a"]
