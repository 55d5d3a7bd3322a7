"""The launcher against agents that are absent, broken, slow or rude, and against odd callers."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.agent import protocol
from fastipam.cni.environment import read_reported
from fastipam.configuration.reader import LARGEST
from fastipam.namespaces import look

from .processes import Done, FakeAgent, Launcher

if TYPE_CHECKING:
    from collections.abc import Callable

# Every byte value, no line end behind the last one, and more than a pipe holds.
INPUT = bytes(range(256)) * 300 + b"{"


# No agent -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"CNI_NETNS": ""},
        {"CNI_NETNS": "/proc/self/ns/net", "CNI_IFNAME": "../..", "CNI_ARGS": ";;=;"},
        {"CNI_NETNS": b"/\xff\xfe", "CNI_CONTAINERID": b"\x01"},
        {"CNI_ARGS": "x" * 100_000},
        {"FASTIPAM_TIMEOUT": "never"},
    ],
)
def test_no_agent(variables: dict[str, Any], launcher: Launcher) -> None:
    """Without an agent the entry point runs instead; its input, output and status are its own."""
    assert launcher.run(INPUT, **variables) == launcher.directly(INPUT)


@pytest.mark.parametrize("command", ["ADD", "STATUS", None])
def test_neither(command: str | None, launcher: Launcher) -> None:
    """With no entry point either, one error object says what to do: 11, and 50 for STATUS."""
    launcher.direct.unlink()
    done = launcher.run(INPUT, command=command)
    assert done.error["code"] == (50 if command == "STATUS" else 11)
    assert str(launcher.socket) in done.error["msg"]
    assert str(launcher.direct) in done.error["msg"]
    assert "fastipam agent" in done.error["details"]
    assert done.messages == b""


def test_neither_with_odd_paths(launcher: Launcher) -> None:
    """The error object is JSON whatever the socket's path is made of, and however long it is."""
    launcher.direct.unlink()
    for path in (b'/"\\\n\x7f\xff', b"/" + b"x" * 100_000):
        assert launcher.run(FASTIPAM_SOCKET=path).error["code"] == 11


def _stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))


def _datagram(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))


@pytest.mark.parametrize(
    "make", [_stale, _datagram, Path.touch, Path.mkdir, lambda path: path.symlink_to(path)]
)
def test_unusable_socket(make: Callable[[Path], None], launcher: Launcher) -> None:
    """A killed agent's socket, or something else in its place, is as good as no agent."""
    make(launcher.socket)
    assert launcher.run(INPUT) == launcher.directly(INPUT)


@pytest.mark.parametrize("size", [107, 108, 109, 5000])
def test_long_socket_path(size: int, launcher: Launcher) -> None:
    """A path that is too long for a socket's address names no agent."""
    path = "/tmp/" + "x" * (size - 5)
    assert launcher.run(INPUT, FASTIPAM_SOCKET=path) == launcher.directly(INPUT)


def test_started_through_a_link(launcher: Launcher, tmp_path: Path) -> None:
    """The entry point is looked for beside the file itself, whatever it was started as."""
    link = tmp_path / "other"
    link.symlink_to(launcher.path)
    launcher.path = link
    assert launcher.run(INPUT) == launcher.directly(INPUT)


# Agents that fail -----------------------------------------------------------------------------

ANSWER = protocol.pack_answer(0, b"{}" * 1000, b"note")


def _header(status: int, output: int, messages: int, magic: bytes = b"FIP1") -> bytes:
    return protocol.ANSWER.pack(magic, status, output, messages)


