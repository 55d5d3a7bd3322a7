"""Pools with ``claims: NodeCIDRs``: the controller makes the blocks, nodes claim none."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cluster.controller import node_cidrs
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import NoBlock, in_words
from fastipam.cluster.node import owners as ownership
from fastipam.cluster.node import recovery

from . import bodies
from .agents import Agent, Time, unsettled
from .leaders import Crash, Leader, close_all, condition, events
from .machines import owners
from .rest import BLOCKS, POOLS, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Api
    from .fake import FakeServer

_MACHINES = "/api/v1/nodes"
_BLOCKS = node_cidrs.NODE_BLOCKS


@pytest.fixture
def leader(api: Api) -> Iterator[Leader]:
    """A controller that leads."""
    yield Leader(api)
    close_all()


def machine(api: Api, name: str, *cidrs: str) -> None:
    """Make a Node with these podCIDRs."""
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    if cidrs:
        body["spec"] = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)}
    api.admin.create(_MACHINES, body).done()


def give(api: Api, name: str, cidr: str) -> None:
    """Give a Node its podCIDR, as kube-controller-manager does."""
    spec = {"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}
    api.admin.merge(f"{_MACHINES}/{name}", spec).done()


def make(api: Api, cidr: str = "10.129.0.0/16", size: int = 24, **more: Any) -> None:
    """Make the pool."""
    body = bodies.pool("default", cidr, size, claims="NodeCIDRs", **more)
    api.admin.create(POOLS, body).done()


def change(api: Api, **spec: Any) -> None:
    """Edit the pool."""
    api.admin.merge(f"{POOLS}/default", {"spec": spec}).done()


# The controller ---------------------------------------------------------------------------------


def test_every_node_gets_its_block(api: Api, leader: Leader) -> None:
    """In its name, also when its podCIDR comes later, and once only."""
    machine(api, "a", "10.129.0.0/24")
    machine(api, "b", "10.129.3.0/24", "fd00:10:129:3::/64")
    machine(api, "c")
    make(api)
    leader.settle()
    assert condition(api, "default")[:2] == ("True", "Accepted")
    assert owners(api) == {"10.129.0.0/24": "a", "10.129.3.0/24": "b"}
    status, reason, message = condition(api, "default", _BLOCKS)
    assert (status, reason) == ("False", "NoPodCIDR")
    assert "Node c has no IPv4 podCIDR" in message
    give(api, "c", "10.129.7.0/24")
    leader.settle()
    assert owners(api)["10.129.7.0/24"] == "c"
    assert condition(api, "default", _BLOCKS)[:2] == ("True", "Complete")
    assert [one for one, _ in events(api, "default")] == ["Accepted", "NoPodCIDR", "Complete"]
    assert leader.controller.state().orphans == 0, "their agents have not joined yet"


@pytest.mark.parametrize(
    ("cidrs", "reason", "words"),
    [
        ({"b": ""}, "NoPodCIDR", "Node b has no IPv4 podCIDR"),
        ({"b": "10.99.0.0/24"}, "OutsidePool", "10.99.0.0/24, the podCIDR of Node b, lies outside"),
        (
            {"b": "10.129.4.0/23"},
            "OtherLength",
            "10.129.4.0/23, the podCIDR of Node b, is not a block",
        ),
        (
            {"b": "10.129.5.0/24", "c": "10.129.5.0/24"},
            "SharedPodCIDR",
            "10.129.5.0/24 is the podCIDR of two Nodes, b and c",
        ),
    ],
)
def test_a_node_that_gets_none(
    api: Api, leader: Leader, cidrs: dict[str, str], reason: str, words: str
) -> None:
    """The pool's condition and an event say which Node, and why; the others get theirs."""
    machine(api, "a", "10.129.0.0/24")
    for name, cidr in cidrs.items():
        machine(api, name, *filter(None, [cidr]))
    make(api)
    leader.settle()
    assert owners(api)["10.129.0.0/24"] == "a"
    status, told, message = condition(api, "default", _BLOCKS)
    assert (status, told) == ("False", reason)
    assert words in message
    assert any(one == reason and words in text for one, text in events(api, "default"))


