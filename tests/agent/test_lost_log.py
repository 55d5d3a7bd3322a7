"""An agent whose standard error is closed or full, or has no reader, or one that reads nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..measuring import passed_on
from .processes import FASTIPAM, Client, until

_LIMIT_S = 20


def _log(kind: str, stack: ExitStack) -> int:
    """Open a log that cannot be written; the caller closes it."""
    if kind == "full device":
        return os.open("/dev/full", os.O_WRONLY)
    read_end, write_end = os.pipe()
    if kind == "no reader":
        os.close(read_end)
        return write_end
    stack.callback(os.close, read_end)
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, bytes(4096))
    except BlockingIOError:
        os.set_blocking(write_end, True)
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
        until(socket.exists, "the agent listens")
        start = time.monotonic()
        for _ in range(50):
            with Client(socket) as client:
                assert client.ask("VERSION").status == 0
        assert time.monotonic() - start < _LIMIT_S
        process.send_signal(signal.SIGTERM)
        assert process.wait(_LIMIT_S) == 0
