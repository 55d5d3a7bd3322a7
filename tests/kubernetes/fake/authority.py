"""The certificates of a server: an authority that can be exchanged, users' certificates."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme

from .access import User

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Authority:
    """Writes ``ca.pem``, which clients trust, and makes the server's context."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "ca.pem"
        self._users = trustme.CA()
        self._servers = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self._users.configure_trust(self.context)
        self._issue()
        self._servers.cert_pem.write_to_path(str(self.path))

    def _issue(self) -> None:
        self._servers.issue_cert("127.0.0.1", "localhost", "::1").configure_cert(self.context)

    def rotate(self, *, write: bool = True, keep_old: bool = False) -> None:
        """Serve a certificate of a new authority from the next connection on.

        ``write``: ``ca.pem`` is replaced (with ``keep_old``: the new one is added to it).
        """
        before = self.path.read_bytes() if keep_old else b""
        self._servers = trustme.CA()
        self._issue()
        if write:
            new = self.path.with_suffix(".new")
            new.write_bytes(before + self._servers.cert_pem.bytes())
            new.replace(self.path)

    def user(self, name: str, groups: Iterable[str] = ()) -> Path:
        """Return a file with the key and certificate of a user."""
        leaf = self._users.issue_cert(
            f"{name.replace(':', '-')}.invalid",
            common_name=name,
            organization_name=next(iter(groups), None),
        )
        path = self.directory / f"{name.replace(':', '-')}.pem"
        leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path


def user_of(certificate: dict[str, object] | None) -> User | None:
    """Return who a client's certificate names (common name, organizations), or None."""
    subject = (certificate or {}).get("subject", ())
    assert isinstance(subject, tuple)
    pairs = [pair for part in subject for pair in part]
    names = [value for key, value in pairs if key == "commonName"]
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(names[0], groups) if names else None
