"""The addresses and routes of this thread's network namespace, by rtnetlink(7).

:func:`addresses_in` reads the addresses of another namespace.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from struct import Struct

from fastipam import namespaces
from fastipam.addressing.addresses import format_cidr, format_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
IFADDR = Struct("=BBBBI")  # struct ifaddrmsg: family, length, flags, scope, interface
IFINFO = Struct("=BxHiII")  # struct ifinfomsg: family, type, interface, flags, change
# struct rtmsg: family, length, source length, tos, table, protocol, scope, type, flags
RTMSG = Struct("=BBBBBBBBI")
ATTRIBUTE = Struct("=HH")  # struct rtattr: length, type
NUMBER = Struct("=I")
RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY = 1, 4, 5, 6
RTA_MULTIPATH, RTA_VIA, RTA_NH_ID = 9, 18, 30
RTN_UNICAST, RTN_LOCAL, RTN_UNREACHABLE = 1, 2, 7
MAIN_TABLE = 254
FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
NUMBERS = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}  # the kernel's numbers of the families
_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
# Flags of an address that other nodes cannot use for long: IFA_F_SECONDARY (IFA_F_TEMPORARY of
# IPv6), IFA_F_DADFAILED, IFA_F_DEPRECATED.
_UNSUITABLE = 0x01 | 0x08 | 0x20
_ANSWER_BYTES = 1 << 16
_SIOCGIFMTU = 0x8921  # netdevice(7)
_IFREQ = Struct("=16si20x")
_MOST_DUMPS = 5  # tries to list a table that changes meanwhile


def open_link(groups: int = 0) -> socket.socket:
    """Return a socket for requests, or for the notifications of these groups. Raises OSError."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        # The options make answers short, add the reason of an error in words, and limit a listing
        # to what was requested. A kernel before 4.20 lacks some, and answers more than is needed.
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            try:
                link.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                continue
        link.bind((0, groups))
    except BaseException:
        link.close()
        raise
    return link


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yield (type, flags, sequence, port, body) of each netlink message in ``data``."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, port, data[at + HEADER.size : at + length]
        at += length + 3 & ~3


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a message to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, without padding: all lengths that are used are multiples of four."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value


