"""``fastipam uninstall``: what goes, what stays, what is refused; each time as a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.cli.commands.install.executables import install
from fastipam.cli.commands.install.targets import DIRECT
from fastipam.cni import conflists
from tests.agent.conftest import Start, run_dir, start  # noqa: F401  # fixtures

from ..agent.processes import FASTIPAM, ask
from ..e2e import netns, tools
from ..measuring import passed_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..e2e.netns import NetNS

ROUTE = ("10.99.1.0/24", "via", "192.0.2.9", "proto", "147")


class Host:
    """A node's directories as a container has them, and a network namespace for its routes."""

    def __init__(self, path: Path, inside: NetNS) -> None:
        self.inside = inside
        self.conflist = path / "net.d" / "10-fastipam.conflist"
        self.bin = path / "bin"
        self.socket = path / "run" / "agent.sock"
        self.store = path / "store"
        for one in (self.conflist.parent, self.bin):
            one.mkdir()

    def fill(self) -> None:
        """Install everything; no agent runs any more."""
        document = conflists.standard(data_dir=str(self.store))
        self.conflist.write_bytes(conflists.encode(document))
        install(self.bin)
        (self.bin / "bridge").write_bytes(b"another plugin")
        self.socket.parent.mkdir()
        listener = subprocess.run(
            [
                "python3",
                "-c",
                "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])",
                self.socket,
            ],
            check=True,
        )
        assert listener.returncode == 0
        Path(f"{self.socket}.lock").touch()
        fastipam.open(self.store).close()
        run = self.inside.run
        run("ip", "address", "add", "192.0.2.1/24", "dev", "lo")
        run("ip", "route", "add", *ROUTE)
        run("ip", "route", "add", "10.99.2.0/24", "via", "192.0.2.9", "proto", "static")

    def run(self, *options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """The command, with this node's places."""
        places = (
            f"--conflist={self.conflist}",
            f"--bin-dir={self.bin}",
            f"--socket={self.socket}",
            f"--data-dir={self.store}",
        )
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | passed_on()
        words = (str(FASTIPAM), "uninstall", *places, *options)
        return self.inside.run(*words, check=False, stdin=stdin, env=environment)

    def routes(self) -> str:
        """The routes of the protocol."""
        return self.inside.run("ip", "route", "show", "proto", "147").stdout

    def add(self, container: str = "c1") -> None:
        """A container that has an address."""
        with fastipam.open(self.store) as ipam:
            ipam.network("podnet", "10.7.0.0/24").allocate(container)

    def is_whole(self) -> bool:
        """Whether nothing was removed."""
        return (
            self.conflist.exists()
            and {"fastipam", DIRECT} <= set(os.listdir(self.bin))
            and self.socket.exists()
            and "10.99.1.0/24" in self.routes()
            and (self.store / "data.mdb").exists()
        )


@pytest.fixture
def host(run_dir: Path) -> Iterator[Host]:  # noqa: F811
    """A node on which everything is installed."""
    tools.require_root()
    tools.require_tools("ip", "nsenter")
    with netns.temporary("host") as inside:
        made = Host(run_dir, inside)
        made.fill()
        yield made


def test_everything_goes_but_the_store(host: Host) -> None:
    """Configuration, plugin, routes, socket; what is another's stays, and so does the store."""
    told = host.run("--dry-run")
    assert told.returncode == 0, told.stderr
    assert f"would remove {host.conflist} (network configuration)" in told.stdout
    assert "would remove 1 of protocol 147 (routes)" in told.stdout
    assert host.is_whole()
    done = host.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == told.stdout.replace("would remove", "removed")
    assert done.stdout.splitlines()[-1] == f"kept {host.store}: the store; --purge deletes it"
    assert os.listdir(host.conflist.parent) == []
    assert os.listdir(host.bin) == ["bridge"]
    assert not host.socket.parent.exists()
    assert host.routes() == ""
    assert "10.99.2.0/24" in host.inside.run("ip", "route").stdout
    assert (host.store / "data.mdb").exists()
    again = host.run()
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines() == [
        "nothing of fastipam is installed here",
        f"kept {host.store}: the store; --purge deletes it",
    ]


def test_json(host: Host) -> None:
    """Each part with what became of it."""
    done = host.run("--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["dry_run"], found["containers"], found["store"]) == (False, 0, str(host.store))
    became = {each["path"]: each["became"] for each in found["parts"]}
    assert became[str(host.conflist)] == became[str(host.bin / "fastipam")] == "removed"
    assert became["1 of protocol 147"] == became[str(host.socket)] == "removed"
    again = json.loads(host.run("--json").stdout)
    assert {each["became"] for each in again["parts"]} == {"absent"}


def test_containers_have_addresses(host: Host) -> None:
    """Refused, because they could not end; cooling addresses are nobody's."""
    host.add()
    done = host.run()
    assert done.returncode == 1
    assert "1 container of this node still has addresses of fastipam" in done.stderr
    assert "fastipam list" in done.stderr
    assert host.is_whole()
    told = host.run("--force", "--dry-run")
    assert (told.returncode, told.stderr) == (0, "")
    assert host.is_whole()
    forced = host.run("--force")
    assert forced.returncode == 0, forced.stderr
    assert "1 container had addresses of fastipam when the plugin was removed" in forced.stderr
    assert not host.conflist.exists()
    with fastipam.open(host.store) as ipam:
        ipam.network("podnet").release("c1")
    assert host.run().returncode == 0


def test_an_agent_runs(host: Host, start: Start) -> None:  # noqa: F811
    """Refused; with --force its socket stays, and it answers until it is ended."""
    host.socket.unlink()
    agent = start("--data-dir", str(host.store))
    host.socket = agent.path
    done = host.run()
    assert done.returncode == 1
    assert f"an agent serves {agent.path}" in done.stderr
    assert host.is_whole()
    forced = host.run("--force")
    assert forced.returncode == 0, forced.stderr
    assert f"kept {agent.path}: another agent serves {agent.path}" in forced.stdout
    assert ask(agent.path, "VERSION", {}).status == 0
    assert not (host.bin / "fastipam").exists()
    purge = host.run("--force", "--purge", "--yes")
    assert purge.returncode == 1
    assert "is not deleted while an agent serves" in purge.stderr
    assert (host.store / "data.mdb").exists()
    assert agent.terminate() == 0
    assert not agent.path.exists()


def test_it_waits_for_the_agent(host: Host, start: Start) -> None:  # noqa: F811
    """Until it ends; one that does not end is a refusal, with --force too."""
    host.socket.unlink()
    agent = start("--data-dir", str(host.store))
    host.socket = agent.path
    done = host.run("--force", "--wait", "0")
    assert done.returncode == 1
    assert f"after 0 seconds of --wait an agent serves {agent.path}" in done.stderr
    assert "--force without --wait removes the plugin anyway" in done.stderr
    assert host.is_whole()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(host.run, "--force", "--wait", "60")
        assert agent.terminate() == 0
        assert waiting.result().returncode == 0
    assert not host.conflist.exists()


def test_purge(host: Host) -> None:
    """It asks; nobody to ask is a refusal before anything is removed; other files stay."""
    done = host.run("--purge")
    assert done.returncode == 1
    assert "pass --yes" in done.stderr
    assert host.is_whole()
    (host.store / "notes.txt").write_text("mine")
    done = host.run("--purge", "--yes")
    assert done.returncode == 0, done.stderr
    assert os.listdir(host.store) == ["notes.txt"]
    assert f"kept {host.store}: Directory not empty" in done.stdout
    (host.store / "notes.txt").unlink()
    fastipam.open(host.store).close()
    assert host.run("--purge", "--yes").returncode == 0
    assert not host.store.exists()
    assert host.run("--purge", "--yes").returncode == 0


def test_a_damaged_store(host: Host) -> None:
    """Whether containers have addresses is not known: refused, and --force goes on."""
    (host.store / "data.mdb").write_bytes(b"no store" * 4096)
    done = host.run()
    assert done.returncode == 1
    assert "cannot tell whether containers have addresses" in done.stderr
    assert host.conflist.exists()
    done = host.run("--force", "--purge", "--yes")
    assert done.returncode == 0, done.stderr
    assert not host.store.exists()


@pytest.mark.parametrize("what", ["flannel's", "broken", "symlink"])
def test_a_configuration_that_is_not_ours(host: Host, what: str) -> None:
    """It stays, and is named; one of fastipam's that no agent has written stays, too."""
    another = host.conflist.with_name("20-blue.conflist")
    shutil.copy(host.conflist, another)
    if what == "symlink":
        host.conflist.unlink()
        host.conflist.symlink_to(another)
    else:
        texts = {"flannel's": '{"name": "cbr0", "plugins": [{"type": "flannel"}]}', "broken": "{"}
        host.conflist.write_text(texts[what])
    done = host.run()
    assert done.returncode == 0, done.stderr
    assert f"kept {host.conflist}: " in done.stdout
    assert (
        f"kept {another}: the file has the ipam type fastipam, but no agent wrote it" in done.stdout
    )
    assert os.path.lexists(host.conflist)
    assert another.exists()


def test_another_plugin_of_this_name(host: Host) -> None:
    """A file that is no launcher stays, and so does what is beside it."""
    (host.bin / "fastipam").write_bytes(b"#!/bin/sh\n")
    done = host.run()
    assert done.returncode == 0, done.stderr
    assert f"kept {host.bin / 'fastipam'}: the file is not fastipam's launcher" in done.stdout
    assert (host.bin / "fastipam").exists()


def test_a_name_that_is_not_installed(host: Host) -> None:
    """What the launcher that is installed needs stays, and the plugin works."""
    done = host.run("--name", "fastipm", "--json")
    assert done.returncode == 0, done.stderr
    parts = json.loads(done.stdout)["parts"]
    kept = {one["path"]: one["reason"] for one in parts if one["became"] == "kept"}
    assert kept[str(host.bin / DIRECT)] == f"the launcher {host.bin / 'fastipam'} needs this file"
    assert {"fastipam", DIRECT} <= set(os.listdir(host.bin))


def test_a_dry_run_makes_no_file(host: Host) -> None:
    """Neither the socket's lock; what is no socket is not removed."""
    Path(f"{host.socket}.lock").unlink()
    before = sorted(os.listdir(host.socket.parent))
    assert host.run("--dry-run").returncode == 0
    assert sorted(os.listdir(host.socket.parent)) == before
    host.socket.unlink()
    host.socket.write_text("precious")
    assert f"would remove {host.socket}" not in host.run("--dry-run").stdout
    assert f"kept {host.socket}" in host.run().stdout
    assert host.socket.read_text() == "precious"


def test_a_part_that_fails(host: Host) -> None:
    """The others are removed all the same, and the status says that one was not."""
    (host.bin / "fastipam").unlink()
    (host.bin / "fastipam").mkdir()
    done = host.run()
    assert done.returncode == 1
    assert f"{host.bin / 'fastipam'}: Is a directory" in done.stderr
    assert not host.conflist.exists()
    assert host.routes() == ""


def test_without_net_admin(host: Host) -> None:
    """Without the right to delete routes that is said; where there are none, none is needed."""
    tools.require_tools("setpriv")
    bare = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    command = host.inside.command
    words = [*bare, str(FASTIPAM), "uninstall", "--conflist", str(host.conflist)]
    words += ["--bin-dir", str(host.bin), "--socket", str(host.socket)]
    words += ["--data-dir", str(host.store)]
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "protocol 147" in done.stderr
    assert not host.conflist.exists()
    host.inside.run("ip", "route", "flush", "proto", "147")
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
