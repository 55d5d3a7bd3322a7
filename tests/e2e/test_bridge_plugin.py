"""examples/bridge_plugin.py with real namespaces: it works, twice, and killed at any step."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fastipam

from . import tools
from .backend import assigned
from .cni import Attachment, Document, Network, Outcome, run_plugin
from .conftest import NewNetNS
from .netns import NetNS, require_ipv6, require_link_type

EXAMPLE = Path(__file__).parents[2] / "examples" / "bridge_plugin.py"
PLUGIN = "bridge-plugin"
V4, V6 = "10.24.0.0/24", "fd00:24::/64"


@pytest.fixture(scope="module")
def example_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin directory with the example in it, started by the Python that runs the tests."""
    tools.require_module("pyroute2")
    require_link_type("bridge")
    require_link_type("veth")
    directory = tmp_path_factory.mktemp("example-bin")
    plugin = directory / PLUGIN
    plugin.write_text(f"#!{sys.executable}\n{EXAMPLE.read_text()}")
    plugin.chmod(0o755)
    return directory


def configuration(data_dir: Path, *subnets: str, version: str = "1.1.0") -> Document:
    """The example's configuration with a default route for each family."""
    ipam = {
        "type": "fastipam",
        "dataDir": str(data_dir),
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
    }
    return {"cniVersion": version, "name": "podnet", "type": PLUGIN, "ipam": ipam}


def ports(host: NetNS) -> set[str]:
    """The names of the veth ends in the host's namespace."""
    listed = json.loads(host.run("ip", "-json", "link", "show", "type", "veth").stdout or "[]")
    return {link["ifname"] for link in listed}


@pytest.fixture
def network(data_dir: Path, host: NetNS, example_dir: Path) -> Network:
    """A dual-stack network of the example."""
    require_ipv6()
    return Network.of_plugin(configuration(data_dir, V4, V6), example_dir, host)


def test_containers_reach_each_other_the_gateway_and_the_outside(
    network: Network, host: NetNS, new_netns: NewNetNS
) -> None:
    """Two containers ping each other, the bridge, and a machine beyond the node, both families."""
    first_ns, second_ns, outside = new_netns("one"), new_netns("two"), new_netns("outside")
    host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0")
    host.run("ip", "link", "set", "eth0", "netns", outside.name)
    for netns, link, last in ((host, "up0", "1"), (outside, "eth0", "2")):
        netns.run("ip", "address", "add", f"192.0.2.{last}/24", "dev", link)
        netns.run("ip", "address", "add", f"2001:db8::{last}/64", "dev", link, "nodad")
        netns.run("ip", "link", "set", link, "up")
    outside.run("ip", "route", "add", V4, "via", "192.0.2.1")
    outside.run("ip", "route", "add", V6, "via", "2001:db8::1")

    first, second = network.add(first_ns), network.add(second_ns)
    assert {str(one) for one in first.addresses} == {"10.24.0.2/24", "fd00:24::2/64"}
    for target in (
        "10.24.0.3",
        "10.24.0.1",
        "192.0.2.2",
        "fd00:24::3",
        "fd00:24::1",
        "2001:db8::2",
    ):
        first_ns.ping(target)
    outside.ping("10.24.0.2")
    outside.ping("fd00:24::3")
    network.check(first)
    network.delete(first)
    network.delete(second)
    assert ports(host) == {"up0"}


def test_the_result_names_the_interfaces(
    network: Network, host: NetNS, new_netns: NewNetNS
) -> None:
    """Bridge, port and container interface are named; the last has its MAC, and the addresses."""
    container = new_netns("one")
    attachment = network.add(container)
    bridge, port, inner = attachment.result["interfaces"]
    assert bridge["name"] == "v-net-0"
    assert port["name"] in ports(host)
    assert inner["sandbox"] == container.path
    shown = json.loads(container.run("ip", "-json", "link", "show", "eth0").stdout)[0]
    assert (inner["name"], inner["mac"]) == ("eth0", shown["address"])
    assert [ip["interface"] for ip in attachment.result["ips"]] == [2, 2]
    network.delete(attachment)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_versions(
    version: str, data_dir: Path, host: NetNS, example_dir: Path, new_netns: NewNetNS
) -> None:
    """The result has the configuration's version, and its shape."""
    conf = configuration(data_dir, V4, version=version)
    network = Network.of_plugin(conf, example_dir, host)
    attachment = network.add(new_netns("one"))
    assert attachment.result["cniVersion"] == version
    if version < "0.3.0":
        assert attachment.result["ip4"]["ip"] == "10.24.0.2/24"
        network.delete(attachment)
        return
    assert ("version" in attachment.result["ips"][0]) == (version < "1.0.0")
    network.delete(attachment)


