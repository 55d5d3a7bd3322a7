"""An HTTPS server that answers each request with the next scene of a script, faults included."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


@dataclass(frozen=True)
class Request:
    """A request as it came: names of headers in small letters."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Cut(Exception):
    """A scene raises it to break the connection."""


Scene = bytes | Callable[["Line", Request], object]


def answer(status: int, body: object = "", **headers: str) -> bytes:
    """An answer with a length; a body that is no bytes and no text is sent as JSON."""
    text = body if isinstance(body, (bytes, str)) else json.dumps(body)
    raw = text if isinstance(text, bytes) else text.encode()
    fields = {"Content-Length": str(len(raw)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + raw


def refusal(code: int, reason: str, message: str = "no", **details: object) -> bytes:
    """An answer with a Status of the API server."""
    return answer(code, status_of(code, reason, message, **details))


def status_of(code: int, reason: str, message: str = "no", **details: object) -> dict[str, Any]:
    """A Status of the API server."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }


STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A chunk of a body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def events(*found: tuple[str, dict[str, Any]], end: bool = True) -> bytes:
    """A watch with these events, each in a chunk of its own; it ends unless told otherwise."""
    lines = (json.dumps({"type": kind, "object": one}).encode() + b"\n" for kind, one in found)
    return STREAM + b"".join(map(chunk, lines)) + (chunk(b"") if end else b"")


class Line:
    """One connection, for a scene that does more than to answer."""

    def __init__(self, sock: ssl.SSLSocket | socket.socket, over: threading.Event) -> None:
        self._sock = sock
        self.over = over  # set when the server ends

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._sock.sendall(data)

    def slowly(self, data: bytes, pause_s: float) -> None:
        """Send byte by byte until the peer has had enough."""
        for at in range(len(data)):
            self._sock.sendall(data[at : at + 1])
            if self.over.wait(pause_s):
                raise Cut

    def hang(self, seconds: float = 60.0) -> None:
        """Send nothing for so long, or until the server ends."""
        self.over.wait(seconds)
        raise Cut


def silence(line: Line, request: Request) -> None:
    """A scene without an answer."""
    del request
    line.hang()


def cut(line: Line, request: Request) -> None:
    """A scene that breaks the connection instead of answering."""
    del line, request
    raise Cut


class Scripted:
    """The server; a context manager. Without a certificate it speaks plain HTTP."""

    def __init__(
        self, certificate: str, *scenes: Scene, host: str = "127.0.0.1", authority: str = ""
    ) -> None:
        """``authority``: clients have to show a certificate of it."""
        self.requests: list[Request] = []
        self.connections = 0
        self.scenes = deque(scenes)
        self.certificate = certificate
        self.authority = authority
        self._over = threading.Event()
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._threads: list[threading.Thread] = []
        port = self._listener.getsockname()[1]
        self.port: int = port
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if certificate else 'http'}://{shown}:{port}"

    def play(self, *scenes: Scene) -> None:
        """Add scenes to the script."""
        with self._lock:
            self.scenes.extend(scenes)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._threads:
            one.join(20)
            assert not one.is_alive(), "a client holds a connection open that it should have closed"

    def _start(self, run: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        try:
            if self.certificate:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.certificate)
                if self.authority:
                    context.verify_mode = ssl.CERT_REQUIRED
                    context.load_verify_locations(self.authority)
                sock = context.wrap_socket(sock, server_side=True)
            for request in _requests(sock, self._over):
                with self._lock:
                    self.requests.append(request)
                    scene = self.scenes.popleft() if self.scenes else None
                if scene is None:
                    sock.sendall(answer(418, "the script is at its end"))
                elif isinstance(scene, bytes):
                    sock.sendall(scene)
                else:
                    scene(Line(sock, self._over), request)
        except (OSError, Cut):
            pass
        finally:
            sock.close()


def _requests(sock: socket.socket, over: threading.Event) -> Iterator[Request]:
    """Yield the requests on a connection until it ends."""
    got = b""
    sock.settimeout(0.2)

    def more() -> bytes:
        while not over.is_set():
            try:
                return sock.recv(1 << 16)
            except TimeoutError:
                continue
        return b""

    while True:
        while b"\r\n\r\n" not in got:
            data = more()
            if not data:
                return
            got += data
        head, _, got = got.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        size = int(headers.get("content-length", 0))
        while len(got) < size:
            data = more()
            if not data:
                return
            got += data
        method, target, _ = first.split(" ")
        yield Request(method, target, headers, got[:size])
        got = got[size:]
