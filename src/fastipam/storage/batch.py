"""Serve several requests with one commit for each store that they name."""

from __future__ import annotations

from fastipam.storage import open_stores
from fastipam.storage.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Promise


class Batch:
    """A ``with`` block whose one :meth:`commit` writes all changes that this thread makes.

    Every call is a part of its store's transaction: a call that fails changes nothing, and the
    other calls stand. After a failed write, ``failed`` is true, and the batch must not be
    committed. Without a commit nothing changes.

    Each store is opened once: ``found`` holds it by data directory and durability. ``since_ns`` is
    when the first request came (monotonic nanoseconds): if a thread has waited for the store in
    vain since then, the batch does not wait for it again. The caller empties ``touched`` and
    ``promises`` for each request. ``touched`` are the stores that the request has used,
    ``promises`` its promises, which are settled when the answer is written, after the commit.
    """

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self._transactions: dict[Store, Transaction] = {}
        self.found: dict[tuple[str, str | None], Store] = {}
        self.touched: set[Store] = set()
        self.promises: list[Promise] = []

    def __enter__(self) -> Self:
        open_stores.thread.batch = self
        return self

    def __exit__(self, *_: object) -> None:
        open_stores.thread.batch = None
        while self._transactions:
            transaction = self._transactions.popitem()[1]
            transaction.rollback()

    def join(self, store: Store) -> None:
        """Begin the store's transaction, unless the batch has one."""
        self.touched.add(store)
        if store not in self._transactions:
            store.refuse_who_waited(self.since_ns)
            transaction = Transaction(store, joined=True)
            self._transactions[store] = transaction.__enter__()

    @property
    def failed(self) -> bool:
        """Whether a write has failed, so that nothing of a store's transaction can be committed."""
        return any(one.failed for one in self._transactions.values())

    def commit(self) -> dict[Store, Exception]:
        """Commit the transaction of every store. In a durable store the changes are on disk then.

        Return the stores that could not be committed, and why: nothing has changed in those. A
        store that was removed or replaced since the batch found it is one of them.
        """
        failed: dict[Store, Exception] = {}
        while self._transactions:
            store, transaction = self._transactions.popitem()
            try:
                transaction.__exit__(None, None, None)
            except Exception as error:
                failed[store] = error
        return failed