FAULTY = {
    "says nothing": b"",
    "one byte": ANSWER[:1],
    "half a header": ANSWER[:8],
    "a header only": ANSWER[:16],
    "half an answer": ANSWER[:1000],
    "all but one byte": ANSWER[:-1],
    "garbage": b"\xff" * 4096,
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "another version": b"FIP2" + ANSWER[4:],
    "an impossible status": _header(256, 2, 0) + b"{}",
    "a huge output": _header(0, 0xFFFFFFFF, 0) + b"{}",
    "huge messages": _header(0, 2, 0xFFFFFFFF) + b"{}",
    "huge lengths": _header(0, 0x80000000, 0x80000000),
    "a large output": _header(0, 16 << 20, 16 << 20) + b"{}",
    "too large an output": _header(0, (16 << 20) + 1, 0) + b"{}",
}


@pytest.mark.parametrize("said", FAULTY.values(), ids=FAULTY.keys())
def test_faulty_agent(said: bytes, launcher: Launcher) -> None:
    """An agent that reads the request and dies before the answer's end: the request is repeated."""

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        connection.sendall(said)

    with FakeAgent(launcher.socket, behave):
        assert launcher.run(INPUT) == launcher.directly(INPUT)
        launcher.direct.unlink()
        assert launcher.run(INPUT).error["code"] == 11


@pytest.mark.parametrize("size", [0, 1, 12, 5000])
def test_agent_that_closes(size: int, launcher: Launcher) -> None:
    """An agent that closes before it has read the request: the input is what it was."""

    def behave(connection: socket.socket) -> None:
        if size:
            connection.recv(size, socket.MSG_WAITALL)

    with FakeAgent(launcher.socket, behave):
        for stdin in (b"", INPUT, bytes(LARGEST)):
            assert launcher.run(stdin) == launcher.directly(stdin)


def test_agent_that_says_more(launcher: Launcher) -> None:
    """What follows an answer is not looked at."""

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        connection.sendall(ANSWER + b"garbage")

    with FakeAgent(launcher.socket, behave):
        assert launcher.run(INPUT) == Done(0, b"{}" * 1000, b"note")


def test_agent_that_says_it_slowly(launcher: Launcher) -> None:
    """An answer may come byte by byte."""

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        for at in range(100):
            connection.sendall(ANSWER[at : at + 1])
        time.sleep(0.02)
        connection.sendall(ANSWER[100:])

    with FakeAgent(launcher.socket, behave):
        assert launcher.run(INPUT) == Done(0, b"{}" * 1000, b"note")


# Agents that take too long --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ADD", "STATUS"])
@pytest.mark.parametrize(
    "said", [b"", ANSWER[:10], ANSWER[:100]], ids=["nothing", "little", "half"]
)
def test_never_answers(said: bytes, command: str, launcher: Launcher) -> None:
    """An agent that lives and does not answer: try again later; nobody repeats what it may do."""

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        connection.sendall(said)
        connection.recv(1)  # until the launcher has had enough

    with FakeAgent(launcher.socket, behave):
        begun = time.monotonic()
        done = launcher.run(INPUT, command=command, FASTIPAM_TIMEOUT="0.2")
        assert 0.2 <= time.monotonic() - begun < 5
    assert done.error["code"] == (50 if command == "STATUS" else 11)
    assert "not answered in time" in done.error["msg"]
    assert done.messages == b""


@pytest.mark.parametrize("launcher", ["installed"], indirect=True)
def test_never_answers_and_nobody_says_how_long(launcher: Launcher) -> None:
    """Without FASTIPAM_TIMEOUT a call ends after ten seconds: an agent waits eight for a writer."""

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        connection.settimeout(60)
        connection.recv(1)

    with FakeAgent(launcher.socket, behave):
        begun = time.monotonic()
        done = launcher.run(INPUT)
        assert time.monotonic() - begun < 20
    assert done.error["code"] == 11


def test_never_reads(launcher: Launcher) -> None:
    """An agent that does not read a large request is one that does not answer in time."""

    def behave(connection: socket.socket) -> None:
        connection.recv(1)
        time.sleep(0.5)

    with FakeAgent(launcher.socket, behave):
        done = launcher.run(bytes(LARGEST), FASTIPAM_TIMEOUT="0.2")
    assert done.error["code"] == 11


