"""The transactions of a store.

There is one write transaction at a time, of one thread of one process. Calls that share it are
parts of it: see ``within``. A reader sees one moment and waits for nobody.
"""

from __future__ import annotations

from fastipam._ledger import ReadBlock, pages_of, read_event_log, read_pool_state
from fastipam._ledger import Transaction as NativeTransaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from fastipam._bitmap import StoredPages
    from fastipam._ledger import EventLog, PoolState
    from fastipam.errors import FastipamError

    class Promise(Protocol):
        """What has to hold for an answer to be given."""

        def settle(self) -> FastipamError | None:
            """Return None, or the error to answer with."""


class Transaction(NativeTransaction):
    """A write transaction, as ``_ledger.pyx`` has it; ``fastipam.testing`` lets one fail."""

    __slots__ = ()
    shares = True  # short calls of several threads may be parts of one transaction


class Snapshot(ReadBlock):
    """A read transaction: a consistent view of one moment."""

    __slots__ = ()

    if TYPE_CHECKING:
        txn: Any

    @property
    def number(self) -> int:
        """The number of the last commit that this snapshot shows."""
        return int(self.txn.id())

    def pages(self, pool_id: int, family: int) -> StoredPages:
        """Return the bitmap of a pool and family, to be read and not changed."""
        return pages_of(self, pool_id, family)

    def pool_state(self, pool_id: int) -> PoolState:
        """Return the numbers of a pool."""
        return read_pool_state(self, pool_id)

    def event_log(self, network_id: int) -> EventLog:
        """Return the history of a network."""
        return read_event_log(self, network_id)
