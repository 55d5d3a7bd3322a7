"""HTTP/1.1 connections to etcd's JSON gateway, with and without TLS, each wait with a deadline.

``http.client`` would do it, and costs four interpreter starts to import (``bench/etcd_clients.py``
measures it); a claim made by a directly run plugin pays that. What etcd's gateway answers needs
little: a status line, headers, a body with a length or in chunks (RFC 9112, sections 4 to 7).

Deadlines are moments of ``time.monotonic()``. Every failure is an OSError: TimeoutError when the
deadline has passed, ConnectionError when the peer has gone or speaks something else. Only a name is
looked up in the resolver's own time (resolv.conf(5)); an endpoint that is an address needs none.
"""

from __future__ import annotations

import time

from fastipam.errors import ConfigError

try:
    # The C half of ``socket``: the other half draws in selectors and enum, an interpreter's start.
    import _socket as sockets
except ImportError:  # pragma: no cover  # an interpreter that has it in one piece
    import socket as sockets  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["Address", "Connection", "Tls", "connect", "parse_endpoint"]

_PIECE = 1 << 16
_LONGEST_LINE = 1 << 16  # of a header; etcd's own limit is larger than anything it sends
_LARGEST_BODY = 64 << 20  # a thousand keys with etcd's largest usual values stay far below
# Data that nobody acknowledges for this long breaks the connection, idle ones included: a peer that
# was switched off is noticed long before the kernel's two hours.
_UNACKNOWLEDGED_MS = 5000
_DEFAULT_PORT = 2379


class Address:
    """Where a member listens: ``text`` as it was configured, host, port, TLS or not."""

    __slots__ = ("host", "port", "text", "tls")

    def __init__(self, text: str, host: str, port: int, tls: bool) -> None:
        self.text = text
        self.host = host
        self.port = port
        self.tls = tls


