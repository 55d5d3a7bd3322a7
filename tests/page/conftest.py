"""An agent that serves a page, a store with something to see in it, and a browser."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastipam

from ..agent.conftest import free_port, run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import Agent
from ..e2e import tools
from ..options import options
from .chromium import Browser, find_chromium

OUTSIDE = ["10.32.0.64/26", "10.32.7.9"]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store with a large network of all states, and a small one of both families."""
    path = tmp_path / "store"
    chosen = random.Random(5)
    # One pixel an address, and `list --all` prints every one of them: a /12 takes a minute.
    subnet = "10.32.0.0/12" if options.long else "10.32.0.0/16"
    with fastipam.open(path, "relaxed") as ipam:
        net = ipam.network("podnet", subnet, exclude=OUTSIDE, cooldown_s=3600)
        count = 3000
        for at in range(0, count, 100):
            with ipam.transaction() as txn:
                inside = net.within(txn)
                for number in range(at, at + 100):
                    inside.allocate(f"c{number:04x}", pod=("web", f"<b>web-{number}</b>"))
        net.reserve("10.32.30.0/25", reason="the printers")
        net.reserve("10.32.0.200", owner="web/db-0")
        with ipam.transaction() as txn:
            inside = net.within(txn)
            for number in chosen.sample(range(count), count // 3):
                inside.release(f"c{number:04x}")
        small = ipam.network("both", ["10.99.0.0/24", "2001:db8::/64"])
        for number in range(20):
            small.allocate(f"s{number}")
    return path


Serve = Callable[..., "Served"]


class Served:
    """An agent and where its page is."""

    def __init__(self, agent: Agent, url: str) -> None:
        self.agent = agent
        self.url = url


@pytest.fixture
def serve(start: Any, free_port: int, filled: Path) -> Serve:  # noqa: F811
    """Start an agent with the store: ``serve(*options)``."""

    def begin(*options: str) -> Served:
        agent = start("--http", str(free_port), "--data-dir", str(filled), *options)
        return Served(agent, f"http://127.0.0.1:{free_port}")

    return begin


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    binary = find_chromium()
    if binary is None:
        tools.lacking("not installed: chromium")
    with Browser(binary) as opened:
        yield opened
