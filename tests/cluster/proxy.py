"""A TCP proxy in front of a member: it cuts, delays, swallows, or plays dead.

``mode`` decides for new and for open connections:

``pass``      carry everything (after ``delay_s``)
``refuse``    close at once, new and open ones
``swallow``   accept, read, and never forward: a half-open connection
``mute``      forward to the member, and swallow its answers: what was asked for is done
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal, Self

    Mode = Literal["pass", "refuse", "swallow", "mute"]


class _End:
    """One side of a carried connection, and what waits to be written to it."""

    def __init__(self, sock: socket.socket, *, member: bool) -> None:
        self.sock = sock
        self.member = member  # the member's side: what comes from it are answers
        self.other: _End | None = None
        self.waiting: deque[tuple[float, bytes]] = deque()


class Proxy:
    """One listening port, one member behind it, one thread; a context manager."""

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server((host, 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.mode: Mode = "pass"
        self.delay_s = 0.0
        self.connections = 0
        self.swallowed = threading.Event()  # bytes were taken that nobody will see
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ends: dict[socket.socket, _End] = {}
        self._cut = threading.Event()
        self._stop = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def endpoint(self) -> str:
        """What a client is given instead of the member's endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all open connections (RST) once; new ones are welcome."""
        self._cut.set()
        self._wake.send(b"x")

    def become(self, mode: Mode) -> None:
        """Change the mode; with ``refuse`` open connections break, too."""
        self.mode = mode
        self._wake.send(b"x")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._wake.send(b"x")
        self._thread.join(10)
        self._selector.close()
        for one in (self._listener, self._wake, self._woken):
            one.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            now = time.monotonic()
            due = [end.waiting[0][0] for end in self._ends.values() if end.waiting]
            timeout = max(0.0, min(due) - now) if due else None
            for key, _ in self._selector.select(timeout):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    if (end := self._ends.get(key.fileobj)) is not None:
                        self._read(end)
            if self._cut.is_set() or self.mode == "refuse":
                self._cut.clear()
                for end in list(self._ends.values()):
                    self._drop(end)
            self._write()
        for end in list(self._ends.values()):
            self._drop(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            self.connections += 1
            if self.mode == "refuse":
                _reset(client)
                return
            one = _End(client, member=False)
            if self.mode != "swallow":
                try:
                    member = socket.create_connection(self._target, 5)
                except OSError:
                    _reset(client)
                    return
                two = _End(member, member=True)
                one.other, two.other = two, one
                self._add(two)
            self._add(one)

    def _add(self, end: _End) -> None:
        self._ends[end.sock] = end
        self._selector.register(end.sock, selectors.EVENT_READ)

    def _read(self, end: _End) -> None:
        try:
            data = end.sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._drop(end)
        elif self.mode == "swallow" or (self.mode == "mute" and end.member):
            self.swallowed.set()
        elif end.other is not None:
            end.other.waiting.append((time.monotonic() + self.delay_s, data))

    def _write(self) -> None:
        now = time.monotonic()
        for end in list(self._ends.values()):
            while end.waiting and end.waiting[0][0] <= now:
                _, data = end.waiting.popleft()
                try:
                    end.sock.sendall(data)
                except OSError:
                    self._drop(end)
                    break

    def _drop(self, end: _End) -> None:
        for one in (end, end.other):
            if one is not None and self._ends.pop(one.sock, None) is not None:
                self._selector.unregister(one.sock)
                _reset(one.sock)


def _reset(sock: socket.socket) -> None:
    """Close with RST: what is on its way is lost, as when a machine dies."""
    with contextlib.suppress(OSError):
        linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()
