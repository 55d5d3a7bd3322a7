"""The stores that this process's requests name, each opened once and kept open.

A plugin process serves one request; an agent or an embedding program serves many, and a store that
was removed, or replaced under the same path, must not be served from the old file.
"""

from __future__ import annotations

import os
from _thread import _local, allocate_lock

from fastipam.errors import StoreUnavailable
from fastipam.storage.store import Store, close_shared, open_shared
from fastipam.storage.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

_lock = allocate_lock()
# Held by whoever closes a store, and by another thread while it reads one that is not its own: the
# memory map must not go away below a reader.
staying_open = allocate_lock()
_thread: Any = _local()
_open: dict[str, Store] = {}
_process = os.getpid()


def get(data_dir: str, durability: str | None, *, create: bool = True) -> Store:
    """The store of a data directory. FileNotFoundError when there is none and ``create`` is false.

    Raises StoreError; ConfigError when another durability is asked for than the store has.
    """
    batch: Batch | None = getattr(_thread, "batch", None)
    if batch is None:
        return _get(data_dir, durability, create)
    asked = data_dir, durability
    store = batch.found.get(asked)
    if store is None:
        store = batch.found[asked] = _get(data_dir, durability, create)
    batch.join(store)
    return store


def _get(data_dir: str, durability: str | None, create: bool) -> Store:
    global _process  # noqa: PLW0603  # it is the process's
    path = os.path.abspath(data_dir)
    with _lock:
        if _process != os.getpid():
            _open.clear()
            _process = os.getpid()
        store = _open.get(path)
        if store is not None:
            if store.is_current():
                if durability in (None, store.durability):
                    return store
            else:
                del _open[path]
                with staying_open:
                    close_shared(store)
        store = open_shared(path, durability, create=create)
        _open[path] = store
        return store


class Batch:
    """Within its ``with`` block, what this thread does to any store waits for one :meth:`commit`.

    With ``nested`` every call is a transaction nested in the store's: one that fails leaves no
    trace, the others stand. Without, calls are cheaper, and a failure in one that may have changed
    something leaves the batch ``spoiled``: it must not be committed. Without a commit, nothing
    has happened.

    A store is looked for once: ``found``, by data directory and durability. ``touched`` are those
    that were asked for since it was last emptied.
    """

    def __init__(self, *, nested: bool) -> None:
        self._nested = nested
        self._transactions: dict[Store, Transaction] = {}
        self.found: dict[tuple[str, str | None], Store] = {}
        self.touched: set[Store] = set()

    def __enter__(self) -> Self:
        _thread.batch = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _thread.batch = None
        while self._transactions:
            _, transaction = self._transactions.popitem()
            transaction.rollback()

    def join(self, store: Store) -> None:
        """Begin the store's transaction, if the batch has not touched it yet."""
        self.touched.add(store)
        if store not in self._transactions:
            transaction = Transaction(store, shared=not self._nested)
            self._transactions[store] = transaction.__enter__()

    @property
    def spoiled(self) -> bool:
        """Whether a call has failed that may have changed something."""
        return any(one.spoiled for one in self._transactions.values())

    def commit(self) -> dict[Store, Exception]:
        """Commit every store's transaction; in durable mode it is on disk then.

        Returns the stores that could not, and why: in those nothing has happened. One that was
        removed or replaced since the batch found it is such a store.
        """
        assert not self.spoiled, "a spoiled batch would be committed"
        failed: dict[Store, Exception] = {}
        while self._transactions:
            store, transaction = self._transactions.popitem()
            try:
                if not store.is_current():
                    transaction.rollback()
                    raise StoreUnavailable(f"{store.path} was replaced", path=store.path)
                transaction.__exit__(None, None, None)
            except Exception as error:
                failed[store] = error
        return failed


def all_open() -> list[Store]:
    """The stores that are open at the moment, and whose files are still where they were opened."""
    with _lock:
        return [store for store in _open.values() if store.is_current()]


def is_open(data_dir: str) -> bool:
    """Whether a store of this directory is open, be its files there or not."""
    with _lock:
        return os.path.abspath(data_dir) in _open


def close_all() -> None:
    """Close every store that ``get`` opened."""
    with _lock:
        while _open:
            _, store = _open.popitem()
            with staying_open:
                close_shared(store)
