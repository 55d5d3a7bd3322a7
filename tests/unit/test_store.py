"""Opening a store: what is refused and why, who may use it, what a failure leaves behind."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

import fastipam
from fastipam import (
    ConfigError,
    FastipamError,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreForked,
    StoreFull,
    StoreUnavailable,
    StoreVersion,
    errors,
)
from fastipam.ipam import open_with
from fastipam.storage import lmdb_errors, tables
from fastipam.storage.open_stores import close_store, open_store
from fastipam.storage.records import keys
from fastipam.storage.store import Store
from fastipam.storage.transaction import Transaction
from fastipam.storage.truncation import missing_page
from fastipam.verify import verify

V4 = "10.0.0.0/16"


def _in_transaction(ipam: fastipam.Ipam) -> bool:
    """Whether this thread has a write transaction open."""
    return getattr(ipam.store.local, "transaction", None) is not None


def fill(path: Path, durability: str = "relaxed", count: int = 3000) -> None:
    """Make a store with a few thousand leases."""
    with open_with(path, durability) as ipam:
        ipam.network("n", V4).allocate_many([(f"c{at}", "eth0") for at in range(count)])


def content(path: Path) -> dict[str, bytes]:
    """The bytes of the data file and what else lies there, but for the lock file."""
    return {each.name: each.read_bytes() for each in path.iterdir() if each.name != "lock.mdb"}


def edit_meta(path: Path, key: bytes, value: bytes | None) -> None:
    with lmdb.open(str(path), max_dbs=32) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            if value is None:
                txn.delete(key, db=meta)
            else:
                txn.put(key, value, db=meta)


def run(code: str, *arguments: object, umask: int = -1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        umask=umask,
        timeout=60,
        check=False,
    )


def in_child(work: Callable[[], object]) -> str:
    """Run ``work`` in a forked child; its result or its error, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = repr(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return text


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [1, 3, 5, 9])
def test_other_schema(data_dir: Path, schema: int) -> None:
    """A store of another schema is refused with both numbers, and not a byte of it changes."""
    fill(data_dir)
    edit_meta(data_dir, b"schema", schema.to_bytes(4, "big"))
    with lmdb.open(str(data_dir), max_dbs=32) as env, env.begin(write=True) as txn:
        txn.drop(env.open_db(b"cooldown", txn=txn))  # a schema may have dropped one of ours
    before = content(data_dir)
    with pytest.raises(StoreVersion, match=f"has schema {schema}, this fastipam knows 4") as caught:
        open_with(data_dir, boot_id=lambda: "another boot")
    assert caught.value.path == str(data_dir)
    assert content(data_dir) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"schema", b""),
        (b"schema", None),
        (b"schema", bytes(4)),
        (b"durability", b"strong"),
        (b"durability", None),
    ],
)
def test_damaged_meta(data_dir: Path, key: bytes, value: bytes | None) -> None:
    """A store that does not say what it is, is damaged, and stays as it is."""
    fill(data_dir)
    edit_meta(data_dir, key, value)
    before = content(data_dir)
    with pytest.raises(StoreCorrupt, match=f"no valid {key.decode()}"):
        open_with(data_dir, boot_id=lambda: "another boot")
    assert content(data_dir) == before


def test_missing_database(data_dir: Path) -> None:
    """A store of which a database is gone is damaged; none is made in its place."""
    fill(data_dir)
    with lmdb.open(str(data_dir), max_dbs=32) as env, env.begin(write=True) as txn:
        txn.drop(env.open_db(b"owners", txn=txn))
    before = content(data_dir)
    with pytest.raises(StoreCorrupt):
        fastipam.open(data_dir)
    assert content(data_dir) == before


@pytest.mark.parametrize("kind", ["empty", "keys", "database", "meta key", "meta database"])
def test_foreign_environment(data_dir: Path, kind: str) -> None:
    """Another program's LMDB environment is refused and not touched, whatever names it uses."""
    with lmdb.open(str(data_dir), max_dbs=4) as env:
        name = b"meta" if "meta" in kind else b"theirs"
        db = env.open_db(name) if "database" in kind else None
        with env.begin(write=True) as txn:
            txn.put(name, b"x", db=db)
            if kind == "empty":
                txn.delete(name)
    before = content(data_dir)
    with pytest.raises(StoreCorrupt):
        fastipam.open(data_dir)
    assert content(data_dir) == before


