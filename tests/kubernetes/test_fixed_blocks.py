"""Addresses that are blocks of their own: claimed by name, handed over, given back.

Agents on a clock that the test moves; an ADD is what a plugin does when it requests addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from fastipam.addressing.addresses import parse_ip
from fastipam.cluster.admin import admin
from fastipam.cluster.deadline import Deadline
from fastipam.configuration.policy import Policy
from fastipam.errors import AddressNotInRange
from fastipam.network import Network
from fastipam.storage.records.block import ACTIVE
from fastipam.verify import verify

from .agents import Agent, Time, assert_agree, unsettled
from .machines import NETWORK, accept, claim, owners
from .rest import REQUESTS

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Api
    from .fake import FakeServer

POD = ["10.9.0.10", "fd09::10"]


class Cluster:
    """Three nodes; of each family a pool in blocks of 256 addresses, and one in blocks of one."""

    def __init__(self, api: Api, path: Path) -> None:
        accept(api, "default", "10.32.0.0/20", 24)
        accept(api, "default-v6", "fd32::/112", 120)
        accept(api, "fixed", "10.9.0.0/24", 32)
        accept(api, "fixed-v6", "fd09::/112", 128)
        self.api = api
        self.time = Time()
        self.agents = [Agent(path, api, name, self.time) for name in "abc"]
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        """A turn of every keeper."""
        self.time.now += seconds
        for agent in self.agents:
            agent.turn()

    def add(self, agent: Agent, pod: str, addresses: list[str], turns: int = 8) -> None:
        """An ADD that waits for so many turns of the keepers. Raises what refuses it."""
        wanted = [parse_ip(one) for one in addresses]
        for left in range(turns, -1, -1):
            try:
                lease = agent.network.allocate(pod, addresses=addresses)
            except AddressNotInRange:
                told = agent.keeper.named.want(pod, wanted)
                if not left or told.is_final:
                    raise AddressNotInRange(told.text) from None
                self.turn(0.6)
            else:
                assert {str(one.address.ip) for one in lease.siblings} >= set(addresses)
                return

    def singles(self) -> dict[str, str]:
        """The owner of each address that is a block."""
        return {
            str(ipaddress.ip_network(cidr).network_address): node
            for cidr, node in owners(self.api).items()
            if cidr.endswith(("/32", "/128"))
        }

    def check(self) -> None:
        """Nobody assigns what is another's; nothing is begun and not finished."""
        assert_agree(self.api, self.agents)
        assert not unsettled(self.api, self.agents)
        for agent in self.agents:
            assert not verify(agent.store)

    def close(self) -> None:
        """Close everything."""
        for agent in self.agents:
            agent.close()


