"""The example of a network configuration: libcni's rules, and the plugin's own answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fastipam import cni
from fastipam.cni.versions import SUPPORTED

from ..e2e import tools
from .support import CONFLIST

_LISTS_SINCE = (0, 3, 0)  # older versions know single plugins only


@pytest.fixture
def conflist() -> dict[str, Any]:
    """The document, read as strictly as a runtime may."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    document = json.loads(CONFLIST.read_text(), object_pairs_hook=unique)
    assert isinstance(document, dict)
    return document


def _for_plugin(conflist: dict[str, Any], version: str, data_dir: Path) -> bytes:
    """What libcni hands to the first plugin, and that one to its IPAM plugin."""
    first = dict(conflist["plugins"][0], name=conflist["name"], cniVersion=version)
    first["ipam"] = dict(first["ipam"], dataDir=str(data_dir))
    return json.dumps(first).encode()


def test_libcni_rules(conflist: dict[str, Any]) -> None:
    """A name that may be a file's, a version that has lists, plugins of which each has a type."""
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", conflist["name"])
    assert conflist["cniVersion"] in SUPPORTED
    assert tuple(map(int, conflist["cniVersion"].split("."))) >= _LISTS_SINCE
    assert CONFLIST.suffix == ".conflist"
    assert [one["type"] for one in conflist["plugins"]] == ["bridge", "portmap"]
    assert not any({"name", "cniVersion"} & one.keys() for one in conflist["plugins"])
    assert conflist["plugins"][0]["ipam"]["type"] == "fastipam"


@pytest.mark.parametrize("version", SUPPORTED)
def test_plugin(conflist: dict[str, Any], version: str, tmp_path: Path) -> None:
    """The plugin serves it, in every version, and has no remark."""
    stdin = _for_plugin(conflist, version, tmp_path / "store")
    environ = {
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/netns/none-of-this-name",
        "CNI_PATH": "/opt/cni/bin",
    }
    remarks: list[str] = []
    for command in ("ADD", "DEL"):
        status, output = cni.handle(environ | {"CNI_COMMAND": command}, stdin, log=remarks.append)
        assert status == 0, output
    assert remarks == []


def test_plugins_are_installed(conflist: dict[str, Any]) -> None:
    """The main plugins that it names are those that distributions ship."""
    tools.require_cni_plugins(*(one["type"] for one in conflist["plugins"]))
