"""What the parts of a repair share: what was done, and the records they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastipam.storage.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that was mended; ``kind`` a short name, ``where`` an address or a key."""

    kind: str
    network: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.network}: {self.where}: {self.text} ({self.kind})"


def items(txn: Transaction, db: Any, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """The keys of a database that begin so, with their values: copies, they may be changed."""
    with txn.txn.cursor(db) as cursor:
        if not cursor.set_range(prefix):
            return
        for key, raw in cursor:
            if not key.startswith(prefix):
                return
            yield bytes(key), bytes(raw)
