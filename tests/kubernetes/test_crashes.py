"""Every step of the protocol, and what may become of a process or a request there.

A *deed* is something that a node does, with all steps and requests of it. It is done once in peace,
which tells its steps and requests; then once for each of these, on a new cluster: the process is
killed after the step, or the request or its answer is lost, late or delivered twice. After that the
agents, or the next ones, have two turns of their keepers, and everything is settled: no block is
begun and not finished, none is owned by a node that does not assign from it. At every step nobody
assigns from a block that is not his.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import fastipam.cluster
from fastipam.cluster.admin import admin
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import ClusterRefused
from fastipam.cluster.node.recovery import recover
from fastipam.configuration.policy import Policy
from fastipam.errors import FastipamError
from fastipam.network import Network
from tests.options import options

from .agents import Agent, Killed, Time, assert_agree, owners, unsettled
from .bodies import block_name, pool
from .fake import Fault
from .leaders import Leader, close_all, in_force
from .machines import NETWORK, accept, claim
from .rest import BLOCKS as BLOCKS_PATH
from .rest import POOLS

if TYPE_CHECKING:
    from fastipam.cluster.node.node import Node
    from fastipam.cluster.schema import BlockId

    from .fake import FakeServer
    from .fake.faults import Deed as Kind


def deadline() -> Deadline:
    """That of a deed: nobody waits long for an answer."""
    return Deadline(20.0, call_s=CALL_S)


CALL_S = 1.0


class Cluster:
    """Two nodes of one cluster on the fake, and its administrator.

    ``steps`` are those since the deed began, ``kill_at`` is the one after which the process dies.
    """

    def __init__(self, path: Path, api: FakeServer, **more: object) -> None:
        accept(api)
        self.api = api
        self.time = Time()
        self.one = Agent(path, api, "a", self.time, **more)
        self.two = Agent(path, api, "b", self.time, **more)
        self.machines = [self.one, self.two]
        self.removed: set[str] = set()
        self.steps: list[str] = []
        self.kill_at = -1
        self.extra: list[Agent] = []
        self.in_force: set[str] = set()  # the pools, in the end, if the deed is about them
        self.first_pools: list[dict[str, Any]] = []  # that a controller is started with

    def step(self, name: str) -> None:
        """A step is done."""
        assert_agree(self.api, [one for one in self.machines if one.name not in self.removed])
        self.steps.append(name)
        if len(self.steps) - 1 == self.kill_at:
            raise Killed

    def process(self, agent: Agent) -> Node:
        """The agent of this node; it tells its steps."""
        node = agent.keeper.node
        node.step = agent.registry_of(node).api.step = self.step
        pools = node.registry.pools(Deadline(10))
        if pools:
            agent.share.adopt_pools(pools)
        return node

    def used_up(self) -> None:
        """All blocks are owned: one by the first node, with a pod, the others by the second."""
        for agent in (self.one, self.two):
            agent.turn()
            agent.turn(1)
        assert self.one.add() == 1
        node = self.two.node()
        while claim(node):
            pass

    def leader(self) -> Leader:
        """A controller that leads."""
        return Leader(self.api, self.step, pools=self.first_pools)

    def forget(self, agent: Agent) -> None:
        """This machine is gone for good."""
        self.removed.add(agent.name)
        self.machines.remove(agent)
        self.extra.append(agent)

    def bases_of(self, name: str) -> set[int]:
        """The first addresses of the blocks that a node owns."""
        owned = owners(self.api)
        bases = (cidr.partition("/")[0] for cidr, owner in owned.items() if owner == name)
        return {int(ipaddress.ip_address(base)) for base in bases}

    def close(self) -> None:
        """Close everything."""
        for one in [*self.machines, *self.extra]:
            one.close()
        close_all()


Doing = Callable[[Cluster], Iterator[None]]


def begin(cluster: Cluster) -> None:
    """Each node has a block with a pod."""
    for agent in cluster.machines:
        agent.turn()
        assert agent.add() == 1


# Deeds ----------------------------------------------------------------------------------------


def join_and_claim(cluster: Cluster) -> Iterator[None]:
    """A new node registers and claims a run of two."""
    yield
    node = cluster.process(cluster.one)
    node.join(deadline(), agent=True)
    claim_run(node, 2)


def claim_run(node: Node, run: int) -> None:
    """Claim a run of blocks."""
    node.claim(node.settings.geometries[0], run, deadline())


def claim_more(cluster: Cluster) -> Iterator[None]:
    """A node that has blocks claims a run of four, whose first block another node has."""
    begin(cluster)
    yield
    claim_run(cluster.process(cluster.one), 4)


def restart(cluster: Cluster) -> Iterator[None]:
    """A node restarts, with a claim begun that was made, one that was not, and a release."""
    begin(cluster)
    claim(cluster.one.node(), 2)
    left = [
        (one.family, one.base) for one in cluster.one.share.blocks() if not cluster.one.uses(one)
    ][:1]
    cluster.one.share.begin_release(left)
    free = [(4, (10 << 24) + (32 << 16) + (at << 8)) for at in range(16)]
    free = [
        one
        for one in free
        if one not in {(b.family, b.base) for m in cluster.machines for b in m.share.blocks()}
    ]
    cluster.one.share.begin_claim(free[:1], 1, 5)
    cluster.one.begin()
    yield
    cluster.process(cluster.one).join(deadline(), agent=True)


def fence(cluster: Cluster) -> Iterator[None]:
    """A new node with fencing gives its sign of life."""
    cluster.one.fence()
    yield
    node = cluster.process(cluster.one)
    node.join(deadline(), agent=True, sign=True)
    claim_run(node, 1)


def reboot(cluster: Cluster) -> Iterator[None]:
    """A machine boots again."""
    begin(cluster)
    cluster.one.reboot("boot-2")
    cluster.one.begin()
    yield
    cluster.process(cluster.one).join(deadline(), agent=True)


def lost_store(cluster: Cluster) -> Iterator[None]:
    """A node has lost its store, and adopts what it owns."""
    begin(cluster)
    claim(cluster.one.node(), 2)
    cluster.one.store.close()
    cluster.one.path = cluster.one.path.with_name("a-anew")
    cluster.one.open()
    cluster.one.begin()
    yield
    node = cluster.process(cluster.one)
    recover(node, node.join(deadline(), agent=True), ())


def give_back(cluster: Cluster) -> Iterator[None]:
    """A node gives back two blocks."""
    begin(cluster)
    won = claim(cluster.one.node(), 2)
    yield
    cluster.process(cluster.one).give_back(won, deadline())


def ask(cluster: Cluster) -> Iterator[None]:
    """A node in need asks; nobody answers yet."""
    cluster.used_up()
    yield
    cluster.process(cluster.one).write_mark(4, 2, deadline())


def ask_anew(cluster: Cluster) -> Iterator[None]:
    """The answer was too small: a node asks anew."""
    cluster.used_up()
    cluster.one.node().write_mark(4, 2, deadline())
    yield
    cluster.process(cluster.one).write_mark(4, 3, deadline())


def donate(cluster: Cluster) -> Iterator[None]:
    """A donor answers with three blocks."""
    cluster.used_up()
    cluster.one.node().write_mark(4, 3, deadline())
    (request,) = cluster.two.requests()
    ids = [(one.family, one.base) for one in cluster.two.share.blocks()][-3:]
    yield
    cluster.process(cluster.two).donate(request, ids, deadline())


def collect(cluster: Cluster) -> Iterator[None]:
    """A node collects what a donor has given."""
    cluster.used_up()
    cluster.one.node().write_mark(4, 2, deadline())
    (request,) = cluster.two.requests()
    ids = [(one.family, one.base) for one in cluster.two.share.blocks()][-2:]
    cluster.two.node().donate(request, ids, deadline())
    yield
    node = cluster.process(cluster.one)
    cluster.one.registry_of(node).look_for_an_answer()
    node.collect(deadline())


def follow(cluster: Cluster) -> list[BlockId]:
    """A pool whose addresses are blocks; each node has one of them, cooling down there."""
    accept(cluster.api, "fixed", "10.9.0.0/28", 32)
    begin(cluster)
    ids = []
    for at, agent in enumerate(cluster.machines, 5):
        text = f"10.9.0.{at}"
        ids.append((4, int(ipaddress.ip_address(text))))
        node = agent.node()
        assert node.claim_named(ids[-1:], deadline())
        pool, policy = agent.share.settings.pool, Policy(cooldown_s=3600)
        network = Network(agent.store, NETWORK, pool, policy=policy)
        network.allocate("pod", addresses=[text])
        network.release("pod")
    return ids


def claim_by_name(cluster: Cluster) -> Iterator[None]:
    """A node claims three blocks by name, one of which another node has."""
    ids = follow(cluster)
    yield
    node = cluster.process(cluster.one)
    node.claim_named([ids[1], (4, ids[1][1] + 1), (4, ids[1][1] + 2)], deadline())


def ask_by_name(cluster: Cluster) -> Iterator[None]:
    """A node asks for a block by name; nobody answers yet."""
    ids = follow(cluster)
    yield
    cluster.process(cluster.one).write_mark(4, 1, deadline(), named=ids[1:])


def donate_by_name(cluster: Cluster) -> Iterator[None]:
    """A donor hands over the block that is named, though its address cools down there."""
    ids = follow(cluster)
    cluster.one.node().write_mark(4, 1, deadline(), named=ids[1:])
    (request,) = cluster.two.requests()
    yield
    cluster.process(cluster.two).donate(request, ids[1:], deadline())


def collect_by_name(cluster: Cluster) -> Iterator[None]:
    """A node collects the block that it has asked for by name."""
    ids = follow(cluster)
    cluster.one.node().write_mark(4, 1, deadline(), named=ids[1:])
    (request,) = cluster.two.requests()
    assert cluster.two.node().donate(request, ids[1:], deadline()) == 1
    yield
    node = cluster.process(cluster.one)
    cluster.one.registry_of(node).look_for_an_answer()
    assert node.collect(deadline()) == ids[1:]


def remove(cluster: Cluster) -> Iterator[None]:
    """An operator removes a node that is gone, with three blocks."""
    begin(cluster)
    claim(cluster.two.node(), 2)
    cluster.forget(cluster.two)
    yield
    node = cluster.one.operator(cluster.step)
    admin.release_node(node, "b", deadline(), force=True)


def come_back(cluster: Cluster) -> Iterator[None]:
    """A removed node comes back: of its blocks one is there yet, one with a pod is gone."""
    begin(cluster)
    claim(cluster.two.node(), 2)
    operator = cluster.one.operator()
    operator.registry.end("b", deadline(), force=True)
    mine = [one for one in cluster.two.share.blocks() if one.base in cluster.bases_of("b")]
    used = [one for one in mine if cluster.two.uses(one)]
    free = [one for one in mine if not cluster.two.uses(one)]
    for one in (used[0], free[0]):
        cluster.api.do("DELETE", f"{BLOCKS_PATH}/{block_name(cluster.two.cidr(one))}")
    cluster.two.share.forget_registration()
    cluster.removed.add("b")  # what it has is not its own before it has registered
    yield
    node = cluster.process(cluster.two)
    recover(node, node.join(deadline(), agent=True), ())


def controller_accepts(cluster: Cluster) -> Iterator[None]:
    """The controller accepts a pool, and refuses one that overlaps another."""
    begin(cluster)
    cluster.leader().settle()
    cluster.api.do("POST", POOLS, pool("second", "10.64.0.0/20", 24))
    cluster.api.do("POST", POOLS, pool("third", "10.32.0.0/16", 24))
    cluster.in_force = {"default", "second"}
    yield
    cluster.leader().turn()


def controller_makes_a_pool(cluster: Cluster) -> Iterator[None]:
    """The controller makes the first pool that it was started with."""
    begin(cluster)
    cluster.leader().settle()
    cluster.first_pools = [pool("second", "10.64.0.0/20", 24)]
    cluster.in_force = {"default", "second"}
    yield
    cluster.leader().turn()


def controller_makes_blocks(cluster: Cluster) -> Iterator[None]:
    """The controller makes the blocks of two Nodes' podCIDRs."""
    begin(cluster)
    cluster.leader().settle()
    for at, name in enumerate("ab"):
        spec = {"podCIDR": f"10.64.{at}.0/24", "podCIDRs": [f"10.64.{at}.0/24"]}
        cluster.api.do("PATCH", f"/api/v1/nodes/{name}", {"spec": spec})
    cluster.api.do("POST", POOLS, pool("second", "10.64.0.0/20", 24, claims="NodeCIDRs"))
    cluster.in_force = {"default", "second"}
    yield
    leader = cluster.leader()
    leader.turn()
    leader.turn(1)


