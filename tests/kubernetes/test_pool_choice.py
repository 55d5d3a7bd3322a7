"""Selectors, the order of pools, and which pool's blocks answer a request: without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from fastipam.configuration import address_pools, pool_lines
from fastipam.configuration.address_pools import AddressPool
from fastipam.configuration.cluster import Settings
from fastipam.configuration.selectors import Selector
from fastipam.errors import ConfigError

LABELS = {"team": "red", "disk": "ssd"}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    """A selector with one condition."""
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "matches", "text"),
    [
        (None, True, ""),
        ({}, True, ""),
        ({"matchLabels": {"team": "red"}}, True, "team=red"),
        ({"matchLabels": {"team": "red", "disk": "tape"}}, False, "disk=tape,team=red"),
        (expression("team", "In", "blue", "red"), True, "team in (blue,red)"),
        (expression("zone", "In", "a", "b"), False, "zone in (a,b)"),
        (expression("team", "NotIn", "red"), False, "team notin (red)"),
        (expression("zone", "NotIn", "a"), True, "zone notin (a)"),
        (expression("disk", "Exists"), True, "disk"),
        (expression("zone", "Exists"), False, "zone"),
        (expression("disk", "DoesNotExist"), False, "!disk"),
        (expression("zone", "DoesNotExist"), True, "!zone"),
    ],
)
def test_selector(spec: Any, matches: bool, text: str) -> None:
    """What is selected, and how kubectl is told to select it."""
    selector = Selector(spec, "spec.nodeSelector")
    assert (selector.matches(LABELS), str(selector)) == (matches, text)
    assert bool(selector) == bool(text)


@pytest.mark.parametrize(
    "spec",
    [
        "team=red",
        {"matchLabels": []},
        {"matchExpressions": {"key": "a"}},
        expression("team", "Like"),
    ],
)
def test_no_selector(spec: Any) -> None:
    """What the API server would not have let pass is refused with its field."""
    with pytest.raises(ConfigError) as caught:
        Selector(spec, "spec.nodeSelector")
    assert caught.value.field.startswith("spec.nodeSelector")


def pool(name: str, third: int, **spec: Any) -> AddressPool:
    """A pool of blocks of 16 addresses."""
    return AddressPool(name, {"cidr": f"10.0.{third}.0/24", "blockSize": 28, **spec})


def names(lines: Any, pools: list[AddressPool]) -> list[list[str]]:
    """The groups of IPv4, by the names of their pools."""
    by_base = {one.range.network: one.name for one in pools}
    return [[by_base[base] for base in group] for _, groups in lines for group in groups]


def test_order_of_pools() -> None:
    """By priority, then by name; without those that are named only, and those of other nodes."""
    selects = {"matchLabels": {"disk": "tape"}}
    pools = [
        pool("z", 1),
        pool("b", 2, priority=5),
        pool("a", 3, priority=5),
        pool("y", 4),
        pool("m", 5, assignment="Manual", priority=9),
        pool("t", 6, nodeSelector=selects).for_node(LABELS),
        pool("low", 7, priority=-1),
        AddressPool("one", {"cidr": "10.1.0.0/24", "blockSize": 32}),
    ]
    assert names(pool_lines.automatic(pools), pools) == [["a", "b"], ["y", "z"], ["low"]]
    assert names(pool_lines.named([pools[0], pools[4]]), pools) == [["z"], ["m"]]


@pytest.mark.parametrize(
    ("spec", "uniform"),
    [
        ({}, True),
        ({"disabled": True}, True),
        ({"assignment": "Automatic"}, True),
        ({"nodeSelector": {"matchLabels": {"disk": "ssd"}}}, True),
        ({"priority": 1}, False),
        ({"assignment": "Manual"}, False),
        ({"namespaceSelector": {"matchLabels": {"a": "b"}}}, False),
        ({"nodeSelector": {"matchLabels": {"disk": "tape"}}}, False),
    ],
)
def test_uniform(spec: dict[str, Any], uniform: bool) -> None:
    """Whether a pod that chooses nothing may get any address; the same when it was noted."""
    pools = [pool("a", 1), pool("b", 2, **spec).for_node(LABELS)]
    for some in (pools, address_pools.read(address_pools.pack(pools))):
        settings = Settings({"engine": "kubernetes", "node": "n"}).with_pools(some)
        assert settings.is_uniform is uniform
        assert (settings.lines == ((4, ((),)),)) is uniform


def test_labels_come_and_go() -> None:
    """A pool that does not select the node is closed for it, and opens again."""
    one = pool("a", 1, nodeSelector={"matchLabels": {"disk": "ssd"}})
    away = one.for_node({})
    assert (away.elsewhere, away.is_closed, away.disabled) == (True, True, False)
    assert away != one
    assert away.for_node({"disk": "ssd"}) == one
    assert one.for_node({"disk": "ssd"}) is one


def test_donors() -> None:
    """A request names a pool: blocks of it come first, then of those that are as good."""
    selects = {"matchLabels": {"disk": "ssd"}}
    pools = [
        pool("a", 1),
        pool("b", 2),
        pool("manual", 3, assignment="Manual"),
        pool("ssd", 4, nodeSelector=selects),
        pool("high", 5, priority=1),
    ]
    settings = Settings({"engine": "kubernetes", "node": "n"}).with_pools(pools)

    def given(name: str) -> list[str]:
        return [settings.name_of(one) for one in settings.to_donate(4, name)]

    assert given("b") == ["b", "a"]
    assert given("ssd") == ["ssd", "a", "b"]
    assert given("manual") == ["manual"]
    assert given("high") == ["high"]
    assert given("") == ["a", "b", "high", "manual", "ssd"]
    assert given("gone") == []
