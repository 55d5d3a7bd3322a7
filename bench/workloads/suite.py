"""The results of one run of the suite, and their form as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from bench.workloads.losses import judge
from bench.workloads.summary import of_adds

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workloads.crashes import Killed, Rebooted
    from bench.workloads.losses import Verdict
    from bench.workloads.summary import Summary

VERSION = 1


class Entrant(TypedDict):
    """The facts about a contender in the report."""

    own: bool
    whole: bool  # whether a call is a process
    durability: str


class Skipped(TypedDict):
    """Work that a contender was not given, or could not do."""

    contender: str
    work: str
    why: str


@dataclass
class Suite:
    """The figures of the report. ``works`` has them by the name of the workload."""

    facts: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    entrants: dict[str, Entrant] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    works: dict[str, list[Summary]] = field(default_factory=dict)
    growth: dict[str, list[Summary]] = field(default_factory=dict)  # by the number of leases
    kills: list[Killed] = field(default_factory=list)
    reboots: list[Rebooted] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    withdrawn: dict[str, str] = field(default_factory=dict)  # contenders without figures, and why

    def verdict(self) -> Verdict:
        """Return the losses of fastipam in all the work of this run."""
        after = [
            of_adds(one["contender"], one["next_ns"], own=self.entrants[one["contender"]]["own"])
            for one in self.kills
            if one["next_ns"]
        ]
        return judge(self._all() | {"after kill -9": after})

    def _all(self) -> dict[str, list[Summary]]:
        beside = {f"{int(leases):,} leases": found for leases, found in self.growth.items()}
        return self.works | beside

    def withdraw(self) -> None:
        """Remove the figures of the withdrawn contenders, so that they are not compared."""
        for one in (one for found in self._all().values() for one in found):
            if one["contender"] in self.withdrawn:
                one["verbs"], one["note"] = {}, self.withdrawn[one["contender"]]
        for killed in self.kills:
            if killed["contender"] in self.withdrawn:
                killed["next_ns"], killed["note"] = [], self.withdrawn[killed["contender"]]
        for rebooted in self.reboots:
            if rebooted["contender"] in self.withdrawn:
                rebooted["note"] = self.withdrawn[rebooted["contender"]]

    def failures(self) -> list[Skipped]:
        """Return the work in which a call of a contender failed."""
        failed = [
            Skipped(contender=one["contender"], work=work, why=one["note"])
            for work, found in self._all().items()
            for one in found
            if one["failed"]
        ]
        for kind, trials in (("kill", self.kills), ("reboot", self.reboots)):
            failed += [
                Skipped(contender=one["contender"], work=kind, why=one["note"])
                for one in trials
                if one["note"]
            ]
        return failed

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        document = {"version": VERSION, **vars(self), "verdict": self.verdict()}
        path.write_text(json.dumps(document, indent=1) + "\n")
