"""The key ``cluster``: what is refused names its field, what is accepted means what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fastipam import cni, rtnetlink
from fastipam.cli.commands import cli
from fastipam.cluster.engines.connect import connect
from fastipam.cluster.engines.etcd.settings import Credentials
from fastipam.cluster.own_addresses import own_addresses
from fastipam.cni import more_blocks
from fastipam.configuration.cluster import Settings
from fastipam.errors import ConfigError
from tests.cni.plugin import environment

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = {"endpoints": ["http://10.0.0.1:2379"], "pool": "10.32.0.0/16", "node": "a"}
TWO_FAMILIES = ["10.32.0.0/16", "fd00:32::/104"]


def _settings(**changed: Any) -> Settings:
    """Those of a small cluster, with some keys changed; keys come as the document has them."""
    holder = {**PLAIN, **changed}
    return Settings({key.casefold(): value for key, value in holder.items() if value is not None})


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"endpoints": None}, "endpoints"),
        ({"engine": 7}, "engine"),
        ({"options": {"x": 1}}, "options.x"),
        ({"options": []}, "options"),
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": "http://10.0.0.1:2379"}, "endpoints"),
        ({"endpoints": [7]}, "endpoints[0]"),
        ({"endpoints": ["http://10.0.0.1:2379", "10.0.0.2:2379"]}, "endpoints[1]"),
        ({"endpoints": ["http://10.0.0.1"]}, "endpoints[0]"),
        ({"endpoints": ["ftp://10.0.0.1:2379"]}, "endpoints[0]"),
        ({"prefix": "/with blank"}, "prefix"),
        ({"prefix": 7}, "prefix"),
        ({"prefix": "/\0"}, "prefix"),
        ({"node": "a/b"}, "node"),
        ({"node": ".."}, "node"),
        ({"node": "x" * 254}, "node"),
        ({"address": "host.example"}, "address"),
        ({"address": ["192.0.2.1", 7]}, "address"),
        ({"fencing": "yes"}, "fencing"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"credentials": "relative/file"}, "credentials"),
        ({"pool": None}, "pool"),
        ({"pool": []}, "pool"),
        ({"pool": "10.32.0.1/16"}, "pool"),
        ({"pool": ["10.32.0.0/16", 7]}, "pool[1]"),
        ({"pool": {"rangestart": "10.32.0.5"}}, "pool.subnet"),
        ({"pool": {"subnet": "10.32.0.0/16", "router": "10.32.0.1"}}, "pool.router"),
        ({"pool": {"subnet": 7}}, "pool.subnet"),
        ({"blockSize": 8}, "blockSize"),
        ({"blockSize": 32}, "blockSize"),
        ({"blockSize": "24"}, "blockSize"),
        ({"blockSize": True}, "blockSize"),
        ({"blockSize": [24, 120]}, "blockSize"),
        ({"pool": TWO_FAMILIES, "blockSize": [24, 120, 121]}, "blockSize"),
        ({"pool": "fd00:32::/64", "blockSize": 120}, "blockSize"),
    ],
    ids=str,
)
def test_refused(changed: dict[str, Any], field: str) -> None:
    """The error names the field as it was written."""
    with pytest.raises(ConfigError) as caught:
        _settings(**changed)
    assert caught.value.field.rpartition("cluster.")[2] == field


def test_block_sizes() -> None:
    """One number is IPv4's, and IPv6's blocks are as large; two are both families'."""

    def lengths(**changed: Any) -> list[int]:
        return [each.block_length for each in _settings(**changed).pool.sets]

    assert lengths() == [24]
    assert lengths(blockSize=26) == [26]
    assert lengths(pool=TWO_FAMILIES) == [24, 120]
    assert lengths(pool=TWO_FAMILIES, blockSize=26) == [26, 122]
    assert lengths(pool=TWO_FAMILIES, blockSize=[25, 124]) == [25, 124]
    assert lengths(pool="fd00:32::/104") == [120]


def test_pool_with_bounds() -> None:
    """Blocks without an address to serve are never claimed, nor are addresses outside numbered."""
    settings = _settings(
        pool={"subnet": "10.32.0.0/22", "rangestart": "10.32.1.16", "rangeend": "10.32.2.20"}
    )
    (geometry,) = settings.geometries
    assert geometry.count == 4
    assert geometry.unusable == {0, 3}
    base = 10 << 24 | 32 << 16
    assert settings.geometry_of(4, base + 256) == geometry
    assert settings.geometry_of(4, base + 1024) is None
    assert settings.geometry_of(6, 1) is None


def test_addresses_and_endpoints() -> None:
    """One address or several; a slash behind an endpoint or none makes no difference."""
    assert _settings(address="192.0.2.1").addresses == ("192.0.2.1",)
    assert _settings(address=["192.0.2.1", "2001:db8::1"]).addresses == ("192.0.2.1", "2001:db8::1")
    slashed = _settings(endpoints=["https://etcd.example:2379/"], prefix="/mine")
    assert slashed.endpoints == ("https://etcd.example:2379",)
    assert slashed.prefix == "/mine/"


