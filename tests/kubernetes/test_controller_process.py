"""The controller: who leads, and its process. On the fake, and on a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fastipam.cli.commands import cli
from fastipam.cluster.controller.leader import DURATION_S, NAME, Election
from fastipam.cluster.controller.metrics import Metrics
from fastipam.cluster.controller.process import Process
from fastipam.cluster.registries.kubernetes import objects

from ..agent.test_metrics import OBSERVABILITY
from . import bodies
from .fake import FakeServer, Fault
from .leaders import client, condition, in_force
from .rest import LEASES, POOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam.cluster.registries.kubernetes.client import Client

    from .conftest import Api

_PATIENCE_S = 60.0


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 500.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clients(api: Api) -> Iterator[Callable[[], Client]]:
    """A function that makes clients with the controller's rights."""
    yield from _clients(api)


@pytest.fixture
def fake_clients(fake_api: FakeServer) -> Iterator[Callable[[], Client]]:
    """The same for the fake."""
    yield from _clients(fake_api)


def _clients(api: Api) -> Iterator[Callable[[], Client]]:
    made: list[Client] = []

    def make() -> Client:
        made.append(client(api))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _until(true: Callable[[], object], what: str) -> None:
    """Wait until it is true."""
    end = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def _lease(api: Api) -> Any:
    return api.admin.get(f"{LEASES}/{NAME}").done()


# Who leads --------------------------------------------------------------------------------------


def test_one_leads(api: Api, clients: Callable[[], Client]) -> None:
    """The first one; the other one takes over when the Lease was not renewed, on its own clock."""
    one_clock, other_clock = Clock(), Clock()
    other_clock.seconds = -1e6  # no two clocks are compared
    one = Election(clients(), "one", clock=one_clock)
    other = Election(clients(), "other", clock=other_clock)
    one.step()
    assert one.is_leading
    for _ in range(10):
        other.step()
        assert not other.is_leading
        one_clock.seconds += 3
        other_clock.seconds += 3
        one.step()
        assert one.is_leading
    other.step()
    other_clock.seconds += DURATION_S - 1
    other.step()
    assert not other.is_leading
    one_clock.seconds += DURATION_S - 1
    assert not one.is_leading, "it stops before another one can begin"
    other_clock.seconds += 1
    other.step()
    assert other.is_leading
    assert _lease(api)["spec"]["holderIdentity"] == "other"
    assert _lease(api)["spec"]["leaseTransitions"] == 1
    one.step()
    assert not one.is_leading
    assert (one.leader, other.leader) == ("other", "other")


def test_who_resigns_is_followed_at_once(api: Api, clients: Callable[[], Client]) -> None:
    """A process that ends in order gives the Lease up."""
    one, other = (Election(clients(), name, clock=Clock()) for name in ("one", "other"))
    one.step()
    other.step()
    assert (one.is_leading, other.is_leading) == (True, False)
    one.resign()
    assert not one.is_leading
    other.step()
    assert other.is_leading
    one.step()
    assert not one.is_leading
    one.resign()
    assert _lease(api)["spec"]["holderIdentity"] == "other"


@pytest.mark.parametrize("do", ["answer", "lose_request", "lose_answer", "half_answer", "expired"])
def test_a_lease_that_cannot_be_renewed(
    fake_api: FakeServer, fake_clients: Callable[[], Client], do: Any
) -> None:
    """It leads until its time is over, not longer; and again when the API serves."""
    clock = Clock()
    one = Election(fake_clients(), "one", clock=clock)
    one.step()
    fault = fake_api.fault(Fault(do, resource="leases", method="PUT", code=500, times=0))
    for _ in range(5):
        clock.seconds += 2
        one.step()
    assert fault.hits
    clock.seconds += DURATION_S
    assert not one.is_leading
    fake_api.heal()
    for _ in range(2):
        clock.seconds += 2
        one.step()
    assert one.is_leading
    assert _lease(fake_api)["spec"]["holderIdentity"] == "one"


def test_a_lease_that_somebody_deletes(api: Api, clients: Callable[[], Client]) -> None:
    """It is made anew, by one of them."""
    one, other = (Election(clients(), name, clock=Clock()) for name in ("one", "other"))
    one.step()
    other.step()
    api.admin.delete(f"{LEASES}/{NAME}").done()
    other.step()
    assert other.is_leading
    one.step()
    assert not one.is_leading


# The process ------------------------------------------------------------------------------------


def _start(process: Process) -> threading.Thread:
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    return thread


def test_two_processes(api: Api, clients: Callable[[], Client]) -> None:
    """One accepts; when it ends, which takes a second, the other one does."""
    running = []
    for _ in range(2):
        process = Process(clients(), clients())
        running.append((process, _start(process)))
    api.admin.create(POOLS, bodies.pool("a", "10.32.0.0/20", 24)).done()
    _until(lambda: "a" in in_force(api), "the pool is not accepted")
    leading = [one for one in running if one[0].election.is_leading]
    assert len(leading) == 1
    ((first, thread),) = leading
    ((second, _),) = [one for one in running if one[0] is not first]
    first.stop()
    thread.join(_PATIENCE_S)
    assert not thread.is_alive()
    api.admin.create(POOLS, bodies.pool("b", "10.64.0.0/20", 24)).done()
    _until(lambda: "b" in in_force(api), "the pool is not accepted by the second one")
    assert second.election.is_leading
    second.stop()
    running[1][1].join(_PATIENCE_S)


