"""Open the store of a data directory, and check its schema, durability and boot.

LMDB is the only truth. Nothing is kept in memory between two transactions, so any number of
processes and threads work on one store at once, and a process that is killed at any instruction
loses and duplicates nothing.
"""

from __future__ import annotations

import os
import time

import lmdb

from fastipam import late_errors as errors
from fastipam._ledger import OpenFiles, Part, WriterLock, perform
from fastipam.storage import boot, tables
from fastipam.storage.directory import (
    DATA_FILE,
    LOCK_FILE,
    MAKER_LOCK_FILE,
    is_new,
    make_directory,
    make_files,
    pair_lock_file,
    refuse_strangers,
    refuse_truncated,
)
from fastipam.storage.environment import Environment
from fastipam.storage.lmdb_errors import (
    MAP_SIZE,
    MAX_READERS,
    PATIENCE_S,
    REPLACE_HINT,
    is_disk_full,
    translate,
)
from fastipam.storage.tables import DURABLE, RELAXED
from fastipam.storage.transaction import Snapshot, Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any, TypeVar

    from fastipam._ledger import Call

    Block = TypeVar("Block", bound=Transaction)
    Result = TypeVar("Result")


_PROBE = b"probe"
_RENEWAL_S = 2.0  # a transaction of another thread is over by then, unless it is left open
_PROBE_BYTES = 32 * 4096  # contiguous pages; an assignment changes four to ten