def attributes(body: bytes, at: int) -> dict[int, bytes]:
    """Return the attributes of a message, which begin at ``at``."""
    values: dict[int, bytes] = {}
    while at + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, at)
        if length < ATTRIBUTE.size:
            break
        values[kind] = body[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return values


def dump(link: socket.socket, request: int, answer: int, body: bytes) -> list[bytes]:
    """Request a listing from the kernel; return the body of each of its messages. Raises OSError.

    When the table has changed during a listing, the listing may lack entries that were there all
    the time, and is requested again.
    """
    for sequence in range(1, _MOST_DUMPS + 1):
        link.send(message(request, NLM_F_DUMP, sequence, body))
        found, is_whole = _answers(link, answer, sequence)
        if is_whole:
            return found
    raise OSError("the addresses and routes change faster than the kernel lists them")


def _answers(link: socket.socket, answer: int, wanted: int) -> tuple[list[bytes], bool]:
    found: list[bytes] = []
    is_whole = True
    while True:
        for kind, flags, sequence, _, body in messages(link.recv(_ANSWER_BYTES)):
            if sequence != wanted:
                continue
            is_whole = is_whole and not flags & NLM_F_DUMP_INTR
            if kind == NLMSG_DONE:
                return found, is_whole
            if kind == NLMSG_ERROR:
                raise OSError("the kernel does not list addresses and routes")
            if kind == answer:
                found.append(body)


def addresses() -> list[tuple[int, int]]:
    """Return (family, integer) of every address of every interface. Raises OSError."""
    found = []
    with open_link() as link:
        for body in dump(link, RTM_GETADDR, RTM_NEWADDR, IFADDR.pack(0, 0, 0, 0, 0)):
            family = FAMILIES.get(IFADDR.unpack_from(body)[0])
            raw = _own(body)
            if family is not None and raw is not None:
                found.append((family, int.from_bytes(raw, "big")))
    return found


def addresses_in(path: str, inode: int = 0) -> list[tuple[int, int]]:
    """Return (family, integer) of every address in the network namespace of a file.

    Raises OSError, and FileNotFoundError also when ``inode`` is given and the file has another.
    """
    import threading  # not loaded by a plugin's call, which needs only this node's addresses

    found: list[tuple[int, int]] = []
    fault: list[OSError] = []

    def read() -> None:  # only the thread of this call enters the namespace, and ends after that
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if inode and os.fstat(descriptor).st_ino != inode:
                    raise FileNotFoundError(f"{path} is another namespace now")
                namespaces.enter(descriptor)
            finally:
                os.close(descriptor)
            found.extend(addresses())
        except OSError as error:
            fault.append(error)

    thread = threading.Thread(target=read, name="netns")
    thread.start()
    thread.join()
    if fault:
        raise fault[0]
    return found


def beside(family: int, value: int) -> tuple[int, int] | None:
    """Return an address of the other family on the interface that has this address, or None.

    It is the first address that other nodes can use for long: one of global scope that is not
    temporary, secondary or deprecated. Raises OSError.
    """
    wanted = value.to_bytes(4 if family == 4 else 16, "big")
    with open_link() as link:
        found = dump(link, RTM_GETADDR, RTM_NEWADDR, IFADDR.pack(0, 0, 0, 0, 0))
    index = _interface_with(found, wanted)
    for one in found:
        number, _, flags, scope, its_index = IFADDR.unpack_from(one)
        other, raw = FAMILIES.get(number), _own(one)
        if its_index != index or other in (None, family) or raw is None or scope:
            continue
        if not flags & _UNSUITABLE:
            return other, int.from_bytes(raw, "big")
    return None


def mtu(family: int, value: int) -> int | None:
    """Return the MTU of the interface that has an address, or None. Raises OSError."""
    wanted = value.to_bytes(4 if family == 4 else 16, "big")
    with open_link() as link:
        request = IFADDR.pack(NUMBERS[family], 0, 0, 0, 0)
        found = dump(link, RTM_GETADDR, RTM_NEWADDR, request)
    index = _interface_with(found, wanted)
    if index is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        question = _IFREQ.pack(socket.if_indextoname(index).encode(), 0)
        answer = fcntl.ioctl(any_socket, _SIOCGIFMTU, question)
    return int(_IFREQ.unpack(answer)[1])


def _interface_with(listed: list[bytes], raw: bytes) -> int | None:
    """Return the number of the interface that has an address, or None."""
    return next((IFADDR.unpack_from(one)[4] for one in listed if _own(one) == raw), None)


def _own(body: bytes) -> bytes | None:
    """Return the interface's own address from the body of an address message, as raw bytes."""
    values = attributes(body, IFADDR.size)
    # IFA_LOCAL is the interface's own; on a point-to-point link IFA_ADDRESS is the peer's.
    return values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)


def route_dump(link: socket.socket, family: int, protocol: int) -> list[bytes]:
    """Return the main table's routes of a family and a protocol, as the kernel lists them.

    A kernel before 4.20 lists all routes, so the routes of other protocols are left out here.
    """
    number = NUMBERS[family]
    body = RTMSG.pack(number, 0, 0, 0, MAIN_TABLE, protocol, 0, 0, 0)
    wanted = (number, MAIN_TABLE, protocol)
    found = []
    for one in dump(link, RTM_GETROUTE, RTM_NEWROUTE, body):
        its_family, _, _, _, table, its_protocol, _, _, _ = RTMSG.unpack_from(one)
        if (its_family, table, its_protocol) == wanted:
            found.append(one)
    return found


def routes(protocol: int, *, without_metric: int | None = None) -> dict[str, str]:
    """Return (prefix -> gateway) of the main table's routes of a protocol. Raises OSError.

    Routes with the metric ``without_metric`` are left out.
    """
    found = {}
    with open_link() as link:
        for family in NUMBERS:
            for body in route_dump(link, family, protocol):
                values = attributes(body, RTMSG.size)
                gateway = values.get(RTA_GATEWAY)
                metric = int.from_bytes(values.get(RTA_PRIORITY, b""), sys.byteorder)
                if gateway is not None and metric != without_metric:
                    base = int.from_bytes(values.get(RTA_DST, b""), "big")
                    via = format_ip(family, int.from_bytes(gateway, "big"))
                    found[format_cidr(family, base, RTMSG.unpack_from(body)[1])] = via
    return found
