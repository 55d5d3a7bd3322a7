"""The network configuration that an agent writes: when, what, and what can go wrong with it."""

from __future__ import annotations

import json
import os
import re
import stat
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fastipam.agent.conflist import Request, Writer
from fastipam.cli.commands import cli
from fastipam.cluster.keeper.keeper import Keeper
from fastipam.cni import configs, conflists

from ..agent.conftest import free_port, run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import until
from ..e2e import tools
from ..faults import disks
from .machines import accept, owners
from .test_agent import Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..agent.processes import Agent
    from .fake import FakeServer

    Start = Callable[..., Agent]

V6 = "fd00:10::/104"


class Node(Site):
    """A node whose agent is given a template; what it writes goes to a directory of its own."""

    def __init__(self, api: FakeServer, path: Path) -> None:
        super().__init__(api, path)
        self.template = path / "podnet.conflist"
        self.directory = path / "net.d"
        self.directory.mkdir()
        self.target = self.directory / "10-fastipam.conflist"
        self.write_template()

    def write_template(self, **more: Any) -> None:
        """Make the template anew: the standard one, with these keys of its first plugin."""
        document = conflists.standard()
        document["plugins"][0] |= {**more, "ipam": self.ipam()}
        self.template.write_bytes(conflists.encode(document))

    def options(self, *more: str) -> tuple[str, ...]:
        """The options of the agent."""
        target = ("--write-conflist", str(self.target))
        return ("--log-level", "info", "--cluster", str(self.template), *target, *more)

    @property
    def first(self) -> dict[str, Any]:
        """The first plugin of what is written."""
        found: dict[str, Any] = json.loads(self.target.read_text())["plugins"][0]
        return found

    def identity(self) -> tuple[int, int]:
        """What a file keeps that is left alone."""
        status = self.target.stat()
        return status.st_ino, status.st_mtime_ns


@pytest.fixture
def node(fake_api: FakeServer, tmp_path: Path) -> Node:
    """A node in a cluster without pools."""
    return Node(fake_api, tmp_path)


