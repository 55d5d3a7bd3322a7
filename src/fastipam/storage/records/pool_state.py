"""The record of a pool's numbers: counters, clock, cursors."""

from __future__ import annotations

import struct

from fastipam import errors
from fastipam.errors import StoreCorrupt
from fastipam.storage.records import keys

_STATE = struct.Struct("<QQQQQQqQIB16s")
_CURSOR = struct.Struct("<B16s")


class PoolState:
    """The numbers of a pool that change with every transaction, in one record.

    ``generation`` counts assignments. ``assigned``, ``cooling`` and ``reserved`` count addresses
    by state, ``outside`` those of them that the configured ranges do not (any longer) contain;
    ``kept`` counts reservations, also those whose address is assigned to their owner. ``swept`` is
    the boot whose predecessors' leases are all released, ``sweep`` how far the search for them has
    come: (family, address), or (0, 0) at its beginning. ``cursors`` holds, packed, family and
    address of the last automatic or requested assignment of each range set; family 0: none yet.

    ``clock`` is the pool's own clock, in nanoseconds: wall clock plus ``offset``, which grows
    when the wall clock steps back, so that it never does. Cool-down is measured on it: a step
    back freezes nothing, a step forward of n seconds ends a cool-down at most n seconds early.
    Any offset can be: what a wrong one gives is noticed, and put right, by :meth:`tick`.
    """

    __slots__ = (
        "assigned", "clock", "cooling", "cursors", "generation", "kept", "key", "offset",
        "outside", "pool_id", "prefix", "reserved", "sweep", "swept",
    )  # fmt: skip

    def __init__(self, pool_id: int, raw: bytes | None) -> None:
        self.pool_id = pool_id
        self.prefix = keys.id_prefix(pool_id)
        self.key = keys.state_key(pool_id)
        if raw is None:
            self.cursors = b""
            self.generation = self.assigned = self.cooling = self.reserved = self.outside = 0
            self.clock = self.offset = self.kept = self.swept = 0
            self.sweep = (0, 0)
            return
        if len(raw) < _STATE.size or (len(raw) - _STATE.size) % _CURSOR.size:
            raise StoreCorrupt(
                f"a pool's numbers cannot be read: {raw.hex()}", hint=errors.CHECK_HINT
            )
        (
            self.generation,
            self.assigned,
            self.cooling,
            self.reserved,
            self.outside,
            self.clock,
            self.offset,
            self.kept,
            self.swept,
            family,
            value,
        ) = _STATE.unpack_from(raw)
        growing = self.generation | self.clock
        if growing >> keys.MOST_BITS:
            raise StoreCorrupt(
                f"a pool has a number that cannot be: {raw.hex()}",
                hint=errors.CHECK_HINT,
            )
        self.sweep = (family, int.from_bytes(value, "big") if family else 0)
        self.cursors = raw[_STATE.size :]

    def pack(self) -> bytes:
        """Return the value that the constructor reads. Raises StoreCorrupt for a wrong counter."""
        try:
            head = _STATE.pack(
                self.generation,
                self.assigned,
                self.cooling,
                self.reserved,
                self.outside,
                self.clock,
                self.offset,
                self.kept,
                self.swept,
                self.sweep[0],
                self.sweep[1].to_bytes(16, "big") if self.sweep[0] else b"",
            )
        except struct.error as error:  # a counter below zero, or beyond its largest value
            raise StoreCorrupt(
                f"a pool's numbers cannot be written: {error}", hint=errors.CHECK_HINT
            ) from error
        return head + self.cursors

    @property
    def used(self) -> int:
        """Addresses whose bit is set."""
        return self.assigned + self.cooling + self.reserved

    def cursor(self, set_index: int, family: int) -> int | None:
        """Return the cursor of a range set, or None before its first assignment."""
        at = set_index * _CURSOR.size
        if at < len(self.cursors) and self.cursors[at] == family:
            return int.from_bytes(self.cursors[at + 1 : at + _CURSOR.size], "big")
        return None

    def all_cursors(self) -> list[tuple[int, int] | None]:
        """Return (family, address) of each range set's cursor, None where there is none yet."""
        found = _CURSOR.iter_unpack(self.cursors)
        return [(family, int.from_bytes(raw, "big")) if family else None for family, raw in found]

    def move_cursor(self, set_index: int, family: int, value: int) -> None:
        """Let the next search of a range set begin behind ``value``."""
        at = set_index * _CURSOR.size
        before = self.cursors[:at].ljust(at, b"\0")
        packed = _CURSOR.pack(family, value.to_bytes(16, "big"))
        self.cursors = before + packed + self.cursors[at + _CURSOR.size :]

    def tick(self, wall_ns: int) -> int:
        """Advance the pool's clock to the wall clock's ``wall_ns`` and return it.

        No two calls give the same time: what is queued by it has an order even while the wall clock
        stands or steps back. It does not follow one that is decades ahead: it could not go back.
        """
        now = wall_ns + self.offset
        if now <= self.clock or now >> keys.MOST_BITS > 0:  # has_stepped, or the clock stands
            self.offset += self.clock + 1 - now
            now = self.clock + 1
        self.clock = now
        return now

    def has_stepped(self, wall_ns: int) -> bool:
        """Return whether the wall clock has stepped too far for the pool's clock to follow."""
        now = wall_ns + self.offset
        return now < self.clock or now >> keys.MOST_BITS > 0

    def at(self, wall_ns: int) -> int:
        """Return the pool's clock at the wall clock's ``wall_ns``, without advancing it."""
        return self.clock if self.has_stepped(wall_ns) else wall_ns + self.offset