@pytest.mark.parametrize("raw", [b"x", b"not an LMDB file" * 1000, bytes(8192), b"\0" * 100000])
def test_not_an_lmdb_file(data_dir: Path, raw: bytes) -> None:
    """A file of something else is refused, with what to do, and kept."""
    data_dir.mkdir()
    (data_dir / "data.mdb").write_bytes(raw)
    with pytest.raises(StoreCorrupt, match="usable LMDB file") as caught:
        fastipam.open(data_dir)
    assert caught.value.hint == lmdb_errors.REPLACE_HINT
    assert content(data_dir)["data.mdb"] == raw


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.5, 0.7, 0.95])
def test_truncated_file(data_dir: Path, share: float) -> None:
    """A data file that was cut short is refused: LMDB itself would end the process by SIGBUS."""
    fill(data_dir, count=20000)
    file = data_dir / "data.mdb"
    os.truncate(file, int(file.stat().st_size * share))
    before = content(data_dir)
    code = "import fastipam, sys; i = fastipam.open(sys.argv[1]); list(i.network('n').leases())"
    done = run(code, data_dir)
    assert done.returncode == 1, done
    assert "StoreCorrupt" in done.stderr
    assert content(data_dir) == before


def test_file_without_a_page_that_is_not_used(data_dir: Path) -> None:
    """A file that ends early, but has every page in use, is whole."""
    fill(data_dir, count=20000)
    with fastipam.open(data_dir) as ipam, ipam.transaction() as txn:
        net = txn.network("n", cooldown_s=0)
        for at in range(20000):
            net.release(f"c{at}")
    file = data_dir / "data.mdb"
    assert missing_page(str(file), 4096) is None
    pages = file.stat().st_size // 4096
    while missing_page(str(file), 4096) is None:
        pages -= 1
        os.truncate(file, pages * 4096)
    with pytest.raises(StoreCorrupt, match=f"page {pages} of 4096 bytes"):
        fastipam.open(data_dir)


def test_path_is_a_file(tmp_path: Path) -> None:
    """A path that is a file, or leads through one, cannot be a data directory."""
    file = tmp_path / "file"
    file.write_text("x")
    for path in (file, file / "below"):
        with pytest.raises(StoreUnavailable) as caught:
            fastipam.open(path)
        assert caught.value.path == str(path)
        assert caught.value.hint is not None
    assert file.read_text() == "x"


