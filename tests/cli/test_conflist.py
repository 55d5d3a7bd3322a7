"""``fastipam conflist``: the network configurations that it prints."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastipam.cli.commands import cli
from fastipam.cni import configs, conflist_rules, conflists, more_blocks, versions
from fastipam.cni.versions import SUPPORTED
from fastipam.configuration import reader
from fastipam.configuration.network import Config, network_name

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
        (("--network", "a b"), "'a b' is not a valid network name"),
        (("--network", "n" * 256), "has 256 characters, but at most 255 are allowed"),
        (("--network", "."), "'.' is not a valid network name"),
        (("--mtu", "100"), "'100' is not a number of bytes from 576 to 65535: type 1450"),
        (("--mtu", "65536"), "'65536' is not a number of bytes"),
        (("--mtu", "x"), "'x' is not a number of bytes"),
        (("--mtu", "1e3"), "'1e3' is not a number of bytes"),
        (("--mtu", "1" * 5000), "is not a number of bytes"),
        (("--mtu", "1000", "--family", "ipv6"), "--mtu: 1000 is too small for --family ipv6"),
        (("--data-dir", "rel"), "--data-dir: 'rel' is not an absolute path"),
        (("--family", "ipx"), "'ipx' is not one of"),
    ],
)
def test_refused(options: tuple[str, ...], words: str) -> None:
    """The error names the value."""
    done = _run(*options)
    assert done.exit_code in (1, 2)
    assert words in done.stderr


def test_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dash is standard output, and no file of this name."""
    monkeypatch.chdir(tmp_path)
    assert _run("-o", "-").stdout == _run().stdout
    assert list(tmp_path.iterdir()) == []


NAMES = st.one_of(
    st.text("aZ0._- é/\n", min_size=1, max_size=6), st.sampled_from(["n" * 255, "n" * 256, "123"])
)
DIRECTORIES = st.one_of(
    st.text("/a. é\n", min_size=1, max_size=8), st.sampled_from(["/" + "d" * 255, "/srv/ipam"])
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    plugin=st.sampled_from(conflists.PLUGINS),
    name=NAMES,
    directory=DIRECTORIES,
    mtu=st.one_of(st.none(), st.integers(0, 70000).map(str)),
    families=st.lists(st.sampled_from(["ipv4", "ipv6"]), max_size=2),
    flags=st.sets(st.sampled_from(["--no-masquerade", "--no-portmap", "--no-bandwidth"])),
    version=st.sampled_from(conflists.VERSIONS),
)
def test_what_it_writes_is_taken(
    tmp_path: Path,
    plugin: str,
    name: str,
    directory: str,
    mtu: str | None,
    families: list[str],
    flags: set[str],
    version: str,
) -> None:
    """Every list that is written can be an agent's template, and an ADD reads it."""
    target = tmp_path / "podnet.conflist"
    target.unlink(missing_ok=True)
    words = [f"--plugin={plugin}", f"--network={name}", f"--data-dir={directory}", *flags]
    words += [f"--cni-version={version}", *(f"--family={one}" for one in families)]
    words += [] if mtu is None else [f"--mtu={mtu}"]
    done = _run(*words, "-o", str(target))
    if done.exit_code:
        assert done.stderr
        assert not target.exists()
        return
    conflist_rules.require_list(str(target), "--cluster")
    content = conflist_rules.completed(str(target), (), None)
    for one in configs.plugins_of(reader.decode(content)):
        config = Config(one, versions.agree(one, "ADD"), more_blocks.read, content)
        assert (config.name, config.data_dir) == (name, directory)
        newest = one | {"cniversion": "1.1.0"}  # as a runtime that knows STATUS asks
        Config(newest, versions.agree(newest, "STATUS"), more_blocks.read, content)


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