def test_written_with_the_first_block(node: Node, start: Start) -> None:  # noqa: F811
    """Nothing is there before the node has a block; then the whole file is, for everybody."""
    agent = start(*node.options())
    until(lambda: "is not written yet: no AddressPool is accepted" in agent.log, "it waits")
    assert os.listdir(node.directory) == []
    accept(node.api)
    assert f"{node.target} is not written yet" in agent.log
    until(lambda: f"is ready: socket {agent.path}, {node.target} is written" in agent.log, "ready")
    assert len(owners(node.api)) == 1
    assert stat.S_IMODE(node.target.stat().st_mode) == 0o644
    assert os.listdir(node.directory) == [node.target.name]
    assert node.first["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}]
    given = json.loads(node.template.read_text())
    assert json.loads(node.target.read_text())["plugins"][1:] == given["plugins"][1:]
    # No interface has the address of documentation that this node is given.
    assert "mtu" not in node.first
    until(lambda: "the node's address 192.0.2.1" in agent.log, "it says why there is no MTU")


def test_umask_and_interface(node: Node, start: Start) -> None:  # noqa: F811
    """A umask does not close the file; the MTU is that of the interface with the node's address."""
    accept(node.api)
    node.cluster["address"] = "127.0.0.1"
    node.write_template()
    prefix = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    start(*node.options(), prefix=prefix)
    until(node.target.exists, "it is written")
    assert stat.S_IMODE(node.target.stat().st_mode) == 0o644
    assert node.first["mtu"] == int(Path("/sys/class/net/lo/mtu").read_text())


def test_both_families(node: Node, start: Start) -> None:  # noqa: F811
    """With pools of both families it is written when both have a block, with both routes."""
    accept(node.api)
    accept(node.api, "six", V6, 120)
    start(*node.options("--mtu", "1450"))
    until(node.target.exists, "it is written")
    assert node.first["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    assert node.first["mtu"] == 1450
    assert {":" in cidr for cidr in owners(node.api)} == {True, False}


def test_left_alone_and_replaced(node: Node, start: Start) -> None:  # noqa: F811
    """An agent that starts again leaves the file; another template replaces it, on an upgrade too.

    What a runtime reads meanwhile is whole: the file is another inode.
    """
    accept(node.api)
    agent = start(*node.options())
    until(node.target.exists, "it is written")
    before = node.identity()
    agent.kill()
    assert node.target.exists()
    agent = start(*node.options(), name="t")
    until(lambda: "is up to date" in agent.log, "it is compared")
    assert node.identity() == before
    assert agent.terminate() == 0
    assert node.target.exists(), "an agent that ends takes nothing away"
    node.write_template(ipMasq=False, mtu=1280)
    left = node.directory / f".{node.target.name}.0123456789ab"
    left.write_text("what an agent that was killed had begun")
    assert left not in configs.files(node.directory)
    agent = start(*node.options("--mtu", "1450"), name="u")
    until(lambda: "replaced: its template has changed" in agent.log, "it is replaced")
    assert (node.first["ipMasq"], node.first["mtu"]) == (False, 1280)
    assert node.identity() != before
    assert os.listdir(node.directory) == [node.target.name]


def test_removed_by_somebody(node: Node, start: Start) -> None:  # noqa: F811
    """What was removed under a running agent is not written again; a new agent writes it."""
    accept(node.api)
    agent = start(*node.options())
    until(node.target.exists, "it is written")
    assert agent.terminate() == 0
    writer = _writer_of(node)
    assert writer.step() > 0
    assert writer.standing.state == conflists.WRITTEN
    node.target.unlink()
    writer.step()
    assert writer.standing.state == conflists.REMOVED
    assert "restarts" in writer.standing.reason
    assert not node.target.exists()
    node.write_template(mtu=1300)
    writer.step()
    assert node.first["mtu"] == 1300
    node.target.unlink()
    start(*node.options(), name="t")
    until(node.target.exists, "a new agent writes it")


def _writer_of(node: Node) -> Writer:
    """A writer in this process, on the store of the node's agent, that has a block."""
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registries.connect import open_registry
    from fastipam.cni import more_blocks
    from fastipam.network import Network
    from fastipam.storage import open_stores

    settings, network, data_dir = more_blocks.read_any(str(node.template))
    store = open_stores.get(data_dir, None, create=False)
    share = Share(store, Network(store, network, settings.pool), settings)
    keeper = Keeper(share, open_registry, directories=())
    return Writer(Request(str(node.template), node.target, 1400), network, lambda: keeper)


IN_THE_WAY = {
    "symlink": "a symbolic link of this name",
    "directory": "a directory of this name",
    "fifo": "a special file of this name",
}


def _put_in_the_way(node: Node, kind: str) -> None:
    if kind == "symlink":
        (node.path / "elsewhere").write_text("precious")
        node.target.symlink_to(node.path / "elsewhere")
    elif kind == "directory":
        node.target.mkdir()
    elif kind == "fifo":
        os.mkfifo(node.target)


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_in_the_way(node: Node, kind: str) -> None:
    """What is no file stays as it is, and the agent does not start."""
    _put_in_the_way(node, kind)
    done = CliRunner().invoke(cli, ["agent", *node.options(), "--socket", str(node.path / "s")])
    assert done.exit_code == 1
    assert f"--write-conflist: {node.target} cannot be written: {IN_THE_WAY[kind]}" in done.stderr
    assert "ready" not in done.output
    if kind == "symlink":
        assert (node.path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize("kind", [*IN_THE_WAY, "no directory"])
def test_in_the_way_later(node: Node, start: Start, kind: str) -> None:  # noqa: F811
    """The log says so once, and the agent serves, but does not say that it is ready."""
    node.directory.rmdir()
    agent = start(*node.options())
    if kind != "no directory":
        node.directory.mkdir()
        _put_in_the_way(node, kind)
    accept(node.api)
    wanted = IN_THE_WAY.get(kind, f"{node.directory} does not exist")
    until(lambda: wanted in agent.log, "it says what is in the way")
    writer = _writer_of(node)
    writer.step()
    writer.step()
    assert writer.standing.state == conflists.FAILED
    assert writer.standing.failures == 2
    assert agent.is_ready()
    assert agent.log.count("cannot be written") == 1, agent.log
    assert f"serves calls: socket {agent.path}, {node.target} is not written yet" in agent.log
    assert "is ready" not in agent.log
    if kind == "no directory":
        node.directory.mkdir()
    elif kind == "directory":
        node.target.rmdir()
    else:
        node.target.unlink()
    writer.step()
    assert writer.standing.state == conflists.WRITTEN
    assert node.first["type"] == "ptp"


@pytest.mark.parametrize("how", ["read-only", "full"])
def test_disk(node: Node, start: Start, how: str) -> None:  # noqa: F811
    """A directory that cannot be written is reported, tried again, and served when it can be."""
    tools.require_root()
    accept(node.api)
    node.directory.rmdir()
    with disks.tmpfs(node.directory, "16k") as disk:
        if how == "full":
            disk.fill()
        else:
            disk.make_read_only()
        agent = start(*node.options())
        wanted = "No space left on device" if how == "full" else "Read-only file system"
        until(lambda: wanted in agent.log, "it says what is wrong")
        assert agent.is_ready()
        writer = _writer_of(node)
        writer.step()
        assert writer.standing.state == conflists.FAILED
        assert not node.target.exists()
        if how == "full":
            disk.empty()
        else:
            disk.make_writable()
        writer.step()
        assert writer.standing.state == conflists.WRITTEN
        assert os.listdir(node.directory) == [node.target.name]
        assert agent.terminate() == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "podnet.conflist"),
        ('{"cniVersion": "1.0.0", "name": "podnet", "plugins": [{"type": "ptp"}]}', "cluster"),
    ],
)
def test_template_that_becomes_wrong(node: Node, start: Start, content: str, words: str) -> None:  # noqa: F811
    """The file stays as it was; the state names the template."""
    accept(node.api)
    start(*node.options())
    until(node.target.exists, "it is written")
    writer = _writer_of(node)
    writer.step()
    before = node.target.read_bytes()
    node.template.write_text(content)
    writer.step()
    assert writer.standing.state == conflists.FAILED
    assert words in writer.standing.reason
    assert node.target.read_bytes() == before
    refused = json.loads(before)
    refused["plugins"][0]["ipam"]["cooldown"] = -1
    node.template.write_text(json.dumps(refused))
    writer.step()
    assert "ipam.cooldown" in writer.standing.reason, "an ADD would refuse it"
    assert node.target.read_bytes() == before
    network = json.loads(before) | {"name": "other"}
    node.template.write_text(json.dumps(network))
    writer.step()
    assert "the template now names network other" in writer.standing.reason


