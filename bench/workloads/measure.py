"""Measure every contender in every workload, with growing numbers of leases, and after crashes."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bench import disk, load, machine, processes
from bench.agent.service import Agent
from bench.errors import Failed
from bench.workloads import crashes, libraries, traces
from bench.workloads.answers import GivenTwice
from bench.workloads.contenders import Contender, Fastipam, HostLocal, Other, Plugin, Static
from bench.workloads.drive import drive
from bench.workloads.suite import Entrant, Skipped, Suite
from bench.workloads.summary import summarise
from fastipam.cli.commands.install.executables import DIRECT, install

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bench.workloads.guests import Guest
    from bench.workloads.summary import Summary
    from bench.workloads.traces import Workload

    Maker = Callable[[], Contender]
    PluginMaker = Callable[[Workload, Path], Plugin]

AGENT = "fastipam, agent"
NO_AGENT = "fastipam, no agent"
HOST_LOCAL = "host-local"
LEASES, KILL, REBOOT = "leases", "kill", "reboot"
NAMES = (LEASES, *(one.name.replace(" ", "-") for one in traces.WORKLOADS), KILL, REBOOT)
TAKEN = (AGENT, NO_AGENT, HOST_LOCAL, "static", "whereabouts", *libraries.STORES)


class Budget(NamedTuple):
    """The seconds that a contender may take for the initial pods, and for its calls."""

    seed_s: float
    workload_s: float
    growth_s: float


@dataclass(frozen=True)
class Effort:
    """The amount of work: budgets of processes and libraries, numbers of leases and of kills."""

    process: Budget
    library: Budget
    leases: tuple[int, ...]
    files: int  # the largest number of leases for host-local
    kills: int
    prefix: int  # the prefix length of the pool that is filled up
    text: str


QUICK = Effort(
    Budget(5, 0.5, 0.3), Budget(1, 0.15, 0.1), (0, 100, 1_000, 10_000, 100_000), 10_000, 8, 28,
    "quick: half a second for each contender's calls in a workload",
)  # fmt: skip
FULL = Effort(
    Budget(20, 4, 2), Budget(6, 1, 0.5), (0, 100, 1_000, 10_000, 100_000, 1_000_000), 100_000, 20,
    27, "full: four seconds for each contender's calls in a workload",
)  # fmt: skip


def run(
    effort: Effort,
    scratch: Path,
    guests: Sequence[Guest] = (),
    only: Sequence[str] = NAMES,
    more: Mapping[str, PluginMaker] | None = None,
) -> Suite:
    """Measure the named work. ``more`` has makers of contenders that need a running service."""
    processes.require_peers()
    suite = Suite(machine.facts() | disk.facts(scratch))
    suite.facts |= {"scratch": str(scratch.parent), "run": effort.text, "work": ", ".join(only)}
    looks = {"before the run": load.look()}
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(scratch, "workloads"))
        arena = Arena(suite, effort, scratch, guests, more or {})
        arena.agent = agent
        for workload in traces.WORKLOADS:
            if workload.name.replace(" ", "-") in only:
                suite.titles[workload.name] = workload.title
                suite.works[workload.name] = arena.measure(workload)
        for leases in effort.leases if LEASES in only else ():
            suite.growth[str(leases)] = arena.grow(leases)
    if KILL in only or REBOOT in only:
        with Agent(scratch, "crashes") as agent:
            arena.agent = agent
            arena.crash(only)
    suite.withdraw()
    looks["after it"] = load.look()
    averages = (f"{seen.average:.1f} {when}" for when, seen in looks.items())
    suite.facts["load average"] = ", ".join(averages)
    suite.warnings += filter(None, [load.warning(looks)])
    return suite


class Arena:
    """Makes the contenders of a workload, each in a directory of its own, and measures them."""

    agent: Agent

    def __init__(
        self,
        suite: Suite,
        effort: Effort,
        scratch: Path,
        guests: Sequence[Guest],
        more: Mapping[str, PluginMaker],
    ) -> None:
        self._suite = suite
        self._effort = effort
        self._scratch = scratch
        self._guests = {guest.name: guest for guest in guests}
        self._gave_up: set[str] = set()
        launcher = install(scratch / "launcher", launcher_only=True)
        self._whole = processes.install_plugin(scratch / "direct")
        direct = self._whole.with_name(DIRECT)
        self._plugins: dict[str, PluginMaker] = {
            AGENT: lambda work, here: Fastipam(AGENT, launcher, work, here, self.agent),
            NO_AGENT: lambda work, here: Fastipam(NO_AGENT, direct, work, here, None),
            HOST_LOCAL: HostLocal,
            "static": Static,
            **more,
            **{name: partial(Other, guest) for name, guest in self._guests.items()},
        }

    def measure(self, workload: Workload) -> list[Summary]:
        """Measure all contenders in a workload."""
        return self._go(workload, 1, set())

    def grow(self, leases: int) -> list[Summary]:
        """Measure all contenders with this many leases, except those that gave up with fewer."""
        out = set(self._gave_up)
        if leases > self._effort.files and HOST_LOCAL not in out:
            out.add(HOST_LOCAL)
            self._skip(HOST_LOCAL, leases, "a call reads every file, and would take seconds")
        found = self._go(traces.growth(leases), 2, out)
        for one in found:
            if one["failed"]:
                self._gave_up.add(one["contender"])
            elif one["pods"] < leases:
                self._gave_up.add(one["contender"])
                why = one["note"] or f"it had {one['pods']:,} when the time for making them was up"
                self._skip(one["contender"], leases, why)
        return [one for one in found if one["pods"] == leases or one["failed"]]

    def _skip(self, contender: str, leases: int, why: str) -> None:
        work = f"{leases:,} leases and more"
        self._suite.skipped.append(Skipped(contender=contender, work=work, why=why))

    def _go(self, workload: Workload, which: int, out: set[str]) -> list[Summary]:
        here = self._scratch / workload.name.replace(" ", "-").replace(",", "")
        out = out | self._suite.withdrawn.keys()
        made = dict(libraries.STORES)
        if not workload.dual:  # for these a second family would only be a second object
            made |= libraries.IN_MEMORY
        # A library makes one call after the other, so it takes no part in such a workload.
        alone = workload.at_once > 1 and not workload.phased
        inside: list[Maker] = [
            partial(make, name, workload, here / name.replace(" ", "-"))
            for name, make in ({} if alone else made).items()
            if name not in out
        ]
        whole: list[Maker] = [
            partial(make, workload, here / f"p{number}")
            for number, (name, make) in enumerate(self._plugins.items())
            if name not in out
        ]
        outcomes = []
        try:
            for makers, budget in ((whole, self._effort.process), (inside, self._effort.library)):
                outcomes += drive(workload, makers, budget[which], budget.seed_s)
        finally:
            shutil.rmtree(here, ignore_errors=True)
        for one in outcomes:
            self._suite.entrants[one.contender] = Entrant(
                own=one.own, whole=one.whole, durability=one.durability
            )
            if one.twice:
                self._suite.withdrawn[one.contender] = one.note
        return [summarise(outcome) for outcome in outcomes]

    def crash(self, only: Sequence[str]) -> None:
        """Kill and reboot every contender that keeps leases."""
        own = partial(Fastipam, AGENT, self._whole)  # with the entry point, as it is installed
        makers = self._plugins | {AGENT: lambda work, here: own(work, here, self.agent)}
        del makers["static"]
        for number, (name, make) in enumerate(makers.items()):
            guest = self._guests.get(name)
            if guest is not None and not guest.fills:
                why = "its configuration has no {subnet}, so its pool cannot be made small"
                self._suite.skipped.append(Skipped(contender=name, work="kill, reboot", why=why))
                continue
            if KILL in only and name not in self._suite.withdrawn:
                self._suite.kills.append(self._killed(name, make, number))
            if REBOOT in only and name not in self._suite.withdrawn:
                self._suite.reboots.append(self._rebooted(name, make, number))

    def _enter(self, plugin: Plugin) -> Plugin:
        made = Entrant(own=plugin.own, whole=True, durability=plugin.durability)
        self._suite.entrants[plugin.name] = made
        return plugin

    def _failed(self, name: str, error: Failed) -> None:
        if isinstance(error, GivenTwice):
            self._suite.withdrawn[name] = str(error)

    def _killed(self, name: str, make: PluginMaker, number: int) -> crashes.Killed:
        work = crashes.small(KILL, self._effort.prefix)
        here = self._scratch / f"{KILL}-{number}"
        try:
            return crashes.kill(lambda: self._enter(make(work, here)), self._effort.kills)
        except Failed as error:
            self._failed(name, error)
            return crashes.Killed(
                contender=name, what="", kills=0, held=0, lost=0, leaked=0, leaked_after_del=0,
                next_ns=[], note=str(error),
            )  # fmt: skip

    def _rebooted(self, name: str, make: PluginMaker, number: int) -> crashes.Rebooted:
        work = crashes.small(REBOOT, self._effort.prefix)
        here = self._scratch / f"{REBOOT}-{number}"
        try:
            return crashes.reboot(lambda: self._enter(make(work, here)))
        except Failed as error:
            self._failed(name, error)
            return crashes.Rebooted(
                contender=name, held=0, leaked=0, seen="", freed_by="", first_ns=None,
                note=str(error),
            )  # fmt: skip


def own_failures(suite: Suite) -> None:
    """Raise Failed when a call of fastipam failed."""
    own = {name for name, one in suite.entrants.items() if one["own"]} | {AGENT, NO_AGENT}
    for one in suite.failures():
        if one["contender"] in own:
            raise Failed(f"{one['contender']} failed in {one['work']}: {one['why']}")
