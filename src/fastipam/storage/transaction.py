"""The transactions of a store.

There is one write transaction at a time, of one thread of one process. A call inside it is nested
in it, or is a part of it. A reader sees one moment and waits for nobody.
"""

from __future__ import annotations

import os

import lmdb

from fastipam._bitmap import StoredPages
from fastipam.storage.environment import COMMITS_PER_READER_CHECK
from fastipam.storage.records.keys import family_prefix, network_prefix, page_index_bytes
from fastipam.storage.records.network_state import NetworkState
from fastipam.storage.tables import PAGES, STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, Self

    from fastipam.errors import FastipamError
    from fastipam.storage.environment import Environment

    class Promise(Protocol):
        """What has to hold for an answer to be given."""

        def settle(self) -> FastipamError | None:
            """Return None, or the error to answer with."""


class Transaction:
    """One write transaction, or one nested in another; use it with ``with``.

    Its pages are cached until it ends; whoever reads ``pages`` or ``states`` by other means has to
    call :meth:`flush` first.

    In a ``shared`` one, what would be nested is a part of it instead: that spares the nesting, but
    the failure of a part leaves the whole ``spoiled``, and whoever began it has to roll it back.

    ``promises`` are those of a fenced cluster (``network/promise.py``): the end of the outermost
    transaction settles them after the commit, and raises the error of one that cannot be kept.
    """

    __slots__ = (
        "_pages", "_parent", "_states", "_unsaved", "databases", "delete", "get", "promises", "put",
        "shared", "spoiled", "store", "txn",
    )  # fmt: skip

    txn: Any

    def __init__(self, store: Environment, shared: bool = False) -> None:
        self.store = store
        self.shared = shared
        self.spoiled = False
        self.promises: tuple[Promise, ...] = ()

    def __enter__(self) -> Self:
        store = self.store
        env = store._environment()
        parent: Transaction | None = getattr(store._local, "transaction", None)
        try:
            if parent is None:
                store._writer_lock.acquire()
                try:
                    txn = env.begin(None, None, True)
                except BaseException:
                    store._writer_lock.release()
                    raise
            else:
                parent.flush()
                txn = env.begin(None, parent.txn, True)
        except (lmdb.Error, OSError) as error:
            raise store.translate(error) from error
        self.txn = txn
        self.get = txn.get
        self.put = txn.put
        self.delete = txn.delete
        self.databases = store.databases
        self._parent = parent
        self._pages: dict[tuple[int, int], StoredPages] = {}
        self._states: dict[int, NetworkState] = {}
        self._unsaved: dict[int, NetworkState] = {}
        store._local.transaction = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        store = self.store
        store._local.transaction = self._parent
        if os.getpid() != store._process:
            # The block forked: the transaction and the writer's lock belong to the parent.
            raise store._forked()
        try:
            if kind is None:
                self.flush()
                self.txn.commit()
                if self._parent is not None:
                    self._parent._pages.clear()
                    self._parent.promises += self.promises
                else:
                    store._commits += 1
                    if not store._commits % COMMITS_PER_READER_CHECK:
                        store._check_readers()
            else:
                self.txn.abort()
        except BaseException as fault:
            self.txn.abort()
            if isinstance(fault, lmdb.Error):
                raise store.translate(fault) from fault
            raise
        finally:
            if self._parent is None:
                store._writer_lock.release()
        if isinstance(error, lmdb.Error):
            raise store.translate(error) from error
        if self.promises and kind is None and self._parent is None:
            self._settle()

    def _settle(self) -> None:
        """Raise the error of a promise that cannot be kept, after all were looked at."""
        errors = [error for one in self.promises if (error := one.settle()) is not None]
        if errors:
            raise errors[0]

    def rollback(self) -> None:
        """Roll the transaction back, outside a ``with`` block."""
        self.__exit__(Exception, None, None)

    def pages(self, network_id: int, family: int) -> StoredPages:
        """Return the bitmap of a network and family, as this transaction sees it."""
        found = self._pages.get((network_id, family))
        if found is None:
            where = PAGES.handle(self), family_prefix(network_id, family), page_index_bytes(family)
            found = StoredPages(self.get, self.put, self.delete, *where)
            self._pages[network_id, family] = found
        return found

    def forget_pages(self, network_id: int) -> None:
        """Forget the pages of a network, after they were changed by other means."""
        for key in [key for key in self._pages if key[0] == network_id]:
            del self._pages[key]

    def state(self, network_id: int) -> NetworkState:
        """Return the numbers of a network; all parts of a shared transaction get one object."""
        found = self._states.get(network_id)
        if found is None:
            raw = STATES.get(self, network_prefix(network_id))
            found = NetworkState(network_id, raw)
            if self.shared:
                self._states[network_id] = found
        return found

    def save(self, state: NetworkState) -> None:
        """Write the numbers of a network; a shared transaction writes them with its next flush."""
        if self.shared:
            self._unsaved[state.network_id] = state
        else:
            STATES.put(self, state.prefix, state.pack())

    def flush(self) -> None:
        """Write what has changed and is not in the transaction yet: pages, numbers."""
        for pages in self._pages.values():
            pages.flush()
        while self._unsaved:
            state = self._unsaved.popitem()[1]
            STATES.put(self, state.prefix, state.pack())


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


class Snapshot:
    """A read transaction: a consistent view of one moment. Inside a write transaction, that one."""

    __slots__ = ("_own", "databases", "get", "store", "txn")

    def __init__(self, store: Environment) -> None:
        self.store = store

    def __enter__(self) -> Self:
        store = self.store
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
            raise store.translate(error) from error
        self.get = self.txn.get
        self.databases = store.databases
        return self

    @property
    def number(self) -> int:
        """The number of the last commit that this snapshot shows."""
        return int(self.txn.id())

    def pages(self, network_id: int, family: int) -> StoredPages:
        """Return the bitmap of a network and family, to be read and not changed."""
        where = PAGES.handle(self), family_prefix(network_id, family), page_index_bytes(family)
        return StoredPages(self.get, None, None, *where)

    def state(self, network_id: int) -> NetworkState:
        """Return the numbers of a network."""
        return NetworkState(network_id, STATES.get(self, network_prefix(network_id)))

    def _begin_without_the_dead(self, env: lmdb.Environment) -> Any:
        """Release the reader slots of processes that were killed, and begin to read."""
        try:
            env.reader_check()
            return env.begin()
        except lmdb.Error as error:
            raise self.store.translate(error) from error

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._own and os.getpid() == self.store._process:
            self.txn.abort()
        if isinstance(error, lmdb.Error):
            raise self.store.translate(error) from error
