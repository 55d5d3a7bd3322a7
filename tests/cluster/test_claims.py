"""Claims, releases and donations: killed at every step, answers lost, nodes removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.addressing.addresses import to_ip
from fastipam.cluster import schema
from fastipam.cluster.admin.admin import release_node
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineTimeout, EngineUnavailable, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node.lock import NodeLock
from fastipam.errors import AddressNotInRange, PoolExhausted
from tests.cluster.memory import MemoryEngine

from .nodes import Killed, Machine, assert_agree, assert_settled, init, inside, owners, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.node.node import Node
from fastipam.cluster.registry import Request


@pytest.fixture
def engine() -> MemoryEngine:
    """A cluster's store with the settings written."""
    made = MemoryEngine()
    init(made)
    return made


def claim(node: Node, run: int = 1) -> list[tuple[int, int]]:
    """Claim in the only pool."""
    return node.claim(node.settings.geometries[0], run, Deadline(5))


def test_claim_and_assign(engine: MemoryEngine, tmp_path: Path) -> None:
    """A claimed block serves: its addresses, with the pool's length and gateway."""
    machine = Machine(tmp_path, "a", engine)
    with pytest.raises(PoolExhausted, match="not registered"):
        machine.network.allocate("c1")
    (pair,) = claim(machine.joined())
    lease = machine.network.allocate("c1")
    assert lease.value >> 8 == pair[1] >> 8
    assert lease.length == 20
    assert lease.router_text == "10.32.0.1"
    assert_settled(engine, machine)


def test_one_transaction_a_claim(engine: MemoryEngine, tmp_path: Path) -> None:
    """With nobody in the way a claim is one transaction, a run of eight too."""
    node = Machine(tmp_path, "a", engine).joined()
    before = engine.calls["transact"]
    assert len(claim(node, 8)) == 8
    assert engine.calls["transact"] - before == 1
    assert node.counts.transactions == 1


def test_pool_is_used_up(engine: MemoryEngine, tmp_path: Path) -> None:
    """Two nodes claim all sixteen blocks, no block twice; then a claim says that none is left."""
    first, second = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    nodes = [first.joined(), second.joined()]
    for turn in range(16):
        assert len(claim(nodes[turn % 2])) == 1
    assert claim(nodes[0]) == []
    assert len(owners(engine)) == 16
    assert_settled(engine, first, second)


def test_two_pools_of_one_family(tmp_path: Path) -> None:
    """The second pool serves when the first is used up; an address has its own pool's length."""
    engine = MemoryEngine()
    more: dict[str, Any] = {"pool": ["10.32.0.0/26", "10.48.0.0/25"], "blockSize": 26}
    init(engine, **more)
    machine = Machine(tmp_path, "a", engine, **more)
    node = machine.joined()
    while node.claim_family(4, 1, Deadline(5)):
        pass
    assert machine.active() == {(4, 0x0A200000), (4, 0x0A300000), (4, 0x0A300040)}
    leases = [machine.network.allocate(f"c{number}") for number in range(61 + 125)]
    assert {(lease.value >> 20, lease.length) for lease in leases} == {(0x0A2, 26), (0x0A3, 25)}
    with pytest.raises(PoolExhausted):
        machine.network.allocate("one-more")
    assert_settled(engine, machine)


CLAIM_STEPS = ("named", "registered", "reconciled", "intent", "claimed", "active")


def join_and_claim(node: Node, *, agent: bool = True) -> None:
    """A node's first steps."""
    node.join(Deadline(5), agent=agent)
    claim(node, 4)


def killer(at: str, count: int = 1) -> Callable[[str], None]:
    """A failpoint that kills at the ``count``-th time that a step is reached."""
    left = [count]

    def step(name: str) -> None:
        if name == at:
            left[0] -= 1
            if not left[0]:
                raise Killed

    return step


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "direct"])
@pytest.mark.parametrize("at", CLAIM_STEPS)
def test_killed_while_claiming(at: str, agent: bool, engine: MemoryEngine, tmp_path: Path) -> None:
    """Killed at any step of its first claim, a node loses nothing and has nothing twice."""
    machine, other = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    with pytest.raises(Killed):
        join_and_claim(machine.node(killer(at)), agent=agent)
    assert_agree(engine, machine)
    claim(other.joined(), 4)
    again = machine.node()
    again.join(Deadline(5), agent=agent)
    assert not again.share.has_begun()
    assert_settled(engine, machine, other)
    claim(again)
    assert machine.active()


