"""``fastipam pool`` and ``fastipam network``; ``list``, ``stats`` and ``show`` of a shared pool."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import fastipam
from fastipam.allocation import pools, removal
from fastipam.cli.commands import cli
from fastipam.cli.commands.doctor import store as doctor
from fastipam.cli.rows import OUTSIDE, pool_table
from fastipam.errors import ConfigError
from fastipam.ipam import open_with
from fastipam.testing import Clock
from fastipam.verify import verify

from .terminal import assert_unwritten

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.mark.parametrize("words", ["list", "list --json", "show blue"])
def test_outputs_that_take_nothing(node: Path, words: str) -> None:
    """An output that is full, or that nobody reads, makes no traceback."""
    program = str(Path(sys.executable).with_name("fastipam"))
    assert_unwritten([program, "pool", *words.split(), "--data-dir", str(node)])


def _empty(node: Path, *names: str) -> None:
    """Release all addresses of networks, years ago, so that their cool-down is over."""
    with open_with(node, "relaxed", clock=Clock()) as ipam:
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
    assert "the pools of the store: blue, own" in done.stderr


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


class Sums(RuleBasedStateMachine):
    """Two networks of a pool with gateways, static areas and exclusions of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.ipam = open_with(self.place.name, "relaxed", clock=Clock())
        ranges = {"subnet": "10.1.0.0/27", "gateway": "10.1.0.5"}
        self.networks = [
            self.ipam.network("a", [[ranges]], exclude=["10.1.0.8/30"], pool="p"),
            self.ipam.network("b", [["10.1.0.0/28"]], static=["10.1.0.12-10.1.0.13"], pool="p"),
        ]

    def teardown(self) -> None:
        self.ipam.close()
        self.place.cleanup()

    @rule(which=st.integers(0, 1), owner=st.integers(0, 9), value=st.none() | st.integers(0, 31))
    def allocate(self, which: int, owner: int, value: int | None) -> None:
        wanted = () if value is None else (f"10.1.0.{value}",)
        with suppress(fastipam.FastipamError):
            self.networks[which].allocate(f"c{owner}", addresses=wanted)

    @rule(which=st.integers(0, 1), owner=st.integers(0, 9))
    def release(self, which: int, owner: int) -> None:
        self.networks[which].release(f"c{owner}")

    @rule(which=st.integers(0, 1), value=st.integers(0, 31))
    def reserve(self, which: int, value: int) -> None:
        with suppress(fastipam.FastipamError):
            self.networks[which].reserve(f"10.1.0.{value}")

    @invariant()
    def each_line_adds_up(self) -> None:
        """The states of a line are its size, and all lines have each lease once."""
        with self.ipam.store.read() as txn:
            found = pools.describe(txn, "p")
        if found is None:
            return
        rows = list(pool_table([found]))
        states = ("assigned", "cooling", "reserved", "free")
        for row in rows:
            assert row["size"] == sum(row[state] for state in states), row
            assert min(row[state] for state in states) >= 0, row
        assigned = sum(1 for each in self.networks for _ in each.leases())
        assert sum(row["assigned"] for row in rows) == assigned
        used = 100 * (found["size"] - found["free"]) / found["size"]
        assert found["used_percent"] == pytest.approx(used, abs=0.01)
        # Every address of the pool's subnets is in one of the lines, or never assigned.
        subnets = found["excluded"] + sum(row["size"] for row in rows if row["names"] != OUTSIDE)
        assert subnets == sum(2 ** (32 - bits) for bits in self._lengths(found))

    @staticmethod
    def _lengths(found: dict[str, Any]) -> set[int]:
        """The prefix lengths of the pool's subnets: the larger one contains the other."""
        texts = [one["subnet"] for each in found["range_sets"] for one in each["ranges"]]
        return {min(int(text.partition("/")[2]) for text in texts)}


TestSums = Sums.TestCase
TestSums.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


