"""fastipam under podman: containers start, stop, come back and go, and take their leases along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .backend import PLUGIN_TYPE, assigned
from .cni import Document, refusal
from .netns import NetNS, require_link_type
from .podman import Podman

NETWORK = "podnet"
SUBNET = "10.24.0.0/24"


@pytest.fixture
def podman(scratch: Path, plugin_dir: Path, host: NetNS, data_dir: Path) -> Iterator[Podman]:
    """Return a podman with one network."""
    require_link_type("bridge")
    installed = Podman(scratch, plugin_dir, host)
    installed.add_network(conflist(NETWORK, "cni0", ipam(data_dir, subnet=SUBNET)))
    try:
        yield installed
    finally:
        installed.close()


def ipam(data_dir: Path, **pool: str) -> Document:
    """Return an `ipam` section for one pool."""
    routes = [{"dst": "0.0.0.0/0"}]
    return {"type": PLUGIN_TYPE, "dataDir": str(data_dir), "routes": routes, **pool}


def conflist(name: str, bridge: str, section: Document) -> Document:
    """Return a configuration list of the version that podman writes itself."""
    plugin = {"type": "bridge", "bridge": bridge, "isGateway": True, "ipam": section}
    return {"cniVersion": "0.4.0", "name": name, "plugins": [plugin]}


def held(data_dir: Path) -> dict[str, str]:
    """Return the container that holds each address."""
    return {lease.address: lease.container_id for lease in assigned(data_dir)}


def test_a_container_gets_an_address_for_its_lifetime(podman: Podman, data_dir: Path) -> None:
    """A container that runs to its end sees an address of the pool, and leaves no lease."""
    shown = podman.once(NETWORK, "/bin/ip", "-4", "address", "show", "eth0")
    assert "inet 10.24.0.2/24" in shown
    assert held(data_dir) == {}


def test_two_containers_ping_each_other(podman: Podman, data_dir: Path) -> None:
    """Two containers reach each other at the addresses that podman shows for them."""
    podman.start(NETWORK, "one")
    podman.start(NETWORK, "two")
    addresses = {name: podman.address(name, NETWORK) for name in ("one", "two")}
    assert held(data_dir) == {addresses[name]: podman.container_id(name) for name in addresses}

    podman.run("exec", "one", "/bin/ping", "-c", "1", "-w", "5", addresses["two"])
    podman.run("exec", "two", "/bin/ping", "-c", "1", "-w", "5", addresses["one"])
    podman.remove("one", "two")
    assert held(data_dir) == {}


def test_a_requested_address_survives_stop_and_start(podman: Podman, data_dir: Path) -> None:
    """A container with --ip is given that address again at once when it is started again."""
    podman.start(NETWORK, "one", "--ip=10.24.0.77")
    owner = {"10.24.0.77": podman.container_id("one")}
    assert held(data_dir) == owner

    podman.run("stop", "--time=0", "one")
    assert held(data_dir) == {}
    podman.run("start", "one")
    assert held(data_dir) == owner
    podman.run("restart", "--time=0", "one")
    assert held(data_dir) == owner
    podman.remove("one")
    assert held(data_dir) == {}


def test_a_requested_address_in_use_is_refused(podman: Podman, data_dir: Path) -> None:
    """A second container cannot have the address, and its failure leaves the first one alone."""
    podman.start(NETWORK, "one", "--ip=10.24.0.77")
    refused = podman.start(NETWORK, "two", "--ip=10.24.0.77", check=False)
    assert refused.returncode != 0
    assert "10.24.0.77" in refused.stderr
    assert held(data_dir) == {"10.24.0.77": podman.container_id("one")}
    podman.remove("one", "two")


def test_stop_frees_and_restart_renews_the_lease(podman: Podman, data_dir: Path) -> None:
    """A stopped container holds nothing; a started or restarted one holds one address."""
    podman.start(NETWORK, "one")
    podman.run("stop", "--time=0", "one")
    assert held(data_dir) == {}
    for command in (["start", "one"], ["restart", "--time=0", "one"]):
        podman.run(*command)
        assert held(data_dir) == {podman.address("one", NETWORK): podman.container_id("one")}
    podman.remove("one")
    assert held(data_dir) == {}


def test_a_chain_that_fails_later_leaves_no_lease(podman: Podman, data_dir: Path) -> None:
    """When a plugin after the bridge fails, the address that was given already comes back."""
    failing = conflist("failing", "cni1", ipam(data_dir, subnet="10.25.0.0/24"))
    failing["plugins"].append({"type": "tuning", "sysctl": {"net.ipv4.no_such_setting": "1"}})
    podman.add_network(failing)
    failed = podman.start("failing", "one", check=False)
    assert failed.returncode != 0
    assert "no_such_setting" in failed.stderr
    assert held(data_dir) == {}
    podman.remove("one")


def test_an_exhausted_pool_is_explained_to_the_user(
    podman: Podman, plugin_dir: Path, host: NetNS, data_dir: Path
) -> None:
    """The plugin's own words about a full pool are what podman prints, and room is used again."""
    one_address = {"rangeStart": "10.25.0.10", "rangeEnd": "10.25.0.10"}
    tiny = conflist("tiny", "cni1", ipam(data_dir, subnet="10.25.0.0/24", **one_address))
    podman.add_network(tiny)
    podman.start("tiny", "holder")

    refused = podman.start("tiny", "refused", check=False)
    assert refused.returncode != 0
    conf = {**tiny, **tiny["plugins"][0]}
    assert refusal(conf, inside=host, plugin_dir=plugin_dir) in refused.stderr
    assert held(data_dir) == {"10.25.0.10": podman.container_id("holder")}

    podman.remove("holder")
    podman.run("start", "refused")
    assert held(data_dir) == {"10.25.0.10": podman.container_id("refused")}
    podman.remove("refused")
    assert held(data_dir) == {}
