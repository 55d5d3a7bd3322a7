"""The addresses and routes of this thread's network namespace, by rtnetlink(7)."""

from __future__ import annotations

import socket
from struct import Struct

from fastipam.addressing.addresses import format_cidr, format_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = Struct("=IHHII")  # struct nlmsghdr
_REQUEST = Struct("=B11x")  # struct rtmsg; ifaddrmsg is shorter, and begins with the family, too
_IFADDR = Struct("=BBBBI")
_RTMSG = Struct("=BBBBBBBBI")
_ATTRIBUTE = Struct("=HH")
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_DONE, _NLMSG_ERROR = 3, 2
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_GATEWAY = 1, 5
_MAIN_TABLE = 254
_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
_ANSWER_BYTES = 1 << 16


def addresses() -> list[tuple[int, int]]:
    """Return (family, integer) of every address of every interface. Raises OSError."""
    found = []
    for message in _dump(_RTM_GETADDR, _RTM_NEWADDR):
        family = _FAMILIES.get(_IFADDR.unpack_from(message)[0])
        values = _attributes(message, _IFADDR.size)
        # IFA_LOCAL is the interface's own; on a point-to-point link IFA_ADDRESS is the peer's.
        raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if family is not None and raw is not None:
            found.append((family, int.from_bytes(raw, "big")))
    return found


def routes(protocol: int) -> dict[str, str]:
    """Return (prefix -> gateway) of the main table's routes of a protocol. Raises OSError."""
    found = {}
    for message in _dump(_RTM_GETROUTE, _RTM_NEWROUTE):
        address_family, length, _, _, table, its_protocol, _, _, _ = _RTMSG.unpack_from(message)
        family = _FAMILIES.get(address_family)
        values = _attributes(message, _RTMSG.size)
        gateway = values.get(_RTA_GATEWAY)
        if family is None or gateway is None or (table, its_protocol) != (_MAIN_TABLE, protocol):
            continue
        base = int.from_bytes(values.get(_RTA_DST, b""), "big")
        via = format_ip(family, int.from_bytes(gateway, "big"))
        found[format_cidr(family, base, length)] = via
    return found


def _dump(request: int, answer: int) -> Iterator[bytes]:
    """Yield the body of each message of a dump."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        body = _REQUEST.pack(0)
        size = _HEADER.size + len(body)
        link.send(_HEADER.pack(size, request, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        while True:
            data = link.recv(_ANSWER_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise OSError("the kernel does not list addresses and routes")
                if kind == answer:
                    yield data[at + _HEADER.size : at + length]
                at += length + 3 & ~3


def _attributes(message: bytes, at: int) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        values[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return values
