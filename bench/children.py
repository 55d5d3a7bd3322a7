"""Processes that a benchmark starts: timed, waited for within reason, and never left behind.

Each is a process group of its own, so that one that hangs is ended with whatever it has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bench.errors import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 60.0  # host-local beside 100,000 leases takes one second, a container runtime gives up
_MOST_SAID = 1 << 20


def begin(command: list[str], environment: dict[str, str], source: str, output: str) -> int:
    """Start a program and return its process id. Failed when it cannot be executed."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, source, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    try:
        return os.posix_spawn(command[0], command, environment, file_actions=actions, setpgroup=0)
    except OSError as error:
        raise Failed(f"{command[0]} cannot be executed: {error.strerror}") from error


def wait(process: int) -> int:
    """The wait status of a process that was begun; whatever interrupts the wait ends it."""
    try:
        return os.waitpid(process, 0)[1]
    except BaseException:
        end(process)
        raise


def spawn(command: list[str], environment: dict[str, str], source: str, output: str) -> int:
    """Start a program, wait for its end and return its exit status."""
    return os.waitstatus_to_exitcode(wait(begin(command, environment, source, output)))


def end(process: int) -> None:
    """Kill a process and what it has started; nothing happens when it is gone."""
    _kill(process)
    with suppress(ChildProcessError):
        os.waitpid(process, 0)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@contextmanager
def patience(what: str, limit_s: float = PATIENCE_S) -> Iterator[Callable[[], object]]:
    """Failed when the block takes longer, or longer than that since the last call of its value.

    Only in the main thread: it is an alarm. Its cost, two system calls, is not for timed code.
    """

    def ring(*_: object) -> None:
        raise Failed(f"{what}: no answer within {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, limit_s)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ask(
    what: str,
    command: list[str],
    environment: dict[str, str],
    source: str,
    limit_s: float = PATIENCE_S,
) -> tuple[int, str]:
    """A program's exit status and what it says, untimed. Failed when it does not come to an end."""
    with open(source, "rb") as stdin, patience(what, limit_s):
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=stdin, stdout=subprocess.PIPE, process_group=0
            )
        except OSError as error:
            raise Failed(f"{command[0]} cannot be executed: {error.strerror}") from error
        assert process.stdout is not None
        with process.stdout:
            try:
                said = process.stdout.read(_MOST_SAID)
                if len(said) == _MOST_SAID:
                    raise Failed(f"{what}: it prints without end: {said[:80]!r}")
                return process.wait(), said.decode(errors="replace")
            except BaseException:
                _kill(process.pid)
                process.wait()
                raise
