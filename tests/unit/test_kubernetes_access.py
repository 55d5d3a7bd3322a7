"""Where the Kubernetes API is and what is shown to it: in a pod, and as kubectl's file says."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from binascii import b2a_base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.agent.processes import until
from tests.cluster.certificates import Certificates, make_certificates
from tests.scripted import Request, Scripted, answer, refusal

from fastipam.cluster.engine import EngineDenied, EngineUnavailable
from fastipam.cluster.engines import http
from fastipam.cluster.registries.kubernetes.access import Access, in_cluster, parse_server
from fastipam.cluster.registries.kubernetes.client import Client, Kind
from fastipam.cluster.registries.kubernetes.kubeconfig import load
from fastipam.cluster.registries.kubernetes.plugin import Plugin
from fastipam.errors import ConfigError

V1 = "client.authentication.k8s.io/v1"
HANDSHAKE = 2  # so often a client of TLS 1.3 sends until its handshake ends
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
        ("token", "two words", "not hold a token"),
        ("token", "x\r\nX-Header: 1", "not hold a token"),
        ("token", "x" * (1 << 17), "not hold a token"),
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
    with pytest.raises(ConfigError, match="send the token"):
        Access([parse_server("http://10.0.0.1:8001")], token="secret")
    Access([parse_server("http://127.0.0.1:8001")], token="secret")
    Access([parse_server("http://10.0.0.1:8001")])
    with pytest.raises(ConfigError, match="no server"):
        Access([])


# A kubeconfig.

CONTEXT = {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}


def base64(path: str) -> str:
    """The content of a file in base64."""
    return b2a_base64(Path(path).read_bytes(), newline=False).decode()


def config(
    directory: Path, cluster: dict[str, Any], user: dict[str, Any], name: str = "config"
) -> str:
    """A kubeconfig as JSON with one context; its path."""
    path = directory / name
    document = {
        "kind": "Config",
        "clusters": [
            {"name": "other", "cluster": {"server": "https://192.0.2.1"}},
            {"name": "c", "cluster": {"server": "https://127.0.0.1:6443", **cluster}},
        ],
        "users": [{"name": "u", "user": user}],
        "contexts": [CONTEXT, {"name": "bare", "context": {"cluster": "other"}}],
        "current-context": "here",
    }
    path.write_text(json.dumps(document))
    return str(path)


def serves(access: Access, server: Scripted) -> Request:
    """A request with that access is served; the request as it came."""
    server.play(answer(200, {"metadata": {}}))
    with contextlib.closing(Client(access)) as client:
        assert client.get(Kind("/api/v1", "nodes"), "n", deadline_s=20) == {"metadata": {}}
    return server.requests[-1]


def test_kubeconfig_with_data(tmp_path: Path, files: Certificates) -> None:
    """Certificates that stand in the file itself; the server has a path and another name."""
    with Scripted(files.server, host="127.0.0.1") as server:
        cluster = {
            "server": f"{server.url}/k8s/c-1/",
            "certificate-authority-data": base64(files.ca),
            "tls-server-name": "localhost",
        }
        user = {
            "client-certificate-data": base64(files.named),
            "client-key-data": base64(files.named),
            "token": "secret",
        }
        access = load(config(tmp_path, cluster, user))
        assert access.namespace == "team"
        request = serves(access, server)
        assert request.target == "/k8s/c-1/api/v1/nodes/n"
        assert request.headers["authorization"] == "Bearer secret"


def test_kubeconfig_with_files(tmp_path: Path, files: Certificates) -> None:
    """Files are relative to the kubeconfig; data wins over a file."""
    (tmp_path / "ca.pem").write_bytes(Path(files.ca).read_bytes())
    (tmp_path / "token").write_text("filed")
    with Scripted(files.server) as server:
        cluster = {"server": server.url, "certificate-authority": "ca.pem"}
        path = config(tmp_path, cluster, {"tokenFile": "token", "token": "other"})
        assert serves(load(path), server).headers["authorization"] == "Bearer filed"
        cluster["certificate-authority-data"] = base64(files.stranger_ca)
        access = load(config(tmp_path, cluster, {}))
        with (
            contextlib.closing(Client(access)) as client,
            pytest.raises(EngineDenied, match="not trusted"),
        ):
            client.create(Kind("/api/v1", "nodes"), {"metadata": {"name": "n"}}, deadline_s=20)


def test_client_certificate_is_shown(tmp_path: Path, files: Certificates) -> None:
    """A server that demands a certificate gets the one of the file."""
    user = {"client-certificate": files.named, "client-key": files.named}
    with Scripted(files.server, authority=files.ca) as server:
        cluster = {"server": server.url, "certificate-authority": files.ca}
        serves(load(config(tmp_path, cluster, user)), server)
        with (
            contextlib.closing(Client(load(config(tmp_path, cluster, {})))) as client,
            pytest.raises(EngineDenied, match="certificate"),
        ):
            client.create(Kind("/api/v1", "nodes"), {"metadata": {"name": "n"}}, deadline_s=20)


def test_the_alert_of_a_connection_that_is_reset(
    tmp_path: Path, files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has refused the certificate, and the request is sent a moment later."""
    send = http._Plain.send
    sent: list[bytes] = []

    def reset(link: http._Plain, data: bytes, deadline: float) -> None:
        sent.append(data)
        if len(sent) <= HANDSHAKE:
            send(link, data, deadline)
            return
        until(lambda: not link.is_quiet(), "the alert has arrived")
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(http._Plain, "send", reset)
    with Scripted(files.server, authority=files.ca) as server:
        cluster = {"server": server.url, "certificate-authority": files.ca}
        with (
            contextlib.closing(Client(load(config(tmp_path, cluster, {})))) as client,
            pytest.raises(EngineDenied, match="refuses this client's certificate"),
        ):
            client.create(Kind("/api/v1", "nodes"), {"metadata": {"name": "n"}}, deadline_s=20)
    assert len(sent) > HANDSHAKE


