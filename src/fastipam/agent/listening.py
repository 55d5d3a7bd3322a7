"""Open the agent's socket, and remove the socket that a killed agent has left.

The locks are here too: one agent serves a path, and one agent sets routes, or masquerades, in a
network namespace.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastipam.agent import systemd
from fastipam.agent.clusters import NONE
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

_BACKLOG = 4096  # connections that wait while a batch commits; the kernel's somaxconn bounds it


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Yield the listening socket: the one that systemd passes, or a new one at ``path``.

    A new socket has mode 0600 and is removed at the end.
    """
    inherited = systemd.inherited_socket()
    if inherited is not None:
        with inherited:
            yield inherited
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_agent(path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        remove_stale(path)
        before = os.umask(0o177)  # so that the socket never has a wider mode
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror or error}", field="--socket", value=str(path)
            ) from error
        finally:
            os.umask(before)
        inode = path.stat().st_ino
        listener.listen(_BACKLOG)
        try:
            yield listener
        finally:
            try:
                if path.stat().st_ino == inode:
                    path.unlink()
            except OSError:
                pass


@contextmanager
def only_agent(path: Path) -> Iterator[None]:
    """Hold the lock that lets one agent serve this socket. Raises ConfigError."""
    taken = ConfigError(
        f"another agent serves {path}",
        field="--socket",
        value=str(path),
        hint="stop it first, or type --socket with another path",
    )
    with _held(f"{path}.lock", taken):
        yield


def only_router(directory: Path, asked: str) -> AbstractContextManager[None]:
    """Hold the lock that lets one agent set routes in this network namespace.

    Two agents with different clusters would delete each other's routes. ``directory`` is the
    directory of the agents' sockets, in which only they can write. ``asked`` is the value of
    --routes. Raises ConfigError.
    """
    taken = ConfigError(
        "another agent sets the routes of this machine",
        field="--routes",
        value=asked,
        hint="one agent sets the routes for all of its --cluster files; start other agents with "
        "--routes none",
    )
    return _only_one(directory, "routes", taken, wanted=asked != NONE)


def only_masquerader(directory: Path, *, wanted: bool) -> AbstractContextManager[None]:
    """Hold the lock that lets one agent masquerade in this network namespace, if ``wanted``.

    ``directory`` is as for :func:`only_router`. Raises ConfigError.
    """
    taken = ConfigError(
        "another agent masquerades on this machine",
        field="--masquerade",
        value=True,
        hint="one agent masquerades for all of its --cluster files; start other agents without "
        "--masquerade",
    )
    return _only_one(directory, "masquerade", taken, wanted=wanted)


@contextmanager
def _only_one(directory: Path, what: str, taken: ConfigError, *, wanted: bool) -> Iterator[None]:
    """Hold the lock that lets one agent do ``what`` in this network namespace, if ``wanted``."""
    if not wanted:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    namespace = os.stat("/proc/self/ns/net").st_ino
    with _held(f"{directory}/{what}-{namespace}.lock", taken):
        yield


@contextmanager
def _held(path: str, taken: ConfigError) -> Iterator[None]:
    """Hold the lock on a file.

    Raises ``taken`` when another process holds the lock, and ConfigError when the file cannot be
    opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise ConfigError(
            f"{path} cannot be opened: {reason}", field=taken.field, value=taken.value
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise taken from None
    try:
        yield
    finally:
        os.close(descriptor)


def remove_stale(path: Path) -> None:
    """Remove the socket of an agent that was killed. The caller holds the lock.

    Raises ConfigError when the path is not a socket, or a process listens on it.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a socket"
        raise ConfigError(
            f"{path} is {kind}: it was not replaced",
            field="--socket",
            value=str(path),
            hint="remove it if it is not needed, or type --socket with another path",
        )
    if is_served(path):
        raise ConfigError(
            f"another process already listens on {path}",
            field="--socket",
            value=str(path),
            hint=(
                "if it is systemd's socket unit, type `systemctl stop fastipam-agent.socket`; or "
                "type --socket with another path"
            ),
        )
    path.unlink()


def is_served(path: Path) -> bool:
    """Return whether a process listens on a socket, even a process that does not answer now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # the listener's queue may be full
            return True
    return True
