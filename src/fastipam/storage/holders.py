"""Find the process that has the writers' lock of a store."""

from __future__ import annotations

import os


def describe_holders(path: str) -> str:
    """Name the processes that have the lock on the file ``path``. O(open files of the machine).

    The kernel does not say who has a lock of an open file description (F_OFD_GETLK answers -1). But
    it lists the lock in ``/proc/PID/fdinfo`` of each process that has the description.
    """
    try:
        inode = os.stat(path).st_ino
    except OSError as error:
        return f"a process that cannot be found ({path}: {error.strerror})"
    found, unseen = _find(os.path.basename(path), inode)
    if found:
        return " and ".join(map(_describe, found))
    return "a process that this one cannot see" if unseen else "a process that has ended"


def _find(file: str, inode: int) -> tuple[list[str], bool]:
    """Return the processes with the lock, and whether some processes could not be read."""
    found, unseen = [], not os.path.exists(f"/proc/{os.getpid()}")
    for process in filter(str.isdecimal, _names("/proc")):
        try:
            names = os.listdir(f"/proc/{process}/fdinfo")
        except FileNotFoundError:
            continue  # it has ended
        except OSError:
            unseen = True
            continue
        if any(_has_lock(process, name, file, inode) for name in names):
            found.append(process)
    return found, unseen


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _has_lock(process: str, descriptor: str, file: str, inode: int) -> bool:
    """Return whether a descriptor of a process has a lock on the file.

    Its fdinfo then has a line such as "lock: 1: OFDLCK ADVISORY WRITE -1 08:01:42 0 EOF".
    """
    # The device is not compared: btrfs and overlayfs show another one here than stat does.
    try:
        with open(f"/proc/{process}/fdinfo/{descriptor}") as lines:
            if not any(line.startswith("lock:") and f":{inode} " in line for line in lines):
                return False
        return os.readlink(f"/proc/{process}/fd/{descriptor}").endswith("/" + file)
    except OSError:
        return False


def _describe(process: str) -> str:
    """Return a process as text, such as "process 12 (fastipam agent, stopped)"."""
    if process == str(os.getpid()):
        return "another thread of this process, or this thread itself,"
    name, state = "?", ""
    try:
        with open(f"/proc/{process}/status") as file:
            fields = dict(line.rstrip().partition(":\t")[::2] for line in file)
        name, state = fields.get("Name", name), fields.get("State", state)
    except OSError:
        pass
    states = {"T": ", stopped", "t": ", stopped by a debugger", "D": ", waiting for a disk"}
    return f"process {process} ({name}{states.get(state[:1], '')})"
