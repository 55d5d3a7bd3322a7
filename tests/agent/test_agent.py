"""The agent as a process: its socket, who may use it, its beginning and its end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.agent import protocol

from ..cni.plugin import Held, Make, Plugin, environment
from ..e2e import tools
from ..measuring import not_passed_on
from .processes import FASTIPAM, Agent, Client, activated, ask, until

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Start

SUBNET = {"subnet": "10.1.0.0/16"}
NOBODY = 65534
# A client, or an agent, that becomes another user once it is loaded: the files may be root's.
_BECOME = """
import os, sys
def become(uid):
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
"""
_CONNECT = f"""{_BECOME}
import socket
become(int(sys.argv[1]))
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[2])
    client.settimeout(10)
    try:
        client.sendall(bytes.fromhex(sys.argv[3]))
        data = client.recv(4)
    except ConnectionError:
        data = b""
    sys.stdout.write(data.decode() or "closed")
"""
_SERVE = f"""{_BECOME}
from fastipam.agent import preload
from fastipam.cli.commands import cli
preload.import_all(page=False)
become({NOBODY})
cli(sys.argv[2:], prog_name="fastipam")
"""

# The socket -----------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", ["0000", "0777"])
def test_socket_mode(umask: str, start: Start) -> None:
    """Nobody but the agent's user may connect, whatever the umask."""
    agent = start(prefix=["/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh"])
    assert stat.S_IMODE(agent.path.stat().st_mode) == 0o600


def _as(uid: int, path: Path) -> str:
    """What a client of another user gets."""
    request = protocol.pack_request(environment("VERSION"), b"").hex()
    argv = [sys.executable, "-IS", "-c", _CONNECT, str(uid), str(path), request]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_other_users_are_refused(agent: Agent) -> None:
    """A process of another user is cut off even if it gets through to the socket."""
    tools.require_root()
    agent.path.chmod(0o666)
    assert _as(NOBODY, agent.path) == "closed"
    assert _as(0, agent.path) == "FIP1"
    until(lambda: f"uid={NOBODY} refused" in agent.log, "the refusal is logged")


def test_agent_of_another_user(start: Start, run_dir: Path) -> None:
    """An agent that is not root serves its own user and root, and nobody else."""
    tools.require_root()
    (run_dir / "own").mkdir()
    os.chown(run_dir / "own", NOBODY, NOBODY)
    # It may not write where coverage's data goes: not measured.
    agent = start(name="own/s", prefix=[sys.executable, "-c", _SERVE], env=not_passed_on())
    agent.path.chmod(0o666)
    assert [_as(uid, agent.path) for uid in (0, NOBODY, 1)] == ["FIP1", "FIP1", "closed"]


def test_second_agent(agent: Agent, start: Start) -> None:
    """A second agent for the same socket ends with a clear message, and harms nothing."""
    second = start(wait=False)
    assert second.wait() == 1
    assert f"another agent serves {agent.path}" in agent.log
    assert "hint: stop it first" in agent.log
    assert agent.is_ready()


def test_killed_agent_is_replaced(start: Start) -> None:
    """The socket that a killed agent left is no obstacle."""
    first = start()
    first.kill()
    assert first.path.exists()
    assert start().is_ready()


@pytest.mark.parametrize("backlog", [0, 16])
def test_a_socket_that_is_systemds(backlog: int, start: Start, run_dir: Path) -> None:
    """A socket on which somebody listens is not taken away, whether or not he can take more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, ExitStack() as stack:
        listener.bind(str(run_dir / "s"))
        listener.listen(backlog)
        if not backlog:  # one waits, and the queue is full
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            waiting.connect(str(run_dir / "s"))
        agent = start(wait=False)
        assert agent.wait() == 1
        assert "--socket" in agent.log
        assert "systemctl stop fastipam-agent.socket" in agent.log
        assert (run_dir / "s").exists()


def test_other_file_in_the_way(start: Start, run_dir: Path) -> None:
    """A file at the socket's path is not removed: it is somebody's."""
    (run_dir / "s").write_text("precious")
    agent = start(wait=False)
    assert agent.wait() == 1
    assert "--socket" in agent.log
    assert (run_dir / "s").read_text() == "precious"


@pytest.mark.parametrize("name", ["x" * 150, "a/" + "y" * 120])
def test_path_too_long(name: str, start: Start, run_dir: Path) -> None:
    """A socket's path has about a hundred bytes: more is refused in one line."""
    agent = start("--socket", str(run_dir / name), wait=False)
    assert agent.wait() == 1
    assert "too long" in agent.log


