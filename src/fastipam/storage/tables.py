"""The databases of a store, each declared once, as an object.

A table is used with a transaction: ``LEASES.get(txn, key)``. Reading takes a write transaction or a
snapshot, changing takes a write transaction. Keys are compared as bytes, so the order of keys is
the order of addresses and numbers (``records/keys.py``).
"""

from __future__ import annotations

from itertools import islice

from fastipam._ledger import SCHEMA as SCHEMA  # noqa: PLC0414

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    from fastipam._ledger import ReadBlock, Transaction

    Item = tuple[bytes, bytes]

    Reading: TypeAlias = Transaction | ReadBlock
    Writing: TypeAlias = Transaction


DURABLE = "durable"
RELAXED = "relaxed"
MAX_DATABASES = 32  # more than there are, for later schemas
# Entries of a ``Table.page``: reading them takes some milliseconds and a megabyte of memory.
PAGE = 4096
# The keys of META. The keys of policies are made by records.keys.
SCHEMA_KEY = b"schema"
DURABILITY_KEY = b"durability"
BOOT_KEY = b"boot id"
BOOT_NUMBER_KEY = b"boot number"
BOOT_IDS_KEY = b"boot ids"  # the boot ids that the store has seen, the newest first
BOOT_BEGAN_KEY = b"boot began"  # when the kernel of the last counted boot began
BOOT_NODES_KEY = b"boot nodes"  # the inits (boot.read_node) of this boot, the newest first
SWEPT_KEY = b"swept"  # a boot's number: all leases of the boots before it are released
LAST_NETWORK_KEY = b"last network"
LAST_POOL_KEY = b"last pool"

# Every named table, in the order of declaration. A transaction's ``databases`` begin with MAIN's,
# and have the others in the same order.
ALL: list[Table] = []


