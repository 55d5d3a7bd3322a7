"""The etcd engine's part of a node's settings: endpoints and credentials."""

from __future__ import annotations

from fastipam.cluster.engines.etcd import gateway
from fastipam.cluster.engines.http import Server, host_and_port
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.cluster.engines.tls import TlsFiles
    from fastipam.configuration.cluster import Settings

_DEFAULT_PORT = 2379


class Credentials:
    """The credentials of a client, and the certificates that it trusts.

    ``ca`` is a file of certificates to trust; if it is empty, the system's are trusted. ``cert``
    and ``key`` are this client's own files, for mutual TLS; the key may be in the certificate's
    file. ``username`` and ``password`` are etcd's. Raises ConfigError for a key without a cert, or
    a password without a username.
    """

    __slots__ = ("files", "login")

    def __init__(
        self, ca: str = "", cert: str = "", key: str = "", username: str = "", password: str = ""
    ) -> None:
        if key and not cert:
            raise ConfigError(f"key {key!r} is set without cert", field="key", value=key)
        if password and not username:
            raise ConfigError("password is set without username", field="username", value="")
        self.files = ca, cert, key
        self.login = gateway.login(username, password) if username else ""

    @property
    def has_tls(self) -> bool:
        """Whether an endpoint without a scheme is https."""
        return bool(self.files[0] or self.files[1])

    def tls(self) -> TlsFiles:
        """Return what a connection with TLS needs."""
        from fastipam.cluster.engines.tls import TlsFiles  # importing ssl is slow

        return TlsFiles(*self.files)

    @classmethod
    def of(cls, settings: Settings) -> Credentials:
        """Return the credentials in a node's settings. Raises ConfigError."""
        login = _read_login(settings) if settings.credentials else ("", "")
        return cls(settings.ca, settings.cert, settings.key, *login)


def _read_login(settings: Settings) -> tuple[str, str]:
    """Return (user, password) from ``user:password`` in the first line of a file."""
    # Each new engine reads the file, so a claim uses a changed password. Raises ConfigError.
    path, field = settings.credentials, settings.field("credentials")
    try:
        with open(path, encoding="utf-8") as file:
            line = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", field=field, value=path) from None
    user, colon, password = line.partition(":")
    if not colon or not user:
        raise ConfigError(f"the first line of {path} is not user:password", field=field, value=path)
    return user, password


def parse_endpoint(text: str, *, tls: bool = False, field: str = "endpoints") -> Server:
    """Parse ``http://host:port``, ``https://…`` or ``host:port``.

    Without a scheme ``tls`` decides; the default port is 2379. Raises ConfigError, which names the
    endpoint without its user and password.
    """
    credentials, sign, server = text.rpartition("@")
    if sign:
        scheme, mark, _ = credentials.partition("://")
        text = f"{scheme}{mark}…@{server}" if mark else f"…@{server}"
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "https" if tls else "http", text
    rest = rest.rstrip("/")
    found = host_and_port(rest, _DEFAULT_PORT)
    if found is None or scheme not in {"http", "https"}:
        raise ConfigError(
            f"endpoint {text!r} is not of the form https://host:port", field=field, value=text
        )
    return Server(text, *found, scheme == "https")
