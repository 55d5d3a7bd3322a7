"""Pools that change while pods run: each row of the table in docs/cluster.md, and what may disturb.

A controller and three nodes on one API, the fake and a real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastipam.addressing.addresses import parse_ip
from fastipam.cluster.deadline import Deadline
from fastipam.storage.records.block import LOST

from . import bodies
from .agents import Agent, Time, assert_agree, owners, unsettled
from .leaders import Leader, close_all, condition, in_force
from .rest import POOLS
from .server import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Api

FIRST, SECOND = "10.32.0.0/22", "10.64.0.0/22"


class Scene:
    """A controller and three nodes; ``apply`` is `kubectl apply` and what follows from it."""

    def __init__(self, api: Api, path: Path) -> None:
        self.api = api
        self.leader = Leader(api)
        self.time = Time()
        self.agents = [Agent(path, api, name, self.time, minimumAge=0) for name in "abc"]

    def close(self) -> None:
        """End all of it."""
        for one in self.agents:
            one.close()
        close_all()

    def make(self, name: str = "default", cidr: str = FIRST, size: int = 24, **more: Any) -> None:
        """Make a pool."""
        self.api.admin.create(POOLS, bodies.pool(name, cidr, size, **more)).done()
        self.follow()

    def edit(self, name: str = "default", **spec: Any) -> None:
        """Change a pool."""
        self.api.admin.merge(f"{POOLS}/{name}", {"spec": spec}).done()
        self.follow()

    def delete(self, name: str = "default") -> None:
        """Ask for a pool's end."""
        self.api.admin.delete(f"{POOLS}/{name}").done()
        self.follow()

    def pool(self, name: str = "default") -> Any:
        """A pool's object, None when it is gone."""
        found = self.api.admin.get(f"{POOLS}/{name}")
        return None if found.status == 404 else found.done()

    def follow(self, seconds: float = 1.0) -> None:
        """Let the controller do what is due, and the nodes hear of it."""
        self.leader.settle(seconds)
        now = self._listed()
        until(lambda: self._listed(resourceVersion="0") == now, "the server's cache has the pools")
        self.turn(seconds)

    def _listed(self, **query: str) -> dict[str, str]:
        items = self.api.admin.get(POOLS, **query).done()["items"]
        return {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in items}

    def turn(self, seconds: float = 6.0, times: int = 1) -> None:
        """Let every node do what is due."""
        self.time.now += seconds
        for _ in range(times):
            for one in self.agents:
                one.turn()

    def idle(self) -> None:
        """Let enough time go by for everything that is due."""
        for _ in range(4):
            self.turn(6)
            self.leader.settle(6)

    def running(self) -> dict[str, str]:
        """Who has which address; no address is two pods'."""
        found: dict[str, str] = {}
        for one in self.agents:
            for lease in one.network.leases() if one.share.settings.pools else ():
                address = str(lease.address.ip)
                assert address not in found, (address, one.name, found[address])
                found[address] = f"{one.name}/{lease.container_id}"
        return found

    def add(self, count: int = 1) -> int:
        """So many ADDs on each node; how many were served."""
        return sum(one.add(count) for one in self.agents)

    def assert_whole(self) -> None:
        """Who assigns from a block owns it, and nothing is begun and not finished."""
        assert_agree(self.api, self.agents)
        assert unsettled(self.api, self.agents) == []


@pytest.fixture
def scene(api: Api, tmp_path: Path) -> Iterator[Scene]:
    """A cluster without pools."""
    made = Scene(api, tmp_path)
    yield made
    made.close()


@pytest.fixture
def pods(scene: Scene) -> Scene:
    """A pool, with two pods on each node."""
    scene.make()
    assert scene.add(2) == 6
    return scene


def within(cidrs: dict[str, str], prefix: str) -> set[str]:
    """Those that begin so."""
    return {one for one in cidrs if one.startswith(prefix)}


# The rows of the table --------------------------------------------------------------------------


def test_a_new_pool(scene: Scene) -> None:
    """Before its acceptance no node assigns from it."""
    scene.api.admin.create(POOLS, bodies.pool("default", FIRST, 24)).done()
    scene.turn()
    assert owners(scene.api) == {}
    scene.follow()
    assert scene.add() == 3
    scene.assert_whole()


