"""Run contenders through a workload alternately, each until its time is up."""

from __future__ import annotations

import gc
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING

from bench import children
from bench.errors import Failed
from bench.workloads.answers import GivenTwice, Pipe
from bench.workloads.contenders import Plugin, TakesNoPart
from bench.workloads.traces import ADD, DEL, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.workloads.contenders import Contender
    from bench.workloads.traces import Workload

# A contender makes this many calls, enough for intervals of ADD and of DEL, unless it has spent
# _LONGEST times its budget.
_FEWEST = 12
_LONGEST = 10
_TURN_NS = 50_000_000  # longer than a call, and shorter than a slow phase of the machine


@dataclass
class Outcome:
    """The result of a contender in a workload, with every latency in nanoseconds."""

    contender: str
    whole: bool  # whether a call is a process
    calls_wanted: int
    pods_wanted: int
    pods: int
    latencies: dict[str, list[float]] = field(default_factory=lambda: {ADD: [], DEL: []})
    spent_ns: float = 0.0
    note: str = ""  # why the contender took no part, or which call failed
    failed: bool = False
    twice: bool = False  # whether it gave an address that another container had
    own: bool = False
    durability: str = ""

    @property
    def calls(self) -> int:
        """The number of calls that were made."""
        return sum(map(len, self.latencies.values()))


class _Track:
    """The progress of a contender in a workload."""

    def __init__(
        self, workload: Workload, contender: Contender, budget_s: float, seed_s: float
    ) -> None:
        self.contender = contender
        pods, note, failed, twice = 0, "", False, False
        try:
            if isinstance(contender, Plugin):
                contender.try_out(len(workload.pools))
            until = monotonic() + seed_s
            pods = contender.seed(workload.present, lambda: monotonic() > until)
        except TakesNoPart as error:
            note, budget_s = str(error), 0
        except Failed as error:
            note, budget_s, failed = str(error), 0, True
            twice = isinstance(error, GivenTwice)
        self._steps: Iterator[Step] = workload.steps(pods)
        self._at_once = workload.at_once
        self._phased = workload.phased
        self._ahead: Step | None = None
        self._budget_ns = budget_s * 1e9
        self.outcome = Outcome(
            contender.name,
            isinstance(contender, Plugin),
            workload.calls,
            workload.present,
            pods,
            note=note,
            failed=failed,
            twice=twice,
            own=contender.own,
            durability=contender.durability,
        )

    def turn(self) -> bool:
        """Make some calls. Return False when none is left, one failed, or the time is over."""
        spent = self.outcome.spent_ns
        enough = self.outcome.calls >= _FEWEST or spent >= _LONGEST * self._budget_ns
        if spent >= self._budget_ns and enough:
            return False  # in the first turn if it takes no part
        try:
            return self._calls()
        except Failed as error:
            self.outcome.note, self.outcome.failed = str(error), True
            self.outcome.twice = isinstance(error, GivenTwice)
            return False

    def _calls(self) -> bool:
        if self._at_once > 1 and isinstance(self.contender, Plugin):
            steps = self._phase() if self._phased else list(islice(self._steps, 4 * self._at_once))
            if steps:
                self.outcome.spent_ns += crowd(
                    self.contender, steps, self._at_once, self.outcome.latencies
                )
            return bool(steps)
        spent = 0.0
        for step in self._steps:
            taken = self.contender.call(step)
            self.outcome.latencies[step.verb].append(taken)
            spent += taken
            if spent >= _TURN_NS:
                break
        self.outcome.spent_ns += spent
        return spent > 0

    def _phase(self) -> list[Step]:
        """Return the next steps that have the same verb, which may run at the same time."""
        steps = [self._ahead] if self._ahead else list(islice(self._steps, 1))
        self._ahead = None
        for step in self._steps:
            if step.verb != steps[0].verb:
                self._ahead = step
                break
            steps.append(step)
        return steps


def crowd(
    plugin: Plugin, steps: Sequence[Step], width: int, latencies: dict[str, list[float]]
) -> float:
    """Make the calls with ``width`` processes at once; return the nanoseconds until the last ends.

    The calls begin in their order. A call for a container waits until the container's earlier call
    has ended.
    """
    waiting = deque(steps)
    flying: dict[int, tuple[Step, int, Pipe]] = {}
    pipes = [Pipe() for _ in range(width)]
    every = list(pipes)

    def start() -> None:
        while waiting and len(flying) < width:
            if any(step.container == waiting[0].container for step, *_ in flying.values()):
                return
            step, pipe, began = waiting.popleft(), pipes.pop(), perf_counter_ns()
            flying[plugin.begin(step, pipe.path)] = step, began, pipe

    with children.patience(f"{plugin.name}: {steps[0].verb}, {width} at once") as renew:
        begun = perf_counter_ns()
        try:
            start()
            while flying:
                process, status = children.wait_for_any()
                ended = perf_counter_ns()
                if process not in flying:
                    raise Failed("a process ended that was no call: the agent?")
                step, began, pipe = flying.pop(process)
                if status:
                    plugin.fail(step, status)
                latencies[step.verb].append(ended - began)
                plugin.check(step, pipe.read())
                pipes.append(pipe)
                renew()
                start()
        except BaseException:
            children.end_all()
            raise
        finally:
            for one in every:
                one.close()
        return perf_counter_ns() - begun


def drive(
    workload: Workload, makers: Sequence[Callable[[], Contender]], budget_s: float, seed_s: float
) -> list[Outcome]:
    """Make the contenders, run them alternately for 50 ms each, and close them.

    Each contender first assigns the initial pods, for at most ``seed_s``. Then it makes the calls
    of the workload in order, and stops after ``budget_s``. It makes at least twelve calls, unless
    they take ten times the budget. The calls that were made are reported; nothing is extrapolated.
    The garbage collector is off.
    """
    tracks: list[_Track] = []
    try:
        tracks.extend(_Track(workload, make(), budget_s, seed_s) for make in makers)
        going = list(tracks)
        gc.collect()
        gc.disable()
        while going:
            going = [track for track in going if track.turn()]
            going = going[1:] + going[:1]  # so that neighbours change
    finally:
        gc.enable()
        for track in tracks:
            track.contender.close()
    return [track.outcome for track in tracks]
