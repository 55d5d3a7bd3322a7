"""The kernel's notifications of changes that concern the routes between nodes."""

from __future__ import annotations

import errno
import socket

from fastipam import rtnetlink
from fastipam.cluster.routing.table import PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# RTMGRP_LINK, and the groups for the addresses (IFADDR) and routes of both families.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_RECEIVE_BYTES = 1 << 20  # a pod's start makes ten events
_MOST_BYTES = 1 << 16
_LINKS = (rtnetlink.RTM_NEWLINK, rtnetlink.RTM_DELLINK)
_ADDRESSES = (rtnetlink.RTM_NEWADDR, rtnetlink.RTM_DELADDR)
_ROUTES = (rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE)


class Heard:
    """The changes since the last read.

    ``compare``: the routes may have changed. ``by`` is the netlink port id of the socket that has
    changed them (usually the process id), or 0.
    ``links``: an interface or an address was changed somewhere.
    """

    __slots__ = ("by", "compare", "links")

    def __init__(self) -> None:
        self.compare = self.links = False
        self.by = 0


class Events:
    """The notifications of this thread's network namespace. The constructor raises OSError."""

    def __init__(self) -> None:
        self._link = rtnetlink.open_link(_GROUPS)
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._link.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._link.fileno()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._link.close()

    def read(self, interfaces: Collection[int], own_port: int) -> Heard:
        """Return the changes since the last call; never waits.

        ``interfaces`` has the numbers of the interfaces that the routes use. A change by the socket
        with the port ``own_port`` is ignored. When the kernel has dropped events, the result says
        that everything may have changed.
        """
        heard = Heard()
        while True:
            try:
                data = self._link.recv(_MOST_BYTES)
            except BlockingIOError:
                return heard
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                heard.compare = heard.links = True
                continue
            for kind, _, _, port, body in rtnetlink.messages(data):
                self._note(heard, kind, port, body, interfaces, own_port)

    @staticmethod
    def _note(
        heard: Heard,
        kind: int,
        port: int,
        body: bytes,
        interfaces: Collection[int],
        own_port: int,
    ) -> None:
        if kind in _LINKS:
            heard.links = True
            heard.compare |= rtnetlink.IFINFO.unpack_from(body)[2] in interfaces
        elif kind in _ADDRESSES:
            heard.links = True
            heard.compare |= rtnetlink.IFADDR.unpack_from(body)[4] in interfaces
        elif kind in _ROUTES:
            _, _, _, _, table, protocol, _, _, _ = rtnetlink.RTMSG.unpack_from(body)
            is_ours = (table, protocol) == (rtnetlink.MAIN_TABLE, PROTOCOL)
            if is_ours and port != own_port:
                heard.compare, heard.by = True, port
