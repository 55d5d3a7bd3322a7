"""examples/daemon.py: many clients, an expiry thread and forked children on one store."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastipam

DAEMON = Path(__file__).parents[2] / "examples" / "daemon.py"


@contextmanager
def running(store: Path, *options: str) -> Iterator[Path]:
    """A daemon, until SIGTERM ends it with status 0. Yields its socket."""
    path = store.parent / "daemon.sock"
    command = [sys.executable, str(DAEMON), str(store), str(path), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        deadline = time.monotonic() + 60
        while not listens(path):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield path
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
        assert "Traceback" not in complaint
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def listens(path: Path) -> bool:
    """Whether somebody accepts connections there; the socket's file is made a moment before."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


def ask(path: Path, *lines: object) -> list[dict[str, Any]]:
    """The answers to some lines, on one connection."""
    answers = []
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(60)
        one.connect(str(path))
        with one.makefile("rwb") as stream:
            for line in lines:
                stream.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
                stream.flush()
                answers.append(json.loads(stream.readline()))
    return answers


def take(who: str) -> dict[str, str]:
    """A request for an address."""
    return {"do": "take", "who": who}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The daemon's data directory."""
    return tmp_path / "store"


def test_one_client(store: Path, verified: Callable[[Path], None]) -> None:
    """Take, take again, report, give; what is wrong gets an error object."""
    with running(store, "--subnet", "10.7.0.0/30") as path:
        first, again, report, given, none, full, *wrong = ask(
            path, take("a"), take("a"), {"do": "report"}, {"do": "give", "who": "a"},
            {"do": "give", "who": "a"}, {"do": "take", "who": "b\0"}, b"nonsense\n", {"do": "x"},
        )  # fmt: skip
        assert first == again == {"address": "10.7.0.2/30", "gateway": "10.7.0.1"}
        assert report == {"assigned": 1, "free": 0}
        assert (given, none) == ({"released": 1}, {"released": 0})
        assert (full["code"], [one["code"] for one in wrong]) == (7, [999, 999])
        taken, refused = ask(path, take("c"), take("d"))
        assert (taken["address"], refused["code"]) == ("10.7.0.2/30", 100)
    verified(store)


def test_clients_reports_and_expiry_at_once(store: Path, verified: Callable[[Path], None]) -> None:
    """No address twice, no report that fails, while threads, tasks and children use the store."""
    with running(store, "--ttl", "600") as path, ThreadPoolExecutor(8) as pool:
        reports = [pool.submit(ask, path, *[{"do": "report"}] * 5) for _ in range(2)]
        tasks = [
            pool.submit(ask, path, *(take(f"{client}-{number}") for number in range(20)))
            for client in range(10)
        ]
        addresses = [one["address"] for task in tasks for one in task.result()]
        counted = [one for task in reports for one in task.result()]
        assert len(set(addresses)) == len(addresses) == 200
        assert all(0 <= one["assigned"] <= 200 for one in counted), counted
        assert ask(path, {"do": "report"})[0]["assigned"] == 200
    with fastipam.open(store) as ipam:
        assert {str(one.address) for one in ipam.network("daemon").leases()} == set(addresses)
    verified(store)


def test_who_does_not_renew_loses_the_address(
    store: Path, verified: Callable[[Path], None]
) -> None:
    """The thread releases what is too old, and keeps what is renewed."""
    with running(store, "--ttl", "1") as path:
        ask(path, take("gone"))
        deadline = time.monotonic() + 60
        while ask(path, take("kept"), {"do": "report"})[1]["assigned"] != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with fastipam.open(store) as ipam:
        assert [one.container_id for one in ipam.network("daemon").leases()] == ["kept"]
    verified(store)
