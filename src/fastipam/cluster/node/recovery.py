"""Recovery of a node that lost its store: addresses in use, asked of the kernel (rtnetlink).

The node's pods may still run, and their addresses are in their namespaces. So before any address
of a found block is assigned, the node reads which of its addresses are in use there.

A namespace is found by a file in the directories where runtimes mount them, or by a process that
runs in it. A thread of its own enters it and asks the kernel (RTM_GETADDR).
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from struct import Struct

from fastipam.addressing.addresses import format_ip
from fastipam.errors import AddressInUse
from fastipam.lease import Owner
from fastipam.namespaces import (
    NETNS_DIRECTORIES,
    enter,
    find,
    identity,
    look,
    mount_namespace,
)
from fastipam.storage.records.lease import Netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.node.node import Node
    from fastipam.cluster.schema import BlockId
    from fastipam.configuration.cluster import Settings
    from fastipam.lease import Lease

_REQUEST = Struct("=IHHIIBBBBI")  # struct nlmsghdr, struct ifaddrmsg
_HEADER = Struct("=IHHII")
_IFADDR = Struct("=BBBBI")
_ATTRIBUTE = Struct("=HH")
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_DONE, _NLMSG_ERROR = 3, 2
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
_ANSWER_BYTES = 1 << 16
_MOST_ROUNDS = 8  # of looking for namespaces whose process ended meanwhile
_NEEDED = "it takes root with the capabilities CAP_SYS_PTRACE and CAP_SYS_ADMIN"


class NamespacesUnreadable(Exception):
    """A namespace could not be entered, so its addresses are not known."""


def addresses_in(path: str) -> list[tuple[int, int]]:
    """Return (family, integer) of all addresses in a namespace.

    Raises NamespacesUnreadable, and FileNotFoundError when the path is gone.
    """
    found: list[tuple[int, int]] = []
    fault: list[OSError] = []

    def look() -> None:  # only this thread enters the namespace, and then it ends
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(descriptor)
            finally:
                os.close(descriptor)
            found.extend(_ask_kernel())
        except OSError as error:
            fault.append(error)

    thread = threading.Thread(target=look, name="netns")
    thread.start()
    thread.join()
    if fault:
        if isinstance(fault[0], FileNotFoundError):
            raise fault[0]
        raise NamespacesUnreadable(_reason(path, fault[0])) from fault[0]
    return found


def _reason(path: str, error: OSError) -> str:
    """Return why a namespace could not be read, in words."""
    if error.errno == errno.EINVAL:
        return (
            f"{path} is no network namespace here: nothing is mounted on that file, or only in "
            "another mount namespace; remove the file if it is a leftover"
        )
    return f"{path} cannot be entered: {error.strerror or error}; {_NEEDED}"


def _ask_kernel() -> list[tuple[int, int]]:
    """Return all addresses of the thread's namespace: a dump of rtnetlink(7)."""
    found: list[tuple[int, int]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        request = _REQUEST.pack(
            _REQUEST.size, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0, 0, 0, 0, 0, 0
        )
        link.send(request)
        while True:
            data = link.recv(_ANSWER_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise OSError("the kernel does not list addresses")
                if kind == _RTM_NEWADDR:
                    found += _read_address(data[at + _HEADER.size : at + length])
                at += length + 3 & ~3


def _read_address(message: bytes) -> list[tuple[int, int]]:
    family = _FAMILIES.get(_IFADDR.unpack_from(message)[0])
    at = _IFADDR.size
    values: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        values[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    # IFA_LOCAL is the interface's own; on a point-to-point link IFA_ADDRESS is the peer's.
    raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
    return [] if family is None or raw is None else [(family, int.from_bytes(raw, "big"))]


class Recovered:
    """What :func:`recover` has done.

    ``entered`` are the addresses in use, as (family, integer). ``remarks`` says of which addresses
    the store named somebody else, and which of them several namespaces have.
    """

    __slots__ = ("entered", "remarks")

    def __init__(self) -> None:
        self.entered: list[tuple[int, int]] = []
        self.remarks: list[str] = []


def recover(
    node: Node, found: Sequence[BlockId], directories: Sequence[str] = NETNS_DIRECTORIES
) -> Recovered:
    """Enter the addresses of these blocks that are in use, then activate the blocks.

    Each address of a namespace becomes a lease of that namespace, whoever an older copy of the
    store names for it. A lease that names the namespace stays. Where the container is not known any
    more, ``fastipam sweep`` releases the lease when the namespace is gone. Idempotent. Raises
    NamespacesUnreadable: then no address of these blocks is assigned.
    """
    done = Recovered()
    if not found:
        return done
    wanted = set(found)
    users: dict[tuple[int, int], list[Netns]] = {}
    for netns, addresses in _look_everywhere(directories):
        for address in addresses:
            if _block_of(node.settings, *address) in wanted:
                users.setdefault(address, []).append(netns)
    for (family, value), there in users.items():
        _enter(node, family, value, there, done)
    node.confirm_found(found)
    return done


def _look_everywhere(directories: Sequence[str]) -> list[tuple[Netns, list[tuple[int, int]]]]:
    """Return each network namespace of this node with its addresses."""
    mount_ns = mount_namespace()
    seen: dict[int, tuple[Netns, list[tuple[int, int]]]] = {}
    for _ in range(_MOST_ROUNDS):
        paths, blind = find(directories)
        if blind:
            raise NamespacesUnreadable(f"{blind}; {_NEEDED}")
        gone = ""
        for inode, path in paths.items():
            if inode in seen:
                continue
            try:
                netns = Netns(path, inode, mount_ns, look(path)[2])
                seen[inode] = netns, addresses_in(path)
            except FileNotFoundError:  # that process has ended; another may run in its namespace
                gone = path
        if not gone:
            return list(seen.values())
    raise NamespacesUnreadable(f"processes such as {gone} end faster than they can be looked at")


def _enter(node: Node, family: int, value: int, there: list[Netns], done: Recovered) -> None:
    """Make an address the lease of a namespace that has it."""
    text = format_ip(family, value)
    done.entered.append((family, value))
    if len(there) > 1:
        paths = ", ".join(one.path for one in there)
        done.remarks.append(f"{text} is in {len(there)} network namespaces: {paths}")
    lease = node.network.lookup((family, value))
    if lease is not None and any(_is_of(lease, one) for one in there):
        return
    netns = there[0]
    name = netns.path.strip("/").replace("/", "-")
    owner = Owner(f"found-{netns.inode}-{name}", "", netns)
    try:
        replaced = node.share.adopt_running(owner, family, value)
    except AddressInUse as error:  # whatever it is that has it, nobody gets it
        done.remarks.append(error.message)
        return
    if replaced is not None:
        whose = f"{replaced.container_id} {replaced.ifname}".rstrip()
        done.remarks.append(f"{text} is in {netns.path}, and the store had it as {whose}'s")


def _is_of(lease: Lease, netns: Netns) -> bool:
    """Return whether a lease names this namespace: the inode alone is reused."""
    there = identity(lease.netns) if lease.netns else None
    return lease.inode == netns.inode and there is not None and there[1] == netns.inode


def _block_of(settings: Settings, family: int, value: int) -> BlockId | None:
    pool = settings.geometry_of(family, value)
    if pool is None:
        return None
    number = pool.number(value)
    return None if number is None else (family, pool.address(number))
