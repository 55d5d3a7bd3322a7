"""A program on a terminal of its own: a pseudo-terminal, keys, and what a person would see."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from ..measuring import passed_on

_PATIENCE_S = 60.0
_QUIET_S = 0.4
_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # operating system commands: titles, marks
    r"|\x1b[P_^][^\x1b]*\x1b\\"  # device control strings
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b[ -/]*[0-~]"
)


def plain(text: str) -> str:
    """A text without escape sequences."""
    return _ESCAPES.sub("", text)


def assert_unwritten(command: Sequence[str]) -> None:
    """A full output is one line and status 1; a reader that went away is no failure."""
    full = "fastipam: cannot write to standard output: No space left on device\n"
    for where, status, said in ((">/dev/full", 1, full), ("| true", 0, "")):
        done = subprocess.run(
            ["/bin/bash", "-c", f'set -o pipefail; "$0" "$@" {where}', *command],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (status, said), (command, where)


class Terminal:
    """A process whose standard streams are a terminal of ``rows`` and ``columns``."""

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str] | None = None,
        *,
        rows: int = 24,
        columns: int = 100,
    ) -> None:
        self._master, slave = os.openpty()
        self.resize(rows, columns)
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        self.process = subprocess.Popen(
            command,
            env={**environment, "HOME": "/nonexistent", **passed_on(), **(variables or {})},
            preexec_fn=lambda: os.login_tty(slave),  # noqa: PLW1509  # there are no threads
        )
        os.close(slave)
        self.output = ""
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Another size of the window; the program is told."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def type(self, text: str) -> None:
        """Keys."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, as the terminal sends it."""
        self.type("\x03")

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a text that has not been waited for yet; escape sequences do not count."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            new = plain(self.output)[self._at :]
            found = re.search(pattern, new)
            if found:
                self._at += found.end()
                return found
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} did not come, but {new[-2000:]!r}"
            assert self._read(left), f"the program ended before {pattern!r}: {new[-2000:]!r}"

    def settle(self) -> None:
        """Wait until nothing has been written for a moment: a shell that is busy drops keys."""
        written = -1
        while written != len(self.output):
            written = len(self.output)
            self._read(_QUIET_S)

    def rest(self) -> tuple[int, str]:
        """The exit status, and all that was written."""
        end = time.monotonic() + _PATIENCE_S
        while self._read(end - time.monotonic()):
            assert time.monotonic() < end, f"it goes on: {plain(self.output)[-2000:]!r}"
        return self.process.wait(_PATIENCE_S), self.output

    def _read(self, patience_s: float) -> bool:
        """Some more output; False at its end."""
        ready, _, _ = select.select([self._master], [], [], max(patience_s, 0))
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other side open
            return False
        self.output += data.decode(errors="replace")
        return bool(data)