def test_full_queue(launcher: Launcher) -> None:
    """When no more connections queue up for the agent, the entry point runs after the wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(launcher.socket))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(launcher.socket))
            begun = time.monotonic()
            done = launcher.run(INPUT, FASTIPAM_TIMEOUT="0.2")
            assert 0.2 <= time.monotonic() - begun < 5
    assert done == launcher.directly(INPUT)


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "0", "nan", "inf", "1e99", "3601"])
def test_odd_timeout(text: str, launcher: Launcher) -> None:
    """A timeout that is none is the default, which is long."""

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        time.sleep(0.05)
        connection.sendall(ANSWER)

    with FakeAgent(launcher.socket, behave):
        assert launcher.run(INPUT, FASTIPAM_TIMEOUT=text).status == 0


# What passes through --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 2, 127, 255])
def test_answer_is_passed_on(status: int, launcher: Launcher) -> None:
    """Status, output and messages are the agent's, byte for byte."""
    output, messages = bytes(range(256)) * 8000, b"\xff\0line\n"

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        connection.sendall(protocol.pack_answer(status, output, messages))

    with FakeAgent(launcher.socket, behave):
        assert launcher.run(INPUT) == Done(status, output, messages)


class Recorder:
    """A behaviour that keeps what it was sent and answers nothing in particular."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes]] = []

    def __call__(self, connection: socket.socket) -> None:
        self.seen.append(FakeAgent.read_request(connection))
        connection.sendall(protocol.pack_answer(0, b"ok"))


def _variables(raw: bytes) -> dict[bytes, bytes]:
    assert raw.endswith(b"\0")
    return dict(item.split(b"=", 1) for item in raw[:-1].split(b"\0"))


def test_variables_that_are_sent(launcher: Launcher) -> None:
    """The CNI_* variables as bytes, when the launcher began, the namespaces; and nothing else."""
    recorder = Recorder()
    before = time.monotonic_ns()
    with FakeAgent(launcher.socket, recorder):
        launcher.run(
            CNI_NETNS=b"/\xff", CNI_ARGS="A=B;C=", CNI_=b"", SECRET="s", FASTIPAM_STARTED="7"
        )
    sent = _variables(recorder.seen[0][0])
    began = int(sent.pop(b"FASTIPAM_STARTED"))
    assert before <= began <= time.monotonic_ns()
    own, mount = os.stat("/proc/self/ns/net"), os.stat("/proc/self/ns/mnt")
    said = b" %d:%d %d:%d 0" % (own.st_dev, own.st_ino, mount.st_dev, mount.st_ino)
    assert sent.pop(b"FASTIPAM_NETNS") == said
    assert sent == {
        b"CNI_COMMAND": b"ADD", b"CNI_NETNS": b"/\xff", b"CNI_ARGS": b"A=B;C=", b"CNI_": b""
    }  # fmt: skip


@pytest.mark.parametrize(
    "netns", ["/proc/self/ns/uts", "", None, "/no/such/file", "/" + "x" * 9000]
)
def test_namespaces_that_are_sent(netns: str | None, launcher: Launcher) -> None:
    """Which file CNI_NETNS is, empty when there is none; nothing when it is not set."""
    recorder = Recorder()
    with FakeAgent(launcher.socket, recorder):
        variables: dict[str, Any] = {} if netns is None else {"CNI_NETNS": netns}
        launcher.run(**variables)
    said = _variables(recorder.seen[0][0]).get(b"FASTIPAM_NETNS")
    if not netns:
        assert said is None
        return
    assert said is not None
    seen = read_reported(said.decode())
    assert seen is not None
    uts, own, mount = (os.stat(f"/proc/self/ns/{name}") for name in ("uts", "net", "mnt"))
    theirs = (uts.st_dev, uts.st_ino) if netns.endswith("uts") else None
    assert seen == (theirs, (own.st_dev, own.st_ino), mount.st_ino, 0)


def test_when_the_namespace_was_made(launcher: Launcher, tmp_path: Path) -> None:
    """The time of a file that is there itself, and what it is, as this process sees it."""
    file, recorder = tmp_path / "netns", Recorder()
    file.touch()
    with FakeAgent(launcher.socket, recorder):
        for made_ns in (1_700_000_000_123_456_789, 5, -(10**9)):
            os.utime(file, ns=(0, made_ns))
            launcher.run(CNI_NETNS=str(file))
            seen = read_reported(_variables(recorder.seen[-1][0])[b"FASTIPAM_NETNS"].decode())
            assert seen is not None
            assert (*(seen[0] or ()), seen[3]) == look(str(file))
            assert seen[3] == max(0, made_ns)


def test_namespaces_are_not_the_callers_to_say(launcher: Launcher) -> None:
    """A variable of that name in the launcher's own environment is not passed on."""
    recorder = Recorder()
    with FakeAgent(launcher.socket, recorder):
        launcher.run(FASTIPAM_NETNS="1:2 3:4 5:6")
    assert b"FASTIPAM_NETNS" not in _variables(recorder.seen[0][0])


