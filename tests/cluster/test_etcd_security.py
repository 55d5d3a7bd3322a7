"""TLS, mutual TLS and passwords against real etcd, and what a user is told who gets them wrong."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastipam.cluster.engine import Engine, EngineDenied, EngineTimeout, EngineUnavailable, Put
from fastipam.cluster.engines.etcd.settings import parse_endpoint
from fastipam.errors import ConfigError

from .certificates import Certificates
from .conftest import binary_of
from .etcd import Etcd, open_engine, surely
from .proxy import Proxy

S = 30.0
KEY = b"/fastipam/security"


def works(engine: Engine) -> None:
    """Every kind of call is served."""
    with contextlib.closing(engine):
        session = engine.open_session(30, deadline_s=S)
        revision = engine.transact([], [Put(KEY, b"1", session)], deadline_s=S).revision
        found = engine.get(KEY, deadline_s=S)
        assert found is not None
        assert found.value == b"1"
        assert [each.key for each in engine.list(KEY, deadline_s=S)[0]] == [KEY]
        events, _ = engine.watch(KEY, revision - 1, deadline_s=S)
        assert events[-1].value == b"1"
        assert engine.keep_session(session, deadline_s=S) > 0
        engine.close_session(session, deadline_s=S)


def refused(engine: Engine) -> str:
    """The text of the refusal, with its hint."""
    with contextlib.closing(engine), pytest.raises(EngineDenied) as caught:
        engine.transact([], [Put(KEY, b"1")], deadline_s=S)
    return f"{caught.value.message}; {caught.value.hint}"


@pytest.fixture(scope="module", params=["3.4", "3.5"])
def tls(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Etcd]:
    """One member with a certificate."""
    with Etcd(
        binary_of(request.param),
        tmp_path_factory.mktemp("tls"),
        size=1,
        certificates=certificates,
    ) as running:
        yield running


@pytest.fixture(scope="module", params=["3.4", "3.5"])
def mutual(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Etcd]:
    """One member that wants a certificate of its clients."""
    with Etcd(
        binary_of(request.param),
        tmp_path_factory.mktemp("mutual"),
        size=1,
        certificates=certificates,
        client_auth=True,
    ) as running:
        yield running


def test_tls(tls: Etcd, certificates: Certificates) -> None:
    """A member whose certificate the CA has signed is served, under its address and its name."""
    works(open_engine(tls.endpoints, ca=certificates.ca))
    port = tls.members[0].client_port
    works(open_engine([f"localhost:{port}"], ca=certificates.ca))


def test_tls_of_a_stranger(tls: Etcd, certificates: Certificates) -> None:
    """A certificate of another authority is refused, and the text says so."""
    assert "not trusted" in refused(open_engine(tls.endpoints, ca=certificates.stranger_ca))
    assert "not trusted" in refused(open_engine(tls.endpoints))


def test_tls_under_another_name(tls: Etcd, certificates: Certificates) -> None:
    """A certificate for another host is refused."""
    with Proxy(tls.members[0].client_port, host="127.0.0.2") as proxy:
        engine = open_engine([f"https://127.0.0.2:{proxy.port}"], ca=certificates.ca)
        assert "mismatch" in refused(engine)


def test_wrong_scheme(tls: Etcd, etcd: Etcd, certificates: Certificates) -> None:
    """http to a member with TLS, and https to one without, both say what to write."""
    plain = tls.endpoints[0].replace("https", "http")
    with pytest.raises(EngineTimeout, match="it may need https://"):
        open_engine([plain]).transact([], [Put(KEY, b"1")], deadline_s=S)
    secure = etcd.endpoints[0].replace("http", "https")
    with pytest.raises(EngineUnavailable, match="it may need http://"):
        open_engine([secure], ca=certificates.ca).get(KEY, deadline_s=S)


def test_mutual_tls(mutual: Etcd, certificates: Certificates) -> None:
    """A client with a certificate of the CA is served, with or without a common name."""
    for cert in (certificates.nameless, certificates.named):
        works(open_engine(mutual.endpoints, ca=certificates.ca, cert=cert, key=cert))
        works(open_engine(mutual.endpoints, ca=certificates.ca, cert=cert))


def test_mutual_tls_refuses(mutual: Etcd, certificates: Certificates) -> None:
    """A client without a certificate, or with a stranger's, is told to look at it."""
    assert "certificate" in refused(open_engine(mutual.endpoints, ca=certificates.ca))
    stranger = certificates.stranger
    engine = open_engine(mutual.endpoints, ca=certificates.ca, cert=stranger, key=stranger)
    assert "certificate" in refused(engine)


