"""Identify network and mount namespaces."""

from __future__ import annotations

import os
import stat


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
