"""Accept HTTP connections and read the heads of their requests, in one thread for all of them.

A connection uses no thread until its request has arrived. The number of these silent connections is
limited, in all and for each client address: the oldest is closed to make room for a new one.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_SILENT = 128  # connections whose request has not arrived yet
MOST_SILENT_OF_AN_ADDRESS = 32
_LARGEST_HEAD = 1 << 17  # bytes; the handler refuses a line above 64 KiB, and more than 100 lines
_CHUNK = 1 << 16
_ACCEPT_AGAIN_S = 0.1  # before a retry when accept has failed, for example without descriptors


class Connection(NamedTuple):
    """A connection: its address, the deadline for its head, and the bytes received so far."""

    socket: socket.socket
    address: Any
    until: float
    head: bytearray

    @property
    def host(self) -> str:
        """The client's address without its port."""
        return str(self.address[0])


class Heads:
    """Reads the heads of requests: :meth:`run` hands each connection with a head to ``serve``.

    ``serve`` gets the connection in blocking mode. ``seconds`` returns how long a client may take
    to send a head.
    """

    def __init__(
        self,
        listener: socket.socket,
        serve: Callable[[Connection], object],
        seconds: Callable[[], float],
    ) -> None:
        self._listener = listener
        self._serve = serve
        self._seconds = seconds
        self._silent: OrderedDict[int, Connection] = OrderedDict()  # the oldest first
        self._addresses: Counter[str] = Counter()
        self._accept_at = 0.0
        self._stopped = False
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Accept connections and read heads until :meth:`stop`."""
        while not self._stopped:
            for key, _ in self._selector.select(self._timeout()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd in self._silent:
                    self._read(self._silent[key.fd])
            now = time.monotonic()
            while self._silent and (first := next(iter(self._silent.values()))).until <= now:
                self._close(first)
            if self._accept_at and now >= self._accept_at:
                self._accept_at = 0.0
                self._selector.register(self._listener, selectors.EVENT_READ)
        for connection in list(self._silent.values()):
            self._close(connection)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def stop(self) -> None:
        """Make :meth:`run`, in its thread, close the silent connections and return."""
        self._stopped = True
        with suppress(OSError):
            self._wake_write.send(b".")

    def _timeout(self) -> float | None:
        """Return the seconds until the next deadline, or None when there is none."""
        due = [first.until for first in self._silent.values()][:1]
        if self._accept_at:
            due.append(self._accept_at)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _accept(self) -> None:
        try:
            accepted, address = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # pause: select would report the waiting connection again at once
            self._selector.unregister(self._listener)
            self._accept_at = time.monotonic() + _ACCEPT_AGAIN_S
            return
        accepted.setblocking(False)
        until = time.monotonic() + self._seconds()
        connection = Connection(accepted, address, until, bytearray())
        self._silent[accepted.fileno()] = connection
        self._addresses[connection.host] += 1
        self._selector.register(accepted, selectors.EVENT_READ)
        if self._addresses[connection.host] > MOST_SILENT_OF_AN_ADDRESS:
            own = (one for one in self._silent.values() if one.host == connection.host)
            self._close(next(own))
        elif len(self._silent) > MOST_SILENT:
            self._close(next(iter(self._silent.values())))

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        head = connection.head
        head += data
        if not head:  # the client closed the connection without sending anything
            self._close(connection)
        elif not data or _is_complete(head) or len(head) > _LARGEST_HEAD:
            self._forget(connection)
            connection.socket.setblocking(True)
            self._serve(connection)

    def _forget(self, connection: Connection) -> None:
        descriptor = connection.socket.fileno()
        self._selector.unregister(connection.socket)
        del self._silent[descriptor]
        self._addresses[connection.host] -= 1
        if not self._addresses[connection.host]:
            del self._addresses[connection.host]

    def _close(self, connection: Connection) -> None:
        self._forget(connection)
        connection.socket.close()


def _is_complete(head: bytearray) -> bool:
    return b"\r\n\r\n" in head or b"\n\n" in head