class Store(Environment):
    """The store of a data directory.

    Opening costs the same whatever the store holds. ``durability`` is "durable" (a change is on
    disk when the call returns), "relaxed" (a killed process loses nothing, a power cut may lose the
    last changes or damage the file), or None for the durability with which it was created
    ("durable" for a new store). Tests inject ``clock``, ``boot_id`` and ``boottime``, which
    defaults to an injected ``clock``.
    With ``create=False`` a directory without a store raises FileNotFoundError. A program that only
    reads opens the store with ``count_boot=False``. A call that finds another writer waits for
    ``patience_s`` seconds and then raises StoreBusy; when the store is opened, they count from
    ``since_ns`` (monotonic clock). Raises StoreError, ConfigError (durability).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        durability: str | None = None,
        *,
        create: bool = True,
        map_size: int = MAP_SIZE,
        clock: Callable[[], int] = time.time_ns,
        boottime: Callable[[], int] | None = None,
        boot_id: Callable[[], str] | None = None,
        count_boot: bool = True,
        patience_s: float = PATIENCE_S,
        since_ns: int = 0,
    ) -> None:
        if durability not in (None, DURABLE, RELAXED):
            raise errors.ConfigError(
                f"durability {durability!r} is neither {DURABLE!r} nor {RELAXED!r}",
                field="durability",
                value=durability,
            )
        super().__init__(os.path.abspath(path), map_size, clock, boot_id or boot.read_boot_id)
        self.boottime = boottime or (boot.boottime_ns if clock is time.time_ns else clock)
        self._count_boot = count_boot
        self._was_beside = True
        self._patience_s = patience_s
        self._renewing = WriterLock("", patience_s)
        self._since_ns = since_ns or time.monotonic_ns()
        if not create:
            try:
                os.lstat(os.path.join(self.path, DATA_FILE))
            except (FileNotFoundError, NotADirectoryError) as error:
                import errno

                raise FileNotFoundError(errno.ENOENT, "there is no store", self.path) from error
            except OSError as error:
                raise translate(error, self.path) from error
        self._open(durability)

    def require_durability(self, durability: str | None) -> None:
        """Raise ConfigError when the store was created with another durability.

        With None any durability is accepted.
        """
        if durability not in (None, self.durability):
            raise errors.ConfigError(
                f"durability {durability!r} is configured, but the store {self.path} was created "
                f"with {self.durability!r}",
                field="durability",
                value=durability,
                hint="use the same durability in every configuration of a data directory",
            )

    def _open(self, durability: str | None) -> None:
        """Open or create the files. Raises ConfigError when they have another durability."""
        self.durability = self._open_as(durability or DURABLE)
        self.require_durability(durability)
        if self.files is None or self.files.closing:
            # LMDB syncs or not from the moment it opens the files: open them again as they were
            # created.
            self._open_as(self.durability)

    def _open_as(self, durability: str) -> str:
        """Open or create the files and return the durability that the store was created with.

        If that is another durability, the files are closed again.
        """
        sync = durability == DURABLE
        made: list[str] = []
        env = None
        try:
            make_directory(self.path)
            refuse_strangers(self.path)
            made = make_files(self.path)
            if is_new(self.path):
                from fastipam.storage.create import create

                with WriterLock(os.path.join(self.path, MAKER_LOCK_FILE), self._left_s()):
                    if is_new(self.path):
                        create(self.path, durability, self._map_size)
            lock = WriterLock(os.path.join(self.path, DATA_FILE), self._left_s())
            with lock:  # taken once, so that a process that opens the store waits only once
                lock.set_patience(self._patience_s)
                # LMDB reads the last commit when it makes its lock file. A writer that has the
                # earlier lock file open may be in a commit, so this thread has waited for it. A
                # later writer opens the new lock file.
                pair_lock_file(self.path)
                env = lmdb.open(
                    self.path,
                    map_size=self._map_size,
                    sync=sync,
                    metasync=sync,
                    mode=0o600,
                    max_dbs=tables.MAX_DATABASES,
                    max_readers=MAX_READERS,
                    lib_version=0,
                )
                # If the file is larger than that already, so is the map.
                self._map_size = int(env.info()["map_size"])
                refuse_truncated(env, self.path)
                # A process that was killed while it read keeps its reader's slot, and LMDB does not
                # reuse what it read. LMDB looks for dead readers only when it is told to.
                env.reader_check()
                stored, databases = self._prepare(env, durability)
            if stored != durability:
                env.close()
                return stored
            names = (os.path.join(self.path, name) for name in (DATA_FILE, LOCK_FILE))
            self.files = OpenFiles(env, databases, lock, *map(os.fsencode, names))
        except BaseException as error:
            if env is not None:
                env.close()
                if MAKER_LOCK_FILE in made:  # the directory is another program's: leave no trace
                    os.unlink(os.path.join(self.path, MAKER_LOCK_FILE))
            if isinstance(error, (lmdb.Error, OSError)):
                raise self.translate(error) from error
            raise
        return stored

    def _left_s(self) -> float:
        """Return how long the thread that opens the files may still wait for their writer."""
        waited_s = (time.monotonic_ns() - self._since_ns) / 1e9
        return max(0.0, self._patience_s - waited_s)

    def renew(self, stale: OpenFiles) -> OpenFiles:
        """Open the files anew: they were replaced, or LMDB refuses every call after a failed write.

        Raises StoreUnavailable when the data file is gone: a new store would assign the addresses
        of running containers. Raises StoreBusy when LMDB has to open the same file again, which it
        may only do once in a process, and a transaction of this process still uses it.
        """
        since_ns = time.monotonic_ns()
        try:
            return self._renew_since(stale, since_ns)
        # Another thread waits for the writer; or this thread does, and a signal handler called.
        except OSError as error:
            error.filename = os.path.join(self.path, DATA_FILE)
            raise self.translate(error) from error

    def _renew_since(self, stale: OpenFiles, since_ns: int) -> OpenFiles:
        with self._renewing:
            if self.files is not stale and self.files is not None:
                return self.files  # another thread has done it
            self.refuse_who_waited(since_ns)
            self._since_ns = since_ns
            stale.close()
            if not os.path.lexists(os.path.join(self.path, DATA_FILE)):
                raise errors.StoreUnavailable(
                    f"the store {self.path} is gone: {DATA_FILE} no longer exists",
                    path=self.path,
                    hint=REPLACE_HINT,
                )
            if stale.is_current():
                self._wait_for_users(stale)
            self._open(None)  # a restored store may have another durability
            assert self.files is not None
            return self.files

    def _wait_for_users(self, stale: OpenFiles) -> None:
        """Wait until no transaction uses the files. Raises StoreBusy after ``_RENEWAL_S``."""
        give_up = time.monotonic() + _RENEWAL_S
        while stale.is_in_use:
            if time.monotonic() > give_up:
                raise errors.StoreBusy(
                    f"the store {self.path} cannot be opened again after a failed write: this "
                    "process still reads it",
                    path=self.path,
                    hint="end the iteration or the transaction that is open",
                )
            time.sleep(0.001)

    def _prepare(
        self, env: lmdb.Environment, durability: str
    ) -> tuple[str, tuple[lmdb._Database, ...]]:
        """Check the schema and record the boot; return the store's durability and its databases."""
        # All of it is one write transaction, because py-lmdb closes at the end of a read
        # transaction the databases that were opened in it. When there is nothing to write, nothing
        # is written.
        with env.begin(write=True) as txn:
            try:
                meta = env.open_db(tables.META.name.encode(), txn=txn, create=False)
            except lmdb.NotFoundError as error:
                raise self._foreign(txn) from error
            schema = txn.get(tables.SCHEMA_KEY, db=meta)
            if int.from_bytes(schema or b"", "big") != tables.SCHEMA:
                raise self.other_schema(schema)
            stored = self._durability(txn.get(tables.DURABILITY_KEY, b"", db=meta))
            if stored != durability:  # the files have to be opened again, with the other sync
                return stored, ()
            databases = tables.open_all(env.open_db, meta, txn)
            self.note_boot(_access(txn, databases), may_count=self._count_boot)
            swept = txn.get(tables.SWEPT_KEY, b"", db=meta)
            self.unswept = int.from_bytes(swept, "big") != self.boot
        if self.boot_doubt == boot.UNCOUNTED and self._count_boot:
            self.boot_doubt = ""  # it is committed
            self.note_plugin()
        return stored, databases

    def note_plugin(self) -> None:
        """Set ``boot_doubt`` if a plugin process was seen since the boot was recorded.

        The next write transaction then records that a runtime runs in this pid namespace.
        """
        if boot.runs_beside_runtime() and not self._was_beside:
            self.boot_doubt = self.boot_doubt or boot.UNCOUNTED

    def note_boot(self, access: boot.Access, *, may_count: bool) -> None:
        """Set ``boot`` to the number of this boot. A store counts the boots it has seen from 1.

        With ``may_count`` False nothing is written. Raises StoreUnavailable.
        """
        self._was_beside = boot.runs_beside_runtime()
        self._note_boot(access, may_count)
        self.note_plugin()  # another thread may have seen the plugin meanwhile

    def _note_boot(self, access: boot.Access, may_count: bool) -> None:
        boot_id = self.boot_id()
        get = access[0]
        before = (get(tables.BOOT_KEY) or b"").decode("ascii", "replace")
        if before and not boot_id:
            # A process that cannot read the boot id must not count a boot.
            raise errors.StoreUnavailable(
                f"the store {self.path} is not used: this process cannot read {boot.BOOT_ID}, and "
                "so cannot tell the leases of this boot from earlier ones",
                path=self.path,
                hint="give it access to all of /proc (in a systemd unit, remove ProcSubset=pid)",
            )
        node = boot.read_node() if self.boot_id is boot.read_boot_id else ""
        number = int.from_bytes(get(tables.BOOT_NUMBER_KEY) or b"", "big")
        if before == boot_id and number:
            nodes = (get(tables.BOOT_NODES_KEY) or b"").decode("ascii", "replace").split()
            beside = ":" in node and self._was_beside
            if not node or node + boot.RUNTIME in nodes or (node in nodes and not beside):
                self.boot, self.boot_doubt = number, ""
                return
        from fastipam.storage import boot_change

        boot_change.note(self, (boot_id, node), access, may_count=may_count)

    def runtime_pid_ns(self) -> frozenset[int]:
        """Return the inode of this process's pid namespace if a runtime is known to run in it.

        Return an empty set otherwise.
        """
        with self.read() as txn:
            return boot.runtime_pid_ns(tables.META.get(txn, tables.BOOT_NODES_KEY))

    def _foreign(self, txn: Any) -> errors.StoreError:
        """Return the error for an LMDB file that has no database of a store."""
        names = sorted(repr(key.decode("ascii", "replace")) for key, _ in txn.cursor())
        return errors.StoreCorrupt(
            f"{self.path} is an LMDB environment of another program: it has "
            f"{', '.join(names[:4]) or 'nothing'}",
            path=self.path,
            hint="choose another data directory",
        )

    def _durability(self, raw: bytes) -> str:
        for known in (DURABLE, RELAXED):
            if raw == known.encode():
                return known
        raise errors.StoreCorrupt(
            f"the store {self.path} has no valid durability: {raw!r}",
            path=self.path,
            hint=errors.CHECK_HINT,
        )

    def require_writable(self) -> None:
        """Raise StoreError when a change could not be written now. O(1); not in a transaction.

        Opening the file for writing fails on a file system that is read-only or has failed. Where
        little room is left, as many pages as a burst of assignments takes are written and deleted,
        because only LMDB knows how many pages of the file it can use again. The same test is made
        after LMDB has raised an error in this process, because the disk may refuse writes.
        """
        try:
            descriptor = os.open(os.path.join(self.path, DATA_FILE), os.O_RDWR | os.O_CLOEXEC)
            os.close(descriptor)
        except OSError as error:
            raise self.translate(error) from error
        if self.has_failed or is_disk_full(self.path) or self._is_map_full():
            with self.write() as txn:
                self.require_schema(txn)
                tables.META.put(txn, _PROBE, bytes(_PROBE_BYTES))
            with self.write() as txn:
                tables.META.delete(txn, _PROBE)
            self.has_failed = False

    def _is_map_full(self) -> bool:
        """Return whether the used part of the file ends just below the size of the memory map."""
        return self._end() + 2 * _PROBE_BYTES > self._map_size

    def _end(self) -> int:
        """Return how many bytes of the file are in use."""
        env = self.open_files().env
        return (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"])

    def widen(self, room: int) -> int:
        """Enlarge the memory map until ``room`` bytes of it are unused.

        Return its old size, or 0 if it was large enough. Raises StoreBusy when a transaction of
        this process goes on using the map.
        """
        before = self._map_size
        wanted = self._end() + room
        if wanted <= before:
            return 0
        self.resize(wanted)
        return before

    def resize(self, map_size: int) -> None:
        """Open the files again with a memory map of this size, or of the file's if it is larger."""
        self._map_size = map_size
        self.renew(self.open_files())

    def write(self) -> AbstractContextManager[Transaction]:
        """Return a write transaction. Waits for other writers.

        In a thread with an open batch it is a part of the batch's transaction. When it begins in a
        thread that has another transaction open, it raises TransactionOpen.
        """
        whole: Transaction | None = getattr(self.local, "transaction", None)
        if whole is not None and whole.joined:
            return Part(whole)
        return Transaction(self)

    def perform(self, call: Call[Result]) -> Result:
        """Make a call in a write transaction, and return its result after the commit.

        In a durable store the call may share the commit with calls of other threads, and another
        thread may make it. Waits as :meth:`write` does.
        """
        shares = self.durability == DURABLE and Transaction.shares
        return perform(self, Transaction, shares, call)

    def admit(self, transaction: Block) -> Block:
        """Return a transaction that is about to begin. ``fastipam.testing`` raises errors here."""
        return transaction

    def read(self) -> Snapshot:
        """Return a read transaction. Waits for nobody."""
        return Snapshot(self)

    def copy_to(self, descriptor: int) -> None:
        """Write a consistent, compacted copy of the store to a file. Waits for nobody.

        Raises StoreError; OSError with the system's error number when the file cannot be written.
        """
        with self.read():  # nobody closes the files meanwhile
            try:
                self.open_files().env.copyfd(descriptor, compact=True)
            except lmdb.Error as error:
                code = int(getattr(error, "code", 0))
                if code > 0:
                    raise OSError(code, os.strerror(code)) from error
                raise

    def file_bytes(self) -> int:
        """Return the size of the data file."""
        return os.stat(os.path.join(self.path, DATA_FILE)).st_size

    def readers(self) -> list[tuple[int, int]]:
        """Return (process id, number of commits since the state that it reads) for each reader."""
        env = self.open_files().env
        last = int(env.info()["last_txnid"])
        rows = [line.split() for line in env.readers().splitlines()]
        return [(int(row[0]), last - int(row[2])) for row in rows if row[-1].isdecimal()]


def _access(txn: Any, databases: tuple[lmdb._Database, ...]) -> boot.Access:
    """Return the functions that read and write the boot in a transaction of LMDB."""
    meta, leases = (databases[table.place] for table in (tables.META, tables.LEASES))
    return (
        lambda key: txn.get(key, db=meta),
        lambda key, value: txn.put(key, value, db=meta),
        lambda: (raw for _, raw in txn.cursor(leases)),
    )
