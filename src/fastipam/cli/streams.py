"""Run a program whose standard streams may be closed or full, or may have lost their reader.

Writes to standard output and error never raise. Data that cannot be written is dropped, so that a
command finishes what it has begun, and the interpreter finds nothing to flush at its end. The first
failure of standard output is kept, and ``run`` reports it. A reader that has closed the pipe is not
a failure.

A command waits for a slow reader. The agent does not (:func:`never_wait`): a thread writes its
output, and lines that do not fit into the thread's queue are dropped and counted.
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

_LARGEST_QUEUE = 256 << 10  # bytes: a few thousand lines of a log
_END_S = 1.0  # how long a process waits at its end until its last lines are written
_DROPPED = "fastipam: lines dropped because no program read them: {}\n"


class _Output(FileIO):
    """Standard output or error. ``lost`` is the error of the last failed write, or None."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.lost: OSError | None = None
        self.queue: _Queue | None = None  # receives every write, so that the caller never waits

    def write(self, data: Any) -> int:
        """Write some of the data, or drop all of it; return the number of bytes."""
        if self.queue is not None:
            self.queue.add(bytes(data))
            return len(data)
        if self.fileno() == 1 and self.lost is not None:
            return len(data)  # drop the rest too: output with a gap would be wrong
        try:
            written = super().write(data)
            while written is None:  # the pipe is full, and another process set it non-blocking
                os.set_blocking(self.fileno(), True)
                written = super().write(data)
        except OSError as error:
            self.lost = error
            return len(data)
        return written


class _Queue:
    """The data waiting for a descriptor, and the thread that writes it.

    Only the thread waits for the reader. Nothing else works for every kind of file: a terminal or a
    socket may be "writable" and still block, and O_NONBLOCK would also apply to the other processes
    that share the open file.
    """

    def __init__(self, descriptor: int) -> None:
        from threading import Condition, Thread  # only the agent needs a queue

        self._descriptor = descriptor
        self._changed = Condition()
        self._waiting = b""
        self._writing = False
        self._dropped = 0  # lines
        Thread(target=self._run, name="log", daemon=True).start()

    def add(self, data: bytes) -> None:
        """Queue the data, or drop and count it when the queue is full."""
        with self._changed:
            if len(self._waiting) + len(data) > _LARGEST_QUEUE:
                self._dropped += data.count(b"\n") or 1
                return
            self._waiting += data
            self._changed.notify_all()

    def finish(self, seconds: float) -> None:
        """Wait until everything is written, for ``seconds`` at most."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._writing), seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._writing = True
                data, self._waiting = self._waiting, b""
                if self._dropped:  # the dropped lines came after the data in the full queue
                    data += _DROPPED.format(self._dropped).encode()
                    self._dropped = 0
            self._write(data)

    def _write(self, data: bytes) -> None:
        # A pipe takes up to PIPE_BUF bytes as a whole. Each part ends with a line, because the
        # other stream may be the same pipe, and its thread may write between two parts.
        while data:
            size = data.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF
            try:
                data = data[os.write(self._descriptor, data[:size]) :]
            except BlockingIOError:  # the pipe is full, and another process set it non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return  # the reader is gone: drop the data


_output: _Output | None = None  # set by ``run``
_errors: _Output | None = None


def run(program: Callable[[], object]) -> NoReturn:
    """Run a program, and exit with the status that it returns or exits with.

    If standard output could not be written, the status is 1 instead of 0, and standard error says
    why.
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
    for stream in (_output, _errors):
        if stream is not None and stream.queue is not None:
            stream.queue.finish(_END_S)
    raise SystemExit(status)


def _prepare() -> None:
    """Replace the standard streams by streams whose writes never raise."""
    global _output, _errors  # a process has one of each
    if 0 in fill_gaps(os.O_WRONLY):
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    _output, _errors = _Output(1), _Output(2)
    # Without UTF-8 a pod's name is printed with escapes, instead of raising an error.
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
    """Return why standard output could not be written, or None; a closed pipe does not count."""
    lost = _output.lost if _output is not None else None
    return None if lost is None or lost.errno == errno.EPIPE else lost


def pause(seconds: float) -> None:
    """Sleep, but return at once when the reader of standard output closes it."""
    poll = select.poll()
    if _output is not None:
        poll.register(_output, 0)  # poll reports errors and hang-ups without being asked
    if poll.poll(seconds * 1000) and _output is not None:
        _output.lost = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def never_wait() -> None:
    """Never wait for a reader again: lines that cannot be written are dropped and counted."""
    for stream in (_output, _errors):
        if stream is not None:
            stream.queue = _Queue(stream.fileno())
