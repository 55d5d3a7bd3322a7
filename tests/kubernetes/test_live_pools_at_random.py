"""Random edits of pools while pods start and end, controllers lag, and agents restart or hear late.

No address is two pods' at any moment, and no pod gets one that its node knows to be disabled or
excluded. When all have heard of all, everything is as if each change had come alone. ``--long``:
two hundred sequences, and a real server.
"""

from __future__ import annotations

import ipaddress
import random
from typing import TYPE_CHECKING, Any

import pytest

from ..options import options
from . import bodies
from .agents import owners
from .rest import POOLS
from .test_live_pools import Scene

if TYPE_CHECKING:
    from pathlib import Path

    from .agents import Agent
    from .conftest import Api
    from .fake import FakeServer
    from .server import ApiServer

SEQUENCES, STEPS = (200, 120) if options.long else (6, 60)
NAMES = ("one", "two", "three")
CIDRS = ("10.32.0.0/23", "10.32.2.0/23", "10.32.0.0/22", "10.64.0.0/23", "10.64.0.0/22")
SIZES = (24, 25, 26)


class Chaos(Scene):
    """A scene that does whatever a number says."""

    def __init__(self, api: Api, path: Path, seed: int) -> None:
        super().__init__(api, path)
        self.chance = random.Random(seed)
        self.done: list[str] = []
        self.known: dict[str, dict[str, Any]] = {one.name: {} for one in self.agents}
        self.late: dict[str, dict[str, Any]] = {}  # what a node goes on hearing

    def in_force(self) -> dict[str, Any]:
        """What is in force of each pool; one that is being deleted is disabled."""
        found = {}
        for one in self.api.admin.get(POOLS).done()["items"]:
            accepted = one.get("status", {}).get("accepted")
            if accepted:
                is_going = bool(one["metadata"].get("deletionTimestamp"))
                found[one["metadata"]["name"]] = accepted["spec"] | (
                    {"disabled": True} if is_going else {}
                )
        return found

    def step(self) -> None:
        """Do one thing."""
        what = self.chance.choice((
            self._make, self._edit, self._edit, self._end, self._lead, self._lead, self._pods,
            self._pods, self._pods, self._turn, self._turn, self._turn, self._restart, self._hear,
        ))  # fmt: skip
        what()

    def _note(self, text: str) -> None:
        self.done.append(text)

    def _make(self) -> None:
        name, cidr = self.chance.choice(NAMES), self.chance.choice(CIDRS)
        size = self.chance.choice(SIZES)
        answer = self.api.admin.create(POOLS, bodies.pool(name, cidr, size))
        self._note(f"make {name} {cidr} /{size}: {answer.status}")

    def _edit(self) -> None:
        name = self.chance.choice(NAMES)
        spec: dict[str, Any] = self.chance.choice((
            {"disabled": True}, {"disabled": False}, {"exclude": []},
            {"exclude": ["10.32.0.0/24", "10.32.1.64/26"]}, {"exclude": ["10.64.0.0-10.64.0.99"]},
            {"cidr": "10.32.0.0/22"}, {"cidr": "10.64.0.0/22"}, {"cidr": "10.32.0.0/15"},
            {"blockSize": 27},
        ))  # fmt: skip
        answer = self.api.admin.merge(f"{POOLS}/{name}", {"spec": spec})
        self._note(f"edit {name} {spec}: {answer.status}")

    def _end(self) -> None:
        name = self.chance.choice(NAMES)
        answer = self.api.admin.delete(f"{POOLS}/{name}")
        self._note(f"delete {name}: {answer.status}")

    def _lead(self) -> None:
        seconds = self.chance.choice((0.0, 1.0, 15.0))
        self._note(f"controller {self.leader.turn(seconds)}")

    def _turn(self) -> None:
        one = self.chance.choice(self.agents)
        heard = self.late.get(one.name, self.in_force())
        one.turn(self.chance.choice((0.1, 6.0)))
        self.known[one.name] = heard
        self._note(f"turn {one.name}")

    def _pods(self) -> None:
        one = self.chance.choice(self.agents)
        leases = list(one.network.leases()) if one.share.settings.pools else []
        if leases and self.chance.random() < 0.45:
            for lease in self.chance.sample(leases, self.chance.randint(1, len(leases))):
                one.network.release(str(lease.container_id))
            self._note(f"pods of {one.name} end")
            return
        if not one.share.settings.pools:
            return
        before = {lease.address.ip for lease in leases}
        served = one.add(self.chance.choice((1, 3, 40)))
        new = {lease.address.ip for lease in one.network.leases()} - before
        self._note(f"add {one.name}: {sorted(map(str, new))[:3]} … {served}")
        for address in new:
            self._check(one, address)

    def _check(self, one: Agent, address: Any) -> None:
        known = self.known[one.name]
        mine = [
            spec
            for spec in known.values()
            if address in ipaddress.ip_network(spec["cidr"]) and not spec.get("disabled")
        ]
        assert mine, (one.name, address, known)
        for text in mine[0].get("exclude") or ():
            if "-" in text:
                first, last = map(ipaddress.ip_address, text.split("-"))
                assert not first <= address <= last, (one.name, address, text)
            else:
                assert address not in ipaddress.ip_network(text), (one.name, address, text)

    def _restart(self) -> None:
        one = self.chance.choice(self.agents)
        self.late.pop(one.name, None)
        if one.share.settings.pools:
            one.read_founding()
        one.begin()
        self._note(f"restart {one.name}")

    def _hear(self) -> None:
        """The watch of a node's pools stands still from now on, or goes on."""
        one = self.chance.choice(self.agents)
        if one.name in self.late:
            self.late.pop(one.name, None)
            one.hear_pools()
        elif self.known[one.name]:
            self.late[one.name] = self.in_force()
            one.miss_pools()
        self._note(f"late: {sorted(self.late)}")

    def come_to_rest(self) -> None:
        """All hear of all; then all pods end."""
        self._note("rest")
        for one in self.agents:
            one.hear_pools()
        self.late.clear()
        for _ in range(4):
            self.follow(6)
        self.running()
        self.assert_whole()
        for one in self.agents:
            for lease in list(one.network.leases()) if one.share.settings.pools else ():
                one.network.release(str(lease.container_id))
        for _ in range(5):
            self.turn(6, times=2)
            self.leader.settle(11)
        found = self.in_force()
        for name, spec in found.items():
            assert self.pool(name)["metadata"].get("deletionTimestamp") is None, name
            if spec.get("disabled"):
                inside = ipaddress.ip_network(spec["cidr"])
                left = [one.partition("/")[0] for one in owners(self.api)]
                assert not [one for one in left if ipaddress.ip_address(one) in inside], name
        self.turn(601, times=2)
        self.assert_whole()


@pytest.mark.parametrize("number", range(SEQUENCES))
def test_random_edits(fake_api: FakeServer, tmp_path: Path, number: int) -> None:
    """A sequence of edits, pods, turns and restarts."""
    _edit_at_random(fake_api, tmp_path, number)


@pytest.mark.kubernetes
@pytest.mark.parametrize("number", range(SEQUENCES if options.long else 1))
def test_random_edits_on_a_real_server(api_server: ApiServer, tmp_path: Path, number: int) -> None:
    """The same, fewer of them."""
    _edit_at_random(api_server, tmp_path, number)


def _edit_at_random(api: Api, tmp_path: Path, number: int) -> None:
    scene = Chaos(api, tmp_path, options.seed * 1000 + number)
    try:
        for _ in range(STEPS):
            scene.step()
            scene.running()
        scene.come_to_rest()
    except BaseException:
        print("\n".join(scene.done))
        raise
    finally:
        scene.close()
