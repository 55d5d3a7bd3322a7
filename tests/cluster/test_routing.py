"""What is set and deleted, step by step: a kernel in memory, and a clock that the test moves."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import pytest

from fastipam.addressing.addresses import parse_cidr, parse_ip
from fastipam.cluster.routing.blocks import HOLD_S, Blocks
from fastipam.cluster.routing.events import Heard
from fastipam.cluster.routing.kernel import Hop, Kernel, Route, unreachable, via
from fastipam.cluster.routing.setting import COMPARE_S, Setting
from fastipam.cluster.schema import BlockEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastipam.cluster.routing.table import Address

Refused = list[tuple[Route, int, str]]
POOL = "10.32.0.0/16"


class MemoryKernel(Kernel):
    """Routes by prefix and metric. Addresses in 192.0.2.0/24 and 2001:db8::/64 are on the link.

    ``steps`` says what was asked, ``refuses`` names gateways of routes that it does not take.
    """

    def __init__(self) -> None:
        self.table: dict[tuple[int, int, int, int], Route] = {}
        self.steps: list[str] = []
        self.refuses: set[str] = set()
        self.down = False
        self.faults: list[OSError] = []
        self.reopened = 0

    def close(self) -> None:
        """Nothing is open."""

    def reopen(self) -> None:
        """Begin anew."""
        self.reopened += 1

    def _fault(self) -> None:
        if self.faults:
            raise self.faults.pop(0)

    def installed(self) -> list[Route]:
        """Return the routes."""
        self._fault()
        self.steps.append("list")
        return list(self.table.values())

    def replace(self, routes: Sequence[Route]) -> Refused:
        """Set them."""
        refused = []
        for one in routes:
            self._fault()
            gateway = str(one).rpartition(" ")[2]
            if gateway in self.refuses or (self.down and one.gateway):
                refused.append((one, errno.ENETUNREACH, "Nexthop has invalid gateway"))
                continue
            self.steps.append(f"+{one}")
            self.table[(*one[:3], one.metric)] = one
        return refused

    def delete(self, routes: Sequence[Route]) -> Refused:
        """Delete them."""
        for one in routes:
            self._fault()
            self.steps.append(f"-{one}")
            if self.table.get((*one[:3], one.metric)) == one:
                del self.table[(*one[:3], one.metric)]
        return []

    def look_up(self, addresses: Iterable[Address]) -> dict[Address, Hop]:
        """Return where they are."""
        found = {}
        for family, value in addresses:
            shift, link = (8, "192.0.2.0") if family == 4 else (64, "2001:db8::")
            if self.down:
                hop = Hop(problem="Network is unreachable")
            elif value >> shift == parse_ip(link)[1] >> shift:
                hop = Hop(interface=2)
            else:
                hop = Hop(gateway="192.0.2.1", problem="a gateway")
            found[family, value] = hop
        return found

    def routes(self) -> set[str]:
        """What is there."""
        return set(map(str, self.table.values()))


class World:
    """One network, whose blocks the test tells."""

    def __init__(self, *pools: str) -> None:
        self.now = 1000.0
        self.kernel = MemoryKernel()
        self.blocks = self.network("me", *(pools or (POOL,)))
        self.setting = Setting(self.kernel, [self.blocks], self.clock)

    def clock(self) -> float:
        """The time."""
        return self.now

    def network(self, node: str, *pools: str) -> Blocks:
        """Another network."""
        made = Blocks(node, clock=self.clock)
        made.begin_anew(lambda: [parse_cidr(one) for one in pools])
        return made

    def has(self, cidr: str, node: str, *addresses: str, blocks: Blocks | None = None) -> None:
        """A block has this owner."""
        family, base, length = parse_cidr(cidr)
        entry = BlockEntry(node, 1, 0, via=addresses)
        (blocks or self.blocks).see((family, base), length, entry)

    def free(self, cidr: str, *, certain: bool = True) -> None:
        """A block is nobody's."""
        self.blocks.forget(parse_cidr(cidr)[:2], certain=certain)

    def step(self, seconds: float = 1.0, *, heard: Heard | None = None) -> set[str]:
        """So many seconds pass; return what the kernel has then."""
        self.now += seconds
        if heard is not None:
            self.setting.hear(heard)
            self.now += 0.1
        self.setting.changed()
        self.setting.step()
        self.now += 0.1
        self.setting.step()
        return self.kernel.routes()


