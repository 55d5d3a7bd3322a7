"""An HTTP/1.1 client: connections with and without TLS, each wait with a deadline.

Importing ``http.client`` takes as long as four starts of the interpreter (``bench/etcd_clients.py``
measures it), and a claim of a directly run plugin would pay for that. An engine needs little: a
status line, headers, a body with a length or in chunks (RFC 9112, sections 4 to 7).

Deadlines are moments of ``time.monotonic()``. A failure is an OSError: TimeoutError after the
deadline, ConnectionError when the peer has gone or does not speak HTTP. A refused certificate is an
EngineDenied. The resolver has its own time limit for a name (resolv.conf(5)); a host that is an
address needs no resolver.
"""

from __future__ import annotations

import time

try:
    # The C half of ``socket``: importing the Python half takes as long as an interpreter's start.
    import _socket as sockets
except ImportError:  # pragma: no cover  # an interpreter without the two halves
    import socket as sockets  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.engines.tls import Link, TlsFiles

_PIECE = 1 << 16
_LONGEST_LINE = 1 << 16  # of a header; far above what servers send
_MOST_HEADERS = 256
_LARGEST_BODY = 64 << 20  # a thousand keys with the largest usual values stay far below
# A connection breaks if its peer acknowledges nothing for this long, even if it is idle. Otherwise
# the kernel would notice only after two hours that a peer was switched off.
_UNACKNOWLEDGED_MS = 5000


class Server:
    """A server's host and port, and whether it speaks TLS; ``text`` names it in messages.

    ``name`` is what its certificate has to be valid for, if that is not the host.
    """

    __slots__ = ("host", "name", "port", "text", "tls")

    def __init__(self, text: str, host: str, port: int, tls: bool, name: str = "") -> None:
        self.text = text
        self.host = host
        self.port = port
        self.tls = tls
        self.name = name or host


def host_and_port(text: str, default: int) -> tuple[str, int] | None:
    """Return host and port of ``host``, ``host:port`` or ``[IPv6]:port``; None for another text."""
    if text.startswith("["):
        host, closed, after = text[1:].partition("]")
        colon, port = after[:1], after[1:]
        wrong = not closed or colon not in {"", ":"}
    else:
        host, colon, port = text.partition(":")
        wrong = ":" in port
    port = port if colon else str(default)
    if (
        wrong
        or not host
        or set(host) & set("/?#@[] ")
        or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16)
    ):
        return None
    return host, int(port)


class WantsTls(ConnectionError):
    """A server that speaks TLS was asked in plain HTTP, and answered as Go's server does."""