@pytest.mark.parametrize("version", ["3.4", "3.5"])
def test_password(version: str, tmp_path: Path) -> None:
    """A user with a password is served what the role allows; after a restart as well."""
    with Etcd(binary_of(version), tmp_path, size=3) as etcd:
        # A user is configured before anybody has switched passwords on.
        works(open_engine(etcd.endpoints, username="ipam", password="secret"))
        etcd.enable_passwords("ipam", "secret")
        engine = open_engine(etcd.endpoints, username="ipam", password="secret")
        works(open_engine(etcd.endpoints, username="ipam", password="secret"))
        assert "password" in refused(open_engine(etcd.endpoints, username="ipam", password="no"))
        assert "username" in refused(open_engine(etcd.endpoints))
        with pytest.raises(EngineDenied, match="permission denied"):
            engine.get(b"/other", deadline_s=S)
        assert engine.get(KEY, deadline_s=S) is None
        for member in etcd.members:  # the members forget the tokens
            member.kill()
            member.start()
        deadline = time.monotonic() + 60
        while True:  # until the members listen again
            try:
                assert surely(engine, [], [Put(KEY, b"2")]).succeeded
                break
            except EngineUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        engine.close()


@pytest.mark.parametrize("version", ["3.4", "3.5"])
def test_password_over_mutual_tls(version: str, tmp_path: Path, certificates: Certificates) -> None:
    """With passwords the gateway refuses client certificates with a common name: it is said."""
    with Etcd(
        binary_of(version), tmp_path, size=1, certificates=certificates, client_auth=True
    ) as etcd:
        etcd.enable_passwords("ipam", "secret")
        user = {"ca": certificates.ca, "username": "ipam", "password": "secret"}
        works(open_engine(etcd.endpoints, cert=certificates.nameless, **user))
        text = refused(open_engine(etcd.endpoints, cert=certificates.named, **user))
        assert "common name" in text
        assert "without CN" in text


@pytest.mark.parametrize(
    ("endpoint", "arguments", "field"),
    [
        ("", {}, "endpoints"),
        ("ftp://a:1", {}, "endpoints"),
        ("http://a:0", {}, "endpoints"),
        ("http://a:65536", {}, "endpoints"),
        ("http://a:x", {}, "endpoints"),
        ("http://a:", {}, "endpoints"),
        ("http://u@a:1", {}, "endpoints"),
        ("http://a:1/v3", {}, "endpoints"),
        ("http://a b", {}, "endpoints"),
        ("http://::1:2379", {}, "endpoints"),
        ("http://[::1", {}, "endpoints"),
        ("http://a", {"key": "k"}, "key"),
        ("http://a", {"password": "p"}, "username"),
    ],
)
def test_bad_configuration(endpoint: str, arguments: dict[str, str], field: str) -> None:
    """What cannot be used is refused before anything is connected, with its field."""
    with pytest.raises(ConfigError) as caught:
        open_engine([endpoint], **arguments)
    assert caught.value.field == field


def test_no_endpoint() -> None:
    """An empty list is refused."""
    with pytest.raises(ConfigError):
        open_engine([])


@pytest.mark.parametrize(
    ("endpoint", "host", "port", "tls"),
    [
        ("a", "a", 2379, False),
        ("a:1", "a", 1, False),
        ("https://a/", "a", 2379, True),
        ("http://[::1]:1", "::1", 1, False),
        ("[fe80::1]", "fe80::1", 2379, False),
    ],
)
def test_endpoints(endpoint: str, host: str, port: int, tls: bool) -> None:
    """All forms of an endpoint."""
    found = parse_endpoint(endpoint)
    assert (found.host, found.port, found.tls) == (host, port, tls)


@pytest.mark.parametrize("field", ["ca", "cert"])
def test_unusable_file(field: str, tmp_path: Path) -> None:
    """A file that is missing or no certificate is named, with its field."""
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    for path in (str(broken), str(tmp_path / "missing.pem")):
        engine = open_engine(["https://127.0.0.1:1"], **{field: path})
        with contextlib.closing(engine), pytest.raises(ConfigError) as caught:
            engine.get(b"a", deadline_s=S)
        assert caught.value.field == field
        assert path in caught.value.message
