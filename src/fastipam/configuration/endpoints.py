"""The endpoints of an etcd: URLs without user and password, which no message may show."""

from __future__ import annotations

from fastipam.configuration import reader
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST = 32


def read(holder: dict[str, Any], path: str) -> tuple[str, ...]:
    """Return the endpoints as they are written; the engine that they belong to parses them."""
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
                f"{shown!r:.80} has a user or a password",
                field=field,
                value=shown,
                hint='write user:password into a file, and name the file under "credentials"',
            )
        scheme, slashes, rest = one.partition("://")
        host, _, port = rest.rstrip("/").rpartition(":")
        if scheme not in ("http", "https") or not slashes or not _is_server(host, port):
            raise reader.refused(field, one, "a URL such as https://10.0.0.1:2379")
    return tuple(one.rstrip("/") for one in value)


def _is_server(host: str, port: str) -> bool:
    """Return whether these are a host, an IPv6 address in brackets, and a port."""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return False
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16
    return is_port and bool(host) and not set(host) & set("/?#[] ")
