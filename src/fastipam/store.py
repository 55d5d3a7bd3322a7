"""The LMDB environment of one data directory: opening it, its transactions, its faults.

LMDB is the only truth. Nothing is kept in memory between two transactions, so any number of
processes and threads work on one store at once, and a process that is killed at any instruction
loses and duplicates nothing.

This module is the one border where LMDB's errors become fastipam's. What the databases hold is in
records.py.
"""

from __future__ import annotations

import errno
import os
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
from fastipam.records import CHECK_HINT, SCHEMA, page_index_bytes, pages_prefix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

DURABLE = "durable"
RELAXED = "relaxed"

# Address space, not memory: the file grows as it is filled. 64 GiB hold about 200 million leases.
MAP_SIZE = 64 << 30
MAX_READERS = 1022  # 64 bytes of the lock file each; LMDB's 126 is few for a node's burst
_DATABASES = (
    "meta",
    "networks",
    "states",
    "pages",
    "leases",
    "owners",
    "cooldown",
    "reservations",
)
_MAX_DATABASES = 32  # room for those of later schemas
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _translate(error: Exception, path: str) -> StoreError:
    """The fastipam error that says what an LMDB or OS error means here, and what to do."""
    code = getattr(error, "code", 0) or getattr(error, "errno", 0) or 0
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(
            f"the store {path} has reached its largest size, {MAP_SIZE >> 30} GiB",
            path=path,
            hint="use another data directory for some of the networks",
        )
    if code in _FULL:
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
    if isinstance(error, (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError)):
        return StoreCorrupt(
            f"{path} holds no usable LMDB file: {error}",
            path=path,
            hint="restore a backup, or move data.mdb and lock.mdb away to begin anew",
        )
    if isinstance(error, lmdb.VersionMismatchError):
        return StoreVersion(f"{path} was written by another version of LMDB: {error}", path=path)
    reason = os.strerror(code) if code > 0 else str(error)
    return StoreUnavailable(
        f"the store {path} cannot be used: {reason}",
        path=path,
        hint="the data directory has to be a directory that this user may write",
    )


class Transaction:
    """One write transaction, or one nested in another; use it with ``with``.

    Its pages are cached until it ends; whoever reads ``pages`` by other means has to call
    :meth:`flush` first.
    """

    __slots__ = ("_pages", "_parent", "_store", "delete", "get", "put", "txn")

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Self:
        store = self._store
        env = store._environment()
        parent: Transaction | None = getattr(store._local, "transaction", None)
        try:
            if parent is None:
                txn = env.begin(None, None, True)
            else:
                parent.flush()
                txn = env.begin(None, parent.txn, True)
        except lmdb.Error as error:
            raise _translate(error, store.path) from error
        self.txn = txn
        self.get = txn.get
        self.put = txn.put
        self.delete = txn.delete
        self._parent = parent
        self._pages: dict[bytes, StoredPages] = {}
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
        try:
            if kind is None:
                self.flush()
                self.txn.commit()
                if self._parent is not None:
                    self._parent._pages.clear()
            else:
                self.txn.abort()
        except BaseException as fault:
            self.txn.abort()
            if isinstance(fault, lmdb.Error):
                raise _translate(fault, store.path) from fault
            raise
        if isinstance(error, lmdb.Error):
            raise _translate(error, store.path) from error

    def pages(self, network_id: int, family: int) -> StoredPages:
        """The bitmap of a network and family, as this transaction sees it."""
        prefix = pages_prefix(network_id, family)
        found = self._pages.get(prefix)
        if found is None:
            found = self._pages[prefix] = StoredPages(
                self.get,
                self.put,
                self.delete,
                self._store.db_pages,
                prefix,
                page_index_bytes(family),
            )
        return found

    def flush(self) -> None:
        """Write the changed pages into the transaction."""
        for pages in self._pages.values():
            pages.flush()


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
        except lmdb.Error as error:
            raise _translate(error, store.path) from error
        self.get = self.txn.get
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._own:
            self.txn.abort()
        if isinstance(error, lmdb.Error):
            raise _translate(error, self._store.path) from error


