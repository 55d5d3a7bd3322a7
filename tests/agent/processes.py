"""The processes of these tests: agents, launchers, clients, and agents that misbehave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

from fastipam.agent import protocol

from ..cni.plugin import environment
from ..e2e import tools
from ..measuring import passed_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

FASTIPAM = Path(sys.executable).with_name("fastipam")
_PATIENCE_S = 20.0  # for what is expected at once, on a machine that may be busy

# An entry point that says how it was started, and passes its input on.
DIRECT = """#!/bin/sh
echo "direct ${0##*/} $# $CNI_COMMAND"
cat
echo told >&2
exit 7
"""


class Reply(NamedTuple):
    """An agent's answer."""

    status: int
    output: bytes
    messages: bytes

    @property
    def document(self) -> Any:
        """The output, decoded; None when there is none."""
        return json.loads(self.output) if self.output else None

    @property
    def address(self) -> str:
        """The one address of an ADD's result, without its length."""
        return str(self.document["ips"][0]["address"]).partition("/")[0]


def until(true: Callable[[], object], what: str) -> None:
    """Wait until it is the case; fail when it takes too long."""
    end = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"not within {_PATIENCE_S:g} s: {what}"
        time.sleep(0.002)


class Client:
    """A connection to an agent that speaks the launcher's protocol."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_PATIENCE_S)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, variables: dict[str, str], stdin: bytes = b"") -> None:
        """Send a request."""
        self.socket.sendall(protocol.pack_request(variables, stdin))

    def receive(self) -> Reply:
        """Read an answer. EOFError when the connection is closed before its end."""
        status, output, messages = protocol.read_answer(self._exactly(protocol.ANSWER.size))
        return Reply(status, self._exactly(output), self._exactly(messages))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def is_closed(self) -> bool:
        """Wait for the other end to close the connection; False when it answers instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def ask(
        self, command: str, config: Mapping[str, Any] | None = None, container: str = "c1"
    ) -> Reply:
        """Send a request with the usual variables, and read its answer."""
        stdin = b"" if config is None else json.dumps(config).encode()
        self.send(environment(command, container), stdin)
        return self.receive()


def listens(path: Path) -> bool:
    """Whether a process takes connections; its socket exists a moment before that."""
    try:
        with Client(path):
            return True
    except OSError:
        return False


def ask(path: Path, command: str, config: Mapping[str, Any], container: str = "c1") -> Reply:
    """One request over a connection of its own."""
    with Client(path) as client:
        return client.ask(command, config, container)


def activated(count: str, descriptor: int = 0) -> list[str]:
    """The beginning of a command line that starts the rest as systemd does."""
    code = (
        f"import os, sys; os.dup2({descriptor}, 3);"
        f"own = {{'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': {count!r}}};"
        "os.execve(sys.argv[1], sys.argv[1:], os.environ | own)"
    )
    return [sys.executable, "-IS", "-c", code]


