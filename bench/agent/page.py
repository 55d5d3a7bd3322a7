"""The least disk work of a durable call: one commit of one page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import lmdb

if TYPE_CHECKING:
    from pathlib import Path


class Page:
    """A store of py-lmdb in ``path`` with one page, which :meth:`commit` writes durably."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._env = lmdb.open(os.fspath(path), map_size=1 << 30)
        self._number = 0

    def commit(self) -> None:
        """Change the page in a commit that is on disk when this returns."""
        self._number += 1
        with self._env.begin(write=True) as txn:
            txn.put(b"key", b"%d" % self._number)

    def close(self) -> None:
        """Close the store."""
        self._env.close()
