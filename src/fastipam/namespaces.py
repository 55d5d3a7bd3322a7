"""What tells a network or mount namespace from others."""

from __future__ import annotations

import os
import stat


def look(path: str) -> tuple[int, int, int]:
    """(device, inode, born_ns) of a network namespace's file. Raises OSError, ValueError.

    The kernel soon gives the inode of a namespace that is gone to a new one. But the file of a
    namespace that is mounted at its path, as runtimes do it, keeps the time at which it was made,
    in nanoseconds, while it is mounted, and shows it in every mount namespace: ``born_ns``. What a
    link in /proc leads to may be made anew each time somebody looks: its time says nothing, and
    is 0 here.
    """
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        status = os.stat(path)
        return status.st_dev, status.st_ino, 0
    return status.st_dev, status.st_ino, max(0, status.st_mtime_ns)


def mount_namespace() -> int:
    """The inode of this process's mount namespace, 0 when it cannot be seen: what paths mean here.

    Asked anew each time: a process may enter another.
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
