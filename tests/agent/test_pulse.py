"""The numbers of the agent's health, and refusals in groups."""

from __future__ import annotations

import json
import logging

import pytest

from fastipam.agent.requests import Request
from fastipam.agent.web import pulse as measured
from fastipam.agent.web.pulse import Pulse
from fastipam.agent.web.refusals import Refusal, grouped, refusal_of


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_yet() -> None:
    """Without requests there are no latencies, no sweep and no error."""
    report = Pulse().report(private=False)
    assert report["requests_per_s"] == 0
    assert {report[key] for key in report if key != "requests_per_s"} == {None}


def test_the_last_minute() -> None:
    """Latencies and the rate are of the last minute; the p99 leaves out one of a hundred."""
    clock = Clock()
    pulse = Pulse(clock, clock)
    pulse.request(9.0)
    clock.now += measured.RECENT_S + 1
    for number in range(120):
        pulse.request(0.5 if number == 0 else 0.001)
        pulse.commit(0.002)
    report = pulse.report(private=False)
    assert report["requests_per_s"] == pytest.approx(2.0)
    assert (report["p50_s"], report["p99_s"]) == (0.001, 0.001)
    assert report["commit_p99_s"] == 0.002


def test_the_rate_of_more_than_is_kept() -> None:
    """When the memory holds less than a minute, the rate is that of the time it covers."""
    clock = Clock()
    pulse = Pulse(clock, clock)
    for _ in range(2 * measured._KEPT):
        pulse.request(0.001)
        clock.now += 0.001
    assert pulse.report(private=False)["requests_per_s"] == pytest.approx(1000, rel=0.01)


def test_sweeps_are_added() -> None:
    """The last sweep of each network counts once; the time is that of the newest."""
    clock = Clock()
    pulse = Pulse(clock, clock)
    pulse.swept(("/store", "a"), (10, 1, 0, 0))
    clock.now += 5
    pulse.swept(("/store", "a"), (20, 0, 2, 3))
    pulse.swept(("/store", "b"), (5, 0, 0, 1))
    assert pulse.report(private=False)["sweep"] == {
        "at": 1005.0, "looked": 25, "released": 0, "missing": 2, "unknown": 4,
    }  # fmt: skip


def test_the_last_error() -> None:
    """Warnings and errors of the log are kept, the last one; a private page has no text of it."""
    pulse = Pulse()
    log = logging.getLogger("fastipam.test_pulse")
    log.addHandler(pulse)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        log.warning("network=%s first", "podnet")
        log.error("network=%s second", "podnet")
        log.info("no error")
    finally:
        log.removeHandler(pulse)
    error = pulse.report(private=False)["error"]
    assert (error["level"], error["message"]) == ("error", "network=podnet second")
    assert pulse.report(private=True)["error"]["message"] == ""


def test_groups() -> None:
    """One reason is one group, whatever the addresses, ids and names in the messages."""
    refusals = [
        Refusal(1, "ADD", 100, "no address is free: 13 assigned", "more ranges", "a", "web/x"),
        Refusal(2, "ADD", 104, "container 'c1' has fd00::1", "", "a", "web/y"),
        Refusal(3, "ADD", 100, "no address is free: 14 assigned", "more ranges", "a", "web/z"),
        Refusal(4, "ADD", 104, "container 'd2' has 10.0.0.1/24", "", "a", "web/w"),
        Refusal(5, "ADD", 100, "no address is free: 14 assigned", "more ranges", "b", "web/z"),
    ]
    found = grouped(refusals, private=False)
    assert [(one["network"], one["code"], one["count"]) for one in found] == [
        ("b", 100, 1),
        ("a", 104, 2),
        ("a", 100, 2),
    ]
    assert (found[2]["first"], found[2]["at"], found[2]["pod"]) == (1, 3, "web/z")
    assert found[2]["message"] == "no address is free: 14 assigned"
    hidden = grouped(refusals, private=True)
    assert {one[key] for one in hidden for key in ("pod", "message", "hint")} == {""}


@pytest.mark.parametrize(
    ("arguments", "stdin", "network", "pod"),
    [
        ("K8S_POD_NAMESPACE=web;K8S_POD_NAME=x", b'{"name": "podnet"}', "podnet", "web/x"),
        ("K8S_POD_NAME=x;=;odd", b"{", "", "x"),
        ("", b'{"name": 7}', "", ""),
        ("", b"[]", "", ""),
    ],
)
def test_whose_a_refusal_is(arguments: str, stdin: bytes, network: str, pod: str) -> None:
    """Network and pod are those of the request; one that is not even JSON has none."""
    request = Request({"CNI_COMMAND": "ADD", "CNI_ARGS": arguments}, stdin, 1, 1)
    output = json.dumps({"code": 7, "msg": "wrong", "details": "say it right"}).encode()
    found = refusal_of(1.0, "ADD", output, request)
    assert (found.code, found.message, found.hint) == (7, "wrong", "say it right")
    assert (found.network, found.pod) == (network, pod)