@pytest.fixture
def cluster(api: Api, tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that have joined."""
    made = Cluster(api, tmp_path)
    yield made
    made.close()


def test_a_free_address_is_claimed(cluster: Cluster) -> None:
    """One ADD gets its addresses of both families; nobody else is asked."""
    cluster.add(cluster.agents[0], "web-0", POD)
    assert cluster.singles() == dict.fromkeys(POD, "a")
    assert cluster.api.admin.get(REQUESTS).done()["items"] == []
    cluster.check()


def test_nothing_is_claimed_ahead(cluster: Cluster) -> None:
    """An ADD without a request, and a keeper without one, leave such a pool alone."""
    one = cluster.agents[0]
    for number in range(3):
        lease = one.network.allocate(f"c{number}")
        assert lease.address.ip in ipaddress.ip_network("10.32.0.0/20")
        cluster.turn(20)
    assert cluster.singles() == {}


def test_eight_pods_move_twice_over_three_nodes(cluster: Cluster) -> None:
    """They keep their addresses of both families; what they leave is as if they had not been."""
    wanted = {f"web-{at}": [f"10.9.0.{10 + at}", f"fd09::{10 + at:x}"] for at in range(8)}
    everything = [one for pair in wanted.values() for one in pair]
    for name, one in zip("abc", cluster.agents, strict=True):
        others = [each for each in cluster.agents if each is not one]
        for pod, addresses in wanted.items():
            for other in others:
                other.network.release(pod, "eth0")
            cluster.add(one, pod, addresses)
        assert cluster.singles() == dict.fromkeys(everything, name)
        cluster.check()
        for other in others:
            assert not [
                each for each in other.share.blocks() if other.cidr(each)[-2:] in ("28", "32")
            ]
            assert not list(other.network.leases())
            assert not list(other.network.reservations())
    for pod in wanted:
        cluster.agents[2].network.release(pod, "eth0")
    for _ in range(4):
        cluster.turn(6)
    assert cluster.singles() == {}
    assert cluster.api.admin.get(REQUESTS).done()["items"] == []
    cluster.check()


def test_a_cool_down_does_not_hold_back_who_asks_by_name(cluster: Cluster) -> None:
    """The address cools down on the node that the pod has left; the other one gets it."""
    one, two = cluster.agents[:2]
    cluster.add(one, "web-0", POD)
    cooling = Network(one.store, NETWORK, one.share.settings.pool, policy=Policy(cooldown_s=3600))
    assert cooling.release("web-0", "eth0")
    assert cooling.stats().cooling == 2
    for _ in range(4):
        cluster.turn(6)
    assert cluster.singles() == dict.fromkeys(POD, "a"), "a cooling address is not given back"
    cluster.add(two, "web-0", POD)
    assert cluster.singles() == dict.fromkeys(POD, "b")
    assert cooling.stats().cooling == 0
    cluster.check()


def test_a_living_lease_is_not_handed_over(cluster: Cluster) -> None:
    """The ADD waits, and says which node has it; when the pod has gone, it is served."""
    one, two = cluster.agents[:2]
    cluster.add(one, "web-0", POD)
    with pytest.raises(AddressNotInRange, match=r"10\.9\.0\.10 belongs to node a"):
        cluster.add(two, "other", POD)
    assert cluster.singles() == dict.fromkeys(POD, "a")
    assert one.network.lookup(POD[0]) is not None
    one.network.release("web-0", "eth0")
    cluster.add(two, "other", POD)
    assert cluster.singles() == dict.fromkeys(POD, "b")
    cluster.check()


def test_a_node_that_is_down_keeps_it_until_it_is_removed(cluster: Cluster) -> None:
    """The refusal names the node; once that is removed, the address is claimed."""
    one, two, _ = cluster.agents
    cluster.add(one, "web-0", POD)
    cluster.agents.remove(one)
    with pytest.raises(AddressNotInRange, match="belongs to node a"):
        cluster.add(two, "web-0", POD)
    admin.release_node(two.operator(), "a", Deadline(10), force=True)
    cluster.add(two, "web-0", POD)
    assert cluster.singles() == dict.fromkeys(POD, "b")
    cluster.check()
    cluster.agents.append(one)


def test_one_request_names_blocks_of_two_owners(cluster: Cluster) -> None:
    """Each hands over what he has; one request names all that is missing."""
    one, two, three = cluster.agents
    cluster.add(one, "x", POD[:1])
    cluster.add(two, "y", POD[1:])
    three.keeper.named.want("web-0", [parse_ip(each) for each in POD])
    three.turn(0.6)
    (request,) = cluster.api.admin.get(REQUESTS).done()["items"]
    assert request["spec"]["cidrs"] == ["10.9.0.10/32", "fd09::10/128"]
    assert request["spec"]["blocks"] == 2
    one.network.release("x", "eth0")
    two.network.release("y", "eth0")
    cluster.add(three, "web-0", POD)
    assert cluster.singles() == dict.fromkeys(POD, "c")
    cluster.check()


def test_a_pool_of_them_is_not_counted_with_one_that_is_used_up(cluster: Cluster) -> None:
    """What an ADD without a request hears is about the blocks that could serve it."""
    one, two = cluster.agents[:2]
    cluster.add(one, "web-0", POD[:1])
    node = one.node()
    while claim(node, 8):
        pass
    two.add(300)
    for _ in range(3):
        two.turn(1.1)
        told = two.keeper.need("c")
    assert "no block is free, 16 of 16 are owned (a has 14, b has 1, c has 1)" in told


def test_an_add_that_waits_asks_twice_a_second(fake_api: FakeServer, tmp_path: Path) -> None:
    """However often the agent handles it again; also while another request is in the way."""
    cluster = Cluster(fake_api, tmp_path)
    try:
        one, two = cluster.agents[:2]
        cluster.add(one, "web-0", POD)
        two.node().write_mark(4, 1, Deadline(10))
        two.keeper._marked.add((4, ()))
        two.keeper.named.want("x", [parse_ip(each) for each in POD])
        two.turn_alone(0.6)
        posts = {key: count for key, count in fake_api.requests.items() if key[0] == "POST"}
        for _ in range(20):
            two.keeper.named.want("x", [parse_ip(each) for each in POD])
            two.turn_alone(0.02)
        assert {key: n for key, n in fake_api.requests.items() if key[0] == "POST"} == posts
    finally:
        cluster.close()


def test_two_nodes_want_one_address(cluster: Cluster) -> None:
    """One gets it, whatever the order of their turns; the other one is refused."""
    served = []
    wanted = [parse_ip(each) for each in POD]
    for _ in range(6):
        for agent in cluster.agents[:2]:
            try:
                agent.network.allocate("web-0", addresses=POD)
            except AddressNotInRange:
                agent.keeper.named.want("web-0", wanted)
            else:
                served.append(agent.name)
        if served:
            break
        cluster.turn(0.6)
        assert_agree(cluster.api, cluster.agents)
    assert served == ["a"]
    with pytest.raises(AddressNotInRange, match="belongs to node a"):
        cluster.add(cluster.agents[1], "web-0", POD)
    cluster.check()


def test_an_address_of_a_larger_block(cluster: Cluster) -> None:
    """It is refused on every node but its own, at once, with the node and the way out."""
    one, two = cluster.agents[:2]
    lease = one.network.allocate("c1")
    free = str(lease.address.ip + 1)
    assert str(one.network.allocate("c2", addresses=[free]).address.ip) == free
    block = ipaddress.ip_network(f"{free}/24", strict=False)
    told = two.keeper.named.want("c3", [parse_ip(free)])
    cluster.turn(0.6)
    told = two.keeper.named.want("c3", [parse_ip(free)])
    assert told.is_final
    assert f"block {block} of the cluster's pool, which node a owns" in told.text
    assert "blockSize 32" in told.hint
    taken = {ipaddress.ip_network(cidr)[0] for cidr in owners(cluster.api) if cidr.endswith("/24")}
    nobody = next(
        str(each[9])
        for each in ipaddress.ip_network("10.32.0.0/20").subnets(new_prefix=24)
        if each[0] not in taken
    )
    two.keeper.named.want("c4", [parse_ip(nobody)])
    cluster.turn(0.6)
    assert "which no node owns now" in two.keeper.named.want("c4", [parse_ip(nobody)]).text


def test_other_needs_and_named_ones_take_turns(cluster: Cluster) -> None:
    """A node has one request: neither an address that is held nor a full pool keeps it for ever."""
    one, two = cluster.agents[:2]
    cluster.add(one, "web-0", POD)
    node = one.node()
    while claim(node, 8):
        pass
    asked = set()
    for _ in range(12):
        two.keeper.named.want("web-0", [parse_ip(each) for each in POD])
        two.add(300)
        two.turn(1.1)
        for each in cluster.api.admin.get(REQUESTS).done()["items"]:
            asked.add("named" if "cidrs" in each["spec"] else "any")
    assert asked == {"named", "any"}


def test_a_node_that_has_begun_anew_gets_what_is_its_own(cluster: Cluster) -> None:
    """A block that the API says is this node's is compared, and serves its pod again."""
    one = cluster.agents[0]
    cluster.add(one, "web-0", POD)
    one.network.release("web-0", "eth0")
    ids = [(block.family, block.base) for block in one.share.blocks()]
    one.share.forget(ids, ACTIVE)
    cluster.add(one, "web-0", POD)
    assert cluster.singles() == dict.fromkeys(POD, "a")
    cluster.check()