def test_data_file_is_a_directory(data_dir: Path) -> None:
    """A directory in the place of the data file is an error, not a crash."""
    (data_dir / "data.mdb").mkdir(parents=True)
    with pytest.raises(StoreUnavailable):
        fastipam.open(data_dir)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory on a read-only mount, with a store ``old`` in it."""
    where = tmp_path / "mount"
    where.mkdir()
    fill(where / "old")
    mount = ["mount", "--bind", str(where), str(where)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount")
    remount = ["mount", "-o", "remount,ro,bind", str(where)]
    try:
        subprocess.run(remount, check=True, capture_output=True)
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.mark.parametrize("name", ["old", "new"])
def test_unwritable_directory(read_only: Path, name: str) -> None:
    """A store on a read-only file system cannot be opened or made, and the error says why."""
    with pytest.raises(StoreUnavailable, match="Read-only file system"):
        fastipam.open(read_only / name)


def test_create_false(data_dir: Path) -> None:
    """Without ``create`` a directory without a store is FileNotFoundError, and none is made."""
    with pytest.raises(FileNotFoundError):
        fastipam.open(data_dir, create=False)
    assert not data_dir.exists()
    data_dir.mkdir()
    with pytest.raises(FileNotFoundError):
        fastipam.open(data_dir, create=False)
    assert not any(data_dir.iterdir())
    fill(data_dir)
    fastipam.open(data_dir, create=False).close()


# Durability ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "asked"), [("durable", "relaxed"), ("relaxed", "durable")])
@pytest.mark.parametrize("shared", [True, False])
def test_durability_mismatch(data_dir: Path, made: str, asked: str, shared: bool) -> None:
    """Two durabilities for one directory are an error that names both, and change nothing."""
    fill(data_dir, made, 3)
    before = content(data_dir)
    with pytest.raises(ConfigError) as caught:  # noqa: PT012
        if shared:
            with fastipam.open(data_dir):
                open_with(data_dir, asked)
        else:
            open_with(data_dir, asked, boot_id=lambda: "another boot")
    assert made in str(caught.value)
    assert asked in str(caught.value)
    assert caught.value.field == "durability"
    assert content(data_dir) == before
    with fastipam.open(data_dir) as ipam:
        assert ipam.durability == made


def test_bad_durability(data_dir: Path) -> None:
    """An unknown durability is refused before anything is made."""
    with pytest.raises(ConfigError, match="neither 'durable' nor 'relaxed'"):
        fastipam.open(data_dir, "fast")  # type: ignore[arg-type]
    assert not data_dir.exists()


def test_durable_by_default(data_dir: Path) -> None:
    """A new store is durable unless it is told otherwise."""
    with fastipam.open(data_dir) as ipam:
        assert ipam.durability == "durable"
        assert repr(ipam) == f"<Ipam {data_dir} durable>"
        ipam.network("n", V4).allocate("a")


# Boots ---------------------------------------------------------------------------------------


def test_boots_are_counted(data_dir: Path) -> None:
    """Each boot of the machine has a number, from 1; a store that is opened twice has one."""
    numbers = []
    for boot in ("one", "one", "two", "two", "one"):
        with open_with(data_dir, boot_id=lambda boot=boot: boot) as ipam:
            numbers.append(ipam.store.boot)
    assert numbers == [1, 1, 2, 2, 3]


# Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_modes(tmp_path: Path, umask: int) -> None:
    """Whatever the umask, the directory is 0700 and its files are 0600."""
    path = tmp_path / "store"
    done = run("import fastipam, sys; fastipam.open(sys.argv[1]).close()", path, umask=umask)
    assert done.returncode == 0, done.stderr
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (path, *path.iterdir())}
    files = dict.fromkeys(("data.mdb", "lock.mdb", "turn.lock"), 0o600)
    assert modes == {"store": 0o700} | files


def test_directory_that_is_there_keeps_its_mode(data_dir: Path) -> None:
    """A directory that an operator made is used as it is; missing parents are made."""
    data_dir.mkdir(mode=0o750)
    fastipam.open(data_dir).close()
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o750
    fastipam.open(data_dir / "a" / "b").close()


def test_is_current(data_dir: Path, tmp_path: Path) -> None:
    """A store whose files were removed says so, and opens those that are made in their place."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("n", V4).allocate("a")
        assert ipam.store.is_current()
        data_dir.rename(tmp_path / "moved")
        assert not ipam.store.is_current()
        with pytest.raises(fastipam.StoreUnavailable, match="is gone"):
            ipam.networks()
        run("import fastipam, sys; fastipam.open(sys.argv[1], 'relaxed').close()", data_dir)
        assert ipam.networks() == []
        assert ipam.store.is_current()


# One process ---------------------------------------------------------------------------------


def test_two_opens_share(data_dir: Path, tmp_path: Path) -> None:
    """LMDB must not open a file twice in a process: two opens share one store, by any path."""
    link = tmp_path / "link"
    link.symlink_to(data_dir)
    one, two, three = fastipam.open(data_dir), fastipam.open(data_dir), fastipam.open(link)
    assert one.store is two.store is three.store
    one.close()
    one.close()
    three.close()
    net, block = two.network("n", V4), two.transaction()
    net.allocate("a")
    two.close()
    uses: list[Callable[[], object]] = [
        two.networks,
        lambda: two.network("n", V4),
        lambda: net.allocate("b"),
        lambda: list(net.leases()),
        two.transaction,
        block.__enter__,
    ]
    for use in uses:
        with pytest.raises(StoreClosed):
            use()