def controller_lets_go(cluster: Cluster) -> Iterator[None]:
    """The controller lets a deleted pool go, of which nobody has a block."""
    begin(cluster)
    cluster.api.do("POST", POOLS, pool("second", "10.64.0.0/20", 24))
    cluster.leader().settle()
    cluster.api.do("DELETE", f"{POOLS}/second")
    cluster.in_force = {"default"}
    yield
    leader = cluster.leader()
    leader.turn()
    leader.turn(60)


def controller_tells_what_holds_a_pool(cluster: Cluster) -> Iterator[None]:
    """The controller says which blocks hold a deleted pool."""
    begin(cluster)
    cluster.api.do("POST", POOLS, pool("second", "10.64.0.0/20", 24))
    cluster.leader().settle()
    cluster.api.do("DELETE", f"{POOLS}/default")
    cluster.in_force = {"default", "second"}  # the first one is held
    yield
    leader = cluster.leader()
    leader.turn()
    leader.turn(61)


def controller_removes(cluster: Cluster) -> Iterator[None]:
    """The controller removes a node whose Node object is gone, with three blocks and a request."""
    begin(cluster)
    claim(cluster.two.node(), 2)
    cluster.two.node().write_mark(4, 1, deadline())
    cluster.leader().settle()
    cluster.api.do("DELETE", "/api/v1/nodes/b")
    cluster.forget(cluster.two)
    yield
    leader = cluster.leader()
    leader.turn()
    leader.turn(601)
    leader.turn(86401)


