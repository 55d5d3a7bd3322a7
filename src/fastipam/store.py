"""The LMDB environment of one data directory: opening it, its transactions, its faults.

LMDB is the only truth. Nothing is kept in memory between two transactions, so any number of
processes and threads work on one store at once, and a process that is killed at any instruction
loses and duplicates nothing.

This module is the one border where LMDB's errors become fastipam's. What the databases hold is in
records.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from _thread import _local, allocate_lock

import lmdb

from fastipam._bitmap import StoredPages
from fastipam.errors import (
    ConfigError,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreForked,
    StoreFull,
    StoreUnavailable,
    StoreVersion,
)
from fastipam.records import CHECK_HINT, SCHEMA, network_prefix, page_index_bytes, pages_prefix
from fastipam.state import NetworkState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Any, Self

DEFAULT_DATA_DIR = "/var/lib/cni/fastipam"
DURABLE = "durable"
RELAXED = "relaxed"

# Address space, not memory: the file grows as it is filled. 64 GiB hold about 200 million leases.
MAP_SIZE = 64 << 30
MAX_READERS = 1022  # 64 bytes of the lock file each; LMDB's 126 is few for a node's burst
_READER_CHECK = 256  # commits; a look costs a microsecond a process that reads
_DATABASES = (
    "networks",
    "states",
    "pages",
    "leases",
    "owners",
    "cooldown",
    "reservations",
    "sticky",
    "events",
    "missing",
    "blocks",
)
_MAX_DATABASES = 32  # room for those of later schemas
REPLACE_HINT = "restore a backup, or move data.mdb and lock.mdb away to begin anew"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAMAGED = (
    lmdb.InvalidError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.IncompatibleError,  # a plain key stands where a database should be
    lmdb.NotFoundError,  # one of our databases is missing: get() answers None, and never this
)


def _translate(error: Exception, path: str) -> StoreError:
    """The fastipam error that says what an LMDB or OS error means here, and what to do."""
    code = getattr(error, "code", 0) or getattr(error, "errno", 0) or 0
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(
            f"the store {path} has reached its largest size, {MAP_SIZE >> 30} GiB",
            path=path,
            hint="use another data directory for some of the networks",
        )
    if code in _FULL or (code == errno.EIO and _is_disk_full(path)):
        return StoreFull(
            f"no space is left for the store {path}: {os.strerror(code)}",
            path=path,
            hint="free disk space; nothing was changed",
        )
    if isinstance(error, lmdb.ReadersFullError):
        return StoreBusy(
            f"all {MAX_READERS} reader slots of the store {path} are taken",
            path=path,
            hint="try again; if it stays so, look for programs that keep read transactions open",
        )
    if isinstance(error, _DAMAGED):
        return StoreCorrupt(
            f"{path} holds no usable LMDB file: {error}",
            path=path,
            hint=REPLACE_HINT,
        )
    if isinstance(error, lmdb.VersionMismatchError):
        return StoreVersion(f"{path} was written by another version of LMDB: {error}", path=path)
    reason = os.strerror(code) if code > 0 else str(error)
    return StoreUnavailable(
        f"the store {path} cannot be used: {reason}",
        path=path,
        hint="the data directory has to be a directory that this user may write",
    )


def _is_disk_full(path: str) -> bool:
    """Whether there is less room than LMDB writes at once: it calls a short write an EIO."""
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < 1 << 20


class _Turn:
    """Who writes next: one thread of this process, and one process at a time.

    LMDB has a lock for that, a robust mutex in shared memory; but a process that is killed just
    when it was woken to take its turn takes the wake-up with it, and those who wait behind it may
    sleep until somebody else comes by. (Four writers, one killed: one run in fifteen ended so.) A
    lock of the kernel's knows who waits; behind it nobody ever waits for LMDB's mutex, which
    still sees to it that there is one writer. It is a POSIX lock: a forked child inherits none.
    """

    __slots__ = ("_descriptor", "_threads")

    def __init__(self, path: str) -> None:
        self._threads = allocate_lock()
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(os.path.join(path, _TURN_FILE), flags)

    def take(self) -> None:
        """Wait until it is this thread's turn."""
        self._threads.acquire()
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise

    def give(self) -> None:
        """Let the next one have it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)


class Transaction:
    """One write transaction, or one nested in another; use it with ``with``.

    Its pages are cached until it ends; whoever reads ``pages`` or ``states`` by other means has to
    call :meth:`flush` first.

    In a ``shared`` one, what would be nested is a part of it instead: that spares the nesting, but
    the failure of a part leaves the whole ``spoiled``, and whoever began it has to roll it back.
    """

    __slots__ = (
        "_pages", "_parent", "_states", "_store", "_unsaved", "delete", "get", "put", "shared",
        "spoiled", "txn",
    )  # fmt: skip

    txn: Any

    def __init__(self, store: Store, shared: bool = False) -> None:
        self._store = store
        self.shared = shared
        self.spoiled = False

    def __enter__(self) -> Self:
        store = self._store
        env = store._environment()
        parent: Transaction | None = getattr(store._local, "transaction", None)
        try:
            if parent is None:
                store._turn.take()
                try:
                    txn = env.begin(None, None, True)
                except BaseException:
                    store._turn.give()
                    raise
            else:
                parent.flush()
                txn = env.begin(None, parent.txn, True)
        except (lmdb.Error, OSError) as error:
            raise _translate(error, store.path) from error
        self.txn = txn
        self.get = txn.get
        self.put = txn.put
        self.delete = txn.delete
        self._parent = parent
        self._pages: dict[tuple[int, int], StoredPages] = {}
        self._states: dict[int, NetworkState] = {}
        self._unsaved: dict[int, NetworkState] = {}
        store._local.transaction = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        store = self._store
        store._local.transaction = self._parent
        if os.getpid() != store._process:
            # A fork() inside the block: the transaction, and the writer's lock, are the parent's.
            raise store._forked()
        try:
            if kind is None:
                self.flush()
                self.txn.commit()
                if self._parent is not None:
                    self._parent._pages.clear()
                else:
                    store._count_commit()
            else:
                self.txn.abort()
        except BaseException as fault:
            self.txn.abort()
            if isinstance(fault, lmdb.Error):
                raise _translate(fault, store.path) from fault
            raise
        finally:
            if self._parent is None:
                store._turn.give()
        if isinstance(error, lmdb.Error):
            raise _translate(error, store.path) from error

    def rollback(self) -> None:
        """End it outside a ``with`` block, as if it had never begun."""
        self.__exit__(Exception, None, None)

    def pages(self, network_id: int, family: int) -> StoredPages:
        """The bitmap of a network and family, as this transaction sees it."""
        found = self._pages.get((network_id, family))
        if found is None:
            found = self._pages[network_id, family] = StoredPages(
                self.get,
                self.put,
                self.delete,
                self._store.db_pages,
                pages_prefix(network_id, family),
                page_index_bytes(family),
            )
        return found

    def state(self, network_id: int) -> NetworkState:
        """The numbers of a network; in a shared transaction all parts have the same object."""
        found = self._states.get(network_id)
        if found is None:
            raw = self.get(network_prefix(network_id), None, self._store.db_states)
            found = NetworkState(network_id, raw)
            if self.shared:
                self._states[network_id] = found
        return found

    def save(self, state: NetworkState) -> None:
        """Write the numbers of a network, into a shared transaction with its next flush."""
        if self.shared:
            self._unsaved[state.network_id] = state
        else:
            self._put_state(state)

    def _put_state(self, state: NetworkState) -> None:
        self.put(state.prefix, state.pack(), True, True, False, self._store.db_states)

    def flush(self) -> None:
        """Write what has changed and is not in the transaction yet: pages, numbers."""
        for pages in self._pages.values():
            pages.flush()
        while self._unsaved:
            self._put_state(self._unsaved.popitem()[1])


class _Part:
    """What would be a nested transaction, in a shared one."""

    __slots__ = ("_whole",)

    def __init__(self, whole: Transaction) -> None:
        self._whole = whole

    def __enter__(self) -> Transaction:
        return self._whole

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._whole.spoiled = True
            if isinstance(error, lmdb.Error):
                raise _translate(error, self._whole._store.path) from error


class Snapshot:
    """A read transaction: a consistent view of one moment. Inside a write transaction, that one."""

    __slots__ = ("_own", "_store", "get", "txn")

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Self:
        store = self._store
        env = store._environment()
        writing: Transaction | None = getattr(store._local, "transaction", None)
        self._own = writing is None
        try:
            if writing is None:
                self.txn = env.begin()
            else:
                writing.flush()
                self.txn = writing.txn
        except lmdb.ReadersFullError:
            self.txn = self._begin_without_the_dead(env)
        except lmdb.Error as error:
            raise _translate(error, store.path) from error
        self.get = self.txn.get
        return self

    def _begin_without_the_dead(self, env: lmdb.Environment) -> Any:
        """Every slot is taken, but processes that were killed never gave theirs back."""
        try:
            env.reader_check()
            return env.begin()
        except lmdb.Error as error:
            raise _translate(error, self._store.path) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._own and os.getpid() == self._store._process:
            self.txn.abort()
        if isinstance(error, lmdb.Error):
            raise _translate(error, self._store.path) from error


class Store:
    """The open LMDB environment of a data directory.

    Opening costs the same whatever the store holds. ``durability`` is "durable" (a change is on
    disk when the call returns), "relaxed" (a killed process loses nothing, a power cut may lose
    the last changes or damage the file), or None: as the store was created, "durable" for a new
    one.

    ``clock`` returns wall clock nanoseconds, ``boot_id`` the text that names this boot; tests
    inject both. ``boot`` is the boot's number in this store; ``unswept`` says that leases of an
    earlier one may be left (a hint: each network knows for itself). With ``create=False`` a
    directory without a store raises FileNotFoundError.
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
        if not create and not os.path.lexists(os.path.join(self.path, _DATA_FILE)):
            raise FileNotFoundError(errno.ENOENT, "there is no store", self.path)
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
            _make_directory(self.path)
            _refuse_strangers(self.path)
            made = _make_files(self.path)
            self._turn = _Turn(self.path)
        except OSError as error:
            raise _translate(error, self.path) from error
        try:
            with self._turn:
                if _is_new(self.path):
                    self._create(durability, map_size)
            env = lmdb.open(
                self.path,
                map_size=map_size,
                sync=sync,
                metasync=sync,
                mode=0o600,
                max_dbs=_MAX_DATABASES,
                max_readers=MAX_READERS,
                lib_version=0,
            )
        except (lmdb.Error, OSError) as error:
            self._turn.close()
            raise _translate(error, self.path) from error
        self._env = env
        try:
            with self._turn:
                _refuse_truncated(env, self.path)
            # A process killed while it reads leaves its reader's slot taken, and what it read
            # from being overwritten; LMDB looks for the dead only when it is told to.
            env.reader_check()
            with self._turn:
                return self._prepare(env, durability)
        except BaseException as error:
            self.close()
            if _TURN_FILE in made:  # the directory is somebody else's: leave no trace
                os.unlink(os.path.join(self.path, _TURN_FILE))
            if isinstance(error, (lmdb.Error, OSError)):
                raise _translate(error, self.path) from error
            raise

    def _create(self, durability: str, map_size: int) -> None:
        """Make a data file under another name; it gets its own when it is whole, and on disk.

        LMDB begins a file with two writes that nothing orders: a power cut between them, or in
        the middle of one, would leave what is neither a store nor an empty file. And who is told of
        a lease has to find its store again: the names that lead there are brought to disk, too.
        """
        durable = durability == DURABLE
        temporary = os.path.join(self.path, _NEW_FILE)
        if os.path.lexists(temporary):
            os.unlink(temporary)  # of a process that was killed
        try:
            _make_file(temporary)
            with (
                lmdb.open(
                    temporary,
                    map_size=map_size,
                    sync=durable,
                    metasync=durable,
                    subdir=False,
                    lock=False,  # it is this process's turn, and nobody else knows the file
                    max_dbs=_MAX_DATABASES,
                ) as env,
                env.begin(write=True) as txn,
            ):
                meta = env.open_db(b"meta", txn=txn)
                txn.put(_SCHEMA, SCHEMA.to_bytes(4, "big"), db=meta)
                txn.put(_DURABILITY, durability.encode(), db=meta)
                self._open_databases(env, txn, create=True)
            os.rename(temporary, os.path.join(self.path, _DATA_FILE))
        except BaseException:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise
        if durable:
            _sync_names(self.path)

    def _prepare(self, env: lmdb.Environment, durability: str) -> str:
        """Open the databases, creating them in a new store; check the schema, note the boot.

        All of it in one write transaction: py-lmdb ends a read transaction in a way that closes
        the databases that were opened in it. When there is nothing to write, nothing is written.
        """
        status = os.stat(os.path.join(self.path, "data.mdb"))
        self.identity = (status.st_dev, status.st_ino)
        with env.begin(write=True) as txn:
            try:
                self.db_meta = env.open_db(b"meta", txn=txn, create=False)
                new = False
            except lmdb.NotFoundError:
                self._refuse_foreign(txn)
                self.db_meta = env.open_db(b"meta", txn=txn)
                new = True
                txn.put(_SCHEMA, SCHEMA.to_bytes(4, "big"), db=self.db_meta)
                txn.put(_DURABILITY, durability.encode(), db=self.db_meta)
            self._check_schema(txn.get(_SCHEMA, db=self.db_meta))
            stored = self._durability(txn.get(_DURABILITY, b"", db=self.db_meta))
            if stored == durability:  # else this is not how the environment has to be opened
                self._open_databases(env, txn, create=new)
                self.boot = self._note_boot(txn)
                self.unswept = int.from_bytes(txn.get(_SWEPT, b"", db=self.db_meta)) != self.boot
            return stored

    def _open_databases(self, env: lmdb.Environment, txn: Any, *, create: bool) -> None:
        opened = [env.open_db(name.encode(), txn=txn, create=create) for name in _DATABASES]
        (
            self.db_networks,
            self.db_states,
            self.db_pages,
            self.db_leases,
            self.db_owners,
            self.db_cooldown,
            self.db_reservations,
            self.db_sticky,
            self.db_events,
            self.db_missing,
            self.db_blocks,
        ) = opened

    def _refuse_foreign(self, txn: Any) -> None:
        """An LMDB file without our databases has to be empty: else it is somebody else's."""
        names = [key for key, _ in txn.cursor()]
        if names:
            raise StoreCorrupt(
                f"{self.path} is an LMDB environment of another program: it holds "
                f"{', '.join(sorted(repr(name.decode('ascii', 'replace')) for name in names[:4]))}",
                path=self.path,
                hint="choose another data directory",
            )

    def _check_schema(self, raw: bytes | None) -> None:
        schema = int.from_bytes(raw or b"", "big")
        if schema > SCHEMA:
            raise StoreVersion(
                f"the store {self.path} has schema {schema}, this fastipam knows {SCHEMA}",
                path=self.path,
                hint="use the fastipam that wrote it, or a newer one",
            )
        if schema == 1:
            raise StoreVersion(
                f"the store {self.path} has schema 1, which no release had",
                path=self.path,
                hint="export its leases with the version that wrote it, and import them",
            )
        if schema < 1:
            raise StoreCorrupt(
                f"the store {self.path} has no valid schema version: {raw!r}",
                path=self.path,
                hint=CHECK_HINT,
            )

    def _durability(self, raw: bytes) -> str:
        for known in (DURABLE, RELAXED):
            if raw == known.encode():
                return known
        raise StoreCorrupt(
            f"the store {self.path} has no valid durability: {raw!r}",
            path=self.path,
            hint=CHECK_HINT,
        )

    def _note_boot(self, txn: Any) -> int:
        """The number of this boot: boots that the store has seen are counted from 1."""
        db = self.db_meta
        boot = self.boot_id().encode()
        number = int.from_bytes(txn.get(_BOOT_NUMBER, b"", db=db), "big")
        if txn.get(_BOOT, db=db) != boot:
            number += 1
            txn.put(_BOOT, boot, db=db)
            txn.put(_BOOT_NUMBER, number.to_bytes(4, "big"), db=db)
            if number == 1:
                txn.put(_SWEPT, number.to_bytes(4, "big"), db=db)
        return number

    def note_swept(self, txn: Transaction) -> None:
        """No lease of an earlier boot is left (see reboot.py)."""
        txn.put(_SWEPT, self.boot.to_bytes(4, "big"), True, True, False, self.db_meta)
        self.unswept = False

    def note_unswept(self, txn: Transaction) -> None:
        """Leases of an earlier boot may have come in."""
        txn.delete(_SWEPT, b"", self.db_meta)
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

    def require_writable(self) -> None:
        """Raise StoreError when a change could not be written now. O(1); not in a transaction.

        The file is opened for writing: that fails on a file system that is read-only or has failed.
        Where little room is left, as many pages as a burst of assignments takes are really
        written, and given back: how many the file has to use again only LMDB knows.
        """
        try:
            descriptor = os.open(os.path.join(self.path, _DATA_FILE), os.O_RDWR | os.O_CLOEXEC)
            os.close(descriptor)
        except OSError as error:
            raise _translate(error, self.path) from error
        if _is_disk_full(self.path) or self._is_map_full():
            with self.write() as txn:
                txn.put(_PROBE, bytes(_PROBE_BYTES), True, True, False, self.db_meta)
            with self.write() as txn:
                txn.delete(_PROBE, b"", self.db_meta)

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
            return _Part(whole)
        return Transaction(self)

    def read(self) -> Snapshot:
        """A read transaction; waits for nobody."""
        return Snapshot(self)

    def databases(self) -> list[Any]:
        """Every database but ``meta``, in the same order for every store."""
        return [getattr(self, f"db_{name}") for name in _DATABASES]

    def copy_to(self, descriptor: int) -> None:
        """Write one moment's content to a file, compacted; waits for nobody. Raises StoreError."""
        env = self._environment()
        try:
            env.copyfd(descriptor, compact=True)
        except (lmdb.Error, OSError) as error:
            raise _translate(error, self.path) from error

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has a write transaction open."""
        return getattr(self._local, "transaction", None) is not None

    def file_bytes(self) -> int:
        """The size of the store's file."""
        return os.stat(os.path.join(self.path, "data.mdb")).st_size

    def is_current(self) -> bool:
        """Whether the path still leads to the file that is open (and not to a new one, or none)."""
        try:
            status = os.stat(os.path.join(self.path, "data.mdb"))
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def close(self) -> None:
        """Close it; a second time does nothing. In a forked child it only forgets it."""
        env, self._env = self._env, None
        if env is not None and os.getpid() == self._process:
            env.close()
            self._turn.close()