@pytest.fixture
def world() -> World:
    """Node me has a block, node b two that are one run, node c one."""
    made = World()
    made.has("10.32.0.0/24", "me", "192.0.2.2")
    made.has("10.32.2.0/24", "b", "192.0.2.3")
    made.has("10.32.3.0/24", "b", "192.0.2.3")
    made.has("10.32.7.0/24", "c", "192.0.2.4")
    return made


FIRST = {
    "unreachable 10.32.0.0/16",
    "unreachable 10.32.0.0/24",
    "10.32.2.0/23 via 192.0.2.3",
    "10.32.7.0/24 via 192.0.2.4",
}


def changed_by(process: int) -> Heard:
    """Another process has changed routes."""
    heard = Heard()
    heard.compare, heard.by = True, process
    return heard


def test_nothing_before_all_was_told(world: World) -> None:
    """A part of the blocks is no table: it is waited for, then a run of blocks is one route."""
    assert world.step() == set()
    assert not world.setting.status.is_complete
    world.blocks.complete()
    assert world.step() == FIRST
    assert world.setting.status.is_complete
    assert world.setting.status.counts == {(4, "gateway"): 2, (4, "unreachable"): 2}
    assert world.setting.condition == (True, "Set", "")


def test_new_routes_come_before_old_ones_go(world: World) -> None:
    """One block of a run is handed over: its new route, the rest of the run, then the run goes."""
    world.blocks.complete()
    world.step()
    world.kernel.steps.clear()
    world.has("10.32.3.0/24", "me", "192.0.2.2")
    world.step()
    assert world.kernel.steps == [
        "+10.32.2.0/24 via 192.0.2.3",
        "+unreachable 10.32.3.0/24",
        "-10.32.2.0/23 via 192.0.2.3",
    ]
    world.kernel.steps.clear()
    world.has("10.32.7.0/24", "b", "192.0.2.3")
    world.step()
    assert world.kernel.steps == ["+10.32.7.0/24 via 192.0.2.3"]  # in place of c's


def test_the_routes_of_an_earlier_run(world: World) -> None:
    """They stay, and come back if they are taken, until all blocks were told; others go then."""
    kernel = world.kernel
    kernel.replace([via(parse_cidr("10.32.7.0/24"), parse_ip("192.0.2.4")[1])])
    kernel.replace([via(parse_cidr("10.32.99.0/24"), parse_ip("192.0.2.9")[1])])
    kernel.replace(
        [Route(*parse_cidr("10.32.98.0/24"), parse_ip("192.0.2.9")[1], 0)]
    )  # by ip -batch
    before = kernel.routes()
    assert world.step() == before
    kernel.table.clear()  # the link went down and up
    heard = Heard()
    heard.compare = True
    assert world.step(heard=heard) == before - {"10.32.98.0/24 via 192.0.2.9"}
    world.blocks.complete()
    assert world.step() == FIRST


def test_nothing_is_deleted_while_the_store_is_not_reached(world: World) -> None:
    """What is wanted is set; what is too much waits until the store is reached again."""
    world.blocks.complete()
    world.step()
    world.blocks.lost()
    stale = unreachable(parse_cidr("10.32.55.0/24"))
    world.kernel.replace([stale])
    gone = via(parse_cidr("10.32.7.0/24"), parse_ip("192.0.2.4")[1])
    world.kernel.delete([gone])
    assert world.step(COMPARE_S) == FIRST | {str(stale)}
    assert world.step(COMPARE_S) == FIRST | {str(stale)}
    assert not world.setting.status.is_complete
    world.blocks.reached()
    assert world.step() == FIRST