def test_widened(pods: Scene) -> None:
    """The nodes get more blocks; leases, their prefix lengths and the owned blocks stay."""
    before, owned = pods.running(), owners(pods.api)
    pods.edit(cidr="10.32.0.0/16")
    assert pods.running() == before
    assert owners(pods.api).items() >= owned.items()
    one = pods.agents[0]
    for _ in range(4):
        one.add(300)
        pods.turn()
    assert [cidr for cidr in owners(pods.api) if int(cidr.split(".")[2]) > 3]
    assert pods.running().items() >= before.items()
    pods.assert_whole()


def test_excluded_while_pods_run(pods: Scene) -> None:
    """Never assigned; the pods keep theirs; a block goes back when it is empty; and back again."""
    one, two, _ = pods.agents
    before, owned = pods.running(), owners(pods.api)
    (mine,) = [cidr for cidr, node in owned.items() if node == "a"]
    (other,) = [cidr for cidr, node in owned.items() if node == "b"]
    part = f"{other[: -len('0/24')]}64/26"
    pods.edit(exclude=[mine, part])
    assert pods.running() == before
    assert pods.add(80) > 0
    pods.turn(times=2)
    pods.add(80)
    new = {cidr for cidr in pods.running() if cidr not in before}
    assert not within(dict.fromkeys(new, ""), mine[: -len("0/24")])
    hidden = range(64, 128)
    assert not [
        cidr
        for cidr in within(dict.fromkeys(new, ""), other[: -len("0/24")])
        if int(cidr.rpartition(".")[2]) in hidden
    ]
    assert owners(pods.api)[mine] == "a"  # its pods run
    for number in (1, 2):
        one.network.release(f"c{number}")
    pods.turn()
    assert mine not in owners(pods.api)
    pods.edit(exclude=[])
    while two.add(64):
        two.turn(1)
    assert within(pods.running(), mine[: -len("0/24")])
    pods.assert_whole()


def test_disabled_while_pods_run(pods: Scene) -> None:
    """No node assigns from it, from owned blocks neither; blocks go back as they empty."""
    before, owned = pods.running(), owners(pods.api)
    pods.edit(disabled=True)
    assert pods.add(3) == 0
    pods.idle()
    assert pods.running() == before
    assert owners(pods.api) == owned
    pods.agents[0].network.release("c1")
    pods.idle()
    assert owners(pods.api) == owned  # a pod is left in it
    pods.agents[0].network.release("c2")
    pods.idle()
    assert set(owners(pods.api).values()) == {"b", "c"}
    pods.edit(disabled=False)
    assert pods.add(1) == 3
    pods.assert_whole()