def test_many_variables(launcher: Launcher) -> None:
    """Thousands of variables and large ones reach the agent, up to its limit."""
    recorder = Recorder()
    many = {f"CNI_{at}": "x" * 50 for at in range(2000)} | {"CNI_BIG": "y" * 100_000}
    with FakeAgent(launcher.socket, recorder):
        assert launcher.run(INPUT, **many).output == b"ok"
    sent = _variables(recorder.seen[0][0])
    assert len(sent) == 2003
    assert recorder.seen[0][1] == INPUT


def test_too_many_variables(launcher: Launcher) -> None:
    """More variables than the agent takes: the entry point runs, with all of them."""
    recorder = Recorder()
    many = {f"CNI_{at}": "y" * 100_000 for at in range(3)}
    with FakeAgent(launcher.socket, recorder):
        assert launcher.run(INPUT, **many) == launcher.directly(INPUT)
    assert recorder.seen == []


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, LARGEST - 1, LARGEST, LARGEST + 1])
def test_size_of_input(size: int, launcher: Launcher) -> None:
    """Input is sent whole up to one byte more than the limit: the agent says it is too large."""
    recorder = Recorder()
    stdin = os.urandom(size)
    with FakeAgent(launcher.socket, recorder):
        assert launcher.run(stdin).output == b"ok"
    assert recorder.seen[0][1] == stdin


@pytest.mark.parametrize("from_file", [False, True])
def test_too_much_input(from_file: bool, launcher: Launcher, tmp_path: Path) -> None:
    """Of more input the launcher reads one byte more than the limit, and keeps that."""
    recorder = Recorder()
    stdin = os.urandom(LARGEST + 300_000)
    kept = stdin[: LARGEST + 1]

    def run() -> Done:
        if not from_file:
            return launcher.run(stdin)
        (tmp_path / "input").write_bytes(stdin)
        with (tmp_path / "input").open("rb") as file:
            return launcher.end(launcher.start(launcher.environ(), stdin=file))

    def dies(connection: socket.socket) -> None:
        recorder.seen.append(FakeAgent.read_request(connection))

    with FakeAgent(launcher.socket, recorder):
        assert run().output == b"ok"
    launcher.socket.unlink()
    with FakeAgent(launcher.socket, dies):
        assert run() == launcher.directly(kept)
    assert [one for _, one in recorder.seen] == [kept, kept]


def test_commands_without_input(launcher: Launcher) -> None:
    """VERSION, and a call from a shell, do not wait for input that nobody sends."""
    recorder = Recorder()
    with FakeAgent(launcher.socket, recorder):
        for command in ("VERSION", "", None):
            process = launcher.start(launcher.environ(command=command))
            assert process.wait(10) == 0
            launcher.end(process)
    assert [one for _, one in recorder.seen] == [b""] * 3


