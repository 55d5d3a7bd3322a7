"""Make the data file of a new store, whole or not at all."""

from __future__ import annotations

import os

import lmdb

from fastipam.storage.directory import DATA_FILE, NEW_FILE, make_file, sync_names
from fastipam.storage.tables import (
    ALL,
    DURABILITY_KEY,
    DURABLE,
    MAX_DATABASES,
    META,
    SCHEMA,
    SCHEMA_KEY,
)


def create(path: str, durability: str, map_size: int) -> None:
    """Make a data file under another name, and rename it when it is whole and on disk.

    LMDB begins a file with two writes in no particular order. A power cut between them, or within
    one, would leave a file that is neither a store nor empty. A durable store must also be found
    again after a power cut, so the directory entries that lead to it are synced too.
    """
    durable = durability == DURABLE
    temporary = os.path.join(path, NEW_FILE)
    if os.path.lexists(temporary):
        os.unlink(temporary)  # left by a process that was killed
    try:
        make_file(temporary)
        with (
            lmdb.open(
                temporary,
                map_size=map_size,
                sync=durable,
                metasync=durable,
                subdir=False,
                lock=False,  # this process holds the writer's lock, and no other opens this name
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