# Its end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it(number: int, agent: Agent) -> None:
    """An idle agent ends at once, with status 0, and takes its socket along."""
    begun = time.monotonic()
    agent.process.send_signal(number)
    assert agent.wait() == 0
    assert time.monotonic() - begun < 2
    assert not agent.path.exists()
    assert agent.log.count("\n") == 1, "the line that it is ready"


# What a process may be sent that is no reason for an agent to end, or to stop.
_MEANINGLESS = [
    *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGPIPE", "SIGIO"),
    *("SIGPWR", "SIGSTKFLT", "SIGTTIN", "SIGTTOU", "SIGCHLD", "SIGURG", "SIGWINCH", "SIGCONT"),
]


def test_signals_that_mean_nothing(agent: Agent) -> None:
    """A signal that an agent has no use for does not end it; SIGTERM still does."""
    for name in _MEANINGLESS:
        agent.process.send_signal(signal.Signals[name])
    for number in (signal.SIGRTMIN, signal.SIGRTMAX):
        os.kill(agent.pid, number)
    assert agent.is_ready()
    assert agent.terminate() == 0


def test_blocked_signals(start: Start) -> None:
    """SIGTERM ends an agent whose parent had blocked it."""
    block = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65));"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    assert start(prefix=[sys.executable, "-IS", "-c", block]).terminate() == 0


def test_ready_line(start: Start, free_port: int) -> None:
    """One line says that it is ready, and where socket, page and metrics are."""
    agent = start("--http", str(free_port))
    until(lambda: agent.log, "the line is printed")
    url = f"http://127.0.0.1:{free_port}"
    assert agent.log == (
        f"fastipam agent {agent.pid} is ready: socket {agent.path}, page {url}/, "
        f"metrics {url}/metrics, health {url}/healthz\n"
    )


def test_ready_line_without_http(start: Start) -> None:
    """Without HTTP the line names the socket."""
    agent = start()
    until(lambda: agent.log, "the line is printed")
    assert agent.log == f"fastipam agent {agent.pid} is ready: socket {agent.path}\n"


