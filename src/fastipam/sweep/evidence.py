"""Decide whether the network namespace of a lease still exists.

A path that does not lead to the namespace proves nothing: the file may be deleted, or covered by a
mount, or the path may be one in another mount namespace, while the container still runs. The proof
is an inode that no process and no mount has (``fastipam.processes``). A lease is judged by its path
alone only if its inode is not one of a kernel namespace, or was not recorded.

The kernel reuses the inodes of namespaces, and a runtime may give a new namespace the path of an
old one. Then the lease of the old namespace is *doubted*: its path has the right inode, but the
file was made at another time (:func:`fastipam.namespaces.look`); or its path is gone, and the inode
is found in another place. That alone does not prove that the namespace is gone, because a runtime
that mounts an existing namespace again also changes the file's time. A *witness* proves it: a
younger lease of the network, for another container but the same interface name, whose path leads to
this inode. A namespace has only one interface of a name, so one of the two leases has lost its
namespace, and the younger lease was made when the inode already was that of the new namespace.

A lease that a node found in a namespace after it had lost its store (``cluster.node.recovery``)
names neither its container nor its interface, so it has no witness. Its address was in use there,
and nothing else is known of it. So :class:`FoundAddresses` reads the addresses of the namespace.
"""

from __future__ import annotations

import os

from fastipam import namespaces
from fastipam.lease import FOUND, Lease
from fastipam.namespaces import look, mount_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.processes import Found
    from fastipam.storage.records.lease import Record

LIVES = "does not lead to its namespace, which still exists"
GONE = 0  # no file is at the path; otherwise an inode, or the time of a doubted lease's file


class Place:
    """The paths of leases as this process sees them.

    It remembers the directories that are proven to be the same here as in leases.
    """

    def __init__(self) -> None:
        self._mount_ns = mount_namespace()
        self._device = namespaces.device()
        self._proven: set[str] = set()

    def observe(self, record: Record) -> tuple[int, int] | str:
        """Return (inode, born_ns) of the file at a lease's path, or why it cannot be checked.

        The inode is GONE when there is no file. When it differs from the lease's inode, and that is
        the inode of a namespace, the namespace has to be searched for: :func:`is_lost`.
        """
        if not record.netns:
            return "no network namespace was recorded"
        if not record.netns.startswith("/"):
            return f"{record.netns} is not an absolute path"
        directory = os.path.dirname(record.netns)
        device = inode = born_ns = GONE
        try:
            device, inode, born_ns = look(record.netns)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            return f"{record.netns} cannot be examined: {error}"
        if inode and inode == record.inode:
            self._proven.add(directory)
            return inode, born_ns
        if namespaces.is_inode(record.inode):
            return inode, born_ns
        if record.mount_ns and record.mount_ns == self._mount_ns:
            return inode, born_ns
        if inode and not record.inode and not record.mount_ns:
            return inode, born_ns  # there is a file, and the lease has no inode to compare
        where = "another mount namespace" if record.mount_ns else "an unknown place"
        if directory not in self._proven:
            return (
                f"{record.netns} was recorded in {where}: this process cannot see whether it is "
                "gone"
            )
        if inode and device != self._device:
            return (
                f"{record.netns} was recorded in {where}, and is not a network namespace here: "
                "mounts made there do not propagate here"
            )
        return inode, born_ns


def is_lost(lease: Lease, seen: tuple[int, int] | str) -> bool:
    """Return whether the path of a lease does not lead to its namespace."""
    if isinstance(seen, str):
        return False
    return seen[0] == GONE or (lease.inode != 0 and seen[0] != lease.inode)


class Doubts:
    """The doubted leases and their witnesses. Only these are kept in memory; there are few."""

    def __init__(self) -> None:
        # By (path or inode, interface).
        self._witnesses: dict[tuple[str | int, str], Lease | None] = {}
        self._doubted: list[tuple[Lease, int, str]] = []

    def note(self, lease: Lease, seen: tuple[int, int] | str) -> None:
        """Record, in the first pass, a lease for which a witness may be needed."""
        if _is_made_anew(lease, seen):
            self._witnesses[lease.netns, lease.ifname] = None
        elif lease.inode and is_lost(lease, seen):
            self._witnesses[lease.inode, lease.ifname] = None

    def ask(self, lease: Lease, seen: tuple[int, int]) -> bool:
        """Collect a lease, in the second pass, if it is doubted or a witness.

        Return whether it is doubted.
        """
        if _is_made_anew(lease, seen):
            self._doubted.append((lease, seen[1], ""))
            return True
        if lease.born_ns == seen[1]:
            for place in (lease.netns, lease.inode):
                if (place, lease.ifname) in self._witnesses:
                    known = self._witnesses[place, lease.ifname]
                    if known is None or known.generation < lease.generation:
                        self._witnesses[place, lease.ifname] = lease
        return False

    def doubt(self, lease: Lease, where: str) -> None:
        """Collect a lease whose path is gone, but whose inode was found (at ``where``)."""
        self._doubted.append((lease, GONE, where))

    def settle(self) -> tuple[list[tuple[Lease, int]], list[tuple[Lease, str]]]:
        """Return (gone, living): the doubted leases whose namespace is gone, and the other ones.

        Each lease in ``gone`` comes with its evidence: the time of the file that was found, or the
        witness's generation. Each lease in ``living`` comes with the place where its inode was
        found, or an empty text.
        """
        gone: list[tuple[Lease, int]] = []
        living: list[tuple[Lease, str]] = []
        for lease, born_ns, where in self._doubted:
            place = lease.inode if where else lease.netns
            witness = self._witnesses.get((place, lease.ifname))
            if (
                witness is not None
                and (where or witness.born_ns == born_ns)
                and witness.generation > lease.generation
                and witness.container_id != lease.container_id
            ):
                gone.append((lease, witness.generation if where else born_ns))
            else:
                living.append((lease, where))
        return gone, living


class FoundAddresses:
    """The addresses in namespaces that may be those of found leases. Each is read once."""

    def __init__(self) -> None:
        self._read: dict[int, frozenset[tuple[int, int]] | None] = {}  # by inode; None: unreadable

    def lack(self, lease: Lease, searched: Found | None) -> bool:
        """Return whether a lease was found in a namespace, and its inode's namespace lacks it.

        ``searched`` has the namespaces of this node. When the namespace cannot be read, the lease
        counts as in use.
        """
        if searched is None or not lease.container_id.startswith(FOUND):
            return False
        if lease.inode not in self._read:
            self._read[lease.inode] = _addresses_in(searched.path(lease.inode), lease.inode)
        addresses = self._read[lease.inode]
        return addresses is not None and (lease.family, lease.value) not in addresses


def _addresses_in(path: str, inode: int) -> frozenset[tuple[int, int]] | None:
    if not path:
        return None
    from fastipam import rtnetlink  # few sweeps need it

    try:
        return frozenset(rtnetlink.addresses_in(path, inode))
    except OSError:
        return None


def _is_made_anew(lease: Lease, seen: tuple[int, int] | str) -> bool:
    """Return whether the file at a lease's path has the lease's inode, but another time."""
    if isinstance(seen, str) or not lease.inode or seen[0] != lease.inode:
        return False
    return bool(lease.born_ns and seen[1]) and lease.born_ns != seen[1]
