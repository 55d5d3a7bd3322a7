"""The kernel's routes of fastipam's protocol: read, set and delete them with rtnetlink(7).

The machine's other routes are neither read nor changed: fastipam's routes have metrics of their
own, and a new route replaces only one with the same prefix and metric.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from fastipam import rtnetlink
from fastipam.addressing.addresses import BITS, format_cidr, format_ip
from fastipam.cluster.routing.table import PROTOCOL
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from fastipam.cluster.routing.table import Address, Prefix

# The metric of a route to a gateway. A route that an operator has added for the same prefix has by
# default 0 (IPv4) or 1024 (IPv6), and wins.
GATEWAY_METRIC = 1470
# The metric of an unreachable route. It is another one, so that when a block changes hands the new
# route can be set before the route of the other kind is deleted.
REJECT_METRIC = 14700
_BATCH = 64  # the answers to so many requests fit into the smallest receive buffer
_RECEIVE_BYTES = 1 << 20
_PATIENCE_S = 10.0  # the kernel answers at once, unless another process holds its routing lock
_ANSWER_BYTES = 1 << 16
_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)  # the route to delete does not exist
# NLM_F_CAPPED and NLM_F_ACK_TLVS: after the head of the request come attributes, one of which is
# the reason in words (NLMSGERR_ATTR_MSG).
_HAS_WORDS = 0x100 | 0x200
_WORDS = 1
_RT_SCOPE_NOWHERE = 255


class Route(NamedTuple):
    """A route of fastipam's protocol in the main table.

    ``gateway`` is None for an unreachable route, and 0 for a route of another kind, which fastipam
    did not set.
    """

    family: int
    base: int
    length: int
    gateway: int | None
    metric: int

    @property
    def prefix(self) -> str:
        """The destination as a CIDR."""
        return format_cidr(self.family, self.base, self.length)

    def __str__(self) -> str:
        if self.gateway is None:
            return f"unreachable {self.prefix}"
        return f"{self.prefix} via {format_ip(self.family, self.gateway)}"


def via(prefix: Prefix, gateway: int) -> Route:
    """Return the route of a prefix to a gateway of the same family."""
    return Route(*prefix, gateway, GATEWAY_METRIC)


def unreachable(prefix: Prefix) -> Route:
    """Return the route by which packets for a prefix are answered with ICMP unreachable."""
    return Route(*prefix, None, REJECT_METRIC)


def is_own(route: Route) -> bool:
    """Return whether a route looks like one that this module sets."""
    return route in (via(route[:3], route.gateway or 0), unreachable(route[:3])) and (
        route.gateway != 0
    )


class Hop(NamedTuple):
    """How the kernel reaches an address.

    ``interface`` is the number of the interface on whose link the address is, or 0 when there is
    none. Then ``problem`` says why, and ``gateway`` is the address of the router that leads there,
    if one does.
    """

    interface: int = 0
    gateway: str = ""
    problem: str = ""


class Kernel:
    """The routing tables of this thread's network namespace; for one thread.

    Each method raises OSError when the kernel does not answer; call :meth:`reopen` then.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._link = self._open()

    @staticmethod
    def _open() -> socket.socket:
        import socket

        link = rtnetlink.open_link()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        link.settimeout(_PATIENCE_S)
        return link

    @property
    def port(self) -> int:
        """The netlink port of this socket, by which a notification names the author of a change."""
        return int(self._link.getsockname()[0])

    def reopen(self) -> None:
        """Open a new socket after an OSError; answers to earlier requests are lost."""
        self._link.close()
        self._link = self._open()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require_rights(self, asked: str = "host-gw") -> None:
        """Raise ConfigError unless this process may change routes, for --routes ``asked``.

        Changes nothing.
        """
        nobody = Route(4, 0, BITS[4], None, REJECT_METRIC)  # 0.0.0.0/32, which no pool holds
        for _, number, text in self._ask([_request(rtnetlink.RTM_DELROUTE, 0, nobody)]):
            if number in (errno.EPERM, errno.EACCES):
                raise ConfigError(
                    f"this process may not change the machine's routes: {text}",
                    field="--routes",
                    value=asked,
                    hint="run as root with the capability NET_ADMIN, or type --routes none",
                )

    def installed(self) -> list[Route]:
        """Return the routes of fastipam's protocol that the kernel has. O(these routes)."""
        return [
            _read(family, body)
            for family in rtnetlink.NUMBERS
            for body in rtnetlink.route_dump(self._link, family, PROTOCOL)
        ]

    def replace(self, routes: Sequence[Route]) -> list[tuple[Route, int, str]]:
        """Set these routes; each replaces the route with the same prefix and metric, if any.

        Returns (route, errno, reason) of each route that the kernel has refused.
        """
        flags = rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_REPLACE
        asked = [_request(rtnetlink.RTM_NEWROUTE, flags, one) for one in routes]
        return [(routes[at], number, text) for at, number, text in self._ask(asked)]

    def delete(self, routes: Sequence[Route]) -> list[tuple[Route, int, str]]:
        """Delete these routes; a route that is gone already is no error.

        Returns (route, errno, reason) of each route that the kernel has refused to delete.
        """
        asked = [_request(rtnetlink.RTM_DELROUTE, 0, one) for one in routes]
        return [
            (routes[at], number, text)
            for at, number, text in self._ask(asked)
            if number not in _GONE
        ]

    def look_up(self, addresses: Iterable[Address]) -> dict[Address, Hop]:
        """Return how the kernel reaches each of these addresses."""
        wanted = list(addresses)
        asked = [(rtnetlink.RTM_GETROUTE, 0, _question(*one)) for one in wanted]
        found: dict[Address, Hop] = {}
        for at, answer in self._answers(asked):
            number, reason = answer.failure()
            found[wanted[at]] = Hop(problem=reason) if number else _hop(answer.body)
        return found

    def _ask(self, asked: Sequence[tuple[int, int, bytes]]) -> Iterator[tuple[int, int, str]]:
        """Request changes; yield (index, errno, reason) of each change that was refused."""
        for at, answer in self._answers(
            [(kind, flags | rtnetlink.NLM_F_ACK, body) for kind, flags, body in asked]
        ):
            number, reason = answer.failure()
            if number:
                yield at, number, reason

    def _answers(self, asked: Sequence[tuple[int, int, bytes]]) -> Iterator[tuple[int, _Answer]]:
        """Send requests in batches; yield (index, answer) for each request."""
        for first in range(0, len(asked), _BATCH):
            batch = asked[first : first + _BATCH]
            begin = self._sequence + 1
            self._sequence += len(batch)
            self._link.send(
                b"".join(
                    rtnetlink.message(kind, flags, begin + at, body)
                    for at, (kind, flags, body) in enumerate(batch)
                )
            )
            left = len(batch)
            while left:
                data = self._link.recv(_ANSWER_BYTES)
                for kind, flags, sequence, _, body in rtnetlink.messages(data):
                    if begin <= sequence < begin + len(batch):
                        left -= 1
                        yield first + sequence - begin, _Answer(kind, flags, body)


