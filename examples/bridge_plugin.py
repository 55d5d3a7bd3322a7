#!/usr/bin/env python3
"""A CNI main plugin that embeds fastipam: containers on a Linux bridge, in Python.

What tutorials show as a shell script, grown up: a bridge with the gateways' addresses, a veth pair
into the container, address, routes; all gone after DEL. The ``ipam`` section means what it means
everywhere; keys of its own are ``bridge`` and ``mtu``. No masquerading. Needs root and pyroute2.

Every step looks at what is there and makes what is missing, and names are computed, never stored:
what a killed plugin leaves behind, a second ADD completes and a DEL removes.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from base64 import b32encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from ipaddress import ip_interface, ip_network
from typing import Any

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netns import setns

import fastipam.cni

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
NODAD = 0x02  # IFA_F_NODAD: the store knows that nobody else has the address


class Fault(Exception):
    """``Fault(code, msg, details)``: what the specification's error object says."""


class Request:
    """One call: the configuration, and the names that follow from it."""

    def __init__(self, environ: Mapping[str, str], stdin: bytes) -> None:
        self.environ = dict(environ)
        self.ifname, self.netns = environ.get("CNI_IFNAME", ""), environ.get("CNI_NETNS", "")
        try:
            self.conf: dict[str, Any] = json.loads(stdin)
            self.version = self.conf.get("cniVersion", "0.1.0")
            self.name = str(self.conf.get("name", ""))
        except (ValueError, AttributeError) as error:
            raise Fault(6, f"the network configuration is no JSON object: {error}") from None
        if self.version not in VERSIONS:
            raise Fault(1, f"cniVersion {self.version} is not supported", ", ".join(VERSIONS))
        self.bridge, self.mtu = self.conf.get("bridge") or "v-net-0", self.conf.get("mtu") or 1500

    def port(self, *owner: str) -> str:
        """The host's end of a container's pair: "f", 20 bits of the network's digest, 50 of all."""
        owner = owner or (self.environ.get("CNI_CONTAINERID", ""), self.ifname)
        return f"f{_digest(self.name)[:4]}{_digest(self.name, *owner)[:10]}"

    def ipam(self, **variables: str) -> dict[str, Any]:
        """Ask fastipam, in process. What it refuses (it checks all it is given) is refused here."""
        conf = {**self.conf, "ipam": {"repeatAdd": "return", **self.conf.get("ipam", {})}}
        status, raw = fastipam.cni.handle(self.environ | variables, json.dumps(conf).encode())
        answer: dict[str, Any] = json.loads(raw) if raw else {}
        if status:
            raise Fault(answer["code"], answer["msg"], answer.get("details", ""))
        return answer


def _digest(*texts: str) -> str:
    return b32encode(blake2b("\0".join(texts).encode(), digest_size=10).digest()).decode().lower()


def inside(path: str) -> IPRoute:
    """A netlink socket in another network namespace; only this thread goes there, and returns."""
    with open("/proc/thread-self/ns/net") as home, open(path) as there:
        setns(there.fileno())
        try:
            return IPRoute()
        finally:
            setns(home.fileno())


@contextmanager
def allow(code: int) -> Iterator[None]:
    """Let it pass that something is there already (EEXIST), or gone already (ENODEV)."""
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise


def find(links: IPRoute, name: str) -> Any:
    """The interface of this name, or None."""
    with allow(errno.ENODEV):
        return next(iter(links.link("get", ifname=name)), None)


def find_pair(host: IPRoute, container: IPRoute, request: Request) -> tuple[Any, Any, bool]:
    """Both ends, or None, and whether they are a pair: each names the other's index."""
    outer, inner = find(host, request.port()), find(container, request.ifname)
    both = outer and inner and (outer.get("link"), inner.get("link"))
    return outer, inner, bool(both) and both == (inner["index"], outer["index"])


def ensure_address(links: IPRoute, index: int, address: Any) -> None:
    """Give an interface an address."""
    with allow(errno.EEXIST):
        links.addr("add", index=index, address=str(address), flags=NODAD)


def ensure_bridge(host: IPRoute, name: str) -> int:
    """The bridge's index; made, and brought up, if there is none of the name."""
    with suppress(OSError):
        return socket.if_nametoindex(name)
    # With no address of its own it takes its ports' lowest, which changes as they come and go.
    mac = (b"\x02" + blake2b(name.encode(), digest_size=5).digest()).hex(":")
    with allow(errno.EEXIST):
        host.link("add", ifname=name, kind="bridge", address=mac, state="up")
    return socket.if_nametoindex(name)


def ensure_gateway(host: IPRoute, bridge: int, address: Any) -> None:
    """The bridge has a gateway's address, and the kernel forwards for it."""
    ensure_address(host, bridge, address)
    key = "ipv4/ip_forward" if address.version == 4 else "ipv6/conf/all/forwarding"
    with open(f"/proc/sys/net/{key}", "w") as file:
        file.write("1")


def routes(result: dict[str, Any]) -> Iterator[tuple[Any, str | None]]:
    """(destination, gateway) of a result's routes; one that names none takes the address's."""
    default = {ip_interface(ip["address"]).version: ip.get("gateway") for ip in result["ips"]}
    for route in result.get("routes", []):
        to = ip_network(route["dst"], strict=False)
        yield to, route.get("gw") or default.get(to.version)


