"""Run many plugin processes at once: when one ends, the next one is started."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench import children
from bench.errors import Failed

if TYPE_CHECKING:
    from bench.processes import Plugin

_COMMANDS = ("ADD", "DEL")


@dataclass
class Crowd:
    """A load of ``width`` processes of one program at once.

    Each of the ``width`` places runs an ADD, then the DEL of the same container, over and over. The
    time of every process, from just before its spawn until its end is noticed, is added to
    ``latencies``.
    """

    program: str
    plugin: Plugin  # gives the variables and the standard input of the program
    width: int
    pairs: int
    latencies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._environments = [
            [self.plugin.environment(command, f"c{place:063x}") for command in _COMMANDS]
            for place in range(self.width)
        ]

    @property
    def calls(self) -> int:
        """The number of processes in a run."""
        return 2 * self.pairs * self.width

    def run(self) -> None:
        """Start the processes and wait for them. Raises Failed when a process fails."""
        command, source = [self.program], str(self.plugin.input)
        flying: dict[int, tuple[int, int, int]] = {}  # process id -> place, number, start

        def start(place: int, number: int) -> None:
            variables = self._environments[place][number % 2]
            began = perf_counter_ns()
            process = children.begin(command, variables, source, os.devnull)
            flying[process] = place, number, began

        try:
            for place in range(self.width):
                start(place, 0)
            while flying:
                process, status = children.wait_for_any()
                ended = perf_counter_ns()
                if process not in flying:
                    raise Failed("the agent ended")
                place, number, began = flying.pop(process)
                if status:
                    code = os.waitstatus_to_exitcode(status)
                    raise Failed(f"{self.program}: {_COMMANDS[number % 2]} ended with {code}")
                self.latencies.append(ended - began)
                if number + 1 < 2 * self.pairs:
                    start(place, number + 1)
        except BaseException:
            children.end_all()
            raise
