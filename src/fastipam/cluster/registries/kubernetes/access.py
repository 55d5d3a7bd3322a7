"""Access to the Kubernetes API: its servers, the certificates to trust, the credentials.

In a pod, the environment names the server. The files of the service account have the token and the
certificate authority; the kubelet renews them while the pod runs. Elsewhere, ``kubeconfig.py``
reads the file that kubectl reads.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from fastipam.cluster.engines.http import Server, host_and_port
from fastipam.configuration.endpoints import is_this_machine
from fastipam.errors import ConfigError, hide_credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastipam.cluster.engines.tls import TlsFiles

# Where the kubelet mounts the files of the service account (k8s.io/kubernetes, pkg/apis/core:
# DefaultAPITokenMountPath).
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_LARGEST_TOKEN = 64 << 10  # the API server itself refuses a header that is longer
_PORTS = {"https": 443, "http": 80}

_Stamp = tuple[int, int, int]


class Memory:
    """Files in memory for OpenSSL, which reads only files; the paths are this process's own."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def hold(self, data: bytes) -> str:
        """Return a path for the data; it lasts as long as this object."""
        descriptor = os.memfd_create("credentials")
        self._open.append(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        return f"/proc/self/fd/{descriptor}"

    def __del__(self) -> None:
        for one in self._open:
            os.close(one)


class Access:
    """The servers of one API, and the credentials for it. Safe to use from several threads.

    ``token_file``, ``ca``, ``cert`` and ``key`` are paths; a file is read again when it has
    changed. If a file cannot be read any more, its last content stays in use. ``memory`` owns the
    paths of files in memory. With an empty ``ca`` the system's authorities are trusted. ``base``
    precedes every path of a request. ``namespace`` is that of this process, or the default.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        ca: str = "",
        token: str = "",
        token_file: str = "",
        cert: str = "",
        key: str = "",
        base: str = "",
        namespace: str = "default",
        memory: Memory | None = None,
    ) -> None:
        if not servers:
            raise ConfigError("no server of the Kubernetes API is given", field="server", value="")
        self.servers = tuple(servers)
        self.base = base
        self.namespace = namespace
        self.ca, self.cert, self.key = ca, cert, key
        self.memory = memory or Memory()
        self._token = token
        self._token_file = token_file
        self._token_stamp: _Stamp | None = None
        self._files: TlsFiles | None = None
        self._file_stamps: tuple[_Stamp | None, ...] = ()
        self._lock = allocate_lock()
        for one in self.servers:
            has_secret = bool(token or token_file)
            if not one.tls and has_secret and not is_this_machine(one.host):
                raise ConfigError(
                    f"{one.text} uses http, which would send the token unencrypted",
                    field="server",
                    value=one.text,
                    hint="write https://",
                )

    def authorization(self, until: float) -> str:  # noqa: ARG002  # for a plugin
        """Return the value of the header Authorization, "" when there is no token.

        One stat of the token's file, which is read again when it has changed. Raises ConfigError if
        the file could never be read. ``until`` is the moment of ``time.monotonic()`` by which this
        returns.
        """
        if self._token_file:
            with self._lock:
                self._read_token()
        return f"Bearer {self._token}" if self._token else ""

    def renew(self) -> None:
        """Have the token read again, because the server has refused it (401)."""
        with self._lock:
            self._token_stamp = None

    def tls(self) -> TlsFiles | None:
        """Return the certificates and keys for a new connection, None when no server speaks TLS.

        One stat per file. Raises ConfigError for files that could never be used.
        """
        if not any(one.tls for one in self.servers):
            return None
        with self._lock:
            stamps = tuple(_stamp(one) for one in (self.ca, self.cert, self.key) if one)
            if self._files is None or stamps != self._file_stamps:
                from fastipam.cluster.engines.tls import (
                    TlsFiles,  # importing ssl is slow
                )

                files = TlsFiles(self.ca, self.cert, self.key)
                try:
                    files.context()
                except ConfigError:
                    if self._files is None:
                        raise
                else:
                    self._files, self._file_stamps = files, stamps
            return self._files

    @property
    def trust(self) -> str:
        """A hint for the error that the server's certificate is not trusted."""
        return f"check the authority in {self.ca}" if self.ca else "check the system's authorities"

    def _read_token(self) -> None:
        stamp = _stamp(self._token_file)
        if stamp is not None and stamp == self._token_stamp:
            return
        try:
            self._token = read_token(self._token_file, "token file")
            self._token_stamp = stamp
        except ConfigError:
            if not self._token:
                raise


def in_cluster(
    servers: Sequence[str] = (),
    *,
    directory: str = SERVICE_ACCOUNT,
    environ: Mapping[str, str] | None = None,
    field: str = "server",
) -> Access:
    """Return the access of a pod's service account. Reads all files.

    ``servers`` are URLs to use instead of the server that the environment names; ``field`` is the
    setting that has them. Raises ConfigError, which says what is missing.
    """
    environ = os.environ if environ is None else environ
    if servers:
        found = [parse_server(one, f"{field}[{at}]") for at, one in enumerate(servers)]
    else:
        found = [_server_of(environ)]
    access = Access(
        found,
        ca=f"{directory}/ca.crt",
        token_file=f"{directory}/token",
        namespace=_namespace(f"{directory}/namespace"),
    )
    try:
        access.authorization(0.0)  # so that a missing file is an error now
    except ConfigError as error:
        error.hint = error.hint or 'a process outside a pod needs "kubeconfig"'
        raise
    access.tls()
    return access


def parse_server(text: str, field: str = "server", *, name: str = "") -> Server:
    """Parse ``https://host``, ``https://host:port`` or, for this machine, ``http://…``.

    IPv6 addresses stand in brackets; the default port is the scheme's. ``name`` is what the
    certificate has to be valid for, if that is not the host. Raises ConfigError.
    """
    scheme, mark, rest = text.partition("://")
    found = host_and_port(rest.rstrip("/"), _PORTS.get(scheme, 0)) if mark else None
    if found is None or scheme not in _PORTS:
        shown = hide_credentials(text)
        raise ConfigError(
            f"{shown!r:.120} is not the URL of a Kubernetes API server",
            field=field,
            value=shown,
            hint="write it as https://10.0.0.1:6443",
        )
    return Server(text.rstrip("/"), *found, scheme == "https", name)


def read_token(path: str, field: str) -> str:
    """Return the token in a file. Raises ConfigError, which does not show it."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST_TOKEN + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", field=field, value=path
        ) from None
    return check_token(raw, field, path)


def check_token(raw: bytes, field: str, value: str) -> str:
    """Return a token that a header can carry. Raises ConfigError, which does not show it."""
    token = raw.strip()
    if not token:
        raise ConfigError(f"{field} {value} is empty", field=field, value=value)
    if len(token) > _LARGEST_TOKEN or not all(33 <= byte <= 126 for byte in token):
        raise ConfigError(
            f"{field} {value} does not hold a token: one line of printable ASCII without blanks",
            field=field,
            value=value,
        )
    return token.decode("ascii")


def _server_of(environ: Mapping[str, str]) -> Server:
    """Return the server that the kubelet names in the environment of each container."""
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    port = environ.get("KUBERNETES_SERVICE_PORT", "") or "443"
    if not host:
        raise ConfigError(
            "KUBERNETES_SERVICE_HOST is not set: this process does not run in a pod",
            field="KUBERNETES_SERVICE_HOST",
            value=host,
            hint="type --server https://10.0.0.1:6443 with your server, or --kubeconfig FILE",
        )
    shown = f"[{host}]" if ":" in host else host
    if host_and_port(f"{shown}:{port}", 443) is None:
        raise ConfigError(
            f"KUBERNETES_SERVICE_HOST {host!r} and KUBERNETES_SERVICE_PORT {port!r} are not a "
            "host and a port",
            field="KUBERNETES_SERVICE_PORT",
            value=port,
        )
    return parse_server(f"https://{shown}:{port}")


def _namespace(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(254).strip() or "default"
    except (OSError, UnicodeDecodeError):
        return "default"  # only a Lease or an Event needs it


def _stamp(path: str) -> _Stamp | None:
    """Return a value that differs between two versions of a file, or None without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
