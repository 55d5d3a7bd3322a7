"""Replace pods through the agent, many at once; kill the agent in the middle, and check for losses.

This module acts as a runtime does. A new pod's ADD comes before its predecessor's DEL. When an ADD
fails, its container gets a DEL, and the pod is tried again as another container. ADDs may fail only
while the agent is dead or starting; any other failure ends the demo.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple

from bench import children
from bench.errors import Failed
from bench.stores import IFNAME
from bench.workloads.traces import ADD, DEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from bench.agent.service import Agent
    from fastipam import Network


class Call(NamedTuple):
    """A call of the plugin. ``pod`` is (namespace, name)."""

    verb: str
    container: str
    pod: tuple[str, str]
    replaces: str  # for an ADD: the container that gets a DEL after it


class Running(NamedTuple):
    """A call whose process has not ended."""

    call: Call
    place: int  # the number of its output file
    began_ns: int


@dataclass
class Outcome:
    """The plugin's answers to the runtime, and the time while the agent was dead or starting."""

    answered: dict[str, str] = field(default_factory=dict)  # container → address
    stopped: set[str] = field(default_factory=set)  # containers whose DEL was answered
    calls: int = 0
    refused: int = 0  # ADDs that failed in that time
    meanwhile: int = 0  # calls that began in that time and were answered
    killed_ns: int = 0
    back_ns: int = 0
    spent_ns: int = 0


class Runtime:
    """A container runtime with ``width`` plugin processes at the same time."""

    def __init__(self, plugin: Path, config: Path, agent: Agent, scratch: Path, width: int) -> None:
        self._plugin, self._config, self._agent = plugin, config, agent
        self._outputs = [scratch / f"answer-{place}" for place in range(width)]
        self._free = list(range(width))
        self._flying: dict[int, Running] = {}
        self._todo: deque[Call] = deque()
        self.outcome = Outcome()

    def replace(
        self, pods: Iterable[Call], kill_at: int, advance: Callable[[int], object]
    ) -> Outcome:
        """Make the ADDs and their DELs; kill the agent after ``kill_at`` answers. Raises Failed.

        ``advance(1)`` is called for each pod that got its address, ``advance(0)`` for other calls.
        """
        waiting = iter(pods)
        outcome = self.outcome
        begun = perf_counter_ns()
        with children.patience("the churn") as renew:
            while True:
                while self._free and (call := self._next(waiting)) is not None:
                    self._begin(call)
                if not self._flying:
                    break
                advance(self._end_one())
                renew()
                if not outcome.killed_ns and len(outcome.answered) >= kill_at:
                    self._agent.kill()
                    outcome.killed_ns = perf_counter_ns()
                    self._agent.start()
                elif outcome.killed_ns and not outcome.back_ns and self._agent.answers():
                    outcome.back_ns = perf_counter_ns()
        outcome.spent_ns = perf_counter_ns() - begun
        if outcome.killed_ns and not outcome.back_ns:
            self._agent.wait_ready()
            outcome.back_ns = perf_counter_ns()
        return outcome

    def _next(self, waiting: Iterator[Call]) -> Call | None:
        return self._todo.popleft() if self._todo else next(waiting, None)

    def ask(self, call: Call) -> str:
        """Make one call and return the plugin's output. Raises Failed."""
        what = f"{call.verb} of {call.container}"
        command = [str(self._plugin)]
        status, said = children.ask(what, command, self._environment(call), str(self._config))
        if status:
            raise Failed(f"{what} ended with status {status}: {said}")
        return said

    def _environment(self, call: Call) -> dict[str, str]:
        space, name = call.pod
        return {
            "CNI_COMMAND": call.verb,
            "CNI_CONTAINERID": call.container,
            "CNI_NETNS": f"/run/netns/{name}",
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(self._plugin.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={space};K8S_POD_NAME={name}",
            "FASTIPAM_SOCKET": str(self._agent.socket),
            "PATH": os.environ.get("PATH", os.defpath),
        }

    def _begin(self, call: Call) -> None:
        place = self._free.pop()
        began = perf_counter_ns()
        command, output = [str(self._plugin)], str(self._outputs[place])
        process = children.begin(command, self._environment(call), str(self._config), output)
        self._flying[process] = Running(call, place, began)

    def _end_one(self) -> int:
        """Wait for a process to end; return 1 if a pod got its address from it, else 0."""
        process, status = children.wait_for_any()
        if process not in self._flying:
            raise Failed("the agent ended, and nobody had killed it")
        call, place, began_ns = self._flying.pop(process)
        self._free.append(place)
        outcome = self.outcome
        outcome.calls += 1
        away = bool(outcome.killed_ns) and (not outcome.back_ns or began_ns < outcome.back_ns)
        said = self._outputs[place].read_text()
        if status:
            if not away or call.verb != ADD:
                code = os.waitstatus_to_exitcode(status)
                raise Failed(f"{call.verb} of {call.container} ended with status {code}: {said}")
            outcome.refused += 1
            self._todo.append(call._replace(verb=DEL))
            self._todo.append(call._replace(container=f"{call.container}-again"))
            return 0
        if away and began_ns > outcome.killed_ns:
            outcome.meanwhile += 1
        if call.verb == DEL:
            outcome.stopped.add(call.container)
            return 0
        outcome.answered[call.container] = json.loads(said)["ips"][0]["address"].partition("/")[0]
        self._todo.append(Call(DEL, call.replaces, call.pod, ""))
        return 1


def audit(network: Network, outcome: Outcome, living: int) -> list[str]:
    """Return the contradictions between the plugin's answers and the store: none without a loss.

    ``living`` is the number of pods that run now. If two of them had the same address, the store
    would have one lease for both.
    """
    wrong = [
        f"{address} was given to {count} pods that run"
        for address, count in Counter(outcome.answered.values()).items()
        if count > 1
    ]
    for container, address in outcome.answered.items():
        lease = network.get(container, IFNAME)
        if lease is None or str(lease.address.ip) != address:
            wrong.append(f"{container} was told {address}; the store has {lease and lease.address}")
    wrong += [
        f"{container} was released; the store has a lease of it"
        for container in outcome.stopped
        if network.get(container, IFNAME) is not None
    ]
    assigned = network.stats().assigned
    if assigned != living:
        wrong.append(f"{living} pods run; the store has {assigned} leases")
    return wrong