def test_second_environment_is_refused(data_dir: Path) -> None:
    """A store that is not shared is an error, not a second environment."""
    with fastipam.open(data_dir), pytest.raises(StoreUnavailable, match="already open"):
        Store(data_dir)


def test_close_of_an_unshared_store(data_dir: Path) -> None:
    """A store that was opened by itself can be closed by anybody, twice."""
    store = Store(data_dir, "relaxed")
    close_store(store)
    store.close()
    shared = open_store(data_dir)
    close_store(shared)
    with pytest.raises(StoreClosed):
        verify(shared)


def test_in_transaction(data_dir: Path) -> None:
    """A write transaction belongs to its thread; others wait, readers do not."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("n", V4)
        seen: list[object] = []

        def look() -> None:
            seen.append(_in_transaction(ipam))
            seen.append(net.stats().assigned)

        with ipam.transaction() as txn:
            assert _in_transaction(ipam)
            txn.network("n").allocate("a")
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert seen == [False, 0]
        assert not _in_transaction(ipam)


def test_shared_transaction(data_dir: Path) -> None:
    """Its parts see what those before them did, readers in it too; all of it is one commit."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("n", V4)
        with Transaction(ipam.store, joined=True) as whole:
            first = net.allocate("a")
            assert net.stats().assigned == 1
            assert net.lookup(first.address.ip) == first
            net.allocate("b")
            net.release("a")
            assert net.stats().assigned == 1
            assert not whole.failed
        assert [one.container_id for one in net.leases()] == ["b"]
        assert verify(ipam.store) == []


def test_part_that_fails(data_dir: Path) -> None:
    """A part that fails changes nothing, and those before and behind it stand."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("n", V4)
        net.allocate("a")
        with Transaction(ipam.store, joined=True) as whole:
            net.allocate("b")
            before = contents(whole)
            for _ in range(3):
                with pytest.raises(fastipam.DuplicateAllocation):
                    net.allocate("a")
                assert contents(whole) == before
            net.allocate("c")
            assert not whole.failed
        assert [one.container_id for one in net.leases()] == ["a", "b", "c"]
        assert verify(ipam.store) == []


def contents(whole: Transaction) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every key and value of a transaction."""
    whole.flush()
    own = keys.STATE_MARK, keys.LOG_MARK
    found = {table.name: list(table.scan(whole)) for table in tables.ALL}
    return found | {"": [one for one in tables.MAIN.scan(whole) if one[0][:1] in own]}


def test_write_that_fails_in_a_part(data_dir: Path) -> None:
    """After a write that failed no later part is served, and nothing is committed."""
    with open_with(data_dir, map_size=3 << 18) as ipam:
        net = ipam.network("n", V4)
        net.allocate("a")
        whole = Transaction(ipam.store, joined=True).__enter__()
        net.allocate("b")
        with pytest.raises(StoreFull, match="largest size"):
            net.allocate_many([(f"c{at}", "eth0") for at in range(20_000)])
        assert whole.failed
        with pytest.raises(StoreFull, match="largest size"):
            net.allocate("d")
        with pytest.raises(StoreFull, match="largest size"):
            net.stats()
        with pytest.raises(StoreFull, match="largest size"):
            whole.__exit__(None, None, None)
        assert [one.container_id for one in net.leases()] == ["a"]
        net.allocate("b")
        assert verify(ipam.store) == []