def test_a_block_that_a_list_lacks(world: World) -> None:
    """The store was put back: the route stays for a minute, in which its owner claims it again."""
    world.blocks.complete()
    world.step()
    for cidr in ("10.32.7.0/24", "10.32.3.0/24"):
        world.free(cidr, certain=False)
    world.blocks.complete()
    assert world.step(HOLD_S - 5) == FIRST
    world.has("10.32.7.0/24", "c", "192.0.2.4")
    expected = FIRST - {"10.32.2.0/23 via 192.0.2.3"} | {"10.32.2.0/24 via 192.0.2.3"}
    assert world.step(10) == expected
    world.free("10.32.7.0/24")  # an event tells: at once
    assert world.step() == expected - {"10.32.7.0/24 via 192.0.2.4"}


def test_another_follower_tells_everything_again(world: World) -> None:
    """The agent's store was replaced: what the new follower does not tell goes after a minute."""
    world.blocks.complete()
    world.step()
    world.blocks.begin_anew(lambda: [parse_cidr(POOL)])
    world.has("10.32.0.0/24", "me", "192.0.2.2")
    world.has("10.32.7.0/24", "c", "192.0.2.4")
    assert world.step(2 * HOLD_S) == FIRST
    world.blocks.complete()
    assert world.step(2 * HOLD_S) == FIRST - {"10.32.2.0/23 via 192.0.2.3"}


