"""The LMDB environment of one data directory: opening it, once in a process; its schema and boot.

LMDB is the only truth. Nothing is kept in memory between two transactions, so any number of
processes and threads work on one store at once, and a process that is killed at any instruction
loses and duplicates nothing.

What the databases hold is in records.py, how they are changed in transaction.py.
"""

from __future__ import annotations

import errno
import os
import time
from _thread import _local, allocate_lock

import lmdb

from fastipam.errors import (
    CHECK_HINT,
    ConfigError,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreForked,
    StoreUnavailable,
)
from fastipam.storage import tables
from fastipam.storage.directory import (
    DATA_FILE,
    TURN_FILE,
    is_new,
    make_directory,
    make_files,
    refuse_strangers,
    refuse_truncated,
)
from fastipam.storage.lmdb_errors import MAP_SIZE, MAX_READERS, is_disk_full, translate
from fastipam.storage.tables import DURABILITY_KEY, MAX_DATABASES, SCHEMA, SCHEMA_KEY
from fastipam.storage.transaction import Part, Snapshot, Transaction
from fastipam.storage.writer_lock import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

DURABLE = "durable"
RELAXED = "relaxed"

_READER_CHECK = 256  # commits; a look costs a microsecond a process that reads
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Store:
    """The open LMDB environment of a data directory.

    Opening costs the same whatever the store holds. ``durability`` is "durable" (a change is on
    disk when the call returns), "relaxed" (a killed process loses nothing, a power cut may lose
    the last changes or damage the file), or None: as the store was created, "durable" for a new
    one.

    ``clock`` returns wall clock nanoseconds, ``boot_id`` the text that names this boot, empty when
    there is none to be had; tests inject both. ``boot`` is the boot's number in this store;
    ``unswept`` says that leases of an earlier one may be left (a hint: each network knows for
    itself). With ``create=False`` a directory without a store raises FileNotFoundError.
    Raises StoreError, ConfigError (durability).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        durability: str | None = None,
        *,
        create: bool = True,
        map_size: int = MAP_SIZE,
        clock: Callable[[], int] = time.time_ns,
        boot_id: Callable[[], str] | None = None,
    ) -> None:
        if durability not in (None, DURABLE, RELAXED):
            raise ConfigError(
                f"durability {durability!r} is neither {DURABLE!r} nor {RELAXED!r}",
                field="durability",
                value=durability,
            )
        self.path = os.path.abspath(path)
        self.clock = clock
        self.boot_id = boot_id or _read_boot_id
        self._local: Any = _local()
        self._env: lmdb.Environment | None = None
        self._process = os.getpid()
        self._commits = 0
        self.identity = (0, 0)
        self._map_size = map_size
        if not create:
            try:
                os.lstat(os.path.join(self.path, DATA_FILE))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise FileNotFoundError(errno.ENOENT, "there is no store", self.path) from error
            except OSError as error:
                raise translate(error, self.path) from error
        stored = self._open(durability or DURABLE, map_size)
        if durability is not None and stored != durability:
            self.close()
            raise ConfigError(
                f"durability {durability!r} is asked for, "
                f"but the store {self.path} was created with {stored!r}",
                field="durability",
                value=durability,
                hint="one data directory has one durability: use the same in every configuration",
            )
        if stored == RELAXED and durability is None:
            # Sync is a property of the environment: open it again as it was created.
            self.close()
            self._open(RELAXED, map_size)
        self.durability = stored

    def _open(self, durability: str, map_size: int) -> str:
        """Open or create the environment and return the durability it was created with."""
        sync = durability == DURABLE
        try:
            make_directory(self.path)
            refuse_strangers(self.path)
            made = make_files(self.path)
            self._turn = Turn(self.path)
        except OSError as error:
            raise self.translate(error) from error
        try:
            with self._turn:
                if is_new(self.path):
                    from fastipam.storage import create as founding

                    founding.create(self.path, durability, map_size)
            env = lmdb.open(
                self.path,
                map_size=map_size,
                sync=sync,
                metasync=sync,
                mode=0o600,
                max_dbs=MAX_DATABASES,
                max_readers=MAX_READERS,
                lib_version=0,
            )
        except (lmdb.Error, OSError) as error:
            self._turn.close()
            raise self.translate(error) from error
        self._env = env
        self._map_size = int(env.info()["map_size"])  # of a file that is larger already, more
        try:
            with self._turn:
                refuse_truncated(env, self.path)
            # A process killed while it reads leaves its reader's slot taken, and what it read
            # from being overwritten; LMDB looks for the dead only when it is told to.
            env.reader_check()
            with self._turn:
                return self._prepare(env, durability)
        except BaseException as error:
            self.close()
            if TURN_FILE in made:  # the directory is somebody else's: leave no trace
                os.unlink(os.path.join(self.path, TURN_FILE))
            if isinstance(error, (lmdb.Error, OSError)):
                raise self.translate(error) from error
            raise

    def _prepare(self, env: lmdb.Environment, durability: str) -> str:
        """Open the databases, creating them in a new store; check the schema, note the boot.

        All of it in one write transaction: py-lmdb ends a read transaction in a way that closes
        the databases that were opened in it. When there is nothing to write, nothing is written.
        """
        status = os.stat(os.path.join(self.path, DATA_FILE))
        self.identity = (status.st_dev, status.st_ino)
        with env.begin(write=True) as txn:
            try:
                meta = env.open_db(tables.META.name.encode(), txn=txn, create=False)
                new = False
            except lmdb.NotFoundError:
                from fastipam.storage import create as founding

                founding.refuse_foreign(txn, self.path)
                meta = env.open_db(tables.META.name.encode(), txn=txn)
                new = True
                txn.put(SCHEMA_KEY, SCHEMA.to_bytes(4, "big"), db=meta)
                txn.put(DURABILITY_KEY, durability.encode(), db=meta)
            schema = txn.get(SCHEMA_KEY, db=meta)
            if int.from_bytes(schema or b"", "big") != SCHEMA:
                from fastipam.storage import create as founding

                raise founding.wrong_schema(schema, self.path)
            stored = self._durability(txn.get(DURABILITY_KEY, b"", db=meta))
            if stored == durability:  # else this is not how the environment has to be opened
                others = [
                    env.open_db(table.name.encode(), txn=txn, create=new)
                    for table in tables.ALL[1:]
                ]
                self.databases = (meta, *others)
                self.boot = self._note_boot(txn, meta)
                self.unswept = int.from_bytes(txn.get(_SWEPT, b"", db=meta)) != self.boot
            return stored

    def _durability(self, raw: bytes) -> str:
        for known in (DURABLE, RELAXED):
            if raw == known.encode():
                return known
        raise StoreCorrupt(
            f"the store {self.path} has no valid durability: {raw!r}",
            path=self.path,
            hint=CHECK_HINT,
        )

    def _note_boot(self, txn: Any, db: Any) -> int:
        """The number of this boot: boots that the store has seen are counted from 1.

        Who cannot read the boot's id must not count a boot: that would give back the leases of
        containers that run. A store that was made where there is none takes the first one it meets.
        """
        boot = self.boot_id().encode()
        before = txn.get(_BOOT, db=db)
        number = int.from_bytes(txn.get(_BOOT_NUMBER, b"", db=db), "big")
        if before and not boot:
            raise StoreUnavailable(
                f"the store {self.path} is not used: this process cannot read {_BOOT_ID}, and "
                "so not tell the leases of this boot from those of an earlier one",
                path=self.path,
                hint="let it see all of /proc (of a systemd unit: no ProcSubset=pid)",
            )
        if before != boot:
            number += before != b""
            txn.put(_BOOT, boot, db=db)
            txn.put(_BOOT_NUMBER, number.to_bytes(4, "big"), db=db)
            if number == 1:
                txn.put(_SWEPT, number.to_bytes(4, "big"), db=db)
        return number

    def note_swept(self, txn: Transaction) -> None:
        """No lease of an earlier boot is left (see reboot.py)."""
        tables.META.put(txn, _SWEPT, self.boot.to_bytes(4, "big"))
        self.unswept = False

    def note_unswept(self, txn: Transaction) -> None:
        """Leases of an earlier boot may have come in."""
        tables.META.delete(txn, _SWEPT)
        self.unswept = True

    def _environment(self) -> lmdb.Environment:
        if os.getpid() != self._process:
            raise self._forked()
        if self._env is None:
            raise StoreClosed(f"the store {self.path} was closed", path=self.path)
        return self._env

    def _forked(self) -> StoreForked:
        return StoreForked(
            f"the store {self.path} was opened before fork(): "
            f"by process {self._process}, this is {os.getpid()}",
            path=self.path,
            hint="open the store again in the child process",
        )

    def _count_commit(self) -> None:
        """Once in a while, look for readers that are dead.

        What a process was reading when it was killed is not overwritten until somebody looks for
        it: the file would grow with every commit, some 60 KB each in a busy network.
        """
        self._commits += 1
        if self._commits % _READER_CHECK == 0 and self._env is not None:
            self._env.reader_check()

    def translate(self, error: Exception) -> StoreError:
        """What an error of LMDB's or the system's means for this store."""
        return translate(error, self.path, self._map_size)

    def require_writable(self) -> None:
        """Raise StoreError when a change could not be written now. O(1); not in a transaction.

        The file is opened for writing: that fails on a file system that is read-only or has failed.
        Where little room is left, as many pages as a burst of assignments takes are really
        written, and given back: how many the file has to use again only LMDB knows.
        """
        try:
            descriptor = os.open(os.path.join(self.path, DATA_FILE), os.O_RDWR | os.O_CLOEXEC)
            os.close(descriptor)
        except OSError as error:
            raise self.translate(error) from error
        if is_disk_full(self.path) or self._is_map_full():
            with self.write() as txn:
                tables.META.put(txn, _PROBE, bytes(_PROBE_BYTES))
            with self.write() as txn:
                tables.META.delete(txn, _PROBE)

    def _is_map_full(self) -> bool:
        """Whether the file ends just below the largest size."""
        env = self._environment()
        info = env.info()
        end = (int(info["last_pgno"]) + 1) * int(env.stat()["psize"])
        return end + 2 * _PROBE_BYTES > int(info["map_size"])

    def write(self) -> AbstractContextManager[Transaction]:
        """A write transaction; nested when this thread has one open. Waits for other writers."""
        whole: Transaction | None = getattr(self._local, "transaction", None)
        if whole is not None and whole.shared:
            return Part(whole)
        return Transaction(self)

    def read(self) -> Snapshot:
        """A read transaction; waits for nobody."""
        return Snapshot(self)

    def copy_to(self, descriptor: int) -> None:
        """Write one moment's content to a file, compacted; waits for nobody.

        Raises OSError (the file's: what LMDB says of its own is no number of the system's),
        StoreError.
        """
        env = self._environment()
        try:
            env.copyfd(descriptor, compact=True)
        except lmdb.Error as error:
            code = int(getattr(error, "code", 0))
            if code > 0:
                raise OSError(code, os.strerror(code)) from error
            raise self.translate(error) from error

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has a write transaction open."""
        return getattr(self._local, "transaction", None) is not None

    def file_bytes(self) -> int:
        """The size of the store's file."""
        return os.stat(os.path.join(self.path, DATA_FILE)).st_size

    def readers(self) -> list[tuple[int, int]]:
        """Who has a read transaction open: (process, commits since the state that it reads)."""
        env = self._environment()
        last = int(env.info()["last_txnid"])
        rows = [line.split() for line in env.readers().splitlines()]
        return [(int(row[0]), last - int(row[2])) for row in rows if row[-1].isdecimal()]

    def is_current(self) -> bool:
        """Whether the path still leads to the file that is open (and not to a new one, or none)."""
        try:
            status = os.stat(os.path.join(self.path, DATA_FILE))
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def close(self) -> None:
        """Close it; a second time does nothing. In a forked child it only forgets it."""
        env, self._env = self._env, None
        if env is not None and os.getpid() == self._process:
            env.close()
            self._turn.close()


