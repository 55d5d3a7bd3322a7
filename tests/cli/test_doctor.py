"""``fastipam doctor``: every finding, under the conditions that it is about."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import fastipam
from fastipam.cli.commands import cli
from fastipam.cli.commands.doctor import (
    agent,
    configuration,
    masquerading,
    plugin,
    store,
    surroundings,
)
from fastipam.cli.commands.doctor.diagnosis import LEVELS, OK, PROBLEM, WARNING, Diagnosis
from fastipam.cli.commands.install.executables import BUNDLE, DIRECT, install
from fastipam.cluster.masquerading import nft
from fastipam.cni import handle
from fastipam.configuration.address_pools import AddressPool
from fastipam.configuration.cluster import Settings
from fastipam.namespaces import Netns
from fastipam.network import Network
from fastipam.storage import tables
from fastipam.storage.store import Store
from tests.agent.conftest import Start, run_dir, start  # noqa: F401  # fixtures
from tests.agent.processes import FakeAgent
from tests.e2e import tools

USABLE: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "podnet",
    "type": "bridge",
    "ipam": {"type": "fastipam", "subnet": "10.32.0.0/24"},
}


def levels(found: list[Diagnosis]) -> list[str]:
    return [one.level for one in found]


def has(found: list[Diagnosis], level: str, *words: str) -> Diagnosis:
    """The finding of this level with these words; fail when there is none."""
    for one in found:
        if one.level == level and all(word in one.text for word in words):
            return one
    raise AssertionError("\n".join(map(str, found)))


# --- the plugin ---


def test_plugin_is_installed(tmp_path: Path) -> None:
    """What `fastipam install` has just written is fine, and nothing is to be typed."""
    install(tmp_path)
    assert levels(list(plugin.look(tmp_path))) == [OK, OK]


def test_plugin_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher is a problem; one in another directory is pointed at."""
    (found,) = plugin.look(tmp_path / "bin")
    assert (found.level, found.command) == (
        PROBLEM,
        f"fastipam install --bin-dir {tmp_path / 'bin'}",
    )
    install(tmp_path / "other")
    monkeypatch.setattr(plugin, "OTHER_DIRECTORIES", (tmp_path / "other",))
    has(list(plugin.look(tmp_path / "bin")), PROBLEM, f"there is one in {tmp_path / 'other'}")


def test_plugin_is_another(tmp_path: Path) -> None:
    """A launcher with other bytes, one that cannot be started, one that is alone."""
    install(tmp_path)
    launcher = tmp_path / "fastipam"
    launcher.write_bytes(launcher.read_bytes() + b"\0")
    has(list(plugin.look(tmp_path)), WARNING, "not the launcher of this fastipam")
    launcher.unlink()
    launcher.mkdir()
    has(list(plugin.look(tmp_path)), PROBLEM, "cannot be read")
    launcher.rmdir()
    install(tmp_path, launcher_only=True)
    has(list(plugin.look(tmp_path)), OK, "only an agent can serve")
    assert not plugin.has_entry_point(tmp_path)
    launcher.chmod(0o644)
    has(list(plugin.look(tmp_path)), PROBLEM, "not executable")


def test_entry_point_is_another(tmp_path: Path) -> None:
    """An interpreter that is gone, another installation, a bundle that is out of date or gone."""
    install(tmp_path)
    script = tmp_path / DIRECT
    text = script.read_text()
    script.write_text(text.replace(sys.executable, "/nowhere/python"))
    has(list(plugin.look(tmp_path)), PROBLEM, "/nowhere/python, which does not exist")
    script.write_text(f"#!/bin/sh\n'''exec' \"{sys.executable}\" -IS \"$0\" \"$@\"\n' '''\n")
    has(list(plugin.look(tmp_path)), PROBLEM, "cannot serve a call", "no answer")
    script.write_text(text + "# of another version\n")
    has(list(plugin.look(tmp_path)), WARNING, "another installation", sys.executable)
    script.write_text(text)
    (tmp_path / BUNDLE).write_bytes(b"nonsense")
    has(list(plugin.look(tmp_path)), WARNING, BUNDLE, "calls without an agent take longer")
    (tmp_path / BUNDLE).unlink()
    has(list(plugin.look(tmp_path)), WARNING, BUNDLE, "does not exist")


# --- the agent ---


