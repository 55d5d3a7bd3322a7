"""Where the Kubernetes API is and what is shown to it: in a pod, and as kubectl's file says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.cluster.certificates import Certificates, make_certificates

from fastipam.cluster.registries.kubernetes.access import Access, in_cluster, parse_server
from fastipam.errors import ConfigError

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def account(tmp_path: Path, files: Certificates) -> Path:
    """The files of a service account, as the kubelet mounts them: links that it changes at once."""
    data = tmp_path / "..data-1"
    data.mkdir()
    (data / "ca.crt").write_bytes(Path(files.ca).read_bytes())
    (data / "token").write_text("first\n")
    (data / "namespace").write_text("fastipam-system")
    (tmp_path / "..data").symlink_to("..data-1")
    for name in ("ca.crt", "token", "namespace"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    return tmp_path


def test_in_a_pod(account: Path) -> None:
    """The environment names the server, the files have all the rest."""
    access = in_cluster(directory=str(account), environ=POD)
    assert [(one.host, one.port, one.tls) for one in access.servers] == [("10.96.0.1", 443, True)]
    assert access.authorization(0.0) == "Bearer first"
    assert access.namespace == "fastipam-system"
    assert str(account / "ca.crt") in access.trust


def test_in_a_pod_with_ipv6(account: Path) -> None:
    """The kubelet writes an IPv6 address without brackets."""
    environ = {"KUBERNETES_SERVICE_HOST": "fd00:10:96::1", "KUBERNETES_SERVICE_PORT": "6443"}
    (found,) = in_cluster(directory=str(account), environ=environ).servers
    assert (found.host, found.port, found.text) == (
        "fd00:10:96::1",
        6443,
        "https://[fd00:10:96::1]:6443",
    )


def test_named_servers(account: Path) -> None:
    """Servers that are named win over the environment."""
    urls = ["https://[::1]:6443", "https://api.example"]
    found = in_cluster(urls, directory=str(account), environ=POD).servers
    assert [(one.host, one.port) for one in found] == [("::1", 6443), ("api.example", 443)]


def test_rotated_token(account: Path) -> None:
    """A token that the kubelet has renewed is read; one that has gone stays in force."""
    access = in_cluster(directory=str(account), environ=POD)
    tls = access.tls()
    assert tls is access.tls()
    data = account / "..data-2"
    data.mkdir()
    (data / "token").write_text("other")
    (data / "ca.crt").write_bytes((account / "ca.crt").read_bytes())
    (account / "new").symlink_to("..data-2")
    (account / "new").rename(account / "..data")
    assert access.authorization(0.0) == "Bearer other"
    assert access.tls() is not tls
    (data / "token").unlink()
    assert access.authorization(0.0) == "Bearer other"
    (data / "token").write_text("")
    assert access.authorization(0.0) == "Bearer other"


def test_renew_reads_again(account: Path) -> None:
    """After a 401 a token is read even if the file seems to be the same."""
    access = in_cluster(directory=str(account), environ=POD)
    found = (account / "token").stat()
    (account / "token").write_text("third\n")
    os.utime(account / "token", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert access.authorization(0.0) == "Bearer first"
    access.renew()
    assert access.authorization(0.0) == "Bearer third"


@pytest.mark.parametrize(
    ("environ", "field", "text"),
    [
        ({}, "KUBERNETES_SERVICE_HOST", "not set"),
        ({**POD, "KUBERNETES_SERVICE_PORT": "https"}, "KUBERNETES_SERVICE_PORT", "'https'"),
        ({**POD, "KUBERNETES_SERVICE_HOST": "a b"}, "KUBERNETES_SERVICE_PORT", "'a b'"),
    ],
)
def test_wrong_environment(account: Path, environ: dict[str, str], field: str, text: str) -> None:
    """What is wrong in the environment is named."""
    with pytest.raises(ConfigError, match=text) as caught:
        in_cluster(directory=str(account), environ=environ)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("token", None, "cannot be read"),
        ("token", " \n", "is empty"),
        ("token", "two words", "holds no token"),
        ("token", "x\r\nX-Header: 1", "holds no token"),
        ("token", "x" * (1 << 17), "holds no token"),
        ("ca.crt", None, "cannot be used"),
        ("ca.crt", "nothing", "cannot be used"),
    ],
)
def test_wrong_files(account: Path, name: str, content: str | None, text: str) -> None:
    """A file of the account that cannot be used is named, its content is not shown."""
    (account / name).unlink()
    if content is not None:
        (account / name).write_text(content)
    with pytest.raises(ConfigError, match=text) as caught:
        in_cluster(directory=str(account), environ=POD)
    assert caught.value.value == str(account / name)
    assert str(account / name) in caught.value.message
    assert "Header" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.1:6443", "ftp://10.0.0.1", "https://", "https://a:b", "https://a/b", "https://u:p@a",
     "https://fd00::1:6443", "https://a:0", "https://a:99999", "https://a b"],
)  # fmt: skip
def test_wrong_server(account: Path, text: str) -> None:
    """A server that is no URL of one is named, without a password."""
    with pytest.raises(ConfigError, match="not the URL") as caught:
        in_cluster(["https://10.0.0.1", text], directory=str(account), environ=POD)
    assert caught.value.field == "server[1]"
    assert "u:p" not in f"{caught.value} {caught.value.value}"
    assert "https://10.0.0.1:6443" in str(caught.value.hint)


def test_token_is_not_sent_in_the_open() -> None:
    """Without TLS a token is sent to this machine only."""
    with pytest.raises(ConfigError, match="read the token"):
        Access([parse_server("http://10.0.0.1:8001")], token="secret")
    Access([parse_server("http://127.0.0.1:8001")], token="secret")
    Access([parse_server("http://10.0.0.1:8001")])
    with pytest.raises(ConfigError, match="no server"):
        Access([])
