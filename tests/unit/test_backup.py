"""Backup and restore, while others write, after a reboot, and of files that are no backup."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from pathlib import Path

import lmdb
import pytest

import fastipam
from fastipam.backup import backup, restore
from fastipam.errors import ConfigError, StoreCorrupt, StoreError, StoreUnavailable
from fastipam.ipam import Ipam, open_with
from fastipam.lease import Requester
from fastipam.network import Network
from fastipam.testing import Clock
from fastipam.verify import verify

from ..ids import POOL_ID

POOL = "10.0.0.0/16"


def addresses(ipam: Ipam, name: str = "n") -> dict[str, str]:
    return {one.container_id: str(one.address) for one in ipam.network(name).leases()}


def test_round_trip(ipam: Ipam, tmp_path: Path, clock: Clock) -> None:
    """All that a store holds comes back: leases, cooling ones, reservations, history."""
    net = ipam.network("n", [POOL, "2001:db8::/64"])
    net.allocate_many([(f"c{at}", "eth0") for at in range(300)])
    net.release("c3")
    net.reserve("10.0.9.0/28", owner="ns/db", reason="printer")
    file = tmp_path / "backup"
    assert backup(ipam.store, file) == file.stat().st_size
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = addresses(ipam), net.stats(), list(map(repr, net.history()))
    with open_with(tmp_path / "other", "relaxed", clock=clock) as other:
        steps: list[tuple[int, int]] = []
        assert restore(other.store, file, progress=lambda *at: steps.append(at)) > 300
        assert steps[-1][0] == steps[-1][1]
        assert not verify(other.store)
        again = other.network("n")
        found = addresses(other), again.stats(), list(map(repr, again.history()))
        assert found == before
        assert again.allocate("new").value not in {one.value for one in net.leases()}
        assert not verify(other.store)


def test_policy_of_another_network(ipam: Ipam, tmp_path: Path, clock: Clock) -> None:
    """A network does not get what was remembered of the one that had its number before."""
    Network(ipam.store, "n", None)._adopt(Requester("a", ""), 4, 0x0A000005, clock.now_ns)
    backup(ipam.store, tmp_path / "backup")
    with open_with(tmp_path / "other", "relaxed", clock=clock) as other:
        other.network("m", POOL, cooldown_s=7, cooldown_policy="strict").allocate("b")
        restore(other.store, tmp_path / "backup", replace=True)
        policy = other.network("n").policy
        assert (policy.cooldown_ns, policy.strict) == (30 * 10**9, False)
        assert not verify(other.store)


def test_what_a_killed_restore_has_left(ipam: Ipam, tmp_path: Path) -> None:
    """Its copy goes with the next restore; that of one which is under way does not."""
    ipam.network("n", POOL).allocate("a")
    backup(ipam.store, tmp_path / "backup")
    left, busy = (Path(ipam.path) / f"restore-{name}" for name in ("left", "busy"))
    for directory in (left, busy):
        directory.mkdir()
        (directory / "data.mdb").write_bytes(b"a copy")
    working = os.open(busy, os.O_RDONLY)
    fcntl.flock(working, fcntl.LOCK_EX)
    restore(ipam.store, tmp_path / "backup", replace=True)
    os.close(working)
    assert not left.exists()
    assert (busy / "data.mdb").exists()
    assert sorted(one.name for one in Path(ipam.path).iterdir() if one.is_dir()) == ["restore-busy"]


def test_backup_while_others_write(ipam: Ipam, tmp_path: Path) -> None:
    """A backup is one moment's state, whatever is written meanwhile."""
    net = ipam.network("n", POOL)
    stop = threading.Event()

    def churn() -> None:
        at = 0
        while not stop.is_set():
            net.allocate(f"w{at}")
            net.release(f"w{at - 50}")
            at += 1

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        for at in range(10):
            backup(ipam.store, tmp_path / f"backup{at}")
    finally:
        stop.set()
        writer.join()
    for at in range(10):
        with fastipam.open(tmp_path / f"other{at}", "relaxed") as other:
            restore(other.store, tmp_path / f"backup{at}")
            assert not verify(other.store)


