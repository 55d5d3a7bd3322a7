"""The keys of the policy: cooldownPolicy, sticky, stickyTTL, history, historyAge."""

from __future__ import annotations

from typing import Any

import pytest

import fastipam
from fastipam.configuration.policy import DEFAULT_HISTORY, DEFAULT_STICKY_S, KEYS, read, usable

from .plugin import Call, Make

POOL = {"subnet": "10.1.2.0/29"}
POD = "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=db-0;IgnoreUnknown=1"


def test_strict(call: Call, config: Make) -> None:
    """With "strict" a full pool that cools is "try again later", with the seconds."""
    made = config(ipam=POOL | {"cooldownPolicy": "strict", "cooldown": 600})
    for at in range(5):
        call("ADD", made, f"c{at}")
    call("DEL", made, "c0")
    answer = call("ADD", made, "d")
    assert answer.code == 11
    assert "is free in" in answer.message
    assert "is full" in call("STATUS", made).stderr


def test_prefer(call: Call, config: Make) -> None:
    """With "prefer", the default, the address that has cooled longest is used early."""
    made = config(ipam=POOL | {"cooldownPolicy": "prefer", "cooldown": 600})
    for at in range(5):
        call("ADD", made, f"c{at}")
    call("DEL", made, "c3")
    assert call("ADD", made, "d").addresses == ["10.1.2.5/29"]
    assert "is full" in call("STATUS", made).stderr


def test_sticky(call: Call, config: Make) -> None:
    """A pod of the same name gets its address back, also after a DEL without a configuration."""
    made = config(ipam=POOL | {"sticky": "pod", "stickyTTL": 500})
    assert call("ADD", made, "one", args=POD).addresses == ["10.1.2.2/29"]
    poor = {key: value for key, value in made.items() if key != "ipam"}
    call("DEL", poor | {"ipam": {"type": "fastipam", "dataDir": made["ipam"]["dataDir"]}}, "one")
    assert call("ADD", made, "x").addresses == ["10.1.2.3/29"]
    assert call("ADD", made, "two", args=POD).addresses == ["10.1.2.2/29"]
    call("DEL", made, "two")
    with fastipam.open(made["ipam"]["dataDir"], create=False) as ipam:
        (kept,) = ipam.network(made["name"]).reservations()
    assert kept.owner == "ns/db-0"
    assert call("ADD", made, "thief", args="IP=10.1.2.2").code == 101


def test_history_off(call: Call, config: Make) -> None:
    """With "history" 0 nothing is noted."""
    made = config(ipam=POOL | {"history": 0})
    call("ADD", made)
    call("DEL", made)
    with fastipam.open(made["ipam"]["dataDir"], create=False) as ipam:
        assert list(ipam.network(made["name"]).history()) == []


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"cooldownPolicy": "lax"}, "cooldownPolicy"),
        ({"cooldownPolicy": 5}, "cooldownPolicy"),
        ({"sticky": "node"}, "sticky"),
        ({"sticky": True}, "sticky"),
        ({"stickyTTL": 5}, "stickyTTL"),
        ({"sticky": "pod", "stickyTTL": "5"}, "stickyTTL"),
        ({"sticky": "pod", "stickyTTL": 1.5}, "stickyTTL"),
        ({"sticky": "pod", "stickyTTL": -1}, "stickyTTL"),
        ({"sticky": "pod", "stickyTTL": 1 << 32}, "stickyTTL"),
        ({"history": 1.5}, "history"),
        ({"history": -1}, "history"),
        ({"history": True}, "history"),
        ({"historyAge": 0}, "historyAge"),
        ({"historyAge": []}, "historyAge"),
    ],
)
def test_refused(keys: dict[str, Any], field: str, call: Call, config: Make) -> None:
    """A value that cannot be is code 7 with its key; DEL frees all the same."""
    call("ADD", config(ipam=POOL))
    bad = config(ipam=POOL | keys)
    answer = call("ADD", bad, "other")
    assert answer.code == 7
    assert answer.message.startswith(f"ipam.{field}: ")
    assert call("DEL", bad).status == 0
    assert call("ADD", config(ipam=POOL | {"cooldown": 0})).status == 0


def test_defaults() -> None:
    """What is not said is the default; "sticky" alone keeps for an hour."""
    assert read({}).sticky_s == 0
    assert read({"sticky": "pod"}).sticky_s == DEFAULT_STICKY_S
    assert read({"history": 7}).history == 7
    assert read({}).history == DEFAULT_HISTORY


def test_usable_takes_what_it_can() -> None:
    """DEL takes the default for each key that it cannot use, and the others as they are."""
    broken = {key.casefold(): object() for key in KEYS} | {"cooldown": 7, "sticky": "pod"}
    policy = usable(broken)
    assert policy.cooldown_ns == 7 * 10**9
    assert policy.history == DEFAULT_HISTORY


def test_keys_are_case_insensitive(call: Call, config: Make) -> None:
    """As with every key of Go's decoder."""
    made = config(ipam=POOL | {"COOLDOWNPOLICY": "strict", "Sticky": "pod", "STICKYttl": 5})
    answer = call("ADD", made)
    assert answer.status == 0
    assert answer.stderr == ""
