"""What another version does to a store: its files have another schema."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# The whole store in one transaction, by LMDB alone.
_CHANGE = """
import lmdb, sys
path, schema = sys.argv[1], int(sys.argv[2])
with lmdb.open(path, max_dbs=32) as env, env.begin(write=True) as txn:
    meta, networks = (env.open_db(name, txn=txn) for name in (b"meta", b"networks"))
    txn.put(b"schema", schema.to_bytes(4, "big"), db=meta)
    for key, raw in list(txn.cursor(networks)):
        txn.put(key, bytes((schema,)) + raw[1:], db=networks)
"""


def change(path: Path, schema: int) -> None:
    """Give a store another schema where it is, as a version that converts stores would."""
    subprocess.run([sys.executable, "-c", _CHANGE, str(path), str(schema)], check=True)


def replace(path: Path, schema: int) -> Path:
    """Put a store of another schema in the place of one; the path of the old one's file."""
    kept, new = path / "kept", path.with_name("new")
    new.mkdir()
    shutil.copyfile(path / "data.mdb", new / "data.mdb")
    change(new, schema)
    os.rename(path / "data.mdb", kept)
    os.rename(new / "data.mdb", path / "data.mdb")
    shutil.rmtree(new)
    return kept


def put_back(path: Path, kept: Path | None, schema: int) -> None:
    """Undo :func:`replace`, or :func:`change` when no file was kept."""
    if kept is None:
        change(path, schema)
    else:
        os.rename(kept, path / "data.mdb")
