"""Routes of a cluster's blocks: runs as one, every change told, whatever becomes of the watch."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fastipam.addressing.addresses import format_cidr
from fastipam.cluster.admin import routes
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import Compacted, EngineUnavailable
from tests.cluster.memory import MemoryEngine
from tests.e2e.tools import require_root

from .nodes import Machine, init
from .test_claims import claim

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        "route replace 10.32.0.0/23 via 192.0.2.1 proto 147",
        "route replace 10.32.9.0/24 via 192.0.2.3 proto 147",
        "route del 10.32.0.0/24 via 192.0.2.1 proto 147",
        "route del 10.32.1.0/24 via 192.0.2.1 proto 147",
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


def test_routes_of_an_earlier_run(engine: MemoryEngine, tmp_path: Path) -> None:
    """A block that moved while nobody watched: its old route goes, and what is right stays."""
    one, two = machine(tmp_path, "a", engine, 1), machine(tmp_path, "b", engine, 2)
    ((_, base),) = claim(one.joined())
    prefix = format_cidr(4, base, 24)
    there: Table = {prefix: ("", "192.0.2.1"), "10.32.99.0/24": ("", "192.0.2.9")}
    before, after = next(routes.follow(two.joined(), wait_s=0.05, have=lambda: there))
    assert routes.commands(before, after) == [
        "route del 10.32.99.0/24 via 192.0.2.9 proto 147",
    ]
    assert routes.whole(after, there) == [
        f"route replace {prefix} via 192.0.2.1 proto 147",
        "route del 10.32.99.0/24 via 192.0.2.9 proto 147",
    ]


def test_a_route_that_somebody_deleted(engine: MemoryEngine, tmp_path: Path) -> None:
    """When an interface went down with its routes, they are printed again without any change."""
    one, two = machine(tmp_path, "a", engine, 1), machine(tmp_path, "b", engine, 2)
    ((_, base),) = claim(one.joined())
    prefix = format_cidr(4, base, 24)
    looks: Iterator[Table] = iter([{}, {prefix: ("", "192.0.2.1")}, {}])
    tables = routes.follow(two.joined(), wait_s=0.01, have=lambda: next(looks))
    for _ in range(2):
        lines = routes.commands(*next(tables))
        assert lines == [f"route replace {prefix} via 192.0.2.1 proto 147"]


@pytest.fixture
def link() -> Iterator[str]:
    """A network namespace with an interface on which the nodes' addresses are."""
    require_root()
    name = f"fastipam-routes-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            "link add d0 type veth peer name d1",
            "link set d1 up",
            "address add 192.0.2.254/24 dev d0",
            "address add 2001:db8::fe/64 dev d0 nodad",
            "link set d0 up",
            "route add 10.32.77.0/24 via 192.0.2.1",  # not ours: another protocol
            # An agent's, which has the protocol and a metric of its own, and its unreachable ones.
            "route add 10.32.78.0/24 via 192.0.2.1 proto 147 metric 1470",
            "-6 route add fd00:32::200/120 via 2001:db8::3 proto 147 metric 1470",
            "route add unreachable 10.32.79.0/24 proto 147 metric 14700",
        ):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_what_the_kernel_has(link: str) -> None:
    """Printed lines, run by ip, are found again by their protocol, and nobody else's routes are."""
    table: Table = {
        "10.32.0.0/23": ("a", "192.0.2.1"),
        "10.32.9.0/24": ("c", "192.0.2.3"),
        "fd00:32::100/120": ("c", "2001:db8::3"),
    }

    def run(lines: list[str]) -> dict[str, str]:
        batch = ["ip", "-n", link, "-batch", "-"]
        subprocess.run(batch, input="\n".join(lines), text=True, check=True)
        code = (
            "from fastipam.cluster.admin import routes\n"
            "print({prefix: via for prefix, (_, via) in routes.installed().items()})"
        )
        ask = ["ip", "netns", "exec", link, sys.executable, "-c", code]
        done = subprocess.run(ask, capture_output=True, text=True, check=True)
        found = ast.literal_eval(done.stdout)
        assert isinstance(found, dict)
        return found

    found = run(routes.whole(table, {}))
    assert found == {prefix: via for prefix, (_, via) in table.items()}
    there: Table = {prefix: ("", via) for prefix, via in found.items()}
    moved: Table = {"10.32.0.0/24": ("b", "192.0.2.2")}
    assert run(routes.whole(moved, there)) == {"10.32.0.0/24": "192.0.2.2"}
