"""Run the installed plugin as a runtime does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
COMMANDS = ("ADD", "CHECK", "DEL", "GC", "STATUS")
NO_AGENT = Path("/nonexistent/agent.sock")


class Answer(NamedTuple):
    """What a plugin process left behind; ``document`` is None when it printed nothing."""

    status: int
    document: Any
    stderr: str

    @property
    def code(self) -> int | None:
        """The error object's code."""
        return self.document["code"] if self.status and self.document else None

    @property
    def message(self) -> str:
        """The error object's text."""
        return str(self.document["msg"])

    @property
    def addresses(self) -> list[str]:
        """The result's addresses, from 0.3.0 on."""
        return [one["address"] for one in self.document["ips"]]


Call = Callable[..., Answer]  # the fixture ``call``
Make = Callable[..., dict[str, Any]]  # the fixture ``config``
Held = Callable[..., dict[str, tuple[str, str]]]  # the fixture ``held``


class Measured(NamedTuple):
    """An answer and what it took: seconds of a processor, and the largest resident set."""

    answer: Answer
    seconds: float
    peak_mib: float


# The peak that a process reports begins with that of the process it was forked from: a small one
# has to start the plugin, not the test runner.
_LAUNCHER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:2], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = usage.ru_utime + usage.ru_stime
os.write(int(sys.argv[2]), b"%f %d" % (seconds, usage.ru_maxrss))
os._exit(os.waitstatus_to_exitcode(status) % 256)
"""


def environment(
    command: str,
    container_id: str = "c1",
    ifname: str = "eth0",
    netns: str = "/some/where",
    args: str = "",
) -> dict[str, str]:
    """The variables of a call; an empty one is not set."""
    values = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_IFNAME": ifname,
        "CNI_NETNS": netns,
        "CNI_ARGS": args,
        "CNI_PATH": "/opt/cni/bin",
    }
    return {key: value for key, value in values.items() if value}


def _read(done: subprocess.CompletedProcess[bytes]) -> Answer:
    """What every answer has to be: a document or nothing, and an error object with a failure."""
    text = done.stdout.decode()
    document = json.loads(text) if text else None
    if done.returncode:
        assert document is not None, (
            f"status {done.returncode} and no error object: {done.stderr!r}"
        )
        assert {"code", "msg"} <= document.keys(), document
    stderr = done.stderr.decode()
    assert "Traceback" not in stderr + text
    return Answer(done.returncode, document, stderr)


class Plugin:
    """The executable that ``fastipam install`` made.

    ``unmeasured``: the same one without coverage, for what a call takes.
    """

    def __init__(
        self, path: Path, socket: Path = NO_AGENT, *, unmeasured: Path | None = None
    ) -> None:
        self.path = path
        self.socket = socket
        self._unmeasured = unmeasured or path

    def raw(self, environ: Mapping[str, str], stdin: bytes) -> Answer:
        """One process; standard output has to be one JSON document or nothing."""
        base = {"PATH": os.environ["PATH"], "FASTIPAM_SOCKET": str(self.socket)}
        done = subprocess.run(
            [self.path], env=base | dict(environ), input=stdin, capture_output=True, check=False
        )
        return _read(done)

    def measured(
        self, environ: Mapping[str, str] | Mapping[bytes, bytes], stdin: bytes
    ) -> Measured:
        """The same, with the time and the memory that it took."""
        own: dict[Any, Any] = {"FASTIPAM_SOCKET": str(self.socket)}
        read_end, write_end = os.pipe()
        try:
            done = subprocess.run(
                [sys.executable, "-IS", "-c", _LAUNCHER, self._unmeasured, str(write_end)],
                env=own | dict(environ),
                input=stdin,
                capture_output=True,
                check=False,
                pass_fds=[write_end],
            )
            seconds, peak_kib = os.read(read_end, 100).split()
        finally:
            os.close(read_end)
            os.close(write_end)
        return Measured(_read(done), float(seconds), int(peak_kib) / 1024)

    def __call__(
        self, command: str, config: Mapping[str, Any], container_id: str = "c1", **variables: str
    ) -> Answer:
        """One process with a configuration and the usual variables."""
        stdin = json.dumps(config).encode()
        return self.raw(environment(command, container_id, **variables), stdin)
