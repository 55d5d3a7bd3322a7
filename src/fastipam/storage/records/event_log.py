"""The record of a network's history: the numbers of its events, and the last events themselves.

Every call that assigns or releases writes it. An event gets a place in the table ``events`` only
with those that wait here: so a commit has one page less, and on most of them two or three.
"""

from __future__ import annotations

from struct import Struct

from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.storage.records import keys
from fastipam.storage.records.event import event_key

_HEAD = Struct("<QQ")
_LENGTH = Struct("<H")
MOST_WAITING = 8  # events
MOST_BYTES = 1960  # of the whole record: LMDB gives a longer value pages of its own


class EventLog:
    """The numbers of a network's events, and those events that are not in ``events`` yet.

    ``next`` is the number of the next event, ``first`` that of the oldest that is kept. ``waiting``
    are the last events, packed, the oldest first: the last of them has the number before ``next``.
    """

    __slots__ = ("first", "key", "network_id", "next", "prefix", "waiting")

    def __init__(self, network_id: int, raw: bytes | None) -> None:
        self.network_id = network_id
        self.prefix = keys.id_prefix(network_id)
        self.key = keys.log_key(network_id)
        self.next = self.first = 0
        self.waiting: list[bytes] = []
        if raw is None:
            return
        at = _HEAD.size
        if at <= len(raw) <= MOST_BYTES:
            self.next, self.first = _HEAD.unpack_from(raw)
            while at + _LENGTH.size <= len(raw):
                begin = at + _LENGTH.size
                at = begin + _LENGTH.unpack_from(raw, at)[0]
                self.waiting.append(raw[begin:at])
        if (
            at != len(raw)
            or len(self.waiting) > MOST_WAITING
            or len(self.waiting) > self.next
            or (self.next | self.first) >> keys.MOST_BITS
        ):
            raise StoreCorrupt(f"a network's history cannot be read: {raw.hex()}", hint=CHECK_HINT)

    def pack(self) -> bytes:
        """Return the value that the constructor reads."""
        parts = [_HEAD.pack(self.next, self.first)]
        for raw in self.waiting:
            parts += (_LENGTH.pack(len(raw)), raw)
        return b"".join(parts)

    def has_room(self, raw: bytes) -> bool:
        """Return whether one more event may wait here."""
        used = sum(map(len, self.waiting)) + len(raw) + _LENGTH.size * (len(self.waiting) + 1)
        return len(self.waiting) < MOST_WAITING and _HEAD.size + used <= MOST_BYTES

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return the (key, value) pairs that ``events`` will have for what waits here."""
        number = self.next - len(self.waiting)
        return [
            (event_key(self.network_id, number + at), raw) for at, raw in enumerate(self.waiting)
        ]