def test_engine() -> None:
    """Etcd is the engine; another one needs no endpoints, and reads its options itself."""
    assert _settings().engine == "etcd"
    other = _settings(engine="other", options={"place": "here"}, endpoints=None)
    assert (other.engine, other.options, other.endpoints) == ("other", {"place": "here"}, ())
    with pytest.raises(ConfigError, match="'other' is not an engine") as caught:
        connect(other)
    assert caught.value.field == "cluster.engine"
    assert "etcd" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="'' is not an engine"):
        connect(_settings(engine="", endpoints=None))


def test_node_is_the_host() -> None:
    """The host's name counts where the settings name no node; without either there is none."""
    holder = {"endpoints": PLAIN["endpoints"], "pool": PLAIN["pool"]}
    assert Settings(holder, host_name="worker-7").node == "worker-7"
    with pytest.raises(ConfigError, match="a node's name"):
        Settings(holder)


def test_credentials(tmp_path: Path) -> None:
    """The file is read anew each time; a colon in a password is the password's."""
    file = tmp_path / "credentials"
    settings = _settings(credentials=str(file))
    assert Credentials.of(_settings()).login == ""
    with pytest.raises(ConfigError, match="cannot be read"):
        Credentials.of(settings)
    for text in ("no colon\n", ":no user\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="user:password"):
            Credentials.of(settings)
    file.write_text("ipam:a:b\r\nanother line\n")
    assert json.loads(Credentials.of(settings).login) == {"name": "ipam", "password": "a:b"}
    file.write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        Credentials.of(settings)


SECRET = "s3cret"
URL = f"https://somebody:{SECRET}@10.0.0.1:2379"


@pytest.mark.parametrize(
    "changed",
    [
        {"endpoints": [URL]},
        {"endpoints": [f"somebody:{SECRET}@10.0.0.1:2379"]},
        {"endpoints": [f"https://somebody:{SECRET}/with@slash@10.0.0.1:2379"]},
        {"endpoints": ["http://10.0.0.2:2379", f"https://{'x' * 90}:{SECRET}@10.0.0.1:2379"]},
        {"endpoints": URL},
        {"endpoints": [[URL]]},
        {"endpoints": [URL] * 40},
        {"endpoints": {"a": URL}},
        {"options": {"url": URL}},
        {"engine": URL},
        {"pool": {"router": URL}},
        {"pool": [URL]},
        {"address": URL},
        {"credentials": URL},
        {"dataDir": URL},
        {"timeout": URL},
    ],
    ids=repr,
)
def test_credentials_in_a_url_are_never_shown(changed: dict[str, Any], tmp_path: Path) -> None:
    """Neither an answer of the plugin nor a command names user and password."""
    holder = {**PLAIN, **changed}
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps({"network": "podnet", **holder}))
    texts: list[str] = []
    for settings in (holder, str(file)):
        ipam = {"type": "fastipam", "dataDir": str(tmp_path / "store"), "cluster": settings}
        conf = {"cniVersion": "1.1.0", "name": "podnet", "type": "bridge", "ipam": ipam}
        for command in ("ADD", "STATUS"):
            environ = environment(command)
            status, raw = cni.handle(environ, json.dumps(conf).encode(), log=texts.append)
            assert status == 1
            texts.append(raw.decode())
    done = CliRunner().invoke(cli, ["cluster", "status", "--timeout", "0.1", "--config", str(file)])
    texts.append(done.output)
    assert done.exit_code == 1
    for text in texts:
        assert SECRET not in text
        assert "somebody" not in text


def test_field_of_an_endpoint(tmp_path: Path) -> None:
    """An endpoint is named by its place in the configuration, or in its file."""
    holder = {**PLAIN, "endpoints": ["http://10.0.0.1:2379", URL]}
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps(holder))
    for settings, field in (
        (holder, "ipam.cluster.endpoints[1]"),
        (str(file), f"{file}: endpoints[1]"),
    ):
        with pytest.raises(ConfigError) as refused:
            more_blocks.read(settings, "podnet", "/var/lib/cni/fastipam", [])
        assert refused.value.field == field
        assert "https://…@10.0.0.1:2379" in refused.value.message
        assert "credentials" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"pool": "10.32.0.0/28"}, "/24 (the default of blockSize) is not a valid block size"),
        (
            {"pool": "10.32.0.0/28", "blockSize": 24},
            "/24 is not a valid block size for 10.32.0.0/28",
        ),
        ({"pool": "fd00::/48"}, "/120 (the default of blockSize) cuts fd00::/48"),
        (
            {"pool": [TWO_FAMILIES[0], "fd00::/124"]},
            "/120 (the default of blockSize) is not a valid",
        ),
        (
            {"pool": [TWO_FAMILIES[0], "fd00::/124"], "blockSize": 25},
            "as many addresses as IPv4 blocks of /25",
        ),
        ({"lowWater": 3}, "2 (the default of highWater) is not at least 1 above"),
        ({"highWater": 1}, "above lowWater 0.25 (the default of lowWater)"),
        ({"lowWater": 3, "highWater": 3}, "3 is not at least 1 above lowWater 3"),
    ],
)
def test_limits_name_where_they_come_from(changed: dict[str, Any], text: str) -> None:
    """A value that nobody wrote is called a default, and one that was derived says of what."""
    with pytest.raises(ConfigError) as refused:
        _settings(**changed)
    assert text in refused.value.message