def test_others_that_sort_before(
    node: Node,
    start: Start,  # noqa: F811
    free_port: int,  # noqa: F811
) -> None:
    """A runtime would use another network: the log, the metrics and the doctor say which."""
    accept(node.api)
    (node.directory / "05-cilium.conf").write_text('{"type": "cilium-cni", "name": "cilium"}')
    (node.directory / "00-multus.conf").write_text('{"type": "multus", "name": "multus"}')
    (node.directory / "10-flannel.conflist").write_text('{"name": "cbr0", "plugins": []}')
    agent = start(*node.options("--http", str(free_port)))
    until(lambda: "05-cilium.conf sorts before it" in agent.log, "the log says so")
    with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics") as answer:
        text = answer.read().decode()
    path = f'path="{node.target}"'
    assert f"fastipam_conflist_before{{{path}}} 1.0" in text
    assert f"fastipam_conflist_failures_total{{{path}}} 0.0" in text
    states = dict(re.findall(rf'fastipam_conflist{{{path},state="(\w+)"}} (\S+)', text))
    assert states == {"waiting": "0.0", "written": "1.0", "failed": "0.0", "removed": "0.0"}
    arguments = ["doctor", "--conf-dir", str(node.directory), "--socket", str(agent.path), "--json"]
    found = json.loads(CliRunner().invoke(cli, arguments).stdout)
    warned = [one["text"] for one in found if "default network" in one["text"]]
    assert warned == [
        f"{node.target} is not the runtime's default network: 05-cilium.conf sorts before it"
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--write-conflist", "/tmp/x.conflist"),
            "--write-conflist needs --cluster FILE: this file is the template",
        ),
        (("--mtu", "1400"), "--mtu needs --write-conflist"),
        (("--cluster", "/no/such"), "/no/such cannot be read: No such file or directory"),
        (("--cluster", "T", "--write-conflist", "/tmp/x.txt"), "do not read a file named x.txt"),
        (("--cluster", "T", "--write-conflist", "T"), "is the template itself"),
        (
            ("--cluster", "T", "--write-conflist", "/tmp/x.conf", "--mtu", "12"),
            "'12' is not a number",
        ),
        (("--cluster", "T", "--write-conflist", "/tmp/x.conf", "--mtu", "x"), "not the word auto"),
    ],
)
def test_refused_options(node: Node, options: tuple[str, ...], words: str) -> None:
    """What cannot be meant is refused before the agent starts."""
    given = [str(node.template) if one == "T" else one for one in options]
    given += ["--socket", str(node.path / "s")]
    done = CliRunner().invoke(cli, ["agent", *given])
    assert done.exit_code in (1, 2)
    assert words in done.output


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"engine": "kubernetes", "network": "podnet"}, 'has no list of "plugins"'),
        ({"name": "n", "type": "ptp", "ipam": {"type": "fastipam", "cluster": {}}}, "plugins"),
        ({"name": "n", "cniVersion": "1.0.0", "plugins": []}, 'has no list of "plugins"'),
        ({"plugins": "ptp"}, 'has no list of "plugins"'),
        ({"plugins": [{"type": "ptp"}], "name": "n"}, "no ipam section"),
        ({"cooldown": -1}, "ipam.cooldown: "),
        ({"routes": [{"dst": "10.0.0.1/33"}]}, "ipam.routes"),
        ({"statusWhenFull": "maybe"}, "ipam.statusWhenFull"),
        ({"dataDir": "store"}, "ipam.dataDir"),
        ("{", "podnet.conflist"),
        ("[]", "podnet.conflist"),
        ("", "podnet.conflist"),
    ],
    ids=str,
)
def test_refused_templates(node: Node, template: Any, words: str) -> None:
    """A template of which no ADD could be served is refused before the agent starts."""
    if isinstance(template, dict) and not {"engine", "plugins", "name"} & template.keys():
        template, ipam = json.loads(node.template.read_text()), template
        template["plugins"][0]["ipam"] |= ipam
    text = template if isinstance(template, str) else json.dumps(template)
    node.template.write_text(text)
    done = CliRunner().invoke(cli, ["agent", *node.options(), "--socket", str(node.path / "s")])
    assert done.exit_code == 1
    assert words in done.stderr
    assert str(node.template) in done.stderr
    assert done.stdout == ""


def test_no_keeper_yet(node: Node) -> None:
    """Before the agent has its store there is a reason, and no file."""
    writer = Writer(Request(str(node.template), node.target), "podnet", lambda: None)
    writer.step()
    assert writer.standing.state == conflists.WAITING
    assert "has not opened the store" in writer.standing.reason
    assert not node.target.exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_killed_while_it_writes(node: Node, start: Start, step: str) -> None:  # noqa: F811
    """What is left of a write that was cut off has no name that a runtime reads, and goes."""
    accept(node.api)
    agent = start(*node.options())
    until(node.target.exists, "it is written")
    assert agent.terminate() == 0
    before = node.target.read_bytes()
    node.write_template(mtu=1300)
    killed = os.fork()
    if not killed:
        setattr(os, step, lambda *_: os._exit(9))
        _writer_of(node).step()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    assert node.target.read_bytes() == before
    assert len(os.listdir(node.directory)) == 2
    assert configs.files(node.directory) == [node.target]
    _writer_of(node).step()
    assert node.first["mtu"] == 1300
    assert os.listdir(node.directory) == [node.target.name]
