"""Diagnose the agent: whether it answers, is current, and sees the same files."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import fastipam
from fastipam.agent.protocol import peer_of
from fastipam.cli.agent_client import TIMEOUT_S, ask
from fastipam.cli.click_base import as_root
from fastipam.cli.commands.doctor import surroundings
from fastipam.cli.commands.doctor.diagnosis import OK, PROBLEM, WARNING, Diagnosis
from fastipam.cli.commands.status import ask_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHECK = "agent"
_SYSTEMD = Path("/run/systemd/system")  # exists when systemd runs: sd_booted(3)


def restart() -> str:
    """Return the command that restarts the agent: with kubectl, systemd or neither."""
    if surroundings.in_kubernetes():
        return surroundings.restart_in_kubernetes()
    return "systemctl restart fastipam-agent" if _SYSTEMD.is_dir() else "fastipam agent"


def look(path: Path, *, needed: bool) -> tuple[list[Diagnosis], int]:
    """Return the diagnoses of the agent on a socket, and its process id, or 0 without an agent.

    ``needed`` says that the plugin does not work without an agent.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(path))
            status = ask(connection, "VERSION")[0]
            process = _process(connection, path)
        except FileNotFoundError:
            return [_absent(path, needed)], 0
        except PermissionError:
            text = f"only root and the agent's user may connect to {path}"
            return [Diagnosis(_CHECK, WARNING, text, as_root())], 0
        except TimeoutError:
            text = f"the agent on {path} does not answer within {TIMEOUT_S:g} s"
            return [Diagnosis(_CHECK, PROBLEM, text, restart())], 0
        except OSError as error:
            text = f"{path} exists, but no agent answers: {error.strerror or error}"
            return [Diagnosis(_CHECK, PROBLEM, text, restart())], 0
    if status != 0:
        text = f"the agent on {path} answers VERSION with status {status}"
        return [Diagnosis(_CHECK, PROBLEM, text, restart())], process
    found = [Diagnosis(_CHECK, OK, f"process {process} answers on {path}")]
    if _is_older(process):
        text = f"process {process} was started before this fastipam was installed"
        found.append(Diagnosis(_CHECK, WARNING, text, restart()))
    return found, process


def networks(path: Path, conf_dir: Path) -> Iterator[Diagnosis]:
    """Yield a diagnosis for each configured network that the agent reports as not ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(path))
            for one in ask_all(conf_dir, connection):
                if one.network and not one.ready:
                    text = f"the agent cannot serve network {one.network!r} now: {one.message}"
                    yield Diagnosis(_CHECK, PROBLEM, text, "fastipam status --agent")
        except OSError as error:
            text = f"the agent on {path} does not answer STATUS: {error.strerror or error}"
            yield Diagnosis(_CHECK, PROBLEM, text, restart())


def _absent(path: Path, needed: bool) -> Diagnosis:
    text = f"no agent: {path} does not exist"
    text += "; calls fail" if needed else "; each call starts Python, which takes longer"
    start = "systemctl start fastipam-agent.socket" if _SYSTEMD.is_dir() else restart()
    if surroundings.lacks(path.parent):
        text = surroundings.not_mounted(path.parent, "the agent cannot be asked")
        return Diagnosis(_CHECK, WARNING, text)
    return Diagnosis(_CHECK, PROBLEM if needed else WARNING, text, start)


def same_files(process: int, paths: Iterable[str]) -> Iterator[Diagnosis]:
    """Diagnose whether the agent sees the same files under these paths as this process."""
    ours, theirs = (_link(f"/proc/{one}/ns/mnt") for one in ("self", process))
    if not theirs:
        text = f"the files of process {process} cannot be examined"
        if os.geteuid() == 0:
            text += ": that needs CAP_SYS_PTRACE, and a pid namespace that shows the process"
        yield Diagnosis(_CHECK, WARNING, text, as_root())
        return
    others = [one for one in paths if os.path.exists(one) and not _is_same(process, one)]
    for path in others:
        text = f"the agent sees another file at {path}: its mount namespace is {theirs}, not {ours}"
        yield Diagnosis(_CHECK, PROBLEM, text, f"nsenter --mount --target {process} ls -la {path}")
    if not others:
        how = "is in this mount namespace" if ours == theirs else "has mounts of its own"
        yield Diagnosis(_CHECK, OK, f"process {process} {how}, and sees the same files")


def _process(connection: socket.socket, path: Path) -> int:
    """Return the process that serves the socket, also if systemd has opened the socket for it."""
    process = peer_of(connection)[0]
    if process != 1:
        return process
    return next((one for one in _holders(_inodes(path)) if one != 1), process)


def _inodes(path: Path) -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()
    rows = (line.split() for line in lines)
    return {f"socket:[{row[6]}]" for row in rows if len(row) > 7 and row[7] == str(path)}


def _holders(sockets: set[str]) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                links = [_link(str(one)) for one in (process / "fd").iterdir()]
            except OSError:
                continue
            if not sockets.isdisjoint(links):
                yield int(process.name)


def _is_older(process: int) -> bool:
    """Return whether a process of this package started before the package was installed."""
    package = Path(fastipam.__file__).resolve().parent
    if not _is_same(process, str(package / "__init__.py")):
        return False  # it runs in a container, from files of its own
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])
        boot = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime ")
        )
    except (OSError, StopIteration):
        return False
    newest = max(one.stat().st_mtime for one in package.rglob("*.py"))
    return boot + ticks / os.sysconf("SC_CLK_TCK") < newest - 1


def _is_same(process: int, path: str) -> bool:
    try:
        ours, theirs = os.stat(path), os.stat(f"/proc/{process}/root{os.path.realpath(path)}")
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
