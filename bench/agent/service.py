"""An agent, or another server, that a benchmark starts, measures and ends."""

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
# The low bits of the id of a process's clock, as clock_getcpuclockid() makes it.
_CLOCK = 2


class Memory(NamedTuple):
    """The memory of an agent in MiB: its own, and the mapped pages of the store.

    The store is mapped read-only, so its pages are clean pages of the kernel's cache, which the
    kernel reuses when it needs memory. ``private`` is all other memory that no process shares.
    """

    private: float
    store: float


class Server:
    """A program that listens on a socket in ``scratch``, for a ``with`` block.

    SIGTERM ends it with ``status``.
    """

    def __init__(self, scratch: Path, name: str, *command: str, status: int) -> None:
        self.socket = scratch / f"{name}.sock"
        self._log = scratch / f"{name}.log"
        self._command = [*command, str(self.socket)]
        self._status = status

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() == -signal.SIGKILL:
            return  # ``kill`` has ended it
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if error is None and status != self._status:
            raise Failed(f"{self._command} ended with {status}: {self._log.read_text()[-2000:]}")

    def start(self) -> None:
        """Start the server without waiting until it answers. Ctrl-C does not reach it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def wait_ready(self) -> None:
        """Wait until the server answers. Raises Failed when it does not."""
        give_up = time.monotonic() + _START_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise Failed(f"{self._command} did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill the server with SIGKILL, so that it cannot clean up."""
        self._process.kill()
        self._process.wait()

    @property
    def process_id(self) -> int:
        """The server's process id."""
        return self._process.pid

    def processor_ns(self) -> int:
        """Return the processor time of the server, in nanoseconds."""
        return time.clock_gettime_ns(~self._process.pid << 3 | _CLOCK)

    def answers(self) -> bool:
        """Return whether the server accepts a connection."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(str(self.socket))
            except OSError:
                return False
            return True


class Agent(Server):
    """A ``fastipam agent``, with sweeps or without. It never opens the node's own store."""

    def __init__(
        self, scratch: Path, name: str = "agent", *, data: Path | None = None, sweeps: bool = True
    ) -> None:
        fastipam = Path(sys.executable).with_name("fastipam")
        options = ["--data-dir", str(data or scratch / "no-store")]
        options += [] if sweeps else ["--sweep-interval", "0"]
        super().__init__(scratch, name, str(fastipam), "agent", *options, "--socket", status=0)

    def memory(self) -> Memory:
        """Return the memory that the process has now. O(mappings)."""
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
