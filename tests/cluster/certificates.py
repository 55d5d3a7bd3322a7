"""Certificates for a test: an authority, the members', clients with and without a common name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Files: each but ``ca`` and ``stranger_ca`` holds a key and its chain."""

    ca: str
    server: str
    named: str
    nameless: str
    stranger: str
    stranger_ca: str


def make_certificates(directory: Path) -> Certificates:
    """Make them all; the stranger is of another authority."""
    authority, other = trustme.CA(), trustme.CA()

    def write(name: str, blob: trustme.Blob) -> str:
        path = directory / f"{name}.pem"
        blob.write_to_path(path)
        return str(path)

    def issue(name: str, by: trustme.CA, common_name: str | None = None) -> str:
        leaf = by.issue_cert("127.0.0.1", "localhost", "::1", common_name=common_name)
        return write(name, leaf.private_key_and_cert_chain_pem)

    return Certificates(
        ca=write("ca", authority.cert_pem),
        server=issue("server", authority),
        named=issue("named", authority, "root"),
        nameless=issue("nameless", authority),
        stranger=issue("stranger", other),
        stranger_ca=write("stranger-ca", other.cert_pem),
    )
