"""Directories, mounts, processes and cgroups that container runtimes leave, and their removal.

A test gives its runtime a directory of its own and a cgroup of the same name. Whatever the runtime
starts names the directory on its command line or lives in the cgroup, and whatever it mounts lies
below the directory. That is how the remains are told from anybody else's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def scratch_dir() -> Iterator[Path]:
    """Make a directory for a with block; at the end remove it and everything that belongs to it."""
    directory = Path(tempfile.mkdtemp(prefix="fastipam-"))
    try:
        yield directory
    finally:
        _end_processes(directory)
        _unmount_below(directory)
        _remove_cgroups(directory.name)
        shutil.rmtree(directory)


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> bool:
    """Return whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _processes_of(directory: Path) -> set[int]:
    """Return the processes that name `directory` or live in its cgroup."""
    name = os.fsencode(directory)
    found = set()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if name in cmdline.read_bytes():
                found.add(int(cmdline.parent.name))
    for top in _cgroups(directory.name):
        for members in top.rglob("cgroup.procs"):
            with suppress(OSError):
                found.update(map(int, members.read_text().split()))
    return found


def _end_processes(directory: Path, grace_s: float = 5) -> None:
    """Wait for the processes of `directory`; kill those that outlive the grace."""
    if wait_until(lambda: not _processes_of(directory), grace_s):
        return
    for pid in _processes_of(directory):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not _processes_of(directory)), "processes survived a kill"


def _unmount_below(directory: Path) -> None:
    """Unmount everything below `directory`, the innermost first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(directory):
            subprocess.run(["umount", "--lazy", mount], check=True)


def _cgroups(name: str) -> list[Path]:
    """Return the cgroups called `name`, of either version and in every hierarchy."""
    return [*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")]


def _remove_cgroups(name: str) -> None:
    """Remove the cgroups called `name`, which are empty by now."""
    for top in _cgroups(name):
        for directory, _, _ in os.walk(top, topdown=False):
            Path(directory).rmdir()
