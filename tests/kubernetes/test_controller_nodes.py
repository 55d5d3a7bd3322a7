"""The controller: what becomes of nodes whose machine is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from fastipam.cluster.controller.reclaim import TOMBSTONE_S
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import ClusterRefused
from fastipam.cluster.keeper import usage
from fastipam.cluster.keeper.keeper import Keeper
from fastipam.cluster.registries.kubernetes import objects

from . import bodies
from .fake import FakeServer, Fault
from .leaders import RECLAIM_AFTER_S, Crash, Leader, close_all
from .machines import Machine, accept, assert_settled, claim, owners
from .rest import BLOCKS, LEASES, NODES, POOLS, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastipam.cluster.node.node import Node
    from fastipam.cluster.registries.kubernetes.calls import Kind

    from .conftest import Api

_MACHINES = "/api/v1/nodes"
_TTL_S = 120
_LATER_S = RECLAIM_AFTER_S + 1


@pytest.fixture
def leader(api: Api) -> Leader:
    """A controller that leads, in a cluster with one pool."""
    accept(api)
    one = Leader(api)
    one.settle(100)
    return one


class Make(Protocol):
    """Makes a machine, which is closed at the end of the test."""

    def __call__(self, api: Api, name: str, **more: Any) -> Machine:
        """Make it."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A function that makes machines."""
    made: list[Machine] = []

    def machine(api: Api, name: str, **more: Any) -> Machine:
        made.append(Machine(tmp_path, api, name, **more))
        return made[-1]

    yield machine
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close what a test has opened."""
    yield
    close_all()


@pytest.fixture
def joined(api: Api, leader: Leader, make: Make) -> tuple[Machine, Node]:
    """A machine that has joined, and owns two blocks."""
    machine = make(api, "n")
    node = machine.joined()
    assert len(claim(node, 2)) == 2
    leader.settle(100)
    return machine, node


@pytest.fixture
def machine(joined: tuple[Machine, Node]) -> Machine:
    """The machine alone."""
    return joined[0]


def delete_machine(api: Api, name: str) -> None:
    """Delete a Node object."""
    api.admin.request("DELETE", f"{_MACHINES}/{name}").done()


def make_machine(api: Api, name: str) -> None:
    """Make a Node object alone."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    made = api.admin.create(_MACHINES, body).done()
    status = {"nodeInfo": {"bootID": "boot-1"}}
    api.admin.merge(f"{_MACHINES}/{made['metadata']['name']}/status", {"status": status}).done()


def entry(api: Api, name: str = "n") -> Any:
    """A node's entry."""
    return api.admin.get(f"{NODES}/{name}").done()


def is_removed(api: Api, name: str = "n") -> bool:
    """Whether a node has a tombstone."""
    return not entry(api, name)["spec"]["incarnation"]


def test_a_node_whose_machine_is_gone(api: Api, leader: Leader, machine: Machine) -> None:
    """Its blocks are free ten minutes later, its tombstone stays for a day."""
    machine.rest.create(REQUESTS, bodies.request("n")).done()
    delete_machine(api, "n")
    assert leader.turn() == ["absent"]
    leader.turn(RECLAIM_AFTER_S - 1)
    assert len(owners(api)) == leader.controller.state().blocks == 2
    leader.settle()
    assert owners(api) == {}
    assert leader.controller.state().blocks == 0
    assert api.admin.get(f"{REQUESTS}/n").status == 404
    found = entry(api)
    assert (found["spec"]["incarnation"], found["spec"]["epoch"]) == ("", 2)
    assert found["status"]["state"] == "Removed"
    assert leader.controller.state().orphans == 0
    assert leader.turn(TOMBSTONE_S - 100) == []
    assert leader.turn(200) == ["buried"]
    assert api.admin.get(f"{NODES}/n").status == 404
    assert leader.turn(100) == []


