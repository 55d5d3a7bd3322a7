"""Start the processes of a benchmark, wait for them with a limit, and leave none behind.

Each process has a process group of its own, so that one that hangs is killed with everything that
it started. A process is registered when it starts. So :func:`end_all` kills it when the benchmark
is interrupted, even before the caller has the process id.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bench.errors import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

# host-local beside 100,000 leases takes a second, and a container runtime has given up by then.
PATIENCE_S = 60.0
_MOST_SAID = 1 << 20
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)

_running: set[int] = set()


_QUIET = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)


def begin(
    command: list[str],
    environment: dict[str, str],
    source: str,
    output: str,
    *,
    quiet: bool = False,
) -> int:
    """Start a program and return its process id. Raises Failed when it cannot be executed.

    With ``quiet`` its standard error is discarded.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [(os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600), *[_QUIET] * quiet]
    return _start(command, environment, source, actions)


def _start(
    command: list[str], environment: dict[str, str], source: str, outputs: list[tuple[Any, ...]]
) -> int:
    actions = [(os.POSIX_SPAWN_OPEN, 0, source, os.O_RDONLY, 0), *outputs]
    # Block signals, so that an interruption comes before the start, or after the registration.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
    try:
        process = os.posix_spawn(
            command[0], command, environment, file_actions=actions, setpgroup=0, setsigmask=mask
        )
        _running.add(process)
    except OSError as error:
        raise Failed(f"{command[0]} cannot be executed: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process


def wait(process: int) -> int:
    """Wait for a process and return its wait status. An interruption kills the process."""
    try:
        status = os.waitpid(process, 0)[1]
    except BaseException:
        end(process)
        raise
    _running.discard(process)
    return status


def wait_for_any() -> tuple[int, int]:
    """Wait until any process ends; return its id and its wait status."""
    process, status = os.wait()
    _running.discard(process)
    return process, status


def spawn(command: list[str], environment: dict[str, str], source: str, output: str) -> int:
    """Start a program, wait until it ends and return its exit status."""
    return os.waitstatus_to_exitcode(wait(begin(command, environment, source, output)))


def end(process: int) -> None:
    """Kill a process and its group, unless the process has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(process, 0)
    _running.discard(process)


def end_all() -> None:
    """Kill every process that was started and has not been waited for."""
    for process in list(_running):
        end(process)


@contextmanager
def patience(what: str, limit_s: float = PATIENCE_S) -> Iterator[Callable[[], object]]:
    """Raise Failed when the block takes longer than ``limit_s``.

    The value of the block is a function that starts the time again. This uses an alarm, so it works
    only in the main thread, and it makes two system calls, so it is not for timed code.
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
    *,
    quiet: bool = False,
    errors: int | None = None,
) -> tuple[int, str]:
    """Run a program untimed and return (exit status, output). Raises Failed when it does not end.

    ``errors`` is the file descriptor for its standard error.
    """
    readable, writable = os.pipe()
    with open(readable, "rb") as output, patience(what, limit_s):
        try:
            actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, writable, 1)]
            if errors is not None:
                actions.append((os.POSIX_SPAWN_DUP2, errors, 2))
            process = _start(command, environment, source, actions + [_QUIET] * quiet)
        finally:
            os.close(writable)
        try:
            said = output.read(_MOST_SAID)
            if len(said) == _MOST_SAID:
                raise Failed(f"{what}: it prints without end: {said[:80]!r}")
        except BaseException:
            end(process)
            raise
        return os.waitstatus_to_exitcode(wait(process)), said.decode(errors="replace")