class Table:
    """One database of a store. Each call is O(log entries) unless it says otherwise."""

    __slots__ = ("_at", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        if name:
            ALL.append(self)
        self._at = len(ALL)  # its place among a transaction's ``databases``

    def __repr__(self) -> str:
        return f"<Table {self.name or 'main'}>"

    @property
    def place(self) -> int:
        """The table's place among a transaction's ``databases``."""
        return self._at

    def get(self, txn: Reading, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        get = txn.get  # not a method but an attribute: it is faster to read it apart from the call
        return get(key, None, txn.databases[self._at])  # type: ignore[no-any-return]

    def put(self, txn: Writing, key: bytes, value: bytes) -> None:
        """Write a value, in place of an older one."""
        txn.put_in(self._at, key, value)

    def add(self, txn: Writing, key: bytes, value: bytes) -> bool:
        """Write a value unless the key has one; return whether it was written."""
        return txn.add_to(self._at, key, value)

    def append(self, txn: Any, key: bytes, value: bytes) -> None:
        """Write a value behind all others: its key has to be the largest. O(1).

        It must not be used in a part of a transaction, because it cannot be taken back.
        """
        txn.put(key, value, True, True, True, txn.databases[self._at])

    def add_many(self, txn: Writing, items: Iterable[Item]) -> tuple[int, int]:
        """Write the values of those keys that have none; return (keys given, values written)."""
        return txn.add_many_to(self._at, items)

    def delete(self, txn: Writing, key: bytes) -> bool:
        """Delete a key; return whether it was there."""
        return txn.delete_from(self._at, key)

    def clear(self, txn: Writing) -> None:
        """Delete every key. O(pages of the table)."""
        txn.clear_all(self._at)

    def count(self, txn: Reading) -> int:
        """Return the number of keys. O(1)."""
        return int(txn.txn.stat(txn.databases[self._at])["entries"])

    def first(self, txn: Reading, prefix: bytes = b"") -> Item | None:
        """Return the first (key, value) whose key begins with ``prefix``, or None."""
        with txn.txn.cursor(txn.databases[self._at]) as cursor:
            if cursor.set_range(prefix):
                key, value = cursor.item()
                if key.startswith(prefix):
                    return key, value
        return None

    def scan(self, txn: Reading, prefix: bytes = b"", start: bytes = b"") -> Iterator[Item]:
        """Yield the (key, value) pairs whose key begins with ``prefix``, ascending, from ``start``.

        The table must not change meanwhile; a caller that changes it uses ``walk.Walk``. O(1)
        memory.
        """
        with txn.txn.cursor(txn.databases[self._at]) as cursor:
            if cursor.set_range(start or prefix):
                for item in cursor:
                    if not item[0].startswith(prefix):
                        return
                    yield item

    def scan_keys(self, txn: Reading, prefix: bytes = b"", start: bytes = b"") -> Iterator[bytes]:
        """Yield the keys that begin with ``prefix``, ascending, from ``start``; see `scan`."""
        with txn.txn.cursor(txn.databases[self._at]) as cursor:
            if cursor.set_range(start or prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(prefix):
                        return
                    yield key

    def scan_back(self, txn: Reading, prefix: bytes = b"") -> Iterator[Item]:
        """Yield the (key, value) pairs whose key begins with ``prefix``, descending. See `scan`."""
        with txn.txn.cursor(txn.databases[self._at]) as cursor:
            behind = _behind(prefix)
            found = cursor.set_range(behind) if behind else False
            if cursor.prev() if found else cursor.last():
                for item in cursor.iterprev():
                    if not item[0].startswith(prefix):
                        return
                    yield item

    def chunks(
        self, txn: Reading, prefix: bytes, start: bytes = b"", *, most: int = 4096
    ) -> Iterator[list[Item]]:
        """Yield what `scan` yields, in lists of up to ``most``: for reading millions of entries."""
        with txn.txn.cursor(txn.databases[self._at]) as cursor:
            items = iter(cursor) if cursor.set_range(start or prefix) else iter(())
            while chunk := list(islice(items, most)):
                if not chunk[-1][0].startswith(prefix):
                    chunk = [item for item in chunk if item[0].startswith(prefix)]
                    items = iter(())
                yield chunk

    def count_from(self, txn: Reading, prefix: bytes) -> int:
        """Return the number of keys that begin with ``prefix``. O(that number)."""
        total = 0
        chunk: list[bytes]
        with txn.txn.cursor(txn.databases[self._at]) as cursor:
            if cursor.set_range(prefix):
                found = cursor.iternext(keys=True, values=False)
                while chunk := list(islice(found, PAGE)):
                    if not chunk[-1].startswith(prefix):
                        return total + sum(key.startswith(prefix) for key in chunk)
                    total += len(chunk)
        return total

    def page(
        self, txn: Reading, prefix: bytes, start: bytes = b"", *, most: int = PAGE
    ) -> tuple[list[Item], bytes | None]:
        """Return the first ``most`` of what `scan` yields, and where the next page starts, or None.

        For a caller that does something slow with each entry: it can end the transaction after each
        page.
        """
        with txn.txn.cursor(txn.databases[self._at]) as cursor:
            found = cursor.set_range(start or prefix)
            items: list[Item] = list(islice(cursor, most)) if found else []
        if items and not items[-1][0].startswith(prefix):
            return [item for item in items if item[0].startswith(prefix)], None
        return items, items[-1][0] + b"\0" if len(items) == most else None


def _behind(prefix: bytes) -> bytes:
    """Return the smallest key that is larger than all keys with ``prefix``, or "" for none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else b""


# LMDB's main database. It has LMDB's entries for the other databases, and the records that each
# change of a pool or a network writes (keys.STATE_MARK, keys.LOG_MARK). It must not be cleared.
MAIN = Table("")
# The tables that fastipam._ledger uses come first, in the order of its ``PLACES``.
META = Table("meta")
NETWORKS = Table("networks")
POOLS = Table("pools")
PAGES = Table("pages")
LEASES = Table("leases")
OWNERS = Table("owners")
COOLDOWN = Table("cooldown")
EVENTS = Table("events")
RESERVATIONS = Table("reservations")
STICKY = Table("sticky")
MISSING = Table("missing")
BLOCKS = Table("blocks")


def open_all(open_db: Callable[..., Any], meta: Any, txn: Any) -> tuple[Any, ...]:
    """Return LMDB's handles of all tables, MAIN's first; ``meta`` is the handle of META."""
    others = (open_db(table.name.encode(), txn=txn, create=False) for table in ALL[1:])
    return (open_db(None, txn=txn), meta, *others)
