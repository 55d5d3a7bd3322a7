"""The stores that this process has open: each file once, however often it is asked for.

LMDB must not open one file twice in a process, because closing one would release the locks of the
other. :func:`open_store` and :func:`close_store` count the users of a store; the last one closes
it. :func:`get` keeps the store of a data directory open for the next requests of an agent or an
embedding program. If the store was removed, or replaced under the same path, :func:`get` opens it
again, so that no request is served from the old file.

A forked child must not use the stores of its parent. It begins with an empty registry.
"""

from __future__ import annotations

import os
import time
from _thread import _local, allocate_lock

from lmdb import _envid

from fastipam import late_errors as errors
from fastipam._ledger import WriterLock
from fastipam.storage.directory import DATA_FILE, lock_path
from fastipam.storage.lmdb_errors import PATIENCE_S, translate
from fastipam.storage.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_lock = allocate_lock()
# How long calls of this process wait for another writer, or None for the default of Store.
patience_s: float | None = None
thread: Any = _local()  # ``batch``: the Batch that this thread's requests belong to
_users: dict[Store, int] = {}
_openers: dict[str, WriterLock] = {}  # by path
_refused: dict[str, tuple[int, errors.StoreBusy]] = {}  # by path: when it was last busy, and why
_kept: dict[str, Store] = {}  # by data directory: the stores that ``get`` keeps open, as one user
_closing: list[Store] = []  # stores without users that are not closed yet


def open_store(
    path: str | os.PathLike[str], durability: str | None = None, **options: Any
) -> Store:
    """Open the store of a path, or add a user to it; every call needs a :func:`close_store`.

    ``options`` are those of :class:`Store`, for a store that is not open yet. Raises StoreError;
    ConfigError when the store has another durability; FileNotFoundError (``create``).
    """
    return _open(path, durability, time.monotonic_ns(), options)


def _open(
    path: str | os.PathLike[str], durability: str | None, since_ns: int, options: dict[str, Any]
) -> Store:
    # ``since_ns`` is when the caller began to wait.
    absolute = os.path.abspath(path)
    try:
        return _open_next(path, absolute, durability, since_ns, options)
    except OSError as error:
        import errno

        if error.errno not in (errno.ETIMEDOUT, errno.EDEADLK):
            raise
        # Another thread is opening the store and waits for a writer; or this thread is, and this
        # call comes from a signal handler that interrupted it.
        error.filename = lock_path(absolute)
        raise translate(error, absolute) from error


def _open_next(
    path: str | os.PathLike[str],
    absolute: str,
    durability: str | None,
    since_ns: int,
    options: dict[str, Any],
) -> Store:
    if patience_s is not None:
        options = {"patience_s": patience_s, **options}
    with _opener(absolute, options.get("patience_s", PATIENCE_S)):
        with _lock:
            store = _find(path)
            if store is not None:
                store.require_durability(durability)
                _users[store] = _users.get(store, 0) + 1
                return store
        refused = _refused.get(absolute)
        if refused is not None and refused[0] > since_ns:
            # This thread has waited while another one tried in vain to open the store. That counts
            # as a wait of its own.
            raise refused[1].with_traceback(None)
        try:
            store = Store(path, durability, since_ns=since_ns, **options)
        except errors.StoreBusy as error:
            _refused[absolute] = time.monotonic_ns(), error
            raise
        _refused.pop(absolute, None)
        with _lock:
            _users[store] = 1
        return store


def _opener(path: str, patience_s: float) -> WriterLock:
    """Return the lock that a thread holds while it opens this path.

    Each path has its own, because opening may wait for the store's writers, and other stores can be
    opened meanwhile.
    """
    with _lock:
        lock = _openers.get(path)
        if lock is None:
            lock = _openers[path] = WriterLock("", patience_s)
        return lock


