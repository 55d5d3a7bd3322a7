"""With fencing an answer is given only while ownership is proven, however long the commit took."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.addressing.addresses import to_ip
from fastipam.agent.batch import Executor
from fastipam.agent.clusters import Clusters
from fastipam.agent.requests import Request
from fastipam.allocation import blocks
from fastipam.cni import handle
from fastipam.errors import AddressInUse, PoolExhausted, TryLater
from fastipam.ipam import Ipam
from fastipam.lease import Requester
from fastipam.network.promise import settle
from fastipam.storage import open_stores
from fastipam.storage.records.block import ACTIVE, LOST

from .nodes import NETWORK, Machine, init
from .test_claims import claim
from .test_on_demand import Shared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastipam.network.promise import Promise

PROVEN_NS = 10**9


class Clock:
    """The time since this boot: it stands at 0, and jumps behind the proof after ``reads`` reads.

    So a commit that takes longer than the proof lasts needs no waiting.
    """

    def __init__(self) -> None:
        self.reads = 1 << 30

    def __call__(self) -> int:
        self.reads -= 1
        return 0 if self.reads >= 0 else PROVEN_NS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the proof is compared with."""
    made = Clock()
    monkeypatch.setattr(blocks, "boottime_ns", made)
    return made


@pytest.fixture
def machine(clock: Clock, tmp_path: Path) -> Iterator[Machine]:
    """A node with fencing that owns a block until ``PROVEN_NS``."""
    del clock
    engine = Shared()
    init(engine, fencing=True)
    made = Machine(tmp_path, "a", engine, None, fencing=True)
    node = made.joined()
    claim(node)
    made.share.prove_until(PROVEN_NS)
    yield made
    open_stores.close_all()
    made.store.close()


def assigned(machine: Machine) -> int:
    """How many addresses are assigned in the store."""
    return len(list(machine.network.leases()))


def test_proof_ends_during_the_commit_of_a_block(machine: Machine, clock: Clock) -> None:
    """The addresses of the fenced network are given back; the rest of the block is committed."""
    ipam = Ipam(machine.store)
    ipam.network("back", "10.9.0.0/24")
    clock.reads = 1

    def work() -> None:
        with ipam.transaction() as txn:
            txn.network(NETWORK).allocate("c")
            txn.network("back").allocate("c")

    with pytest.raises(TryLater):
        work()
    assert assigned(machine) == 0
    assert ipam.network("back").get("c") is not None


def test_proof_ends_during_the_commit(machine: Machine, clock: Clock) -> None:
    """The library raises, and gives the lease back; with a new proof the same call succeeds."""
    clock.reads = 1
    with pytest.raises(
        TryLater, match=r"10\.32\.\S+ of network podnet cannot be assigned: fencing"
    ):
        machine.network.allocate("c1")
    assert not assigned(machine)
    machine.share.prove_until(2 * PROVEN_NS)
    assert machine.network.allocate("c1").container_id == "c1"


def test_many_at_once(machine: Machine, clock: Clock) -> None:
    """All leases of one call are given back."""
    clock.reads = 1
    with pytest.raises(TryLater, match="fencing"):
        machine.network.allocate_many([(f"c{number}", "eth0") for number in range(20)])
    assert not assigned(machine)


def test_block_of_several_calls(machine: Machine, clock: Clock) -> None:
    """The end of a ``with`` block settles what its calls promise, and not what it rolled back."""
    clock.reads = 3
    with pytest.raises(TryLater, match="fencing"):
        _three_calls(machine)
    assert not assigned(machine)
    clock.reads = 1
    with pytest.raises(ZeroDivisionError):
        _rolled_back(machine)
    assert clock.reads == 0  # nothing was committed, so nothing was settled


def _three_calls(machine: Machine) -> None:
    with machine.store.write() as txn:
        network = machine.network.within(txn)
        first = network.allocate("c1")
        network.allocate("c2")
        with pytest.raises(AddressInUse):
            network.allocate("c3", addresses=[str(first.address.ip)])


def _rolled_back(machine: Machine) -> None:
    with machine.store.write() as txn:
        machine.network.within(txn).allocate("c1")
        raise ZeroDivisionError


def test_returned_again(machine: Machine, clock: Clock) -> None:
    """A lease that a second ADD returns is not given back: its first answer was good."""
    machine.network.allocate("c1")
    clock.reads = 1
    with pytest.raises(TryLater, match="fencing"):
        machine.network.allocate("c1", existing="return")
    assert assigned(machine) == 1
    with pytest.raises(PoolExhausted, match="fencing"):
        machine.network.allocate("c1", existing="return")


