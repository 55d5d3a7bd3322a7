"""Every record of a store, and how a test looks at it after each step of a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pytest

from fastipam._ledger import Part
from fastipam.storage import store, tables, within
from fastipam.storage.records import keys
from fastipam.storage.transaction import Snapshot, Transaction
from fastipam.verify import verify

Contents = dict[str, list[tuple[bytes, bytes]]]
# LMDB's own records of the databases in the main one; when the machine began, by its own clock.
_NOT_OURS = {tables.BOOT_BEGAN_KEY, *(table.name.encode() for table in tables.ALL)}


def contents(txn: Transaction | Snapshot) -> Contents:
    """Return every record of every database, as a transaction sees it now."""
    if isinstance(txn, Transaction):
        txn.flush()
    return {
        table.name: [one for one in table.scan(txn) if one[0] not in _NOT_OURS]
        for table in (tables.MAIN, *tables.ALL)
    }


def differences(one: Contents, other: Contents) -> list[str]:
    """Return what differs, a line for each record."""
    return [
        f"{name} {key.hex()}: {dict(one[name]).get(key)!r} is not {dict(other[name]).get(key)!r}"
        for name in one
        for key in sorted({key for key, _ in {*one[name]} ^ {*other[name]}})
    ]


def check_all(txn: Transaction) -> None:
    """Fail unless the records agree with each other, and with what a transaction has in memory."""
    txn._check()
    found = verify(within.Within(txn))
    assert not found, "\n".join(map(str, found))


class _Watched:
    """A part of a transaction: checked at its end, and compared with before when it has failed."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def __enter__(self) -> Transaction:
        self._txn = txn = self._part.__enter__()
        for _, raw in tables.POOLS.scan(txn):  # a clock may have been read and not saved
            txn.save(txn.pool_state(keys.id_of(raw)))
        self._before = contents(txn)
        return txn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._part.__exit__(kind, error, trace)
        finally:
            if not self._txn.failed:
                check_all(self._txn)
                if kind is not None:
                    found = differences(self._before, contents(self._txn))
                    assert not found, "\n".join(found)


@contextmanager
def watched() -> Iterator[None]:
    """Check every part of a batch at its end, and that one that fails leaves nothing."""
    write = store.Store.write

    def watch(self: store.Store) -> Any:
        block = write(self)
        return _Watched(block) if isinstance(block, Part) else block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.Store, "write", watch)
        yield
