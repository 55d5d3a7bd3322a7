"""A store inside a transaction, and a store that its user has closed."""

from __future__ import annotations

from fastipam._ledger import Part
from fastipam.storage.transaction import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, NoReturn, TypeVar

    from fastipam._ledger import Call
    from fastipam.storage.store import Store as View
    from fastipam.storage.transaction import Transaction

    Result = TypeVar("Result")
else:
    View = object


class _Local:
    """A stand-in for the store's thread-local object: it has the transaction of this block."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction


class Within(View):
    """The store inside a write transaction: changes are parts of it, and reads see them.

    It serves the thread of the transaction until the transaction has ended. Raises TransactionOver
    afterwards, and in another thread.
    """

    nests = True
    may_write_at_once = True

    def __init__(self, whole: Transaction) -> None:
        self._whole = whole
        self._store = whole.store
        self.local: Any = _Local(whole)
        # Each assignment reads these, and __getattr__ would be slow.
        self.path, self.clock, self.boot = whole.store.path, whole.store.clock, whole.store.boot

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self) -> AbstractContextManager[Transaction]:
        """Return a part of the transaction: what it changes is taken back when it fails."""
        self._whole.require_mine()
        return Part(self._whole)

    def perform(self, call: Call[Result]) -> Result:
        """Make a call in a part of the transaction, and return its result."""
        self._whole.require_mine()
        return call.make_part(self._whole)

    def read(self) -> Snapshot:
        """Return a view of the transaction as it is now."""
        self._whole.require_mine()
        return Snapshot(self)


class Closed(View):
    """The store of a user that has closed it, while other users have it open."""

    def __init__(self, store: View) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self) -> NoReturn:
        """Raise StoreClosed."""
        raise self._store.was_closed()

    read = write

    def perform(self, call: Call[Result]) -> NoReturn:  # noqa: ARG002
        """Raise StoreClosed."""
        raise self._store.was_closed()