def test_agent_answers(start: Start) -> None:  # noqa: F811
    """A real agent: its process is found, by its socket as well; it sees the same files."""
    running = start()
    found, process = agent.look(running.path, needed=True)
    assert process == running.pid
    assert levels(found) == [OK]
    assert running.pid in agent._holders(agent._inodes(running.path))
    assert levels(list(agent.same_files(process, [str(running.path), "/nowhere"]))) == [OK]


def test_agent_is_older_than_its_files(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """After an upgrade the agent that still runs is the one of before."""
    running = start()
    late = time.time() + 60
    package = Path(fastipam.__file__).parent

    def newer(self: Path, _pattern: str) -> list[Any]:
        assert self == package.resolve()
        return [type("Late", (), {"stat": lambda _: os.stat_result([0] * 8 + [int(late), 0])})()]

    monkeypatch.setattr(Path, "rglob", newer)
    has(agent.look(running.path, needed=False)[0], WARNING, "before this fastipam was installed")


def test_agent_is_missing(tmp_path: Path) -> None:
    """No socket: slower if the entry point is there, a problem if it is not."""
    path = tmp_path / "s"
    assert levels(agent.look(path, needed=False)[0]) == [WARNING]
    assert levels(agent.look(path, needed=True)[0]) == [PROBLEM]


def test_agent_is_dead(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A socket that nobody listens on; one that is not answered; one that is closed; nonsense."""
    path = run_dir / "s"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
    has(agent.look(path, needed=False)[0], PROBLEM, "no agent answers")
    path.unlink()

    def hang_up(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)

    with FakeAgent(path, hang_up):
        has(agent.look(path, needed=False)[0], PROBLEM, "closed without an answer")
    path.unlink()

    def speak_http(connection: socket.socket) -> None:
        FakeAgent.read_request(connection)
        connection.sendall(b"HTTP/1.1 400 no\r\n\r\n")

    with FakeAgent(path, speak_http):
        has(agent.look(path, needed=False)[0], PROBLEM, "not a fastipam agent")
    path.unlink()
    monkeypatch.setattr(agent, "TIMEOUT_S", 0.05)
    looked = threading.Event()

    def be_silent(_: socket.socket) -> None:
        looked.wait(20)

    with FakeAgent(path, be_silent):
        has(agent.look(path, needed=False)[0], PROBLEM, "does not answer")
        looked.set()


def test_agent_sees_other_files(tmp_path: Path) -> None:
    """A process in a mount namespace of its own, with something else where the store is."""
    tools.require_root()
    tools.require_tools("unshare", "mount")
    (tmp_path / "data.mdb").touch()
    path = str(tmp_path / "data.mdb")
    for mount, level in (("true", OK), (f"mount -t tmpfs none {tmp_path}", PROBLEM)):
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"{mount}; echo; read _"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin and process.stdout  # noqa: PT018
            process.stdout.readline()
            assert levels(list(agent.same_files(process.pid, [path]))) == [level]
            process.stdin.close()
    gone = list(agent.same_files(process.pid, [path]))
    assert levels(gone) == [WARNING]


# --- configurations ---


def write(directory: Path, name: str, document: Any) -> None:
    directory.mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (directory / name).write_text(text)


def test_configuration_is_explained(tmp_path: Path) -> None:
    """What a configuration means: network, ranges, directory, policy; of a list, too."""
    write(tmp_path, "10-one.conf", USABLE)
    ipam = {
        "type": "fastipam",
        "ranges": [[{"subnet": "10.9.0.0/24"}]],
        "dataDir": "/srv/ipam",
        "sticky": "pod",
        "cooldownPolicy": "strict",
        "history": 0,
    }
    plugins = [{"type": "ptp", "ipam": ipam}, {"type": "portmap"}]
    write(tmp_path, "20-two.conflist", {"cniVersion": "1.0.0", "name": "two", "plugins": plugins})
    write(tmp_path, "ignored.txt", "{")
    found, networks = configuration.look(tmp_path)
    assert levels(found) == [OK, OK]
    has(found, OK, "'podnet' of 'bridge'", "10.32.0.1-10.32.0.254", "/var/lib/cni/fastipam", "30 s")
    has(found, OK, "'two' of 'ptp'", "/srv/ipam", "strict", "sticky for 3600 s", "no history")
    assert networks == [
        configuration.Configured("podnet", "/var/lib/cni/fastipam", tmp_path / "10-one.conf"),
        configuration.Configured("two", "/srv/ipam", tmp_path / "20-two.conflist"),
    ]


@pytest.mark.parametrize(
    ("document", "level", "words"),
    [
        ("{", PROBLEM, "line 1"),
        ({**USABLE, "plugins": 7}, PROBLEM, "plugins: this is not a list"),
        ({**USABLE, "ipam": {"type": "fastipam", "subnet": "10.32.0.0/33"}}, PROBLEM, "subnet"),
        ({**USABLE, "cniVersion": "9.0.0"}, PROBLEM, "9.0.0"),
        (
            {**USABLE, "ipam": {**USABLE["ipam"], "colour": "red"}},
            WARNING,
            "ipam.colour: unknown key",
        ),
        ({**USABLE, "ipam": {"type": "host-local"}}, WARNING, "still has ipam type 'host-local'"),
        ({**USABLE, "ipam": {"type": "whereabouts"}}, WARNING, "'whereabouts'"),
        ({**USABLE, "ipam": {"type": "dhcp"}}, OK, "'dhcp'"),
        ({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}, OK, "no ipam section"),
        ({**USABLE, "ipam": {"type": "fastipam"}}, PROBLEM, "ipam.ranges: no ranges"),
        (
            {**USABLE, "ipam": {"type": "fastipam"}, "capabilities": {"ipRanges": True}},
            OK,
            "the runtime's ranges",
        ),
    ],
)
def test_configuration_is_judged(tmp_path: Path, document: Any, level: str, words: str) -> None:
    """What cannot be read or used is a problem, what belongs to another plugin is said."""
    write(tmp_path, "10-net.conf", document)
    found, _ = configuration.look(tmp_path)
    assert str(tmp_path / "10-net.conf") in has(found, level, words).text


def test_import_of_a_directory_of_its_own(tmp_path: Path) -> None:
    """The command reads what the configuration of host-local names, not the default."""
    ipam = {"type": "host-local", "dataDir": "/srv/my networks"}
    write(tmp_path, "10-net.conf", {**USABLE, "ipam": ipam})
    found = has(configuration.look(tmp_path)[0], WARNING, "still has ipam type 'host-local'")
    assert found.command == "fastipam import host-local --dry-run '/srv/my networks'"


def test_configuration_is_missing(tmp_path: Path) -> None:
    """No directory, and an empty one."""
    assert levels(configuration.look(tmp_path / "none")[0]) == [WARNING]
    has(configuration.look(tmp_path)[0], WARNING, "has no network configuration")


def test_configurations_disagree(tmp_path: Path) -> None:
    """One data directory has one durability."""
    for name, durability in (("1.conf", "durable"), ("2.conf", "relaxed")):
        ipam = {**USABLE["ipam"], "durability": durability}
        write(tmp_path, name, {**USABLE, "ipam": ipam})
    has(configuration.look(tmp_path)[0], PROBLEM, "durable", "relaxed")


def test_wrong_configuration_is_said_once(tmp_path: Path) -> None:
    """A file of fastipam's that cannot be used is one problem, and not a file of another plugin."""
    write(tmp_path, "1.conf", {**USABLE, "ipam": {"type": "fastipam", "subnet": "10.32.0.0/33"}})
    assert levels(configuration.look(tmp_path)[0]) == [PROBLEM]


def test_data_directory_is_looked_at_once(
    living: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path, and a link, are the directory that a configuration names."""
    ipam = {**USABLE["ipam"], "dataDir": str(living)}
    write(tmp_path / "net.d", "10.conf", {**USABLE, "ipam": ipam})
    (tmp_path / "link").symlink_to(living)
    monkeypatch.chdir(living.parent)
    words = ["doctor", "--json", "--conf-dir", str(tmp_path / "net.d")]
    words += ["--socket", str(tmp_path / "none"), "--host-local", str(tmp_path / "none")]
    for spelled in (living.name, str(tmp_path / "link")):
        done = CliRunner().invoke(cli, words, env={"FASTIPAM_DATA_DIR": spelled})
        checks = [one["check"] for one in json.loads(done.stdout)]
        assert (checks.count("clock"), checks.count("disk")) == (1, 1)


# --- the store ---


@pytest.fixture
def living(data_dir: Path, tmp_path: Path) -> Path:
    """A store with a lease whose namespace is there (a file that stands for one)."""
    netns = tmp_path / "netns" / "one"
    netns.parent.mkdir()
    netns.touch()
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", "10.32.0.0/24")
        net.allocate("c1", netns=Netns(str(netns), inode=netns.stat().st_ino))
    return data_dir


def test_store_is_fine(living: Path) -> None:
    """A store in use: nothing but "ok"; and where there is none yet, too."""
    assert set(levels(list(store.look(str(living))))) == {OK}
    found = list(store.look(str(living.with_name("none"))))
    assert [(one.check, one.level) for one in found] == [("store", OK), ("disk", OK)]


def test_store_can_be_seen_by_others(living: Path) -> None:
    """Modes other than 0700 and 0600, with the chmod that corrects them."""
    living.chmod(0o755)
    (living / "data.mdb").chmod(0o640)
    found = list(store.look(str(living)))
    commands = [one.command for one in found if one.level == WARNING]
    assert commands == [f"chmod go= {living}", f"chmod go= {living / 'data.mdb'}"]
    for one in commands:
        subprocess.run(one, shell=True, check=True)
    assert set(levels(list(store.look(str(living))))) == {OK}


def test_store_is_damaged(living: Path) -> None:
    """A store that contradicts itself, and a file that is none."""
    with fastipam.open(living) as ipam, ipam.store.write() as txn:
        first = tables.OWNERS.first(txn)
        assert first is not None
        assert tables.OWNERS.delete(txn, first[0])
    found = has(list(store.look(str(living))), PROBLEM, "1 contradiction, the first: podnet")
    assert "check --repair" in found.command
    assert str(living) in found.command
    (living / "data.mdb").write_bytes(b"nonsense" * 2048)
    has(list(store.look(str(living))), PROBLEM, "usable LMDB file", "restore a backup")


def test_large_stores_are_not_compared(living: Path) -> None:
    """More addresses than a look may take: the command is named instead."""
    found = has(list(store.look(str(living), most=0)), OK, "too many to verify")
    assert found.command == f"fastipam check --data-dir {living}"


def test_old_readers(living: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read transaction that stays open while others commit; more of them than there is room."""
    with fastipam.open(living) as ipam:
        assert ipam.store.readers() == []
        assert list(store.readers(ipam, 0)) == []
        with ipam.store.read():
            assert list(store.readers(ipam, 0)) == []
            writer = threading.Thread(target=lambda: ipam.network("podnet").allocate("c2"))
            writer.start()
            writer.join()
            late = has(
                list(store.readers(ipam, 0)),
                WARNING,
                "holds a read transaction that is 1 commit old",
            )
            assert late.command == f"ps -fp {os.getpid()}"
            monkeypatch.setattr(store, "MAX_READERS", 1)
            has(list(store.readers(ipam)), WARNING, "1 of 1 reader slots")


def test_pool_is_full(data_dir: Path) -> None:
    """Nine of ten addresses taken is a warning, all of them a problem."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", "10.32.0.0/27")
        net.allocate_many([(f"c{one}", "eth0") for one in range(27)])
        has(list(store.pools(ipam)), WARNING, "2 of 29 addresses are left")
        net.allocate_many([("d1", "eth0"), ("d2", "eth0")])
        has(list(store.pools(ipam)), PROBLEM, "0 of 29")
        net.release("d1")  # it cools: it can be had
        assert levels(list(store.pools(ipam))) == [WARNING]


def test_bridge_in_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge that answers for no other node is a warning, until it does; ptp never is one."""
    monkeypatch.setattr(configuration, "_SYSCTLS", tmp_path / "sys")
    monkeypatch.setattr(configuration, "_LINKS", tmp_path / "net")
    conf_dir = tmp_path / "net.d"
    conf_dir.mkdir()
    cluster = {"endpoints": ["http://127.0.0.1:1"], "pool": "10.32.0.0/12"}
    whole = {**USABLE, "type": "bridge", "ipam": {"type": "fastipam", "cluster": cluster}}
    write(conf_dir, "10-net.conf", whole)
    (found,) = configuration.look(conf_dir)[0]
    assert found.level == WARNING
    assert "pods of other nodes on cni0" in found.text
    assert found.command == "sysctl -w net/ipv4/conf/cni0/proxy_arp=1"
    switch = tmp_path / "sys" / "net" / "ipv4" / "conf" / "cni0" / "proxy_arp"
    ports = tmp_path / "net" / "cni0" / "brif"
    for one in (switch.parent, ports, ports / "veth12ab"):
        one.mkdir(parents=True)
    switch.write_text("0\n")
    assert levels(configuration.look(conf_dir)[0]) == [WARNING]
    switch.write_text("1\n")
    assert levels(configuration.look(conf_dir)[0]) == [OK]
    switch.write_text("0\n")
    (ports / "vxlan7").mkdir()
    assert levels(configuration.look(conf_dir)[0]) == [OK]
    (ports / "vxlan7").rmdir()
    write(conf_dir, "10-net.conf", whole | {"type": "ptp"})
    assert levels(configuration.look(conf_dir)[0]) == [OK]


def test_cluster_without_a_block(tmp_path: Path) -> None:
    """The command to look at the cluster names the file that has its settings."""
    data_dir, conf_dir = tmp_path / "store", tmp_path / "net d"
    conf_dir.mkdir()
    cluster = {"endpoints": ["http://127.0.0.1:1"], "pool": "10.32.0.0/12", "timeout": 1}
    ipam = {"type": "fastipam", "dataDir": str(data_dir), "cluster": cluster}
    whole = {**USABLE, "ipam": ipam}
    write(conf_dir, "10-net.conf", whole)
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/none"}
    variables |= {"CNI_IFNAME": "eth0", "CNI_PATH": "/none"}
    assert handle(variables, json.dumps(whole).encode())[0] == 1
    told = CliRunner().invoke(cli, ["doctor", "--conf-dir", str(conf_dir), "--json"])
    (found,) = [one for one in json.loads(told.stdout) if one["check"] == "pool"]
    assert found["text"].endswith("in 0 blocks of this node: the next ADD claims another block")
    words = shlex.split(found["command"])
    assert words[:5] == ["fastipam", "cluster", "status", "-c", str(conf_dir / "10-net.conf")]
    status = CliRunner().invoke(cli, [*words[1:], "--json"])
    assert json.loads(status.stdout)["network"] == "podnet"


def test_ipv4_is_full_beside_ipv6(data_dir: Path) -> None:
    """Every range set is judged by itself: a full IPv4 set is a problem, whatever IPv6 has left."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", ["10.32.1.0/29", "fd00:32::/64"])
        net.allocate_many([(f"c{one}", "eth0") for one in range(5)])
        found = list(store.pools(ipam))
        assert levels(found) == [PROBLEM, OK]
        has(found, PROBLEM, "'podnet', 10.32.1.0/29: 0 of 5 addresses are left")
        has(found, OK, "fd00:32::/64")


def test_namespace_is_gone(living: Path, tmp_path: Path) -> None:
    """A lease without its namespace; leases that cannot be judged, counted by reason."""
    with fastipam.open(living) as ipam:
        net = ipam.network("podnet")
        net.allocate("c2", netns=Netns(str(tmp_path / "netns" / "two"), inode=7))
        for name in ("c3", "c4"):
            net.allocate(name)
        found = list(store.namespaces(ipam))
    has(found, WARNING, "without their network namespace: 1 of 4")
    unjudged = has(found, WARNING, "2 of 4 leases skipped", "no network namespace was recorded")
    assert unjudged.command.startswith("fastipam release 10.32.")
    assert unjudged.command.endswith(f" --dry-run --data-dir {living}")


def test_leases_of_another_boot(living: Path) -> None:
    """After a reboot what is left of before is given back bit by bit; doctor says so."""
    from fastipam.storage.store import Store

    with fastipam.open(living) as ipam:
        for number in range(100):  # more than one call releases
            ipam.network("podnet").allocate(f"n{number}")
    Store(living, boot_id=lambda: "another boot").close()
    has(list(store.look(str(living))), WARNING, "101 leases from before the last reboot")


def test_clock_was_set_back(living: Path) -> None:
    """The last event is later than now."""
    found = list(store.look(str(living), now_ns=time.time_ns() - 3600 * 10**9))
    assert has(found, WARNING, "3600 s in the future").command == "timedatectl"


def test_disk_is_small(living: Path) -> None:
    """A file system with hardly any room, and its kind, from a mount namespace of its own."""
    tools.require_root()
    tools.require_tools("unshare", "mount")
    script = (
        f"mount -t tmpfs -o size=16m none {living}\n{sys.executable} -c '"
        "from fastipam.cli.commands.doctor import store\nimport sys\n"
        f'for one in store.disk("{living}"): print(one.level, one.text)\''
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("problem 16 MiB are free")
    assert "(tmpfs)" in done.stdout


def test_file_system_is_remote(living: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB's locks do not work over NFS."""
    monkeypatch.setattr(surroundings, "mount_of", lambda _: ("/", "nfs4"))
    has(list(store.look(str(living))), PROBLEM, "is on nfs4")


# --- leftovers of host-local, the command ---


def test_leases_of_host_local(living: Path, tmp_path: Path) -> None:
    """None; some that no store has; and the same after an import."""
    tree = tmp_path / "networks"
    assert levels(list(store.leftovers(tree, [str(living)]))) == [OK]
    (tree / "podnet").mkdir(parents=True)
    (tree / "podnet" / "lock").touch()
    (tree / "podnet" / "last_reserved_ip.0").write_text("10.32.0.77")
    (tree / "podnet" / "10.32.0.77").write_text("abc\r\neth0")
    (tree / "podnet" / "10.32.0.78").write_text("dead\r\neth0")
    os.utime(tree / "podnet" / "10.32.0.78", (1, 1))  # from before the boot
    (found,) = store.leftovers(tree, [str(living)])
    assert (found.level, found.command) == (
        WARNING,
        f"fastipam import host-local --dry-run {tree}",
    )
    assert "in no store: 1 of 1" in found.text
    words = ["import", "host-local", str(tree), "--data-dir", str(living)]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert levels(list(store.leftovers(tree, [str(living)]))) == [OK]


def test_command(living: Path, tmp_path: Path, start: Start) -> None:  # noqa: F811
    """A node where all is well has status 0; without plugin and with a broken file, 1."""
    install(tmp_path / "bin")
    ipam = {**USABLE["ipam"], "dataDir": str(living)}
    write(tmp_path / "net.d", "10.conf", {**USABLE, "ipam": ipam})
    running = start()
    words = ["doctor", "--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "net.d")]
    words += ["--socket", str(running.path), "--host-local", str(tmp_path / "none")]
    done = CliRunner().invoke(cli, [*words, "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert {one["level"] for one in found} <= ({OK} if os.geteuid() == 0 else {OK, WARNING})
    checks = {"plugin", "agent", "configuration", "store", "disk", "pool", "namespaces", "clock"}
    assert {one["check"] for one in found} >= checks | {"host-local"}
    assert str(living) in " ".join(one["text"] for one in found), "the store a file names"

    (tmp_path / "bin" / "fastipam").unlink()
    write(tmp_path / "net.d", "20.conf", "{")
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert f"$ fastipam install --bin-dir {tmp_path / 'bin'}" in done.stdout
    lines = done.stdout.splitlines()
    printed = [line.split()[0] for line in lines if line.split()[0] in LEVELS]
    assert printed == sorted(printed, key=LEVELS.index), "problems come first"
    assert lines[-1].startswith("problems: 2")
    assert done.stderr == ""
    quiet = CliRunner().invoke(cli, [*words, "--quiet"])
    assert quiet.exit_code == 1
    assert "\nok " not in quiet.stdout
    assert set(lines) >= set(quiet.stdout.splitlines())
    install(tmp_path / "bin")
    (tmp_path / "net.d" / "20.conf").unlink()
    if os.geteuid() == 0:
        quiet = CliRunner().invoke(cli, [*words, "--quiet"])
        assert (quiet.exit_code, quiet.output) == (0, "")


# --- where it looks from ---


@pytest.fixture
def in_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of every container of Kubernetes."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")


@pytest.mark.usefixtures("in_pod")
def test_container_without_mounts() -> None:
    """What is not mounted into a container is no problem of the node, and doctor names it."""
    options = ("bin-dir", "conf-dir", "host-local", "data-dir")
    words = [word for one in options for word in (f"--{one}", f"/nonexistent/{one}")]
    words += ["--socket", "/nonexistent/run/agent.sock"]
    done = CliRunner().invoke(cli, ["doctor", "--json", *words])
    assert done.exit_code == 0, done.output
    found = [Diagnosis(**one) for one in json.loads(done.stdout)]
    has(found, OK, "this is a container (KUBERNETES_SERVICE_HOST is set)")
    for one in (*options, "run"):
        has(found, WARNING, f"/nonexistent/{one} of the node is not mounted in this container")


@pytest.mark.usefixtures("in_pod")
def test_container_with_mounts(tmp_path: Path, living: Path) -> None:
    """A directory that is there is looked at; the remedy is the DaemonSet's, which installs."""
    (found,) = plugin.look(tmp_path)
    assert (found.level, found.command) == (
        PROBLEM,
        "kubectl -n fastipam-system rollout restart daemonset/fastipam-agent",
    )
    has(list(store.look(str(living))), OK, "; consistent")
    assert agent.restart() == found.command


@pytest.mark.usefixtures("in_pod")
def test_container_of_another_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy names the namespace in which the pod is."""
    (tmp_path / "namespace").write_text("network")
    monkeypatch.setattr(surroundings, "_NAMESPACE", tmp_path / "namespace")
    assert agent.restart() == "kubectl -n network rollout restart daemonset/fastipam-agent"


def test_node_that_is_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sign of a container what is not there is missing."""
    for name in ("KUBERNETES_SERVICE_HOST", "container"):
        monkeypatch.delenv(name, raising=False)
    assert list(surroundings.look()) == [] or os.geteuid() != 0
    (found,) = plugin.look(Path("/nonexistent/bin"))
    assert found.level == PROBLEM


def test_missing_directory_of_configurations(tmp_path: Path) -> None:
    """The remedy is what makes a configuration, not a look at what is not there."""
    (found,), _ = configuration.look(tmp_path / "net.d")
    assert found.command.startswith(f"mkdir -p {tmp_path / 'net.d'} && ")
    (tmp_path / "net.d").mkdir()
    (found,), _ = configuration.look(tmp_path / "net.d")
    assert found.command.endswith(f" {tmp_path / 'net.d'}/10-podnet.conflist")


def test_interpreter_that_this_user_may_not_see(tmp_path: Path) -> None:
    """Another user's doctor does not say that the interpreter is gone, and how root looks."""
    nobody = tools.as_another_user()
    tools.open_to_all(tmp_path)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python3").touch(mode=0o755)
    install(tmp_path / "bin")
    script = tmp_path / "bin" / DIRECT
    script.write_text(script.read_text().replace(sys.executable, str(closed / "python3")))
    program = str(Path(sys.executable).with_name("fastipam"))
    words = [program, "doctor", "--bin-dir", str(tmp_path / "bin"), "--quiet"]
    done = subprocess.run(
        [*nobody, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    found = [number for number, line in enumerate(lines) if str(closed / "python3") in line]
    assert len(found) == 1, done
    at = found[0]
    assert lines[at].split()[:2] == ["warning", "plugin"]
    assert "cannot be read by this user" in lines[at]
    assert lines[at + 1].split()[:3] == ["$", "sudo", program]
    assert "does not exist" not in lines[at]


# --- masquerading ---


@pytest.fixture
def told_to_masquerade() -> Iterator[int]:
    """A process whose command line has the option."""
    words = [sys.executable, "-c", "input()", "--masquerade"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        yield process.pid


def test_masquerading(
    told_to_masquerade: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family whose table is missing is a problem, for an agent that was told to keep it."""
    pools = [
        AddressPool("a", {"cidr": "10.1.0.0/16", "blockSize": 24}),
        AddressPool("b", {"cidr": "fd00::/104", "blockSize": 120}),
    ]
    settings = Settings({"engine": "kubernetes", "node": "n"}).with_pools(pools)
    with closing(Store(tmp_path)) as opened, opened.write() as txn:
        Network(opened, "podnet", settings.pool)._create(txn)
    dirs = [str(tmp_path), str(tmp_path / "none")]
    monkeypatch.setattr(nft, "tables", lambda: [4])
    found = list(masquerading.look(told_to_masquerade, dirs))
    assert levels(found) == [PROBLEM]
    assert has(found, PROBLEM, "IPv6", "ip6 fastipam").command == "nft list table ip6 fastipam"
    monkeypatch.setattr(nft, "tables", lambda: [4, 6])
    assert levels(list(masquerading.look(told_to_masquerade, dirs))) == [OK]
    assert list(masquerading.look(os.getpid(), dirs)) == []
    assert list(masquerading.look(0, dirs)) == []

    def fails(reason: str) -> Any:
        def fail() -> list[int]:
            raise nft.NftFails(reason, "the program nft is not found")

        return fail

    monkeypatch.setattr(nft, "tables", fails("NotFound"))
    has(list(masquerading.look(told_to_masquerade, dirs)), PROBLEM, "the program nft is not found")
    monkeypatch.setattr(nft, "tables", fails(nft.NOT_PERMITTED))
    assert levels(list(masquerading.look(told_to_masquerade, dirs))) == [WARNING]
