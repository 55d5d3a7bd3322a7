"""What a cluster has on the machine outside of its directory, and how it goes, whoever made it.

Each link has a mark: a file that its process holds locked for as long as it lives. A mark that
nobody holds is of a process that was killed: what has its id is removed. Nothing else is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import init

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKS = Path("/run/fastipam-test-clusters")
_NAMESPACES = Path("/run/netns")
_CGROUPS = Path("/sys/fs/cgroup")
_PATIENCE_S = 30.0


class Mark:
    """The mark of a link, held from ``set`` to ``remove``, or to the end of the process."""

    def __init__(self, identity: str) -> None:
        self._id = identity
        self._file: int | None = None

    def set(self) -> None:
        """Make it. Under its name it is locked from the beginning."""
        MARKS.mkdir(exist_ok=True)
        new = MARKS / f".{self._id}"
        self._file = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        new.rename(MARKS / self._id)

    def remove(self) -> None:
        """Remove it with all that has its id."""
        if self._file is not None:
            clear(self._id)
            (MARKS / self._id).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def remove_old() -> list[str]:
    """Remove what processes that were killed have left; return the ids."""
    removed = []
    for mark in sorted(MARKS.glob("[!.]*")):
        with contextlib.suppress(FileNotFoundError), mark.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its process lives, or another one removes it
                continue
            clear(mark.name)
            mark.unlink()
            removed.append(mark.name)
    return removed


def clear(identity: str) -> None:
    """End the processes of a link, then remove its network namespaces and cgroups."""
    end = time.monotonic() + _PATIENCE_S
    while found := set(_processes(identity)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < end, f"processes of {identity} do not end: {found}"
        time.sleep(0.05)
    for each in _namespaces(identity):
        subprocess.run(("ip", "netns", "delete", each.name), check=True, capture_output=True)
    for each in sorted(
        cgroups(_names(identity)), reverse=True
    ):  # what is in a group comes before it
        remove_cgroup(each)


def left(identity: str, directory: Path) -> list[str]:
    """Return what is there of a link whose cluster is in a directory.

    Processes, network namespaces, cgroups, mounts; a directory of a node's own is mounted nowhere.
    """
    found = [f"process {each}" for each in _processes(identity)]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in process.read_bytes():
                found.append(str(process))
    found += map(str, [*_namespaces(identity), *cgroups(_names(identity))])
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [each for each in mounts if str(directory) in each]
    return found + [path for path in init.OWN if os.path.ismount(path)]


def remove_cgroup(path: Path) -> None:
    """Remove a cgroup whose processes have ended, or are ending, with the cgroups in it."""
    end = time.monotonic() + _PATIENCE_S
    for each in sorted((one for one in path.glob("**/") if one.is_dir()), reverse=True):
        while each.exists():
            with contextlib.suppress(OSError):  # a process is still ending
                each.rmdir()
            assert time.monotonic() < end, f"{each} has processes"
            time.sleep(0.01)


def _namespaces(identity: str) -> list[Path]:
    return sorted(_NAMESPACES.glob(_names(identity)))


def _names(identity: str) -> str:
    return f"fastipam-*-{identity}"


def cgroups(names: str) -> list[Path]:
    """The cgroups of each hierarchy with such names; those in them are not listed."""
    return sorted({*_CGROUPS.glob(names), *_CGROUPS.glob(f"*/{names}")})


def _processes(identity: str) -> Iterator[int]:
    """The processes in its network namespaces or cgroups, as this process numbers them.

    And those that have started some of them there: ``unshare`` ends after its child.
    """
    namespaces = _namespaces(identity)
    networks = set()
    for each in namespaces:
        with contextlib.suppress(FileNotFoundError):
            networks.add(each.stat().st_ino)
    groups = {each.name for each in cgroups(_names(identity))}
    entered = {f"--net={each}" for each in namespaces}
    for process in Path("/proc").glob("[0-9]*"):
        # It may end meanwhile. A zombie has no namespace: its parent reaps it.
        with contextlib.suppress(OSError):
            its = set((process / "cgroup").read_text().replace(":", "/").split("/"))
            arguments = set((process / "cmdline").read_text(errors="replace").split("\0"))
            if (
                its & groups
                or arguments & entered
                or (process / "ns/net").stat().st_ino in networks
            ):
                yield int(process.name)
