#!/usr/bin/env python3
"""A CNI main plugin with a configuration of its own: a macvlan interface in each of its networks.

::

    {"cniVersion": "1.1.0", "name": "pair", "type": "macvlan_plugin", "dataDir": "/var/lib/pair",
     "networks": [{"name": "front", "master": "eth0", "subnet": "10.26.1.0/24"},
                  {"name": "back", "master": "eth1", "subnet": "10.26.2.0/24", "ifname": "net1"}]}

A container gets an address of every network, or none: one transaction assigns them all. It needs
root, ``ip`` and ``nsenter``.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import fastipam
from fastipam import CniError, cni
from fastipam.cni.error_codes import NOT_AVAILABLE

LACKS = 120  # the code of this plugin's own: CHECK misses something


@dataclass(frozen=True)
class Part:
    """A network of the configuration, and the container's interface in it."""

    name: str
    master: str
    subnet: str
    ifname: str


class Request(cni.Request):
    """A request, with the plugin's own keys."""

    def parts(self) -> list[Part]:
        """Return the networks. One without ``ifname`` has the request's, which GC does not have."""
        found = []
        for at, one in enumerate(self.config.get("networks", [])):
            try:
                texts = one["name"], one["master"], one["subnet"], one.get("ifname", self.ifname)
                found.append(Part(*map(str, texts)))
            except (KeyError, TypeError, AttributeError) as error:
                text = f"an object with name, master and subnet is needed: {error!r}"
                raise fastipam.ConfigError(text, field=f"networks[{at}]", value=one) from None
        if len({part.ifname for part in found}) < max(len(found), 1):
            raise fastipam.ConfigError("each network needs an ifname of its own", field="networks")
        return found

    @contextmanager
    def together(self) -> Iterator[list[tuple[Part, fastipam.Network]]]:
        """Open the store, and a transaction of all networks. It has to be short: others wait."""
        with self.open() as ipam, ipam.transaction() as txn:
            yield [(part, txn.network(part.name, part.subnet)) for part in self.parts()]

    def open(self) -> fastipam.Ipam:
        """Open the store of the configuration."""
        return fastipam.open(self.config.get("dataDir", "/var/lib/cni/macvlan_plugin"))


def ip(*words: str, netns: str = "/proc/self/ns/net") -> Any:
    """Run the command ``ip`` in a network namespace, and return what it shows."""
    command = ["nsenter", f"--net={netns}", "ip", "-json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CniError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout or "[]")


def add(call: Request) -> dict[str, Any]:
    """Assign all addresses, then make the interfaces. What fails is undone, and nothing else."""
    parts, netns = call.parts(), fastipam.Netns.of(call.netns)
    with ExitStack() as undo:
        with call.together() as networks:  # a second ADD is refused here, before anything changes
            leases = [
                network.allocate(call.container_id, part.ifname, netns=netns, pod=call.pod)
                for part, network in networks
            ]
        undo.callback(release, call)
        for part, lease in zip(parts, leases, strict=True):
            link = ["link", part.master, "name", part.ifname, "netns", call.netns]
            ip("link", "add", *link, "type", "macvlan", "mode", "bridge")
            undo.callback(ip, "link", "delete", part.ifname, netns=call.netns)
            ip("address", "add", str(lease.address), "dev", part.ifname, netns=call.netns)
            ip("link", "set", part.ifname, "up", netns=call.netns)
        made = [{"name": part.ifname, "sandbox": call.netns} for part in parts]
        result = cni.result(leases, call.version, interfaces=made)
        undo.pop_all()
    return result


def release(call: Request) -> None:
    """Release the addresses of all networks, in one transaction."""
    with call.together() as networks:
        for part, network in networks:
            network.release(call.container_id, part.ifname)


def delete(call: Request) -> None:
    """Remove the interfaces, unless they went with their namespace; then release the addresses."""
    if os.path.exists(call.netns):
        there = [
            link.get("ifname") for link in ip("link", "show", "type", "macvlan", netns=call.netns)
        ]
        for part in call.parts():
            if part.ifname in there:
                ip("link", "delete", part.ifname, netns=call.netns)
    release(call)


def check(call: Request) -> None:
    """Compare the leases with the addresses of the interfaces."""
    with call.open() as ipam:
        for part in call.parts():
            network = ipam.network(part.name, part.subnet)
            network.check(call.container_id, part.ifname)
            lease = network.get(call.container_id, part.ifname)
            shown = ip("address", "show", "dev", part.ifname, netns=call.netns)[0]["addr_info"]
            if lease and str(lease.address.ip) not in [one["local"] for one in shown]:
                raise CniError(f"{part.ifname} lacks {lease.address}", LACKS)


def collect(call: Request) -> None:
    """Release what the runtime does not list. Its interfaces go with their namespaces."""
    before_ns = time.time_ns()
    valid = call.valid_attachments()
    with call.open() as ipam:
        for part in call.parts():
            owners = [fastipam.Owner(one.container_id, part.ifname or one.ifname) for one in valid]
            ipam.network(part.name, part.subnet).retain(owners, before_ns)


def status(call: Request) -> None:
    """Refuse when no ADD can work: without a store or a master. A full network is no reason."""
    with call.open() as ipam:
        for part in call.parts():
            ipam.network(part.name, part.subnet).stats()
            try:
                ip("link", "show", "dev", part.master)
            except CniError as error:
                raise CniError(error.message, NOT_AVAILABLE) from None


COMMANDS = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect, "STATUS": status}

if __name__ == "__main__":
    Request.main(COMMANDS)
