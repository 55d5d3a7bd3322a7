"""What native code may serve of a configuration, and the answers that are prepared for it."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.addressing.addresses import BITS
from fastipam.addressing.parsing import build_pool
from fastipam.addressing.ranges import Range
from fastipam.agent import batch, plain, protocol
from fastipam.agent.batch import Executor
from fastipam.agent.client import Client
from fastipam.agent.requests import Answer, Request
from fastipam.cni import results
from fastipam.cni.environment import ADD, DEL
from fastipam.configuration.network import Route
from fastipam.lease import Lease
from fastipam.storage import open_stores

from ..cni.plugin import VERSIONS, Make, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEN = "4:4026532000 4:4026531840 4:4026531841 5"
SUBNET = {"subnet": "10.1.0.0/16"}


class _Served:
    """An executor, and how many requests native code has served for it."""

    def __init__(self) -> None:
        self.executor = Executor()
        self.native = 0
        self._client = Client(-1, os.getpid())
        self._serve = vars(batch)["serve"]

    def count(self, *arguments: Any) -> Any:
        """Serve natively, and count."""
        served = self._serve(*arguments)
        self.native += len(served)
        return served

    def __call__(self, *asked: tuple[str, dict[str, Any], str]) -> list[Answer]:
        """Serve a batch of (command, configuration, container), as a launcher sends them."""
        return self.executor([self._request(*one) for one in asked])

    def _request(self, command: str, config: dict[str, Any], container: str) -> Request:
        variables = environment(command, container) | {protocol.NETNS: SEEN}
        self._client.incoming += protocol.pack_request(variables, json.dumps(config).encode())
        request = self._client.take_request()
        assert request is not None
        return request


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Served]:
    """An executor that counts."""
    made = _Served()
    monkeypatch.setattr(batch, "serve", made.count)
    yield made
    open_stores.close_all()


def _pools() -> Iterator[list[list[Range]]]:
    """Range sets: one, two families in both orders, several ranges with and without gateway."""
    four, six = Range.parse("10.1.0.0/16"), Range.parse("fd00:1::/48")
    split = [
        Range.parse("10.2.0.0/24", gateway="10.2.0.9"),
        Range.parse("10.3.0.0/31"),
        Range.parse("10.4.0.0/24", start="10.4.0.77", default_gateway=False),
    ]
    yield [[four]]
    yield [[six]]
    yield [[four], [six]]
    yield [[six], [four]]
    yield [split, [six]]
    yield [[six], split]


@pytest.mark.parametrize("version", VERSIONS)
def test_results(version: str) -> None:
    """The prepared answers are those that Python makes of leases, for any address."""
    number = tuple(map(int, version.split(".")))
    random_one = random.Random(version)
    listed = [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/64", "gw": "fd00:1::1", "mtu": 1400}]
    for sets in _pools():
        for chosen in ([], listed):
            routes = [Route(one, "routes", []) for one in chosen]
            answers = results.Answers(number, routes)  # type: ignore[arg-type]
            pool = build_pool(sets, [], fields=[""] * len(sets))
            prepared = plain.results_of(number, pool, answers)  # type: ignore[arg-type]
            for _ in range(100):
                ranges = [random_one.choice(one) for one in sets]
                values = [_some_address(one, random_one) for one in ranges]
                leases = [
                    Lease("net", one.family, value, one.gateway, _record(one))
                    for one, value in zip(ranges, values, strict=True)
                ]
                pairs = [(one.family, one.value) for one in leases]
                assert prepared.text(pairs) == answers.encode(leases, {})


def _some_address(one: Range, random_one: random.Random) -> int:
    """Return an address of a range; half of them have long rows of zeros."""
    value = random_one.randint(one.start, one.end)
    if random_one.random() < 0.5:
        for at in range(BITS[one.family] // 16):
            if random_one.random() < 0.6:
                value &= ~(0xFFFF << 16 * at)
    return min(max(value, one.start), one.end)


def _record(one: Range) -> bytes:
    """Return the part of a lease's record that an answer needs: the prefix length."""
    return bytes((1, one.length)) + bytes(70)


