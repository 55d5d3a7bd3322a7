"""What has to hold when nothing happens any more, of addresses, leases, blocks and routes."""

from __future__ import annotations

import ipaddress
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nodes import reach
from ..rest import BLOCKS
from ..server import until
from . import workloads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..nodes.cluster import Cluster
    from ..nodes.node import Node

FASTIPAM = str(Path(sys.executable).with_name("fastipam"))
PROTOCOL = "147"  # of the routes that the agent sets
_Leases = dict[str, str]  # address: the pod, as NAMESPACE/NAME


def settled(cluster: Cluster) -> None:
    """Wait until all of it holds; fail with what does not.

    The addresses of pods are the leases of their nodes, none is twice; each pod reaches each pod,
    in all its families; each node has a route to every block of the others, and no other route.
    """
    wrong = ["not looked yet"]

    def right() -> bool:
        wrong[:] = _differences(cluster)
        return not wrong

    try:
        until(right, "the cluster has settled")
    except AssertionError:
        reasons = "\n".join(_why_not_swept(cluster))
        raise AssertionError("not settled: " + "; ".join(wrong[:10]) + reasons) from None
    _all_reach_all(cluster)


def _why_not_swept(cluster: Cluster) -> Iterator[str]:
    """What a sweep would say of each node's leases."""
    for name, node in cluster.nodes.items():
        done = node.run(FASTIPAM, "sweep", "--dry-run", "--json", check=False)
        yield f"\n{name}: {done.stdout}{done.stderr}"


def _differences(cluster: Cluster) -> list[str]:
    found = list(_pods_and_leases(cluster))
    if not found:
        found = list(_routes(cluster))
    return found


def addresses(pod: dict[str, Any]) -> list[str]:
    """The addresses of a pod as its status has them."""
    return [each["ip"] for each in pod["status"].get("podIPs", ())]


def leases(node: Node) -> _Leases:
    """The assigned addresses in a node's store, with their pods."""
    listed = node.json(FASTIPAM, "list", "--state", "ASSIGNED", "--json")
    return {each["address"]: each["pod"] for each in listed}


def blocks(cluster: Cluster) -> dict[str, str]:
    """The node of each block."""
    found = cluster.admin.get(BLOCKS).done()["items"]
    return {each["spec"]["cidr"]: each["spec"]["node"] for each in found}


def names(cluster: Cluster, path: str) -> set[str]:
    """The names of the objects of a kind."""
    return {each["metadata"]["name"] for each in cluster.admin.get(path).done()["items"]}


def used_blocks(cluster: Cluster) -> dict[str, str]:
    """The node of each block that has leases. A node may give up an empty one at any time."""
    held = [ipaddress.ip_address(each) for node in cluster.nodes.values() for each in leases(node)]
    found = {}
    for cidr, owner in blocks(cluster).items():
        block = ipaddress.ip_network(cidr)
        if any(each in block for each in held):
            found[cidr] = owner
    return found


def _pods_and_leases(cluster: Cluster) -> Iterator[str]:
    expected: dict[str, _Leases] = {name: {} for name in cluster.nodes}
    seen: dict[str, str] = {}
    for pod in workloads.pods(cluster):
        metadata = pod["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        if "deletionTimestamp" in metadata or not addresses(pod):
            yield f"{name} is {pod['status'].get('phase')}, and has no address or is being deleted"
            continue
        for each in addresses(pod):
            if each in seen:
                yield f"{each} has {name}, and {seen[each]}"
            seen[each] = name
            expected[pod["spec"]["nodeName"]][each] = name
    for name, node in cluster.nodes.items():
        if (found := leases(node)) != expected[name]:
            more = sorted(found.items() - expected[name].items())
            less = sorted(expected[name].items() - found.items())
            yield f"{name}: leases without their pod {more}, pods without their lease {less}"


def _routes(cluster: Cluster) -> Iterator[str]:
    """Compare each node's routes with the blocks of the others.

    A route may be to several blocks, and a node without blocks needs none to others' blocks.
    """
    owned: dict[str, list[Any]] = {name: [] for name in cluster.nodes}
    for cidr, owner in blocks(cluster).items():
        network = ipaddress.ip_network(cidr)
        if owner not in owned:
            yield f"{network} is {owner}'s, which is no node"
            continue
        owned[owner].append(network)
    for name, node in cluster.nodes.items():
        for version in (4, 6):
            via = {one.addresses[version == 6]: other for other, one in cluster.nodes.items()}
            routes = {
                other: [ipaddress.ip_network(each["dst"]) for each in listed]
                for other, listed in _by_owner(node, version, via).items()
            }
            for other, networks in owned.items():
                wanted = [each for each in networks if each.version == version]
                there = [] if other == name else wanted
                if _merged(routes.pop(other, [])) != _merged(there):
                    yield f"{name}: routes to {other} are not its blocks {there}"
            for strange, listed in routes.items():
                yield f"{name}: routes to {strange}: {listed}"


def _by_owner(node: Node, version: int, via: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The agent's routes by the node that they lead to; those that lead nowhere are left out."""
    listed = node.json("ip", "-j", f"-{version}", "route", "show", "proto", PROTOCOL)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in listed or ():
        if each.get("type", "unicast") == "unicast":
            gateway = each.get("gateway", "")
            found.setdefault(via.get(gateway, gateway), []).append(each)
    return found


def _merged(networks: list[Any]) -> list[Any]:
    return sorted(ipaddress.collapse_addresses(networks))


def _forwarding(node: Node, *namespaces: str) -> str:
    """What decides where a node, and pods on it, send packets."""
    commands = [r"sysctl -ar ^net.ipv[46].conf.*\.forwarding", "nft list ruleset"]
    for where in ("ip", *(f"ip -n {each}" for each in namespaces)):
        commands += [f"{where} address", f"{where} route", f"{where} -6 route", f"{where} neigh"]
    runs = [node.run(*one.split(), check=False) for one in commands]
    return "\n".join(f"{one}:\n{done.stdout}" for one, done in zip(commands, runs, strict=True))


def _all_reach_all(cluster: Cluster) -> None:
    """Send from each pod an echo request to each pod."""
    wanted = [each for pod in workloads.pods(cluster) for each in addresses(pod)]
    for name, node in cluster.nodes.items():
        program = (sys.executable, "-I", str(Path(reach.__file__)))
        answers = json.loads(node.run(*program, stdin=json.dumps(wanted), timeout_s=300).stdout)
        unreached = {one: missing for one, missing in answers.items() if missing}
        assert not unreached, (
            f"from pods of {name} nobody answers: {unreached}\n{_forwarding(node, *unreached)}"
        )
        here = [pod for pod in workloads.pods(cluster) if pod["spec"].get("nodeName") == name]
        assert len(answers) >= len(here), f"{name}: {len(answers)} namespaces, {len(here)} pods"
