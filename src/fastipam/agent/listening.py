"""Make the agent's socket, one per path, and remove the socket that a dead agent left.

The locks are here too: one agent serves a path, and one agent sets the routes of a machine.
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
    """Yield the listening socket: systemd's, or one at ``path``, mode 0600, removed at the end."""
    inherited = systemd.inherited_socket()
    if inherited is not None:
        with inherited:
            yield inherited
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_agent(path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        remove_stale(path)
        before = os.umask(0o177)  # so that the file never has a wider mode
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
    """Hold the lock of the one agent that serves this socket. Raises ConfigError."""
    taken = ConfigError(
        f"another agent serves {path}",
        field="--socket",
        value=str(path),
        hint="stop it first, or type --socket with another path",
    )
    with _held(f"{path}.lock", taken):
        yield


def only_router(directory: Path, asked: str) -> AbstractContextManager[None]:
    """Hold the lock of the one agent that sets routes in this network namespace.

    Two would delete each other's, if their clusters differ. Raises ConfigError. ``directory`` is
    that of the agents' sockets, which nobody else can write to; ``asked`` is what --routes says.
    """
    taken = ConfigError(
        "another agent sets the routes of this machine",
        field="--routes",
        value=asked,
        hint="one agent sets the routes of all its --cluster; start the others with --routes none",
    )
    return _only_one(directory, "routes", taken, wanted=asked != NONE)


def only_masquerader(directory: Path, *, wanted: bool) -> AbstractContextManager[None]:
    """Hold the lock of the one agent that masquerades in this network namespace, if ``wanted``.

    Raises ConfigError. ``directory`` is as for :func:`only_router`.
    """
    taken = ConfigError(
        "another agent masquerades on this machine",
        field="--masquerade",
        value=True,
        hint="one agent masquerades for all its --cluster; start the others without --masquerade",
    )
    return _only_one(directory, "masquerade", taken, wanted=wanted)


@contextmanager
def _only_one(directory: Path, what: str, taken: ConfigError, *, wanted: bool) -> Iterator[None]:
    """Hold the lock of what one agent of this network namespace does, if it is wanted."""
    if not wanted:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    namespace = os.stat("/proc/self/ns/net").st_ino
    with _held(f"{directory}/{what}-{namespace}.lock", taken):
        yield


@contextmanager
def _held(path: str, taken: ConfigError) -> Iterator[None]:
    """Hold the lock of a file. Raises ``taken`` while another process holds it, or ConfigError."""
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
    """Remove the socket of an agent that was killed; the caller holds the lock.

    Raises ConfigError when it is no socket, or somebody serves it.
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
    """Return whether a process listens on a socket, even one that does not answer now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # its queue may be full
            return True
    return True
