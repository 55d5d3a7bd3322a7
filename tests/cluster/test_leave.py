"""A cluster's network asked for with other ranges, and a node that leaves its cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastipam.addressing.ranges import Pool, Range, RangeSet
from fastipam.cluster.admin import admin
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import ClusterRefused
from fastipam.configuration.policy import Policy
from fastipam.errors import AddressNotInRange, ConfigError
from fastipam.lease import Requester
from fastipam.network import Network
from fastipam.storage.store import Store
from fastipam.testing import Clock
from tests.cluster.memory import MemoryEngine

from .nodes import NETWORK, Machine, assert_settled, init, owners
from .test_claims import claim

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def engine() -> MemoryEngine:
    """A cluster's store with the settings written."""
    made = MemoryEngine()
    init(made)
    return made


def _ranges(*texts: str, block_length: int = 0) -> Pool:
    return Pool([RangeSet([Range.parse(one) for one in texts], block_length=block_length)])


def _network(machine: Machine, pool: Pool, *, remember: bool = True) -> Network:
    policy = Policy(cooldown_s=0)
    return Network(machine.store, NETWORK, pool, policy=policy, remember=remember)


@pytest.mark.parametrize("remember", [True, False], ids=["the network's", "one container's"])
@pytest.mark.parametrize("subnet", ["10.32.0.0/20", "10.32.0.0/24", "192.0.2.0/24"])
def test_plain_ranges_for_a_clusters_network(
    engine: MemoryEngine, tmp_path: Path, subnet: str, *, remember: bool
) -> None:
    """They are refused with both values, and the cluster's configuration serves as before."""
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined(), 1)
    first = machine.network.allocate("c1")
    plain = _network(machine, _ranges(subnet), remember=remember)
    for ask in (lambda: plain.allocate("c2"), lambda: plain.allocate_many([("c2", "eth0")])):
        with pytest.raises(ConfigError) as refused:
            ask()
        assert "10.32.0.1-10.32.15.254 in blocks of /24" in refused.value.message
        assert subnet.rpartition(".")[0] in refused.value.message
        assert "fastipam cluster leave" in (refused.value.hint or "")
    with pytest.raises(ConfigError):
        plain._exhausted()  # STATUS
    assert machine.network.allocate("c2").value == first.value + 1


def test_blocks_of_another_length(engine: MemoryEngine, tmp_path: Path) -> None:
    """Blocks twice as long would hold the neighbour's: refused."""
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined(), 1)
    with pytest.raises(ConfigError, match="in blocks of /23"):
        _network(machine, _ranges("10.32.0.0/20", block_length=23)).allocate("c1")


def test_exclusions_are_the_nodes_own(engine: MemoryEngine, tmp_path: Path) -> None:
    """The same blocks with an exclusion are the cluster's ranges nevertheless."""
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined(), 1)
    ((family, base),) = machine.active()
    (one,) = machine.settings.pool.sets
    pool = Pool([RangeSet(one.ranges, [(base, base + 9)], block_length=24)])
    lease = _network(machine, pool).allocate("c1")
    assert (family, lease.value) == (4, base + 10)


def test_a_network_before_it_joins(engine: MemoryEngine, tmp_path: Path) -> None:
    """A node that never registered owns nothing: its network may have any ranges."""
    machine = Machine(tmp_path, "a", engine)
    assert _network(machine, _ranges("192.0.2.0/24")).allocate("c1").value == 0xC0000202
    claim(machine.joined(), 1)
    ((_, base),) = machine.active()
    assert machine.network.allocate("c2").value in range(base, base + 256)