def controller_ends_a_lease(cluster: Cluster) -> Iterator[None]:
    """The same with fencing: its Lease is ended first."""
    cluster.two.fence()
    begin(cluster)
    cluster.leader().settle()
    cluster.api.do("DELETE", "/api/v1/nodes/b")
    cluster.forget(cluster.two)
    yield
    leader = cluster.leader()
    leader.turn()
    leader.turn(601)
    leader.turn(601)


DEEDS: list[Doing] = [
    join_and_claim, claim_more, restart, fence, reboot, lost_store, give_back, ask, ask_anew,
    donate, collect, claim_by_name, ask_by_name, donate_by_name, collect_by_name, remove, come_back,
    controller_accepts, controller_makes_a_pool, controller_makes_blocks, controller_lets_go,
    controller_tells_what_holds_a_pool, controller_removes, controller_ends_a_lease,
]  # fmt: skip


def test_the_deeds_are_all_steps(fake_api: FakeServer, tmp_path: Path) -> None:
    """There is no step that no deed comes to."""
    met: set[str] = set()
    for deed in DEEDS:
        met.update(in_peace(tmp_path / deed.__name__, fake_api, deed)[0])
    source = Path(fastipam.cluster.__file__ or "").parent
    named = {
        name
        for path in ("node", "admin", "controller", "registries/kubernetes")
        for file in (source / path).glob("*.py")
        for name in re.findall(r"step\(\s*\"([^\"]+)\"", file.read_text())
    }
    assert met == named


