"""The workloads are what they say, the contenders do them, and a user's own binary takes part."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bench.errors import Missing
from bench.workloads import traces
from bench.workloads.answers import GivenTwice, Held
from bench.workloads.contenders import Fastipam, HostLocal, Library, Other, Plugin, Static
from bench.workloads.drive import drive
from bench.workloads.guests import Guest
from bench.workloads.summary import cost, rate, summarise
from bench.workloads.traces import ADD, DEL, Step, Workload

import fastipam
from bench import processes
from fastipam.cli.commands.install.executables import DIRECT, install

from ..e2e import tools

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def host_local() -> Path:
    """Debian's host-local."""
    try:
        processes.require_peers()
    except Missing as error:
        tools.lacking(str(error))
    return processes.HOST_LOCAL


@pytest.mark.parametrize("workload", traces.WORKLOADS, ids=lambda one: one.name)
@pytest.mark.parametrize("share", [1, 2])
def test_order_of_life(workload: Workload, share: int) -> None:
    """Nobody is added twice or deleted before it was there, with all the pods or half of them."""
    present = workload.present // share
    alive = {traces.container(number) for number in range(present)}
    seen = set(alive)
    for step in workload.steps(present):
        if step.verb == ADD:
            assert step.container not in seen
            seen.add(step.container)
            alive.add(step.container)
        else:
            alive.remove(step.container)
    if workload.name != "fill":
        assert len(alive) == present
    if share == 1:
        assert sum(1 for _ in workload.steps(present)) == workload.calls


def test_churn_is_exponential() -> None:
    """How long a pod lives has no memory: about 1/e of the pods outlive the mean lifetime."""
    present = traces.PODS_A_NODE
    born = {traces.container(number): 0 for number in range(present)}
    lives = []
    for at, step in enumerate(traces.churn(present)):
        if step.verb == ADD:
            born[step.container] = at // 2
        else:
            lives.append(at // 2 - born[step.container])
    lives = lives[5 * present :]  # of the steady state; a lifetime's mean is `present` deaths
    longer = sum(1 for one in lives if one > present) / len(lives)
    assert 0.30 < longer < 0.44


def test_restart_is_in_phases() -> None:
    """All that was is deleted before anything starts anew: a phase may be under way at once."""
    verbs = [step.verb for step in islice(traces.restart(5), 20)]
    assert verbs == [DEL] * 5 + [ADD] * 5 + [DEL] * 5 + [ADD] * 5


SMALL = Workload("small", "", 5, 20, lambda present: islice(traces.churn(present), 20))
CROWD = Workload("crowd", "", 5, 20, lambda present: islice(traces.restart(present), 20), 3, True)
LANES = Workload("lanes", "", 5, 20, lambda present: islice(traces.churn(present), 20), 4)
DUAL = Workload("two", "", 5, 20, lambda present: islice(traces.churn(present), 20), dual=True)


def _section(workload: Workload) -> str:
    ranges = ", ".join(f'[{{"subnet": "{pool}"}}]' for pool in workload.pools)
    return f'{{"ranges": [{ranges}], "dataDir": "{{data}}"}}'


@pytest.mark.parametrize("workload", [SMALL, CROWD, LANES, DUAL], ids=lambda one: one.name)
@pytest.mark.parametrize("who", ["host-local", "static", "fastipam", "other", "its section"])
def test_plugins(workload: Workload, who: str, host_local: Path, tmp_path: Path) -> None:
    """Every binary does every kind of workload to its end, and no lease is left over or lost."""
    own = tmp_path / "own-ipam"
    shutil.copy(host_local, own)
    makers: dict[str, Callable[[], Plugin]] = {
        "host-local": lambda: HostLocal(workload, tmp_path / "x"),
        "static": lambda: Static(workload, tmp_path / "x"),
        "fastipam": lambda: Fastipam(
            "f", install(tmp_path / "bin").with_name(DIRECT), workload, tmp_path / "x", None
        ),
        "other": lambda: Other(Guest("own", own), workload, tmp_path / "x"),
        "its section": lambda: Other(
            Guest("own", own, _section(workload)), workload, tmp_path / "x"
        ),
    }
    (outcome,) = drive(workload, [makers[who]], 60, 60)
    summary = summarise(outcome)
    assert (outcome.pods, outcome.calls, outcome.note) == (5, 20, "")
    assert Counter({verb: one["calls"] for verb, one in summary["verbs"].items()}) == Counter(
        {ADD: 10, DEL: 10}
    )
    assert cost(summary, ADD) is not None
    assert cost(summary, ADD, "p99") is None  # of ten calls there is none
    assert rate(summary) > 0
    data = tmp_path / "x" / "data" / "podnet"
    if who == "fastipam":
        with fastipam.open(tmp_path / "x" / "data") as ipam:
            assert ipam.network("podnet").stats().assigned == 5 * len(workload.pools)
    elif who != "static":
        held = [one for one in data.iterdir() if one.name not in ("lock",)]
        held = [one for one in held if not one.name.startswith("last_reserved")]
        assert len(held) == 5 * len(workload.pools)


def test_one_address_of_two(host_local: Path, tmp_path: Path) -> None:
    """A binary that is configured for one family takes no part in the dual-stack workload."""
    own = tmp_path / "own-ipam"
    shutil.copy(host_local, own)
    (outcome,) = drive(
        DUAL, [lambda: Other(Guest("own", own, _section(SMALL)), DUAL, tmp_path / "x")], 60, 60
    )
    assert outcome.calls == 0
    assert "one address" in outcome.note


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\nexit 3\n", "status 3"),
        ("#!/bin/sh\necho boom >&2\nexit 3\n", "status 3; .* standard error: 'boom'"),
        ("#!/bin/sh\necho '{}'\n", "'{}"),
        ("#!/bin/sh\nprintf '\\377\\376'\n", "\ufffd"),
    ],
)
def test_binary_that_is_none(script: str, said: str, tmp_path: Path) -> None:
    """A binary that gives no address is refused before anything is measured, with what it said."""
    own = tmp_path / "own"
    own.write_text(script)
    own.chmod(0o755)
    with pytest.raises(Missing, match=f"own: ADD ended .*{said}"):
        drive(SMALL, [lambda: Other(Guest("own", own), SMALL, tmp_path / "x")], 60, 60)


