"""A node's protocol on the Kubernetes API: on the fake, and on a real server where one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cluster.admin import admin
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import ClusterRefused
from fastipam.cluster.keeper import usage
from fastipam.errors import PoolExhausted

from .machines import Machine, accept, assert_settled, claim, owners
from .rest import LEASES, NODES

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Api


@pytest.fixture
def pair(api: Api, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Two machines in a cluster with one pool of sixteen blocks."""
    accept(api)
    machines = Machine(tmp_path, api, "a"), Machine(tmp_path, api, "b")
    yield machines
    for one in machines:
        one.close()


def test_a_new_node_needs_four_requests(api: Api, pair: tuple[Machine, Machine]) -> None:
    """Two of them are writes: its entry and its first block."""
    one, _ = pair
    node = one.joined()
    assert len(claim(node)) == 1
    assert sum(one.clients[0].requests.values()) == 4
    assert one.clients[0].requests["POST", "addressblocks"] == 1
    assert_settled(api, *pair)
    assert one.network.allocate("c1").value >> 8 == node.share.blocks()[0].base >> 8


def test_a_run_and_its_end(api: Api, pair: tuple[Machine, Machine]) -> None:
    """Blocks side by side, until the pool is used up."""
    one, two = pair
    node, other = one.joined(), two.joined()
    assert len(claim(node, 4)) == 4
    while claim(other):
        pass
    assert len(owners(api)) == 16
    assert claim(node) == []
    assert_settled(api, *pair)


def test_a_request_is_answered_once(api: Api, pair: tuple[Machine, Machine]) -> None:
    """A donor hands blocks over; a second answer to the same request moves nothing."""
    one, two = pair
    needy, donor = one.joined(), two.joined()
    while claim(donor):
        pass
    assert claim(needy) == []
    needy.write_mark(4, 2, Deadline(5))
    (request,) = two.requests()
    ids = [(each.family, each.base) for each in two.share.blocks()]
    assert donor.donate(request, ids[-2:], Deadline(5)) == 2
    assert donor.donate(request, ids[:1], Deadline(5)) == 0
    one.registry_of(needy).look_for_an_answer()
    assert needy.collect(Deadline(5)) == ids[-2:]
    assert_settled(api, *pair)
    assert two.requests() == []


def test_a_removed_node_claims_nothing(api: Api, pair: tuple[Machine, Machine]) -> None:
    """Its blocks are free; it learns it at its next claim, and comes back with another epoch."""
    one, two = pair
    node, _ = two.joined(), one.joined()
    claim(node, 2)
    found = admin.release_node(one.operator(), "b", Deadline(10), force=True)
    assert (found.blocks, found.epoch) == (2, 2)
    with pytest.raises(ClusterRefused, match="was removed meanwhile"):
        claim(node)
    node.join(Deadline(5), agent=True)
    assert two.active() == set()
    assert len(claim(node)) == 1
    assert_settled(api, *pair)


def test_a_node_that_comes_back_while_its_blocks_are_taken(
    api: Api, pair: tuple[Machine, Machine]
) -> None:
    """What it has stamped with its new epoch is its own; the removal goes on without it."""
    one, two = pair
    node, _ = two.joined(), one.joined()
    claim(node, 2)
    operator = one.operator().registry
    assert operator.end("b", Deadline(10), force=True) == 2
    two.network.allocate("c1")
    node.join(Deadline(5), agent=True)
    assert operator.take_back("b", Deadline(10)) == 0
    assert two.active() == {cidr for cidr, name in owners(api).items() if name == "b"}
    assert_settled(api, *pair)