def _find(path: str | os.PathLike[str]) -> Store | None:
    """Return the open store of a path, even if it was opened under another name."""
    absolute = os.path.abspath(path)
    try:
        status = os.stat(os.path.join(absolute, DATA_FILE))
    except OSError:
        return None
    for store in (*_users, *_closing):
        # A store whose file was replaced opens the new one with its next transaction.
        if store.path == absolute or store.identity == (status.st_dev, status.st_ino):
            if store in _users:
                return store
            _closing.remove(store)
            if store.reopen():
                return store
            while store.is_in_use:  # a thread is closing it, and LMDB refuses to open it twice
                time.sleep(0.0001)
            break
    return None


def close_store(store: Store) -> None:
    """Remove a user from a store; the last one closes it.

    A store that was not opened by :func:`open_store` or :func:`get` is closed at once.
    """
    with _lock:
        _close(store)


def _close(store: Store) -> None:
    users = _users.get(store, 1) - 1
    if users:
        _users[store] = users
        return
    _users.pop(store, None)
    store.close()
    _closing[:] = [one for one in (*_closing, store) if one.is_in_use]


def _forget() -> None:
    """Forget the stores of the parent, in a forked child."""
    global _lock  # noqa: PLW0603  # a thread of the parent may have held it
    _lock = allocate_lock()
    thread.__dict__.clear()
    _users.clear()
    _kept.clear()
    _closing.clear()
    _openers.clear()
    _refused.clear()
    # py-lmdb refuses to open a file twice in a process, and in a child it still counts the files
    # that the parent has opened. With the process id in their names they are different files.
    names: Any = _envid.env_keys
    process = os.getpid()
    _envid.env_keys = lambda *path: tuple((process, name) for name in names(*path))


os.register_at_fork(after_in_child=_forget)


def get(data_dir: str, durability: str | None, *, create: bool = True) -> Store:
    """Return the store of a data directory, and keep it open.

    In a batch, the store's transaction is begun. Raises StoreError; ConfigError when the store has
    another durability; FileNotFoundError when there is no store and ``create`` is false.
    """
    batch = getattr(thread, "batch", None)
    if batch is None:
        return _get(data_dir, durability, create, time.monotonic_ns())
    asked = data_dir, durability
    store: Store | None = batch.found.get(asked)
    if store is None:
        store = batch.found[asked] = _get(data_dir, durability, create, batch.since_ns)
    batch.join(store)
    return store


def _get(data_dir: str, durability: str | None, create: bool, since_ns: int) -> Store:
    path = os.path.abspath(data_dir)
    with _lock:
        store = _kept.get(path)
        if store is not None and store.is_current():
            store.require_durability(durability)
            return store
        if store is not None:
            del _kept[path]
            _close(store)
    store = _open(path, durability, since_ns, {"create": create})
    with _lock:
        if _kept.get(path) is store:
            _close(store)  # another thread was faster, and ``get`` counts as one user
        _kept[path] = store
        store.note_plugin()  # a plugin may have been seen while the store was not in the table yet
        return store


def all_open() -> list[Store]:
    """Return the stores that ``get`` keeps open and whose files are where they were opened."""
    with _lock:
        return [store for store in _kept.values() if store.is_current()]


def is_open(data_dir: str) -> bool:
    """Return whether ``get`` keeps a store of this directory open, even if its files are gone."""
    with _lock:
        return os.path.abspath(data_dir) in _kept


def waits_for_writer(data_dir: str, patience_s: float) -> bool:
    """Return whether opening this directory's store would wait for a writer beyond ``patience_s``.

    Return False for a store that this process has open, because it is not opened again.
    """
    if is_open(data_dir):
        return False
    try:
        with WriterLock(lock_path(data_dir), patience_s):
            return False
    except TimeoutError:
        return True
    except OSError:  # there is no store, or it cannot be used: opening says so
        return False


def close_all() -> None:
    """Close every store that ``get`` keeps open."""
    with _lock:
        while _kept:
            _close(_kept.popitem()[1])