def test_error_in_a_part(data_dir: Path) -> None:
    """An error of LMDB's in a part is translated where the part ends."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        whole = Transaction(ipam.store, joined=True).__enter__()
        with pytest.raises(StoreFull), ipam.store.write():
            raise lmdb.MapFullError("injected")
        whole.rollback()
        assert verify(ipam.store) == []


def test_size_of_the_map(data_dir: Path) -> None:
    """A full map is named by its real size, as it was opened, and so is the way out."""
    with open_with(data_dir, map_size=3 << 18) as ipam:
        net = ipam.network("n", "10.0.0.0/8")
        with pytest.raises(StoreFull, match=r"has reached its largest size, 768 KiB") as caught:
            net.allocate_many([(f"c{at}", "eth0") for at in range(20_000)])
        assert "map_size" in str(caught.value.hint)
        assert net.stats().assigned == 0
    with fastipam.open(data_dir) as ipam:
        ipam.network("n", "10.0.0.0/8").allocate_many([(f"c{at}", "eth0") for at in range(20_000)])
    with open_with(data_dir, map_size=3 << 18) as ipam:
        net = ipam.network("n")  # a file that is larger already is mapped as it is
        with pytest.raises(StoreFull, match="largest size") as caught:
            net.allocate_many([(f"d{at}", "eth0") for at in range(20_000)])
        assert "768 KiB" not in str(caught.value)


_GROW = """
import sys
import fastipam
with fastipam.open(sys.argv[1]) as ipam:
    ipam.network("n").allocate_many([(f"d{at}", "eth0") for at in range(20000)])
"""


def test_map_that_others_have_outgrown(data_dir: Path) -> None:
    """A process with a small map says what has happened, and its next call has a larger one."""
    with open_with(data_dir, map_size=1 << 20) as ipam:
        net = ipam.network("n", "10.0.0.0/8")
        net.allocate("a")
        subprocess.run([sys.executable, "-c", _GROW, str(data_dir)], check=True)
        with pytest.raises(StoreBusy, match="grown beyond the 1 MiB"):
            net.allocate("b")
        assert net.get("a") is not None
        net.release("a")
    with fastipam.open(data_dir) as ipam:
        ipam.network("n").allocate("b")
        assert not verify(ipam.store)


# Fork ----------------------------------------------------------------------------------------


def test_fork(data_dir: Path) -> None:
    """A store that was opened before fork says so in the child, and goes on in the parent."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("n", V4)
        net.allocate("a")
        for use in (
            lambda: net.allocate("b"),
            net.stats,
            lambda: list(net.leases()),
            lambda: ipam.transaction().__enter__(),
        ):
            text = in_child(use)
            assert text.startswith(StoreForked.__name__)
            assert str(os.getpid()) in text
        assert in_child(ipam.close) == "None"
        net.allocate("c")
        assert net.stats().assigned == 2


def test_open_again_after_fork(data_dir: Path) -> None:
    """The child can open the store for itself, though it still holds the parent's; and often."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("n", V4)
        net.allocate("a")
        net.stats()

        def work() -> list[str]:
            given = []
            for name in ("b", "c"):
                with fastipam.open(data_dir) as mine:
                    given.append(mine.network("n").allocate(name).cidr)
            with pytest.raises(StoreForked):
                net.stats()
            ipam.close()
            return given

        assert in_child(work) == "['10.0.0.3/16', '10.0.0.4/16']"
        assert net.allocate("d").cidr == "10.0.0.5/16"
        assert not verify(ipam.store)


def test_fork_inside_a_transaction(data_dir: Path) -> None:
    """A transaction that a child inherits is not its to commit, or to give up."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("n", V4)

        def leave() -> None:
            transaction.__exit__(None, None, None)

        def fail() -> None:
            transaction.__exit__(KeyError, KeyError(), None)

        def leave_reader() -> None:
            reader.__exit__(None, None, None)

        net.allocate("z")
        reader = ipam.store.read().__enter__()
        with ipam.transaction() as transaction:
            transaction.network("n").allocate("a")
            assert in_child(leave).startswith(StoreForked.__name__)
            assert in_child(fail).startswith(StoreForked.__name__)
            assert in_child(leave_reader) == "None"
            transaction.network("n").allocate("b")
        reader.__exit__(None, None, None)
        assert net.stats().assigned == 3
        assert not verify(ipam.store)


# Faults --------------------------------------------------------------------------------------


