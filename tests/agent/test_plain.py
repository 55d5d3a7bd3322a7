"""What native code may serve of a configuration, and the answers that are prepared for it."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.addressing.addresses import BITS
from fastipam.addressing.parsing import build_pool
from fastipam.addressing.ranges import Range
from fastipam.agent import batch, plain, protocol
from fastipam.agent.batch import Executor
from fastipam.agent.client import Client
from fastipam.agent.requests import Answer, Request
from fastipam.allocation.lookup import look_up
from fastipam.cni import results
from fastipam.cni.environment import ADD, DEL
from fastipam.configuration.network import route
from fastipam.lease import Lease
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys

from ..cni.plugin import VERSIONS, Held, Make, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEEN = "4:4026532000 4:4026531840 4:4026531841 5"
SUBNET = {"subnet": "10.1.0.0/16"}


class _Served:
    """An executor, and how many requests native code has served for it."""

    def __init__(self) -> None:
        self.executor = Executor()
        self.native = 0
        self._client = Client(-1, os.getpid())
        self._serve = vars(batch)["serve"]

    def count(self, frames: list[bytes], answers: list[Any], *arguments: Any) -> None:
        """Serve natively, and count."""
        before = len(answers)
        self._serve(frames, answers, *arguments)
        self.native += len(answers) - before

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
    # Nobody is looked for who might be dead: no owner of these tests lives.
    monkeypatch.setattr(made.executor._services, "release_dead", lambda *_: None)
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
            routes = [route(one, "routes", []) for one in chosen]
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


def test_store_is_replaced(served: _Served, config: Make, tmp_path: Path) -> None:
    """When the store is another one, the configuration is prepared for it anew."""
    made = config(ipam=SUBNET)
    served((ADD, made, "c1"), (ADD, made, "c2"))
    (tmp_path / "store").rename(tmp_path / "old")
    answers = served((ADD, made, "c1"), (ADD, made, "c2"))
    assert [one.status for one in answers] == [0, 0]
    assert served.native == 2


def test_release_with_the_result(served: _Served, config: Make) -> None:
    """A DEL has the ADD's answer in its configuration, as libcni sends it, and is plain."""
    made = dict(sorted(config(ipam=SUBNET).items()))
    added = served(*[(ADD, made, f"c{at}") for at in range(5)])
    documents = [_with_result(made, json.loads(one.output)) for one in added]
    answers = served(*[(DEL, one, f"c{at}") for at, one in enumerate(documents)])
    assert {one.status for one in answers} == {0}
    assert served.native == 8
    # What was read of a configuration is kept once.
    assert len(served.executor._services.known) == 1