def test_a_node_that_was_made_again(api: Api, leader: Leader) -> None:
    """Its podCIDR is another one: it has the old block, too, until it is drained.

    The Node that got its old podCIDR waits for that.
    """
    machine(api, "a", "10.129.0.0/24")
    make(api)
    leader.settle()
    api.admin.request("DELETE", f"{_MACHINES}/a").done()
    machine(api, "a", "10.129.1.0/24")
    machine(api, "b", "10.129.0.0/24")
    leader.settle()
    assert owners(api) == {"10.129.0.0/24": "a", "10.129.1.0/24": "a"}
    status, reason, message = condition(api, "default", _BLOCKS)
    assert (status, reason) == ("False", "Owned")
    assert "10.129.0.0/24, the podCIDR of Node b, is a block of node a: drain a" in message
    assert "node a owns 10.129.0.0/24, which is not the podCIDR of its Node" in message
    api.admin.delete(f"{BLOCKS}/10-129-0-0-24").done()
    leader.settle()
    assert owners(api) == {"10.129.0.0/24": "b", "10.129.1.0/24": "a"}
    assert condition(api, "default", _BLOCKS)[0] == "True"


def test_claims_by_anybody_wait_for_every_block(api: Api, leader: Leader) -> None:
    """Blocks that are missing are made before; a podCIDR that cannot be one is the reason."""
    machine(api, "a", "10.129.0.0/24")
    make(api)
    leader.settle()
    machine(api, "b", "10.129.4.0/23")
    machine(api, "c", "10.129.9.0/24")
    change(api, claims="Any")
    leader.settle()
    status, reason, message = condition(api, "default")
    assert (status, reason) == ("False", "NodeCIDRs")
    assert "10.129.4.0/23, the podCIDR of Node b, is not a block of /24" in message
    found = api.admin.get(f"{POOLS}/default").done()
    assert found["status"]["accepted"]["spec"]["claims"] == "NodeCIDRs"
    api.admin.request("DELETE", f"{_MACHINES}/b").done()
    api.admin.delete(f"{BLOCKS}/10-129-9-0-24").done()
    steps = leader.turn(1)
    assert steps.index("block") < steps.index("accepted")
    assert owners(api) == {"10.129.0.0/24": "a", "10.129.9.0/24": "c"}
    leader.settle()
    assert condition(api, "default", _BLOCKS) == ("", "", ""), "it says nothing any more"


@pytest.mark.parametrize("at", ["block", "node blocks", "pending", "accepted"])
def test_killed_after_a_step(fake_api: FakeServer, at: str) -> None:
    """The next leader goes on: every Node has its block before nodes may claim others."""
    for number in range(3):
        machine(fake_api, f"n{number}", f"10.129.{number}.0/24")
    make(fake_api)

    def crash(name: str) -> None:
        if name == at:
            raise Crash(name)

    with pytest.raises(Crash):
        Leader(fake_api, crash).settle()
    Leader(fake_api).settle()
    wanted = {f"10.129.{number}.0/24": f"n{number}" for number in range(3)}
    assert owners(fake_api) == wanted
    change(fake_api, claims="Any")
    machine(fake_api, "n3", "10.129.3.0/24")
    if at != "node blocks":  # it is not written on this way
        with pytest.raises(Crash):
            Leader(fake_api, crash).settle()
    last = Leader(fake_api)
    last.settle()
    assert owners(fake_api) == wanted | {"10.129.3.0/24": "n3"}
    assert condition(fake_api, "default")[:2] == ("True", "Accepted")
    close_all()


