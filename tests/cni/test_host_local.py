"""A new network whose addresses host-local still has: refused until they are imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import fastipam
from fastipam import host_local
from fastipam.cli.commands import cli

from .plugin import Call, Held, Make, Plugin

if TYPE_CHECKING:
    from pathlib import Path

SUBNET = {"subnet": "10.1.2.0/24"}


@pytest.fixture(autouse=True)
def default_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which host-local keeps its leases by default."""
    tree = tmp_path / "networks"
    monkeypatch.setattr(host_local, "DEFAULT_TREE", str(tree))
    return tree


def write(tree: Path, name: str, content: str = "old-1\r\neth0", network: str = "mynet") -> Path:
    """Write a file as host-local does."""
    directory = tree / network
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(content.encode())
    return path


def import_(tree: Path, store: Path) -> None:
    """Run the command that the refusal names."""
    line = ["import", "host-local", str(tree), "--data-dir", str(store)]
    assert CliRunner().invoke(cli, line).exit_code == 0


@pytest.mark.parametrize("place", ["networks", "store"])
def test_refused_until_imported(
    place: str, tmp_path: Path, call: Call, config: Make, held: Held
) -> None:
    """ADD answers 7 and STATUS 50, with what to type; after an import both serve."""
    tree = tmp_path / place
    write(tree, "10.1.2.9")
    write(tree, "lock", "")
    for command, code in (("ADD", 7), ("STATUS", 50), ("ADD", 7)):
        answer = call(command, config(ipam=SUBNET))
        assert answer.code == code
        assert f"{tree}/mynet (for example 10.1.2.9 of container old-1)" in answer.message
        assert "fastipam import host-local" in answer.document["details"]
        assert '"ignoreHostLocal": true' in answer.document["details"]
    assert held() == {}
    import_(tree, tmp_path / "store")
    assert call("STATUS", config(ipam=SUBNET)).status == 0
    assert call("ADD", config(ipam=SUBNET)).addresses == ["10.1.2.2/24"]
    assert call("DEL", config(ipam=SUBNET), "old-1").status == 0
    assert list(held().values()) == [("c1", "eth0")]


def test_the_hint_can_be_typed(tmp_path: Path, call: Call, config: Make) -> None:
    """The command in the hint names the tree and the store when they are not the default ones."""
    write(tmp_path / "store", "10.1.2.9")
    details = call("ADD", config(ipam=SUBNET)).document["details"]
    words = details.partition("`")[2].partition("`")[0].split()
    assert words[0] == "fastipam"
    assert CliRunner().invoke(cli, words[1:]).exit_code == 0
    assert call("ADD", config(ipam=SUBNET)).status == 0


def test_ignored_on_request(default_tree: Path, call: Call, config: Make) -> None:
    """With the key the leases of host-local do not matter; another kind of value is refused."""
    write(default_tree, "10.1.2.2")
    made = config(ipam=SUBNET | {"ignoreHostLocal": True})
    assert call("STATUS", made).status == 0
    answer = call("ADD", made)
    assert answer.addresses == ["10.1.2.2/24"]
    assert "unknown key" not in answer.stderr
    wrong = call("ADD", config(ipam=SUBNET | {"ignoreHostLocal": "yes"}))
    assert (wrong.code, wrong.message.partition(":")[0]) == (7, "ipam.ignoreHostLocal")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lock", ""),
        ("last_reserved_ip.0", "10.1.2.9"),
        ("10.1.2.9", ""),
        ("10.1.2.9", " \r\n"),
        ("README", "old-1"),
    ],
)
def test_what_is_no_lease(
    default_tree: Path, call: Call, config: Make, name: str, content: str
) -> None:
    """Locks, cursors, empty files and other files do not stop an ADD."""
    write(default_tree, name, content)
    assert call("ADD", config(ipam=SUBNET)).status == 0


def test_leases_from_before_the_boot(default_tree: Path, call: Call, config: Make) -> None:
    """Their containers are gone."""
    booted_ns = host_local.booted_ns()
    path = write(default_tree, "10.1.2.9")
    os.utime(path, ns=(booted_ns - 10**9,) * 2)
    assert call("ADD", config(ipam=SUBNET)).status == 0


def test_another_network(default_tree: Path, call: Call, config: Make) -> None:
    """Only the directory of the network's own name counts."""
    write(default_tree, "10.1.2.9", network="other")
    assert call("ADD", config(ipam=SUBNET)).status == 0
    assert call("ADD", config(ipam=SUBNET, name="other")).code == 7


def test_network_that_is_in_use(default_tree: Path, call: Call, config: Make) -> None:
    """A network that has ever assigned an address is served, even when it has none any more."""
    assert call("ADD", config(ipam=SUBNET)).status == 0
    write(default_tree, "10.1.2.9")
    assert call("ADD", config(ipam=SUBNET), "c2").status == 0
    for container in ("c1", "c2"):
        assert call("DEL", config(ipam=SUBNET), container).status == 0
    assert call("ADD", config(ipam=SUBNET), "c3").status == 0


def test_network_that_only_has_a_reservation(
    default_tree: Path, tmp_path: Path, call: Call, config: Make
) -> None:
    """A reservation is made before the first pod, and says nothing about host-local's leases."""
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("mynet", "10.1.2.0/24").reserve("10.1.2.77")
    write(default_tree, "10.1.2.9")
    assert call("ADD", config(ipam=SUBNET)).code == 7


def test_directory_that_cannot_be_read(
    default_tree: Path, call: Call, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be looked at may have leases: refused, with the reason."""
    write(default_tree, "10.1.2.9")

    def refuse(directory: str) -> list[str]:
        if directory.startswith(str(default_tree)):
            raise PermissionError(13, "Permission denied")
        return []

    monkeypatch.setattr(host_local, "file_names", refuse)
    answer = call("ADD", config(ipam=SUBNET))
    assert answer.code == 7
    assert f"{default_tree}/mynet cannot be read (Permission denied)" in answer.message


def test_installed_plugin(tmp_path: Path, plugin: Plugin, config: Make) -> None:
    """The executable refuses as well, without an agent."""
    write(tmp_path / "store", "10.1.2.9")
    assert plugin("ADD", config(ipam=SUBNET)).code == 7
    assert plugin("ADD", config(ipam=SUBNET | {"ignoreHostLocal": True})).status == 0
