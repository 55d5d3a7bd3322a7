"""Run a program whose standard streams may be closed or full, or may have lost their reader.

Standard output and error take every write. What cannot be written is dropped, so that a command
ends what it has begun, and nothing is left for the interpreter to fail at when it ends. The first
failure of standard output is kept: ``run`` reports it. A reader that went away is no failure.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from io import BufferedWriter, FileIO, TextIOWrapper

from fastipam.cni.main import fill_gaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_PATIENCE_MS = 1000  # as long as a log's reader may be busy; a call waits for no longer


class _Output(FileIO):
    """Standard output or error. ``lost`` is why the last write failed, None when it did not."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.lost: OSError | None = None
        self.patience_ms: int | None = None  # None: wait for a slow reader without a limit

    def write(self, data: Any) -> int:
        """Write some of the data, or drop all of it; return how much that is."""
        if self.fileno() == 1 and self.lost is not None:
            return len(data)  # a later part without an earlier one would be wrong output
        if self.patience_ms is not None:
            if not self._has_room(self.patience_ms):
                self.patience_ms = 0  # until it reads again
                return len(data)
            self.patience_ms = _PATIENCE_MS
            data = data[: select.PIPE_BUF]  # as much as there is room for
        try:
            written = super().write(data)
            while written is None:  # a full pipe that somebody set to non-blocking
                os.set_blocking(self.fileno(), True)
                written = super().write(data)
        except OSError as error:
            self.lost = error
            return len(data)
        return written

    def _has_room(self, patience_ms: int) -> bool:
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        return bool(poll.poll(patience_ms))


_output: _Output | None = None  # of a process that ``run`` has prepared
_errors: _Output | None = None


def run(program: Callable[[], object]) -> NoReturn:
    """Run a program and end the process with the status that it returns or exits with.

    The status is 1 instead of 0 when standard output could not be written; standard error says why.
    """
    _prepare()
    try:
        status = program()
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    reason = failure()
    if reason is not None:
        print(f"fastipam: cannot write to standard output: {reason.strerror}", file=sys.stderr)
        status = status or 1
    raise SystemExit(status)


def _prepare() -> None:
    """Replace the standard streams by ones that take every write."""
    global _output, _errors  # a process has one of each
    if 0 in fill_gaps(os.O_WRONLY):
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    _output, _errors = _Output(1), _Output(2)
    # A terminal without UTF-8 shows escapes in a pod's name, instead of an error.
    for name, raw in (("stdout", _output), ("stderr", _errors)):
        before = getattr(sys, name)
        stream = TextIOWrapper(
            BufferedWriter(raw),
            encoding=before and before.encoding,
            errors="backslashreplace",
            line_buffering=raw is _errors or raw.isatty(),
        )
        setattr(sys, name, stream)


def is_lost() -> bool:
    """Return whether standard output can no longer be written."""
    return _output is not None and _output.lost is not None


def failure() -> OSError | None:
    """Return why standard output could not be written; a reader that went away is no reason."""
    lost = _output.lost if _output is not None else None
    return None if lost is None or lost.errno == errno.EPIPE else lost


def pause(seconds: float) -> None:
    """Sleep; return at once when the reader of standard output goes away."""
    poll = select.poll()
    if _output is not None:
        poll.register(_output, 0)  # an error or a hang-up is reported all the same
    if poll.poll(seconds * 1000) and _output is not None:
        _output.lost = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def never_wait_for_errors() -> None:
    """Drop what is written to standard error while its reader does not read."""
    if _errors is not None:
        _errors.patience_ms = _PATIENCE_MS
