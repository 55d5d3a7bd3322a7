"""Decide whether the network namespace of a lease still exists.

The kernel reuses the inodes of namespaces, and a runtime may give a new namespace the path of an
old one. Then the lease of the old one is *doubted*: its path has the right inode, but the file was
made at another time (:func:`fastipam.namespaces.look`). That alone does not show that the namespace
is gone, because a runtime that mounts a living namespace again changes the file's time as well. A
*witness* shows it: a younger lease of the network with this path, this time and this interface for
another container. A namespace has only one interface of a name, so one of the two leases has none,
and the younger lease was made when the file was as it is now.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastipam import namespaces
from fastipam.lease import Lease
from fastipam.namespaces import look, mount_namespace

if TYPE_CHECKING:
    from fastipam.storage.records.lease import Record

GONE = 0  # no file is at the path; otherwise an inode, or the time of a doubted lease's file


class Place:
    """This process's mount namespace, and the directories that are the same in it as in leases."""

    def __init__(self) -> None:
        self._mount_ns = mount_namespace()
        self._device = namespaces.device()
        self._proven: set[str] = set()

    def observe(self, record: Record) -> tuple[int, int] | str:
        """Return (inode, born_ns) of the file at a lease's path, or why it cannot be checked.

        The inode is GONE when there is no file.
        """
        if not record.netns:
            return "its lease names no network namespace"
        if not record.netns.startswith("/"):
            return f"{record.netns} is not an absolute path"
        directory = os.path.dirname(record.netns)
        device = inode = born_ns = GONE
        try:
            device, inode, born_ns = look(record.netns)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            return f"{record.netns} cannot be looked at: {error}"
        if inode and inode == record.inode:
            self._proven.add(directory)
            return inode, born_ns
        if record.mount_ns and record.mount_ns == self._mount_ns:
            return inode, born_ns
        if inode and not record.inode and not record.mount_ns:
            return inode, born_ns  # there is a file, and the lease has no inode to compare
        where = "another mount namespace" if record.mount_ns else "a mount namespace nobody knows"
        if directory not in self._proven:
            return (
                f"{record.netns} was noted in {where}, and no other lease shows "
                f"that {directory} is the same directory here"
            )
        if inode and device != self._device:
            return (
                f"{record.netns} was noted in {where}, and is no network namespace "
                "here: what is mounted there does not come here (mount propagation)"
            )
        return inode, born_ns


class Doubts:
    """The doubted leases and their witnesses. Only these are kept in memory; there are few."""

    def __init__(self) -> None:
        self._witnesses: dict[tuple[str, str], Lease | None] = {}
        self._doubted: list[tuple[Lease, int]] = []

    def note(self, lease: Lease, seen: tuple[int, int] | str) -> None:
        """Note a doubted lease, in the first pass: a witness for it is needed."""
        if _is_doubted(lease, seen):
            self._witnesses[lease.netns, lease.ifname] = None

    def ask(self, lease: Lease, seen: tuple[int, int]) -> bool:
        """Collect doubted leases and witnesses in the second pass; return whether it is doubted."""
        if _is_doubted(lease, seen):
            self._doubted.append((lease, seen[1]))
            return True
        key = lease.netns, lease.ifname
        if key in self._witnesses and lease.born_ns == seen[1]:
            known = self._witnesses[key]
            if known is None or known.generation < lease.generation:
                self._witnesses[key] = lease
        return False

    def settle(self) -> tuple[list[tuple[Lease, int]], list[Lease]]:
        """Return (gone, living): doubted leases that are gone, with the file's time, and others."""
        gone: list[tuple[Lease, int]] = []
        living: list[Lease] = []
        for lease, born_ns in self._doubted:
            witness = self._witnesses.get((lease.netns, lease.ifname))
            if (
                witness is not None
                and witness.born_ns == born_ns
                and witness.generation > lease.generation
                and witness.container_id != lease.container_id
            ):
                gone.append((lease, born_ns))
            else:
                living.append(lease)
        return gone, living


def _is_doubted(lease: Lease, seen: tuple[int, int] | str) -> bool:
    if isinstance(seen, str) or not lease.inode or seen[0] != lease.inode:
        return False
    return bool(lease.born_ns and seen[1]) and lease.born_ns != seen[1]
