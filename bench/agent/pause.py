"""Time the first request after a pause, as on a node where one pod starts after a quiet second.

A process that has slept wakes with cold caches, and on a processor that has gone to sleep. So every
sample of every subject comes after the same pause, also the samples of the floor: `/bin/true`, and
one durable commit of one page in this process, which has slept as long. The agent's work for a
sample is counted from before the pause, so that work during the pause counts too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.sampling import Samples


class Work(NamedTuple):
    """The work of a process, in all of its threads, since it started."""

    cpu_ns: int
    switches: int  # how often a thread went to sleep
    faults: int  # minor page faults: without the disk

    def since(self, before: Work) -> Work:
        """Return the work done since ``before``."""
        return Work(*(now - then for now, then in zip(self, before, strict=True)))


def work_of(process: int) -> Work:
    """Return the work of a process now. Threads that have ended do not count."""
    cpu_ns = switches = faults = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        cpu_ns += int((task / "schedstat").read_text().split()[0])
        # After the name, which may have blanks, come the state and 6 numbers; then minor faults.
        faults += int((task / "stat").read_text().rpartition(")")[2].split()[7])
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                switches += int(line.split()[1])
    return Work(cpu_ns, switches, faults)


@dataclass
class Paused:
    """A subject that is timed after a pause. ``before`` runs untimed before the pause.

    ``work`` has the agent's work for each sample.
    """

    name: str
    run: Callable[[], object]
    before: Callable[[], object] | None = None
    work: list[Work] = field(default_factory=list)

    @property
    def typical(self) -> Work:
        """The medians of the work."""
        return Work(*(int(median(values)) for values in zip(*self.work, strict=True)))


def take(subjects: Sequence[Paused], rounds: int, pause_s: float, process: int) -> Samples:
    """Take one sample of every subject in each round, each after the pause; drop the first round.

    ``process`` is the agent's process id. Each round begins with another subject.
    O(subjects x rounds x pause).
    """
    samples: Samples = {one.name: [] for one in subjects}
    for number in range(rounds + 1):
        at = number % len(subjects)
        for one in (*subjects[at:], *subjects[:at]):
            if one.before is not None:
                one.before()
            before = work_of(process)
            time.sleep(pause_s)
            start = perf_counter_ns()
            one.run()
            taken = perf_counter_ns() - start
            if number:
                samples[one.name].append(taken)
                one.work.append(work_of(process).since(before))
    return samples
