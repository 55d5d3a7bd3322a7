"""The record of the ranges that a pool had before its present ones."""

from __future__ import annotations

from struct import Struct

from fastipam.storage.records.keys import id_prefix

_HEAD = Struct("<Q")
MOST = 4  # texts kept: nobody has more configurations of one name by mistake


def key(pool_id: int) -> bytes:
    """Return the key in ``meta`` of the earlier ranges of a pool."""
    return b"ranges " + id_prefix(pool_id)


def pack(returned_ns: int, texts: list[str]) -> bytes:
    """Return the record: when earlier ranges last came back, and the latest texts.

    ``returned_ns`` is wall clock, or 0 when they never came back.
    """
    return _HEAD.pack(returned_ns) + "\0".join(texts[:MOST]).encode()


def read(raw: bytes | None) -> tuple[int, list[str]]:
    """Return what :func:`pack` packed, the latest text first; (0, []) without a usable record."""
    if raw is None or len(raw) < _HEAD.size:
        return 0, []
    try:
        texts = raw[_HEAD.size :].decode()
    except UnicodeDecodeError:
        return 0, []
    return _HEAD.unpack_from(raw)[0], texts.split("\0") if texts else []
