"""examples/veth_plugin.py with real namespaces: all six commands in 60 lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from .backend import assigned
from .cni import Document, Network, Outcome, run_plugin
from .conftest import NewNetNS
from .netns import NetNS, require_ipv6, require_link_type

EXAMPLE = Path(__file__).parents[2] / "examples" / "veth_plugin.py"
PLUGIN = "veth-plugin"


@pytest.fixture(scope="module")
def example_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin directory with the example in it."""
    require_link_type("veth")
    require_ipv6()
    directory = tmp_path_factory.mktemp("veth-bin")
    plugin = directory / PLUGIN
    plugin.write_text(f"#!{sys.executable}\n{EXAMPLE.read_text()}")
    plugin.chmod(0o755)
    return directory


@pytest.fixture
def conf(data_dir: Path) -> Document:
    """A dual-stack configuration."""
    ranges = [[{"subnet": "10.25.0.0/24"}], [{"subnet": "fd00:25::/64"}]]
    ipam = {"type": "fastipam", "dataDir": str(data_dir), "ranges": ranges}
    return {"cniVersion": "1.1.0", "name": "podnet", "type": PLUGIN, "ipam": ipam}


@pytest.fixture
def network(conf: Document, host: NetNS, example_dir: Path) -> Network:
    """The network of the example, in a host that forwards."""
    switches = "/proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
    host.run("sh", "-c", f"echo 1 | tee {switches}")
    return Network.of_plugin(conf, example_dir, host)


def ports(host: NetNS) -> set[str]:
    """The names of the veth ends in the host's namespace."""
    listed = json.loads(host.run("ip", "-json", "link", "show", "type", "veth").stdout or "[]")
    return {link["ifname"] for link in listed}


def test_it_has_sixty_lines() -> None:
    """What the README says of it."""
    assert len(EXAMPLE.read_text().splitlines()) <= 60


def test_two_containers(network: Network, host: NetNS, new_netns: NewNetNS, data_dir: Path) -> None:
    """They reach each other and the gateway in both families; CHECK agrees; DEL leaves nothing."""
    first_ns, second_ns = new_netns("one"), new_netns("two")
    first, second = network.add(first_ns), network.add(second_ns)
    assert [str(one) for one in first.addresses] == ["10.25.0.2/24", "fd00:25::2/64"]
    assert [one["interface"] for one in first.result["ips"]] == [1, 1]
    for target in ("10.25.0.3", "10.25.0.1", "fd00:25::3", "fd00:25::1"):
        first_ns.ping(target)
    network.check(first)
    for attachment in (first, first, second):
        network.delete(attachment)
    assert ports(host) == set()
    assert assigned(data_dir) == []


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_versions(version: str, network: Network, new_netns: NewNetNS) -> None:
    """The result has the shape of each version."""
    network.conflist["cniVersion"] = network.conflist["plugins"][0]["cniVersion"] = version
    attachment = network.add(new_netns("one"))
    assert attachment.result["cniVersion"] == version
    assert ("ip4" in attachment.result) == (version < "0.3.0")
    network.delete(attachment)


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        ("ip address flush dev eth0 scope global", "10.25.0.2"),
        ("ip link set eth0 down", "fd00:25::2"),
        ("ip link delete eth0", "eth0"),
    ],
)
def test_check(breakage: str, said: str, network: Network, new_netns: NewNetNS) -> None:
    """CHECK names what is missing."""
    container = new_netns("one")
    attachment = network.add(container)
    container.run(*breakage.split())
    assert said in network.check_error(attachment)["msg"]
    network.delete(attachment)


@pytest.mark.parametrize("repeat", [{}, {"repeatAdd": "return"}])
def test_a_second_add_is_refused(
    repeat: Document, network: Network, host: NetNS, new_netns: NewNetNS, data_dir: Path
) -> None:
    """It destroys nothing, whatever the configuration says of repetition."""
    container = new_netns("one")
    conf = network.conflist["plugins"][0]
    conf["ipam"].update(repeat)
    attachment = network.add(container)
    for netns in (container, new_netns("two")):
        refused = network._run("ADD", conf, attachment.container_id, netns.path, "eth0", None)
        assert refused.error()["code"] == 102
    container.ping("10.25.0.1")
    network.check(attachment)
    assert len(ports(host)) == 1
    assert len(assigned(data_dir)) == 2
    network.delete(attachment)


def test_a_failed_add_leaves_nothing(
    network: Network, host: NetNS, new_netns: NewNetNS, data_dir: Path
) -> None:
    """An interface of somebody else is kept, the lease is not."""
    container = new_netns("one")
    container.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    conf = network.conflist["plugins"][0]
    refused = network._run("ADD", conf, "c1", container.path, "eth0", None).error()
    assert "File exists" in refused["msg"]
    container.run("ip", "link", "show", "eth0")
    container.run("ip", "link", "delete", "eth0")
    conf["ipam"]["ranges"][1][0]["gateway"] = "fe80::1"  # which its end cannot have as a peer twice
    container.run("sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1")
    container.run("sysctl", "-q", "net.ipv6.conf.default.disable_ipv6=1")
    refused = network._run("ADD", conf, "c1", container.path, "eth0", None).error()
    assert refused["msg"].startswith("ip address add")
    assert ports(host) == set()
    assert assigned(data_dir) == []


def test_gc_status_version(
    conf: Document, network: Network, host: NetNS, new_netns: NewNetNS, example_dir: Path,
    data_dir: Path,
) -> None:  # fmt: skip
    """GC keeps what is listed, of this network alone; STATUS and VERSION are the IPAM plugin's."""

    def run(command: str, **keys: Any) -> Outcome:
        target = ("", "", "")
        return run_plugin(
            PLUGIN, command, {**conf, **keys}, *target, inside=host, plugin_dir=example_dir
        )

    kept, dropped = network.add(new_netns("one")), network.add(new_netns("two"))
    other = Network.of_plugin({**conf, "name": "other"}, example_dir, host)
    foreign = other.add(new_netns("three"))
    valid = [{"containerID": kept.container_id, "ifname": "eth0"}]
    assert run("GC").error()["code"] == 7
    run("GC", **{"cni.dev/valid-attachments": valid}).silent()
    left = {kept.container_id, foreign.container_id}
    assert {one.container_id for one in assigned(data_dir)} == left
    names = {one.result["interfaces"][0]["name"] for one in (kept, foreign)}
    assert ports(host) == names
    run("STATUS").silent()
    assert run("STATUS", ipam={"type": "fastipam", "ranges": 3}).error()["code"] == 7
    assert "0.1.0" in run("VERSION").result()["supportedVersions"]
    network.delete(dropped)
    network.delete(kept)
    other.delete(foreign)
    assert ports(host) == set()
