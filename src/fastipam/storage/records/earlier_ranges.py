"""The record of the ranges that a pool had before those that it has now."""

from __future__ import annotations

from struct import Struct

from fastipam.storage.records.keys import id_prefix

_HEAD = Struct("<Q")
MOST = 4  # texts: more configurations of one name than anybody has by mistake


def key(pool_id: int) -> bytes:
    """Return the key in ``meta`` of the earlier ranges of a pool."""
    return b"ranges " + id_prefix(pool_id)


def pack(returned_ns: int, texts: list[str]) -> bytes:
    """Return the record: when ranges came back last (wall clock, 0: never), the latest texts."""
    return _HEAD.pack(returned_ns) + "\0".join(texts[:MOST]).encode()


def read(raw: bytes | None) -> tuple[int, list[str]]:
    """Return what :func:`pack` packed, the latest text first; nothing without a usable record."""
    if raw is None or len(raw) < _HEAD.size:
        return 0, []
    try:
        texts = raw[_HEAD.size :].decode()
    except UnicodeDecodeError:
        return 0, []
    return _HEAD.unpack_from(raw)[0], texts.split("\0") if texts else []