def test_a_node_that_is_ended_while_it_takes_over_blocks(
    api: Api, pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    """The own entry is read after the last stamp: a removed node takes nothing into use (I6)."""
    one, two = pair
    claim(two.joined())
    one.joined()

    def end(step: str) -> None:
        if step == "stamped":
            assert one.operator().registry.end("b", Deadline(10), force=True) is not None

    other = Machine(tmp_path / "new", api, "b", rest=two.rest)  # the node has lost its store
    try:
        with pytest.raises(ClusterRefused, match="was removed meanwhile"):
            other.node(end).join(Deadline(5), agent=True)
        assert other.active() == set()
        assert other.states() == {}
    finally:
        other.close()


def test_a_report_shows_a_removal(api: Api, pair: tuple[Machine, Machine]) -> None:
    """Who writes into the status of his own tombstone assigns nothing from then on."""
    one, two = pair
    node, _ = two.joined(), one.joined()
    claim(node)
    two.network.allocate("c1")
    assert one.operator().registry.end("b", Deadline(10), force=True) == 2
    registry = two.registry_of(node)
    registry._report.due_at = 0.0
    registry.report(usage.survey(two.share)[0], Deadline(5))
    with pytest.raises(PoolExhausted, match="not registered"):
        two.network.allocate("c2")
    assert api.admin.get(f"{NODES}/b").done()["status"]["state"] == "Removed"
    back = two.joined()
    claim(back)
    registry = two.registry_of(back)
    assert registry._report.due_at - registry.api.clock() <= 10  # and not in a minute or two
    registry._report.due_at = 0.0
    registry.report(usage.survey(two.share)[0], Deadline(5))
    assert api.admin.get(f"{NODES}/b").done()["status"]["state"] == "Active"


def test_a_report_has_the_routes(api: Api, pair: tuple[Machine, Machine]) -> None:
    """The condition Routes is told when it changes, with the moment of the change, and ends."""
    one, _ = pair
    node = one.joined()
    claim(node)
    registry = one.registry_of(node)

    def report(routes: tuple[bool, str, str] | None) -> list[dict[str, Any]]:
        registry._report.due_at = 0.0
        registry.report(usage.survey(one.share)[0], Deadline(5), routes)
        status = api.admin.get(f"{NODES}/a").done()["status"]
        assert status["blocks"] == 1
        found: list[dict[str, Any]] = status.get("conditions") or []
        return found

    (first,) = report((False, "NodeOffLink", "node b is not on a link" + "x" * 2000))
    assert (first["type"], first["status"], first["reason"]) == ("Routes", "False", "NodeOffLink")
    assert first["message"].startswith("node b is not on a link")
    (second,) = report((False, "NodeOffLink", "node c too"))
    assert second["lastTransitionTime"] == first["lastTransitionTime"]
    (third,) = report((True, "Set", ""))
    assert (third["status"], third["reason"]) == ("True", "Set")
    assert report(None) == []


@pytest.fixture
def fenced(api: Api, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A machine with fencing, and another node's operator."""
    accept(api)
    machines = Machine(tmp_path, api, "a", fencing=True), Machine(tmp_path, api, "b")
    yield machines
    for one in machines:
        one.close()


def test_the_entry_names_the_lease(api: Api, fenced: tuple[Machine, Machine]) -> None:
    """A tombstone that was prepared before the Lease was made anew is refused."""
    one, two = fenced
    node = one.joined()
    node.registry.hold(Deadline(5))
    assert node.registry.keep(Deadline(5))
    entry = api.admin.get(f"{NODES}/a").done()
    lease = api.admin.get(f"{LEASES}/a").done()
    assert entry["spec"]["lease"] == lease["metadata"]["uid"]
    operator = two.operator().registry
    with pytest.raises(ClusterRefused, match="it has a Lease"):
        operator.end("a", Deadline(5), force=False)
    api.admin.delete(f"{LEASES}/a").done()
    assert not node.registry.keep(Deadline(5))
    again = one.joined()
    again.registry.hold(Deadline(5))
    assert again.registry.keep(Deadline(5))
    removed = entry | {"spec": entry["spec"] | {"incarnation": "", "epoch": 2}}
    api.admin.replace(f"{NODES}/a", removed).refused(409)
    assert api.admin.get(f"{NODES}/a").done()["spec"]["lease"] != lease["metadata"]["uid"]


def test_two_processes_with_one_name(fenced: tuple[Machine, Machine], tmp_path: Path) -> None:
    """The Lease is the one incarnation's; another machine of this name is refused."""
    one, _ = fenced
    one.joined().registry.hold(Deadline(5))
    other = Machine(tmp_path / "other", one.api, "a", fencing=True, rest=one.rest)
    try:
        other.node().join(Deadline(5), agent=True)  # in this boot it is the same machine
        with pytest.raises(ClusterRefused, match="another node named a"):
            other.node().registry.hold(Deadline(5))
    finally:
        other.close()
