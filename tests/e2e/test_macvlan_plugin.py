"""examples/macvlan_plugin.py with real namespaces: two networks, all or nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import fastipam

from .cni import Document, Network, Outcome, run_plugin
from .conftest import NewNetNS
from .netns import NetNS, require_link_type

EXAMPLE = Path(__file__).parents[2] / "examples" / "macvlan_plugin.py"
PLUGIN = "macvlan-plugin"


@pytest.fixture(scope="module")
def example_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin directory with the example in it."""
    require_link_type("macvlan")
    require_link_type("veth")
    directory = tmp_path_factory.mktemp("macvlan-bin")
    plugin = directory / PLUGIN
    plugin.write_text(f"#!{sys.executable}\n{EXAMPLE.read_text()}")
    plugin.chmod(0o755)
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The plugin's data directory."""
    return tmp_path / "pair"


@pytest.fixture
def conf(store: Path, host: NetNS) -> Document:
    """Two networks on two masters, which are up."""
    for number in (0, 1):
        name = f"up{number}"
        host.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"far{number}")
        for link in (name, f"far{number}"):
            host.run("ip", "link", "set", link, "up")
    networks = [
        {"name": "front", "master": "up0", "subnet": "10.26.1.0/24"},
        {"name": "back", "master": "up1", "subnet": "10.26.2.0/29", "ifname": "net1"},
    ]
    return {
        "cniVersion": "1.1.0", "name": "pair", "type": PLUGIN,
        "dataDir": str(store), "networks": networks,
    }  # fmt: skip


@pytest.fixture
def network(conf: Document, host: NetNS, example_dir: Path) -> Network:
    """The pair of networks, driven as a runtime does."""
    return Network.of_plugin(conf, example_dir, host)


def leased(store: Path) -> dict[str, list[str]]:
    """The containers of each network."""
    with fastipam.open(store) as ipam:
        return {
            name: [lease.container_id for lease in ipam.network(name).leases()]
            for name in ipam.networks()
        }


def links(netns: NetNS) -> set[str]:
    """The macvlan interfaces in a namespace."""
    shown = json.loads(netns.run("ip", "-json", "link", "show", "type", "macvlan").stdout or "[]")
    return {link["ifname"] for link in shown}


def test_two_networks(network: Network, new_netns: NewNetNS, store: Path) -> None:
    """Two containers reach each other in both networks; DEL leaves nothing."""
    first_ns, second_ns = new_netns("one"), new_netns("two")
    first, second = network.add(first_ns), network.add(second_ns)
    assert [str(one) for one in first.addresses] == ["10.26.1.2/24", "10.26.2.2/29"]
    assert [one["name"] for one in first.result["interfaces"]] == ["eth0", "net1"]
    assert [one["interface"] for one in first.result["ips"]] == [0, 1]
    first_ns.ping(str(second.addresses[0].ip))
    first_ns.ping(str(second.addresses[1].ip))
    network.check(first)
    with fastipam.open(store) as ipam:
        lease = ipam.network("back").get(first.container_id, "net1")
        assert lease is not None
        assert lease.netns == first_ns.path
        assert lease.inode
    for attachment in (first, first, second):
        network.delete(attachment)
    assert links(first_ns) == set()
    assert leased(store) == {"back": [], "front": []}


def test_one_full_network_keeps_both(
    network: Network, conf: Document, new_netns: NewNetNS, store: Path
) -> None:
    """When the second network is full, the first one assigns nothing either."""
    container = new_netns("one")
    with fastipam.open(store) as ipam:
        back = ipam.network("back", "10.26.2.0/29")
        back.allocate_many([(f"other-{number}", "net1") for number in range(5)])
    refused = network._run("ADD", conf, "c1", container.path, "eth0", None).error()
    assert refused["code"] == 100
    assert leased(store).get("front", []) == []
    assert links(container) == set()


def test_a_failed_add_is_undone(
    network: Network, conf: Document, new_netns: NewNetNS, store: Path
) -> None:
    """When the second interface cannot be made, the first one goes, and both addresses."""
    container = new_netns("one")
    container.run("ip", "link", "add", "net1", "type", "veth", "peer", "name", "other")
    refused = network._run("ADD", conf, "c1", container.path, "eth0", None).error()
    assert "File exists" in refused["msg"]
    assert links(container) == set()
    container.run("ip", "link", "show", "net1")
    assert leased(store) == {"back": [], "front": []}


def test_a_second_add_is_refused(
    network: Network, conf: Document, new_netns: NewNetNS, store: Path
) -> None:
    """It touches neither the interfaces nor the leases, in whatever namespace."""
    container = new_netns("one")
    attachment = network.add(container)
    for netns in (container, new_netns("two")):
        refused = network._run("ADD", conf, attachment.container_id, netns.path, "eth0", None)
        assert refused.error()["code"] == 102
    network.check(attachment)
    assert links(container) == {"eth0", "net1"}
    network.delete(attachment)
    assert leased(store) == {"back": [], "front": []}


def test_check_gc_status_version(
    network: Network, conf: Document, host: NetNS, new_netns: NewNetNS, example_dir: Path,
    store: Path,
) -> None:  # fmt: skip
    """CHECK sees what is missing; GC keeps what is listed; STATUS asks for the masters."""

    def run(command: str, **keys: object) -> Outcome:
        whole = {**conf, **keys}
        return run_plugin(PLUGIN, command, whole, "", "", "", inside=host, plugin_dir=example_dir)

    kept_ns = new_netns("one")
    kept, dropped = network.add(kept_ns), network.add(new_netns("two"))
    valid = [{"containerID": kept.container_id, "ifname": "eth0"}]
    run("GC", **{"cni.dev/valid-attachments": valid}).silent()
    assert leased(store) == {"back": [kept.container_id], "front": [kept.container_id]}
    assert network.check_error(dropped)["code"] == 104
    kept_ns.run("ip", "address", "flush", "dev", "net1")
    missing = network.check_error(kept)
    assert (missing["code"], missing["msg"]) == (120, "net1 lacks 10.26.2.2/29")
    run("STATUS").silent()
    host.run("ip", "link", "delete", "up1")
    assert run("STATUS").error()["code"] == 50
    assert "1.1.0" in run("VERSION").result()["supportedVersions"]
    network.delete(kept)
    network.delete(dropped)


@pytest.mark.parametrize(
    ("networks", "field"),
    [
        ([], "networks"),
        ([{"name": "front", "master": "up0"}], "networks[0]"),
        (["front"], "networks[0]"),
        ([{"name": "a", "master": "up0", "subnet": "10.1.0.0/24"}] * 2, "networks"),
        ([{"name": "a", "master": "up0", "subnet": "10.1.0.0/33"}], "ranges"),
    ],
)
def test_wrong_networks(
    networks: list[object], field: str, network: Network, conf: Document, new_netns: NewNetNS
) -> None:
    """What is wrong in the configuration is code 7, with the field."""
    wrong = {**conf, "networks": networks}
    refused = network._run("ADD", wrong, "c1", new_netns("one").path, "eth0", None).error()
    assert refused["code"] == 7
    assert refused["msg"].startswith(field)