def test_a_node_off_the_link(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It is named once and gets no route; when it moves onto the link it gets one."""
    caplog.set_level(logging.INFO, "fastipam.routes")
    world.has("10.32.7.0/24", "c", "198.51.100.4")
    world.blocks.complete()
    expected = FIRST - {"10.32.7.0/24 via 192.0.2.4"}
    for _ in range(3):
        assert world.step(COMPARE_S) == expected
    assert caplog.text.count("node c is not on a link of this machine") == 1
    assert world.setting.status.left_out == {"NodeOffLink": 1}
    is_set, reason, message = world.setting.condition
    assert (is_set, reason) == (False, "NodeOffLink")
    assert "198.51.100.4 has the gateway 192.0.2.1" in message
    world.has("10.32.7.0/24", "c", "192.0.2.4")
    assert world.step() == FIRST
    assert world.setting.condition.is_set
    world.has("10.32.7.0/24", "c", "198.51.100.4")  # and away: its route would lead nowhere
    assert world.step() == expected


def test_blocks_without_a_usable_address(caplog: pytest.LogCaptureFixture) -> None:
    """Missing, of the other family, loopback, no address: no route without another block."""
    world = World(POOL, "fd32::/112")
    world.has("10.32.1.0/24", "b")
    world.has("fd32::100/120", "c", "192.0.2.4")
    world.has("10.32.2.0/24", "d", "127.0.0.1")
    world.has("10.32.3.0/24", "e", "localhost")
    world.has("fd32::200/120", "f", "fe80::1")
    world.has("10.32.4.0/24", "g")  # handed over just now
    world.has("10.32.5.0/24", "g", "192.0.2.7")
    world.blocks.complete()
    assert world.step() == {
        "unreachable 10.32.0.0/16",
        "unreachable fd32::/112",
        "10.32.4.0/23 via 192.0.2.7",
    }
    assert world.setting.status.left_out == {"NodeWithoutAddress": 5}
    assert "node c has blocks, but no IPv6 address" in caplog.text
    world.blocks.see_node("b", ["2001:db8::3", "192.0.2.3"])  # as etcd tells it
    assert "10.32.1.0/24 via 192.0.2.3" in world.step()


def test_a_pool_that_holds_a_node(caplog: pytest.LogCaptureFixture) -> None:
    """An unreachable route for the nodes' own network would cut them off: it is not set."""
    world = World("192.0.0.0/16", "10.32.0.0/16")
    world.has("10.32.7.0/24", "c", "192.0.2.4")
    world.has("192.0.2.0/24", "b", "192.0.2.3")
    world.blocks.complete()
    assert world.step() == {"unreachable 10.32.0.0/16", "10.32.7.0/24 via 192.0.2.4"}
    assert world.setting.status.left_out == {"PrefixHoldsNode": 2}
    assert "192.0.0.0/16 holds the address 192.0.2.3 of node b" in caplog.text


def test_without_gateways(world: World) -> None:
    """Only what no pod has is unreachable; gateways that an earlier run has set are deleted."""
    world.blocks.complete()
    world.step()
    world.setting = Setting(world.kernel, [world.blocks], world.clock, gateways=False)
    world.has("10.32.7.0/24", "c", "198.51.100.4")
    assert world.step() == {one for one in FIRST if one.startswith("unreachable")}
    assert world.setting.condition == (True, "Set", "")
    assert world.setting.status.left_out == {}


def test_pools_that_come_and_go(world: World) -> None:
    """A pool gets its unreachable route when it is in force, and loses it with its last use."""
    pools = [parse_cidr(POOL)]
    world.blocks.begin_anew(lambda: list(pools))
    world.has("10.32.0.0/24", "me", "192.0.2.2")
    world.blocks.complete()
    assert world.step(2 * HOLD_S) == {"unreachable 10.32.0.0/16", "unreachable 10.32.0.0/24"}
    pools.append(parse_cidr("10.48.0.0/16"))
    world.now += 1
    world.setting.step()  # nobody has told: it is looked at
    world.now += 0.1
    world.setting.step()
    assert "unreachable 10.48.0.0/16" in world.kernel.routes()
    pools.pop()
    assert "unreachable 10.48.0.0/16" not in world.step()
    pools.clear()  # not known, as at the start of an agent: nothing is deleted
    assert world.step() == {"unreachable 10.32.0.0/16", "unreachable 10.32.0.0/24"}


def test_the_link_goes_down_and_up(world: World) -> None:
    """Routes that the kernel took with the link are set again as soon as it says that it is up."""
    world.blocks.complete()
    world.step()
    assert world.setting.interfaces == {2}
    world.kernel.down = True
    for key, one in list(world.kernel.table.items()):
        if one.gateway is not None:
            del world.kernel.table[key]
    heard = Heard()
    heard.compare = heard.links = True
    rejects = {one for one in FIRST if one.startswith("unreachable")}
    assert world.step(heard=heard) == rejects
    assert world.setting.condition.reason == "NodeNotReached"
    assert world.setting.step() <= 30  # it is tried again, even if nobody tells anything
    world.kernel.down = False
    heard = Heard()
    heard.links = True  # of an interface that is not known
    assert world.step(1.1, heard=heard) == FIRST
    assert world.setting.condition.is_set


def test_what_cannot_be_reached_for_a_moment_keeps_its_route(world: World) -> None:
    """The kernel has no route to a node now; the one to its blocks is not deleted for that."""
    world.blocks.complete()
    world.step()
    world.kernel.down = True
    assert world.step(COMPARE_S) == FIRST
    world.free("10.32.7.0/24")
    assert world.step() == FIRST - {"10.32.7.0/24 via 192.0.2.4"}


def test_refused_routes_are_tried_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The others are set; it is said once, counted, and over when the kernel takes the route."""
    world.kernel.refuses.add("192.0.2.4")
    world.blocks.complete()
    missing = "10.32.7.0/24 via 192.0.2.4"
    for _ in range(4):
        assert world.step(31) == FIRST - {missing}
    assert caplog.text.count(f"the kernel refuses the route {missing}") == 1
    assert world.setting.condition.reason == "RouteRefused"
    assert world.setting.status.refused >= 4
    world.kernel.refuses.clear()
    assert world.step(31) == FIRST
    assert world.setting.condition.is_set


def test_somebody_else_deletes_routes(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """They come back; who goes on is named once, and the comparisons become rare."""
    world.blocks.complete()
    world.step()
    world.kernel.table.clear()
    assert world.step(heard=changed_by(4711)) == FIRST
    for _ in range(20):
        world.kernel.table.clear()
        world.setting.hear(changed_by(4711))
    world.kernel.steps.clear()
    for _ in range(100):  # a hundred changes in ten seconds
        world.setting.hear(changed_by(4711))
        world.now += 0.1
        world.setting.step()
    assert world.kernel.steps.count("list") <= 3
    assert caplog.text.count("process=4711 changed routes") == 1
    world.now += 31
    world.setting.step()
    assert world.kernel.routes() == FIRST


def test_a_kernel_that_does_not_answer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """No buffer, in the middle of a change: the socket is opened anew and all is compared."""
    world.blocks.complete()
    world.kernel.faults = [OSError(errno.ENOBUFS, "No buffer space available")]
    world.step()
    assert world.kernel.reopened == 1
    assert world.setting.condition.reason == "KernelFailed"
    assert "No buffer space available" in caplog.text
    assert world.step() == FIRST
    assert world.setting.condition.is_set


def test_a_process_that_was_killed_between_set_and_delete(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both routes are there; the next process deletes the one that is too much."""
    world.blocks.complete()
    world.step()
    world.has("10.32.3.0/24", "c", "192.0.2.4")
    world.now += 1
    kernel = world.kernel
    monkeypatch.setattr(kernel, "delete", _killed)
    with pytest.raises(KeyboardInterrupt):
        world.step()
    monkeypatch.undo()
    assert "10.32.2.0/23 via 192.0.2.3" in kernel.routes()
    assert "10.32.3.0/24 via 192.0.2.4" in kernel.routes()
    world.setting = Setting(kernel, [world.blocks], world.clock)
    expected = FIRST - {"10.32.2.0/23 via 192.0.2.3"}
    expected |= {"10.32.2.0/24 via 192.0.2.3", "10.32.3.0/24 via 192.0.2.4"}
    assert world.step() == expected


def _killed(_: Sequence[Route]) -> Refused:
    raise KeyboardInterrupt


def test_two_networks(world: World) -> None:
    """The routes of both are kept; nothing is deleted until both have told all of theirs."""
    other = world.network("me", "10.64.0.0/16")
    world.setting = Setting(world.kernel, [world.blocks, other], world.clock)
    world.kernel.replace([via(parse_cidr("10.64.5.0/24"), parse_ip("192.0.2.5")[1])])
    world.kernel.replace([via(parse_cidr("10.64.6.0/24"), parse_ip("192.0.2.5")[1])])
    earlier = world.kernel.routes()
    world.blocks.complete()
    assert world.step() == FIRST | earlier
    world.has("10.64.5.0/24", "e", "192.0.2.5", blocks=other)
    assert world.step() == FIRST | earlier
    other.complete()
    expected = FIRST | {"10.64.5.0/24 via 192.0.2.5", "unreachable 10.64.0.0/16"}
    assert world.step() == expected
    other.lost()
    world.free("10.32.7.0/24")
    assert world.step() == expected
    other.reached()
    assert world.step() == expected - {"10.32.7.0/24 via 192.0.2.4"}


def test_a_long_table_is_planned_rarely_while_it_changes(world: World) -> None:
    """Changes that come one by one, faster than a plan is made, share plans."""
    world.blocks.complete()
    world.step()
    plans = 0
    for number in range(200):
        world.has(f"10.32.{number % 50 + 100}.0/24", "b", f"192.0.2.{number % 7 + 10}")
        before = len(world.kernel.steps)
        world.setting.changed()
        world.setting.step()
        plans += len(world.kernel.steps) > before
        world.now += 0.005
    assert plans <= 21
