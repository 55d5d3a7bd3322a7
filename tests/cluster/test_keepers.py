"""The keepers of an agent: when they begin and end, and what is open in between."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

import fastipam
from fastipam.agent.clusters import Clusters
from fastipam.errors import ConfigError, TryLater
from fastipam.storage.open_stores import close_store
from tests.cluster.memory import MemoryEngine

from .nodes import init, over, settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastipam.cluster.engine import Compare, Delete, Outcome, Put
    from fastipam.cluster.registry import Registry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The directory of a store that is there and closed."""
    path = tmp_path / "store"
    fastipam.open(path, "relaxed").close()
    return path


def held(path: Path) -> list[str]:
    """The files below a directory that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith(str(path)):
            found.append(target)
    return found


def refuse(_: object) -> Registry:
    """A connection that the settings make impossible."""
    raise ConfigError("cannot be read", field="cluster.credentials", value="/nowhere")


def test_a_keeper_that_cannot_be_made(path: Path) -> None:
    """However often it is tried, the store is not kept open by what has failed."""
    clusters = Clusters(refuse)
    for _ in range(3):
        with pytest.raises(ConfigError):
            clusters.get(str(path), "podnet", settings("a"))
    assert held(path) == []
    assert clusters.all() == []


def test_a_store_that_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keeper is ended once, also when no other can be made for the new store."""
    engine = MemoryEngine()
    init(engine)
    clusters = Clusters(over(engine))
    clusters.get(str(path), "podnet", settings("a"))
    path.rename(path.with_name("before"))
    fastipam.open(path, "relaxed").close()
    with monkeypatch.context() as patched:
        patched.setattr(clusters, "_opened", refuse)
        for _ in range(2):
            with pytest.raises(ConfigError):
                clusters.get(str(path), "podnet", settings("a"))
    assert held(path.with_name("before")) == []
    clusters.get(str(path), "podnet", settings("a"))
    clusters.stop()
    assert held(path) == []


@pytest.mark.parametrize("which", [0, 1])
def test_no_more_threads(path: Path, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """A keeper whose threads cannot be started is none; the next request begins one."""
    engine = MemoryEngine()
    init(engine)
    clusters = Clusters(over(engine))
    start, started = threading.Thread.start, []

    def refused(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == which + 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(TryLater, match="new thread"):
            clusters.get(str(path), "podnet", settings("a"))
    assert clusters.all() == []
    assert held(path) == []


class Slow(MemoryEngine):
    """An engine whose transactions wait for ``go_on``."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete], *, deadline_s: float
    ) -> Outcome:
        """As inherited, but later."""
        self.inside.set()
        assert self.go_on.wait(60)
        return super().transact(compares, operations, deadline_s=deadline_s)


def test_a_keeper_that_cannot_be_ended_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may be inside a transaction: the store is not closed under it."""
    engine = Slow()
    clusters = Clusters(over(engine))
    keeper = clusters.get(str(path), "podnet", settings("a"))
    assert engine.inside.wait(60)
    stop = keeper.stop
    monkeypatch.setattr(keeper, "stop", lambda: stop(0.01))
    clusters.stop()
    assert held(path)
    engine.go_on.set()
    assert stop(60)
    close_store(keeper.store)
    assert held(path) == []