def test_a_removed_node_is_asked_for_once(api: Api, leader: Leader, machine: Machine) -> None:
    """The watch may be late: what was freed is not looked for every second."""
    delete_machine(api, "n")
    leader.turn()
    leader.settle(_LATER_S)
    other = Leader(api)
    other.turn()
    assert owners(api) == {}
    for one in api.admin.get(NODES).done()["items"]:
        other.controller.view.see(objects.NODES, "MODIFIED", one)
    body = bodies.block("10.32.3.0/24", "n")
    body["metadata"] |= {"resourceVersion": "7"}
    other.controller.view.see(objects.BLOCKS, "ADDED", body)
    before = sum(other.client.requests.values())
    other.controller.turn()
    asked = sum(other.client.requests.values()) - before
    assert 0 < asked <= 6
    other.controller.turn()
    assert sum(other.client.requests.values()) - before == asked
    assert machine.states()["active"] == 2


def test_not_ready_says_nothing(api: Api, leader: Leader, machine: Machine) -> None:
    """A Node that is NotReady keeps its blocks, however long."""
    ready = {"type": "Ready", "status": "False", "reason": "KubeletStopped"}
    api.admin.merge(f"{_MACHINES}/n/status", {"status": {"conditions": [ready]}}).done()
    for _ in range(3):
        leader.turn(86400)
    assert machine.active() == set(owners(api))
    assert len(owners(api)) == 2


def test_a_node_that_comes_again(api: Api, leader: Leader, machine: Machine) -> None:
    """It stops the removal, at any time before the tombstone; the time begins anew."""
    delete_machine(api, "n")
    leader.turn()
    leader.turn(RECLAIM_AFTER_S - 10)
    make_machine(api, "n")
    leader.turn(5)
    delete_machine(api, "n")
    leader.turn(6)
    leader.turn(RECLAIM_AFTER_S - 10)
    assert len(owners(api)) == 2
    leader.turn(11)
    assert owners(api) == {}
    assert machine.states()["active"] == 2  # it has not heard of it


