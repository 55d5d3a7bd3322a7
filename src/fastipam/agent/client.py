"""A connection to the agent: the received part of a request, and the unsent part of an answer."""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from typing import TYPE_CHECKING

from fastipam._ledger import take_frame
from fastipam.agent import protocol
from fastipam.agent.requests import Request

if TYPE_CHECKING:
    from fastipam.agent.lanes import Ticket


class Client:
    """A connection: the received part of a request, and the unsent part of an answer.

    ``descriptor`` does not block. It belongs to this object, and :meth:`close` closes it.
    """

    __slots__ = (
        "arrived_ns", "asked", "awaited", "deadline", "descriptor", "failed", "incoming", "lock",
        "outgoing", "peer", "ticket",
    )  # fmt: skip

    def __init__(self, descriptor: int, peer: int) -> None:
        self.descriptor = descriptor
        self.peer = peer
        self.deadline = 0.0
        self.awaited: int | None = None  # the events that epoll reports; None: not registered
        self.incoming = bytearray()
        self.outgoing = b""
        self.failed = False  # an answer could not be written
        # Held to write an answer and to close: after close() the kernel may give the descriptor
        # to another client.
        self.lock = allocate_lock()
        self.asked = False  # the client has sent a whole request
        self.ticket: Ticket | None = None  # of the request that is being served
        # The first request is timed from the connection: the launcher reads its input after that.
        self.arrived_ns = time.time_ns()

    def send(self) -> None:
        """Send the rest of an answer, or as much of it as the client reads now."""
        try:
            while self.outgoing:
                sent = os.write(self.descriptor, self.outgoing)
                self.outgoing = self.outgoing[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.failed = True

    def close(self) -> None:
        """Close the connection. An answer that comes after that is not sent."""
        with self.lock:
            self.outgoing = b""
            self.incoming.clear()
            if self.ticket is not None:
                self.ticket.dropped = True
            os.close(self.descriptor)

    def take_request(self) -> Request | None:
        """Return the next complete request, or None. Raises ProtocolError."""
        request = take_frame(self.incoming, Request, self.peer, self.arrived_ns)
        if request is None:
            if len(self.incoming) >= protocol.REQUEST.size:
                protocol.request_size(self.incoming[: protocol.REQUEST.size])
            return None
        self.asked = True
        self.arrived_ns = 0
        return request