def test_restore_under_a_running_program(ipam: Ipam, tmp_path: Path) -> None:
    """Who has the store open sees the restored content at once, and goes on with it."""
    net = ipam.network("n", POOL)
    kept = net.allocate("kept")
    backup(ipam.store, tmp_path / "backup")
    late = net.allocate("late")
    restore(ipam.store, tmp_path / "backup", replace=True)
    assert net.lookup(str(kept.address).partition("/")[0]) == kept
    assert net._lookup((late.family, late.value)) is None
    assert net.allocate("late").value == late.value


def test_restore_needs_consent(ipam: Ipam, tmp_path: Path) -> None:
    """A store with leases is not replaced by accident."""
    net = ipam.network("n", POOL)
    net.allocate("a")
    backup(ipam.store, tmp_path / "backup")
    with pytest.raises(ConfigError, match="has leases or reservations") as caught:
        restore(ipam.store, tmp_path / "backup")
    assert caught.value.field == "replace"
    assert list(addresses(ipam)) == ["a"]


@pytest.mark.parametrize(("then", "left"), [("boot-1", ["a"]), ("boot-2", [])])
def test_restore_and_boots(tmp_path: Path, then: str, left: list[str], clock: Clock) -> None:
    """Leases of the running boot stay, those of an earlier one are given back."""
    with open_with(tmp_path / "one", "relaxed", clock=clock, boot_id=lambda: "boot-1") as one:
        one.network("n", POOL).allocate("a")
        backup(one.store, tmp_path / "backup")
    with open_with(tmp_path / "two", "relaxed", clock=clock, boot_id=lambda: then) as two:
        two.network("n", POOL).allocate("before")
        restore(two.store, tmp_path / "backup", replace=True)
        assert list(addresses(two)) == left
        assert two.network("n").stats().assigned == len(left)
        assert not verify(two.store)


def test_generations_go_on(ipam: Ipam, tmp_path: Path) -> None:
    """A generation that was given after the backup is not given again after the restore."""
    net = ipam.network("n", POOL)
    ipam.network("other", POOL).allocate("x")
    net.allocate("a")
    backup(ipam.store, tmp_path / "backup")
    late = net.allocate("b")
    restore(ipam.store, tmp_path / "backup", replace=True)
    successor = net.allocate("c", addresses=[str(late.address.ip)])
    assert successor.generation > late.generation
    assert net._release_at((late.family, late.value), generation=late.generation) is None
    assert net._lookup((late.family, late.value)) == successor
    assert not verify(ipam.store)


