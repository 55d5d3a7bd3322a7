"""TLS for the HTTP client, on buffers in memory, so that each wait keeps its deadline."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from fastipam.cluster.engine import EngineDenied
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    T = TypeVar("T")

    class Link(Protocol):
        """The connection to a peer, with or without TLS."""

        def send(self, data: bytes, deadline: float) -> None: ...

        def receive(self, deadline: float) -> bytes: ...

        def is_quiet(self) -> bool: ...

        def shut_down(self) -> None: ...

        def close(self) -> None: ...


_PIECE = 1 << 16


class TlsFiles:
    """The files of a TLS client; the context is made when it is first used.

    ``ca``: certificates to trust, empty for the system's. ``cert`` and ``key``: this client's own,
    for mutual TLS; the key may be in the certificate's file.
    """

    def __init__(self, ca: str, cert: str, key: str) -> None:
        self._files = ca, cert, key
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context. Raises ConfigError for a file that cannot be used."""
        if self._context is None:
            self._context = _context(*self._files)
        return self._context


def _context(ca: str, cert: str, key: str) -> ssl.SSLContext:
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
    return context


def _unusable(field: str, value: str, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(f"{field} {value!r} cannot be used: {reason}", field=field, value=value)


class TlsLink:
    """TLS on top of a TCP connection. Raises OSError; EngineDenied for a refused certificate."""

    def __init__(self, below: Link, where: str) -> None:
        self._below = below
        self._where = where
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject

    def shake_hands(self, context: ssl.SSLContext, host: str, deadline: float) -> None:
        """Begin TLS; the peer's certificate must be valid for the host."""
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        try:
            self._pump(self._tls.do_handshake, deadline)
        except ConnectionResetError as error:
            raise ConnectionResetError(
                f"{self._where} closes the connection during TLS, it may need http://"
            ) from error

    def send(self, data: bytes, deadline: float) -> None:
        """Encrypt and send all of the data."""
        rest = memoryview(data)
        try:
            while rest:
                view = rest
                rest = rest[self._pump(lambda view=view: self._tls.write(view), deadline) :]  # type: ignore[misc]
        except ConnectionError:
            # A server of TLS 1.3 refuses the client's certificate after the handshake. Its alert
            # may have arrived before the reset.
            with suppress(OSError):
                self.receive(deadline)
            raise

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes, decrypted."""
        return self._pump(lambda: self._tls.read(_PIECE), deadline)

    def is_quiet(self) -> bool:
        """Return whether the peer has neither sent anything nor closed the connection."""
        return self._below.is_quiet()

    def shut_down(self) -> None:
        """End the TCP connection; a wait for data in another thread ends at once."""
        self._below.shut_down()

    def close(self) -> None:
        """Close the TCP connection."""
        self._below.close()

    def _pump(self, step: Callable[[], T], deadline: float) -> T:
        """Run one TLS operation; copy its bytes between memory and socket until it finishes."""
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._flush(deadline)
                if data := self._below.receive(deadline):
                    self._in.write(data)
                else:
                    self._in.write_eof()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
                raise ConnectionResetError(f"{self._where} ended TLS") from error
            except ssl.SSLError as error:
                self._flush(deadline)  # the alert that tells the peer why
                if refusal := _refusal(error, self._where):
                    raise refusal from error
                raise
            else:
                self._flush(deadline)
                return done

    def _flush(self, deadline: float) -> None:
        if self._out.pending:
            self._below.send(self._out.read(), deadline)


def _refusal(error: ssl.SSLError, where: str) -> EngineDenied | None:
    """Return the error as EngineDenied if either side refuses the other's certificate or TLS."""
    reason = error.reason or ""
    if reason == "CERTIFICATE_VERIFY_FAILED":
        why = getattr(error, "verify_message", reason)
        return EngineDenied(
            f"{where} has a certificate that is not trusted: {why}", hint="check ca"
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return EngineDenied(
            f"{where} refuses this client's certificate: {reason.lower().replace('_', ' ')}",
            hint="check cert and key",
        )
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return EngineDenied(f"{where} does not speak TLS", hint="write http:// in the endpoint")
    return None
