"""What every registry does: etcd's in memory, on etcd 3.4 and 3.5, Kubernetes' on fake and real.

What differs by design is one thing: a claim of several blocks is made as a whole or not at all on
a key-value store, while the Kubernetes API may give a part of them (``wins_parts``).
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.admin import admin
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import ClusterRefused
from fastipam.cluster.registries.keyvalue.registry import KeyValueRegistry
from fastipam.cluster.routing.blocks import Blocks
from fastipam.storage.records.block import LOST
from tests.cluster.conftest import binary_of
from tests.cluster.etcd import Etcd

from ..agent.processes import until
from .worlds import BLOCKS, KeyValueWorld, KubernetesWorld, MemoryWorld, S, World, active, states

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastipam.cluster.engine import Engine
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.schema import BlockId


@pytest.fixture(
    params=[
        "memory", "etcd-3.4", "etcd-3.5", "fake",
        pytest.param("real", marks=pytest.mark.kubernetes),
    ]
)  # fmt: skip
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A cluster on each store."""
    made: World
    if request.param == "memory":
        made = MemoryWorld(tmp_path)
    elif request.param.startswith("etcd"):
        engines = request.getfixturevalue("etcd_engines")
        made = KeyValueWorld(tmp_path, engines(request.param.partition("-")[2]))
    else:
        name = "fake_api" if request.param == "fake" else "api_server"
        made = KubernetesWorld(tmp_path, request.getfixturevalue(name))
    yield made
    made.close()