def test_which_kubeconfig(tmp_path: Path) -> None:
    """The named file, else those of KUBECONFIG that exist (the first wins), else that of HOME."""
    first = config(tmp_path, {"server": "https://192.0.2.11"}, {}, "first")
    second = config(tmp_path, {"server": "https://192.0.2.12"}, {}, "second")
    (tmp_path / ".kube").mkdir()
    config(tmp_path / ".kube", {"server": "https://192.0.2.13"}, {})

    def host(path: str, environ: dict[str, str]) -> str:
        return load(path, environ=environ).servers[0].host

    listed = f"{tmp_path / 'none'}::{first}:{second}"
    home = {"HOME": str(tmp_path)}
    assert host(second, {"KUBECONFIG": first}) == "192.0.2.12"
    assert host("", {"KUBECONFIG": listed, **home}) == "192.0.2.11"
    assert host("", home) == "192.0.2.13"
    assert load(first, "bare").servers[0].host == "192.0.2.1"
    only_users = tmp_path / "users"
    only_users.write_text('{"contexts": [], "users": [{"name": "u", "user": {"token": "mine"}}]}')
    found = load(environ={"KUBECONFIG": f"{only_users}:{second}"})
    assert found.authorization(0.0) == "Bearer mine"
    with pytest.raises(ConfigError, match="only files that do not exist"):
        load(environ={"KUBECONFIG": "/nowhere"})
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(environ={"HOME": "/nowhere"})
    assert caught.value.value == "/nowhere/.kube/config"


EXEC = {"apiVersion": V1, "command": "x"}
PLACES = {"C": "clusters[1].cluster", "U": "users[0].user", "X": "users[0].user.exec"}
YAML = """
apiVersion: v1
kind: Config
clusters:
- name: c
  cluster: {server: "https://192.0.2.9:6443"}
contexts:
- {name: here, context: {cluster: c, user: u}}
current-context: here
users:
- name: u
  user:
    token: secret
"""


