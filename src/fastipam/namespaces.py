"""Identify, find and enter network namespaces; identify mount namespaces."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Where runtimes mount the network namespaces of containers.
NETNS_DIRECTORIES = ("/run/netns", "/var/run/netns", "/run/docker/netns", "/run/cni/netns")
_CLONE_NEWNET = 0x40000000


def look(path: str) -> tuple[int, int, int]:
    """Return (device, inode, born_ns) of a network namespace's file. Raises OSError, ValueError.

    The kernel soon reuses the inode of a namespace that has ended. But the file of a namespace
    that is mounted at a path, as runtimes do it, keeps the time at which it was made while it is
    mounted, and shows it in every mount namespace: ``born_ns``. The file behind a link in /proc may
    be made anew at each access, so its time says nothing, and ``born_ns`` is 0.
    """
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        status = os.stat(path)
        return status.st_dev, status.st_ino, 0
    return status.st_dev, status.st_ino, max(0, status.st_mtime_ns)


def mount_namespace() -> int:
    """Return the inode of this process's mount namespace, or 0 when it cannot be read.

    It is read each time, because a process may enter another one.
    """
    try:
        return os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return 0


def identity(path: str) -> tuple[int, int] | None:
    """Return (device, inode) of a namespace's file, or None when it cannot be seen."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def device() -> int:
    """Return the device of the kernel's namespace files; 0 when it cannot be seen."""
    found = identity("/proc/self/ns/net")
    return found[0] if found else 0


def find(directories: Sequence[str] = NETNS_DIRECTORIES) -> dict[int, str]:
    """Return a path of every network namespace but this process's own, by inode."""
    own = identity("/proc/self/ns/net")
    found: dict[int, str] = {}
    for path in _candidates(directories):
        there = identity(path)
        if there is not None and there != own:
            found.setdefault(there[1], path)
    return found


def _candidates(directories: Sequence[str]) -> Iterator[str]:
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        yield from (os.path.join(directory, name) for name in names)
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield f"/proc/{name}/ns/net"


def enter(descriptor: int) -> None:
    """Move this thread into the network namespace of an open file. Raises OSError."""
    setns = getattr(os, "setns", None)  # from Python 3.12 on
    if setns is not None:
        setns(descriptor, _CLONE_NEWNET)
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
