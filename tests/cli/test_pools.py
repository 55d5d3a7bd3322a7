"""``fastipam pool`` and ``fastipam network``; ``list``, ``stats`` and ``show`` of a shared pool."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import fastipam
from fastipam.cli.commands import cli
from fastipam.cli.commands.doctor import store as doctor
from fastipam.ipam import open_with
from fastipam.testing import Clock
from fastipam.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NARROW, WIDE = "10.1.0.0/29", "10.1.0.0/28"


@pytest.fixture
def node(data_dir: Path) -> Iterator[Path]:
    """A store with two networks of one pool, and one of its own; it stays consistent."""
    with open_with(data_dir, "relaxed", clock=Clock()) as ipam:
        a, b = (ipam.network(*one, pool="blue") for one in (("a", NARROW), ("b", WIDE)))
        ipam.network("own", "10.9.0.0/24").allocate("z")
        a.allocate("x")
        b.allocate("x")
        b.allocate("y")
        b.release("y")
        b.reserve("10.1.0.6")
    yield data_dir
    with fastipam.open(data_dir) as ipam:
        assert not verify(ipam.store)


def _run(node: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--data-dir", str(node)])


def _json(node: Path, *words: str) -> Any:
    done = _run(node, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def _empty(node: Path, *names: str) -> None:
    with fastipam.open(node) as ipam:
        for name in names:
            network = ipam.network(name)
            for lease in list(network.leases()):
                network.release(lease.container_id)


def test_list(node: Path) -> None:
    """A pool has its networks, and each address once; the states add up to the size."""
    blue, own = _json(node, "pool", "list")
    assert (blue["pool"], blue["networks"]) == ("blue", ["a", "b"])
    assert (own["pool"], own["networks"]) == ("own", ["own"])
    counted = {key: blue[key] for key in ("size", "assigned", "cooling", "reserved", "free")}
    assert counted == {"size": 13, "assigned": 2, "cooling": 1, "reserved": 1, "free": 9}
    assert sum(one["size"] for one in blue["range_sets"]) == 13
    lines = _run(node, "pool", "list").stdout.splitlines()
    assert lines[0].split()[:3] == ["POOL", "NETWORKS", "SIZE"]
    assert lines[1].split()[:3] == ["blue", "a,b", "13"]


def test_show(node: Path) -> None:
    """One pool says what each of its networks has."""
    (blue,) = _json(node, "pool", "show", "blue")
    assert [(one["network"], one["assigned"]) for one in blue["shares"]] == [("a", 1), ("b", 1)]
    assert "10.1.0.1-10.1.0.14" in _run(node, "pool", "show", "blue").stdout
    done = _run(node, "pool", "show", "nix")
    assert done.exit_code == 1
    assert "has no pool 'nix'" in done.stderr
    assert "it has blue, own" in done.stderr


def test_addresses(node: Path) -> None:
    """Each address is listed once: a lease with its network, the rest with the pool's first."""
    rows = [one for one in _json(node, "list", "--all") if one["pool"] == "blue"]
    assert len({one["address"] for one in rows}) == len(rows) == 13
    known = {(one["network"], one["status"], one["address"]) for one in rows}
    assert ("a", "ASSIGNED", "10.1.0.2") in known
    assert ("b", "ASSIGNED", "10.1.0.3") in known
    assert ("b", "COOLING", "10.1.0.4") in known
    assert ("a", "RESERVED", "10.1.0.6") in known
    own = _json(node, "list", "--all", "--network", "a")
    assert {one["address"] for one in own if one["status"] == "FREE"} == {"10.1.0.5"}
    (shown,) = _json(node, "show", "10.1.0.3")
    assert (shown["network"], shown["pool"]) == ("b", "blue")


def test_stats(node: Path) -> None:
    """What another network has is not free, and the states add up."""
    a, b, _ = _json(node, "stats")
    assert (a["pool"], a["size"], a["assigned"], a["free"]) == ("blue", 5, 2, 1)
    for one in (a, b):
        states = ("assigned", "cooling", "reserved", "free")
        assert one["size"] == sum(one[state] for state in states)


def test_doctor(node: Path) -> None:
    """Pools that overlap and that nobody has named are a warning, once."""
    with open_with(node) as ipam:
        assert list(doctor.overlaps(ipam)) == []
        ipam.network("c", "10.9.0.0/16").allocate("c")
        (found,) = doctor.overlaps(ipam)
    assert "pools c and own can both assign 10.9.0.2" in found.text


def test_remove_network(node: Path) -> None:
    """A network goes when it has no address; the pool keeps what cools, and those that are left."""
    refused = _run(node, "network", "remove", "b")
    assert refused.exit_code == 1
    assert "network b has addresses" in refused.stderr
    _empty(node, "b")
    assert _json(node, "network", "remove", "b") == [{"network": "b", "pool": "blue"}]
    (blue, _) = _json(node, "pool", "list")
    assert (blue["networks"], blue["size"], blue["cooling"]) == (["a"], 5, 2)
    assert _run(node, "network", "remove", "b").exit_code == 1


def test_a_pool_with_reservations_stays(node: Path) -> None:
    """So does its last network."""
    _empty(node, "a", "b")
    refused = _run(node, "pool", "remove", "blue")
    assert refused.exit_code == 1
    assert "pool blue has reservations" in refused.stderr
    assert _run(node, "network", "remove", "b").exit_code == 0
    assert "pool blue has reservations" in _run(node, "network", "remove", "a").stderr


def test_remove_pool(node: Path) -> None:
    """A pool goes with its networks, all or nothing."""
    _run(node, "unreserve", "10.1.0.6", "--network", "a")
    _empty(node, "b")
    assert "network a has addresses" in _run(node, "pool", "remove", "blue").stderr
    assert _json(node, "pool", "list")[0]["networks"] == ["a", "b"]
    _empty(node, "a")
    assert _json(node, "pool", "remove", "blue") == [{"pool": "blue", "networks": ["a", "b"]}]
    assert [one["pool"] for one in _json(node, "pool", "list")] == ["own"]
    with fastipam.open(node) as ipam:
        assert str(ipam.network("a", NARROW).allocate("new").address.ip) == "10.1.0.2"