# Cells ----------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """What goes wrong: ``do`` of the fake, and when a kept request is delivered."""

    do: Kind
    soon: bool = True


# A read whose answer is lost has changed as little as one whose request is lost: only the long form
# does both.
CHANGES_ONLY = ("hold", "twice", "late_answer", *(() if options.long else ("lose_answer",)))
CELLS = {
    "request lost": Cell("lose_request"),
    "answer lost": Cell("lose_answer"),
    "answer late": Cell("late_answer"),
    "request late": Cell("hold"),
    "request much later": Cell("hold", soon=False),
    "twice": Cell("twice"),
    "again much later": Cell("twice", soon=False),
}


def run(cluster: Cluster, deed: Doing, arm: Callable[[], object]) -> None:
    """Do the deed, after ``arm``; where it kills, other processes go on."""
    doing = deed(cluster)
    next(doing)
    cluster.steps.clear()
    arm()
    try:
        next(doing, None)
    except Killed:
        for agent in cluster.machines:
            agent.begin()
    except FastipamError as error:  # what a keeper does then
        for agent in cluster.machines:
            if agent.share.has_begun() or isinstance(error, ClusterRefused):
                agent.keeper.membership.doubt()


def settle(cluster: Cluster) -> None:
    """All agents have two turns each, and two more after what the controller does."""
    cluster.kill_at = -1
    two_turns(cluster)
    if cluster.extra or cluster.in_force:
        leader = Leader(cluster.api, pools=cluster.first_pools)
        for seconds in (0, 601, 601):  # it waits for a Node object that comes back, and for a Lease
            leader.turn(seconds)
        two_turns(cluster)


