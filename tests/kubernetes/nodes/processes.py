"""A process in the namespaces of others, ended by its own process id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATIENCE_S = 30.0


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(each) for each in text.split()]


class Process:
    """A program that ``nsenter`` or ``unshare`` has started, and what it has written."""

    def __init__(self, command: Sequence[str], log: Path, *, forks: bool) -> None:
        self.log = log
        self._forks = forks  # the program is the child of what is started
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        """The process id of the program."""
        if not self._forks:
            return self._process.pid
        end = time.monotonic() + _PATIENCE_S
        while not (found := children(self._process.pid)):
            assert self._process.poll() is None, f"it has ended:\n{self.tail()}"
            assert time.monotonic() < end, f"it has not started:\n{self.tail()}"
            time.sleep(0.01)
        return found[0]

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it and wait until it has ended."""
        if self.runs():
            with contextlib.suppress(ProcessLookupError, AssertionError):
                os.kill(self.pid, number)
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.kill(self.pid, signal.SIGKILL)
                self._process.kill()
        self._process.wait()

    def tail(self) -> str:
        """The end of what it has written."""
        return self.log.read_text(errors="replace")[-3000:]