def test_returned_from_a_lost_block(machine: Machine) -> None:
    """An address in a block that another node has by now is not returned to its owner."""
    machine.network.allocate("c1")
    _lose(machine)
    with pytest.raises(PoolExhausted, match="is not this node's"):
        machine.network.allocate("c1", existing="return")


def _lose(machine: Machine) -> None:
    """Another node has claimed this node's blocks."""
    with machine.store.write() as txn:
        pool_id = machine.network._pool_in(txn)
        assert pool_id is not None
        for block in blocks.read_all(txn, pool_id):
            block.state = LOST
            blocks.put(txn, pool_id, block)


def test_block_lost_after_the_commit(machine: Machine) -> None:
    """A proof that was renewed for other blocks does not cover one that was lost meanwhile."""
    promises: list[Promise] = []
    machine.network._assign(Requester("c1", "eth0"), promises=promises)
    _lose(machine)
    error = settle(promises)
    assert error is not None
    assert "is not this node's" in error.message
    assert not assigned(machine)


def test_later_lease_stays(machine: Machine, clock: Clock) -> None:
    """What is given back is the lease of this call, not a later one of the same owner."""
    promises: list[Promise] = []
    machine.network._assign(Requester("c1", "eth0"), promises=promises)
    machine.network.release("c1")
    machine.network.allocate("c1")
    clock.reads = 0
    assert settle(promises) is not None
    assert assigned(machine) == 1


def test_wanted_address_without_a_proof(machine: Machine, clock: Clock) -> None:
    """A requested address is refused for want of a proof, not as another node's."""
    (pair,) = machine.active()
    clock.reads = 0
    with pytest.raises(PoolExhausted, match="fencing"):
        machine.network.allocate("c1", addresses=[to_ip(4, pair[1] + 77)])


def _configuration(machine: Machine) -> bytes:
    cluster = {
        "endpoints": ["http://127.0.0.1:1"],
        "pool": "10.32.0.0/20",
        "blockSize": 24,
        "node": "a",
        "fencing": True,
        "timeout": 0.1,
    }
    ipam = {"type": "fastipam", "dataDir": str(machine.path), "cluster": cluster}
    document = {"cniVersion": "1.1.0", "name": NETWORK, "type": "bridge", "ipam": ipam}
    return json.dumps(document).encode()


def _environ(number: int) -> dict[str, str]:
    return {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": f"c{number}",
        "CNI_NETNS": "/run/netns/none",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }


@pytest.fixture
def closed(machine: Machine) -> Machine:
    """The same, for those who open the store by themselves."""
    machine.store.close()
    return machine


def test_direct_call(closed: Machine, clock: Clock) -> None:
    """The plugin answers with code 11, and the store has no lease."""
    clock.reads = 1
    status, output = handle(_environ(1), _configuration(closed))
    answer: dict[str, Any] = json.loads(output)
    assert (status, answer["code"], answer["cniVersion"]) == (1, 11, "1.1.0")
    assert "cannot be assigned: fencing" in answer["msg"]
    open_stores.close_all()
    closed.open()
    assert not assigned(closed)


@pytest.mark.parametrize("size", [1, 5])
def test_agent(closed: Machine, clock: Clock, size: int) -> None:
    """An agent looks when it writes each answer of a batch, after the commit of all of them."""
    stdin = _configuration(closed)
    execute = Executor(clusters=_WithoutKeepers())
    requests = [Request(_environ(number), stdin, 1, 0) for number in range(size)]
    answers = execute(requests)
    assert [answer.status for answer in answers] == [0] * size
    open_stores.get(str(closed.path), None)
    confirmed = []
    for number, answer in enumerate(answers):
        assert answer.confirm is not None
        if number == size // 2:
            clock.reads = 0  # the agent was stopped between two answers
        confirmed.append(answer.confirm())
    kept = [json.loads(one.output).get("ips") for one in confirmed[: size // 2]]
    assert all(kept)
    for answer in confirmed[size // 2 :]:
        assert (answer.status, json.loads(answer.output)["code"]) == (1, 11)
    open_stores.close_all()
    closed.open()
    assert assigned(closed) == size // 2


class _WithoutKeepers(Clusters):
    """The agent's services; no keeper is started."""

    def start_pending(self, data_dir: str | None = None) -> None:
        """Start none."""


def test_nothing_to_promise_without_fencing(tmp_path: Path) -> None:
    """Without fencing an answer promises nothing, and nothing is looked at after the commit."""
    engine = Shared()
    init(engine)
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined())
    promises: list[Promise] = []
    machine.network._assign(Requester("c1", "eth0"), promises=promises)
    assert not promises
    assert {each.state for each in machine.share.blocks()} == {ACTIVE}