def test_a_change_while_the_api_is_away(
    fake_api: FakeServer, fake_clients: Callable[[], Client]
) -> None:
    """Watches that are cut, and a server that was restarted: what changed meanwhile is seen."""
    process = Process(fake_clients(), fake_clients())
    thread = _start(process)
    for at in range(3):
        fake_api.admin.create(POOLS, bodies.pool(f"p{at}", f"10.{32 + at}.0.0/20", 24)).done()
        _until(lambda at=at: f"p{at}" in in_force(fake_api), "it is not accepted")  # type: ignore[misc]
        fake_api.restart()
        fake_api.compact()
    process.stop()
    thread.join(_PATIENCE_S)
    assert not thread.is_alive()
    assert condition(fake_api, "p0")[0] == "True"


@pytest.mark.parametrize("method", ["LIST", "WATCH", "PUT", "POST"])
def test_it_ends_while_the_api_is_silent(
    fake_api: FakeServer, fake_clients: Callable[[], Client], method: str
) -> None:
    """No call that is under way holds the process."""
    fake_api.admin.create(POOLS, bodies.pool("a", "10.32.0.0/20", 24)).done()
    fault = fake_api.fault(Fault("silent", method=method, times=0))
    process = Process(fake_clients(), fake_clients())
    thread = _start(process)
    assert fault.wait()
    began = time.monotonic()
    process.stop()
    thread.join(_PATIENCE_S)
    assert not thread.is_alive()
    assert time.monotonic() - began < 20, "it waits for an answer"


def test_every_metric_is_in_the_reference(fake_clients: Callable[[], Client]) -> None:
    """The table has each metric with its type, and no other one."""
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    table = text.partition("## Metrics of the controller")[2].partition("## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \| (\w+)", table, re.MULTILINE))
    process = Process(fake_clients(), fake_clients())
    process.controller.view.see(objects.POOLS, "ADDED", bodies.pool("a", "10.32.0.0/20", 24))
    names = {
        (one.name + ("_total" if one.type == "counter" else ""), one.type)
        for one in Metrics(process).collect()
    }
    assert names == told


def test_health_tells_a_loop_that_stands_still(clients: Callable[[], Client]) -> None:
    """Not an API that is away: a new process would not mend that."""
    process = Process(clients(), clients())
    assert process.problem() == ""
    process._came_round["controller"] -= 3600
    assert process.problem() == "the controller is stuck"


def test_the_documents_have_every_metric(fake_clients: Callable[[], Client]) -> None:
    """The table of the documents has what a controller's /metrics prints: names and types."""
    metrics = Metrics(Process(fake_clients(), fake_clients()))
    printed = {
        (f"{one.name}_total" if one.type == "counter" else one.name, one.type)
        for one in metrics.registry.collect()
    }
    row = re.compile(r"^\| `(fastipam_controller_\w+)` \| (\w+) \|", re.MULTILINE)
    assert printed == set(row.findall(OBSERVABILITY.read_text()))


def _kubeconfig(api: Api, path: Path) -> Path:
    """A kubeconfig with the controller's token."""
    server = f"https://127.0.0.1:{api.admin.port}"
    text = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [
            {"name": "k", "cluster": {"server": server, "certificate-authority": str(api.ca)}}
        ],
        "users": [{"name": "u", "user": {"token": api.token("fastipam-controller")}}],
    }
    path.write_text(json.dumps(text))
    return path


def test_the_command(fake_api: FakeServer, tmp_path: Path) -> None:
    """It accepts, serves metrics and its health, and ends by SIGTERM with status 0."""
    config = _kubeconfig(fake_api, tmp_path / "config")
    program = os.path.join(os.path.dirname(sys.executable), "fastipam")
    process = subprocess.Popen(
        [program, "controller", "--kubeconfig", str(config), "--http", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("fastipam controller ")
        url = line.split("metrics ")[1].split("/metrics")[0]
        fake_api.admin.create(POOLS, bodies.pool("a", "10.32.0.0/20", 24)).done()
        _until(lambda: "a" in in_force(fake_api), "the pool is not accepted")

        def told() -> str:
            with urllib.request.urlopen(f"{url}/metrics") as answer:
                found: bytes = answer.read()
                return found.decode()

        _until(lambda: 'fastipam_controller_pools{accepted="True"} 1.0' in told(), told())
        assert "fastipam_controller_leader 1.0" in told()
        assert "fastipam_controller_orphaned_blocks 0.0" in told()
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert answer.read() == b"ok\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=_PATIENCE_S)
        assert process.returncode == 0
        assert "Traceback" not in errors
        assert _lease(fake_api)["spec"]["holderIdentity"] == ""
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "KUBERNETES_SERVICE_HOST is not set"),
        (["--context", "c"], "--context needs a kubeconfig"),
        (["--kubeconfig", "FILE", "--server", "https://a"], "cannot be used together"),
        (["--server", "a:1"], "'a:1' is not the URL of a Kubernetes API server"),
    ],
)
def test_wrong_options(
    fake_api: FakeServer, tmp_path: Path, options: list[str], message: str
) -> None:
    """The message says what is wrong."""
    config = _kubeconfig(fake_api, tmp_path / "config")
    told = [str(config) if one == "FILE" else one for one in options]
    done = CliRunner().invoke(cli, ["controller", *told])
    assert done.exit_code == 1
    assert message in done.output