@pytest.mark.parametrize(
    ("server", "field", "words"),
    [
        ("nonsense", "server", "a URL such as https://10.0.0.1:6443"),
        ("https://10.0.0.1:99999", "server", "a URL such as"),
        ("https://[fd00::1", "server", "a URL such as"),
        (["https://10.0.0.1", "x y"], "server[1]", "a URL such as"),
        ("http://10.0.0.1:6443", "server", "uses http, which would send the"),
    ],
)
def test_a_server_of_the_kubernetes_api(server: object, field: str, words: str) -> None:
    """A plugin, which never asks it, refuses a URL that is none as well."""
    with pytest.raises(ConfigError, match=words) as caught:
        Settings({"engine": "kubernetes", "node": "a", "server": server})
    assert caught.value.field == f"cluster.{field}"


def test_servers_of_the_kubernetes_api() -> None:
    """With and without a port, IPv6, this machine without TLS."""
    urls = ["https://10.0.0.1", "https://[fd00::1]:6443/", "https://[fd00::1]", "http://[::1]:80"]
    found = Settings({"engine": "kubernetes", "node": "a", "server": urls})
    assert list(found.servers) == urls


def test_addresses_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's addresses as a pod is told them, unless the settings have some."""
    path = tmp_path / "cluster.json"
    monkeypatch.setenv("NODE_IPS", "192.0.2.1,2001:db8::1")
    path.write_text('{"engine": "kubernetes"}')
    assert more_blocks.read_settings(str(path)).addresses == ("192.0.2.1", "2001:db8::1")
    path.write_text('{"engine": "kubernetes", "address": "192.0.2.9"}')
    assert more_blocks.read_settings(str(path)).addresses == ("192.0.2.9",)
    monkeypatch.setenv("NODE_IPS", "192.0.2.1, host.example")
    path.write_text('{"engine": "kubernetes"}')
    with pytest.raises(ConfigError) as refused:
        more_blocks.read_settings(str(path))
    assert (refused.value.field, refused.value.value) == ("NODE_IPS", "192.0.2.1, host.example")


def test_own_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the settings; else that towards the store, and the one beside it of other pools."""
    monkeypatch.setattr(rtnetlink, "beside", lambda family, _: (6, 7) if family == 4 else None)
    one, two = _settings(), _settings(pool=TWO_FAMILIES, blockSize=None)
    assert own_addresses(_settings(address="192.0.2.8"), tuple) == ("192.0.2.8",)
    assert own_addresses(one, lambda: ("192.0.2.9",)) == ("192.0.2.9",)
    assert own_addresses(two, lambda: ("192.0.2.9",)) == ("192.0.2.9", "::7")
    assert own_addresses(two, lambda: ("2001:db8::9",)) == ("2001:db8::9",)
    assert own_addresses(two, tuple) == ()


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"name": 5}, "name", "this is a number, not a string"),
        ({"name": ["n"]}, "name", "not a string"),
        ({"name": None}, "name", "the network name is missing"),
        ({"name": ""}, "name", "the network name is missing"),
        ({"name": "a b"}, "name", "'a b' is not a valid network name"),
        ({"dataDir": 5}, "ipam.dataDir", "5 is not an absolute path"),
        ({"dataDir": "rel"}, "ipam.dataDir", "'rel' is not an absolute path"),
    ],
)
def test_a_configuration_of_a_network(
    changed: dict[str, object], field: str, words: str, tmp_path: Path
) -> None:
    """Its name and its dataDir are checked as an ADD checks them."""
    ipam: dict[str, object] = {"type": "fastipam", "cluster": {"engine": "kubernetes"}}
    content: dict[str, object] = {"cniVersion": "1.0.0", "name": "n", "type": "ptp", "ipam": ipam}
    for key, value in changed.items():
        (ipam if key == "dataDir" else content)[key] = value
    path = tmp_path / "n.conf"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        more_blocks.read_any(str(path))
    assert caught.value.field == f"{path}: {field}"
    assert words in caught.value.message