def _with_result(document: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration as libcni makes it for a DEL: its members in order."""
    return dict(sorted({**document, "prevResult": result}.items()))


def test_last_address(served: _Served, config: Make, held: Held) -> None:
    """When no address is free Python decides; who comes first gets the last one."""
    made = config(ipam={"subnet": "10.1.0.0/29", "cooldown": 60, "cooldownPolicy": "strict"})
    answers = served(*[(ADD, made, f"c{at}") for at in range(7)])
    assert [one.status for one in answers] == [0] * 5 + [1] * 2
    assert json.loads(answers[-1].output)["code"] == 100
    assert served.native == 4
    again = served((DEL, made, "c0"), (ADD, made, "c8"))
    assert [one.status for one in again] == [0, 1]  # its address cools
    assert len(held()) == 4


def test_one_of_two_sets_is_full(served: _Served, config: Make, held: Held) -> None:
    """An ADD that gets an address of one set and none of the other gets neither."""
    ranges = [[SUBNET], [{"subnet": "10.2.0.0/29"}]]
    made = config(ipam={"ranges": ranges, "cooldown": 0})
    answers = served(*[(ADD, made, f"c{at}") for at in range(7)])
    assert [one.status for one in answers] == [0] * 5 + [1] * 2
    assert served.native == 4
    assert len(held()) == 10
    assert [one.status for one in served((DEL, made, "c1"), (ADD, made, "c7"))] == [0, 0]
    assert len(held()) == 10


def test_reserved_address(served: _Served, config: Make, tmp_path: Path) -> None:
    """While the network has reservations, an ADD is served in Python: one may be for its pod."""
    made = config(ipam=SUBNET, name="net")
    served((ADD, made, "c0"), (ADD, made, "c1"))
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("net").reserve("10.1.0.9", owner="c2")
    answer = served((ADD, made, "c2"))[0]
    assert b'"10.1.0.9/16"' in answer.output
    assert served.native == 1


def test_damaged_records(served: _Served, config: Make, tmp_path: Path) -> None:
    """A lease at an address that is free spoils only the requests that meet it."""
    made = config(ipam=SUBNET, name="net")
    served((ADD, made, "c0"), (ADD, made, "c1"))
    store = open_stores.get(str(tmp_path / "store"), None)
    with store.write() as txn:
        found = look_up(txn, "net")
        assert found is not None
        pool_id = found[1]
        raw = tables.LEASES.get(txn, keys.address_key(pool_id, 4, 0x0A010002))
        assert raw is not None
        tables.LEASES.put(txn, keys.address_key(pool_id, 4, 0x0A010004), raw)
    answers = served(*[(DEL, made, "c1"), (ADD, made, "c2"), (DEL, made, "c0")])
    assert [one.status for one in answers] == [0, 1, 0]
    assert b"10.1.0.4" in answers[1].output


def _named(config: Make, name: str, **keys: Any) -> dict[str, Any]:
    return config(name=name, ipam=SUBNET | {"pool": "blue"} | keys)


def test_two_networks_of_one_pool(served: _Served, config: Make) -> None:
    """A batch serves networks that share pool and ranges natively, and no address twice."""
    one, two = _named(config, "one"), _named(config, "two")
    served((ADD, one, "a"), (ADD, two, "a"))
    before = served.native
    asked = [(ADD, (one, two)[at % 2], f"c{at}") for at in range(64)]
    answers = served(*asked)
    assert served.native - before == 64
    got = [json.loads(answer.output)["ips"][0]["address"] for answer in answers]
    assert len(set(got)) == 64
    served((DEL, one, "c0"), (DEL, one, "c1"))
    assert [_holds(config, name) for name in ("one", "two")] == [32, 33]


def test_ranges_of_their_own_in_a_batch(served: _Served, config: Make) -> None:
    """So does a batch in which the ranges of a pool change, in Python where they differ."""
    one = _named(config, "one")
    two = _named(config, "two", subnet="10.1.0.0/24")
    asked = [(ADD, (one, two)[at % 2], f"c{at}") for at in range(64)]
    answers = served(*asked)
    got = [json.loads(answer.output)["ips"][0]["address"].partition("/")[0] for answer in answers]
    assert len(set(got)) == 64


def test_another_pool_is_not_plain(served: _Served, config: Make) -> None:
    """A configuration with another pool is refused, however often the old one was served."""
    one = _named(config, "one")
    for at in range(3):
        served((ADD, one, f"c{at}"))
    for at in range(3):
        answer = served((ADD, _named(config, "one", pool="green"), f"d{at}"))[0]
        assert answer.status == 1
        assert b"has addresses in pool blue" in answer.output


def test_pools_that_overlap_in_a_batch(served: _Served, config: Make) -> None:
    """The first ADD of a batch notes the other pool, too."""
    served((ADD, config(name="one", ipam=SUBNET), "a"))
    answer = served((ADD, config(name="two", ipam=SUBNET), "a"))[0]
    assert b"pools two and one can both assign 10.1.0.2" in answer.messages


def _holds(config: Make, name: str) -> int:
    with fastipam.open(config()["ipam"]["dataDir"]) as ipam:
        return len(list(ipam.network(name).leases()))
