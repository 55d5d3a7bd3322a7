"""The open files of a store, for its transactions."""

from __future__ import annotations

import os
import time
from _thread import _local

import lmdb

from fastipam import late_errors as errors
from fastipam._ledger import OpenFiles, WriterLock
from fastipam.storage import tables
from fastipam.storage.directory import DATA_FILE
from fastipam.storage.lmdb_errors import transaction_is_open, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastipam.storage.boot import Access
    from fastipam.storage.tables import Reading, Writing


class Environment:
    """The open files of a store, and what this process knows about the store.

    ``clock`` returns wall clock nanoseconds. ``boot_id`` returns the text that names this boot, or
    "" when this process cannot read it. ``boot`` is the number of this boot in the store.
    ``unswept`` says that leases of an earlier boot may be left; it is a hint, because each pool has
    its own record of that. ``boot_doubt`` says why this may be another boot, or is empty.
    ``boottime`` returns nanoseconds of a clock that cannot be set. ``local.transaction`` is the
    write transaction of this thread. ``refused`` is when a thread last waited for another writer in
    vain (monotonic nanoseconds), and the error that it got.
    """

    nests = False  # a call in a transaction of the same thread is refused
    boot: int
    boot_doubt = ""
    boottime: Callable[[], int]
    durability: str
    refused: tuple[int, errors.StoreError] | None = None
    unswept: bool

    def __init__(
        self, path: str, map_size: int, clock: Callable[[], int], boot_id: Callable[[], str]
    ) -> None:
        self.path = path
        self.clock = clock
        self.boot_id = boot_id
        self.local: Any = _local()
        self.files: OpenFiles | None = None
        self.has_failed = False  # LMDB has raised an error since the last test write
        self._map_size = map_size
        self._closed = False
        self._process = os.getpid()

    def open_files(self) -> OpenFiles:
        """Return the open files, opened anew if they are stale.

        Raises StoreForked, StoreClosed; StoreError when they cannot be opened.
        """
        files = self.files
        if files is None or self._closed:
            raise self.was_closed()
        if files.is_forked:
            raise errors.StoreForked(
                f"the store {self.path} was opened before fork(): "
                f"by process {self._process}, this is {os.getpid()}",
                path=self.path,
                hint="open the store again in the child process",
            )
        if files.stale or files.closing:
            return self.renew(files)
        return files

    def renew(self, stale: OpenFiles) -> OpenFiles:
        """Open the files anew, and return them."""
        raise NotImplementedError

    def check_readers(self) -> None:
        """Release the slots of dead readers."""
        # LMDB does not reuse pages that a reader sees, and it notices a killed reader only when
        # reader_check is called. Without this the file would grow with every commit, by some 60 KB
        # in a busy network.
        self.open_files().env.reader_check()

    def may_begin_again(self, error: Exception) -> bool:
        """Release the reader slots of dead processes if ``error`` says that no slot was free.

        Return whether it says so: then the caller may begin its transaction again.
        """
        if not isinstance(error, lmdb.ReadersFullError):
            return False
        self.check_readers()
        return True

    def translate(self, error: Exception) -> errors.StoreError:
        """Return the fastipam error for an error of LMDB or of the system."""
        translated = translate(error, self.path, self._map_size)
        if isinstance(error, lmdb.MapResizedError) and self.files is not None:
            # Another process has enlarged the memory map: the next call opens the files again.
            self.files.stale = True
        if isinstance(error, TimeoutError):
            self.refused = time.monotonic_ns(), translated
        return translated

    def refuse_who_waited(self, since_ns: int) -> None:
        """Raise StoreBusy if another thread has waited for a writer in vain since ``since_ns``.

        This thread has already waited while the other one did, so it does not begin to wait again.
        The error is the one that the other thread got.
        """
        refused = self.refused
        if refused is not None and refused[0] > since_ns and not self.is_writable_at_once:
            raise refused[1].with_traceback(None)

    def fault(self, error: BaseException) -> BaseException:
        """Return the fastipam error for an error of LMDB, and any other error as it is."""
        if not isinstance(error, lmdb.Error):
            return error
        self.has_failed = True
        return self.translate(error)

    def replaced(self) -> errors.StoreError:
        """Return the error of a transaction whose files were moved away or replaced meanwhile."""
        return errors.StoreBusy(
            f"the files of the store {self.path} were replaced or moved away during this call; "
            "it has changed nothing",
            path=self.path,
            hint="try again when no program replaces them",
        )

    def transaction_is_open(self) -> errors.TransactionOpen:
        """Return the error for a change by a thread that has a transaction open.

        Raises StoreForked in a forked child, which inherits the open transaction of its parent.
        """
        self.open_files()
        return transaction_is_open(self.path)

    def was_closed(self) -> errors.StoreClosed:
        """Return the error for a call after the store was closed, by all users or by this one."""
        return errors.StoreClosed(f"the store {self.path} was closed", path=self.path)

    def transaction_is_over(self) -> errors.TransactionOver:
        """Return the error for a transaction that has ended, or that belongs to another thread."""
        return errors.TransactionOver(
            f"this transaction of the store {self.path} has ended, or belongs to another thread",
            path=self.path,
            hint="use what a transaction returns only in its block and its thread",
        )

    def require_schema(self, txn: Reading) -> None:
        """Raise an error if another version has created or changed the store meanwhile."""
        schema = tables.META.get(txn, tables.SCHEMA_KEY)
        if int.from_bytes(schema or b"", "big") != tables.SCHEMA:
            raise self.other_schema(schema)

    def other_schema(self, raw: bytes | None) -> errors.StoreError:
        """Return the error for a store whose schema is not the one of this version."""
        schema = int.from_bytes(raw or b"", "big")
        if not schema:
            return errors.StoreCorrupt(
                f"the store {self.path} has no valid schema version: {raw!r}",
                path=self.path,
                hint=errors.CHECK_HINT,
            )
        return errors.StoreVersion(
            f"the store {self.path} has schema {schema}, this fastipam knows {tables.SCHEMA}",
            path=self.path,
            hint=(
                "use the fastipam version that wrote it; or drain the node and remove the "
                "directory when none of its pods has an address"
            ),
        )

    def note_boot(self, access: Access, *, may_count: bool) -> None:
        """Set ``boot``, and count a new boot if ``may_count``."""
        raise NotImplementedError

    def note_swept(self, txn: Writing) -> None:
        """Record in the store that no lease of an earlier boot is left.

        ``unswept`` becomes false after the commit.
        """
        tables.META.put(txn, tables.SWEPT_KEY, self.boot.to_bytes(4, "big"))
        txn.promises = (*txn.promises, _Swept(self))

    def note_unswept(self, txn: Writing) -> None:
        """Record in the store that leases of an earlier boot may be left."""
        tables.META.delete(txn, tables.SWEPT_KEY)
        self.unswept = True

    @property
    def identity(self) -> tuple[int, int]:
        """The device and the inode of the data file."""
        return self.files.identity if self.files is not None else (0, 0)

    def is_current(self) -> bool:
        """Return whether the paths still lead to the files that are open."""
        return self.files is not None and self.files.is_current()

    @property
    def is_writable_at_once(self) -> bool:
        """Whether no other writer has the lock of the files that the path leads to now."""
        files = self.files
        if files is not None and not files.closing and files.is_current():
            return files.lock.is_free()
        # The next transaction opens the files anew, and waits for their lock, not for the old one.
        try:
            return WriterLock(os.path.join(self.path, DATA_FILE)).is_free()
        except OSError:
            return True  # the next transaction says what is wrong

    @property
    def may_write_at_once(self) -> bool:
        """Whether this thread could write now, without waiting for another writer."""
        transaction = getattr(self.local, "transaction", None)
        if transaction is not None:
            return bool(transaction.joined)
        return self.is_writable_at_once

    @property
    def is_in_use(self) -> bool:
        """Whether a transaction uses the open files, or a thread is closing them."""
        return self.files is not None and self.files.is_in_use

    def close(self) -> None:
        """Close the files when the last transaction has ended; a later call raises StoreClosed.

        A second call does nothing. In a forked child it forgets the files.
        """
        self._closed = True
        if self.files is not None:
            self.files.close()

    def reopen(self) -> bool:
        """Undo :meth:`close` if a transaction still uses the files; return whether one does."""
        if self.files is None or not self.files.reopen():
            return False
        self._closed = False
        return True


class _Swept:
    """The promise that clears ``unswept`` when the transaction that recorded it has committed."""

    def __init__(self, store: Environment) -> None:
        self._store = store

    def settle(self) -> None:
        """Clear ``unswept``."""
        self._store.unswept = False
