"""Back up and restore a store while other processes use it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastipam import files
from fastipam._ledger import PoolState
from fastipam.allocation import blocks
from fastipam.errors import ConfigError, StoreCorrupt, StoreError, StoreFull, StoreUnavailable
from fastipam.storage import tables
from fastipam.storage.directory import is_store_directory, path_of
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.store import Store
from fastipam.storage.truncation import is_store_file
from fastipam.verify import verify
from fastipam.verify.parts import check_given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam.storage.tables import Table
    from fastipam.storage.transaction import Snapshot, Transaction

    Progress = Callable[[int, int], None]  # done, total: keys, or bytes

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORKSPACE = "restore-"
_STEP = 4096  # keys between two calls of progress
_MARKS = (keys.STATE_MARK, keys.LOG_MARK)
_KEPT = (  # the keys of ``meta`` that a restore leaves as they are
    tables.SCHEMA_KEY,
    tables.DURABILITY_KEY,
    tables.BOOT_KEY,
    tables.BOOT_NUMBER_KEY,
    tables.BOOT_IDS_KEY,
    tables.BOOT_BEGAN_KEY,
    tables.BOOT_NODES_KEY,
    tables.SWEPT_KEY,
)


def backup(
    store: Store,
    path: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> int:
    """Write a snapshot of the store to a file (compacted, mode 0600), and return its size in bytes.

    Other processes go on reading and writing. The file gets its name when it is complete and synced
    to disk. It replaces an older backup of this name, or a symbolic link, which is not followed;
    with ``force`` any file. A file in the directory of a store, a device or a directory is never
    replaced. O(used pages). Meanwhile the store cannot reuse freed space. ``progress`` is called
    once, at the end, with the size as both numbers. Raises ConfigError (``path`` must not be
    replaced), StoreError.
    """
    check_given(store, progress)
    target = os.path.abspath(path_of(path, "the file of the backup"))
    try:
        _refuse_target(target, force=force)
        with files.replacing(target) as descriptor:
            store.copy_to(descriptor)
            size = os.fstat(descriptor).st_size
    except OSError as error:
        raise StoreUnavailable(
            f"the backup {target} cannot be written: {error.strerror}",
            path=target,
            hint="nothing was changed; choose another file",
        ) from error
    if progress is not None:
        progress(size, size)
    return size


def _refuse_target(target: str, *, force: bool) -> None:
    """Raise ConfigError when the file at this path must not be replaced. Raises OSError."""
    directory = os.path.dirname(target)
    if is_store_directory(directory):
        raise ConfigError(
            f"the backup {target} cannot be written into the data directory of a store",
            field="FILE",
            value=target,
            hint="type a file in another directory",
        )
    if os.path.islink(target) or not os.path.exists(target):
        return
    files.refuse_other_kinds(target)
    if not force and os.path.getsize(target) and not is_store_file(target):
        raise ConfigError(
            f"{target} exists and is not a fastipam backup",
            field="FILE",
            value=target,
            hint="choose another file, or type --force to replace this one",
        )


def restore(
    store: Store,
    path: str | os.PathLike[str],
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> int:
    """Replace the content of the store by that of a backup, and return the number of keys.

    It is one transaction: other processes see the old content or the new one, and go on. The
    backup's leases of the current boot stay valid; those of an earlier boot are released, as after
    a reboot. The durability of the store does not change. Without ``replace`` a store that has
    leases or reservations is refused, because leases made after the backup would be lost, and their
    addresses might be assigned again while their pods still run.

    O(keys). Returns after the commit is on disk (durable mode). Raises ConfigError (the store is
    not empty), StoreError (the backup is no store, has another schema, or is not consistent); then
    nothing was changed.
    """
    check_given(store, progress)
    given = path_of(path, "the file of a backup")
    with _workspace(store) as directory:
        source = _open_copy(given, directory, store)
        try:
            found = verify(source)
            if found:
                raise StoreCorrupt(
                    f"the backup {path} is not consistent; findings: {len(found)}, the first: "
                    f"{found[0]}",
                    path=os.fspath(path),
                    hint="nothing was changed; use another backup",
                )
            with store.write() as txn, source.read() as snapshot:
                store.require_schema(txn)
                if not replace and _is_used(txn):
                    raise ConfigError(
                        f"the store {store.path} has leases or reservations, which the backup "
                        "would replace",
                        field="replace",
                        value=False,
                        hint="type --replace to lose what was assigned since the backup",
                    )
                return _Copy(snapshot, txn, progress).run()
        finally:
            source.close()


@contextmanager
def _workspace(store: Store) -> Iterator[str]:
    """Make a directory for the copy that only the store's owner can read. Raises StoreError."""
    # The process holds a lock on the directory. A directory without a lock was left by a process
    # that was killed, and is deleted.
    try:
        for name in os.listdir(store.path):
            if name.startswith(_WORKSPACE):
                _remove_abandoned(os.path.join(store.path, name))
        directory = tempfile.mkdtemp(prefix=_WORKSPACE, dir=store.path)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise store.translate(error) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