class _Answer(NamedTuple):
    """The kernel's answer to one request."""

    kind: int
    flags: int
    body: bytes

    def failure(self) -> tuple[int, str]:
        """Return errno and reason, or (0, "") when the request was successful."""
        if self.kind != rtnetlink.NLMSG_ERROR:
            return 0, ""
        number = -int.from_bytes(self.body[:4], sys.byteorder, signed=True)
        text = ""
        if self.flags & _HAS_WORDS == _HAS_WORDS:
            words = rtnetlink.attributes(self.body, 4 + rtnetlink.HEADER.size)
            text = words.get(_WORDS, b"").rstrip(b"\0").decode("ascii", "replace")
        return number, (text or os.strerror(number)) if number else ""


def remove_all() -> int:
    """Delete every route of fastipam's protocol in this network namespace; return how many.

    This is for removing fastipam from a machine. Raises OSError, PermissionError without NET_ADMIN.
    """
    with Kernel() as kernel:
        there = kernel.installed()
        for route, number, text in kernel.delete(there):
            raise OSError(number, f"the route {route} cannot be deleted: {text}")
        return len(there)


def _request(kind: int, flags: int, route: Route) -> tuple[int, int, bytes]:
    """Return (type, flags, body) of the request to add or delete a route."""
    family, base, length, gateway, metric = route
    what = rtnetlink.RTN_UNREACHABLE if gateway is None else rtnetlink.RTN_UNICAST
    scope = 0
    if kind == rtnetlink.RTM_DELROUTE:  # delete the route whatever its type and scope are
        what, scope = 0, _RT_SCOPE_NOWHERE
    head = (rtnetlink.NUMBERS[family], length, 0, 0, rtnetlink.MAIN_TABLE, PROTOCOL, scope, what, 0)
    body = rtnetlink.RTMSG.pack(*head) + _destination(family, base)
    body += rtnetlink.attribute(rtnetlink.RTA_PRIORITY, rtnetlink.NUMBER.pack(metric))
    if gateway:
        raw = gateway.to_bytes(BITS[family] // 8, "big")
        body += rtnetlink.attribute(rtnetlink.RTA_GATEWAY, raw)
    return kind, flags, body


def _question(family: int, value: int) -> bytes:
    """Return the body of the request that asks how an address is reached."""
    head = (rtnetlink.NUMBERS[family], BITS[family], 0, 0, 0, 0, 0, 0, 0)
    return rtnetlink.RTMSG.pack(*head) + _destination(family, value)


def _destination(family: int, value: int) -> bytes:
    return rtnetlink.attribute(rtnetlink.RTA_DST, value.to_bytes(BITS[family] // 8, "big"))


def _read(family: int, body: bytes) -> Route:
    """Return a route as the kernel lists it."""
    _, length, _, _, _, _, _, kind, _ = rtnetlink.RTMSG.unpack_from(body)
    values = rtnetlink.attributes(body, rtnetlink.RTMSG.size)
    gateway: int | None = 0
    if kind == rtnetlink.RTN_UNREACHABLE:
        gateway = None
    elif kind == rtnetlink.RTN_UNICAST and not values.keys() & _SEVERAL:
        gateway = int.from_bytes(values.get(rtnetlink.RTA_GATEWAY, b""), "big")
    return Route(
        family,
        int.from_bytes(values.get(rtnetlink.RTA_DST, b""), "big"),
        length,
        gateway,
        int.from_bytes(values.get(rtnetlink.RTA_PRIORITY, b""), sys.byteorder),
    )


_SEVERAL = {rtnetlink.RTA_MULTIPATH, rtnetlink.RTA_NH_ID}


def _hop(body: bytes) -> Hop:
    """Return how an address is reached, from the kernel's answer."""
    number, _, _, _, _, _, _, kind, _ = rtnetlink.RTMSG.unpack_from(body)
    values = rtnetlink.attributes(body, rtnetlink.RTMSG.size)
    if kind == rtnetlink.RTN_LOCAL:
        return Hop(problem="it is an address of this machine")
    if kind != rtnetlink.RTN_UNICAST:
        return Hop(problem=os.strerror(errno.EHOSTUNREACH))
    raw = values.get(rtnetlink.RTA_GATEWAY, b"")
    if by_other := values.get(rtnetlink.RTA_VIA):  # an IPv6 router on the way to an IPv4 address
        number, raw = int.from_bytes(by_other[:2], sys.byteorder), by_other[2:]
    if raw:
        gateway = format_ip(rtnetlink.FAMILIES[number], int.from_bytes(raw, "big"))
        return Hop(gateway=gateway, problem="the kernel's route to it has a gateway")
    return Hop(int.from_bytes(values.get(rtnetlink.RTA_OIF, b""), sys.byteorder))
