"""Check with plain reads whether an LMDB file lacks pages, and whether it is a store.

A file that was cut short lacks pages that it uses. LMDB does not check this: reading such a page
through its memory map ends the process with SIGBUS. A file that ends early may still be complete,
because LMDB does not write a page that is freed in the transaction that made it. So the pages in
use are read, from the roots down. ``directory.py`` does that only when the file ends early, which
is nearly never.

The layout is that of ``struct MDB_meta``, ``MDB_page``, ``MDB_node`` and ``MDB_db`` in LMDB's
mdb.c, data format 1, 64 bits, little-endian.
"""

from __future__ import annotations

import os
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = 0xBEEFC0DE
_FORMAT = 1
_PAGE_HEADER = Struct("<QHHHH")  # page number, padding, flags, end of node offsets, start of nodes
_META = Struct("<IIQQ48s48sQQ")  # magic, format, address, map size, free, main, last page, txn id
_DB = Struct("<IHHQQQQQ")  # padding, flags, depth, branches, leaves, overflow pages, entries, root
_NODE = Struct("<HHHH")  # low and high half of the size (of a branch: page), flags, key size
_NODE_AT = Struct("<H")
_NONE = 0xFFFFFFFFFFFFFFFF  # the root of an empty database
_BRANCH, _OVERFLOW_NODE, _DATABASE_NODE = 0x01, 0x01, 0x02


class _Missing(Exception):
    pass


class _File:
    def __init__(self, descriptor: int, page_bytes: int) -> None:
        self._descriptor = descriptor
        self._page_bytes = page_bytes
        self._pages = os.fstat(descriptor).st_size // page_bytes

    def require(self, number: int) -> None:
        if number >= self._pages:
            raise _Missing(number)

    def page(self, number: int) -> bytes:
        self.require(number)
        return os.pread(self._descriptor, self._page_bytes, number * self._page_bytes)

    def main_and_free(self) -> list[bytes]:
        """Return the two root databases of the newest transaction."""
        found = [_META.unpack_from(self.page(number), _PAGE_HEADER.size) for number in (0, 1)]
        newest = max(found, key=lambda meta: int(meta[7]))
        return [newest[4], newest[5]] if newest[:2] == (_MAGIC, _FORMAT) else []

    def names(self) -> Iterator[bytes]:
        """Yield the names of the databases. A store has so few that they are on one page."""
        for database in self.main_and_free()[1:]:
            root = _DB.unpack(database)[7]
            page = b"" if root == _NONE else self.page(root)
            for at in _nodes(page) if page else ():
                key_bytes = _NODE.unpack_from(page, at)[3]
                yield page[at + _NODE.size : at + _NODE.size + key_bytes]

    def walk(self, database: bytes, *, into_leaves: bool) -> None:
        """Check that a database's pages exist.

        With ``into_leaves``, check also the pages that its leaves name.
        """
        _, _, depth, _, _, _, _, root = _DB.unpack(database)
        level = [] if root == _NONE else [root]
        while level and depth > 1:
            level = [child for number in level for child in self._children(number)]
            depth -= 1
        for number in level:
            self.require(number)
            if into_leaves:
                self._leaf(self.page(number))

    def _children(self, number: int) -> Iterator[int]:
        page = self.page(number)
        if _PAGE_HEADER.unpack_from(page)[2] & _BRANCH:
            for at in _nodes(page):
                low, high, top, _ = _NODE.unpack_from(page, at)
                yield low | high << 16 | top << 32

    def _leaf(self, page: bytes) -> None:
        for at in _nodes(page):
            _, _, flags, key_bytes = _NODE.unpack_from(page, at)
            value_at = at + _NODE.size + key_bytes
            if flags & _OVERFLOW_NODE:  # only in the free list: no value of a store is so large
                self.require(int.from_bytes(page[value_at : value_at + 8], "little"))
            elif flags & _DATABASE_NODE:
                self.walk(page[value_at : value_at + _DB.size], into_leaves=False)


def _nodes(page: bytes) -> Iterator[int]:
    """Yield the offsets of the nodes of a page."""
    end = _PAGE_HEADER.unpack_from(page)[3]
    for at in range(_PAGE_HEADER.size, min(end, len(page) - 1), _NODE_AT.size):
        yield from (offset for offset in _NODE_AT.unpack_from(page, at) if offset + 8 <= len(page))


def is_store_file(path: str) -> bool:
    """Return whether a file is an LMDB file with the databases of a store. Raises OSError.

    The file is not opened with LMDB, which could end the process when the file is damaged.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        head = os.pread(descriptor, _PAGE_HEADER.size + _META.size, 0)
        if len(head) < _PAGE_HEADER.size + _META.size:
            return False
        meta = _META.unpack_from(head, _PAGE_HEADER.size)
        page_bytes = _DB.unpack(meta[4])[0]  # the free list's record has the size of a page
        if meta[:2] != (_MAGIC, _FORMAT) or not 512 <= page_bytes <= 1 << 16:
            return False
        file = _File(descriptor, page_bytes)
        return {b"meta", b"leases"} <= set(file.names())
    except _Missing:
        return False
    finally:
        os.close(descriptor)


def missing_page(path: str, page_bytes: int) -> int | None:
    """Return the number of a page that is in use and not in the file, or None. O(branch pages).

    The caller holds a write transaction, so that nobody writes meanwhile.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file = _File(descriptor, page_bytes)
        for database in file.main_and_free():
            file.walk(database, into_leaves=True)
    except _Missing as missing:
        return int(missing.args[0])
    finally:
        os.close(descriptor)
    return None
