"""Ways to make two nodes assign from one block, or to lose one, that a review thought of."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cluster.admin import admin
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import HistoryLost
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry
from fastipam.errors import FastipamError
from fastipam.storage.records.block import CLAIMING, LOST

from .agents import Agent, Time, assert_agree, owners, unsettled
from .bodies import block_name
from .fake import Fault
from .machines import Machine, accept, claim, take
from .rest import BLOCKS, NODES, POOLS

if TYPE_CHECKING:
    from pathlib import Path

    from fastipam.cluster.node.node import Node

    from .fake import FakeServer


@pytest.fixture
def time() -> Time:
    """A clock that stands."""
    return Time()


@pytest.fixture
def pair(fake_api: FakeServer, tmp_path: Path, time: Time):  # type: ignore[no-untyped-def]
    """Two agents with a block and a pod each, in a pool of sixteen blocks."""
    accept(fake_api)
    agents = Agent(tmp_path, fake_api, "a", time), Agent(tmp_path, fake_api, "b", time)
    for one in agents:
        one.turn()
        assert one.add() == 1
    yield agents
    for one in agents:
        one.close()


def ids(machine: Machine) -> list[tuple[int, int]]:
    """The blocks of a machine."""
    return [(one.family, one.base) for one in machine.share.blocks()]


def free_ids(agent: Agent) -> list[tuple[int, int]]:
    """The wholly free blocks of an agent."""
    return [(one.family, one.base) for one in agent.share.blocks() if not agent.uses(one)]


def use_up(rich: Agent) -> Node:
    """One node has all free blocks."""
    node = rich.node()
    while claim(node):
        pass
    return node


# Another machine of the same name -------------------------------------------------------------


@pytest.mark.parametrize("what", ["release", "hand over"])
def test_an_old_machine_wakes_up(
    fake_api: FakeServer, pair: tuple[Agent, Agent], tmp_path: Path, time: Time, what: str
) -> None:
    """A machine that was frozen in the middle of a release cannot take its successor's block."""
    old, other = pair
    node = old.node()
    (free,) = claim(node)
    begun = old.share.begin_release([free])
    use_up(other)
    other.node().write_mark(4, 1, Deadline(5))
    (request,) = old.requests()
    found = fake_api.admin.get("/api/v1/nodes/a").done()
    found["status"] = {"nodeInfo": {"bootID": "boot-9"}}
    fake_api.admin.replace("/api/v1/nodes/a/status", found).done()
    (tmp_path / "new").mkdir()
    new = Agent(tmp_path / "new", fake_api, "a", time, rest=old.rest, boot="boot-9")
    new.turn()
    assert old.cidr(begun[0]) in new.active()
    if what == "release":
        old.registry().release(begun[0], Deadline(5))
    else:
        old.registry().hand_over(request, begun, 1, Deadline(5))
    assert_agree(fake_api, [new, other])
    assert old.cidr(begun[0]) in new.active()
    new.close()


def test_who_comes_over_a_tombstone_has_the_name(
    fake_api: FakeServer, pair: tuple[Agent, Agent], tmp_path: Path, time: Time
) -> None:
    """A machine of that name which is not the Node's cannot register in place of a removed one."""
    one, two = pair
    admin.release_node(one.operator(), "b", Deadline(5), force=True)
    stranger = Agent(tmp_path / "x", fake_api, "b", time, rest=two.rest, boot="boot-7")
    with pytest.raises(ClusterRefused, match="is another machine"):
        stranger.node().join(Deadline(5), agent=True)
    stranger.close()
    two.turn(600)
    assert unsettled(fake_api, pair) == []


def test_a_node_whose_entry_and_store_are_gone(
    fake_api: FakeServer, pair: tuple[Agent, Agent]
) -> None:
    """Epochs begin again with a new entry; the node takes one after those of its blocks."""
    one, _ = pair
    operator = one.operator()
    operator.registry.end("a", Deadline(5), force=True)
    one.begin()
    one.turn()  # epoch 3
    fake_api.do("DELETE", f"{NODES}/a")
    one.store.close()
    one.path = one.path.with_name("a-anew")
    one.open()
    one.begin()
    for _ in range(4):
        one.turn(700)
    assert unsettled(fake_api, pair) == []


# Removal --------------------------------------------------------------------------------------


