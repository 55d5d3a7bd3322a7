"""Recovery of a node that lost its store: addresses in use, asked of the kernel (rtnetlink).

The node's pods may still run, and their addresses are in their namespaces. So before any address
of a found block is assigned, the node reads which of its addresses are in use there.

A namespace is found by a file in the directories where runtimes mount them, or by a process that
runs in it. A thread of its own enters it and asks the kernel (RTM_GETADDR).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from struct import Struct

from fastipam.lease import Owner
from fastipam.namespaces import NETNS_DIRECTORIES, enter, find
from fastipam.storage.records.lease import Netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.node.node import Node
    from fastipam.cluster.schema import BlockId
    from fastipam.configuration.cluster import Settings

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


class NamespacesUnreadable(Exception):
    """A namespace could not be entered, so its addresses are not known."""


def addresses_in(path: str) -> list[tuple[int, int]]:
    """Return (family, integer) of all addresses in a namespace. Raises NamespacesUnreadable."""
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
        raise NamespacesUnreadable(f"{path}: {fault[0]}") from fault[0]
    return found


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


def recover(
    node: Node, found: Sequence[BlockId], directories: Sequence[str] = NETNS_DIRECTORIES
) -> list[tuple[int, int]]:
    """Enter the addresses of these blocks that are in use, then activate the blocks.

    Each address of a namespace becomes a lease of that namespace. Its container is not known any
    more, so ``fastipam sweep`` releases the lease when the namespace is gone. Idempotent.
    Raises NamespacesUnreadable: then no address of these blocks is assigned.
    """
    if not found:
        return []
    wanted = set(found)
    entered = []
    for inode, path in find(directories).items():
        for family, value in addresses_in(path):
            if _block_of(node.settings, family, value) not in wanted:
                continue
            name = path.strip("/").replace("/", "-")
            owner = Owner(f"found-{inode}-{name}", "", Netns(path, inode))
            node.network.adopt(owner, family, value, time.time_ns())
            entered.append((family, value))
    node.confirm_found(found)
    return entered


def _block_of(settings: Settings, family: int, value: int) -> BlockId | None:
    pool = settings.geometry_of(family, value)
    if pool is None:
        return None
    number = pool.number(value)
    return None if number is None else (family, pool.address(number))
