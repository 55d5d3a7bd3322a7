"""``fastipam conflist``: the network configurations that it prints."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastipam.cli.commands import cli
from fastipam.cni import conflists
from fastipam.cni.versions import SUPPORTED
from fastipam.configuration.network import network_name

from ..e2e import tools


def _run(*options: str) -> Any:
    return CliRunner().invoke(cli, ["conflist", *options])


def _printed(*options: str) -> dict[str, Any]:
    done = _run(*options)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("plugin", conflists.PLUGINS)
def test_libcni_rules(plugin: str) -> None:
    """A name, versions that the plugin supports, plugins with a type each that are shipped."""
    document = _printed("--plugin", plugin)
    assert network_name(document) == "podnet"
    assert set(document["cniVersions"]) <= set(SUPPORTED)
    assert document["cniVersion"] == document["cniVersions"][0] == "1.0.0"
    types = [one["type"] for one in document["plugins"]]
    assert types == [plugin, "portmap", "bandwidth"]
    assert not any({"name", "cniVersion"} & one.keys() for one in document["plugins"])
    assert document["plugins"][0]["ipam"]["type"] == "fastipam"
    tools.require_cni_plugins(*types)


def test_options() -> None:
    """Each option changes what it says, and nothing else."""
    plain = _printed()
    first = plain["plugins"][0]
    assert first == {
        "type": "ptp",
        "ipMasq": True,
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        "ipam": {"type": "fastipam", "cluster": {"engine": "kubernetes"}},
    }
    assert _printed("--network", "blue") == plain | {"name": "blue"}
    assert _printed("--mtu", "1450")["plugins"][0] == first | {"mtu": 1450}
    assert _printed("--no-masquerade")["plugins"][0] == first | {"ipMasq": False}
    assert _printed("--no-portmap", "--no-bandwidth")["plugins"] == [first]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    both = _printed("--family", "ipv6", "--family", "ipv4")
    assert both["plugins"][0]["ipam"] == first["ipam"] | {"routes": routes}
    elsewhere = _printed("--data-dir", "/srv/ipam")
    assert elsewhere["plugins"][0]["ipam"] == first["ipam"] | {"dataDir": "/srv/ipam"}
    old = _printed("--cni-version", "1.0.0")
    assert old.keys() == plain.keys() - {"cniVersions"}


def test_file(tmp_path: Path) -> None:
    """With -o the file has what would be printed, for everybody to read."""
    target = tmp_path / "podnet.conflist"
    assert _run("-o", str(target)).output == ""
    assert target.read_text() == _run().stdout
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    done = _run("-o", str(tmp_path / "no" / "podnet.conflist"))
    assert done.exit_code == 1
    assert f"{tmp_path / 'no'}: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--plugin", "macvlan"), "'macvlan' is not one of 'ptp', 'bridge'"),
        (("--network", "a b"), "the network name 'a b' has characters"),
        (("--mtu", "100"), "100 is not in the range"),
        (("--family", "ipx"), "'ipx' is not one of"),
    ],
)
def test_refused(options: tuple[str, ...], words: str) -> None:
    """The error names the value."""
    done = _run(*options)
    assert done.exit_code in (1, 2)
    assert words in done.stderr


def test_complete() -> None:
    """A node adds the MTU and routes where they are missing, and to nothing else."""
    content = conflists.encode(conflists.standard())
    completed = json.loads(conflists.complete(content, "x", {6, 4}, 9000))
    assert completed["plugins"][0]["mtu"] == 9000
    assert completed["plugins"][0]["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    assert completed["plugins"][1:] == conflists.standard()["plugins"][1:]
    whole = conflists.encode(conflists.standard(mtu=0, families=[4])) + b"\n"
    assert conflists.complete(whole, "x", {6}, 9000) is whole
    other = {"type": "macvlan", "ipam": {"type": "dhcp"}}
    mine = {"name": "n", "plugins": [other]}
    assert json.loads(conflists.complete(json.dumps(mine).encode(), "x", {4}, 9000)) == mine
