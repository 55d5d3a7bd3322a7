"""Routes of a cluster's blocks: runs as one, every change told, whatever becomes of the watch."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.admin import routes
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import Compacted, EngineUnavailable
from tests.cluster.memory import MemoryEngine

from .nodes import Machine, init
from .test_claims import claim

if TYPE_CHECKING:
    from fastipam.cluster.admin.routes import Table


@pytest.fixture
def engine() -> MemoryEngine:
    """A cluster's store with the settings written."""
    made = MemoryEngine()
    init(made)
    return made


def machine(path: Path, name: str, engine: MemoryEngine, number: int) -> Machine:
    """A node with an address of its own."""
    return Machine(path, name, engine, address=f"192.0.2.{number}")


def test_runs_are_one_route(engine: MemoryEngine, tmp_path: Path) -> None:
    """Four blocks that were claimed as a run are one route, to their node's address."""
    one, two = machine(tmp_path, "a", engine, 1), machine(tmp_path, "b", engine, 2)
    pairs = claim(one.joined(), 4)
    claim(two.joined())
    table = routes.read(two.node(), Deadline(5))
    assert sorted(via for _, via in table.values()) == ["192.0.2.1", "192.0.2.2"]
    first = pairs[0][1] >> 8 & 0xFF
    assert table[f"10.32.{first}.0/22"] == ("a", "192.0.2.1")
    own = routes.read(two.node(), Deadline(5), without="b")
    assert set(own.values()) == {("a", "192.0.2.1")}


def test_commands_lead_from_one_table_to_the_other() -> None:
    """New and changed routes come before those that are gone; what stays is not said again."""
    before: Table = {
        "10.32.0.0/24": ("a", "192.0.2.1"),
        "10.32.1.0/24": ("a", "192.0.2.1"),
        "10.32.9.0/24": ("b", "192.0.2.2"),
    }
    after: Table = {"10.32.0.0/23": ("a", "192.0.2.1"), "10.32.9.0/24": ("c", "192.0.2.3")}
    assert routes.commands(before, after) == [
        "route replace 10.32.0.0/23 via 192.0.2.1",
        "route replace 10.32.9.0/24 via 192.0.2.3",
        "route del 10.32.0.0/24 via 192.0.2.1",
        "route del 10.32.1.0/24 via 192.0.2.1",
    ]
    assert routes.commands(after, after) == routes.changes(after, after) == []


def test_follow(engine: MemoryEngine, tmp_path: Path) -> None:
    """Claims and releases are told, over compaction and an outage as well."""
    one, two = machine(tmp_path, "a", engine, 1), machine(tmp_path, "b", engine, 2)
    node = one.joined()
    tables = routes.follow(two.joined(), wait_s=0.05)
    assert next(tables) == ({}, {})
    (first,) = claim(node)
    before, after = next(tables)
    assert (before, len(after)) == ({}, 1)

    watch, faults = engine.watch, itertools.chain([Compacted("gone"), EngineUnavailable("cut")])

    def lossy(prefix: bytes, revision: int, *, deadline_s: float):  # type: ignore[no-untyped-def]
        for fault in faults:  # meanwhile something changes that this watch will never tell
            claim(node)
            raise fault
        return watch(prefix, revision, deadline_s=deadline_s)

    engine.watch = lossy  # type: ignore[method-assign]
    counts = [_addresses(next(tables)[1]) for _ in range(2)]
    assert counts == [512, 768]
    node.give_back([first], Deadline(5))
    before, after = next(tables)
    assert _addresses(after) == 512
    assert any(line.startswith("route del") for line in routes.commands(before, after))


def _addresses(table: Table) -> int:
    return sum(1 << (32 - int(prefix.partition("/")[2])) for prefix in table)