def _library(calls: list[Any], fail_at: int = -1) -> Library:
    def add(who: str) -> None:
        calls.append(who)
        if len(calls) == fail_at:
            raise RuntimeError("no")

    return Library("l", add, calls.append)


def test_time_that_is_up() -> None:
    """A contender without time makes one round of calls or none; nothing is extrapolated."""
    (outcome,) = drive(SMALL, [lambda: _library([])], 0, 60)
    assert outcome.calls == 0
    assert summarise(outcome)["verbs"] == {}
    (outcome,) = drive(SMALL, [lambda: _library([])], 60, 0)
    assert outcome.pods == 0  # it gave up before the first
    assert outcome.calls == 0  # and there is no pod to replace


class _Slow(Library):
    """A library whose calls claim to take so many nanoseconds."""

    def __init__(self, taken: float) -> None:
        super().__init__("slow", lambda _: None, lambda _: None)
        self._taken = taken

    def call(self, step: Step) -> float:
        super().call(step)
        return self._taken


@pytest.mark.parametrize(("taken_s", "calls"), [(0.01, 20), (0.1, 12), (0.5, 12), (5.0, 2)])
def test_slow_contender(taken_s: float, calls: int) -> None:
    """A slow one makes twelve calls, enough for intervals, unless they take ten times as long."""
    (outcome,) = drive(SMALL, [lambda: _Slow(taken_s * 1e9)], 1, 60)
    assert outcome.calls == calls


def test_steps_are_made_in_order() -> None:
    """What a contender gets is the workload, in its order, in whatever order the contenders run."""
    calls: list[str] = []
    drive(SMALL, [lambda: _library(calls), lambda: _library([])], 60, 60)
    present = [traces.container(number) for number in range(5)]
    assert calls == present + [step.container for step in SMALL.steps(5)]


def test_percentiles() -> None:
    """Percentiles are of all the latencies, and are there from so many calls on."""
    (outcome,) = drive(SMALL, [lambda: _library([])], 60, 60)
    outcome.latencies[ADD] = [float(one) for one in range(1000, 0, -1)]
    outcome.latencies[DEL] = outcome.latencies[ADD][:999]
    summary = summarise(outcome)
    assert summary["verbs"][ADD]["percentiles"] == {"p50": 501, "p99": 991, "p99.9": 1000}
    assert summary["verbs"][DEL]["percentiles"]["p99.9"] is None
    assert summary["verbs"][ADD]["some"][0] == 1000
    assert len(summary["verbs"][ADD]["some"]) == 500


def test_failing_call_is_told(host_local: Path, tmp_path: Path) -> None:
    """A call that fails ends the contender's part with what the plugin says, not the others'."""
    step = Workload("twice", "", 0, 2, lambda _: iter([Step(ADD, "c1"), Step(ADD, "c1")]))
    calls: list[str] = []
    failed, other = drive(
        step,
        [
            lambda: Other(Guest("own", host_local), step, tmp_path / "x"),
            lambda: _library(calls),
        ],
        60,
        60,
    )
    assert (failed.failed, failed.calls) == (True, 1)
    assert "own: ADD ended with status 1: " in failed.note
    assert (other.failed, other.calls) == (False, 2)


@pytest.mark.usefixtures("host_local")
def test_container_in_flight(tmp_path: Path) -> None:
    """At once, a container's DEL waits for its ADD: no address is left over."""
    steps = [Step(verb, f"c{number}") for number in range(6) for verb in (ADD, DEL)]
    work = Workload("pairs", "", 0, 12, lambda _: iter(steps), at_once=4)
    (outcome,) = drive(work, [lambda: HostLocal(work, tmp_path / "x")], 60, 60)
    assert (outcome.calls, outcome.note) == (12, "")
    assert not list((tmp_path / "x" / "data" / "podnet").glob("10.*"))


def test_address_again() -> None:
    """What is given again after its DEL began is right; what is given while it is held is not."""
    held = Held("own")
    held.given("a", ["10.0.0.1", "fd00::1"])
    held.given("a", ["10.0.0.1", "fd00::1"])  # an ADD made again
    held.released("a")
    held.released("nobody")
    held.given("b", ["10.0.0.1", "fd00::2"])
    with pytest.raises(GivenTwice, match="own: ADD gave fd00::2 to container c, while container b"):
        held.given("c", ["10.0.0.2", "fd00::2"])