def test_twice(network: Network, host: NetNS, new_netns: NewNetNS, example_dir: Path) -> None:
    """A second ADD answers as the first did and a second DEL succeeds; nothing is doubled."""
    container = new_netns("one")
    first = network.add(container)
    again = run_plugin(
        PLUGIN, "ADD", network.conflist["plugins"][0], first.container_id, container.path,
        inside=host, plugin_dir=example_dir,
    )  # fmt: skip
    assert again.result() == first.result
    assert len(ports(host)) == 1
    network.delete(first)
    network.delete(first)
    assert ports(host) == set()


def test_delete_without_the_namespace(network: Network, new_netns: NewNetNS) -> None:
    """DEL succeeds when the container's namespace is gone, and frees the address."""
    container = new_netns("one")
    attachment = network.add(container)
    container.delete()
    network.delete(attachment)
    network.delete(attachment, netns="")


def test_a_container_in_another_namespace(
    network: Network, host: NetNS, new_netns: NewNetNS
) -> None:
    """ADD for another namespace waits for a DEL; what the first ADD has made works on."""
    old, new = new_netns("old"), new_netns("new")
    conf = network.conflist["plugins"][0]
    first = network.add(old)
    refused = network._run("ADD", conf, first.container_id, new.path, "eth0", None).error()
    assert (refused["code"], "attached in another namespace" in refused["msg"]) == (11, True)
    old.ping("10.24.0.1")
    network.check(first)
    network.delete(first)
    second = network._run("ADD", conf, first.container_id, new.path, "eth0", None).result()
    new.ping("10.24.0.1")
    assert len(ports(host)) == 1
    network.delete(Attachment(first.container_id, new.path, "eth0", second))


def leases(data_dir: Path) -> list[tuple[str, str]]:
    """The addresses of the network, and the namespaces of their leases."""
    with fastipam.open(data_dir) as ipam:
        return [(str(one.address), one.netns) for one in ipam.network("podnet").leases()]


UNREACHABLE = [{"dst": "192.168.3.0/24", "gw": "172.31.0.1"}]  # a route that the kernel refuses


@pytest.mark.parametrize(
    ("keys", "ipam", "netns", "args"),
    [
        ({"mtu": 70000}, {}, "", ""),
        ({"mtu": "1500"}, {}, "", ""),
        ({"bridge": "lo"}, {}, "", ""),
        ({"bridge": "a-name-that-is-too-long"}, {}, "", ""),
        ({}, {"routes": UNREACHABLE}, "", ""),
        ({}, {"routes": 3}, "", ""),
        ({}, {"repeatAdd": "error", "routes": 3}, "", ""),
        ({}, {"resolvConf": "/nonexistent"}, "", ""),
        ({}, {}, "/run/netns/none", ""),
        ({}, {}, "/proc/self/ns/mnt", ""),
        ({}, {}, "", "IP=10.24.0.77"),
        ({}, {}, "", "IP=nonsense"),
    ],
)
def test_a_second_add_that_fails_destroys_nothing(
    keys: dict[str, Any], ipam: dict[str, Any], netns: str, args: str,
    network: Network, new_netns: NewNetNS, host: NetNS, example_dir: Path, data_dir: Path,
) -> None:  # fmt: skip
    """Whatever a second ADD fails of, the container keeps interface, lease and connection."""
    container = new_netns("one")
    attachment = network.add(container)
    leased, linked = leases(data_dir), ports(host)
    conf = network.conflist["plugins"][0]
    wrong = {**conf, **keys, "ipam": {**conf["ipam"], **ipam}}
    run_plugin(
        PLUGIN, "ADD", wrong, attachment.container_id, netns or container.path, args=args,
        inside=host, plugin_dir=example_dir,
    ).error()  # fmt: skip
    assert ports(host) == linked
    assert (
        leases(data_dir)
        == leased
        == [("10.24.0.2/24", container.path), ("fd00:24::2/64", container.path)]
    )
    container.ping("10.24.0.1")
    network.delete(attachment)
    assert ports(host) == set()
    assert assigned(data_dir) == []