class Agent:
    """``fastipam agent`` as a process; its log goes to a file beside the socket."""

    def __init__(
        self,
        path: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        wait: bool = True,
    ) -> None:
        self.path = path
        self.log_path = path.with_name(f"{path.name}.log")
        own = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | passed_on()
        command = [*prefix, str(FASTIPAM), "agent", "--socket", str(path), *options]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=own | dict(env or {}), stdin=subprocess.DEVNULL, stderr=log,
                stdout=log, pass_fds=pass_fds,
            )  # fmt: skip
        if wait:
            self.wait_ready()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(errors="replace")

    def is_ready(self) -> bool:
        """Whether it answers; fails when it has ended."""
        assert self.process.poll() is None, self.log
        try:
            with Client(self.path) as client:
                return client.ask("VERSION").status == 0
        except (OSError, EOFError):
            return False

    def wait_ready(self) -> None:
        """Wait until it answers."""
        until(self.is_ready, "the agent answers")

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(_PATIENCE_S)

    def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        """End it if it runs, and fail if it ever wrote a traceback."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            assert self.terminate() == 0, self.log
        assert "Traceback" not in self.log, self.log


class FakeAgent:
    """Listens where an agent would; every connection is handed to a function, in a thread."""

    def __init__(self, path: Path, behave: Callable[[socket.socket], None]) -> None:
        self._behave = behave
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self.requests: list[bytes] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(_PATIENCE_S)
            with connection, suppress(OSError):  # the launcher may be the one that goes away
                self._behave(connection)

    @staticmethod
    def read_request(connection: socket.socket) -> tuple[bytes, bytes]:
        """(variables, input) of a request."""
        header = connection.recv(protocol.REQUEST.size, socket.MSG_WAITALL)
        if len(header) < protocol.REQUEST.size:
            raise ConnectionError
        variables, size = protocol.request_size(header)
        body = b""
        while len(body) < variables + size:
            part = connection.recv(variables + size - len(body))
            if not part:
                raise ConnectionError
            body += part
        return body[:variables], body[variables:]


class Done(NamedTuple):
    """What a launcher left behind."""

    status: int
    output: bytes
    messages: bytes

    @property
    def error(self) -> Any:
        """The error object that it printed; there is no other output."""
        assert self.status == 1, self
        document = json.loads(self.output)
        assert {"cniVersion", "code", "msg", "details"} == document.keys()
        return document


class Launcher:
    """The launcher in a directory of its own, with an entry point that tells on itself.

    ``prefix``: the emulator that runs it, when it is another processor's.
    """

    def __init__(self, binary: Path, directory: Path, prefix: Sequence[str] = ()) -> None:
        self.prefix = tuple(prefix)
        self.path = directory / "fastipam"
        self.direct = directory / "fastipam-direct"
        self.socket = directory / "s"
        shutil.copy(binary, self.path)
        self.direct.write_text(DIRECT)
        self.direct.chmod(self.direct.stat().st_mode | stat.S_IXUSR)

    def environ(self, *, command: str | None = "ADD", **more: Any) -> dict[str, Any]:
        """The variables of a call."""
        own: dict[str, Any] = {
            "PATH": os.environ["PATH"],
            "FASTIPAM_SOCKET": str(self.socket),
            # A sanitizer's finding is a status that nothing else has.
            "ASAN_OPTIONS": "exitcode=99:detect_leaks=0",
            "UBSAN_OPTIONS": "exitcode=99:halt_on_error=1:print_stacktrace=1",
        }
        return own | ({} if command is None else {"CNI_COMMAND": command}) | more

    def start(self, env: Mapping[str, Any], **options: Any) -> subprocess.Popen[bytes]:
        """A process whose ends are pipes unless ``options`` say otherwise."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        argv = [*self.prefix, str(self.path)]
        process: subprocess.Popen[bytes] = subprocess.Popen(
            argv, env=dict(env), **(pipes | options)
        )
        return process

    def run(self, stdin: bytes = b"", *, command: str | None = "ADD", **more: Any) -> Done:
        """One process, to its end."""
        return self.end(self.start(self.environ(command=command, **more)), stdin)

    def shell(self, redirections: str, stdin: bytes = b"", **more: Any) -> Done:
        """One process with the descriptors that a shell gives it."""
        script = f'exec "$@" {redirections}'
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *self.prefix, self.path],
            env=self.environ(**more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return self.end(process, stdin)

    @staticmethod
    def end(process: subprocess.Popen[bytes], stdin: bytes | None = None) -> Done:
        """What it leaves behind; no sanitizer has found anything."""
        output, messages = process.communicate(stdin, timeout=60)
        assert process.returncode != 99, messages.decode()
        assert b"Sanitizer" not in messages, messages.decode()
        assert b"runtime error" not in messages, messages.decode()
        return Done(process.returncode, output or b"", messages or b"")

    def directly(self, stdin: bytes = b"", command: str = "ADD") -> Done:
        """What the entry point makes of this input."""
        return Done(7, f"direct fastipam-direct 0 {command}\n".encode() + stdin, b"told\n")


def attach_strace(pid: int, *options: str) -> subprocess.Popen[str]:
    """Attach strace to every thread of a process; SIGINT detaches it. Skip where it cannot."""
    tools.require_tools("strace")
    process = subprocess.Popen(
        ["strace", "-f", *options, "-p", str(pid)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    if "attached" not in first:
        process.communicate()
        pytest.skip(f"strace may not look at other processes here: {first.strip()}")
    return process