@pytest.mark.parametrize("at", ["releasing", "released", "forgotten"])
def test_killed_while_giving_back(at: str, engine: MemoryEngine, tmp_path: Path) -> None:
    """Killed at any step of giving a block back: it is free or owned in the end, and not used."""
    machine = Machine(tmp_path, "a", engine)
    pairs = claim(machine.joined(), 4)
    with pytest.raises(Killed):
        machine.node(killer(at)).give_back(pairs[:2], Deadline(5))
    assert_agree(engine, machine)
    assert not machine.active() & {pairs[0]}
    machine.joined()
    assert_settled(engine, machine)
    assert pairs[0] not in owners(engine)


@pytest.mark.parametrize("at", ["releasing", "donated", "forgotten"])
def test_killed_while_donating(at: str, engine: MemoryEngine, tmp_path: Path) -> None:
    """Killed at any step of a donation: the block has one owner, whoever it is."""
    donor, needy = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    pairs = claim(donor.joined(), 16)
    poor = needy.joined()
    mark = raise_mark(poor)
    with pytest.raises(Killed):
        donor.node(killer(at)).donate(mark, pairs[-1:], Deadline(5))
    assert_agree(engine, donor, needy)
    donor.joined()
    poor.collect(Deadline(5))
    assert_settled(engine, donor, needy)
    assert pairs[-1] not in donor.active()


def raise_mark(node: Node, count: int = 1) -> Request:
    node.write_mark(4, count, Deadline(5), brief=True)
    (mark,) = inside(node).marks(1)[0]
    return mark


def test_donation(engine: MemoryEngine, tmp_path: Path) -> None:
    """A wholly free block moves to the node that asked; a second donor keeps his."""
    donors = [Machine(tmp_path, name, engine) for name in ("a", "b")]
    needy = Machine(tmp_path, "n", engine)
    pairs = [claim(donor.joined(), 8) for donor in donors]
    node = needy.joined()
    assert claim(node) == []
    mark = raise_mark(node)
    assert donors[0].node().donate(mark, pairs[0][:1], Deadline(5)) == 1
    assert donors[1].node().donate(mark, pairs[1][:1], Deadline(5)) == 0
    assert node.collect(Deadline(5)) == pairs[0][:1]
    assert_settled(engine, needy, *donors)
    assert needy.network.allocate("c1").value >> 8 == pairs[0][0][1] >> 8


def test_a_donation_is_one_transaction_however_many_are_wanted(tmp_path: Path) -> None:
    """Of more blocks than a transaction has room for, as many move as fit; the rest stay."""
    engine = MemoryEngine()
    init(engine, blocksize=26)
    donor = Machine(tmp_path, "a", engine, blocksize=26)
    needy = Machine(tmp_path, "n", engine, blocksize=26)
    pairs = claim(donor.joined(), 32) + claim(donor.joined(), 32)
    node = needy.joined()
    mark = raise_mark(node, len(pairs))
    assert donor.node().donate(mark, pairs, Deadline(5)) == 42
    assert len(node.collect(Deadline(5))) == 42
    assert len(donor.active()) == len(pairs) - 42
    assert_settled(engine, needy, donor)


def test_nothing_in_use_is_given_away(engine: MemoryEngine, tmp_path: Path) -> None:
    """A block with one assigned address is neither given back nor donated."""
    machine = Machine(tmp_path, "a", engine)
    (pair,) = claim(machine.joined())
    machine.network.allocate("c1")
    node = machine.node()
    assert node.give_back([pair], Deadline(5)) == 0
    mark = Request("b", schema.Mark(1, 1, 1, 4), 1)
    assert node.donate(mark, [pair], Deadline(5)) == 0
    assert machine.active() == {pair}
    machine.network.release("c1")
    assert node.give_back([pair], Deadline(5)) == 1
    assert owners(engine) == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_lost_answer(when: str, engine: MemoryEngine, tmp_path: Path) -> None:
    """A claim whose request or answer is lost is asked again, and made once."""
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    left = [2]

    def fault(call: str, at: str) -> None:
        if call == "transact" and at == when and left[0]:
            left[0] -= 1
            raise EngineTimeout("no answer", ambiguous=True)

    engine.fault = fault
    pairs = claim(node, 2)
    assert node.give_back(pairs[:1], Deadline(5)) == 1
    assert len(owners(engine)) == 1
    assert_settled(engine, machine)


