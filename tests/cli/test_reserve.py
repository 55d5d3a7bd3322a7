"""``fastipam reserve`` before the first ADD of a network, and of addresses that nobody can get."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import fastipam
from fastipam import cni
from fastipam.cli.commands import cli
from fastipam.storage import open_stores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A node with the network ``podnet``, which no ADD has used yet, and one in another store."""
    (tmp_path / "net.d").mkdir()
    for number, (name, store) in enumerate({"podnet": "store", "other": "elsewhere"}.items()):
        plugin = {"type": "bridge", "ipam": _ipam(tmp_path / store)}
        content = {"cniVersion": "1.1.0", "name": name, "plugins": [plugin]}
        (tmp_path / "net.d" / f"{number}.conflist").write_text(json.dumps(content))
    (tmp_path / "net.d" / "9.conf").write_text("no JSON")
    yield tmp_path
    open_stores.close_all()


def _ipam(store: Path) -> dict[str, Any]:
    return {
        "type": "fastipam",
        "dataDir": str(store),
        "subnet": "10.7.0.0/28",
        "exclude": ["10.7.0.3"],
        "durability": "relaxed",
    }


def _reserve(node: Path, *words: str) -> Result:
    options = ["--data-dir", str(node / "store"), "--conf-dir", str(node / "net.d")]
    return CliRunner().invoke(cli, ["reserve", *words, *options])


def _add(node: Path, name: str = "podnet") -> str:
    config = {"cniVersion": "1.1.0", "name": name, "ipam": _ipam(node / "store")}
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/x",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/x",
    }
    status, output = cni.handle(environ, json.dumps(config).encode())
    assert status == 0, output
    return str(json.loads(output)["ips"][0]["address"])


@pytest.mark.parametrize("words", [(), ("--network", "podnet")])
def test_before_the_first_add(words: tuple[str, ...], node: Path) -> None:
    """The configured ranges count, and the first ADD gets another address in the same store."""
    done = _reserve(node, "10.7.0.2", "--reason", "printer", *words)
    assert done.exit_code == 0, done.output
    assert "10.7.0.2" in done.output
    assert _add(node) == "10.7.0.4/28"
    with fastipam.open(node / "store", create=False) as ipam:
        assert ipam.store.durability == "relaxed"
        assert ipam.network("podnet").stats().reserved == 1


def test_a_second_network_of_a_store(node: Path) -> None:
    """A store that has other networks gets the one that is named and configured."""
    _add(node, "first")
    assert _reserve(node, "10.7.0.9", "--network", "podnet").exit_code == 0
    with fastipam.open(node / "store", create=False) as ipam:
        assert ipam.network("podnet").reservation("10.7.0.9") is not None
        assert ipam.network("first").reservation("10.7.0.9") is None


def test_a_network_that_nobody_knows(node: Path) -> None:
    """Neither the store nor a configuration for it knows the network: an error, and no store."""
    assert _reserve(node, "10.7.0.9", "--network", "other").exit_code == 1
    assert not (node / "store").exists()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("10.7.0.1", "the address is the gateway"),
        ("10.7.0.3", "the address is excluded by the configuration"),
        ("10.8.0.1", "the address is outside the ranges"),
        ("fd00::1", "the address is outside the ranges"),
        ("10.7.0.15", "the address is outside the ranges"),
    ],
)
def test_addresses_that_nobody_can_get(target: str, why: str, node: Path) -> None:
    """The error says why the ranges cannot assign the address, and which they are."""
    _add(node)
    done = _reserve(node, target)
    assert done.exit_code == 1
    shown = " ".join(done.output.split())
    start = "fastipam: "
    assert shown.startswith(f"{start}{target} can never be assigned: {why}")
    assert "10.7.0.1-10.7.0.14" in shown