def test_show_says_what_another_network_makes_of_an_address(data_dir: Path) -> None:
    """What is static, or a gateway, in one network of a pool is so in all."""
    with fastipam.open(data_dir, durability="relaxed") as ipam:
        area = ["10.1.0.100-10.1.0.109"]
        ipam.network("blue", "10.1.0.0/24", static=area, pool="p").allocate("x")
        ranges = {"subnet": "10.1.0.0/24", "gateway": "10.1.0.254"}
        ipam.network("green", [[ranges]], pool="p").allocate("y")
    static = {one["network"]: one["why"] for one in _json(data_dir, "show", "10.1.0.105")}
    assert static == dict.fromkeys(("blue", "green"), "free; assigned only on request (static)")
    gateway = {one["network"]: one for one in _json(data_dir, "show", "10.1.0.254")}
    assert {one["status"] for one in gateway.values()} == {"EXCLUDED"}
    assert gateway["blue"]["why"] == (
        "the address is the gateway of another network of its pool, which is never assigned"
    )
    assert (
        gateway["green"]["why"]
        == "the address is the gateway of its range, which is never assigned"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("network", "remove", "nix"), "the store {} has no network 'nix'"),
        (("pool", "remove", "nix"), "the store {} has no pool 'nix'"),
        (("network", "remove", "b"), "network b cannot be removed: it has assigned addresses"),
        (("pool", "remove", "blue"), "network a cannot be removed: it has assigned addresses"),
        (("reserve", "10.9.0.300", "--network", "own"), "'10.9.0.300' is not an IP address"),
    ],
)
def test_messages_about_an_argument(node: Path, words: tuple[str, ...], message: str) -> None:
    """They begin with what is wrong, and not with the argument's placeholder."""
    done = _run(node, *words)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == f"fastipam: {message.format(node)}"


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
    assert "network b cannot be removed: it has assigned addresses" in refused.stderr
    _empty(node, "b")
    assert _json(node, "network", "remove", "b") == [{"network": "b", "pool": "blue"}]
    (blue, _) = _json(node, "pool", "list")
    assert (blue["networks"], blue["size"], blue["cooling"]) == (["a"], 5, 2)
    assert _run(node, "network", "remove", "b").exit_code == 1


def test_a_network_whose_addresses_cool_down_stays(node: Path) -> None:
    """Another network could assign them at once; when they have cooled down, it goes."""
    with open_with(node, "relaxed", clock=Clock(time.time_ns())) as ipam:
        ipam.network("own").release("z")
        ipam.network("b").release("x")
    for name in ("own", "b"):
        refused = _run(node, "network", "remove", name)
        assert refused.exit_code == 1
        start = f"network {name} cannot be removed yet: it has addresses that cool down for "
        assert start in refused.stderr
    assert [one["pool"] for one in _json(node, "pool", "list")] == ["blue", "own"]
    assert _run(node, "pool", "remove", "own").exit_code == 0, "that is what it is for"


def test_the_last_second_of_a_cool_down(data_dir: Path) -> None:
    """No other network gets the address before its own cool-down is over, whatever is removed."""
    clock = Clock()
    with open_with(data_dir, "relaxed", clock=clock) as ipam:
        own = ipam.network("own", "10.9.0.0/30", pool="p", cooldown_s=30)
        address = own.allocate("x").address
        own.release("x")
        clock.advance(29)
        with ipam.store.write() as txn, pytest.raises(ConfigError, match="for another 1 s"):
            removal.remove_network(txn, "own")
        assert not removal.remove_if_idle(ipam.store, "own", clock())
        clock.advance(2)
        with ipam.store.write() as txn:
            assert removal.remove_network(txn, "own") == "p"
        other = ipam.network("other", "10.9.0.0/30", pool="p", cooldown_s=0)
        assert other.allocate("y").address == address


def test_a_pool_with_reservations_stays(node: Path) -> None:
    """So does its last network."""
    _empty(node, "a", "b")
    refused = _run(node, "pool", "remove", "blue")
    assert refused.exit_code == 1
    assert "pool blue cannot be removed: it has reservations" in refused.stderr
    assert _run(node, "network", "remove", "b").exit_code == 0
    refused = _run(node, "network", "remove", "a")
    assert refused.stderr.startswith("fastipam: pool blue cannot be removed: it has reservations\n")


def test_remove_pool(node: Path) -> None:
    """A pool goes with its networks, all or nothing."""
    _run(node, "unreserve", "10.1.0.6", "--network", "a")
    _empty(node, "b")
    assert (
        "network a cannot be removed: it has assigned addresses"
        in _run(node, "pool", "remove", "blue").stderr
    )
    assert _json(node, "pool", "list")[0]["networks"] == ["a", "b"]
    _empty(node, "a")
    assert _json(node, "pool", "remove", "blue") == [{"pool": "blue", "networks": ["a", "b"]}]
    assert [one["pool"] for one in _json(node, "pool", "list")] == ["own"]
    with fastipam.open(node) as ipam:
        assert str(ipam.network("a", NARROW).allocate("new").address.ip) == "10.1.0.2"