@pytest.fixture(scope="module")
def etcd_engines(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A function: an engine on an etcd of that version, which lives as long as the module."""
    with contextlib.ExitStack() as stack:
        made: dict[str, Engine] = {}

        def engine(version: str) -> Engine:
            if version not in made:
                path = tmp_path_factory.mktemp("etcd")
                etcd = stack.enter_context(Etcd(binary_of(version), path))
                made[version] = stack.enter_context(contextlib.closing(etcd.engine()))
            return made[version]

        yield engine


def join(world: World, name: str) -> Node:
    """A process of a machine, registered; the machine is new if there is none."""
    machine = world.all.get(name) or world.machine(name)
    node = machine.node()
    node.join(Deadline(S), agent=True)
    return node


def claim(node: Node, run: int = 1) -> list[BlockId]:
    """Claim blocks of the pool."""
    return node.claim(node.settings.geometries[0], run, Deadline(S))


def use_up(node: Node) -> None:
    """Claim all that there is."""
    while claim(node):
        pass


# Registering ----------------------------------------------------------------------------------


def test_a_new_node_and_the_same_again(world: World) -> None:
    """The entry is written once; a restart changes nothing, and no epoch."""
    node = join(world, "a")
    first = node.share.member()
    assert first is not None
    claim(node)
    again = join(world, "a").share.member()
    assert again is not None
    assert (
        (again.epoch, again.incarnation)
        == (first.epoch, first.incarnation)
        == (1, again.incarnation)
    )
    rows = world.operator("a").registry.nodes(Deadline(S))
    assert [row.name for row in rows] == ["a"]
    world.check()


def test_a_reboot(world: World) -> None:
    """The machine is the same: so are its blocks and its epoch."""
    node = join(world, "a")
    won = claim(node, 2)
    world.reboot("a")
    node = join(world, "a")
    member = node.share.member()
    assert member is not None
    assert member.epoch == 1
    assert active(world.all["a"]) == set(won)
    world.check()


def test_a_lost_store(world: World) -> None:
    """Its blocks are found, and used after their addresses were read; the epoch is another one."""
    node = join(world, "a")
    won = claim(node, 2)
    world.lose_store("a")
    node = world.all["a"].node()
    found = node.join(Deadline(S), agent=True)
    assert sorted(found) == sorted(won)
    assert active(world.all["a"]) == set()
    node.confirm_found(found)
    member = node.share.member()
    assert member is not None
    assert member.epoch == 2
    world.check()


def test_another_machine_of_the_name(world: World) -> None:
    """While the first one lives the second one is refused, and has nothing."""
    node = join(world, "a")
    world.live(node)
    claim(node)
    first = world.all["a"]
    second = world.make("a", world.path / "elsewhere", "boot-9")
    with pytest.raises(ClusterRefused):
        second.node().join(Deadline(S), agent=True)
    assert active(second) == set()
    second.store.close()
    assert world.all["a"] is first
    world.check()


# Claiming -------------------------------------------------------------------------------------


def test_claims_until_the_pool_is_used_up(world: World) -> None:
    """A run is side by side; in the end everything is owned once."""
    one, two = join(world, "a"), join(world, "b")
    run = claim(one, 4)
    assert [base - run[0][1] for _, base in run] == [0, 256, 512, 768]
    use_up(two)
    assert claim(one) == []
    owned = world.owners()
    assert len(owned) == BLOCKS
    assert sum(name == "a" for name in owned.values()) == 4
    world.check()


def test_a_run_that_is_partly_taken(world: World) -> None:
    """A key-value store gives nothing of it, the Kubernetes API what is free."""
    one, two = join(world, "a"), join(world, "b")
    (taken,) = claim(two)
    first = taken[1] >> 9 << 9
    ids = [(4, first), (4, first + 256)]
    (free,) = [each for each in ids if each != taken]
    member = one.share.member()
    assert member is not None
    one.share.begin_claim(ids, member.epoch, 7)
    answer = one.registry.claim(member, ids, 7, None, Deadline(S))
    assert list(answer.taken) == [taken]
    assert list(answer.won) == ([free] if world.wins_parts else [])
    join(world, "a")
    world.check()


def test_an_intent_that_came_to_nothing(world: World) -> None:
    """A claim that was begun and never made is forgotten; one that was made is used."""
    one = join(world, "a")
    member = one.share.member()
    assert member is not None
    pool = one.settings.geometries[0]
    ids = [(4, pool.address(3)), (4, pool.address(9))]
    one.share.begin_claim(ids, member.epoch, 7)
    assert one.registry.claim(member, ids[:1], 7, None, Deadline(S)).won
    join(world, "a")
    assert active(world.all["a"]) == {ids[0]}
    world.check()


# Giving back ----------------------------------------------------------------------------------


def test_given_back_blocks_are_free(world: World) -> None:
    """For everybody; a block in use stays. To release again what is another's does nothing."""
    one, two = join(world, "a"), join(world, "b")
    won = claim(one, 2)
    blocks = one.share.blocks()
    world.all["a"].network.allocate("c1")
    one.give_back(won, Deadline(S))
    assert len(active(world.all["a"])) == 1
    use_up(two)
    for block in blocks:
        if (block.family, block.base) not in active(world.all["a"]):
            one.registry.release(block, Deadline(S))
    assert len(world.owners()) == BLOCKS
    world.check()


def test_a_release_that_was_begun(world: World) -> None:
    """The next process finishes it."""
    one = join(world, "a")
    won = claim(one, 2)
    assert len(one.share.begin_release(won)) == 2
    join(world, "a")
    assert world.owners() == {}
    world.check()


# Need -----------------------------------------------------------------------------------------


def test_a_request_is_answered_once(world: World) -> None:
    """The donor's blocks are the needy node's; a second answer moves nothing."""
    needy, donor = join(world, "a"), join(world, "b")
    world.live(needy)
    use_up(donor)
    needy.write_mark(4, 2, Deadline(S))
    (request,) = world.requests("b")
    assert (request.needy, request.mark.blocks) == ("a", 2)
    assert needy.registry.is_asked(Deadline(S))
    ids = [(one.family, one.base) for one in donor.share.blocks()]
    assert donor.donate(request, ids[:2], Deadline(S)) == 2
    assert donor.donate(request, ids[2:4], Deadline(S)) == 0
    look(needy)
    assert needy.collect(Deadline(S)) == ids[:2]
    assert not needy.registry.is_asked(Deadline(S))
    assert world.requests("b") == []
    world.check()


def look(node: Node) -> None:
    """What a watch tells: the request was answered."""
    if not isinstance(node.registry, KeyValueRegistry):
        node.registry.look_for_an_answer()  # type: ignore[attr-defined]


def test_a_request_that_was_withdrawn(world: World) -> None:
    """Nobody gives anything for it."""
    needy, donor = join(world, "a"), join(world, "b")
    world.live(needy)
    use_up(donor)
    needy.write_mark(4, 1, Deadline(S))
    (request,) = world.requests("b")
    needy.registry.unask(Deadline(S))
    needy.registry.unask(Deadline(S))
    ids = [(one.family, one.base) for one in donor.share.blocks()]
    assert donor.donate(request, ids[:1], Deadline(S)) == 0
    assert set(world.owners().values()) == {"b"}
    world.check()


def test_a_gift_after_a_restart(world: World) -> None:
    """A node that dies before it collects has the blocks after its start, and reads nothing."""
    needy, donor = join(world, "a"), join(world, "b")
    world.live(needy)
    use_up(donor)
    needy.write_mark(4, 3, Deadline(S))
    (request,) = world.requests("b")
    ids = [(one.family, one.base) for one in donor.share.blocks()]
    assert donor.donate(request, ids[-3:], Deadline(S)) == 3
    machine = world.all["a"]
    assert machine.node().join(Deadline(S), agent=True) == []
    assert active(machine) == set(ids[-3:])
    world.check()


# Removal --------------------------------------------------------------------------------------


def test_a_removed_node_claims_nothing(world: World) -> None:
    """Its blocks are free; it learns it at its next claim, and comes back with a later epoch."""
    join(world, "a")
    two = join(world, "b")
    claim(two, 4)
    found = admin.release_node(world.operator("a"), "b", Deadline(S), force=True)
    assert (found.blocks, found.epoch) == (4, 2)
    assert world.owners() == {}
    with pytest.raises(ClusterRefused):
        claim(two)
    two = join(world, "b")
    member = two.share.member()
    assert member is not None
    assert member.epoch >= 2
    assert active(world.all["b"]) == set()
    assert len(claim(two)) == 1
    world.check()


def test_removal_is_idempotent(world: World) -> None:
    """A second time changes nothing; a node that never was is refused."""
    join(world, "a")
    claim(join(world, "b"))
    assert admin.release_node(world.operator("a"), "b", Deadline(S), force=True).blocks == 1
    assert admin.release_node(world.operator("a"), "b", Deadline(S), force=True).blocks == 0
    with pytest.raises(ClusterRefused, match="has no node"):
        admin.release_node(world.operator("a"), "nobody", Deadline(S), force=True)


def test_a_removed_node_cannot_ask(world: World) -> None:
    """Its request is refused, or withdrawn at once."""
    join(world, "a")
    two = join(world, "b")
    world.live(two)
    admin.release_node(world.operator("a"), "b", Deadline(S), force=True)
    with pytest.raises(ClusterRefused):
        two.write_mark(4, 1, Deadline(S))
    assert world.requests("a") == []


def test_lost_blocks_are_claimed_again(world: World) -> None:
    """What a node with pods has lost is its own again, unless another node has it by now."""
    one, two = join(world, "a"), join(world, "b")
    won = claim(two, 2)
    for at in range(300):  # both blocks have pods
        world.all["b"].network.allocate(f"c{at}")
    admin.release_node(world.operator("a"), "b", Deadline(S), force=True)
    taken = min(won)
    member = one.share.member()
    assert member is not None
    one.share.begin_claim([taken], member.epoch, 7)
    assert list(one.registry.claim(member, [taken], 7, None, Deadline(S)).won) == [taken]
    join(world, "a")
    two = join(world, "b")
    (left,) = [each for each in won if each != taken]
    assert active(world.all["b"]) == {left}
    assert states(world.all["b"])["lost"] == 1
    assert [one.base for one in two.share.blocks() if one.state == LOST] == [taken[1]]
    world.check()


# Following the blocks -------------------------------------------------------------------------


def follow(stack: contextlib.ExitStack, world: World, node: Node) -> Owners:
    """Follow all blocks in a thread, until the stack is left."""
    owners = Owners(node.name)
    over = threading.Event()
    thread = threading.Thread(target=node.registry.follow_blocks, args=(owners, over.is_set))
    thread.start()

    def end() -> None:
        over.set()
        join(world, "last")  # an event, after which it is looked
        thread.join(S)
        assert not thread.is_alive()

    stack.callback(end)
    return owners


class Owners(Blocks):
    """What was told, by block."""

    def owned(self) -> dict[BlockId, str]:
        """The owner of each block."""
        with self._lock:
            return {pair: node for pair, (_, node, _) in self._blocks.items()}


def test_follow_the_blocks(world: World) -> None:
    """All of them at first, then each change; all is told before the first look."""
    a, b = join(world, "a"), join(world, "b")
    first = claim(a, 2)
    with contextlib.ExitStack() as stack:
        owners = follow(stack, world, join(world, "c"))
        until(lambda: owners.is_reached, "all blocks were told")
        assert owners.owned() == dict.fromkeys(first, "a")
        second = claim(b)
        until(lambda: owners.owned() == world.owners(), "a claim was told")
        assert {owners.owned()[pair] for pair in second} == {"b"}
        a.give_back(first[:1], Deadline(S))
        until(lambda: owners.owned() == world.owners(), "a release was told")
        operator = world.operator("c")
        admin.release_node(operator, "b", Deadline(S), force=True)
        until(lambda: owners.owned() == dict.fromkeys(first[1:], "a"), "a removal was told")
        (lengths,) = {length for length, _, _ in owners._blocks.values()}
        assert lengths == 24
