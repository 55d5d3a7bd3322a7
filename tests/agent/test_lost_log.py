"""An agent whose standard error is closed or full, or has no reader, or one that reads nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from ..measuring import passed_on
from .processes import FASTIPAM, Client, listens, until

_LIMIT_S = 20


def _fill(write_end: int) -> None:
    """Fill a pipe, so that a write to it waits for a reader."""
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write_end, bytes(4096))
    os.set_blocking(write_end, True)


def _log(kind: str, stack: ExitStack) -> int:
    """Open a log that cannot be written; the caller closes it."""
    if kind == "full device":
        return os.open("/dev/full", os.O_WRONLY)
    read_end, write_end = os.pipe()
    if kind == "no reader":
        os.close(read_end)
        return write_end
    stack.callback(os.close, read_end)
    _fill(write_end)
    return write_end


@pytest.mark.parametrize("kind", ["full device", "no reader", "reads nothing", "closed"])
def test_lost_log(kind: str, run_dir: Path) -> None:
    """It answers, one line of its log for each call, and ends when it is told to."""
    socket = run_dir / "s"
    words = ["agent", "--socket", str(socket), "--data-dir", "store", "--log-level", "debug"]
    closed = "2>&-" if kind == "closed" else ""
    with ExitStack() as stack:
        errors = _log(kind, stack)
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", str(FASTIPAM), *words],
            cwd=run_dir,
            env={"PATH": os.environ["PATH"], "HOME": str(run_dir), **passed_on()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        os.close(errors)
        until(lambda: listens(socket), "the agent listens")
        start = time.monotonic()
        for _ in range(50):
            with Client(socket) as client:
                assert client.ask("VERSION").status == 0
        assert time.monotonic() - start < _LIMIT_S
        process.send_signal(signal.SIGTERM)
        assert process.wait(_LIMIT_S) == 0


def test_dropped_lines_are_counted(run_dir: Path) -> None:
    """A pipe that nobody reads for a while loses lines, and the log says how many when it is read.

    No call waits, however many lines are written.
    """
    socket = run_dir / "s"
    read_end, write_end = os.pipe()
    _fill(write_end)
    command = [
        str(FASTIPAM),
        "agent",
        "--socket",
        str(socket),
        "--data-dir",
        "x",
        "--log-level",
        "debug",
    ]
    with ExitStack() as stack:
        process = subprocess.Popen(
            command, cwd=run_dir, stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end,
            env={"PATH": os.environ["PATH"], "HOME": str(run_dir), **passed_on()},
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)
        os.close(write_end)
        until(lambda: listens(socket), "the agent listens")
        with Client(socket) as client:
            for _ in range(4000):  # some 90 bytes each: more than pipe and queue hold
                assert client.ask("VERSION").status == 0
            text = b""
            while b"lines dropped" not in text:
                text += os.read(read_end, 65536)
            assert client.ask("VERSION").status == 0
        until(lambda: select.select([read_end], [], [], 0)[0], "the log is written again")
        process.send_signal(signal.SIGTERM)
        assert process.wait(_LIMIT_S) == 0
        while part := os.read(read_end, 65536):
            text += part
        os.close(read_end)
    lines = text.lstrip(b"\0").decode().splitlines()
    (dropped,) = [line for line in lines if "lines dropped" in line]
    answered = sum("verb=VERSION" in line for line in lines)
    assert (
        int(dropped.split()[-1]) + answered
        == 4001 + sum("verb=" in line for line in lines) - answered
    )


_TWO_STREAMS = """
import sys
from pathlib import Path
from fastipam.cli import streams

def program():
    streams.never_wait()
    for number in range(3000):
        for stream in (sys.stdout, sys.stderr):
            print(stream.fileno(), number, "x" * 60, file=stream, flush=True)
    Path("printed").touch()
    sys.stdin.read()

streams.run(program)
"""


def test_lines_stay_whole(run_dir: Path) -> None:
    """Standard output and error are the same pipe, and two threads write to it: no line is torn.

    The pipe is full at first, so that both have much to write when it is read.
    """
    read_end, write_end = os.pipe()
    _fill(write_end)
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, "-c", _TWO_STREAMS],
            cwd=run_dir, stdin=subprocess.PIPE, stdout=write_end, stderr=write_end,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)
        os.close(write_end)
        pipe = stack.enter_context(open(read_end, "rb"))
        until((run_dir / "printed").exists, "all is printed")
        lines = [pipe.readline().lstrip(b"\0").decode() for _ in range(6000)]
        process.communicate(timeout=_LIMIT_S)
        assert process.returncode == 0
        assert not pipe.read()
    for descriptor in (1, 2):
        mine = [line for line in lines if line.startswith(f"{descriptor} ")]
        assert mine == [f"{descriptor} {number} {'x' * 60}\n" for number in range(3000)]


@pytest.mark.parametrize("kind", ["reads nothing", "full device"])
def test_the_last_lines(kind: str, run_dir: Path) -> None:
    """An agent that cannot start ends, though nobody reads why."""
    with ExitStack() as stack:
        errors = _log(kind, stack)
        command = [str(FASTIPAM), "agent", "--socket", str(run_dir / "s"), "--http", "nowhere"]
        done = subprocess.run(
            command, cwd=run_dir, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        os.close(errors)
    assert done.returncode in (1, 2)
