"""A store that another version has made: refused when it is opened, and while it is open."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

import fastipam
from fastipam import StoreVersion
from fastipam.backup import backup, restore
from fastipam.ipam import Ipam
from fastipam.repair import repair
from fastipam.storage import tables
from fastipam.sweep import finish_reboot, sweep
from fastipam.verify import verify

from .. import schemas

POOL = "10.0.0.0/24"
WAYS = ("replaced", "changed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A data directory."""
    return tmp_path / "store"


@pytest.fixture
def opened(path: Path) -> Iterator[Ipam]:
    """A store that a program has open, with two networks."""
    with fastipam.open(path, "relaxed") as ipam:
        ipam.network("n", POOL, cooldown_s=0).allocate("c1")
        ipam.network("m", POOL).allocate("c1")
        backup(ipam.store, path.with_name("backup"))
        yield ipam


def content(path: Path) -> list[list[tuple[bytes, bytes]]]:
    """All that is in a store, by LMDB alone, from a copy."""
    copy = path.with_name("copy")
    copy.mkdir()
    shutil.copyfile(path / "data.mdb", copy / "data.mdb")
    with lmdb.open(str(copy), max_dbs=32) as env:
        names = [None, *(table.name.encode() for table in tables.ALL)]
        handles = [env.open_db(name, create=False) for name in names]
        with env.begin() as txn:
            found = [list(txn.cursor(handle)) for handle in handles]
    shutil.rmtree(copy)
    # A name's entry says where LMDB has its pages.
    return [[one for one in found[0] if one[0][:1] in (b"N", b"P")], *found[1:]]


def _in_a_block(ipam: Ipam) -> None:
    with ipam.transaction() as txn:
        txn.network("n", POOL).allocate("c2")


def _end_a_boot(ipam: Ipam) -> None:
    ipam.store.unswept = True
    finish_reboot(ipam)


def _probe(ipam: Ipam) -> None:
    ipam.store.has_failed = True
    ipam.store.require_writable()


CALLS: dict[str, Callable[[Ipam], Any]] = {
    "allocate": lambda ipam: ipam.network("n", POOL).allocate("c2"),
    "again": lambda ipam: ipam.network("n", POOL).allocate("c1", existing="return"),
    "in a new network": lambda ipam: ipam.network("new", POOL).allocate("c2"),
    "many": lambda ipam: ipam.network("n", POOL).allocate_many([("c2", "eth0")]),
    "in a block": _in_a_block,
    "release": lambda ipam: ipam.network("n", POOL).release("c1"),
    "release of nothing": lambda ipam: ipam.network("n", POOL).release("unknown"),
    "release many": lambda ipam: ipam.network("n", POOL).release_many([("c1", "eth0")]),
    "release of an address": lambda ipam: ipam.network("n", POOL).release_address("10.0.0.2"),
    "retain": lambda ipam: ipam.network("n", POOL).retain(set(), 1 << 62),
    "reserve": lambda ipam: ipam.network("n", POOL).reserve("10.0.0.9"),
    "unreserve": lambda ipam: ipam.network("n", POOL).unreserve("10.0.0.9"),
    "tidy": lambda ipam: ipam.network("n", POOL).tidy(),
    "sweep": sweep,
    "end of a boot": _end_a_boot,
    "probe": _probe,
    "verify": lambda ipam: verify(ipam.store),
    "repair": lambda ipam: repair(ipam.store),
    "restore": lambda ipam: restore(
        ipam.store, Path(ipam.path).with_name("backup"), replace=True
    ),
    "lookup": lambda ipam: ipam.network("n", POOL).lookup("10.0.0.2"),
    "leases": lambda ipam: list(ipam.network("n", POOL).leases()),
    "history": lambda ipam: list(ipam.network("n", POOL).history()),
    "stats": lambda ipam: ipam.network("n", POOL).stats(),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", CALLS)
def test_while_it_is_open(opened: Ipam, path: Path, way: str, call: str) -> None:
    """No call reads or writes a store of another schema; when the old one is back, all do."""
    for schema in (5, 3):
        kept = schemas.replace(path, schema) if way == "replaced" else None
        if kept is None:
            schemas.change(path, schema)
        before = content(path)
        for _ in range(2):
            with pytest.raises(StoreVersion) as caught:
                CALLS[call](opened)
            said = f"the store {path} has schema {schema}, this fastipam knows {tables.SCHEMA}"
            assert caught.value.message == said
            hint = caught.value.hint or ""
            assert hint.startswith("use the fastipam version that wrote it; or ")
            assert hint.endswith("remove the directory when none of its pods has an address")
        assert content(path) == before
        schemas.put_back(path, kept, tables.SCHEMA)
        opened.network("m", POOL).allocate(f"m{schema}")
    CALLS[call](opened)
    assert verify(opened.store) == []


def test_damage_is_no_other_version(opened: Ipam) -> None:
    """An entry with another schema's number, in a store of this one, is damage."""
    with opened.store.write() as txn:
        raw = tables.NETWORKS.get(txn, b"n")
        assert raw is not None
        tables.NETWORKS.put(txn, b"n", b"\5" + raw[1:])
    with pytest.raises(fastipam.StoreCorrupt, match="the entry of network n cannot be read"):
        opened.network("n", POOL).allocate("c2")
    opened.network("m", POOL).allocate("c2")
    assert repair(opened.store)
    assert [one.container_id for one in opened.network("n", POOL).leases()] == ["c1"]