_PROBE = b"probe"
_PROBE_BYTES = 32 * 4096  # in a row; an assignment changes four to ten pages
_BOOT = b"boot id"
_BOOT_NUMBER = b"boot number"
_SWEPT = b"swept"  # the boot whose predecessors' leases are all given back


def _read_boot_id() -> str:
    try:
        with open(_BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ""


_shared: dict[tuple[int, int], tuple[Store, int]] = {}
_shared_lock = allocate_lock()
_shared_process = os.getpid()


def open_shared(
    path: str | os.PathLike[str], durability: str | None = None, **options: Any
) -> Store:
    """The store of a path, opened once in this process however often it is asked for.

    LMDB must not open one file twice in a process: closing one would release the other's locks.
    Every call wants a :func:`close_shared`.
    """
    global _shared_process  # noqa: PLW0603  # a process has one, as it has one table
    with _shared_lock:
        if os.getpid() != _shared_process:  # a forked child shares nothing of its parent's
            for store, _ in _shared.values():
                store.close()
            _shared.clear()
            _shared_process = os.getpid()
        try:
            status = os.stat(os.path.join(os.fspath(path), DATA_FILE))
        except OSError:
            pass
        else:
            found = _shared.get((status.st_dev, status.st_ino))
            if found is not None:
                store, users = found
                if durability is not None and durability != store.durability:
                    raise ConfigError(
                        f"durability {durability!r} is asked for, but the store {store.path} "
                        f"is open with {store.durability!r}",
                        field="durability",
                        value=durability,
                        hint="one data directory has one durability",
                    )
                _shared[store.identity] = store, users + 1
                return store
        store = Store(path, durability, **options)
        _shared[store.identity] = store, 1
        return store


def close_shared(store: Store) -> None:
    """Undo one :func:`open_shared`; the last one closes the store."""
    with _shared_lock:
        found = _shared.get(store.identity)
        if found is None or found[0] is not store:
            store.close()
            return
        if found[1] > 1:
            _shared[store.identity] = store, found[1] - 1
            return
        del _shared[store.identity]
        store.close()
