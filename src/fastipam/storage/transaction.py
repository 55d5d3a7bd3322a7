"""The transactions of a store.

There is one write transaction at a time, of one thread of one process. A call inside it is nested
in it, or is a part of it, if it was told so: see ``within``. A reader sees one moment and waits for
nobody.
"""

from __future__ import annotations

import lmdb

from fastipam._bitmap import ReadBlock, StoredPages, WriteBlock
from fastipam.storage.records.event_log import EventLog
from fastipam.storage.records.keys import family_prefix, log_key, page_index_bytes, state_key
from fastipam.storage.records.pool_state import PoolState
from fastipam.storage.tables import MAIN, PAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from fastipam.errors import FastipamError
    from fastipam.storage.environment import Environment

    class Promise(Protocol):
        """What has to hold for an answer to be given."""

        def settle(self) -> FastipamError | None:
            """Return None, or the error to answer with."""


class Transaction(WriteBlock):
    """One write transaction, or one nested in another; use it with ``with``.

    Its pages are cached until it ends; whoever reads ``pages``, or what :meth:`save` writes, by
    other means has to call :meth:`flush` first.

    In a ``shared`` one, what would be nested is a part of it instead: that spares the nesting, but
    the failure of a part leaves the whole ``spoiled``, and whoever began it has to roll it back.
    A ``joined`` one is a batch: whatever its thread does in the store belongs to it. Nothing joins
    another one by itself: a call inside uses the store that :class:`Within` makes of it.

    ``promises`` are those of a fenced cluster (``network/promise.py``): the end of the outermost
    transaction settles them after the commit, and raises the error of one that cannot be kept.
    """

    __slots__ = (
        "_logs", "_pages", "_states", "_unsaved", "databases", "delete", "get", "joined", "parent",
        "promises", "put", "shared", "spoiled", "store", "txn",
    )  # fmt: skip

    databases: tuple[Any, ...]
    delete: Any
    get: Any
    put: Any
    txn: Any

    def __init__(self, store: Environment, shared: bool = False, joined: bool = False) -> None:
        self.store = store
        self.shared = shared
        self.joined = joined
        self.spoiled = False
        self.parent: Transaction | None = None
        self.promises: tuple[Promise, ...] = ()
        self._pages: dict[tuple[int, int], StoredPages] = {}
        self._states: dict[int, PoolState] = {}
        self._logs: dict[int, EventLog] = {}
        self._unsaved: dict[bytes, PoolState | EventLog] = {}  # by key

    def settle(self) -> None:
        """Raise the error of a promise that cannot be kept, after all were looked at."""
        errors = [error for one in self.promises if (error := one.settle()) is not None]
        if errors:
            raise errors[0]

    def require_open(self) -> None:
        """Raise an error when a call inside may not go on."""

    def rollback(self) -> None:
        """Roll the transaction back, outside a ``with`` block."""
        self.__exit__(Exception, None, None)

    def pages(self, pool_id: int, family: int) -> StoredPages:
        """Return the bitmap of a pool and family, as this transaction sees it."""
        found = self._pages.get((pool_id, family))
        if found is None:
            where = PAGES.handle(self), family_prefix(pool_id, family), page_index_bytes(family)
            found = StoredPages(self.get, self.put, self.delete, *where)
            self._pages[pool_id, family] = found
        return found

    def take_over(self, nested: Transaction) -> None:
        """Take over the promises of a nested transaction, and forget the pages that it changed."""
        self.promises += nested.promises
        self._pages.clear()

    def forget_pages(self, pool_id: int) -> None:
        """Forget the pages of a pool, after they were changed by other means."""
        for key in [key for key in self._pages if key[0] == pool_id]:
            del self._pages[key]

    def pool_state(self, pool_id: int) -> PoolState:
        """Return the numbers of a pool; all parts of a shared transaction get one object."""
        found = self._states.get(pool_id)
        if found is None:
            found = PoolState(pool_id, MAIN.get(self, state_key(pool_id)))
            if self.shared:
                self._states[pool_id] = found
        return found

    def event_log(self, network_id: int) -> EventLog:
        """Return a network's history; all parts of a shared transaction get one object."""
        found = self._logs.get(network_id)
        if found is None:
            found = EventLog(network_id, MAIN.get(self, log_key(network_id)))
            if self.shared:
                self._logs[network_id] = found
        return found

    def save(self, record: PoolState | EventLog) -> None:
        """Write what one of these two has returned; a shared transaction does with its flush."""
        if self.shared:
            self._unsaved[record.key] = record
        else:
            MAIN.put(self, record.key, record.pack())

    def flush(self) -> None:
        """Write what has changed and is not in the transaction yet: pages, numbers, histories."""
        for pages in self._pages.values():
            pages.flush()
        while self._unsaved:
            key, record = self._unsaved.popitem()
            MAIN.put(self, key, record.pack())


class Part:
    """A call inside a shared transaction: it writes to the whole, instead of a nested one."""

    __slots__ = ("_whole",)

    def __init__(self, whole: Transaction) -> None:
        self._whole = whole

    def __enter__(self) -> Transaction:
        return self._whole

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self._whole.spoiled = True
            if isinstance(error, lmdb.Error):
                raise self._whole.store.translate(error) from error


class Snapshot(ReadBlock):
    """A read transaction: a consistent view of one moment."""

    __slots__ = ("databases", "get", "store", "txn")

    databases: tuple[Any, ...]
    get: Any
    txn: Any

    def __init__(self, store: Environment) -> None:
        self.store = store

    @property
    def number(self) -> int:
        """The number of the last commit that this snapshot shows."""
        return int(self.txn.id())

    def pages(self, pool_id: int, family: int) -> StoredPages:
        """Return the bitmap of a pool and family, to be read and not changed."""
        where = PAGES.handle(self), family_prefix(pool_id, family), page_index_bytes(family)
        return StoredPages(self.get, None, None, *where)

    def pool_state(self, pool_id: int) -> PoolState:
        """Return the numbers of a pool."""
        return PoolState(pool_id, MAIN.get(self, state_key(pool_id)))

    def event_log(self, network_id: int) -> EventLog:
        """Return a network's history."""
        return EventLog(network_id, MAIN.get(self, log_key(network_id)))