def test_map_full(data_dir: Path) -> None:
    """When the map is full the call fails as a whole, and what was there can be used and freed."""
    with open_with(data_dir, "relaxed", map_size=1 << 20) as ipam:
        net = ipam.network("n", V4, cooldown_s=0)
        net.allocate("a")
        with pytest.raises(StoreFull):
            net.allocate_many([(f"c{at}", "eth0") for at in range(20000)])
        assert net.stats().assigned == 1
        block = ipam.transaction()
        inside = block.__enter__().network("n")
        inside.allocate("b")
        with pytest.raises(StoreFull):
            inside.allocate_many([(f"c{at}", "eth0") for at in range(20000)])
        with pytest.raises(StoreFull):
            block.__exit__(None, None, None)
        assert [one.container_id for one in net.leases()] == ["a"]
        assert not verify(ipam.store)
        assert len(net.release("a")) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "fastipam-test", str(where)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_disk_full(small_disk: Path) -> None:
    """When the disk is full the call fails as a whole, and succeeds once there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 << 19))
    owners = [(f"c{at}", "eth0") for at in range(7000)]
    with fastipam.open(small_disk / "store") as ipam:
        net = ipam.network("n", V4, cooldown_s=0)
        net.allocate("a")
        with pytest.raises(StoreFull) as caught:
            net.allocate_many(owners)
        assert caught.value.hint is not None
        assert net.stats().assigned == 1
        assert not verify(ipam.store)
        ballast.unlink()
        net.allocate_many(owners)
        assert not verify(ipam.store)


def test_file_too_large(data_dir: Path) -> None:
    """A limit on the size of files makes the call fail as a whole, and harms nothing."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("n", V4, cooldown_s=0)
        net.allocate("a")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))
        try:
            with pytest.raises((StoreFull, StoreUnavailable)):
                net.allocate_many([(f"c{at}", "eth0") for at in range(20000)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert net.stats().assigned == 1
        net.allocate_many([(f"c{at}", "eth0") for at in range(20000)])
        assert not verify(ipam.store)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lmdb.ReadersFullError("x"), StoreBusy),
        (lmdb.MapFullError("x"), StoreFull),
        (lmdb.MapResizedError("x"), StoreBusy),
        (lmdb.CorruptedError("x"), StoreCorrupt),
        (lmdb.VersionMismatchError("x"), StoreVersion),
        (lmdb.Error("x"), StoreUnavailable),
        (OSError(errno.ENOSPC, "x"), StoreFull),
        (OSError(errno.EDQUOT, "x"), StoreFull),
        (OSError(errno.EACCES, "x"), StoreUnavailable),
    ],
)
def test_translation(error: Exception, kind: type[StoreError]) -> None:
    """Each fault of LMDB or the system is the error that says what to do, with the path."""
    translated = lmdb_errors.translate(error, "/there")
    assert type(translated) is kind
    assert translated.path == "/there"
    assert "/there" in str(translated)


def test_fault_while_reading(data_dir: Path) -> None:
    """LMDB's own errors inside a transaction leave it as fastipam's, with the cause kept."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        for begin in (ipam.store.read, ipam.store.write):
            with pytest.raises(StoreCorrupt) as caught, begin():
                raise lmdb.CorruptedError("x")
            assert isinstance(caught.value.__cause__, lmdb.CorruptedError)


def test_dead_readers_are_cleared(data_dir: Path) -> None:
    """The slot of a process that was killed while it read is free again at the next open."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("n", V4).allocate("a")
        code = (
            "import fastipam, os, signal, sys\n"
            "leases = fastipam.open(sys.argv[1]).network('n').leases()\n"
            "next(leases)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        assert run(code, data_dir).returncode == -signal.SIGKILL
        env = ipam.store.open_files().env
        assert env.info()["num_readers"] >= 1
        run("import fastipam, sys; fastipam.open(sys.argv[1]).close()", data_dir)
        assert env.reader_check() == 0, "a dead reader was left"


# Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_pickling(name: str) -> None:
    """Every error keeps its text, hint and fields through pickle, and is a FastipamError."""
    kind = getattr(errors, name)
    assert issubclass(kind, FastipamError)
    error = kind("text", hint="do this")
    for field, value in {"path": "/x", "owner": ("a", "b"), "field": "f", "wanted": 3}.items():
        if hasattr(error, field):
            setattr(error, field, value)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args, vars(again)) == (kind, error.args, vars(error))
    assert getattr(fastipam, name) is kind