@pytest.mark.parametrize("leased_before", [False, True])
def test_what_fails_at_its_end_is_undone(
    leased_before: bool,
    network: Network, new_netns: NewNetNS, host: NetNS, example_dir: Path, data_dir: Path,
) -> None:  # fmt: skip
    """The pair of a failed ADD goes, and its lease; a lease that was there before it stays."""
    container = new_netns("one")
    conf = network.conflist["plugins"][0]
    conf["ipam"]["routes"] = UNREACHABLE
    if leased_before:  # as after an ADD that was killed
        with fastipam.open(data_dir) as ipam:
            ipam.network("podnet", [V4, V6]).allocate("c1")
    fault = run_plugin(
        PLUGIN, "ADD", conf, "c1", container.path, inside=host, plugin_dir=example_dir
    ).error()
    assert "route to 192.168.3.0/24" in fault["msg"]
    assert ports(host) == set()
    assert len(assigned(data_dir)) == (2 if leased_before else 0)
    run_plugin(
        PLUGIN, "DEL", conf, "c1", container.path, inside=host, plugin_dir=example_dir
    ).silent()
    assert assigned(data_dir) == []


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        ("ip route delete default", "0.0.0.0/0 via 10.24.0.1"),
        ("ip address delete 10.24.0.2/24 dev eth0", "10.24.0.2/24"),
        ("ip link delete eth0", "its pair with a port of v-net-0"),
        ("ip link set eth0 down", "its pair with a port of v-net-0, all of them up"),
    ],
)
def test_check_says_what_is_missing(
    breakage: str, said: str, network: Network, new_netns: NewNetNS
) -> None:
    """CHECK fails with the thing that is not as ADD left it."""
    container = new_netns("one")
    attachment = network.add(container)
    container.run(*breakage.split())
    fault = network.check_error(attachment)
    assert fault["code"] == 120
    assert said in fault["msg"]
    network.delete(attachment)


@pytest.mark.parametrize("tampering", ["nomaster", "down"])
def test_a_second_add_mends_what_was_tampered_with(
    tampering: str, network: Network, host: NetNS, new_netns: NewNetNS
) -> None:
    """A port that was taken off the bridge, or down, fails CHECK, and ADD puts it right."""
    container = new_netns("one")
    attachment = network.add(container)
    host.run("ip", "link", "set", attachment.result["interfaces"][1]["name"], tampering)
    assert "a port of v-net-0" in network.check_error(attachment)["msg"]
    conf = network.conflist["plugins"][0]
    network._run("ADD", conf, attachment.container_id, container.path, "eth0", None).result()
    network.check(attachment)
    container.ping("10.24.0.1")
    network.delete(attachment)


def test_a_bridge_that_is_there_already(network: Network, host: NetNS, new_netns: NewNetNS) -> None:
    """A bridge of somebody else's, down and with an address of its own, is used and brought up."""
    host.run("ip", "link", "add", "v-net-0", "type", "bridge")
    host.run("ip", "address", "add", "192.0.2.1/24", "dev", "v-net-0")
    container = new_netns("one")
    attachment = network.add(container)
    container.ping("10.24.0.1")
    host.run("ip", "link", "set", "v-net-0", "down")
    assert "all of them up" in network.check_error(attachment)["msg"]
    network.delete(attachment)
    assert "192.0.2.1/24" in host.run("ip", "address", "show", "v-net-0").stdout


def test_the_keys_of_a_route(
    data_dir: Path, host: NetNS, example_dir: Path, new_netns: NewNetNS
) -> None:
    """What a route of CNI 1.1 may say, the route in the container has; CHECK finds it again."""
    conf = configuration(data_dir, V4)
    conf["ipam"]["routes"] = [
        {"dst": "0.0.0.0/0", "mtu": 1300, "advmss": 1200, "priority": 77},
        {"dst": "192.168.3.7/24", "gw": "10.24.0.9"},
        {"dst": "192.168.4.0/24", "table": 100},
    ]
    network = Network.of_plugin(conf, example_dir, host)
    container = new_netns("one")
    attachment = network.add(container)
    main = container.run("ip", "route").stdout
    for said in ("default via 10.24.0.1", "metric 77", "mtu 1300", "advmss 1200"):
        assert said in main
    assert "192.168.3.0/24 via 10.24.0.9" in main
    assert "192.168.4.0/24 via" in container.run("ip", "route", "show", "table", "100").stdout
    network.check(attachment)
    network.delete(attachment)