def test_what_a_node_claims_after_its_end_stays(
    fake_api: FakeServer, pair: tuple[Agent, Agent]
) -> None:
    """A removed node that is back before its blocks were all listed keeps what it has since."""
    one, two = pair

    def come_back(name: str) -> None:
        if name in ("tombstone", "some released"):
            two.begin()
            two.turn(600)
            claim(two.node())

    admin.release_node(one.operator(come_back), "b", Deadline(9), force=True)
    assert len(two.active()) >= 2
    assert_agree(fake_api, pair)


def test_a_node_that_is_back_before_the_list(
    fake_api: FakeServer, pair: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the tombstone and the list it has stamped its block, and has another."""
    one, two = pair
    operator = one.operator()
    assert isinstance(operator.registry, KubernetesRegistry)
    client = operator.registry.api.client
    listed = client.list

    def late(*arguments: Any, **more: Any) -> Any:
        if two.share.doubt() == "" and len(two.active()) == 1:
            two.begin()
            two.turn(600)
            claim(two.keeper.node)
        return listed(*arguments, **more)

    monkeypatch.setattr(client, "list", late)
    admin.release_node(operator, "b", Deadline(9), force=True)
    assert len(two.active()) == 2
    assert_agree(fake_api, pair)


@pytest.mark.parametrize("has_pod", [True, False])
def test_a_deletion_that_comes_late(
    fake_api: FakeServer, pair: tuple[Agent, Agent], has_pod: bool
) -> None:
    """A node that is back has stamped its blocks, so that a deletion of before finds others."""
    one, two = pair
    if not has_pod:
        two.network.release("c1")
    fake_api.fault(Fault("hold", "DELETE", "addressblocks"))
    with contextlib.suppress(FastipamError):
        admin.release_node(one.operator(), "b", Deadline(0.5), force=True)
    two.begin()
    two.turn(600)
    assert len(two.active()) == 1
    fake_api.deliver()
    assert_agree(fake_api, pair)
    assert unsettled(fake_api, pair) == []


def test_a_claim_after_the_end_leaves_no_object(
    fake_api: FakeServer, pair: tuple[Agent, Agent]
) -> None:
    """A lost block that a removed node has claimed again is deleted."""
    one, two = pair
    lost = two.share.blocks()[0]
    fake_api.do("DELETE", f"{BLOCKS}/{block_name(two.cidr(lost))}")

    def end(name: str) -> None:
        if name == "created":
            one.operator().registry.end("b", Deadline(5), force=True)

    node = two.node(end)
    with pytest.raises(ClusterRefused):
        node.join(Deadline(5), agent=True)
    assert "b" not in owners(fake_api).values()


# Lost changes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bump", [None, 10**9, 1000], ids=["older", "bumped", "bumped a little"])
def test_an_older_state_is_noticed_once(
    fake_api: FakeServer, pair: tuple[Agent, Agent], bump: int | None
) -> None:
    """Every node claims again what it has, before another block is claimed; then all goes on."""
    one, two = pair
    before = fake_api.snapshot()
    for agent in pair:
        claim(agent.node())
        agent.keeper.registry.note()
        assert agent.add(300) >= 200
    operator = one.operator()
    operator.registry.end("b", Deadline(5), force=True)
    two.turn(600)
    assert unsettled(fake_api, pair) == []
    fake_api.put_back(before, bump=bump)
    held: list[bool] = []
    for _ in range(3):
        for agent in pair:
            agent.turn(300)
            held.append("restored" in agent.keeper.status.reason)
            assert agent.states()["lost"] == 0
    for agent in pair:
        agent.turn(601)
        agent.turn(1)
    assert unsettled(fake_api, pair) == []
    assert not any(agent.keeper.status.reason for agent in pair)


def test_a_history_that_was_cut_off(fake_api: FakeServer, pair: tuple[Agent, Agent]) -> None:
    """An API server that was started anew costs a read of each own object, and no list."""
    one = pair[0]
    registry = one.registry_of(one.keeper.node)
    asked = registry.api.client.requests
    pools = ("LIST", "addresspools")  # which no watch tells here
    before = asked.copy()
    registry._losses.suspect("the history was cut off")
    one.turn_alone(1)
    assert (asked - before).keys() == {pools}, "it looks after a watch knows the present state"
    registry._losses.resynced()
    one.turn_alone(1)
    blocks = len(one.share.blocks())
    assert asked - before - Counter({pools: 2}) == {
        ("GET", "addressblocks"): blocks,
        ("GET", "addressnodes"): 1,
    }
    assert not one.keeper.status.reason
    (lost, *_) = one.share.blocks()
    fake_api.admin.delete(f"{BLOCKS}/{block_name(one.cidr(lost))}").done()
    registry._losses.suspect("the history was cut off")
    registry._losses.resynced()
    one.turn_alone(1)
    one.turn_alone(1)
    assert unsettled(fake_api, pair) == []
    with pytest.raises(NoBlock, match="restored to an older state"):
        claim(one.keeper.node)


def test_no_new_block_while_others_claim_again(
    fake_api: FakeServer, pair: tuple[Agent, Agent], time: Time
) -> None:
    """A block that a node has lost with the API's changes is not given to the first who asks.

    He has seen none of those changes but by the version of a watch's bookmark.
    """
    one, two = pair
    is_over = threading.Event()
    registry = one.registry_of(one.keeper.node)
    _, follow = registry.threads(lambda: None)[0]
    thread = threading.Thread(target=follow, args=(is_over.is_set,))
    thread.start()
    try:
        before = fake_api.snapshot()
        claim(two.node(), 4)
        version = fake_api.store.version
        until = monotonic() + 20
        while not any(int(each.version or 0) >= version for each in registry._losses.followers):
            assert monotonic() < until
            fake_api.bookmark()
            sleep(0.05)
        fake_api.put_back(before)
        with pytest.raises(HistoryLost):
            claim(one.keeper.node)
        one.turn(1)
        with pytest.raises(NoBlock, match="restored to an older state"):
            claim(one.keeper.node)
        time.now += 21
        assert claim(one.keeper.node)
    finally:
        is_over.set()
        thread.join(20)


# Pools ----------------------------------------------------------------------------------------


def change(api: FakeServer, name: str = "default", **spec: Any) -> None:
    """Change a pool, and accept it."""
    found = api.admin.get(f"{POOLS}/{name}").done()
    found["spec"] |= spec
    take(api, api.admin.replace(f"{POOLS}/{name}", found).done())


def test_a_disabled_pool_gives_nothing_and_gets_all_back(
    fake_api: FakeServer, pair: tuple[Agent, Agent]
) -> None:
    """Blocks with pods stay, and are given to nobody; wholly free ones are given back."""
    one, _ = pair
    claim(one.node(), 2)
    used = one.network.get("c1")
    assert used is not None
    change(fake_api, disabled=True)
    for _ in range(3):
        one.turn(10)
    assert len(one.active()) == 1
    assert one.share.begin_release(ids(one)) == []
    change(fake_api, disabled=False)
    one.turn(10)
    assert unsettled(fake_api, pair) == []
    one.network.release("c1")
    change(fake_api, disabled=True)
    for _ in range(3):
        one.turn(10)
    assert one.active() == set()
    assert "a" not in owners(fake_api).values()


def test_an_excluded_address_that_is_in_use(
    fake_api: FakeServer, pair: tuple[Agent, Agent]
) -> None:
    """A pod keeps its block, though its address is excluded since."""
    one, _ = pair
    lease = one.network.get("c1")
    assert lease is not None
    change(fake_api, exclude=[str(lease.address)])
    one.turn(10)
    assert one.share.begin_release(ids(one)) == []


def test_a_pool_that_is_gone(fake_api: FakeServer, pair: tuple[Agent, Agent]) -> None:
    """Its blocks stay as long as pods have addresses of them, then they are given back."""
    one, two = pair
    fake_api.do("DELETE", f"{POOLS}/default")
    for agent in pair:
        agent.turn(10)
        agent.begin()
        agent.turn(601)
        assert "lost" not in agent.states()
        assert len(agent.active()) == 1
    one.network.release("c1")
    for agent in pair:
        for _ in range(2):
            agent.turn(601)
    assert set(owners(fake_api).values()) == {"b"}
    assert two.network.get("c1") is not None
    assert two.keeper.status.reason == ""
    assert one.keeper.status.reason.startswith("no AddressPool is accepted yet")


def test_a_pool_under_another_name(fake_api: FakeServer, pair: tuple[Agent, Agent]) -> None:
    """A pool that was made again with another name: blocks keep the pool that they name."""
    one, _ = pair
    fake_api.do("DELETE", f"{POOLS}/default")
    accept(fake_api, "again")
    one.operator().registry.end("a", Deadline(5), force=True)
    for agent in pair:
        agent.turn(601)
        agent.turn(601)
        assert agent.keeper.status.reason == ""
    assert unsettled(fake_api, pair) == []


def test_a_wider_pool(fake_api: FakeServer, pair: tuple[Agent, Agent]) -> None:
    """A pool that is widened gives the blocks that it got; all others stay as they are."""
    one, two = pair
    use_up(two)
    change(fake_api, cidr="10.32.0.0/19")
    one.turn(1)
    assert claim(one.keeper.node)
    assert len(owners(fake_api)) == 17
    two.turn(1)
    assert unsettled(fake_api, pair) == []


def test_both_families_and_two_pools(fake_api: FakeServer, tmp_path: Path, time: Time) -> None:
    """The second pool of a family gives when the first is used up; IPv6 has its own."""
    accept(fake_api, "first", "10.32.0.0/23")
    accept(fake_api, "second", "10.64.0.0/23")
    accept(fake_api, "six", "fd00:0:0:1::/116", 120)
    one = Agent(tmp_path, fake_api, "a", time)
    one.turn()
    for _ in range(8):
        one.turn(6)
        one.add(120)
    found = owners(fake_api)
    assert sorted(cidr for cidr in found if ":" not in cidr) == [
        "10.32.0.0/24", "10.32.1.0/24", "10.64.0.0/24", "10.64.1.0/24"
    ]  # fmt: skip
    assert any(cidr.startswith("fd00:0:0:1::") for cidr in found)
    assert unsettled(fake_api, [one]) == []
    one.close()


# Requests -------------------------------------------------------------------------------------


def test_a_hand_over_is_waited_for_as_a_whole(
    fake_api: FakeServer, pair: tuple[Agent, Agent]
) -> None:
    """A node that looks after each block was given collects all of them."""
    one, two = pair
    use_up(two)
    one.keeper.need("x")
    needy = one.keeper.node
    needy.write_mark(4, 3, Deadline(5))
    got: list[tuple[int, int]] = []

    def look(name: str) -> None:
        if name in ("answered", "given"):
            one.registry_of(needy).look_for_an_answer()
            got.extend(needy.collect(Deadline(5)))

    (request,) = two.requests()
    assert two.node(look).donate(request, free_ids(two)[-3:], Deadline(5)) == 3
    assert len(got) == 3
    needy.collect(Deadline(5))
    assert fake_api.objects("addressrequests") == {}
    assert unsettled(fake_api, pair) == []


def test_a_request_is_withdrawn_as_it_is_answered(
    fake_api: FakeServer, pair: tuple[Agent, Agent]
) -> None:
    """A node whose need has ended in that instant takes what it was given."""
    one, two = pair
    use_up(two)
    needy = one.keeper.node
    needy.write_mark(4, 1, Deadline(5))

    def withdraw(name: str) -> None:
        if name == "answered":
            needy.registry.unask(Deadline(5))

    (request,) = two.requests()
    assert two.node(withdraw).donate(request, free_ids(two)[-1:], Deadline(5)) == 1
    one.turn(0.1)
    one.turn(2.1)
    assert fake_api.objects("addressrequests") == {}
    assert unsettled(fake_api, pair) == []


def test_a_donor_that_dies_after_its_answer(
    fake_api: FakeServer, pair: tuple[Agent, Agent]
) -> None:
    """A node in need asks anew when what was promised does not come."""
    one, two = pair
    use_up(two)
    while one.add():
        pass
    one.turn(0.1)
    assert list(fake_api.objects("addressrequests")) == ["a"]
    number = fake_api.objects("addressrequests")["a"]["spec"]["number"]

    def die(name: str) -> None:
        if name == "answered":
            raise KeyboardInterrupt

    (request,) = two.requests()
    with pytest.raises(KeyboardInterrupt):
        two.node(die).donate(request, free_ids(two)[-1:], Deadline(5))
    for _ in range(4):
        one.keeper.need("x")
        one.turn(1)
    assert fake_api.objects("addressrequests")["a"]["spec"]["number"] != number
    two.begin()
    two.turn(3)
    one.keeper.need("x")
    one.turn(1)
    two.turn(3)
    one.keeper.need("x")
    one.turn(3)
    assert one.add() == 1


# Faults ---------------------------------------------------------------------------------------


def test_a_late_claim_is_found(fake_api: FakeServer, pair: tuple[Agent, Agent]) -> None:
    """A claim that comes once more after the block was given back is no orphan."""
    one, _ = pair
    fake_api.fault(Fault("twice", "POST", "addressblocks"))
    won = claim(one.node())
    one.node().give_back(won, Deadline(5))
    assert fake_api.deliver() == 1
    one.turn(601)
    assert unsettled(fake_api, pair) == []


@pytest.mark.parametrize("code", [500, 504, 403, 422, 429])
def test_a_server_that_always_refuses_is_asked_seldom(
    fake_api: FakeServer, pair: tuple[Agent, Agent], code: int
) -> None:
    """A store without room answers 500 at once: it is not asked without pause."""
    one, _ = pair
    won = claim(one.node())
    for verb in ("POST", "DELETE", "PUT"):
        fake_api.fault(Fault("answer", verb, code=code, times=0, retry_after_s=1))
    fake_api.reset_counts()
    node = one.node()
    with pytest.raises(FastipamError):
        node.claim(node.settings.geometries[0], 1, Deadline(2))
    with pytest.raises(FastipamError):
        node.give_back(won, Deadline(2))
    assert fake_api.count() < 50
    fake_api.heal()
    one.begin()
    one.turn(1)
    assert unsettled(fake_api, pair) == []


def test_a_day_without_the_api(fake_api: FakeServer, pair: tuple[Agent, Agent]) -> None:
    """Pods get addresses of the node's own blocks, before and after a reboot; then all goes on."""
    one, _ = pair
    fake_api.down()
    for agent in pair[:1]:
        agent.registry_of(agent.keeper.node).call_s = 0.5
        agent.turn_alone(86400)
        assert agent.add() == 1
        agent.store.close()
        agent.boot = "boot-2"
        agent.open()
        agent.read_founding()
        agent.begin()
        agent.registry_of(agent.keeper.node).call_s = 0.5
        agent.turn_alone(1)
        assert agent.add() == 1
        agent.begin()
    fake_api.up()
    for agent in pair:
        agent.turn(3600)
        agent.turn(60)
    assert one.keeper.status.connected
    assert unsettled(fake_api, pair) == []


def test_a_server_that_is_behind(fake_api: FakeServer, tmp_path: Path, time: Time) -> None:
    """A cache that does not know the newest pool makes no node lose a block of it."""
    accept(fake_api, "old", "10.31.0.0/20")
    fake_api.lag(0, 1, hold=True)
    accept(fake_api)
    one = Agent(tmp_path, fake_api, "a", time, urls=fake_api.urls[:1])
    one.turn()
    node = one.node()
    while claim(node):
        pass
    won = node.claim(node.settings.geometries[0], 1, Deadline(5)) or ids(one)
    assert won
    one.close()
    stale = Agent(tmp_path, fake_api, "a", time, rest=one.rest, urls=fake_api.urls[1:])
    stale.turn()
    stale.turn(601)
    assert all(block.state != LOST for block in stale.share.blocks())
    assert unsettled(fake_api, [stale]) == []
    stale.close()


def test_a_claim_that_comes_after_its_pool(
    fake_api: FakeServer, tmp_path: Path, time: Time
) -> None:
    """It was under way for longer than the pool was there: its block is deleted, not used (I9)."""
    accept(fake_api, size=24)
    one, two = (Agent(tmp_path, fake_api, name, time) for name in "ab")
    with contextlib.closing(one), contextlib.closing(two):
        held = fake_api.fault(Fault("hold", "POST", "addressblocks", node="b", times=0))
        two.turn()
        assert {each.state for each in two.share.blocks()} == {CLAIMING}
        held.times = held.hits  # no more
        fake_api.do("DELETE", f"{POOLS}/default")
        accept(fake_api, size=26)
        for _ in range(4):
            one.turn(6)
            one.add(100)
        assert fake_api.deliver()
        assert {cidr.partition("/")[2] for cidr in owners(fake_api)} == {"24", "26"}
        two.turn(600)
        two.turn(6)
        assert {cidr.partition("/")[2] for cidr in owners(fake_api)} == {"26"}
        assert two.add() == 1
        assert_agree(fake_api, [one, two])
        assert unsettled(fake_api, [one, two]) == []