def test_no_file_to_replace(ipam: Ipam, tmp_path: Path) -> None:
    """What stands under the name and is no file, a device say, stays what it is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/null")):
        with pytest.raises(StoreUnavailable, match="not a file"):
            backup(ipam.store, path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb", "turn.lock", "new"])
@pytest.mark.parametrize("whose", ["own", "other", "link"])
@pytest.mark.parametrize("force", [False, True])
def test_backup_into_a_store(
    ipam: Ipam, tmp_path: Path, name: str, whose: str, force: bool
) -> None:
    """No file in the data directory of a store is written, be it this store or another."""
    ipam.network("n", POOL).allocate("a")
    directory = Path(ipam.path)
    if whose == "other":
        directory = tmp_path / "other"
        fastipam.open(directory, "relaxed").close()
    elif whose == "link":
        directory = tmp_path / "link"
        directory.symlink_to(ipam.path)
    before = {one.name: one.stat().st_ino for one in directory.iterdir()}
    with pytest.raises(ConfigError, match="data directory of a store") as caught:
        backup(ipam.store, directory / name, force=force)
    assert (caught.value.field, caught.value.value) == ("FILE", str(directory / name))
    assert {one.name: one.stat().st_ino for one in directory.iterdir()} == before


@pytest.mark.parametrize("content", [b"my thesis\n", bytes(1 << 16), b"\xde\xc0\xef\xbe" * 4096])
def test_backup_over_another_file(ipam: Ipam, tmp_path: Path, content: bytes) -> None:
    """A file that is no backup is replaced only with ``force``."""
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="not a fastipam backup"):
        backup(ipam.store, file)
    assert file.read_bytes() == content
    assert backup(ipam.store, file, force=True) == file.stat().st_size


def test_backup_over_an_lmdb_file(ipam: Ipam, tmp_path: Path) -> None:
    """An LMDB file of another program is no backup, however many databases it has."""
    file = tmp_path / "file"
    with lmdb.open(str(file), subdir=False, max_dbs=2, lock=False) as env:
        env.open_db(b"meta")
        with pytest.raises(ConfigError, match="not a fastipam backup"):
            backup(ipam.store, file)


def test_backup_over_a_backup(ipam: Ipam, tmp_path: Path) -> None:
    """An older backup is replaced, also one that is called data.mdb, and an empty file."""
    ipam.network("n", POOL).allocate("a")
    for file in (tmp_path / "backup", tmp_path / "data.mdb"):
        file.touch()
        for _ in range(2):
            assert backup(ipam.store, file) == file.stat().st_size


def test_backup_replaces_a_link(ipam: Ipam, tmp_path: Path) -> None:
    """A symbolic link under the name is replaced: what it leads to stays as it is."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    for target in (victim, Path(ipam.path) / "data.mdb", tmp_path):
        victim.write_text("precious")
        inode = target.stat().st_ino
        link.symlink_to(target)
        backup(ipam.store, link)
        assert not link.is_symlink()
        assert (target.stat().st_ino, victim.read_text()) == (inode, "precious")
        link.unlink()


def test_durability_stays(tmp_path: Path) -> None:
    """The durability is the store's, not the backup's."""
    with fastipam.open(tmp_path / "one", "relaxed") as one:
        one.network("n", POOL).allocate("a")
        backup(one.store, tmp_path / "backup")
    with fastipam.open(tmp_path / "two", "durable") as two:
        restore(two.store, tmp_path / "backup")
    with fastipam.open(tmp_path / "two") as two:
        assert two.durability == "durable"
        assert list(addresses(two)) == ["a"]


@pytest.mark.parametrize("content", [b"", b"no store", b"\0" * 8192])
def test_no_backup(ipam: Ipam, tmp_path: Path, content: bytes) -> None:
    """A file that is no backup is refused by its name, and nothing changes."""
    ipam.network("n", POOL).allocate("a")
    file = tmp_path / "nonsense"
    file.write_bytes(content)
    with pytest.raises(StoreError, match="nonsense"):
        restore(ipam.store, file, replace=True)
    assert list(addresses(ipam)) == ["a"]
    assert [one for one in os.listdir(ipam.path) if one.startswith("restore")] == []


def test_damaged_backup(ipam: Ipam, tmp_path: Path) -> None:
    """A backup that contradicts itself is refused with the first contradiction."""
    net = ipam.network("n", POOL)
    lease = net.allocate("a")
    with fastipam.open(tmp_path / "bad", "relaxed") as bad:
        restore_from = tmp_path / "backup"
        bad.network("n", POOL).allocate("b")
        with bad.store.write() as txn:
            txn.pages(POOL_ID, 4).acquire(lease.value + 1)
        backup(bad.store, restore_from)
    with pytest.raises(StoreCorrupt, match="is not consistent"):
        restore(ipam.store, restore_from, replace=True)
    assert list(addresses(ipam)) == ["a"]


def test_backup_without_a_place(ipam: Ipam, tmp_path: Path) -> None:
    """A backup that cannot be written says so and leaves nothing behind."""
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        backup(ipam.store, tmp_path / "missing" / "backup")
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreUnavailable):
        backup(ipam.store, tmp_path / "directory")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreUnavailable, match="not a file"):
        backup(ipam.store, tmp_path / "pipe")
    assert sorted(os.listdir(tmp_path)) == ["directory", "pipe", "store"]
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        restore(ipam.store, tmp_path / "missing")
