"""The stores that this process has open: each file once, however often it is asked for.

LMDB must not open one file twice in a process, because closing one would release the locks of the
other. :func:`open_store` and :func:`close_store` count the users of a store; the last one closes
it. :func:`get` keeps the store of a data directory open for the requests that follow: an agent or
an embedding program serves many, and must not serve a store that was removed, or replaced under the
same path, from the old file.

A forked child must not use the stores of its parent. It begins with an empty registry.
"""

from __future__ import annotations

import os
from _thread import _local, allocate_lock

from fastipam.errors import StoreBusy
from fastipam.storage.directory import DATA_FILE
from fastipam.storage.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_lock = allocate_lock()
# A thread that closes a store holds this, and so does a thread that reads a store which another
# thread uses, because the memory map must not go away below a reader.
staying_open = allocate_lock()
thread: Any = _local()  # ``batch``: the Batch that this thread's requests belong to
_users: dict[tuple[int, int], tuple[Store, int]] = {}  # by the file's device and inode
_kept: dict[str, Store] = {}  # by data directory: the stores that ``get`` is a user of
_process = os.getpid()


def open_store(
    path: str | os.PathLike[str], durability: str | None = None, **options: Any
) -> Store:
    """Open the store of a path, or add a user to it; every call needs a :func:`close_store`.

    ``options`` are those of :class:`Store`, for a store that is not open yet. Raises StoreError;
    ConfigError when the store has another durability; FileNotFoundError (``create``).
    """
    with _lock:
        _forget_after_fork()
        return _open(path, durability, options)


def _open(path: str | os.PathLike[str], durability: str | None, options: dict[str, Any]) -> Store:
    try:
        status = os.stat(os.path.join(os.fspath(path), DATA_FILE))
        store, users = _users[status.st_dev, status.st_ino]
    except (OSError, KeyError):
        store, users = Store(path, durability, **options), 0
    else:
        store.require_durability(durability)
    _users[store.identity] = store, users + 1
    return store


def close_store(store: Store) -> None:
    """Remove a user from a store; the last one closes it. A store that nobody counts is closed."""
    with _lock:
        _close(store)


def _close(store: Store) -> None:
    known, users = _users.get(store.identity, (None, 0))
    if known is store and users > 1:
        _users[store.identity] = store, users - 1
        return
    if known is store:
        del _users[store.identity]
    store.close()


def _forget_after_fork() -> None:
    """Forget the stores of the parent, when this process is a forked child."""
    global _process  # noqa: PLW0603  # a process has one registry
    if _process != os.getpid():
        for store, _ in _users.values():
            store.close()
        _users.clear()
        _kept.clear()
        _process = os.getpid()


def get(data_dir: str, durability: str | None, *, create: bool = True) -> Store:
    """Return the store of a data directory, and keep it open.

    In a batch, the store's transaction is begun. Raises StoreError; ConfigError when the store has
    another durability; FileNotFoundError when there is no store and ``create`` is false.
    """
    batch = getattr(thread, "batch", None)
    if batch is None:
        return _get(data_dir, durability, create)
    asked = data_dir, durability
    if asked in batch.busy:
        raise batch.busy[asked].with_traceback(None)
    try:
        store: Store | None = batch.found.get(asked)
        if store is None:
            store = batch.found[asked] = _get(data_dir, durability, create)
        batch.join(store)
    except StoreBusy as error:
        batch.busy[asked] = error
        raise
    return store


def _get(data_dir: str, durability: str | None, create: bool) -> Store:
    path = os.path.abspath(data_dir)
    with _lock:
        _forget_after_fork()
        store = _kept.get(path)
        if store is not None and store.is_current():
            store.require_durability(durability)
            return store
        if store is not None:
            del _kept[path]
            with staying_open:
                _close(store)
        store = _kept[path] = _open(path, durability, {"create": create})
        return store


def all_open() -> list[Store]:
    """Return the stores that ``get`` keeps open and whose files are where they were opened."""
    with _lock:
        _forget_after_fork()
        return [store for store in _kept.values() if store.is_current()]


def is_open(data_dir: str) -> bool:
    """Return whether ``get`` keeps a store of this directory open, be its files there or not."""
    with _lock:
        _forget_after_fork()
        return os.path.abspath(data_dir) in _kept


def close_all() -> None:
    """Close every store that ``get`` keeps open."""
    with _lock:
        _forget_after_fork()
        while _kept:
            _, store = _kept.popitem()
            with staying_open:
                _close(store)