def test_two_leaders_at_once(fake_api: FakeServer) -> None:
    """Both make the blocks: each is made once, and nobody fails."""
    for number in range(3):
        machine(fake_api, f"n{number}", f"10.129.{number}.0/24")
    make(fake_api)
    first = Leader(fake_api)
    first.turn()
    other = Leader(fake_api)
    other.controller.view.load()
    first.settle()
    other.controller.turn()
    assert len(owners(fake_api)) == 3
    assert [one.controller.state().failures for one in (first, other)] == [0, 0]
    close_all()


# A node -----------------------------------------------------------------------------------------


@pytest.fixture
def agents(api: Api, leader: Leader, tmp_path: Path) -> Iterator[tuple[Agent, Agent]]:
    """Two agents, one with a podCIDR; the pool is in force."""
    make(api)
    made = Agent(tmp_path, api, "a", Time()), Agent(tmp_path, api, "b", Time())
    give(api, "a", "10.129.0.0/24")
    leader.settle()
    yield made
    for one in made:
        one.close()


def test_a_node_uses_its_pod_cidr_only(
    api: Api, leader: Leader, agents: tuple[Agent, Agent]
) -> None:
    """It claims nothing, asks nobody, gives nothing; the errors say what the matter is."""
    one, two = agents
    for agent in agents:
        agent.turn()
        agent.turn(6)
    assert one.active() == {"10.129.0.0/24"}
    assert two.active() == set()
    assert two.add() == 0
    two.turn(1)
    assert "node b uses its IPv4 podCIDR only" in two.keeper.need("c")
    assert "kubectl describe addresspools" in two.keeper.need("c")
    assert one.add(260) == 254
    one.turn(1)
    assert "no address of it is free" in one.keeper.need("c")
    one.turn(60)
    assert owners(api) == {"10.129.0.0/24": "a"}
    assert api.admin.get(REQUESTS).done()["items"] == []
    give(api, "b", "10.129.1.0/24")
    leader.settle()
    two.turn(6)
    assert two.active() == {"10.129.1.0/24"}
    assert two.add() == 1
    change(api, claims="Any")
    leader.settle()
    one.turn(1)
    one.turn(1)
    assert len(one.active()) > 1
    assert unsettled(api, agents) == []


def test_the_block_of_an_earlier_node_object(
    api: Api, leader: Leader, agents: tuple[Agent, Agent]
) -> None:
    """It is given back when it is empty; the present podCIDR stays, empty or not."""
    one, _ = agents
    one.turn()
    one.turn(6)
    assert one.add() == 1
    api.admin.request("DELETE", f"{_MACHINES}/a").done()
    machine(api, "a", "10.129.9.0/24")
    leader.settle()
    one.turn(601)
    one.turn(60)
    assert one.active() == {"10.129.0.0/24", "10.129.9.0/24"}, "an address of it is in use"
    one.network.release("c1")
    one.turn(60)
    assert one.active() == {"10.129.9.0/24"}
    leader.settle()
    assert owners(api) == {"10.129.9.0/24": "a"}


def test_an_address_of_the_node_itself(
    agents: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """host-local's gateway, which is on the bridge, is given to no pod."""
    addresses = [(4, int(IPv4Address(one))) for one in ("10.129.0.9", "10.129.0.1", "192.0.2.1")]
    monkeypatch.setattr(recovery, "own_addresses", lambda: addresses)
    one, _ = agents
    one.turn()
    one.turn(6)
    assert one.add(260) == 253, "without the pool's gateway, which is 10.129.0.1, and 10.129.0.9"
    kept = one.network.lookup("10.129.0.9")
    assert kept is not None
    assert kept.container_id == "found-on-the-node"


def test_the_command_claims_nothing(agents: tuple[Agent, Agent]) -> None:
    """A person who wants another block is told why there is none."""
    one, _ = agents
    one.turn()
    one.turn(6)
    node = one.keeper.node
    assert not node.claim_family(4, 1, Deadline(5))
    told = ownership.without_a_free_block(node, 4, Deadline(5))
    assert isinstance(told, NoBlock)
    assert "claims: Any" in in_words(told)