def test_address_of_no_range() -> None:
    """There is no answer for an address that no range of its set has."""
    sets = [[Range.parse("10.1.0.0/24")]]
    pool = build_pool(sets, [], fields=[""])
    prepared = plain.results_of((1, 0, 0), pool, results.Answers((1, 0, 0), []))
    assert prepared.text([(4, 10 << 24)]) is None
    assert prepared.text([(6, 1)]) is None
    with pytest.raises(ValueError, match="each set has one address"):
        prepared.text([])


def test_served_natively(served: _Served, config: Make) -> None:
    """Of a configuration the first ADD and the first DEL are served in Python, no others."""
    made = config(ipam=SUBNET)
    added = served(*[(ADD, made, f"c{at}") for at in range(9)])
    assert served.native == 8
    deleted = served(*[(DEL, made, f"c{at}") for at in range(9)])
    assert served.native == 16
    assert [one.status for one in (*added, *deleted)] == [0] * 18
    assert len({one.output for one in added}) == 9
    assert {one.output for one in deleted} == {b""}


def test_notes_are_repeated(served: _Served, config: Make) -> None:
    """What Python says of a configuration on standard error, native code says with each ADD."""
    made = config(ipam=SUBNET | {"unknown": 1})
    first, second = served((ADD, made, "c1"), (ADD, made, "c2"))
    assert served.native == 1
    assert first.messages == second.messages
    assert b"ipam.unknown" in first.messages


@pytest.mark.parametrize(
    "more",
    [
        {"ipam": SUBNET | {"sticky": "pod"}},
        {"ipam": SUBNET | {"resolvConf": "/dev/null"}},
        {"ipam": {"ranges": [[SUBNET], *([{"subnet": f"10.{at}.0.0/24"}] for at in range(2, 11))]}},
        {"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}},
    ],
)
def test_not_plain(served: _Served, config: Make, more: dict[str, Any]) -> None:
    """What asks for more than an address of each set is served in Python; its DEL is plain."""
    ipam = more.get("ipam", SUBNET)
    made = config(ipam=ipam) | {key: one for key, one in more.items() if key != "ipam"}
    assert [one.status for one in served(*[(ADD, made, f"c{at}") for at in range(3)])] == [0] * 3
    assert served.native == 0
    assert [one.status for one in served(*[(DEL, made, f"c{at}") for at in range(3)])] == [0] * 3
    assert served.native == 2


def test_requested_address(served: _Served, config: Make) -> None:
    """A configuration that asks for an address by name is served in Python."""
    made = config(ipam=SUBNET) | {"args": {"cni": {"ips": ["10.1.0.7"]}}}
    for _ in range(3):
        assert [one.status for one in served((ADD, made, "c1"), (DEL, made, "c1"))] == [0, 0]
    assert served.native == 2  # DELs


def test_order_is_kept(served: _Served, config: Make) -> None:
    """A request of a batch sees what those before it did, whoever has served them."""
    made = config(ipam=SUBNET)
    served((ADD, made, "c0"), (DEL, made, "c0"))
    commands = (ADD, "STATUS", DEL, "CHECK", ADD, DEL, ADD, DEL)
    answers = served(*[(one, made, "c1") for one in commands])
    codes = [json.loads(one.output)["code"] if one.status else 0 for one in answers]
    assert codes == [0, 0, 0, 104, 0, 0, 0, 0]
    assert served.native == 6


def test_store_is_replaced(served: _Served, config: Make, tmp_path: Any) -> None:
    """When the store is another one, the configuration is prepared for it anew."""
    made = config(ipam=SUBNET)
    served((ADD, made, "c1"), (ADD, made, "c2"))
    (tmp_path / "store").rename(tmp_path / "old")
    answers = served((ADD, made, "c1"), (ADD, made, "c2"))
    assert [one.status for one in answers] == [0, 0]
    assert served.native == 2
