"""Damages one record of a store, in any of the ways that a record can be damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.storage import tables
from fastipam.storage.records import keys

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from fastipam.storage.store import Store

DATABASES = (
    "networks",
    "pools",
    "main",
    "pages",
    "leases",
    "owners",
    "cooldown",
    "reservations",
    "sticky",
    "events",
    "missing",
    "blocks",
    "meta",
)
RECORDS = {"meta": (b"last", b"policy", b"swept"), "main": (keys.STATE_MARK, keys.LOG_MARK)}
KINDS = ("bit", "bit", "ones", "zeros", "cut", "extend", "exchange", "remove", "key")


def _damaged(value: bytes, others: list[bytes], how: str, chance: random.Random) -> bytes:
    changed = bytearray(value)
    if how == "exchange":
        return chance.choice(others)
    if how == "cut":
        return value[: chance.randrange(len(value) + 1)]
    if how == "extend":
        return value + chance.randbytes(chance.randrange(1, 30))
    if changed:
        at = chance.randrange(len(changed))
        if how == "bit":
            changed[at] ^= 1 << chance.randrange(8)
        else:
            fill = {"zeros": b"\0", "ones": b"\xff"}[how] * 8
            changed[at : at + 8] = fill[: len(changed) - at]
    return bytes(changed)


def damage(store: Store, chance: random.Random, databases: Sequence[str] = DATABASES) -> str:
    """Change one record of one of these databases; what was done, for the failure's text."""
    with store.write() as txn:
        name = chance.choice(databases)
        db = getattr(tables, name.upper())
        items = [
            (key, value)
            for key, value in db.scan(txn)
            # What the store is (its schema, durability, boot) is checked when it is opened.
            if key.startswith(RECORDS.get(name, b""))
        ]
        if not items:
            return f"{name} is empty"
        key, value = chance.choice(items)
        how = chance.choice(KINDS)
        if how in ("remove", "key"):
            db.delete(txn, key)
        if how == "key":
            changed = bytearray(key)
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            db.put(txn, bytes(changed), value)
        elif how != "remove":
            others = [one for _, one in items]
            db.put(txn, key, _damaged(value, others, how, chance))
        return f"{name} {key.hex()} {how}"