def add(request: Request) -> dict[str, Any]:
    """Attach the container; what fails leaves nothing behind."""
    result = request.ipam()
    try:
        with IPRoute() as host, inside(request.netns) as container:
            links = attach(host, container, request, result)
    except BaseException:
        with suppress(Exception):
            delete(request)
        raise
    return {**result, "interfaces": links, "ips": [{**ip, "interface": 2} for ip in result["ips"]]}


def attach(host: IPRoute, container: IPRoute, request: Request, result: dict[str, Any]) -> Any:
    """Make what has the addresses and routes of ``result``: bridge, its port, and the interface."""
    bridge = ensure_bridge(host, request.bridge)
    for last in (False, True):
        # One message makes both ends, each where it belongs: nothing is ever half moved.
        with open(request.netns) as there, allow(errno.EEXIST):
            peer = {"ifname": request.ifname, "net_ns_fd": there.fileno(), "mtu": request.mtu}
            pair = {"kind": "veth", "master": bridge, "state": "up", "peer": peer}
            host.link("add", ifname=request.port(), mtu=request.mtu, **pair)
            break
        outer, inner, is_pair = find_pair(host, container, request)
        if is_pair:
            break
        if inner or last:
            raise Fault(4, f"CNI_IFNAME: the container has an interface {request.ifname} already")
        host.link("del", index=outer["index"])  # into the namespace before it was started anew
    inner = find(container, request.ifname)
    container.link("set", index=inner["index"], state="up")
    for ip in result["ips"]:
        own = ip_interface(ip["address"])
        ensure_address(container, inner["index"], own)
        if "gateway" in ip:
            ensure_gateway(host, bridge, ip_interface((ip["gateway"], own.network.prefixlen)))
    for to, gateway in routes(result):
        via = {"gateway": gateway} if gateway else {"scope": "link"}
        container.route("replace", dst=str(to), oif=inner["index"], **via)
    ours = {"name": request.ifname, "mac": inner.get("address"), "sandbox": request.netns}
    return [{"name": request.bridge}, {"name": request.port()}, ours]


def delete(request: Request) -> None:
    """Detach: first the interface, then the address, so that two never have it."""
    with IPRoute() as host, allow(errno.ENODEV):
        host.link("del", ifname=request.port())
    request.ipam(CNI_COMMAND="DEL")


def check(request: Request) -> None:
    """Compare what ADD made, as ``prevResult`` tells it, with what is there."""
    request.ipam()
    result = {"ips": [], **request.conf.get("prevResult", {})}
    whole = f"its pair with a port of {request.bridge}"
    with IPRoute() as host, inside(request.netns) as container:
        bridge = find(host, request.bridge)
        outer, inner, is_pair = find_pair(host, container, request)
        has = {whole} if is_pair and bridge and outer.get("master") == bridge["index"] else set()
        index = inner["index"] if inner else -1
        for one in container.get_addr(index=index):
            has.add(f"{one.get('address')}/{one['prefixlen']}")
        for one in container.get_routes(oif=index):
            to = one.get("dst") or ("0.0.0.0" if one["family"] == socket.AF_INET else "::")
            has.add(f"{to}/{one['dst_len']} via {one.get('gateway')}")
    wanted = {whole, *(ip["address"] for ip in result["ips"])}
    wanted |= {f"{to} via {gateway}" for to, gateway in routes(result)}
    if wanted - has:
        raise Fault(120, f"{request.ifname} lacks {', '.join(sorted(wanted - has))}")


def collect(request: Request) -> None:
    """GC: free the leases that the runtime does not list, remove what no lease explains then."""
    request.ipam()
    path = [request.conf["ipam"]["dataDir"]] if "dataDir" in request.conf["ipam"] else []
    with IPRoute() as host:
        # Before the leases are listed: an ADD takes its lease first, and what it makes is safe.
        ports = {link.get("ifname"): link["index"] for link in host.get_links(kind="veth")}
        with fastipam.open(*path) as ipam:
            leases = ipam.network(request.name).leases()
            keep = {request.port(lease.container_id, lease.ifname) for lease in leases}
        for port in ports.keys() - keep:
            if port.startswith(f"f{_digest(request.name)[:4]}") and len(port) == 15:
                with allow(errno.ENODEV):
                    host.link("del", index=ports[port])


COMMANDS: dict[str, Any] = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect}


def handle(environ: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    """Serve one CNI request: (exit status, standard output). Never raises."""
    answer: dict[str, Any] = {"cniVersion": VERSIONS[-1]}
    try:
        if environ.get("CNI_COMMAND") == "VERSION":
            return 0, json.dumps({**answer, "supportedVersions": VERSIONS}).encode()
        request = Request(environ, stdin)
        answer["cniVersion"] = request.version
        done = COMMANDS.get(environ.get("CNI_COMMAND", ""), Request.ipam)(request)
        return 0, json.dumps(done).encode() if done else b""
    except Exception as error:
        own = error.args if isinstance(error, Fault) else (999, f"{type(error).__name__}: {error}")
        answer.update(zip(("code", "msg", "details"), own, strict=False))
        return 1, json.dumps(answer).encode()


if __name__ == "__main__":
    status, output = handle(os.environ, sys.stdin.buffer.read())
    sys.stdout.buffer.write(output)
    sys.exit(status)
