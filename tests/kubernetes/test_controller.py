"""The controller: pools, their end and their counts. On the fake, and on a real server."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cluster.engine import EngineError
from fastipam.cluster.registries.kubernetes.objects import read_pool

from . import bodies
from .fake import FakeServer, Fault
from .leaders import Crash, Leader, Paused, close_all, condition, events, in_force, stored
from .machines import Machine, claim
from .rest import BLOCKS, NODES, POOLS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Api


@pytest.fixture
def leader(api: Api) -> Iterator[Leader]:
    """A controller that leads."""
    yield Leader(api)
    close_all()


@pytest.fixture
def fake_leader(fake_api: FakeServer) -> Iterator[Leader]:
    """The same on the fake, which can be made to fail."""
    yield Leader(fake_api)
    close_all()


def make(api: Api, name: str, cidr: str = "10.32.0.0/20", size: int = 24, **more: Any) -> Any:
    """Make a pool."""
    return api.admin.create(POOLS, bodies.pool(name, cidr, size, **more)).done()


def change(api: Api, name: str, **spec: Any) -> Any:
    """Edit a pool."""
    return api.admin.merge(f"{POOLS}/{name}", {"spec": spec}).done()


def pool_of(api: Api, name: str) -> Any:
    """A pool as it is now."""
    return api.admin.get(f"{POOLS}/{name}").done()


# Acceptance -------------------------------------------------------------------------------------


def test_a_pool_is_accepted(api: Api, leader: Leader) -> None:
    """With what it says, its counts, the finalizer and an event; then nothing more is written."""
    made = make(api, "a", gateway="10.32.0.1", exclude=["10.32.1.0/24"])
    assert leader.turn() == ["finalizer", "pending", "listed", "accepted"]
    found = pool_of(api, "a")
    assert found["status"]["accepted"] == {"generation": stored(made), "spec": made["spec"]}
    assert found["status"]["blocks"] == {"total": 15, "owned": 0}
    assert found["metadata"]["finalizers"] == ["fastipam.io/blocks"]
    assert condition(api, "a")[:2] == ("True", "Accepted")
    assert condition(api, "a", "Exhausted")[0] == "False"
    assert events(api, "a") == [("Accepted", "10.32.0.0/20 is in force")]
    in_use = read_pool(found)
    assert in_use is not None
    assert in_use.cidr == "10.32.0.0/20"
    assert leader.turn(3600) == []


def test_overlapping_pools(api: Api, leader: Leader) -> None:
    """The later one is refused, says why, and is accepted when the other one has gone."""
    make(api, "first", "10.32.0.0/20")
    leader.turn()
    make(api, "second", "10.32.8.0/21")
    leader.turn()
    assert in_force(api) == {"first": "10.32.0.0/20"}
    status, reason, message = condition(api, "second")
    assert (status, reason) == ("False", "Overlaps")
    assert "10.32.8.0/21 overlaps 10.32.0.0/20 of the pool first" in message
    assert "delete first" in message
    assert events(api, "second") == [("Overlaps", message)]
    assert leader.turn(60) == []
    api.admin.delete(f"{POOLS}/first").done()
    leader.settle(10)
    assert in_force(api) == {"second": "10.32.8.0/21"}
    assert condition(api, "second")[0] == "True"


def test_the_older_of_two_pending_pools(api: Api, leader: Leader) -> None:
    """Both are new: the one that was made first (or has the lesser uid) wins."""
    both = [make(api, name, "10.32.0.0/20") for name in ("b", "a")]
    both.sort(key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["uid"]))
    leader.turn()
    winner, loser = (one["metadata"]["name"] for one in both)
    assert in_force(api) == {winner: "10.32.0.0/20"}
    assert condition(api, loser)[1] == "Overlaps"
    assert winner in condition(api, loser)[2]


def test_two_families(api: Api, leader: Leader) -> None:
    """Pools of two families never share an address."""
    make(api, "v4")
    make(api, "v6", "fd00:10::/112", 120)
    leader.turn()
    assert in_force(api) == {"v4": "10.32.0.0/20", "v6": "fd00:10::/112"}


def test_two_block_sizes_in_a_family(api: Api, leader: Leader) -> None:
    """Each pool is cut into blocks of its own size."""
    make(api, "b")
    leader.turn()
    make(api, "a", "10.64.0.0/20", 26)
    leader.turn()
    assert in_force(api) == {"a": "10.64.0.0/20", "b": "10.32.0.0/20"}


def test_a_wider_pool(api: Api, leader: Leader) -> None:
    """A pool may be widened; where that overlaps, the accepted one stays in force."""
    make(api, "a", "10.32.0.0/20")
    make(api, "b", "10.48.0.0/20")
    leader.turn()
    change(api, "a", cidr="10.32.0.0/19")
    leader.turn()
    assert in_force(api)["a"] == "10.32.0.0/19"
    change(api, "a", cidr="10.32.0.0/11")
    leader.turn()
    assert in_force(api) == {"a": "10.32.0.0/19", "b": "10.48.0.0/20"}
    assert condition(api, "a")[:2] == ("False", "Overlaps")


def test_what_was_not_accepted_may_be_taken_back(api: Api, leader: Leader) -> None:
    """A pool in force can only be widened; an edit that was refused can be put right."""
    make(api, "a", "10.32.0.0/20")
    change(api, "a", cidr="10.40.0.0/20")
    change(api, "a", cidr="10.32.0.0/19")
    make(api, "b", "10.48.0.0/20")
    leader.turn()
    for cidr in ("10.32.0.0/20", "10.64.0.0/19"):
        answer = api.admin.merge(f"{POOLS}/a", {"spec": {"cidr": cidr}})
        answer.refused(422, "cidr can only be widened: type one that contains 10.32.0.0/19")
    change(api, "a", cidr="10.32.0.0/11")
    leader.turn()
    assert condition(api, "a")[:2] == ("False", "Overlaps")
    change(api, "a", cidr="10.32.0.0/19")
    leader.turn()
    assert condition(api, "a")[0] == "True"
    change(api, "a", cidr="10.32.0.0/18")
    leader.turn()
    assert in_force(api) == {"a": "10.32.0.0/18", "b": "10.48.0.0/20"}


def test_an_invalid_edit(api: Api, leader: Leader) -> None:
    """It changes nothing, says which field is wrong, and a right one is accepted again."""
    make(api, "a")
    leader.turn()
    before = pool_of(api, "a")["status"]["accepted"]
    change(api, "a", exclude=["10.32.0.9-10.32.0.1"])
    leader.turn()
    assert pool_of(api, "a")["status"]["accepted"] == before
    status, reason, message = condition(api, "a")
    assert (status, reason) == ("False", "Invalid")
    assert "exclude[0]" in message
    change(api, "a", exclude=["10.32.0.1-10.32.0.9"], disabled=True)
    leader.turn()
    assert condition(api, "a")[0] == "True"
    found = read_pool(pool_of(api, "a"))
    assert found is not None
    assert found.disabled


def test_blocks_of_one_address(api: Api, leader: Leader) -> None:
    """A pool whose addresses follow pods is in force beside one of larger blocks."""
    make(api, "a", "10.32.0.0/24", 32)
    make(api, "b", "10.33.0.0/20", 24)
    leader.turn()
    assert in_force(api) == {"a": "10.32.0.0/24", "b": "10.33.0.0/20"}


@pytest.mark.parametrize("spec", [{"maxBlocksPerNode": 2}], ids="".join)
def test_what_no_node_looks_at(fake_api: FakeServer, fake_leader: Leader, spec: Any) -> None:
    """A limit that nobody would keep is refused; taken out again, the pool is accepted."""
    make(fake_api, "a", **spec)
    fake_leader.turn()
    (field,) = spec
    assert condition(fake_api, "a")[:2] == ("False", "Unsupported")
    assert field in condition(fake_api, "a")[2]
    assert in_force(fake_api) == {}
    change(fake_api, "a", **{field: None})
    fake_leader.turn()
    assert in_force(fake_api) == {"a": "10.32.0.0/20"}


def test_blocks_of_a_pool_that_was_removed_by_force(api: Api, leader: Leader) -> None:
    """Somebody has taken the finalizer away: other pools wait until the last block is gone."""
    machine = api.node("n")
    machine.create(NODES, bodies.node("n")).done()
    block = machine.create(BLOCKS, bodies.block("10.32.3.0/24", "n", pool="gone")).done()
    make(api, "a")
    leader.turn()
    status, reason, message = condition(api, "a")
    assert (status, reason) == ("False", "Overlaps")
    assert "node n owns it as a part of the pool gone" in message
    machine.delete(f"{BLOCKS}/{block['metadata']['name']}").done()
    leader.turn()
    assert in_force(api) == {"a": "10.32.0.0/20"}


_STEPS = 6  # of a turn that accepts one pool and refuses another one


@pytest.mark.parametrize("first", range(_STEPS))
def test_two_leaders_at_once(fake_api: FakeServer, first: int) -> None:
    """However their steps alternate, two pools that overlap are never both in force."""
    for second in range(_STEPS + 1):
        make(fake_api, "old", "10.32.0.0/20")
        one = Paused(fake_api)
        one.go(first)
        make(fake_api, "new", "10.32.8.0/21")
        other = Paused(fake_api)
        other.go(second)
        one.finish()
        assert len(in_force(fake_api)) <= 1, (first, second)
        other.finish()
        assert len(in_force(fake_api)) <= 1, (first, second)
        one.leader.settle()
        assert len(in_force(fake_api)) == 1, (first, second)
        close_all()
        fake_api.clear()


@pytest.mark.parametrize("first", range(_STEPS))
def test_two_leaders_and_a_pool_that_is_widened(fake_api: FakeServer, first: int) -> None:
    """It wants what a new pool wants, too: one of them gets it."""
    for second in range(_STEPS + 1):
        make(fake_api, "old", "10.32.0.0/20")
        begun = Leader(fake_api)
        begun.turn()
        make(fake_api, "new", "10.32.16.0/20")
        one = Paused(fake_api)
        one.go(first)
        change(fake_api, "old", cidr="10.32.0.0/19")
        other = Paused(fake_api)
        other.go(second)
        one.finish()
        other.finish()
        begun.settle()
        found = in_force(fake_api)
        assert found in (
            {"old": "10.32.0.0/20", "new": "10.32.16.0/20"},
            {"old": "10.32.0.0/19"},
        ), (first, second)
        close_all()
        fake_api.clear()


# Deletion ---------------------------------------------------------------------------------------


def test_a_deleted_pool_is_held(api: Api, leader: Leader) -> None:
    """Until no node owns a block of it; meanwhile it is disabled."""
    make(api, "a")
    leader.turn()
    agent = api.node("n")
    agent.create(NODES, bodies.node("n")).done()
    block = agent.create(BLOCKS, bodies.block("10.32.3.0/24", "n", pool="a")).done()
    api.admin.delete(f"{POOLS}/a").done()
    leader.turn(1)
    leader.turn(3600)
    held = read_pool(pool_of(api, "a"))
    assert held is not None
    assert held.disabled
    agent.delete(f"{BLOCKS}/{block['metadata']['name']}").done()
    leader.settle(1)
    assert api.admin.get(f"{POOLS}/a").status == 404


def test_a_claim_that_the_watch_has_not_told(api: Api, leader: Leader) -> None:
    """The list decides, not what the controller remembers."""
    make(api, "a")
    leader.turn()
    agent = api.node("n")
    agent.create(NODES, bodies.node("n")).done()
    api.admin.delete(f"{POOLS}/a").done()
    leader.turn(1)
    leader.move(60)
    agent.create(BLOCKS, bodies.block("10.32.3.0/24", "n", pool="a")).done()
    leader.controller.turn()
    assert api.admin.get(f"{POOLS}/a").status == 200


def test_a_pool_that_was_never_accepted_goes_at_once(api: Api, leader: Leader) -> None:
    """No node can have a block of it."""
    make(api, "a", exclude=["10.32.0.9-10.32.0.1"])
    leader.turn()
    api.admin.delete(f"{POOLS}/a").done()
    leader.turn()
    assert api.admin.get(f"{POOLS}/a").status == 404


@pytest.mark.parametrize(
    ("exclusion", "told"),
    [
        ("10.32.0.5/24", "has host bits: type 10.32.0.0/24 for all of it, or 10.32.0.5 for one"),
        ("10.48.0.0/24", "10.48.0.0/24 lies outside of 10.32.0.0/20"),
        ("fd00::1", "fd00::1 lies outside of 10.32.0.0/20"),
    ],
)
def test_an_exclusion_that_was_not_meant(
    fake_api: FakeServer, fake_leader: Leader, exclusion: str, told: str
) -> None:
    """One with host bits, or outside of the pool, is refused by its place in the list."""
    make(fake_api, "a", exclude=["10.32.0.1", exclusion])
    fake_leader.turn()
    status, reason, message = condition(fake_api, "a")
    assert (status, reason) == ("False", "Invalid")
    assert "spec.exclude[1]" in message
    assert told in message


# Counts -----------------------------------------------------------------------------------------


def test_counts(api: Api, leader: Leader, tmp_path: Path) -> None:
    """What is owned and used, at most once a minute; Exhausted when no block is free."""
    make(api, "a", "10.32.0.0/23")
    leader.turn()
    machine = Machine(tmp_path, api, "n")
    node = machine.joined()
    assert len(claim(node, 1)) == 1
    leader.turn(61)
    assert pool_of(api, "a")["status"]["blocks"] == {"total": 2, "owned": 1}
    assert len(claim(node, 1)) == 1
    assert leader.turn(59) == []
    path = f"{NODES}/n/status"
    told = {"name": "a", "blocks": 2, "used": 128, "free": 384}
    machine.rest.merge(path, {"status": {"pools": [told]}}).done()
    assert leader.turn(2) == ["status"]
    assert pool_of(api, "a")["status"]["blocks"] == {"total": 2, "owned": 2}
    assert pool_of(api, "a")["status"]["used"] == "25%"
    status, reason, message = condition(api, "a", "Exhausted")
    assert (status, reason) == ("True", "NoFreeBlock")
    assert "nodes own all blocks of the pool (2)" in message
    assert events(api, "a")[-1] == ("Exhausted", message)
    assert condition(api, "a")[0] == "True"
    machine.close()


# What goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["finalizer", "pending", "listed", "refused", "accepted", "let go"])
def test_killed_after_a_step(fake_api: FakeServer, at: str) -> None:
    """The next leader goes on: one pool in force, the other one refused, the deleted one gone."""
    make(fake_api, "gone", "10.64.0.0/20")
    first = Leader(fake_api)
    first.turn()
    fake_api.admin.delete(f"{POOLS}/gone").done()
    for name in ("a", "b"):
        make(fake_api, name)

    def crash(name: str) -> None:
        if name == at:
            raise Crash(name)

    killed = Leader(fake_api, crash)
    with pytest.raises(Crash):
        killed.settle(10)
    last = Leader(fake_api)
    last.settle(10)
    found = in_force(fake_api)
    assert len(found) == 1
    assert {condition(fake_api, name)[0] for name in "ab"} == {"True", "False"}
    assert fake_api.admin.get(f"{POOLS}/gone").status == 404
    close_all()


_FAULTS: dict[str, dict[str, Any]] = {
    "429": {"do": "answer", "code": 429, "retry_after_s": 1},
    "500 after it was done": {"do": "answer_after", "code": 500},
    "503": {"do": "answer", "code": 503},
    "the request is lost": {"do": "lose_request"},
    "the answer is lost": {"do": "lose_answer"},
    "half an answer": {"do": "half_answer"},
    "twice": {"do": "twice"},
}


@pytest.mark.parametrize("fault", _FAULTS)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_faults_of_the_api(fake_api: FakeServer, fake_leader: Leader, fault: str, nth: int) -> None:
    """Whatever becomes of a write or a list, the next turns put it right."""
    make(fake_api, "old")
    make(fake_api, "new")
    one = _FAULTS[fault]
    fake_api.fault(Fault(resource="addresspools/status", method="PUT", nth=nth, **one))
    fake_api.fault(Fault(resource="addresspools", nth=nth, **one))
    for _ in range(6):
        with contextlib.suppress(EngineError):
            fake_leader.turn(70)
        assert len(in_force(fake_api)) <= 1
        fake_api.deliver()
    fake_api.heal()
    fake_leader.settle(70)
    assert len(in_force(fake_api)) == 1


def test_a_list_whose_pages_expire(fake_api: FakeServer, fake_leader: Leader) -> None:
    """410 in the middle of a decision: the pool stays pending until the next turn."""
    make(fake_api, "a")
    fake_leader.controller.view.load()
    fake_api.fault(Fault("expired", method="LIST", resource="addresspools", nth=2))
    fake_leader.controller.turn()
    assert condition(fake_api, "a")[:2] == ("Unknown", "Pending")
    fake_leader.turn()
    assert condition(fake_api, "a")[0] == "True"


def test_one_pool_that_fails_stops_no_other(fake_api: FakeServer, fake_leader: Leader) -> None:
    """Nor does it end the turn: the second pool is accepted while the first one's writes fail."""
    make(fake_api, "bad", "10.32.0.0/20")
    make(fake_api, "good", "10.64.0.0/20")
    fake_api.fault(
        Fault("answer", resource="addresspools/status", method="PUT", name="bad", times=0)
    )
    for _ in range(3):
        fake_leader.turn(70)
    assert in_force(fake_api) == {"good": "10.64.0.0/20"}
    fake_api.heal()
    fake_leader.turn(70)
    assert set(in_force(fake_api)) == {"good", "bad"}


def test_a_pool_without_a_spec_that_can_be_read(fake_api: FakeServer, fake_leader: Leader) -> None:
    """A defect in one object stops no other: the loop logs it, and goes on."""
    fake_leader.turn()
    make(fake_api, "bad", "10.32.0.0/20")
    make(fake_api, "good", "10.64.0.0/20")
    fake_leader.controller.view.load()
    fake_leader.controller.view.pools()["bad"]["metadata"]["finalizers"] = 7
    fake_leader.controller.turn()
    assert in_force(fake_api) == {"good": "10.64.0.0/20"}