_DATA_FILE = "data.mdb"
_LOCK_FILE = "lock.mdb"
_TURN_FILE = "turn.lock"
_NEW_FILE = "data.mdb.new"
_PROBE = b"probe"
_PROBE_BYTES = 32 * 4096  # in a row; an assignment changes four to ten pages
_SCHEMA = b"schema"
_DURABILITY = b"durability"
_BOOT = b"boot id"
_BOOT_NUMBER = b"boot number"
_SWEPT = b"swept"  # the boot whose predecessors' leases are all given back


def _read_boot_id() -> str:
    try:
        with open(_BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def _make_directory(path: str) -> None:
    """Make the data directory, mode 0700 whatever the umask; its parents as the umask says."""
    if os.path.isdir(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    else:
        os.chmod(path, 0o700)


def _make_files(path: str) -> list[str]:
    """Make the lock files of a new store, mode 0600 whatever the umask: LMDB would apply it.

    A file that is there is left as it is. Returns the names of those that were made.
    """
    made = []
    for name in (_LOCK_FILE, _TURN_FILE):
        file = os.path.join(path, name)
        if not os.path.lexists(file):
            try:
                _make_file(file)
            except FileExistsError:  # another process was faster
                continue
            made.append(name)
    return made


def _make_file(path: str) -> None:
    """A new file, empty, mode 0600 whatever the umask."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _is_new(path: str) -> bool:
    """Whether the data file has still to be made: LMDB would take an empty one for a new one."""
    try:
        status = os.lstat(os.path.join(path, _DATA_FILE))
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _sync_names(path: str) -> None:
    """Bring a directory's entries to disk, and those that lead to it, as far as we may look."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent


def _refuse_strangers(path: str) -> None:
    """Raise StoreUnavailable when somebody else owns, or may write to, the directory or its files.

    Who may put a file there could lead a process of ours to any file of the system (by a link), or
    kill it (by cutting the file short below its memory map).
    """
    trusted = (0, os.geteuid())
    for name in ("", _DATA_FILE, _LOCK_FILE, _TURN_FILE):
        file = os.path.join(path, name) if name else path
        try:
            # The directory itself may be reached through a link: its owner chose where it leads.
            status = os.lstat(file) if name else os.stat(file)
        except FileNotFoundError:
            continue
        if name and stat.S_ISLNK(status.st_mode):
            text = "is a symbolic link"
            hint = "move the file that it leads to here, or name its directory"
        elif status.st_uid not in trusted:
            text = f"belongs to uid {status.st_uid}"
            hint = f"chown it to uid {trusted[1]}, or run as uid {status.st_uid}"
        elif status.st_mode & stat.S_IWOTH:
            text = "may be written by everybody"
            hint = f"chmod o-w {file}"
        else:
            continue
        raise StoreUnavailable(f"the store {path} is not used: {file} {text}", path=path, hint=hint)


def _refuse_truncated(env: lmdb.Environment, path: str) -> None:
    """Raise StoreCorrupt when the data file was cut short: using it would end in a SIGBUS."""
    page_bytes = env.stat()["psize"]
    file = os.path.join(path, "data.mdb")
    if os.path.getsize(file) // page_bytes > env.info()["last_pgno"]:
        return
    from fastipam.truncation import missing_page

    with env.begin(write=True):
        missing = missing_page(file, page_bytes)
    if missing is not None:
        raise StoreCorrupt(
            f"{file} was cut short: page {missing} of {page_bytes} bytes, which is in use, "
            "lies behind its end",
            path=path,
            hint=REPLACE_HINT,
        )


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
            status = os.stat(os.path.join(os.fspath(path), "data.mdb"))
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