def test_quiet(start: Start) -> None:
    """With --quiet it prints nothing."""
    agent = start("--quiet")
    assert agent.terminate() == 0
    assert agent.log == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("99999999", "99999999 is not a valid port: the largest is 65535"),
        ("127.0.0.1:65536", "65536 is not a valid port: the largest is 65535"),
        ("nowhere", "'nowhere' is neither a port nor ADDRESS:PORT"),
        ("127.0.0.1:", "'127.0.0.1:' is neither a port nor ADDRESS:PORT"),
    ],
)
def test_wrong_http_address(value: str, message: str, run_dir: Path) -> None:
    """A port that is too large is called that."""
    command = [str(FASTIPAM), "agent", "--socket", str(run_dir / "s"), "--http", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"--http: {message}" in done.stderr


def test_successors_socket_stays(agent: Agent) -> None:
    """What is at the path by now, and not its own, is not removed at the end."""
    agent.path.unlink()
    agent.path.write_text("another")
    agent.process.terminate()
    assert agent.wait() == 0
    assert agent.path.read_text() == "another"


def test_drains(agent: Agent, config: Make) -> None:
    """SIGTERM: requests that have begun to arrive are answered, silent clients are let go."""
    made = config(ipam=SUBNET)
    stdin = json.dumps(made).encode()
    clients = [Client(agent.path) for _ in range(20)]
    silent = Client(agent.path)
    for at, client in enumerate(clients):
        client.socket.sendall(protocol.pack_request(environment("ADD", f"c{at}"), stdin)[:30])
    agent.is_ready()  # what was sent before has been read by now
    agent.process.terminate()
    time.sleep(0.2)
    assert agent.process.poll() is None
    for at, client in enumerate(clients):
        client.socket.sendall(protocol.pack_request(environment("ADD", f"c{at}"), stdin)[30:])
    assert len({client.receive().address for client in clients}) == 20
    assert agent.wait() == 0
    assert not agent.path.exists()
    for client in (silent, *clients):
        client.socket.close()


def test_answers_what_waits_for_the_store(agent: Agent, config: Make, tmp_path: Path) -> None:
    """SIGTERM while the store is somebody else's: the request is answered when it is free."""
    made = config(ipam=SUBNET)
    assert ask(agent.path, "ADD", made, "c0").status == 0
    clients = [Client(agent.path) for _ in range(3)]
    with fastipam.open(tmp_path / "store") as ipam:
        with ipam.store.write():
            for at, client in enumerate(clients, 1):
                client.send(environment("ADD", f"c{at}"), json.dumps(made).encode())
            time.sleep(0.1)
            agent.process.terminate()
            time.sleep(0.1)
            assert agent.process.poll() is None
        assert len({client.receive().address for client in clients}) == 3
    assert agent.wait() == 0
    for client in clients:
        client.socket.close()


def test_end_during_a_burst(
    start: Start, plugin: Plugin, config: Make, held: Held, verified: Any, tmp_path: Path
) -> None:
    """Whenever the agent is told to stop, every call of a burst succeeds: some go directly."""
    made = config(ipam=SUBNET)
    for turn in range(4):
        agent = start()
        answers: list[Any] = []
        through = Plugin(plugin.path, agent.path)

        def work(
            at: int, turn: int = turn, through: Plugin = through, answers: list[Any] = answers
        ) -> None:
            answers += [through("ADD", made, f"c{turn}-{at}-{step}") for step in range(4)]

        threads = [threading.Thread(target=work, args=(at,)) for at in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.005 + 0.01 * turn)
        agent.process.terminate()
        for thread in threads:
            thread.join()
        assert agent.wait() == 0
        assert [answer.status for answer in answers] == [0] * 32
    assert len(held()) == 4 * 32
    verified(tmp_path / "store")


# systemd --------------------------------------------------------------------------------------


def test_socket_activation(start: Start, run_dir: Path, config: Make) -> None:
    """A passed socket is served, connections that came before included, and stays when it ends."""
    made = config(ipam=SUBNET)
    path = run_dir / "activated"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(16)
        with Client(path) as early:
            early.send(environment("ADD", "early"), json.dumps(made).encode())
            agent = start(
                name="unused", prefix=activated("1", listener.fileno()),
                pass_fds=[listener.fileno()], wait=False,
            )  # fmt: skip
            assert early.receive().status == 0
        assert ask(path, "ADD", made, "late").status == 0
        assert not (run_dir / "unused").exists()
        assert agent.terminate() == 0
        assert path.exists()
        with Client(path):
            pass  # it waits for the next agent
    assert agent.log.count("\n") == 1, "the line that it is ready"


@pytest.mark.parametrize("count", ["0", "2", "x"])
def test_wrong_activation(count: str, start: Start) -> None:
    """More or fewer sockets than one end in one line."""
    agent = start(prefix=activated(count), wait=False)
    assert agent.wait() == 1
    assert "exactly one socket" in agent.log


def test_activation_of_another_process(start: Start) -> None:
    """Sockets for another process (LISTEN_PID) are no concern of the agent's."""
    assert start(env={"LISTEN_PID": "1", "LISTEN_FDS": "1"}).is_ready()


@pytest.mark.parametrize("abstract", [False, True])
def test_notification(abstract: bool, start: Start, run_dir: Path) -> None:
    """The service manager hears READY=1 when the socket is there, and STOPPING=1 at the end."""
    name = f"@{run_dir}/notify" if abstract else f"{run_dir}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(30)
        agent = start(env={"NOTIFY_SOCKET": name}, wait=False)
        assert manager.recv(100) == b"READY=1"
        assert agent.is_ready()
        assert agent.terminate() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_no_manager_listens(start: Start, run_dir: Path) -> None:
    """A service manager that is not there is no reason to fail."""
    assert start(env={"NOTIFY_SOCKET": str(run_dir / "nobody")}).terminate() == 0


# At rest --------------------------------------------------------------------------------------


def _switches(pid: int) -> int:
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as file:
            total += sum(int(line.split()[1]) for line in file if "voluntary_ctxt" in line)
    return total


def _private_kib(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


@pytest.mark.parametrize("http", [False, True])
def test_idle(http: bool, start: Start, config: Make, free_port: int) -> None:
    """An idle agent never wakes up, and keeps less than 40 MiB of its own."""
    agent = start(*(["--http", f"127.0.0.1:{free_port}"] if http else []))
    made = config(ipam=SUBNET)
    for at in range(200):
        assert ask(agent.path, "ADD", made, f"c{at}").status == 0
    time.sleep(0.1)
    before = _switches(agent.pid)
    time.sleep(1)
    assert _switches(agent.pid) == before
    assert _private_kib(agent.pid) < 40 << 10


# Beside others --------------------------------------------------------------------------------


def test_beside_direct_runs_and_commands(
    agent: Agent, plugin: Plugin, config: Make, held: Held, verified: Any, tmp_path: Path
) -> None:
    """Agent, direct runs, the command line and a library user share one store at one time."""
    made = config(ipam=SUBNET)
    through = Plugin(plugin.path, agent.path)
    answers = []

    def work(way: Plugin, name: str) -> None:
        for at in range(25):
            answers.append(way("ADD", made, f"{name}{at}"))
            if at % 5 == 4:
                answers.append(way("DEL", made, f"{name}{at}"))

    def look() -> None:
        for command in ("list", "stats", "check"):
            argv = [str(FASTIPAM), command, "--json", "--data-dir", str(tmp_path / "store")]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done
            assert command != "check" or json.loads(done.stdout) == []

    def embed() -> None:
        with fastipam.open(tmp_path / "store") as ipam:
            network = ipam.network("mynet")
            for at in range(25):
                network.allocate(f"embedded{at}", "eth0")

    assert through("ADD", made, "first").status == 0
    failed: list[BaseException] = []

    def guarded(call: Any, *arguments: object) -> None:
        try:
            call(*arguments)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work, through, f"a{at}-")) for at in range(3)]
    threads += [threading.Thread(target=guarded, args=(work, plugin, f"d{at}-")) for at in range(2)]
    threads += [threading.Thread(target=guarded, args=(each,)) for each in (look, embed)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {answer.status for answer in answers} == {0}
    assert len(held()) == 1 + 5 * 20 + 25
    verified(tmp_path / "store")


def test_same_answers_with_odd_descriptors(
    agent: Agent, plugin: Plugin, config: Make, held: Held
) -> None:
    """Closed or full descriptors end as they do without an agent, and assign as much."""
    stdin = json.dumps(config(ipam=SUBNET)).encode()
    for redirections in ("<&-", ">&-", "2>&-", ">/dev/full", "0>/dev/null", "<&- >&- 2>&-"):
        seen = []
        reads = "<&-" not in redirections and "0>" not in redirections
        for path in ("/nonexistent", str(agent.path)):
            done = subprocess.run(
                ["/bin/sh", "-c", f'exec "$0" {redirections}', str(plugin.path)],
                env=environment("ADD") | {"FASTIPAM_SOCKET": path},
                input=stdin if reads else b"",
                capture_output=True,
                check=False,
            )
            seen.append((done.returncode, done.stdout, done.stderr, len(held())))
            plugin.raw(environment("DEL"), stdin)
        if seen[0][1].count(b"address"):  # the next address is another one
            seen = [(status, b"", messages, count) for status, _, messages, count in seen]
        assert seen[0] == seen[1], redirections


def test_large_documents(agent: Agent, plugin: Plugin) -> None:
    """Documents of the largest size and beyond are refused in the same words."""
    through = Plugin(plugin.path, agent.path)
    for size in ((4 << 20) - 1, 4 << 20, (4 << 20) + 1, 6 << 20):
        stdin = b'{"name":"n","x":"' + b" " * (size - 19) + b'"}'
        answers = [way.raw(environment("ADD"), stdin) for way in (plugin, through)]
        assert answers[0] == answers[1]
        assert (answers[0].code == 6) == (size > 4 << 20)


def test_own_network_namespace(agent: Agent, plugin: Plugin, config: Make) -> None:
    """The caller's own network namespace is refused (code 8) as it is directly."""
    through = Plugin(plugin.path, agent.path)
    made = config(ipam=SUBNET)
    for way in (plugin, through):
        assert way("ADD", made, netns=f"/proc/{os.getpid()}/ns/net").code == 8


def test_lock_is_released(agent: Agent) -> None:
    """The lock beside the socket is free once the agent has ended, and nobody else can read it."""
    lock = agent.path.with_name("s.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert agent.terminate() == 0
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