def _remove_abandoned(directory: str) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # it is gone, or no directory
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def _open_copy(path: str, directory: str, store: Store) -> Store:
    """Open a copy of the backup as a store, because opening writes lock files beside the file."""
    try:
        shutil.copyfile(path, os.path.join(directory, "data.mdb"))
    except OSError as error:
        if error.errno in _NO_ROOM:  # the copy cannot be written
            raise store.translate(error) from error
        raise StoreUnavailable(
            f"the backup {path} cannot be read: {error.strerror}",
            path=path,
            hint="nothing was changed; use another backup",
        ) from error
    if not os.path.getsize(os.path.join(directory, "data.mdb")):
        raise StoreCorrupt(f"the backup {path} is empty", path=path)
    try:
        return Store(directory, create=False, boot_id=store.boot_id, clock=store.clock)
    except StoreFull as error:
        message = error.message.replace(directory, store.path)
        raise StoreFull(message, path=store.path, hint=error.hint) from error
    except StoreError as error:
        message = error.message.replace(directory, path)
        raise type(error)(message, path=path, hint="use another backup") from error


def _is_used(txn: Transaction) -> bool:
    return any(table.count(txn) for table in (tables.LEASES, tables.RESERVATIONS))


class _Copy:
    """The copy of all keys of a backup over those of a store, in a transaction of the store."""

    def __init__(self, snapshot: Snapshot, txn: Transaction, progress: Progress | None) -> None:
        self._snapshot = snapshot
        self._txn = txn
        self._progress = progress
        self._generations: dict[int, int] = {}  # by the backup's pool id

    def run(self) -> int:
        copied = [table for table in tables.ALL if table is not tables.META]
        total = sum(table.count(self._snapshot) for table in copied)
        total += sum(tables.MAIN.count_from(self._snapshot, mark) for mark in _MARKS)
        self._generations = self._newest()
        own = blocks.incarnations(self._txn)
        done = 0
        for table in copied:
            table.clear(self._txn)
            for key, raw in self._items(table):
                table.append(self._txn, key, raw)
                done += 1
                if self._progress is not None and done % _STEP == 0:
                    self._progress(done, total)
        done += self._copy_main()
        self._copy_meta()
        blocks.distrust(self._txn, own)
        if self._progress is not None:
            self._progress(total, total)
        return done

    def _items(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        for key, raw in table.scan(self._snapshot):
            if table is tables.LEASES:
                yield key, self._of_our_boots(raw)
            else:
                yield key, raw

    def _of_our_boots(self, raw: bytes) -> bytes:
        """Return a lease with this store's number for its boot, or 0 for any earlier boot."""
        # Each store numbers boots for itself. Opening the backup counted the current boot there.
        boot = self._txn.store.boot if lease_record.boot_of(raw) == self._snapshot.store.boot else 0
        return lease_record.with_boot(raw, boot)

    def _newest(self) -> dict[int, int]:
        """Return the newest generation that this store has assigned, by the backup's pool id."""
        given = {
            key: self._txn.pool_state(pool_id).generation
            for key, pool_id in self._pools_of(self._txn)
        }
        newest: dict[int, int] = {}
        for key, pool_id in self._pools_of(self._snapshot):
            newest[pool_id] = max(newest.get(pool_id, 0), given.get(key, 0))
        return newest

    def _pools_of(self, txn: Transaction | Snapshot) -> Iterator[tuple[bytes, int]]:
        """Yield each network's encoded name and the id of its pool."""
        for key, raw in tables.NETWORKS.scan(txn):
            entry = keys.unpack_network(raw)
            if entry is not None:
                yield key, entry[2]

    def _copy_main(self) -> int:
        """Copy the counters of pools and the histories of networks; return how many keys."""
        main, done = tables.MAIN, 0
        for mark in _MARKS:
            for key in list(main.scan_keys(self._txn, mark)):
                main.delete(self._txn, key)
            for key, raw in main.scan(self._snapshot, mark):
                is_state = mark == keys.STATE_MARK
                main.put(self._txn, key, self._unswept(key, raw) if is_state else raw)
                done += 1
        return done

    def _unswept(self, key: bytes, raw: bytes) -> bytes:
        """Return a pool's counters, changed so that no generation repeats.

        They also say that leases of earlier boots have to be searched for again.
        """
        # A caller may still release a lease that was made after the backup, by its generation. No
        # other lease may have that generation.
        state = PoolState(keys.id_of(key[1:]), raw)
        state.swept, state.sweep = 0, (0, 0)
        state.generation = max(state.generation, self._generations.get(state.pool_id, 0))
        return state.pack()

    def _copy_meta(self) -> None:
        """Copy ``meta``, except the keys that belong to the store itself (``_KEPT``)."""
        for key in list(tables.META.scan_keys(self._txn)):
            if key not in _KEPT:
                tables.META.delete(self._txn, key)
        for key, raw in tables.META.scan(self._snapshot):
            if key not in _KEPT:
                tables.META.put(self._txn, key, raw)
        self._txn.store.note_unswept(self._txn)