def test_a_node_that_comes_again_as_its_entry_is_read(
    fake_api: FakeServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look at the Node object comes after the entry was read: no tombstone."""
    accept(fake_api)
    claim(make(fake_api, "n").joined(), 2)
    leader = Leader(fake_api)
    leader.settle(100)
    delete_machine(fake_api, "n")
    leader.turn()
    get = leader.client.get
    came: list[str] = []

    def late(kind: Kind, name: str, *, deadline_s: float) -> dict[str, Any] | None:
        found = get(kind, name, deadline_s=deadline_s)
        if kind is objects.NODES and not came:
            came.append(name)
            make_machine(fake_api, "n")
        return found

    monkeypatch.setattr(leader.client, "get", late)
    leader.turn(_LATER_S)
    assert came == ["n"]
    assert not is_removed(fake_api)
    assert len(owners(fake_api)) == 2


def test_a_node_that_the_watch_has_not_told(api: Api, leader: Leader, machine: Machine) -> None:
    """The second look asks the API itself."""
    delete_machine(api, "n")
    leader.turn()
    make_machine(api, "n")
    leader.move(_LATER_S)
    leader.controller.turn()
    assert not is_removed(api)
    assert machine.active() == set(owners(api))


def test_at_once(api: Api, machine: Machine) -> None:
    """With 0 seconds the two looks follow each other."""
    hasty = Leader(api, reclaim_after_s=0)
    hasty.turn()
    assert len(owners(api)) == 2
    delete_machine(api, machine.name)
    hasty.turn()
    assert owners(api) == {}


@pytest.mark.parametrize("at", ["tombstone", "freed", "request"])
def test_back_while_it_is_removed(
    api: Api, leader: Leader, joined: tuple[Machine, Node], at: str
) -> None:
    """The node joins again between two steps: what it has then is its own, and stays so."""
    machine, node = joined
    came: list[str] = []

    def come(name: str) -> None:
        if name == at and not came:
            came.append(name)
            make_machine(api, "n")
            node.join(Deadline(10), agent=True)

    other = Leader(api, come)
    delete_machine(api, "n")
    other.turn()
    other.turn(_LATER_S)
    assert came
    assert not is_removed(api)
    assert_settled(api, machine)
    leader.settle(100)
    assert_settled(api, machine)
    assert len(claim(node, 1)) == 1


# Fencing ----------------------------------------------------------------------------------------


def _renew(api: Api, name: str) -> None:
    found = api.admin.get(f"{LEASES}/{name}").done()
    found["spec"]["leaseTransitions"] = found["spec"].get("leaseTransitions", 0) + 1
    api.admin.replace(f"{LEASES}/{name}", found).done()


def test_a_lease_is_ended_first(api: Api, leader: Leader, machine: Machine) -> None:
    """Unchanged for 1.05 of its duration, on the controller's clock; then the tombstone."""
    api.admin.create(LEASES, bodies.lease("n")).done()
    delete_machine(api, "n")
    leader.turn()
    leader.turn(_LATER_S)
    leader.turn(1.05 * _TTL_S - 1)
    assert api.admin.get(f"{LEASES}/n").status == 200
    assert not is_removed(api)
    assert len(owners(api)) == 2
    assert leader.turn(1)[:2] == ["lease", "tombstone"]
    assert api.admin.get(f"{LEASES}/n").status == 404
    assert owners(api) == {}
    assert machine.states()["active"] == 2


def test_a_lease_that_is_renewed(api: Api, leader: Leader, machine: Machine) -> None:
    """Its node lives: nothing is taken from it before 1.05 of the duration after the last time."""
    api.admin.create(LEASES, bodies.lease("n")).done()
    delete_machine(api, "n")
    leader.turn()
    leader.turn(_LATER_S)
    for _ in range(4):
        leader.move(100)
        _renew(api, "n")
        leader.turn(30)
    leader.turn(1.05 * _TTL_S - 1)
    assert not is_removed(api)
    assert len(owners(api)) == 2
    leader.settle(1)
    assert is_removed(api)
    assert owners(api) == {}
    assert machine.states()["active"] == 2


def test_a_lease_that_comes_after_the_end_of_the_last_one(fake_api: FakeServer, make: Make) -> None:
    """The node has joined again before the tombstone: there is none while that lease lasts."""
    accept(fake_api)
    make(fake_api, "n").joined()
    fake_api.admin.create(LEASES, bodies.lease("n")).done()
    agent = fake_api.rest(fake_api.token(node="n"))
    agent.create(BLOCKS, bodies.block("10.32.3.0/24", "n")).done()

    came: list[str] = []

    def again(name: str) -> None:
        if name == "lease" and not came:
            came.append(name)
            agent.create(LEASES, bodies.lease("n")).done()

    leader = Leader(fake_api, again)
    delete_machine(fake_api, "n")
    leader.turn()
    leader.turn(_LATER_S)
    assert leader.turn(1.05 * _TTL_S) == ["lease"]
    leader.turn(1)
    assert not is_removed(fake_api)
    leader.turn(1.05 * _TTL_S - 1)
    assert "10.32.3.0/24" in owners(fake_api)
    leader.turn(1)
    assert owners(fake_api) == {}


def test_a_node_with_fencing_confirms_its_lease(api: Api, make: Make) -> None:
    """Removed between its registration and its lease: what it has proved proves nothing."""
    accept(api)
    machine = make(api, "n", fencing=True)
    node = machine.node()
    node.join(Deadline(10))
    removed = entry(api)
    removed["spec"] |= {"incarnation": "", "epoch": 2}
    api.admin.replace(f"{NODES}/n", removed).done()

    with pytest.raises(ClusterRefused, match="was removed meanwhile"):
        node.registry.hold(Deadline(10))


# Orphans ----------------------------------------------------------------------------------------


def test_a_block_that_a_removed_node_is_handed(api: Api, leader: Leader, machine: Machine) -> None:
    """It came after the list: the next turn frees it, and the count is 0 again."""
    delete_machine(api, "n")
    leader.turn()
    leader.settle(_LATER_S)
    donor = api.node("d")
    donor.create(NODES, bodies.node("d")).done()
    made = donor.create(BLOCKS, bodies.block("10.32.3.0/24", "d")).done()
    grant = {"request": "uid-1", "number": 1, "from": "d"}
    spec = made["spec"] | {"node": "n", "epoch": 1, "grant": grant}
    at = f"{BLOCKS}/{made['metadata']['name']}"
    donor.replace(at, made | {"spec": spec}).done()
    leader.controller.view.load()
    assert leader.controller.state().orphans == 1
    leader.turn()
    leader.controller.view.load()
    assert leader.controller.state().orphans == 0
    assert owners(api) == {}
    assert machine.states()["active"] == 2


def test_blocks_without_an_entry(api: Api, leader: Leader, machine: Machine) -> None:
    """Somebody has deleted the entry: the node may live; its blocks go when its machine is gone."""
    api.admin.delete(f"{NODES}/n").done()
    leader.turn(86400)
    leader.turn(86400)
    assert machine.active() == set(owners(api))
    assert leader.controller.state().orphans == 2
    delete_machine(api, "n")
    leader.turn()
    leader.settle(_LATER_S)
    assert owners(api) == {}
    assert is_removed(api)
    assert entry(api)["spec"]["epoch"] == 2


def test_an_entry_that_was_made_anew_by_hand(api: Api, leader: Leader, machine: Machine) -> None:
    """Its epoch went back: the tombstone is raised above the blocks, and they are freed."""
    found = api.admin.get(f"{NODES}/n").done()
    blocks = api.admin.get(BLOCKS).done()["items"]
    for one in blocks:
        one["spec"]["epoch"] = 7
        api.admin.replace(f"{BLOCKS}/{one['metadata']['name']}", one).done()
    assert found["spec"]["epoch"] == 1
    delete_machine(api, "n")
    leader.turn()
    leader.settle(_LATER_S)
    assert owners(api) == {}
    assert entry(api)["spec"]["epoch"] == 8
    assert machine.states()["active"] == 2


# What goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["absent", "lease", "tombstone", "freed", "request", "buried"])
def test_killed_after_a_step(fake_api: FakeServer, make: Make, at: str) -> None:
    """The next leader goes on from what is there."""
    accept(fake_api)
    machine = make(fake_api, "n")
    claim(machine.joined(), 3)
    fake_api.admin.create(LEASES, bodies.lease("n")).done()
    fake_api.admin.create(REQUESTS, bodies.request("n")).done()
    delete_machine(fake_api, "n")

    def crash(name: str) -> None:
        if name == at:
            raise Crash(name)

    killed = Leader(fake_api, crash)
    with pytest.raises(Crash):
        _go_on(killed)
    last = Leader(fake_api)
    last.move(killed.seconds)
    last.wall_s = killed.wall_s
    _go_on(last)
    assert owners(fake_api) == {}
    for path in (f"{LEASES}/n", f"{REQUESTS}/n", f"{NODES}/n"):
        assert fake_api.admin.get(path).status == 404


def _go_on(leader: Leader) -> None:
    """Turns over two days."""
    for seconds in (0, _LATER_S, 0, 1.1 * _TTL_S, 1, 1.1 * _TTL_S, 1, TOMBSTONE_S, 1, 1):
        leader.turn(seconds)


@pytest.mark.parametrize("do", ["lose_request", "lose_answer", "half_answer", "twice", "answer"])
@pytest.mark.parametrize("resource", ["addressnodes", "addressblocks", "leases", "nodes"])
def test_faults_of_the_api(fake_api: FakeServer, make: Make, do: Any, resource: str) -> None:
    """Whatever becomes of the requests, in the end the node is removed, and no other one."""
    accept(fake_api)
    machine, other = make(fake_api, "n"), make(fake_api, "m")
    claim(machine.joined(), 2)
    claim(other.joined(), 2)
    fake_api.admin.create(LEASES, bodies.lease("n")).done()
    leader = Leader(fake_api)
    leader.turn()
    delete_machine(fake_api, "n")
    for method in ("PUT", "DELETE", "GET"):
        fake_api.fault(Fault(do, resource=resource, method=method, code=500, times=2))
    for seconds in (0, _LATER_S, 1.1 * _TTL_S, 100, 1.1 * _TTL_S, 100, 100):
        leader.turn(seconds)
        fake_api.deliver()
    assert is_removed(fake_api)
    assert set(owners(fake_api).values()) == {"m"}
    assert_settled(fake_api, other)


def test_one_node_that_fails_stops_no_other(fake_api: FakeServer, make: Make) -> None:
    """Its writes fail for ever; the other one's blocks are free."""
    accept(fake_api)
    machines = [make(fake_api, name) for name in ("a", "b")]
    for one in machines:
        claim(one.joined(), 1)
        delete_machine(fake_api, one.name)
    fake_api.fault(Fault("answer", resource="addressnodes", method="PUT", name="a", times=0))
    leader = Leader(fake_api)
    leader.turn()
    for _ in range(3):
        leader.turn(_LATER_S)
    assert set(owners(fake_api).values()) == {"a"}
    fake_api.heal()
    leader.turn(100)
    assert owners(fake_api) == {}


# What nodes tell --------------------------------------------------------------------------------


def test_an_agent_reports_its_use(api: Api, make: Make) -> None:
    """Its keeper does it when it looks at the blocks, and a pool shows the sum."""
    accept(api)
    machine = make(api, "n")
    seconds = [0.0]
    machine.clock = lambda: seconds[0]
    keeper = Keeper(machine.share, lambda _: machine.registry(), clock=lambda: seconds[0])
    machine.share.adopt_pools(keeper.registry.pools(Deadline(10)) or [])
    for _ in range(30):
        keeper.step()
        seconds[0] += 10
    blocks = len(owners(api))
    assert blocks
    told = entry(api)["status"]
    assert (told["blocks"], told["used"], told["state"]) == (blocks, 0, "Active")
    for at in range(100):
        machine.network.allocate(f"c{at}")
    for _ in range(10):
        keeper.step()
        seconds[0] += 10
    assert entry(api)["status"]["used"] == 100
    one = Leader(api)
    one.turn()
    found = api.admin.get(f"{POOLS}/default").done()["status"]
    assert found["used"] == f"{100 * 100 // (100 + entry(api)['status']['free'])}%"


def test_a_node_reports_its_use(api: Api, make: Make) -> None:
    """Once a minute at most, and only news; it is no lost change, and changes no registration."""

    accept(api)
    machine = make(api, "n")
    seconds = [0.0]
    machine.clock = lambda: seconds[0]
    node = machine.joined()
    claim(node, 2)
    registry = machine.registry_of(node)

    def report(after_s: float) -> int:
        """Report; return the number of requests so far."""
        seconds[0] += after_s
        registry.report(usage.survey(machine.share)[0], Deadline(10))
        return registry.api.client.requests["PATCH", "addressnodes"]

    assert report(59) == 0, "a node that starts has more urgent requests"
    assert report(61) == 1
    size = 2 * 256 - 2  # without the pool's first address and its gateway
    told = entry(api)["status"]
    assert told == {
        "blocks": 2,
        "used": 0,
        "free": told["free"],
        "state": "Active",
        "pools": [{"name": "default", "blocks": 2, "used": 0, "free": told["free"]}],
    }
    assert size <= told["free"] <= 512
    assert report(3600) == 1
    for at in range(10):
        machine.network.allocate(f"c{at}")
    assert report(3600) == 1
    for at in range(10, 30):
        machine.network.allocate(f"c{at}")
    assert report(3600) == 2
    assert entry(api)["status"]["used"] == 30
    claim(node, 1)
    assert report(59) == 2
    assert report(1) == 3
    assert registry.keep(Deadline(10))
    assert not registry.has_lost_changes
    assert entry(api)["spec"]["epoch"] == 1
