"""The ids of the first network and the first pool of a store that a test makes.

They differ, so a test fails where one is taken for the other.
"""

from __future__ import annotations

import os

import lmdb

from fastipam.storage import create, tables
from fastipam.storage.directory import DATA_FILE

NETWORK_ID = 1
POOL_ID = 1001

_make = create.create


def create_with_other_pools(path: str, durability: str, map_size: int) -> None:
    """Make a store that has had a thousand pools."""
    _make(path, durability, map_size)
    # Under another name: py-lmdb knows by its name what this process has open.
    whole, file = os.path.join(path, DATA_FILE), os.path.join(path, "ids.mdb")
    os.rename(whole, file)
    with (
        lmdb.open(file, subdir=False, lock=False, sync=False, max_dbs=1) as env,
        env.begin(write=True) as txn,
    ):
        meta = env.open_db(tables.META.name.encode(), txn=txn, create=False)
        txn.put(tables.LAST_POOL_KEY, (POOL_ID - 1).to_bytes(4, "big"), db=meta)
    os.rename(file, whole)
