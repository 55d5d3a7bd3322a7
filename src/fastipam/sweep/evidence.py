"""What is seen of a lease's network namespace from this process, and what that proves.

The kernel soon gives the inode of a namespace that is gone to a new one, and a runtime may give
that one the same path. The lease of the first is *doubted* then: the file that is there was made at
another time than its own (:func:`fastipam.namespaces.look`). A runtime that mounts a living
namespace anew would give the file another time, too, so that is not enough to call it gone: a
younger lease of the network has to name the very file that is there, for another container and the
same interface. A namespace holds one interface of a name, so one of the two has none; and the
younger one was made when the file was what it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastipam.lease import Lease
from fastipam.namespaces import look, mount_namespace

if TYPE_CHECKING:
    from fastipam.storage.records.lease import Record

GONE = 0  # is found where there is no file; else an inode, or the time of a doubted lease's file


class Place:
    """Where this process looks from; which paths mean here what they meant to who noted them."""

    def __init__(self) -> None:
        self._mount_ns = mount_namespace()
        self._device = _device_of_namespaces()
        self._proven: set[str] = set()

    def observe(self, record: Record) -> tuple[int, int] | str:
        """(inode, born_ns) at a lease's path (GONE: none), or why that cannot be said from here."""
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
            return inode, born_ns  # there is a file, and the lease does not say which it should be
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


def _device_of_namespaces() -> int:
    """The device that the kernel's namespaces are on, 0 when it cannot be seen."""
    try:
        return os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return 0


class Doubts:
    """Leases whose namespace may be gone although its path and inode are there.

    Memory: the doubted ones alone, of which there are hardly any.
    """

    def __init__(self) -> None:
        self._witnesses: dict[tuple[str, str], Lease | None] = {}
        self._doubted: list[tuple[Lease, int]] = []

    def note(self, lease: Lease, seen: tuple[int, int] | str) -> None:
        """The first time over the leases: whose witness has to be looked for."""
        if _is_doubted(lease, seen):
            self._witnesses[lease.netns, lease.ifname] = None

    def ask(self, lease: Lease, seen: tuple[int, int]) -> bool:
        """The second time: whether a lease whose path and inode are there is to be settled."""
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
        """(those that are gone, each with its successor's ``born_ns``; those that are not)."""
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