class Store:
    """The open LMDB environment of a data directory.

    Opening costs the same whatever the store holds. ``durability`` is "durable" (a change is on
    disk when the call returns), "relaxed" (a killed process loses nothing, a power cut may lose
    the last changes or damage the file), or None: as the store was created, "durable" for a new one.

    ``clock`` returns wall clock nanoseconds, ``boot_id`` the text that names this boot; tests inject
    both. With ``create=False`` a directory without a store raises FileNotFoundError.
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
        self._boot_id = boot_id or _read_boot_id
        self._local: Any = _local()
        self._env: lmdb.Environment | None = None
        self._process = os.getpid()
        self.identity = (0, 0)
        if not create and not os.path.exists(os.path.join(self.path, "data.mdb")):
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
            raise _translate(error, self.path) from error
        self._env = env
        try:
            return self._prepare(env, durability)
        except lmdb.Error as error:
            self.close()
            raise _translate(error, self.path) from error
        except BaseException:
            self.close()
            raise

    def _prepare(self, env: lmdb.Environment, durability: str) -> str:
        """Open the databases, creating those that are missing; check schema, note the boot."""
        status = os.stat(os.path.join(self.path, "data.mdb"))
        self.identity = (status.st_dev, status.st_ino)
        meta = {}
        with env.begin() as txn:
            known = True
            try:
                self._open_databases(env, txn, create=False)
                meta = {key: txn.get(key, db=self.db_meta) for key in _META_KEYS}
            except lmdb.NotFoundError:
                known = False
                if txn.stat()["entries"]:
                    self._refuse_foreign(txn)
        boot = self._boot_id().encode()
        if not known or meta[_SCHEMA] is None or meta[_BOOT] != boot:
            with env.begin(write=True) as txn:
                self._open_databases(env, txn, create=True)
                self._write_meta(txn, boot, durability)
                meta = {key: txn.get(key, db=self.db_meta) for key in _META_KEYS}
        self._check_schema(meta[_SCHEMA])
        self.boot = int.from_bytes(meta[_BOOT_NUMBER] or b"", "big")
        return (meta[_DURABILITY] or b"").decode()

    def _open_databases(self, env: lmdb.Environment, txn: Any, *, create: bool) -> None:
        opened = [env.open_db(name.encode(), txn=txn, create=create) for name in _DATABASES]
        (
            self.db_meta,
            self.db_networks,
            self.db_states,
            self.db_pages,
            self.db_leases,
            self.db_owners,
            self.db_cooldown,
            self.db_reservations,
        ) = opened

    def _refuse_foreign(self, txn: Any) -> None:
        """An LMDB file with entries but without our databases: somebody else's, or half of ours."""
        names = [key for key, _ in txn.cursor()]
        if b"meta" not in names:
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
        if schema < 1:
            raise StoreCorrupt(
                f"the store {self.path} has no valid schema version: {raw!r}",
                path=self.path,
                hint=CHECK_HINT,
            )

    def _write_meta(self, txn: Any, boot: bytes, durability: str) -> None:
        """First use, or first use since a reboot. A newer schema is left as it is."""
        db = self.db_meta
        raw = txn.get(_SCHEMA, db=db)
        if raw is None:
            txn.put(_SCHEMA, SCHEMA.to_bytes(4, "big"), db=db)
            txn.put(_DURABILITY, durability.encode(), db=db)
        elif int.from_bytes(raw, "big") != SCHEMA:
            return
        if txn.get(_BOOT, db=db) != boot:
            number = int.from_bytes(txn.get(_BOOT_NUMBER, b"", db=db), "big") + 1
            txn.put(_BOOT, boot, db=db)
            txn.put(_BOOT_NUMBER, number.to_bytes(4, "big"), db=db)

    def _environment(self) -> lmdb.Environment:
        if self._env is None:
            raise StoreClosed(f"the store {self.path} was closed", path=self.path)
        if os.getpid() != self._process:
            raise StoreForked(
                f"the store {self.path} was opened before fork(): "
                f"by process {self._process}, this is {os.getpid()}",
                path=self.path,
                hint="open the store again in the child process",
            )
        return self._env

    def write(self) -> Transaction:
        """A write transaction; nested when this thread has one open. Waits for other writers."""
        return Transaction(self)

    def read(self) -> Snapshot:
        """A read transaction; waits for nobody."""
        return Snapshot(self)

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has a write transaction open."""
        return getattr(self._local, "transaction", None) is not None

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


_SCHEMA = b"schema"
_DURABILITY = b"durability"
_BOOT = b"boot id"
_BOOT_NUMBER = b"boot number"
_META_KEYS = (_SCHEMA, _DURABILITY, _BOOT, _BOOT_NUMBER)


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
    global _shared_process
    with _shared_lock:
        if os.getpid() != _shared_process:  # a forked child shares nothing of its parent's
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