@pytest.mark.parametrize("when", ["before", "after"])
def test_lost_answer_to_a_first_registration(
    when: str, engine: MemoryEngine, tmp_path: Path
) -> None:
    """A node whose first registration is not answered knows its own entry when it looks again."""
    machine = Machine(tmp_path, "a", engine)
    left = [1]

    def fault(call: str, at: str) -> None:
        if call == "transact" and at == when and left[0]:
            left[0] -= 1
            raise EngineTimeout("no answer", ambiguous=True)

    engine.fault = fault
    join_and_claim(machine.node(), agent=False)
    member = machine.node().share.member()
    assert member is not None
    assert member.epoch == 1
    assert_settled(engine, machine)


def test_another_name_before_it_is_registered(engine: MemoryEngine, tmp_path: Path) -> None:
    """A store whose node was refused under one name takes another; one that took part does not."""
    Machine(tmp_path / "1", "a", engine).joined()
    machine = Machine(tmp_path, "a", engine)
    with pytest.raises(ClusterRefused, match="there is another node named a"):
        machine.node().join(Deadline(5))
    machine.settings = settings("b")
    claim(machine.joined())
    machine.settings = settings("c")
    with pytest.raises(ClusterRefused, match="belongs to node b"):
        machine.joined()


@pytest.mark.parametrize("when", ["before", "after"])
def test_never_answered(when: str, engine: MemoryEngine, tmp_path: Path) -> None:
    """A claim that is never answered stays an intent; later it is found out."""
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()

    def fault(call: str, at: str) -> None:
        if call == "transact" and at == when:
            raise EngineTimeout("no answer", ambiguous=True)

    engine.fault = fault
    with pytest.raises(NoBlock):
        node.claim(node.settings.geometries[0], 1, Deadline(0.05))
    engine.fault = None
    assert machine.states() == {"claiming": 1}
    assert node.share.has_begun()
    assert_agree(engine, machine)
    machine.joined()
    assert_settled(engine, machine)
    assert len(machine.active()) == (1 if when == "after" else 0)


def test_unreachable(engine: MemoryEngine, tmp_path: Path) -> None:
    """With no store to ask a claim fails and leaves nothing; what is owned goes on serving."""
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    claim(node)

    def fault(_call: str, _at: str) -> None:
        raise EngineUnavailable("connection refused")

    engine.fault = fault
    with pytest.raises(EngineUnavailable):
        claim(node)
    machine.network.allocate("c1")
    assert machine.states() == {"active": 1}


def test_settings_differ(engine: MemoryEngine, tmp_path: Path) -> None:
    """A node with another pool or block size is refused, with both values."""
    machine = Machine(tmp_path, "a", engine, blockSize=26)
    with pytest.raises(ClusterRefused, match=r"10\.32\.0\.0/20=24.*10\.32\.0\.0/20=26"):
        machine.joined()


def test_not_initialised(tmp_path: Path) -> None:
    """Without settings in the shared store no node takes part."""
    with pytest.raises(ClusterRefused, match="no settings") as caught:
        Machine(tmp_path, "a", MemoryEngine()).joined()
    assert "cluster init" in str(caught.value.hint)


def test_removed_node_finds_out(engine: MemoryEngine, tmp_path: Path) -> None:
    """A node that was removed meanwhile claims nothing more, and learns what it lost."""
    gone, other = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    pairs = claim(gone.joined(), 2)
    lease = gone.network.allocate("c1")
    assert release_node(other.node(), "a", Deadline(5)).blocks == 2
    assert owners(engine) == {}
    (taken,) = claim(other.joined(), 1)
    claim(other.node(), 8)
    claim(other.node(), 8)
    with pytest.raises(ClusterRefused, match="removed"):
        claim(gone.node())
    with pytest.raises(PoolExhausted, match="not registered"):
        gone.network.allocate("c2")
    gone.joined()
    assert_settled(engine, gone, other)
    assert gone.network.lookup(str(lease.address.ip)) is not None
    assert len(pairs) == 2
    assert taken


def test_removed_node_gets_back_what_it_uses(engine: MemoryEngine, tmp_path: Path) -> None:
    """When nobody has claimed the block of a running pod meanwhile, its node has it again."""
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined())
    machine.network.allocate("c1")
    release_node(machine.node(), "a", Deadline(5))
    machine.joined()
    assert len(machine.active()) == 1
    assert_settled(engine, machine)


def test_live_node_is_not_removed(engine: MemoryEngine, tmp_path: Path) -> None:
    """While a node's session is kept, nobody takes its blocks but by force."""
    machine, other = Machine(tmp_path, "a", engine), Machine(tmp_path, "b", engine)
    node = machine.joined()
    claim(node)
    session = engine.open_session(30, deadline_s=1)
    engine.transact(
        [], [put(inside(node).keys.session("a"), b"incarnation=x", session)], deadline_s=1
    )
    with pytest.raises(ClusterRefused, match="alive"):
        release_node(other.node(), "a", Deadline(5))
    assert release_node(other.node(), "a", Deadline(5), force=True).blocks == 1


