"""The open LMDB environment of a store: what its transactions need of it."""

from __future__ import annotations

import os
from _thread import _local

from fastipam.errors import StoreClosed, StoreForked
from fastipam.storage import tables
from fastipam.storage.directory import DATA_FILE
from fastipam.storage.lmdb_errors import translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import lmdb

    from fastipam.errors import StoreError
    from fastipam.storage.boot import Access
    from fastipam.storage.tables import Writing
    from fastipam.storage.writer_lock import WriterLock

COMMITS_PER_READER_CHECK = 256  # a check costs a microsecond for each process that reads


class Environment:
    """An LMDB environment that this process has opened, and what this process knows of its store.

    ``clock`` returns wall clock nanoseconds, ``boot_id`` the text that names this boot or "" when
    this process cannot read it. ``boot`` is the number of this boot in the store. ``unswept`` says
    that leases of an earlier boot may be left; it is a hint, because each network has its own mark.
    ``boot_doubt`` says why this may be another boot, or is empty. ``boottime`` returns nanoseconds
    of a clock that nobody sets.
    ``identity`` is the device and the inode of the data file.
    """

    boot: int
    boot_doubt = ""
    boottime: Callable[[], int]
    databases: tuple[Any, ...]
    durability: str
    unswept: bool
    _writer_lock: WriterLock

    def __init__(
        self, path: str, map_size: int, clock: Callable[[], int], boot_id: Callable[[], str]
    ) -> None:
        self.path = path
        self.clock = clock
        self.boot_id = boot_id
        self.identity = (0, 0)
        self._map_size = map_size
        self._local: Any = _local()  # ``transaction``: the write transaction of this thread
        self._env: lmdb.Environment | None = None
        self._process = os.getpid()
        self._commits = 0

    def _environment(self) -> lmdb.Environment:
        """Return LMDB's environment. Raises StoreForked, StoreClosed."""
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

    def _check_readers(self) -> None:
        """Release the slots of dead readers."""
        # LMDB does not reuse what a reader sees, and notices that a reader was killed only when it
        # is told to look. Without this the file would grow with every commit, by some 60 KB in a
        # busy network.
        if self._env is not None:
            self._env.reader_check()

    def translate(self, error: Exception) -> StoreError:
        """Return the fastipam error for an error of LMDB or of the system."""
        return translate(error, self.path, self._map_size)

    def note_boot(self, access: Access, *, may_count: bool) -> None:
        """Set ``boot``, and count a new boot if ``may_count``."""
        raise NotImplementedError

    def note_swept(self, txn: Writing) -> None:
        """Note in the store that no lease of an earlier boot is left."""
        tables.META.put(txn, tables.SWEPT_KEY, self.boot.to_bytes(4, "big"))
        self.unswept = False

    def note_unswept(self, txn: Writing) -> None:
        """Note in the store that leases of an earlier boot may be left."""
        tables.META.delete(txn, tables.SWEPT_KEY)
        self.unswept = True

    def is_current(self) -> bool:
        """Return whether the path still leads to the open file, and not to a new one or to none."""
        try:
            status = os.stat(os.path.join(self.path, DATA_FILE))
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def close(self) -> None:
        """Close the environment. A second call does nothing; in a forked child it forgets it."""
        env, self._env = self._env, None
        if env is not None and os.getpid() == self._process:
            env.close()
            self._writer_lock.close()