class _Plain:
    """A TCP connection with a deadline for each wait."""

    __slots__ = ("_sock",)

    def __init__(self, sock: sockets.socket) -> None:
        self._sock = sock

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of the data."""
        self._sock.settimeout(_left_s(deadline))
        self._sock.sendall(data)

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes, or no bytes when the peer has closed the connection."""
        self._sock.settimeout(_left_s(deadline))
        return self._sock.recv(_PIECE)

    def is_quiet(self) -> bool:
        """Return whether the peer has neither sent anything nor closed the connection."""
        self._sock.settimeout(0)
        try:
            self._sock.recv(1, sockets.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def shut_down(self) -> None:
        """End the connection; a wait for data in another thread ends at once."""
        try:
            self._sock.shutdown(sockets.SHUT_RDWR)
        except OSError:  # it is over already
            return

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class Connection:
    """One connection; not for two threads at a time. ``used_at`` is when it last carried data."""

    def __init__(self, link: Link, server: Server) -> None:
        self.server = server
        self.is_reusable = True
        self.used_at = time.monotonic()
        self._link = link
        self._got = bytearray()
        self._heard = False

    def close(self) -> None:
        """Close the connection; TLS's closing alert is not sent, because nobody waits for it."""
        self._link.close()

    def shut_down(self) -> None:
        """End the connection from another thread; a wait for its data raises OSError at once."""
        self._link.shut_down()

    def idle(self) -> bool:
        """Return whether the connection is open and quiet, so that it can carry a request."""
        return not self._got and self._link.is_quiet()

    def ask(
        self, request: bytes, deadline: float, most: int = _LARGEST_BODY
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return status, headers and body of the answer.

        Any error closes the connection; a body of more than ``most`` bytes is an error.
        ``is_reusable`` says whether the server lets the connection carry another request.
        """
        try:
            status, headers = self.begin(request, deadline)
            body = self.read_body(headers, deadline, most)
        except BaseException:
            self.close()
            raise
        self.is_reusable = headers.get("connection", "").lower() != "close"
        return status, headers, body

    def begin(self, request: bytes, deadline: float) -> tuple[int, dict[str, str]]:
        """Send a request; return status and headers of the answer, names in lower case."""
        self._link.send(request, deadline)
        self.used_at = time.monotonic()
        return self._read_head(deadline)

    def _read_head(self, deadline: float) -> tuple[int, dict[str, str]]:
        while True:
            version, _, rest = self._line(deadline).partition(b" ")
            status = rest[:3]
            if not version.startswith(b"HTTP/1.") or not status.isdigit():
                raise ConnectionError(f"{self.server.text} does not speak HTTP")
            if status == b"400" and version == b"HTTP/1.0" and not self.server.tls:
                raise WantsTls(f"{self.server.text} speaks TLS")
            headers: dict[str, str] = {}
            while line := self._line(deadline):
                name, _, value = line.partition(b":")
                headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
                if len(headers) > _MOST_HEADERS:
                    raise ConnectionError(
                        f"{self.server.text} sends more than {_MOST_HEADERS} headers"
                    )
            if int(status) >= 200:  # 1xx is not the answer yet
                return int(status), headers

    def read_body(
        self, headers: dict[str, str], deadline: float, most: int = _LARGEST_BODY
    ) -> bytes:
        """Return the whole body. Raises ConnectionError when it has more than ``most`` bytes."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            whole = bytearray()
            while (chunk := self.chunk(deadline, most)) is not None:
                whole += chunk
                if len(whole) > most:
                    raise ConnectionError(
                        f"{self.server.text} sends an answer of more than {most} bytes"
                    )
            return bytes(whole)
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > most:
            raise ConnectionError(f"{self.server.text} sends an answer of length {length!r}")
        return self._exactly(int(length), deadline)

    def chunk(self, deadline: float, most: int = _LARGEST_BODY) -> bytes | None:
        """Return the next chunk of a body, None at its end (RFC 9112, section 7.1).

        Can be called again after a TimeoutError.
        """
        while True:
            end = self._got.find(b"\r\n")
            if end >= 0:
                try:
                    size = int(bytes(self._got[:end]).partition(b";")[0], 16)
                except ValueError:
                    size = -1
                if not 0 <= size <= most:
                    raise ConnectionError(
                        f"{self.server.text} sends a chunk without a valid length"
                    )
                if size == 0:
                    del self._got[: end + 2]
                    while self._line(deadline):  # trailers
                        pass
                    return None
                if len(self._got) >= end + 4 + size:
                    chunk = bytes(self._got[end + 2 : end + 2 + size])
                    del self._got[: end + 4 + size]
                    return chunk
            elif len(self._got) > _LONGEST_LINE:
                raise ConnectionError(f"{self.server.text} sends a chunk without a valid length")
            self._fill(deadline)

    def _line(self, deadline: float) -> bytes:
        while (end := self._got.find(b"\n")) < 0:
            if len(self._got) > _LONGEST_LINE:
                text = f"{self.server.text} sends a header of more than {_LONGEST_LINE} bytes"
                raise ConnectionError(text)
            self._fill(deadline)
        line = bytes(self._got[:end]).rstrip(b"\r")
        del self._got[: end + 1]
        return line

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._got) < size:
            self._fill(deadline)
        data = bytes(self._got[:size])
        del self._got[:size]
        return data

    def _fill(self, deadline: float) -> None:
        data = self._link.receive(deadline)
        if not data:
            # A server with TLS closes a connection without TLS and says nothing.
            is_silent = not self.server.tls and not self._heard
            doubt = "; it may need https://" if is_silent else ""
            raise ConnectionResetError(f"{self.server.text} closed the connection{doubt}")
        self._heard = True
        self._got += data
        self.used_at = time.monotonic()


class Lines:
    """The lines of an endless body, such as a watch's. Not for two threads at a time."""

    def __init__(self, connection: Connection, most: int = _LARGEST_BODY) -> None:
        """``most``: the bytes of the longest line that is accepted."""
        self._connection = connection
        self._most = most
        self._rest = b""

    @property
    def has_more(self) -> bool:
        """Whether :meth:`next` returns a line without waiting."""
        return b"\n" in self._rest

    def next(self, deadline: float) -> bytes | None:
        """Return the next line without its line feed, None at the end of the body.

        Can be called again after a TimeoutError. Raises ConnectionError when the body ends within
        a line.
        """
        where = self._connection.server.text
        while not self.has_more:
            if len(self._rest) > self._most:
                raise ConnectionError(f"{where} sends a line of more than {self._most} bytes")
            chunk = self._connection.chunk(deadline)
            if chunk is None:
                if self._rest:
                    raise ConnectionResetError(f"{where} ended within a line")
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def connect(server: Server, files: TlsFiles | None, deadline: float) -> Connection:
    """Open a connection, with TLS if the server speaks it: then ``files`` must not be None.

    Raises OSError; ConfigError for a file that cannot be used.
    """
    if not server.tls:
        return Connection(_Plain(_open(server, deadline)), server)
    from fastipam.cluster.engines.tls import TlsLink

    assert files is not None
    context = files.context()  # before connecting: a bad file is an error even if no server answers
    plain = _Plain(_open(server, deadline))
    try:
        link = TlsLink(plain, server.text)
        link.shake_hands(context, server.name, deadline)
    except BaseException:
        plain.close()
        raise
    return Connection(link, server)


def _open(server: Server, deadline: float) -> sockets.socket:
    """Open a TCP connection to the first of the host's addresses that accepts one."""
    failure: OSError = ConnectionError(f"{server.host} has no address")
    found = _resolve(server, sockets.SOCK_STREAM)
    for at, (family, kind, protocol, _, where) in enumerate(found):
        sock = sockets.socket(family, kind, protocol)
        try:
            # An address that does not answer must leave time for the addresses after it.
            sock.settimeout(_left_s(deadline) / (len(found) - at))
            sock.connect(where)
            sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            for level, option, value in (
                (sockets.IPPROTO_TCP, "TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
                (sockets.IPPROTO_TCP, "TCP_KEEPIDLE", 5),
                (sockets.IPPROTO_TCP, "TCP_KEEPINTVL", 2),
                (sockets.SOL_SOCKET, "SO_KEEPALIVE", 1),
            ):
                if hasattr(sockets, option):  # Linux has them all
                    sock.setsockopt(level, getattr(sockets, option), value)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _resolve(server: Server, kind: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    """Return the host's addresses, as getaddrinfo does. Raises ConnectionError."""
    # Bytes: for a str Python imports a codec, which takes a fifth of an interpreter's start.
    host = server.host.encode() if server.host.isascii() else server.host
    try:
        return sockets.getaddrinfo(host, server.port, 0, kind)  # type: ignore[return-value]
    except sockets.gaierror as error:
        raise ConnectionError(f"{server.host}: {error.strerror}") from error


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the deadline has passed")
    return left_s


def request(
    method: str,
    server: Server,
    path: str,
    headers: Sequence[str],
    body: str = "",
    kind: str = "application/json",
) -> bytes:
    """Return the bytes of a request; ``kind`` is the type of its body, which is ASCII."""
    host = f"[{server.host}]" if ":" in server.host else server.host
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{server.port}"]
    if body:
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join((*lines, *headers, "", body)).encode("ascii")


def local_addresses(server: Server) -> tuple[str, ...]:
    """Return the address from which this machine reaches a server; sends nothing.

    Empty when it is a loopback address or there is no route: other nodes could not use it.
    """
    try:
        family, kind, protocol, _, where = _resolve(server, sockets.SOCK_DGRAM)[0]
        probe = sockets.socket(family, kind, protocol)
        try:
            probe.connect(where)
            found = str(probe.getsockname()[0]).partition("%")[0]
        finally:
            probe.close()
    except (OSError, ValueError):
        return ()
    return () if found == "::1" or found.startswith("127.") else (found,)
