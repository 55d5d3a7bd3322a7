"""An agent that a benchmark starts, measures and ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from bench.errors import Failed

if TYPE_CHECKING:
    from types import TracebackType

_START_S = 20.0
_CLOCK = (
    2  # with a process id above it: the clock of that process, as clock_getcpuclockid() makes it
)


class Memory(NamedTuple):
    """MiB of memory that no other process shares, and of mapped pages of the store.

    The store is mapped read-only, so its pages are clean pages of the kernel's cache, which the
    kernel reuses when it needs memory. Everything else is the agent's own.
    """

    private: float
    store: float


class Agent:
    """``fastipam agent`` on a socket in ``scratch``, for a ``with`` block."""

    def __init__(self, scratch: Path, name: str = "agent") -> None:
        self.socket = scratch / f"{name}.sock"
        self._log = scratch / f"{name}.log"

    def __enter__(self) -> Self:
        command = [
            *(str(Path(sys.executable).with_name("fastipam")), "agent"),
            *("--socket", str(self.socket)),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        give_up = time.monotonic() + _START_S
        try:
            while not self._answers():
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise Failed(f"the agent did not start: {self._log.read_text()[-2000:]}")
                time.sleep(0.01)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if error is None and status:
            raise Failed(f"the agent ended with {status}: {self._log.read_text()[-2000:]}")

    @property
    def process_id(self) -> int:
        """The agent's process id."""
        return self._process.pid

    def processor_ns(self) -> int:
        """Return the processor time of the agent, in nanoseconds."""
        return time.clock_gettime_ns(~self._process.pid << 3 | _CLOCK)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(str(self.socket))
            except OSError:
                return False
            return True

    def memory(self) -> Memory:
        """Return the memory of the process now. O(mappings)."""
        private = store = 0
        of_store = False
        for line in Path(f"/proc/{self._process.pid}/smaps").read_text().splitlines():
            name, *rest = line.split()
            if not name.endswith(":"):
                of_store = line.endswith("/data.mdb")
            elif name == "Private_Dirty:" or (name == "Private_Clean:" and not of_store):
                private += int(rest[0])
            elif name == "Rss:" and of_store:
                store += int(rest[0])
        return Memory(private / 1024, store / 1024)
