"""Check the URLs of an engine. Messages never show a user or password in them."""

from __future__ import annotations

from fastipam.configuration import reader
from fastipam.errors import ConfigError, hide_credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST = 32
_MOST_SERVERS = 16
_PORTS = {"https": "443", "http": "80"}


def read_servers(holder: dict[str, Any], path: str) -> tuple[str, ...]:
    """Return the URLs of the Kubernetes API as they are written. Raises ConfigError.

    Without any URL the environment names the API. A URL without TLS is accepted only for this
    machine: otherwise others on the network could read the token.
    """
    value = holder.get("server")
    listed = [] if value is None else value if isinstance(value, list) else [value]
    if len(listed) > _MOST_SERVERS or not all(isinstance(one, str) for one in listed):
        raise reader.refused(
            f"{path}.server", value, f"the URL of an API server, or a list of up to {_MOST_SERVERS}"
        )
    for at, one in enumerate(listed):
        field = f"{path}.server[{at}]" if isinstance(value, list) else f"{path}.server"
        scheme, slashes, rest = one.partition("://")
        host, colon, port = _split(rest.rstrip("/"))
        port = port if colon else _PORTS.get(scheme, "")
        if not slashes or "@" in rest or not _is_server(host, port):
            shown = hide_credentials(one)
            raise reader.refused(field, shown, "a URL such as https://10.0.0.1:6443")
        if scheme == "http" and not is_this_machine(host):
            raise ConfigError(
                f"{one!r} uses http, which would send the token unencrypted",
                field=field,
                value=one,
                hint="write https://",
            )
    return tuple(listed)


def is_this_machine(host: str) -> bool:
    """Return whether the host of a URL is a loopback name or address of this machine."""
    return host in {"localhost", "::1", "[::1]"} or host.startswith("127.")


def _split(text: str) -> tuple[str, str, str]:
    """Return host, colon and port. An IPv6 address keeps its brackets."""
    end = text.rfind("]") + 1
    host, colon, port = text[end:].partition(":")
    return text[:end] + host, colon, port


def read(holder: dict[str, Any], path: str) -> tuple[str, ...]:
    """Return the endpoints as they are written, checked; the engine parses them."""
    value = reader.listed(holder, "endpoints", path)
    if not 0 < len(value) <= _MOST:
        given = value or holder.get("endpoints")
        wanted = f"a list of 1 to {_MOST} URLs"
        raise reader.refused(f"{path}.endpoints", given, wanted)
    for at, one in enumerate(value):
        field = f"{path}.endpoints[{at}]"
        if not isinstance(one, str):
            raise reader.wrong(field, one, "a URL")
        hidden, sign, rest = one.rpartition("@")
        if sign:
            scheme, mark, _ = hidden.partition("://")
            shown = f"{scheme}{mark}…@{rest}" if mark else f"…@{rest}"
            raise ConfigError(
                f"{shown!r:.80} contains a user name or a password",
                field=field,
                value=shown,
                hint='write user:password into a file, and give its path as "credentials"',
            )
        scheme, slashes, rest = one.partition("://")
        host, _, port = rest.rstrip("/").rpartition(":")
        if scheme not in ("http", "https") or not slashes or not _is_server(host, port):
            raise reader.refused(field, one, "a URL such as https://10.0.0.1:2379")
    return tuple(one.rstrip("/") for one in value)


def _is_server(host: str, port: str) -> bool:
    """Return whether ``host`` and ``port`` are valid; an IPv6 address has to be in brackets."""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return False
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16
    return is_port and bool(host) and not set(host) & set("/?#[] ")