def test_deleted_while_pods_run(pods: Scene) -> None:
    """As disabled; the object goes with its last block, and a new pool may have its addresses."""
    before = pods.running()
    pods.delete()
    assert pods.add(3) == 0
    pods.idle()
    assert pods.running() == before
    assert pods.pool()["metadata"]["deletionTimestamp"]
    status, reason, message = condition(pods.api, "default", "Deleting")
    assert (status, reason) == ("True", "BlocksOwned")
    for cidr, node in owners(pods.api).items():
        assert f"{cidr} (node {node})" in message
    for one in pods.agents:
        assert pods.pool() is not None
        for number in (1, 2):
            one.network.release(f"c{number}")
        pods.idle()
    assert owners(pods.api) == {}
    assert pods.pool() is None
    pods.make("again", FIRST, 26)
    assert pods.add(2) == 6
    pods.assert_whole()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"blockSize": 25}, "blockSize cannot be changed"),
        ({"cidr": "10.32.0.0/23"}, "cidr can only be widened: type one that contains 10.32.0.0/22"),
        ({"cidr": "10.48.0.0/22"}, "cidr can only be widened: type one that contains 10.32.0.0/22"),
    ],
    ids=("blockSize", "narrower", "moved"),
)
def test_refused_by_the_server(pods: Scene, change: dict[str, Any], told: str) -> None:
    """With the reason, and nothing is changed."""
    before, found = pods.running(), pods.pool()
    pods.api.admin.merge(f"{POOLS}/default", {"spec": change}).refused(422, told)
    pods.follow()
    after = pods.pool()
    for key in ("spec", "metadata", "status"):
        for volatile in ("resourceVersion", "managedFields", "blocks", "used", "conditions"):
            found[key].pop(volatile, None), after[key].pop(volatile, None)
    assert after == found
    assert pods.running() == before
    assert pods.add() == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cidr": "10.0.0.0/9"}, "Overlaps"),
        ({"exclude": ["10.32.1.9-10.32.1.1"]}, "Invalid"),
        ({"exclude": ["10.48.0.0/24"], "disabled": True}, "Invalid"),
        ({"gateway": "10.32.1.9"}, "GatewayInUse"),
    ],
    ids=("overlaps", "invalid", "invalid and disabled", "a gateway that a pod may have"),
)
def test_refused_by_the_controller(pods: Scene, change: dict[str, Any], reason: str) -> None:
    """What was accepted last stays in force on every node, until the pool is put right."""
    pods.make("other", SECOND)
    before, accepted = pods.running(), pods.pool()["status"]["accepted"]
    settings = [one.share.settings.text for one in pods.agents]
    pods.edit(**change)
    assert condition(pods.api, "default")[:2] == ("False", reason)
    assert pods.pool()["status"]["accepted"] == accepted
    assert [one.share.settings.text for one in pods.agents] == settings
    assert pods.running() == before
    assert pods.add() == 3
    if "cidr" in change:
        pods.edit(cidr="10.32.0.0/21", exclude=[])
        assert in_force(pods.api)["default"] == "10.32.0.0/21"
    else:
        pods.edit(exclude=[], disabled=False, gateway=None)
        assert condition(pods.api, "default")[0] == "True"
    pods.assert_whole()


def test_another_gateway(pods: Scene) -> None:
    """An address that no node owns is taken at once, another one when its block is given back."""
    pods.edit(cidr="10.32.0.0/20")
    before, owned = pods.running(), owners(pods.api)
    free = next(f"10.32.{at}.9" for at in range(1, 16) if f"10.32.{at}.0/24" not in owned)
    cidr, node = next(one for one in owned.items() if one[0] != "10.32.0.0/24")
    taken = cidr.replace(".0/24", ".9")
    pods.edit(gateway=free)
    assert condition(pods.api, "default")[0] == "True"
    gateways = [one.network.ranges[0].ranges[0].gateway for one in pods.agents]
    assert gateways == [parse_ip(free)] * 3
    assert pods.running() == before
    pods.make("second", SECOND, gateway=free)
    assert condition(pods.api, "second")[0] == "True", "two pools have one gateway"
    pods.edit(gateway=taken)
    status, reason, message = condition(pods.api, "default")
    assert (status, reason) == ("False", "GatewayInUse")
    assert f"{taken} lies in the block {cidr}, which node {node} owns, so a pod may" in message
    assert message.endswith(f"or keep {free}")
    pods.make("third", "10.128.0.0/22", gateway=taken)
    assert condition(pods.api, "third")[:2] == ("False", "GatewayInUse")
    pods.delete("third")
    (agent,) = [one for one in pods.agents if one.name == node]
    for lease in list(agent.network.leases()):
        agent.network.release(lease.container_id, lease.ifname)
    pods.edit(exclude=[cidr], gateway=free)
    pods.idle()
    assert cidr not in owners(pods.api)
    pods.edit(exclude=[], gateway=taken)
    assert condition(pods.api, "default")[0] == "True"
    pods.assert_whole()


# What may disturb -------------------------------------------------------------------------------


def test_pods_that_wait_hold_no_block_back(pods: Scene) -> None:
    """A kubelet repeats the ADD that a disabled pool refuses; its blocks go back nevertheless."""
    pods.delete()
    one = pods.agents[0]
    for number in (1, 2):
        one.network.release(f"c{number}")
    for _ in range(4):
        for agent in pods.agents:
            assert agent.add() == 0  # noted as a need, which an agent's keeper sees
            agent.turn()
        pods.time.now += 2.5
    assert "a" not in owners(pods.api).values()


