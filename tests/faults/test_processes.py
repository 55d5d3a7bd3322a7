"""The search for network namespaces: what keeps one alive is found, and what blinds it is said."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from fastipam import processes

from ..e2e import tools

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def root() -> None:
    """Only root makes namespaces."""
    tools.require_root()


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that writes a line when it is ready, and ends with its standard input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


WAIT = "echo ready; read line"


@contextmanager
def named() -> Iterator[Path]:
    """A network namespace that is mounted, and in which nothing runs."""
    name = f"fastipam-living-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Path("/run/netns", name)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)
        Path("/run/netns", name).unlink(missing_ok=True)


def where(inode: int) -> str:
    found = processes.search()
    assert found.blind == ""
    found.look_into_descriptors({inode})
    return found.where(inode)


def test_process() -> None:
    """A namespace in which a process runs is found, and the process is named."""
    with running("unshare", "-n", "sh", "-c", WAIT) as process:
        inode = os.stat(f"/proc/{process.pid}/ns/net").st_ino
        assert where(inode) == f"process {process.pid} runs in it"
    assert where(inode) == ""


def test_thread() -> None:
    """A namespace in which one thread of a process runs is found."""
    code = (
        "import ctypes, os, sys, threading\n"
        "def work():\n"
        "    ctypes.CDLL(None).unshare(0x40000000)\n"
        "    print(os.stat('/proc/thread-self/ns/net').st_ino, flush=True)\n"
        "    sys.stdin.read()\n"
        "threading.Thread(target=work).start()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        inode = int(process.stdout.readline())
        assert inode != os.stat(f"/proc/{process.pid}/ns/net").st_ino
        assert where(inode) == f"process {process.pid} runs in it"
        process.communicate(b"")


def test_mount() -> None:
    """A namespace in which nothing runs is found by its mount."""
    with named() as path:
        inode = path.stat().st_ino
        assert where(inode).startswith(f"it is mounted at {path} ")
    assert where(inode) == ""


def test_mount_of_another_mount_namespace() -> None:
    """A mount that only another process sees is found: its table of mounts is read."""
    with named() as path:
        inode = path.stat().st_ino
        private = ("unshare", "-m", "--propagation", "private", "sh", "-c", WAIT)
        with running(*private) as process:
            subprocess.run(["umount", path], check=True)
            expected = f"it is mounted at {path} (mounts of process {process.pid})"
            assert where(inode) == expected
    assert where(inode) == ""


def test_open_file() -> None:
    """A namespace that a process only has open is found in its table of open files."""
    with named() as path:
        inode = path.stat().st_ino
        with running("sh", "-c", f"exec 7<{path}; {WAIT}") as process:
            subprocess.run(["ip", "netns", "delete", path.name], check=True)
            assert where(inode) == f"process {process.pid} has it open"
    assert where(inode) == ""


def test_inode_used_again() -> None:
    """A mounted namespace is younger than another if nothing in it is older than its file."""
    with named() as path:
        status = path.stat()
        found = processes.search()
        assert found.is_another(status.st_ino, status.st_mtime_ns - 1)
        assert not found.is_another(status.st_ino, status.st_mtime_ns), "it is the very one"
        assert not found.is_another(status.st_ino, 0), "the age of the other is not known"
        with running("nsenter", f"--net={path}", "sh", "-c", WAIT):
            subprocess.run(["umount", path], check=True)
            process = _member_of(status.st_ino)
            subprocess.run(["mount", "--bind", f"/proc/{process}/ns/net", path], check=True)
            again = processes.search()
            assert not again.is_another(status.st_ino, status.st_mtime_ns), "it was mounted anew"


def _member_of(inode: int) -> str:
    return processes.search().where(inode).split()[1]


def _search_in(*prefix: str) -> str:
    """Run a search in another process; return why it is blind."""
    code = "from fastipam import processes; print(processes.search().blind)"
    command = [*prefix, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_process_that_may_not_be_read() -> None:
    """Without the right to trace, a process of another namespace makes the search blind."""
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    with running("unshare", "-n", "sh", "-c", WAIT) as process:
        blind = _search_in(*drop)
    # Another process of another namespace may come first.
    assert blind.endswith("/ns/net cannot be read: it needs root and the capability CAP_SYS_PTRACE")
    assert process.pid


def test_own_pid_namespace() -> None:
    """A process in a pid namespace of its own knows that it does not see the others."""
    blind = _search_in("unshare", "-pf", "--mount-proc")
    assert blind.startswith("this process is in a pid namespace of its own")


def test_node_that_is_a_container() -> None:
    """A process of a pod, whose namespace is mounted too, shows that all of the node is seen."""
    program = (
        "import os; from fastipam.processes import search; "
        "own = os.stat('/proc/self/ns/pid').st_ino; print(search([own]).blind, end='')"
    )
    script = (
        "set -e; mount -t tmpfs none /run; ip netns add pod; ip netns exec pod sleep 60 & "
        "until ip netns pids pod | grep -q .; do :; done 2>/dev/null; "
        f'{sys.executable} -c "{program}"'
    )
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c"]
    done = subprocess.run([*words, script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""


def test_proc_of_another_pid_namespace() -> None:
    """A process that sees another pid namespace's /proc trusts nothing there."""
    blind = _search_in("unshare", "-pf")
    assert blind == "/proc shows the processes of another pid namespace"


def test_hidden_processes() -> None:
    """Where /proc hides the processes of others, a search knows that it is blind."""
    command = (
        "mount -t proc -o hidepid=invisible proc /proc && "
        "exec setpriv --bounding-set=-all --inh-caps=-all "
    )
    code = "from fastipam import processes; print(processes.search().blind)"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{command} "{sys.executable}" -c "{code}"'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "/proc is mounted with hidepid, and may not show all processes"


def test_one_search_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks within a second gets the same result; who needs a younger one waits so long."""
    now = 100.0
    slept: list[float] = []
    calls: list[int] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 3))
        now += seconds

    def search(_: object) -> processes.Found:
        calls.append(1)
        return processes.Found({}, "")

    monkeypatch.setattr(processes, "search", search)
    searches = processes.Searches(lambda: now, sleep)
    first = searches.get()
    now = 100.9
    assert searches.get() is first
    assert searches.get(time.time_ns()) is not first
    assert (len(calls), slept) == (2, [0.1])
    now = 102.0
    searches.get()
    assert (len(calls), slept) == (3, [0.1])


def test_lease_younger_than_the_search() -> None:
    """What a search may have been too early for is told, also after a step of the wall clock."""
    found = processes.search()
    assert found.is_older_than(time.time_ns())
    assert not found.is_older_than(time.time_ns() - 10**10)
    assert not found.is_older_than(time.time_ns() + 10**12), "the clock was set back since"
