"""A new store's data file, made whole or not at all; and the refusal of what is no store of ours.

Imported by the opening of a data directory that has no store yet, or not one that is known here.
"""

from __future__ import annotations

import os

import lmdb

from fastipam.errors import CHECK_HINT, StoreCorrupt, StoreVersion
from fastipam.storage.directory import DATA_FILE, NEW_FILE, make_file, sync_names
from fastipam.storage.store import DURABLE
from fastipam.storage.tables import ALL, DURABILITY_KEY, MAX_DATABASES, META, SCHEMA, SCHEMA_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.errors import StoreError


def create(path: str, durability: str, map_size: int) -> None:
    """Make a data file under another name; it gets its own when it is whole, and on disk.

    LMDB begins a file with two writes that nothing orders: a power cut between them, or in
    the middle of one, would leave what is neither a store nor an empty file. And who is told of
    a lease has to find its store again: the names that lead there are brought to disk, too.
    """
    durable = durability == DURABLE
    temporary = os.path.join(path, NEW_FILE)
    if os.path.lexists(temporary):
        os.unlink(temporary)  # of a process that was killed
    try:
        make_file(temporary)
        with (
            lmdb.open(
                temporary,
                map_size=map_size,
                sync=durable,
                metasync=durable,
                subdir=False,
                lock=False,  # it is this process's turn, and nobody else knows the file
                max_dbs=MAX_DATABASES,
            ) as env,
            env.begin(write=True) as txn,
        ):
            meta = env.open_db(META.name.encode(), txn=txn)
            txn.put(SCHEMA_KEY, SCHEMA.to_bytes(4, "big"), db=meta)
            txn.put(DURABILITY_KEY, durability.encode(), db=meta)
            for table in ALL[1:]:
                env.open_db(table.name.encode(), txn=txn)
        os.rename(temporary, os.path.join(path, DATA_FILE))
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    if durable:
        sync_names(path)


def refuse_foreign(txn: Any, path: str) -> None:
    """An LMDB file without our databases has to be empty: else it is somebody else's."""
    names = [key for key, _ in txn.cursor()]
    if names:
        raise StoreCorrupt(
            f"{path} is an LMDB environment of another program: it holds "
            f"{', '.join(sorted(repr(name.decode('ascii', 'replace')) for name in names[:4]))}",
            path=path,
            hint="choose another data directory",
        )


def wrong_schema(raw: bytes | None, path: str) -> StoreError:
    """The error for a store whose schema is not the one that is known here."""
    schema = int.from_bytes(raw or b"", "big")
    if schema > SCHEMA:
        return StoreVersion(
            f"the store {path} has schema {schema}, this fastipam knows {SCHEMA}",
            path=path,
            hint="use the fastipam that wrote it, or a newer one",
        )
    if 1 <= schema < SCHEMA:
        return StoreVersion(
            f"the store {path} has schema {schema}, which no release had",
            path=path,
            hint="export its leases with the version that wrote it, and import them",
        )
    return StoreCorrupt(
        f"the store {path} has no valid schema version: {raw!r}", path=path, hint=CHECK_HINT
    )
