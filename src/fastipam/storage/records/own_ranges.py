"""The record of a network's own ranges, which exists when its pool has other ranges as well."""

from __future__ import annotations

from fastipam.storage.records.keys import id_prefix

NAMED = 1  # the flag of a network whose configuration names its pool


def key(network_id: int) -> bytes:
    """Return the key in ``meta`` of a network's own ranges."""
    return b"own ranges " + id_prefix(network_id)


def pack(text: str, *, named: bool) -> bytes:
    """Return the record of ranges as text; ``named``: the configuration names the pool."""
    return bytes((NAMED if named else 0,)) + text.encode()


def read(raw: bytes | None) -> tuple[bool, str] | None:
    """Return (whether the pool is named, ranges as text), or None without a usable record."""
    if not raw:
        return None
    try:
        return bool(raw[0] & NAMED), raw[1:].decode()
    except UnicodeDecodeError:
        return None