def test_forwarding_where_it_is_on_and_cannot_be_written(
    network: Network, host: NetNS, new_netns: NewNetNS, example_dir: Path
) -> None:
    """Forwarding that is on is not written: in many containers /proc/sys cannot be."""
    host.run(
        "sh",
        "-c",
        "echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding",
    )
    container = new_netns("one")
    read_only = (
        'mount --bind -o ro /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$0"'
    )
    done = host.run(
        "unshare", "--mount", "sh", "-ec", read_only, str(example_dir / PLUGIN),
        stdin=json.dumps(network.conflist["plugins"][0]),
        env={**os.environ, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0",
             "CNI_NETNS": container.path, "CNI_PATH": str(example_dir)},
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert len(result["ips"]) == 2
    network.delete(Attachment("c1", container.path, "eth0", result))


@pytest.mark.parametrize(
    ("keys", "netns", "code", "said"),
    [
        ({}, "/run/netns/none", 4, "CNI_NETNS: '/run/netns/none' is not a network namespace"),
        ({}, "/etc/passwd", 4, "CNI_NETNS: '/etc/passwd' is not a network namespace"),
        ({}, "/proc/self/ns/mnt", 4, "CNI_NETNS: '/proc/self/ns/mnt' is not a network namespace"),
        ({"bridge": 5}, "", 7, "bridge: 5 is not a string"),
        ({"mtu": "1500"}, "", 7, "mtu: '1500' is not a number"),
        ({"mtu": 70000}, "", 999, "port of v-net-0: Invalid argument"),
        ({"bridge": "lo"}, "", 999, "port of lo: "),
        ({"bridge": "a\0b"}, "", 7, r"bridge: 'a\x00b' is not a string"),
        ({"bridge": "\ud800"}, "", 7, r"bridge: '\ud800' is not a string"),
        ({"bridge": "a-name-that-is-too-long"}, "", 999, "a-name-that-is-too-long: "),
    ],
)
def test_refusals_say_what_is_wrong(
    keys: dict[str, Any], netns: str, code: int, said: str,
    data_dir: Path, host: NetNS, example_dir: Path, new_netns: NewNetNS,
) -> None:  # fmt: skip
    """ADD names what it could not use and leaves nothing; DEL with the same succeeds."""
    conf = {**configuration(data_dir, V4), **keys}
    target = ("c1", netns or new_netns("one").path)
    fault = run_plugin(PLUGIN, "ADD", conf, *target, inside=host, plugin_dir=example_dir).error()
    assert (fault["code"], said in fault["msg"]) == (code, True), fault
    assert ports(host) == set()
    assert assigned(data_dir) == []
    run_plugin(PLUGIN, "DEL", conf, *target, inside=host, plugin_dir=example_dir).silent()


def test_three_at_once_make_one_bridge(network: Network, host: NetNS, new_netns: NewNetNS) -> None:
    """ADDs that all find no bridge share the one that the first of them makes."""
    containers = [new_netns(name) for name in ("one", "two", "three")]
    with ThreadPoolExecutor() as pool:
        attachments = list(pool.map(network.add, containers))
    containers[0].ping("10.24.0.1")
    assert len({str(one.addresses[0]) for one in attachments}) == len(containers)
    for attachment in attachments:
        network.check(attachment)
        network.delete(attachment)
    assert ports(host) == set()


def test_an_interface_of_somebody_else(
    network: Network, host: NetNS, new_netns: NewNetNS, example_dir: Path, data_dir: Path
) -> None:
    """ADD refuses a name that the container has already, touches it not and keeps no address."""
    container = new_netns("one")
    container.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    conf = network.conflist["plugins"][0]
    outcome = run_plugin(
        PLUGIN, "ADD", conf, "c1", container.path, inside=host, plugin_dir=example_dir
    )
    assert "CNI_IFNAME" in outcome.error()["msg"]
    container.run("ip", "link", "show", "eth0")
    assert assigned(data_dir) == []
    assert ports(host) == set()


def test_gc_keeps_what_is_listed(
    network: Network, host: NetNS, new_netns: NewNetNS, example_dir: Path, data_dir: Path
) -> None:
    """GC frees the leases that are not listed, and removes their interfaces, and no others."""
    kept, dropped = network.add(new_netns("one")), network.add(new_netns("two"))
    host.run("ip", "link", "add", "fabcdefghijklmn", "type", "veth", "peer", "name", "other")
    valid = [{"containerID": kept.container_id, "ifname": "eth0"}]
    conf = {**network.conflist["plugins"][0], "cni.dev/valid-attachments": valid}
    run_plugin(PLUGIN, "GC", conf, "", "", "", inside=host, plugin_dir=example_dir).silent()
    assert {one.container_id for one in assigned(data_dir)} == {kept.container_id}
    names = {one.result["interfaces"][1]["name"]: one for one in (kept, dropped)}
    assert ports(host) == {"fabcdefghijklmn", "other", next(iter(names))}
    network.delete(kept)
    network.delete(dropped)


def test_version_status_and_refusals(data_dir: Path, host: NetNS, example_dir: Path) -> None:
    """VERSION lists the versions; STATUS asks the store; bad input gets one error object."""

    def run(command: str, conf: Any, container: str = "c1") -> Outcome:
        target = (container, "/run/netns/none")
        return run_plugin(PLUGIN, command, conf, *target, inside=host, plugin_dir=example_dir)

    conf = configuration(data_dir, "10.24.0.0/30")
    assert "1.1.0" in run("VERSION", {}).result()["supportedVersions"]
    run("STATUS", conf).silent()
    assert run("ADD", {**conf, "cniVersion": "0.9.0"}).error()["code"] == 1
    assert run("ADD", {**conf, "name": ""}).error()["code"] == 7
    assert run("DEL", {**conf, "name": 3}).error()["code"] == 6
    assert run("ADD", []).error()["code"] == 6
    assert "ipam" in run("ADD", {**conf, "ipam": 3}).error()["msg"]
    assert run("NONE", conf).error()["code"] == 4
    assert run("DEL", conf, container="").error()["code"] == 4
    missing = run("ADD", conf).error()
    assert "/run/netns/none" in missing["msg"]
    assert assigned(data_dir) == []


KILLER = """
import importlib.util, itertools, json, os, signal, sys
import pyroute2
import fastipam, fastipam.cni, fastipam.ipam

example, conf, netns = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
spec = importlib.util.spec_from_file_location("bridge_plugin", example)
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)
left = -1  # calls until this process is killed; -1: it is not


def counted(function):
    def call(*arguments, **keywords):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **keywords)
    return call


fastipam.cni.Request.allocate = counted(fastipam.cni.Request.allocate)
fastipam.cni.Request.delegate = counted(fastipam.cni.Request.delegate)


class Counted(pyroute2.IPRoute):
    def __getattr__(self, name):
        value = super().__getattr__(name)
        return counted(value) if name in ("link", "addr", "route") else value


plugin.IPRoute = Counted
plugin.ioctl = counted(plugin.ioctl)


def run(command, kill_at=-1, **keys):
    "One call in a process of its own, killed before so many steps; None: it was."
    global left
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        left = kill_at
        environ = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0",
                   "CNI_NETNS": netns, "CNI_PATH": "/none"}
        status, output = plugin.Request.serve(
            environ, json.dumps({**conf, **keys}).encode(), plugin.COMMANDS)
        os.write(writing, output)
        os._exit(status)
    os.close(writing)
    with open(reading, "rb") as file:
        output = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        return None
    assert status == 0, output
    return json.loads(output) if output else {}


def nothing_left():
    with pyroute2.IPRoute() as host:
        assert not list(host.get_links(kind="veth"))
    with fastipam.open(conf["ipam"]["dataDir"]) as ipam:
        assert not [lease for name in ipam.networks() for lease in ipam.network(name).leases()]


story, points = sys.argv[4], 0
for kill_at in itertools.count():
    if story == "DEL":
        assert run("ADD")
    killed = run(story[:3], kill_at) is None
    points += killed
    if story == "ADD, then ADD":
        run("CHECK", prevResult=run("ADD"))
    run("DEL")
    nothing_left()
    if not killed:
        break
print(points)
"""


@pytest.mark.parametrize("story", ["ADD, then ADD", "ADD, then DEL", "DEL"])
def test_killed_before_any_step(
    story: str, data_dir: Path, host: NetNS, new_netns: NewNetNS, example_dir: Path
) -> None:
    """Killed before each of its steps: ADD completes it, DEL removes it, none is left."""
    assert example_dir.exists()
    conf = configuration(data_dir, V4)
    container = new_netns("one")
    done = host.run(
        sys.executable, "-c", KILLER, str(EXAMPLE), json.dumps(conf), container.path, story,
        env={**os.environ}, timeout_s=120,
    )  # fmt: skip
    assert int(done.stdout) >= (2 if story == "DEL" else 7), "too few steps were killed"


def test_it_is_short() -> None:
    """The example can be read in one sitting: fewer than 250 lines."""
    assert len(EXAMPLE.read_text().splitlines()) < 250