def remove(scene: Scene, gone: Agent) -> set[str]:
    """A node is removed while its machine is cut off, then its pool ends; the pods that it has."""
    mine = {str(lease.address.ip) for lease in gone.network.leases()}
    gone.operator().registry.end(gone.name, Deadline(5), force=True)
    scene.agents.remove(gone)
    scene.delete()
    for one in scene.agents:
        for number in (1, 2):
            one.network.release(f"c{number}")
    scene.api.admin.delete(f"/api/v1/nodes/{gone.name}").done()
    scene.leader.settle()
    scene.leader.settle(601)
    scene.idle()
    assert scene.pool() is None
    scene.agents.append(gone)
    return mine


def test_a_pool_of_the_same_name_elsewhere(pods: Scene) -> None:
    """A removed node comes back with pods of the pool that had this name before."""
    one = pods.agents[0]
    mine = remove(pods, one)
    pods.make("default", SECOND)
    pods.turn(601, times=2)
    assert one.add(3) == 3
    one.read_founding()  # as a plugin, or the next agent
    assert one.add(3) == 3
    new = {str(lease.address.ip) for lease in one.network.leases()} - mine
    assert within(dict.fromkeys(new, ""), "10.64.") == new
    assert len(new) == 6
    assert mine < pods.running().keys()
    one.network.release("c1")
    one.network.release("c2")
    pods.turn(601)  # until both stores are compared again
    assert LOST not in {block.state for block in one.share.blocks()}
    pods.assert_whole()


def test_a_pool_with_other_blocks_in_its_place(pods: Scene) -> None:
    """A removed node comes back, and others have its addresses in smaller blocks by then.

    It keeps its pods, claims nothing of it again, and takes part when they have ended.
    """
    one, two, three = pods.agents
    mine = remove(pods, one)
    pods.agents.remove(one)
    pods.make("again", FIRST, 26)
    while two.add(60) + three.add(60):
        pods.turn(1)
    pods.agents.append(one)
    for _ in range(3):
        pods.turn(601)
        one.add(3)
    assert {str(lease.address.ip) for lease in one.network.leases()} == mine
    assert {cidr.partition("/")[2] for cidr in owners(pods.api)} == {"26"}
    assert [each.name for each in one.share.left_out] == ["again"]
    for lease in list(two.network.leases())[:200]:
        two.network.release(str(lease.container_id))
    one.network.release("c1")
    one.network.release("c2")
    for _ in range(3):
        pods.turn(601)
        one.add(3)
    assert one.add(3) == 3
    pods.running()
    pods.assert_whole()


@pytest.mark.parametrize("size", [26, 22])
def test_a_node_that_does_not_hear_of_other_blocks(scene: Scene, size: int) -> None:
    """Its watch stands still while the pool is made anew: what it claims is not used, and goes."""
    scene.make(cidr="10.32.0.0/22", size=23)
    *heard, late = scene.agents
    assert late.share.blocks() == []  # the others have both
    late.miss_pools()
    scene.delete()
    scene.agents = heard
    for seconds in (6, 11):
        scene.turn(601)
        scene.leader.settle(seconds)
    assert scene.pool() is None
    scene.make(cidr="10.32.0.0/22", size=size)
    assert sum(one.add(3) for one in heard) == (6 if size == 26 else 3)
    assert late.add() == 0
    late.turn()
    assert late.add() == 0
    assert late.share.blocks() == []
    assert {cidr.partition("/")[2] for cidr in owners(scene.api)} == {str(size)}
    scene.agents.append(late)
    scene.running()
    late.hear_pools()
    scene.turn(times=2)
    assert late.add(3) == (3 if size == 26 else 0)
    scene.running()
    scene.assert_whole()


def test_the_next_pool_is_claimed_ahead(pods: Scene) -> None:
    """Nodes whose only pool was disabled have a block of the next one before an ADD comes."""
    pods.edit(disabled=True)
    pods.turn(times=2)
    pods.make("second", SECOND)
    assert {node for cidr, node in owners(pods.api).items() if cidr.startswith("10.64.")} == {
        "a", "b", "c"
    }  # fmt: skip
    assert pods.add() == 3
