"""fastipam under containerd, driven through the runtime interface as a kubelet drives it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from . import containerd as containerds
from . import tools
from .backend import PLUGIN_TYPE, assigned, backend
from .cni import Document, refusal
from .containerd import Containerd
from .netns import NetNS, require_ipv6, require_link_type

V4 = "10.26.0.0/27"
V6 = "fd00:26::/64"
PODS = 20
AT_ONCE = 10


@pytest.fixture
def containerd(
    scratch: Path, plugin_dir: Path, host: NetNS, data_dir: Path
) -> Iterator[Containerd]:
    """Return a containerd whose pods get one address of each family."""
    require_link_type("bridge")
    require_ipv6()
    conf = conflist(data_dir, V4, V6)
    with containerds.running(scratch, conf, plugin_dir, host) as running:
        yield running


def conflist(data_dir: Path, *subnets: str) -> Document:
    """Return a configuration list that gives each pod one address of every subnet."""
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    ipam = {"type": PLUGIN_TYPE, "dataDir": str(data_dir), "ranges": ranges}
    plugin = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]}


def held(data_dir: Path) -> dict[str, str]:
    """Return the pod sandbox that holds each address."""
    return {lease.address: lease.container_id for lease in assigned(data_dir)}


def test_twenty_pods_ten_at_a_time(containerd: Containerd, host: NetNS, data_dir: Path) -> None:
    """Pods that start together all get their own addresses, and give them back when removed."""
    names = [f"pod-{number}" for number in range(PODS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pods = list(pool.map(lambda name: containerd.run_pod("default", name), names))
        addresses = list(pool.map(containerd.client.sandbox_addresses, pods))

    assert held(data_dir) == {
        address: pod for pod, pair in zip(pods, addresses, strict=True) for address in pair
    }
    assert len(held(data_dir)) == 2 * PODS
    assert all(families(pair) == [4, 6] for pair in addresses)
    if backend().records_pods:
        named = {(one.container_id, one.pod_namespace, one.pod_name) for one in assigned(data_dir)}
        assert named == {(pod, "default", name) for pod, name in zip(pods, names, strict=True)}
    for address in (*addresses[0], *addresses[-1]):
        host.ping(address)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(containerd.remove_pod, pods))
    assert held(data_dir) == {}


def families(addresses: list[str]) -> list[int]:
    """Return the families of the addresses, sorted."""
    return sorted(ipaddress.ip_address(address).version for address in addresses)


def test_a_stopped_pod_holds_no_address(containerd: Containerd, data_dir: Path) -> None:
    """Stopping frees the addresses; the further DELs of stop and remove disturb nobody else's."""
    stopped = containerd.run_pod("default", "one")
    containerd.client.stop_sandbox(stopped)
    assert held(data_dir) == {}

    other = containerd.run_pod("default", "two")
    containerd.client.stop_sandbox(stopped)
    containerd.client.remove_sandbox(stopped)
    assert set(held(data_dir).values()) == {other}
    containerd.remove_pod(other)
    assert held(data_dir) == {}


def test_a_pod_without_an_address_is_refused(
    scratch: Path, plugin_dir: Path, host: NetNS, data_dir: Path
) -> None:
    """The plugin's own words about a full pool reach the caller, and a removed pod makes room."""
    require_link_type("bridge")
    grpc = tools.require_module("grpc")
    tiny = conflist(data_dir, "10.27.0.0/30")
    with containerds.running(scratch, tiny, plugin_dir, host) as containerd:
        holder = containerd.run_pod("default", "holder")
        with pytest.raises(grpc.RpcError) as refused:
            containerd.run_pod("default", "refused")
        conf = {**tiny, **tiny["plugins"][0]}
        assert refusal(conf, inside=host, plugin_dir=plugin_dir) in refused.value.details()
        assert held(data_dir) == {"10.27.0.2": holder}

        containerd.remove_pod(holder)
        successor = containerd.run_pod("default", "refused")
        assert held(data_dir) == {"10.27.0.2": successor}
        containerd.remove_pod(successor)
        assert held(data_dir) == {}