def parse_endpoint(text: str, *, tls: bool = False) -> Address:
    """``http://host:port``, ``https://…`` or ``host:port`` (``tls`` decides); the port is 2379.

    Raises ConfigError, which names the endpoint.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "https" if tls else "http", text
    rest = rest.rstrip("/")
    if rest.startswith("["):
        host, closed, after = rest[1:].partition("]")
        colon, port = after[:1], after[1:]
        wrong = not closed or colon not in {"", ":"}
    else:
        host, colon, port = rest.partition(":")
        wrong = ":" in port
    port = port if colon else str(_DEFAULT_PORT)
    if (
        wrong
        or scheme not in {"http", "https"}
        or not host
        or set(host) & set("/?#@[] ")
        or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16)
    ):
        raise ConfigError(
            f"endpoint {text!r} is not of the form https://host:port",
            field="endpoints",
            value=text,
        )
    return Address(text, host, int(port), scheme == "https")


class Tls:
    """What a client needs for TLS; the context is made when it is first used.

    ``ca``: a file of certificates to trust (empty: the system's). ``cert`` and ``key``: this
    client's own, for mutual TLS; the key may be in the certificate's file.
    """

    def __init__(self, ca: str = "", cert: str = "", key: str = "") -> None:
        if key and not cert:
            raise ConfigError(f"there is a key, {key!r}, without its cert", field="key", value=key)
        self._files = (ca, cert, key)
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """The context. Raises ConfigError for a file that cannot be used."""
        if self._context is None:
            import ssl

            ca, cert, key = self._files
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
            try:
                if ca:
                    context.load_verify_locations(ca)
                else:
                    context.load_default_certs()
            except OSError as error:
                raise _unusable("ca", ca, error) from error
            try:
                if cert:
                    # Without a password function OpenSSL would ask on the terminal.
                    context.load_cert_chain(cert, key or None, password=lambda: b"")
            except OSError as error:
                raise _unusable("key" if key else "cert", f"{cert} {key}".strip(), error) from error
            self._context = context
        return self._context


def _unusable(field: str, value: str, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(f"{field} {value!r} cannot be used: {reason}", field=field, value=value)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


def _open(address: Address, deadline: float) -> sockets.socket:
    """A TCP connection to the first of the host's addresses that takes one."""
    try:
        # As bytes: for a text Python loads its encoding of international names, a fifth of a start.
        host = address.host.encode() if address.host.isascii() else address.host
        found = sockets.getaddrinfo(host, address.port, 0, sockets.SOCK_STREAM)
    except sockets.gaierror as error:
        raise ConnectionError(f"{address.host}: {error.strerror}") from error
    failure: OSError = ConnectionError(f"{address.host} has no address")
    for at, (family, kind, protocol, _, where) in enumerate(found):
        sock = sockets.socket(family, kind, protocol)
        try:
            # One that is not answered must not take the time of those after it.
            sock.settimeout(_left(deadline) / (len(found) - at))
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


class Connection:
    """One connection; not for two threads at a time. ``used_at`` is when it last carried data."""

    def __init__(self, sock: sockets.socket, address: Address) -> None:
        self.address = address
        self.used_at = time.monotonic()
        self._sock = sock
        self._tls: ssl.SSLObject | None = None
        self._got = bytearray()
        self._heard = False

    def start_tls(self, tls: Tls, deadline: float) -> None:
        """Shake hands; the certificate must be valid for the host."""
        import ssl

        context = tls.context()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=self.address.host)
        try:
            self._pump(self._tls.do_handshake, deadline)
        except ConnectionResetError as error:
            raise ConnectionResetError(
                f"{self.address.text} hangs up on TLS, it may want http://"
            ) from error

    def close(self) -> None:
        """Close it; without TLS's farewell, which nobody waits for."""
        self._sock.close()

    def idle(self) -> bool:
        """Whether it still is there, and quiet: what the peer has closed is not to be used."""
        if self._got:
            return False
        self._sock.settimeout(0)
        try:
            self._sock.recv(1, sockets.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send(self, data: bytes, deadline: float) -> None:
        """Hand all of it to the kernel."""
        tls = self._tls
        if tls is None:
            self._send(data, deadline)
        else:
            rest = memoryview(data)
            while rest:
                view = rest
                rest = rest[self._pump(lambda view=view: tls.write(view), deadline) :]  # type: ignore[misc]

    def read_head(self, deadline: float) -> tuple[int, dict[str, str]]:
        """Status and headers (names in small letters) of the answer."""
        while True:
            version, _, rest = self._line(deadline).partition(b" ")
            status = rest[:3]
            if not version.startswith(b"HTTP/1.") or not status.isdigit():
                raise ConnectionError(f"{self.address.text} does not speak HTTP")
            headers: dict[str, str] = {}
            while line := self._line(deadline):
                name, _, value = line.partition(b":")
                headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
            if int(status) >= 200:  # 1xx is not the answer yet
                return int(status), headers

    def read_body(self, headers: dict[str, str], deadline: float) -> bytes:
        """All of the body."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            whole = bytearray()
            for chunk in self.chunks(deadline):
                whole += chunk
                if len(whole) > _LARGEST_BODY:
                    raise ConnectionError(f"{self.address.text} sends an endless answer")
            return bytes(whole)
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > _LARGEST_BODY:
            raise ConnectionError(f"{self.address.text} sends an answer of length {length!r}")
        return self._exactly(int(length), deadline)

    def chunks(self, deadline: float) -> Iterator[bytes]:
        """The chunks of a body, as they come, until its end (RFC 9112, section 7.1)."""
        while True:
            if (chunk := self.chunk(deadline)) is None:
                return
            yield chunk

    def chunk(self, deadline: float) -> bytes | None:
        """The next chunk, None at the end; after a TimeoutError it can be asked for again."""
        while True:
            end = self._got.find(b"\r\n")
            if end >= 0:
                try:
                    size = int(bytes(self._got[:end]).partition(b";")[0], 16)
                except ValueError:
                    size = -1
                if not 0 <= size <= _LARGEST_BODY:
                    raise ConnectionError(f"{self.address.text} sends a chunk of no length")
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
                raise ConnectionError(f"{self.address.text} sends a chunk of no length")
            self._fill(deadline)

    def _line(self, deadline: float) -> bytes:
        while (end := self._got.find(b"\n")) < 0:
            if len(self._got) > _LONGEST_LINE:
                raise ConnectionError(f"{self.address.text} sends an endless header")
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
        tls = self._tls
        if tls is None:
            data = self._receive(deadline)
        else:
            data = self._pump(lambda: tls.read(_PIECE), deadline)
        if not data:
            # A member with TLS hangs up on plain HTTP without a word.
            silent = tls is None and not self._heard
            doubt = ", it may want https://" if silent else ""
            raise ConnectionResetError(f"{self.address.text} closed the connection{doubt}")
        self._heard = True
        self._got += data
        self.used_at = time.monotonic()

    def _send(self, data: bytes, deadline: float) -> None:
        self._sock.settimeout(_left(deadline))
        self._sock.sendall(data)
        self.used_at = time.monotonic()

    def _receive(self, deadline: float) -> bytes:
        self._sock.settimeout(_left(deadline))
        return self._sock.recv(_PIECE)

    def _pump(self, step: Callable[[], T], deadline: float) -> T:
        """Do one step of TLS, carrying its bytes between memory and socket as long as it wants."""
        import ssl

        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                wants = True
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
                raise ConnectionResetError(f"{self.address.text} ended TLS") from error
            except ssl.SSLError:
                self._flush(deadline)  # the alert that tells the peer why
                raise
            else:
                self._flush(deadline)
                return done
            self._flush(deadline)
            if wants:
                data = self._receive(deadline)
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()

    def _flush(self, deadline: float) -> None:
        if self._out.pending:
            self._send(self._out.read(), deadline)


def connect(address: Address, tls: Tls, deadline: float) -> Connection:
    """A new connection, with TLS where the endpoint says so. Raises OSError, ConfigError."""
    if address.tls:
        tls.context()  # a file that cannot be used is said whether or not anybody listens
    connection = Connection(_open(address, deadline), address)
    if address.tls:
        try:
            connection.start_tls(tls, deadline)
        except BaseException:
            connection.close()
            raise
    return connection