def test_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML is read with PyYAML; without it the error says how to have JSON."""
    path = tmp_path / "config"
    path.write_text(YAML)
    found = load(str(path))
    assert found.servers[0].host == "192.0.2.9"
    assert found.authorization(0.0) == "Bearer secret"
    path.write_text("clusters: [\n  {]")
    with pytest.raises(ConfigError, match="neither JSON nor YAML, line 2"):
        load(str(path))
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match="PyYAML") as caught:
        load(str(path))
    assert "kubectl config view --raw --flatten -o json" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("cluster", "user", "field", "text"),
    [
        ({"server": ""}, {}, "C.server", "missing"),
        ({"server": 7}, {}, "C.server", "7"),
        ({"server": "10.0.0.1"}, {}, "C.server", "'10.0.0.1'"),
        ({"server": "https://a/b?c"}, {}, "C.server", "a/b"),
        ({"insecure-skip-tls-verify": True}, {}, "C.insecure-skip-tls-verify", "not sup"),
        ({"proxy-url": "http://p"}, {}, "C.proxy-url", "not supported"),
        ({"certificate-authority": "/nowhere"}, {}, "C.certificate-authority", "/nowhere"),
        ({"certificate-authority-data": "%"}, {}, "C.certificate-authority-data", "base64"),
        ({"certificate-authority-data": "QUJD"}, {}, "C.certificate-authority-data", "be used"),
        ({}, {"as": "root"}, "U.as", "not supported"),
        ({}, {"username": "u", "password": "p"}, "U.username", "not supported"),
        ({}, {"auth-provider": {"name": "gcp"}}, "U.auth-provider", "not supported"),
        ({}, {"token": 12345}, "U.token", "not a string"),
        ({}, {"token": "a b"}, "token of", "not hold a token"),
        ({}, {"tokenFile": "/nowhere"}, "token file", "/nowhere"),
        ({}, {"client-certificate": "/x"}, "U.client-key", "missing"),
        ({}, {"client-certificate": "/x", "client-key": "/y"}, "U.client-key", "/x /y"),
        ({}, {"exec": {"apiVersion": "v7"}}, "X.apiVersion", "v7"),
        ({}, {"exec": {"apiVersion": V1}}, "X.command", "a program"),
        ({}, {"exec": {**EXEC, "args": "-v"}}, "X.args", "a list"),
        ({}, {"exec": {**EXEC, "args": [7]}}, "X.args[0]", "7"),
        ({}, {"exec": {**EXEC, "env": [7]}}, "X.env[0]", "7"),
        ({}, {"exec": {**EXEC, "interactiveMode": "Sometimes"}},
         "X.interactiveMode", "Sometimes"),
        ({}, {"exec": {**EXEC, "interactiveMode": "Always"}},
         "X.interactiveMode", "no terminal"),
        ({}, {"exec": {"apiVersion": V1, "command": "/nowhere/x", "installHint": "get x"}},
         "X.command", "/nowhere/x"),
    ],
)  # fmt: skip
def test_wrong_kubeconfig(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], field: str, text: str
) -> None:
    """An error names the file, the field and the value, and shows no secret."""
    path = config(tmp_path, cluster, user)
    with pytest.raises(ConfigError) as caught:
        load(path)
    error = caught.value
    assert text in f"{error.message} {error.value}"
    if field[1] == ".":
        assert error.field == f"{path}: .{PLACES[field[0]]}{field[1:]}"
    shown = f"{error.message} {error.value} {error.hint}"
    assert "12345" not in shown
    assert "QUJD" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[]", "not a kubeconfig"),
        ("{}", "not a kubeconfig"),
        ("7", "not a kubeconfig"),
        ('{"clusters": 7, "contexts": [], "current-context": "x"}', "no context 'x'"),
        ('{"clusters": [], "contexts": [7], "current-context": "x"}', "not an object"),
        ('{"clusters": [], "contexts": 7, "current-context": "x"}', "not a list"),
        ('{"clusters": [], "contexts": [], "current-context": 7}', "not a string"),
        ('{"clusters": [], "contexts": [{"name": "a"}]}', "no current-context"),
        ('{"clusters": [], "contexts": [{"name": "a"}], "current-context": "x"}', "no context 'x'"),
        ('{"clusters": [], "contexts": [{"name": "x", "context": {"cluster": "c"}}],'
         ' "current-context": "x"}', "no cluster 'c'"),
    ],
)  # fmt: skip
def test_document_that_is_no_kubeconfig(tmp_path: Path, text: str, shown: str) -> None:
    """What is missing or of the wrong kind is said."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=shown) as caught:
        load(str(path))
    assert str(path) in f"{caught.value.message} {caught.value.field}"


def plugin(directory: Path, script: str, **more: Any) -> dict[str, Any]:
    """A user with a plugin that is this shell script."""
    path = directory / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"exec": {"apiVersion": V1, "command": "./plugin", "installHint": "get it", **more}}


def credential(**status: Any) -> str:
    """A command that prints an ExecCredential."""
    printed = {"apiVersion": V1, "kind": "ExecCredential", "status": status}
    return f"cat <<'.'\n{json.dumps(printed)}\n."


