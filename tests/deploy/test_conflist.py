"""The network configuration of the chart: libcni's rules, and what `fastipam conflist` prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fastipam import cni
from fastipam.cni import conflists
from fastipam.cni.versions import SUPPORTED

from .. import rendering
from ..e2e import tools


@pytest.fixture
def conflist() -> dict[str, Any]:
    """The document, read as strictly as a runtime may."""
    tools.require_module("yaml")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    text = rendering.document("ConfigMap", "fastipam-network")["data"]["network.conflist"]
    document = json.loads(text, object_pairs_hook=unique)
    assert isinstance(document, dict)
    return document


def test_as_the_command_prints_it(conflist: dict[str, Any]) -> None:
    """One network configuration, whoever makes it."""
    assert conflist == conflists.standard(masquerade=False)


def test_libcni_rules(conflist: dict[str, Any]) -> None:
    """A name that may be a file's, versions that have lists, plugins of which each has a type."""
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", conflist["name"])
    assert {conflist["cniVersion"], *conflist["cniVersions"]} <= set(SUPPORTED)
    assert [one["type"] for one in conflist["plugins"]] == ["ptp", "portmap", "bandwidth"]
    assert not any({"name", "cniVersion"} & one.keys() for one in conflist["plugins"])
    assert conflist["plugins"][0]["ipam"]["type"] == "fastipam"


@pytest.mark.parametrize("version", SUPPORTED)
def test_plugin(conflist: dict[str, Any], version: str, tmp_path: Path) -> None:
    """The plugin understands it, in every version: before an agent runs it says to try later."""
    first = dict(conflist["plugins"][0], name=conflist["name"], cniVersion=version)
    first["ipam"] = dict(first["ipam"], dataDir=str(tmp_path / "store"))
    environ = {
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/netns/none-of-this-name",
        "CNI_PATH": "/opt/cni/bin",
    }
    remarks: list[str] = []
    stdin = json.dumps(first).encode()
    status, output = cni.handle(environ | {"CNI_COMMAND": "ADD"}, stdin, log=remarks.append)
    assert (status, json.loads(output)["code"]) == (1, 11), output
    status, output = cni.handle(environ | {"CNI_COMMAND": "DEL"}, stdin, log=remarks.append)
    assert status == 0, output
    assert remarks == []


def test_plugins_are_installed(conflist: dict[str, Any]) -> None:
    """The main plugins that it names are those that distributions ship."""
    tools.require_cni_plugins(*(one["type"] for one in conflist["plugins"]))
