"""The transactions of a store.

There is one write transaction at a time, of one thread of one process. Calls that share it are
parts of it: see ``within``. A read transaction sees the store as it was when it began, and waits
for nobody.
"""

from __future__ import annotations

from fastipam._ledger import ReadBlock
from fastipam._ledger import Transaction as NativeTransaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from fastipam.errors import FastipamError

    class Promise(Protocol):
        """A condition that must hold when an answer is given."""

        def settle(self) -> FastipamError | None:
            """Return None, or the error to answer with."""


class Transaction(NativeTransaction):
    """The write transaction of ``_ledger.pyx``, as a class that ``fastipam.testing`` can patch."""

    __slots__ = ()
    shares = True  # short calls of several threads may be parts of one transaction


Snapshot = ReadBlock  # a read transaction: a consistent view of one moment