def put(key: bytes, value: bytes, session: int) -> Put:
    return Put(key, value, session)


def test_two_nodes_of_one_name(engine: MemoryEngine, tmp_path: Path) -> None:
    """A second machine that has the name of a live one is refused."""
    first = Machine(tmp_path / "1", "a", engine)
    node = first.joined()
    session = engine.open_session(30, deadline_s=1)
    engine.transact(
        [], [put(inside(node).keys.session("a"), b"incarnation=x", session)], deadline_s=1
    )
    with pytest.raises(ClusterRefused, match="another node named a and it is alive"):
        Machine(tmp_path / "2", "a", engine, boot="boot-2").joined()


def test_lost_disk(engine: MemoryEngine, tmp_path: Path) -> None:
    """A node whose store is gone finds its blocks, and assigns nothing before it has looked."""
    old = Machine(tmp_path / "1", "a", engine)
    pairs = claim(old.joined(), 2)
    new = Machine(tmp_path / "2", "a", engine)
    node = new.node()
    assert sorted(node.join(Deadline(5), agent=True)) == sorted(pairs)
    assert new.states() == {"found": 2}
    with pytest.raises(PoolExhausted):
        new.network.allocate("c1")
    node.confirm_found(pairs)
    new.network.allocate("c1")
    assert_settled(engine, new)


def test_a_direct_plugin_takes_nobodys_name(engine: MemoryEngine, tmp_path: Path) -> None:
    """Without an agent there is no sign of life: only an agent takes a lost node's place."""
    Machine(tmp_path / "1", "a", engine).joined()
    with pytest.raises(ClusterRefused, match="its store was lost"):
        Machine(tmp_path / "2", "a", engine).node().join(Deadline(5))


def test_restored_store(engine: MemoryEngine, tmp_path: Path) -> None:
    """A store that was copied back believes nothing about its blocks before they are confirmed."""
    machine = Machine(tmp_path, "a", engine)
    claim(machine.joined())
    machine.store.close()
    data = (machine.path / "data.mdb").read_bytes()
    (machine.path / "data.mdb").rename(machine.path / "older.mdb")
    (machine.path / "data.mdb").write_bytes(data)
    machine.open()
    with pytest.raises(PoolExhausted, match="restored or copied"):
        machine.network.allocate("c1")
    assert len(machine.node().join(Deadline(5), agent=True)) == 1


def test_requested_address_has_to_be_in_an_owned_block(
    engine: MemoryEngine, tmp_path: Path
) -> None:
    """A wanted address is assigned from this node's blocks; from another's it is refused."""
    machine = Machine(tmp_path, "a", engine)
    (pair,) = claim(machine.joined())
    inside, outside = (4, pair[1] + 77), (4, (pair[1] ^ 0x800) + 77)
    assert machine.network.allocate("c1", addresses=[to_ip(*inside)]).value == inside[1]
    with pytest.raises(AddressNotInRange, match="this node does not own"):
        machine.network.allocate("c2", addresses=[to_ip(*outside)])


def test_lock_belongs_to_one(engine: MemoryEngine, tmp_path: Path) -> None:
    """One at a time works on a node's claims."""
    machine = Machine(tmp_path, "a", engine)
    first, second = NodeLock(machine.store), NodeLock(machine.store)
    assert first.try_take()
    assert not second.try_take()
    first.release()
    assert second.try_take()
    second.release()


def test_fencing(engine: MemoryEngine, tmp_path: Path) -> None:
    """With fencing, a node whose ownership is not proven any more assigns nothing."""
    machine = Machine(tmp_path, "a", engine, fencing=True)
    node = machine.joined()
    claim(node)
    with pytest.raises(PoolExhausted, match="fencing"):
        machine.network.allocate("c1")
    node.share.prove_until(1 << 62)
    machine.network.allocate("c1")
    node.share.prove_until(1)
    with pytest.raises(PoolExhausted, match="fencing"):
        machine.network.allocate("c2")
    node.share.prove_until(1 << 62)
    machine.store.close()
    machine.boot = "boot-2"
    machine.open()
    with pytest.raises(PoolExhausted, match="this node has rebooted"):
        machine.network.allocate("c3")
    machine.joined()
    with pytest.raises(PoolExhausted, match="fencing"):
        machine.network.allocate("c3")