def test_plugin(tmp_path: Path, files: Certificates) -> None:
    """A plugin is told what it asks for, and its token is used until it expires or is refused."""
    script = f'echo "$1 $WHO $KUBERNETES_EXEC_INFO" >> {tmp_path}/ran\n' + credential(token="t-1")
    user = plugin(
        tmp_path,
        script,
        args=["login"],
        env=[{"name": "WHO", "value": "me"}],
        provideClusterInfo=True,
    )
    with Scripted(files.server) as server:
        cluster = {"server": server.url, "certificate-authority": files.ca}
        access = load(config(tmp_path, cluster, user))
        for _ in range(2):
            assert serves(access, server).headers["authorization"] == "Bearer t-1"
        ran = (tmp_path / "ran").read_text().splitlines()
        assert len(ran) == 1
        words = ran[0].split(" ", 2)
        assert words[:2] == ["login", "me"]
        assert json.loads(words[2]) == {
            "apiVersion": V1,
            "kind": "ExecCredential",
            "spec": {
                "interactive": False,
                "cluster": {"server": server.url, "certificate-authority": files.ca},
            },
        }
        server.play(refusal(401, "Unauthorized"))
        serves(access, server)
        assert len((tmp_path / "ran").read_text().splitlines()) == 2


def test_plugin_that_expires(tmp_path: Path) -> None:
    """A credential is got anew ten seconds before it expires, and not earlier."""
    for expires, runs in ((5, 3), (3600, 1)):
        at = datetime.now(UTC) + timedelta(seconds=expires)
        count = f"echo >> {tmp_path}/ran-{expires}\n"
        stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        user = plugin(tmp_path, count + credential(token="t", expirationTimestamp=stamp))
        access = load(config(tmp_path, {}, user))
        for _ in range(2):
            assert access.authorization(time.monotonic() + 20) == "Bearer t"
        assert len((tmp_path / f"ran-{expires}").read_text()) == runs


def test_plugin_with_a_certificate(tmp_path: Path, files: Certificates) -> None:
    """A plugin may give a certificate instead of a token."""
    pem = Path(files.named).read_text()
    user = plugin(tmp_path, credential(clientCertificateData=pem, clientKeyData=pem))
    with Scripted(files.server, authority=files.ca) as server:
        cluster = {"server": server.url, "certificate-authority": files.ca}
        request = serves(load(config(tmp_path, cluster, user)), server)
        assert "authorization" not in request.headers


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("exit 3", "status 3"),
        ("echo secret", "no credential"),
        ("echo '[]'", "no credential"),
        ("yes secret", "more than 1 MiB"),
        (credential(), "neither"),
        (credential(token=7), "no credential"),
        (credential(token="t", clientCertificateData="x"), "neither"),
        (credential(token="t", expirationTimestamp="soon"), "no credential"),
        (credential(token="secret").replace("/v1", "/v1beta1"), "v1beta1"),
        (credential(token="secret").replace("ExecCredential", "Pod"), "Pod"),
    ],
)
def test_plugin_that_fails(tmp_path: Path, script: str, text: str) -> None:
    """What a plugin does wrong is said; what it prints is not shown."""
    path = config(tmp_path, {}, plugin(tmp_path, script))
    with pytest.raises(EngineDenied, match=text) as caught:
        load(path)
    assert str(tmp_path) in str(caught.value)
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_plugin_that_hangs(tmp_path: Path) -> None:
    """A plugin is killed at its limit, with what it started and whatever it has printed."""
    script = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    access = Plugin(
        {key.casefold(): value for key, value in plugin(tmp_path, script)["exec"].items()},
        "exec",
        str(tmp_path),
        {},
    )
    began = time.monotonic()
    with pytest.raises(EngineUnavailable, match="in time"):
        access.run(time.monotonic() + 1)
    assert time.monotonic() - began < 20
    child = int((tmp_path / "child").read_text())
    for _ in range(200):  # until the kernel has taken it down
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        raise AssertionError("what the plugin has started still runs")


def test_plugin_over_http(tmp_path: Path) -> None:
    """What a plugin gives is not sent in the open."""
    path = config(tmp_path, {"server": "http://10.0.0.1"}, plugin(tmp_path, "exit 1"))
    with pytest.raises(ConfigError, match="http"):
        load(path)