def two_turns(cluster: Cluster) -> None:
    """All agents have two turns each."""
    for _ in range(2):
        for agent in cluster.machines:
            agent.turn(3)


def check(cluster: Cluster, cell: str) -> None:
    """Everything is settled, and each node can serve."""
    settle_errors = unsettled(cluster.api, cluster.machines)
    assert not settle_errors, (cell, settle_errors, list(cluster.api.log)[-40:])
    assert_agree(cluster.api, cluster.machines)
    if cluster.in_force:
        assert set(in_force(cluster.api)) == cluster.in_force, cell
    for agent in cluster.machines:
        assert agent.add() == 1, (cell, agent.name, agent.states())


def in_peace(path: Path, api: FakeServer, deed: Doing) -> tuple[list[str], list[str]]:
    """Return the steps of a deed, and its requests as "VERB path"."""
    cluster = Cluster(path / "peace", api)
    try:
        run(cluster, deed, api.log.clear)
        steps, requests = list(cluster.steps), [line.split(" ")[3:5] for line in api.log]
        settle(cluster)
        check(cluster, "in peace")
    finally:
        cluster.close()
        api.clear()
    return steps, [" ".join(one) for one in requests]


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_killed_at_each_step(fake_api: FakeServer, tmp_path: Path, deed: Doing) -> None:
    """The process dies right after a step; the next one finishes or undoes what was begun."""
    steps, _ = in_peace(tmp_path, fake_api, deed)
    assert steps
    for at, name in enumerate(steps):
        cluster = Cluster(tmp_path / f"{at}", fake_api)
        try:
            run(cluster, deed, partial(setattr, cluster, "kill_at", at))
            assert len(cluster.steps) == at + 1
            settle(cluster)
            check(cluster, f"killed after step {at}, {name}")
        finally:
            cluster.close()
            fake_api.clear()


@pytest.mark.parametrize("wrong", CELLS)
@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_each_request_goes_wrong(
    fake_api: FakeServer, tmp_path: Path, deed: Doing, wrong: str
) -> None:
    """A request or its answer is lost, late or delivered again; every one in its turn."""
    cell = CELLS[wrong]
    _, requests = in_peace(tmp_path, fake_api, deed)
    for at, what in enumerate(requests):
        if cell.do in CHANGES_ONLY and what.split()[0] not in ("POST", "PUT", "DELETE", "PATCH"):
            continue
        cluster = Cluster(tmp_path / f"{at}", fake_api)
        fault = Fault(
            cell.do, nth=at + 1, delay_s=1.2 * CALL_S if cell.do == "late_answer" else 0.0
        )
        try:
            run(cluster, deed, partial(fake_api.fault, fault))
            assert fault.hits == 1, list(fake_api.log)[-20:]
            if cell.soon:
                fake_api.deliver()
            settle(cluster)
            if not cell.soon:
                fake_api.deliver()
                cluster.time.now += 600
                settle(cluster)
            check(cluster, f"{wrong}: {at}, {what}")
        finally:
            cluster.close()
            fake_api.clear()