def test_leave_and_come_back(engine: MemoryEngine, tmp_path: Path) -> None:
    """Cluster, local ranges, cluster: each serves at once, and every block is given up between."""
    machine, other = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    claim(machine.joined(), 2)
    claim(other.joined(), 1)
    machine.network.allocate("c1")
    machine.network.release("c1")
    assert admin.leave(machine.node(), Deadline(5)) == 2
    assert set(owners(engine).values()) == {"b"}
    assert machine.share.blocks() == []
    assert machine.share.member() is None
    plain = _network(machine, _ranges("192.0.2.0/24"))
    assert plain.allocate("c2").value == 0xC0000202
    claim(machine.joined(), 1)
    lease = machine.network.allocate("c3")
    assert any(base <= lease.value < base + 256 for _, base in machine.active())
    assert_settled(engine, machine, other)
    plain = _network(machine, _ranges("192.0.2.0/24"))
    with pytest.raises(ConfigError):
        plain.allocate("c4")
    assert admin.leave(Machine(tmp_path, "c", engine).node(), Deadline(5)) == 0  # never joined


def test_leave_while_addresses_are_in_use(engine: MemoryEngine, tmp_path: Path) -> None:
    """Refused, and nothing is changed; forced, the blocks are the other nodes' to claim."""
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined(), 1)
    machine.network.allocate("c1")
    with pytest.raises(ClusterRefused, match="1 addresses of this node's blocks"):
        admin.leave(machine.node(), Deadline(5))
    machine.network.allocate("c2")
    assert_settled(engine, machine)
    assert admin.leave(machine.node(), Deadline(5), force=True) == 1
    assert not owners(engine)


def test_leave_when_addresses_have_cooled(engine: MemoryEngine, tmp_path: Path) -> None:
    """Refused until the cool-down is over; then nobody has to assign anything before."""
    machine = Machine(tmp_path, "a", engine)
    clock = Clock()
    machine.store.close()
    machine.store = Store(machine.path, "relaxed", clock=clock, boot_id=lambda: "boot-1")
    machine.network = Network(
        machine.store, NETWORK, machine.settings.pool, policy=Policy(cooldown_s=30)
    )
    claim(machine.joined(), 1)
    machine.network.allocate("c1")
    machine.network.release("c1")
    with pytest.raises(ClusterRefused, match="1 addresses of this node's blocks"):
        admin.leave(machine.node(), Deadline(5))
    clock.advance(31)
    assert admin.leave(machine.node(), Deadline(5)) == 1


def test_leave_while_an_agent_runs(engine: MemoryEngine, tmp_path: Path) -> None:
    """Refused: the agent would register the node again."""
    machine = Machine(tmp_path, "a", engine)
    node = machine.node()
    node.join(Deadline(5), agent=True, sign=True)
    claim(node, 1)
    with pytest.raises(ClusterRefused, match="its agent keeps its session"):
        admin.leave(machine.node(), Deadline(5), force=True)
    machine.network.allocate("c1")


def test_leave_a_cluster_that_is_gone(engine: MemoryEngine, tmp_path: Path) -> None:
    """Offline only this node's store changes; who comes back looks for what is in use first."""
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined(), 1)
    assert admin.leave(machine.node(), Deadline(5), offline=True) == 1
    assert set(owners(engine).values()) == {"a"}
    assert _network(machine, _ranges("192.0.2.0/24")).allocate("c1").value == 0xC0000202
    found = machine.node().join(Deadline(5), agent=True)
    assert [owners(engine)[block] for block in found] == ["a"]


def test_imported_lease_of_another_nodes_block(engine: MemoryEngine, tmp_path: Path) -> None:
    """A lease of host-local in a block of another node is not taken over: that node assigns it."""
    machine, other = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    claim(machine.joined(), 1)
    claim(other.joined(), 1)
    ((_, own),), ((_, theirs),) = machine.active(), other.active()
    machine.network.allocate("c1")
    assert machine.network._adopt(Requester("old-1", "eth0"), 4, own + 77, 1)
    with pytest.raises(AddressNotInRange, match="which this node does not own"):
        machine.network._adopt(Requester("old-2", "eth0"), 4, theirs + 77, 1)
    assert machine.network._adopt(Requester("old-3", "eth0"), 4, 0xC0000202, 1)  # in no pool
