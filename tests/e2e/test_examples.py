"""The other examples, run as their users run them, on stores that are consistent afterwards."""

from __future__ import annotations

import ipaddress
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam.testing import exhaust, temporary_network, temporary_store

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str) -> str:
    """Run an example to its end and return what it printed."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An example as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop(name, None)
    return __import__(name)


def test_controller(tmp_path: Path, verified: Callable[[Path], None]) -> None:
    """Half of the pods go; pods and leases agree."""
    assert "60 pods, 60 leases, 0 reconciled" in run("controller", str(tmp_path), "--pods", "120")
    verified(tmp_path)


def test_controller_ends_cleanly(tmp_path: Path, verified: Callable[[Path], None]) -> None:
    """SIGTERM: what was begun is finished, and the store agrees with the pods."""
    command = [sys.executable, str(EXAMPLES / "controller.py"), str(tmp_path), "--pods", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "data.mdb").exists() or not _leases(tmp_path):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    pods, leases = map(int, re.findall(r"(\d+) (?:pods|leases)", output))
    assert process.returncode == 0
    assert pods == leases > 0
    verified(tmp_path)


def _leases(path: Path) -> bool:
    with fastipam.open(path) as ipam:
        return "pods" in ipam.networks()


def test_controller_waits_for_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that meets a full pool is served when an address is free, and given up at last."""
    controller = load("controller", monkeypatch)
    monkeypatch.setattr(controller, "RETRY_S", 0.01)
    with temporary_network("10.1.0.0/29", cooldown_s=0) as network:
        exhaust(network, leave=1)
        ours = controller.Controller(network, workers=2)
        ours.start()
        for pod in ("a", "b", "c"):
            ours.submit("came", pod)
        ours.drain()
        assert len(ours.pods) == 1
        assert len(ours.given_up) == 2
        ours.submit("gone", next(iter(ours.pods)))
        ours.drain()
        ours.submit("came", "d")
        ours.drain()
        ours.stop()
        assert list(ours.pods) == ["d"]


def test_controller_reconciles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of pods that do not exist are freed, those of pods that do are kept."""
    controller = load("controller", monkeypatch)
    with temporary_network("10.1.0.0/24") as network:
        ours = controller.Controller(network, workers=1)
        network.allocate("lost")
        ours.pods["known"] = network.allocate("known").cidr
        assert ours.reconcile() == 1
        assert [lease.container_id for lease in network.leases()] == ["known"]


def test_controller_reconciles_while_a_pod_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that has its lease, and is not recorded yet, keeps the lease."""
    controller = load("controller", monkeypatch)
    with temporary_network("10.1.0.0/24") as network:
        ours = controller.Controller(network, workers=1)
        allocate = network.allocate
        freed = []

        def allocate_and_reconcile(*words: str, **keywords: str) -> fastipam.Lease:
            lease = allocate(*words, **keywords)  # type: ignore[arg-type]
            freed.append(ours.reconcile())
            return lease

        monkeypatch.setattr(network, "allocate", allocate_and_reconcile)
        ours.start()
        ours.submit("came", "new")
        ours.drain()
        ours.stop()
        assert freed == [0]
        assert [lease.container_id for lease in network.leases()] == ["new"]


def test_bulk(tmp_path: Path, verified: Callable[[Path], None]) -> None:
    """All addresses differ, and the arrays hold what was asked for."""
    output = run("bulk", str(tmp_path), "--count", "20000")
    assert "80000 bytes, first 10.32.0.1" in output
    assert "20000 different addresses" in output
    verified(tmp_path)


def test_bulk_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planned addresses are big-endian numbers of the subnet."""
    bulk = load("bulk", monkeypatch)
    bitmap = fastipam.Bitmap(256)
    planned = bulk.plan(bitmap, ipaddress.IPv4Network("10.9.8.0/24"), 3)
    assert planned.tobytes() == bytes((10, 9, 8, 0, 10, 9, 8, 1, 10, 9, 8, 2))
    assert bitmap.used == 3


def test_policy(tmp_path: Path, verified: Callable[[Path], None]) -> None:
    """A pod comes back to its address; a rack's pods stay together while there is room."""
    output = run("policy", str(tmp_path)).splitlines()
    first, again = re.findall(r"[\d.]+/16", output[0])
    assert first == again
    own = [f"10.41.0.{last}" for last in (128, 129, 130, 131)]
    assert re.findall(r"10\.41\.[\d.]+", output[1])[:4] == own
    verified(tmp_path)


def test_policy_by_name_probes_in_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken preferences are passed over; when all are taken the round robin chooses."""
    policy = load("policy", monkeypatch)
    subnet = ipaddress.IPv4Network("10.1.0.0/24")
    with temporary_store() as store, store.open() as ipam:
        network = ipam.network("n", str(subnet))
        wanted = list(dict.fromkeys(policy.preferences("pod", subnet)))
        network.allocate("other", addresses=[wanted[0]])
        assert str(policy.by_name(ipam, network.name, subnet, "pod").address.ip) == wanted[1]
        network.release("pod")
        for number, address in enumerate(wanted[1:]):
            network.allocate(f"more-{number}", addresses=[address])
        assert str(policy.by_name(ipam, network.name, subnet, "pod").address.ip) not in wanted


def test_policy_racks_learn_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process took or has given back is met once, and never assigned twice."""
    policy = load("policy", monkeypatch)
    subnet = ipaddress.IPv4Network("10.1.0.0/24")
    slices = {"a": ipaddress.IPv4Network("10.1.0.16/30")}
    with temporary_network(str(subnet), cooldown_s=0) as network:
        network.allocate("before", addresses=["10.1.0.16"])
        racks = policy.Racks(network, subnet, slices)
        network.allocate("behind its back", addresses=["10.1.0.17"])
        assert racks.allocate("a", "p1").cidr == "10.1.0.18/24"
        racks.release("p1")
        assert racks.allocate("a", "p2").cidr == "10.1.0.18/24"
