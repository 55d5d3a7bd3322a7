"""A cursor in a table, for callers that skip entries or delete them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from fastipam.storage.tables import Reading, Table


class Walk:
    """A cursor in a table; use it with ``with``. It has no place until :meth:`seek`."""

    __slots__ = ("_at", "_cursor", "_txn")

    def __init__(self, txn: Reading, table: Table) -> None:
        self._txn: Any = txn
        self._at = table.place
        self._cursor = txn.txn.cursor(txn.databases[table.place])

    def seek(self, key: bytes) -> bool:
        """Go to the first key that is not smaller than ``key``; return whether there is one."""
        return self._cursor.set_range(key)  # type: ignore[no-any-return]

    def next(self) -> bool:
        """Go to the next key; return whether there is one."""
        return self._cursor.next()  # type: ignore[no-any-return]

    def key(self) -> bytes:
        """Return the key at this place."""
        return self._cursor.key()  # type: ignore[no-any-return]

    def value(self) -> bytes:
        """Return the value at this place."""
        return self._cursor.value()  # type: ignore[no-any-return]

    def delete(self) -> bool:
        """Delete the key at this place and go to the next; return whether there is one."""
        return self._txn.delete_under(self._at, self._cursor)  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cursor.close()