@pytest.mark.parametrize("blocking", [True, False])
def test_slow_writer(blocking: bool, launcher: Launcher) -> None:
    """Input that trickles, through a pipe that blocks or does not, arrives whole."""
    recorder = Recorder()
    read_end, write_end = os.pipe()
    if not blocking:
        flags = fcntl.fcntl(read_end, fcntl.F_GETFL)
        fcntl.fcntl(read_end, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with FakeAgent(launcher.socket, recorder):
        process = launcher.start(launcher.environ(), stdin=read_end)
        os.close(read_end)
        for part in (b"{", b'"a"', b":", b"1", b"}"):
            time.sleep(0.02)
            os.write(write_end, part)
        os.close(write_end)
        assert launcher.end(process).output == b"ok"
    assert recorder.seen[0][1] == b'{"a":1}'


def test_input_that_never_ends(launcher: Launcher) -> None:
    """A non-blocking input that stays silent is given up, with an error object."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    with FakeAgent(launcher.socket, Recorder()):
        env = launcher.environ(FASTIPAM_TIMEOUT="0.2")
        done = launcher.end(launcher.start(env, stdin=read_end))
    os.close(read_end)
    os.close(write_end)
    # Nothing was read: the entry point meets the same silence.
    assert done.status == 7


# Descriptors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptor(closed: str, launcher: Launcher) -> None:
    """With a descriptor closed its number would be the socket's: the agent is not asked."""
    with FakeAgent(launcher.socket, Recorder()) as fake:
        done = launcher.shell(closed, b"" if "<" in closed else INPUT)
    assert fake.connections == 0
    assert done.status == 7  # the entry point has run


def test_unreadable_input(launcher: Launcher) -> None:
    """Input that cannot be read at all is the entry point's to complain of."""
    with FakeAgent(launcher.socket, Recorder()):
        done = launcher.shell("0>/dev/null")
        assert done.status == 7
        assert b"Bad file descriptor" in done.messages


def test_full_output(launcher: Launcher) -> None:
    """An answer that cannot be written is a failure: the runtime has not heard of the address."""
    with FakeAgent(launcher.socket, Recorder()):
        done = launcher.shell(">/dev/full", INPUT)
    assert done.status == 1
    assert done.messages == (
        b"fastipam: the answer could not be written to standard output: No space left on device\n"
    )


def test_closed_pipe(launcher: Launcher) -> None:
    """A reader that has gone away ends the launcher with a status, not with a signal."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with FakeAgent(launcher.socket, Recorder()):
        done = launcher.end(launcher.start(launcher.environ(), stdout=write_end), INPUT)
    os.close(write_end)
    assert done.status == 1
    assert b"Broken pipe" in done.messages


def test_slow_reader(launcher: Launcher) -> None:
    """An answer larger than the pipe waits for its reader, through a non-blocking pipe, too."""
    output = os.urandom(1 << 20)

    def behave(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        connection.sendall(protocol.pack_answer(3, output))

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with FakeAgent(launcher.socket, behave):
        process = launcher.start(launcher.environ(), stdin=subprocess.DEVNULL, stdout=write_end)
        os.close(write_end)
        time.sleep(0.05)
        with os.fdopen(read_end, "rb") as file:
            assert file.read() == output
        assert launcher.end(process).status == 3


def test_error_object_to_a_full_disk(launcher: Launcher) -> None:
    """Not even the last resort's error object can be written: the status says it."""
    launcher.direct.unlink()
    assert launcher.shell(">/dev/full").status == 1


def test_error_object_is_of_its_time(launcher: Launcher) -> None:
    """The last resort's error object has the newest version, and nothing follows it."""
    launcher.direct.unlink()
    text = launcher.run().output.decode()
    document, end = json.JSONDecoder().raw_decode(text)
    assert (document["cniVersion"], end) == ("1.1.0", len(text))
