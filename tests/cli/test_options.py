"""Options and files that several commands read: what each takes, and what it refuses, in a line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from fastipam.cli.commands import cli
from fastipam.cli.commands.cluster.options import settings_of
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
from pathlib import Path

CLUSTER = {"endpoints": ["http://127.0.0.1:1"], "pool": "10.32.0.0/12"}


@pytest.mark.parametrize(
    "words",
    [
        "sweep --grace",
        "list --watch --interval",
        "agent --grace",
        "agent --client-timeout",
        "agent --sweep-interval",
        "cluster nodes --timeout",
    ],
)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "soon"])
def test_seconds(words: str, value: str) -> None:
    """A span of time that is none is wrong usage: nothing is begun with it."""
    done = CliRunner().invoke(cli, [*words.split(), value])
    assert done.exit_code == 2
    assert words.rsplit(maxsplit=1)[-1] in done.output
    assert f"'{value}' is not a number of seconds from 0" in done.output


@pytest.mark.parametrize("words", ["agent --max-connections", "cluster claim --blocks"])
@pytest.mark.parametrize("value", ["0", "1.5", "many"])
def test_counts(words: str, value: str) -> None:
    """A count out of its bounds is answered with the bounds."""
    done = CliRunner().invoke(cli, [*words.split(), value])
    assert done.exit_code == 2
    assert f"'{value}' is not a whole number from 1 to " in done.output


@pytest.mark.parametrize(
    "words",
    [
        "list --pod",
        "list --container",
        "list --address",
        "history",
        "history --pod",
        "release --dry-run",
        "release --container c1 --ifname",
        "reserve 10.32.0.9 --owner",
        "gc list --network",
        "status --conf-dir",
        "install --bin-dir",
        "install --name",
        "import host-local",
        "cluster status --config",
        "--data-dir",
    ],
)
def test_empty_values(words: str, tmp_path: Path) -> None:
    """A variable that is not set selects nothing: an empty value is wrong usage, not no value."""
    directory = tmp_path / "store"
    done = CliRunner().invoke(cli, [*words.split(), ""], env={"FASTIPAM_DATA_DIR": str(directory)})
    assert done.exit_code == 2
    assert "the value is empty" in done.output
    assert not directory.exists()


def _file(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_settings_from_every_kind_of_file(tmp_path: Path) -> None:
    """The cluster's own file, a configuration, a list of plugins, one that names another file."""
    own = _file(tmp_path / "own", CLUSTER | {"network": "n", "dataDir": "/d"})
    assert settings_of(own, None, None)[1:] == ("n", "/d")
    assert settings_of(own, "m", "/e")[1:] == ("m", "/e")
    ipam: dict[str, Any] = {"type": "fastipam", "cluster": CLUSTER}
    plain = _file(tmp_path / "plain", {"name": "n", "ipam": ipam})
    assert settings_of(plain, None, None)[1:] == ("n", DEFAULT_DATA_DIR)
    named = {"type": "fastipam", "cluster": own, "dataDir": "/d"}
    plugins = [{"type": "bridge"}, {"type": "ptp", "ipam": named}]
    listed = _file(tmp_path / "list", {"name": "n", "plugins": plugins})
    settings, *rest = settings_of(listed, None, None)
    assert (settings.text, *rest) == ("10.32.0.0/12=24", "n", "/d")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"plugins": 5}, "plugins"),
        ({"plugins": [5]}, "plugins"),
        ({"name": "n", "ipam": {"type": "fastipam", "cluster": 5}}, "ipam.cluster"),
        ({"name": "n", "ipam": {"type": "fastipam", "cluster": "relative"}}, "ipam.cluster"),
        (CLUSTER, "--network"),
        ({"cniVersion": "1.0.0", "ipam": {"type": "host-local"}}, "{}"),
        ({"cniVersion": "1.0.0", "plugins": []}, "{}"),
    ],
)
def test_settings_that_are_none(content: dict[str, Any], field: str, tmp_path: Path) -> None:
    """What cannot be meant is refused, and the field is named."""
    path = _file(tmp_path / "file", content)
    with pytest.raises(ConfigError) as caught:
        settings_of(path, None, None)
    assert caught.value.field == field.format(path)


def test_leave_without_a_store(tmp_path: Path) -> None:
    """A node whose store is not there has left nothing: the cluster may know it all the same."""
    path = _file(tmp_path / "cluster.json", CLUSTER | {"network": "n", "node": "one"})
    missing = tmp_path / "none"
    words = ["cluster", "leave", "--offline", "-c", path, "--data-dir", str(missing)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"fastipam: {missing}: there is no store")
    assert "fastipam cluster release-node one" in done.stderr
    assert not missing.exists()


# Commands that print no list and no state, or something that is JSON already.
WITHOUT_JSON = {
    *("install", "agent", "controller", "help", "completion", "conflist"),
    *("cluster init", "cluster claim", "cluster leave", "cluster release-node", "cluster rollout"),
}


def _commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        assert one is not None
        if isinstance(one, click.Group):
            yield from _commands(one, f"{before}{name} ")
        else:
            yield f"{before}{name}", one


def test_json_of_every_command_that_tells_something() -> None:
    """The README says so; what has no --json is known, and has none."""
    assert isinstance(cli, click.Group)
    found = dict(_commands(cli))
    with_json = {
        name for name, one in found.items() if any("--json" in each.opts for each in one.params)
    }
    assert found.keys() - with_json == WITHOUT_JSON


def test_socket_in_a_directory_that_is_missing(tmp_path: Path) -> None:
    """The agent makes one directory for its socket, and no path that may be a typo."""
    path = tmp_path / "no" / "such" / "x.sock"
    done = CliRunner().invoke(cli, ["agent", "--socket", str(path)])
    assert done.exit_code == 1
    assert f"{path.parent.parent}: this directory does not exist" in done.output
    assert not (tmp_path / "no").exists()
