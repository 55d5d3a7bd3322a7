"""Measure every contender in every workload, and with more and more leases."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bench import processes
from bench.agent.service import Agent
from bench.errors import Missing
from bench.workloads import libraries, traces
from bench.workloads.contenders import Contender, Fastipam, HostLocal, Other, Static
from bench.workloads.drive import drive
from bench.workloads.summary import summarise
from fastipam.cli.commands.install.executables import DIRECT, install

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.results import Results
    from bench.workloads.summary import Summary
    from bench.workloads.traces import Workload

    Maker = Callable[[], Contender]

AGENT = "fastipam, agent"
NO_AGENT = "fastipam, no agent"
_MOST_FILES = 100_000  # host-local: a call at a million would take more than ten seconds


class Budget(NamedTuple):
    """The seconds that a contender may take for the pods of the beginning, and for its calls."""

    seed_s: float
    workload_s: float
    growth_s: float


@dataclass(frozen=True)
class Effort:
    """The budgets of processes and libraries, and the numbers of leases."""

    process: Budget
    library: Budget
    leases: tuple[int, ...]
    files: int  # the largest number for host-local


QUICK = Effort(Budget(5, 0.5, 0.3), Budget(1, 0.15, 0.1), (0, 100, 1_000, 10_000, 100_000), 10_000)
FULL = Effort(
    Budget(20, 4, 2), Budget(6, 1, 0.5), (0, 100, 1_000, 10_000, 100_000, 1_000_000), _MOST_FILES
)


@dataclass(frozen=True)
class Guest:
    """A user's own binary. ``section`` is the text of its ``ipam`` section, or None."""

    binary: Path
    kind: str
    section: str | None

    @property
    def name(self) -> str:
        """Its name in the tables."""
        return f"{self.kind} (--plugin)"


def run(results: Results, effort: Effort, scratch: Path, guest: Guest | None = None) -> None:
    """Measure everything, into ``results.workloads`` and ``results.growth``."""
    processes.require_peers()
    with Agent(scratch, "workloads") as agent:
        field = _Field(scratch, agent, guest)
        for workload in traces.WORKLOADS:
            results.workloads[workload.name] = field.measure(workload, effort)
        for leases in effort.leases:
            results.growth[str(leases)] = field.grow(leases, effort)


class _Field:
    """Makes the contenders of a workload, each in its own directory."""

    def __init__(self, scratch: Path, agent: Agent, guest: Guest | None) -> None:
        self._scratch = scratch
        self._socket = agent.socket
        self._guest = guest
        self._gave_up: set[str] = set()
        self._launcher = install(scratch / "launcher", launcher_only=True)
        self._direct = processes.install_plugin(scratch / "direct").with_name(DIRECT)

    def measure(self, workload: Workload, effort: Effort) -> list[Summary]:
        """Measure all contenders in a workload."""
        return self._go(workload, effort, 1, _MOST_FILES)

    def grow(self, leases: int, effort: Effort) -> list[Summary]:
        """Measure all contenders with this many leases, except those that gave up at fewer."""
        found = self._go(traces.growth(leases), effort, 2, effort.files)
        self._gave_up |= {one["contender"] for one in found if one["pods"] < leases}
        return [one for one in found if one["pods"] == leases]

    def _go(self, workload: Workload, effort: Effort, which: int, files: int) -> list[Summary]:
        here = self._scratch / workload.name.replace(" ", "-").replace(",", "")
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, here, ignore_errors=True)
            outcomes = []
            for makers, budget in (
                (self._plugins(workload, here, files), effort.process),
                (self._libraries(workload, here), effort.library),
            ):
                outcomes += drive(workload, makers, budget[which], budget.seed_s)
        return [summarise(outcome) for outcome in outcomes]

    def _plugins(self, workload: Workload, here: Path, files: int) -> list[Maker]:
        makers: list[Maker] = [
            partial(Fastipam, AGENT, self._launcher, workload, here / "agent", self._socket),
            partial(Fastipam, NO_AGENT, self._direct, workload, here / "direct", None),
            partial(Static, workload, here / "static"),
        ]
        if workload.present <= files and "host-local" not in self._gave_up:
            makers.append(partial(HostLocal, workload, here / "host-local"))
        guest = self._guest
        if guest is not None and guest.name not in self._gave_up:
            makers.append(
                partial(
                    Other,
                    guest.name,
                    guest.binary,
                    guest.kind,
                    guest.section,
                    workload,
                    here / "guest",
                )
            )
        return makers

    def _libraries(self, workload: Workload, here: Path) -> list[Maker]:
        made = dict(libraries.STORES)
        if not workload.dual:  # a second family would be a second object, and nothing else
            made |= libraries.IN_MEMORY
        return [
            partial(make, name, workload, here / name.replace(" ", "-"))
            for name, make in made.items()
            if name not in self._gave_up
        ]


def guest(binary: Path, kind: str | None, config: Path | None) -> Guest:
    """Return a user's binary. Raises Missing when it or its configuration cannot be used."""
    if not os.access(binary, os.X_OK):
        raise Missing(f"--plugin {binary} cannot be executed")
    section = None
    if config is not None:
        try:
            section = json.dumps(json.loads(config.read_text())["ipam"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Missing(f"--config {config} has no `ipam` section: {error!r}") from error
    return Guest(binary.resolve(), kind or binary.name, section)
