#!/usr/bin/env python3
"""A CNI main plugin that embeds fastipam: containers on a Linux bridge, in Python.

ADD makes a bridge with the gateways' addresses, a veth pair, address and routes; DEL removes the
pair. The plugin's own keys are ``bridge`` and ``mtu``. It needs root and pyroute2.

Every step reads what exists and makes what is missing, and names are computed, never stored. So
after a plugin was killed, a second ADD completes its work, and a DEL removes it.
"""

import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import ioctl
from hashlib import blake2b
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netns import setns

import fastipam.cni

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NODAD, UP = 0x02, 0x01  # IFA_F_NODAD: no duplicate detection, the store excludes duplicates; IFF_UP


class Fault(Exception):
    """An error object of the specification: ``Fault(code, msg, details)``."""


class Request:
    """A call: the configuration, and the names that are computed from it."""

    def __init__(self, environ: Mapping[str, str], stdin: bytes) -> None:
        self.environ, self.netns = dict(environ), environ.get("CNI_NETNS", "")
        try:
            self.conf: dict[str, Any] = json.loads(stdin)
            self.version = self.conf.get("cniVersion", "0.1.0")
        except (ValueError, AttributeError) as error:
            raise Fault(6, f"the network configuration is no JSON object: {error}") from None
        if self.version not in VERSIONS:
            raise Fault(1, f"cniVersion {self.version} is not supported", ", ".join(VERSIONS))
        if isinstance(self.conf.get("ipam"), dict):
            self.conf["ipam"].setdefault("repeatAdd", "return")
        self.ifname, self.name = environ.get("CNI_IFNAME", ""), str(self.conf.get("name", ""))
        self.bridge, self.mtu = self.conf.get("bridge") or "v-net-0", self.conf.get("mtu") or 1500

    def port(self, *owner: str) -> str:
        """Return the name of the host's end: "f", 20 bits of the network's digest, 36 of all."""
        owner = owner or (self.environ.get("CNI_CONTAINERID", ""), self.ifname)
        network, pair = (blake2b("\0".join((self.name, *of)).encode()) for of in ((), owner))
        return f"f{network.hexdigest()[:5]}{pair.hexdigest()[:9]}"

    def ipam(self, **variables: str) -> dict[str, Any]:
        """Call fastipam in this process; it checks all input. Raises its error object as Fault."""
        status, raw = fastipam.cni.handle(self.environ | variables, json.dumps(self.conf).encode())
        answer: dict[str, Any] = json.loads(raw) if raw else {}
        if status:
            raise Fault(answer["code"], answer["msg"], answer.get("details", ""))
        return answer


def inside(path: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in another network namespace. Only this thread enters it, and returns."""
    with open("/proc/thread-self/ns/net") as home:
        try:
            setns(path, flags=0)
            return call(*arguments)
        except OSError as error:
            raise Fault(4, f"CNI_NETNS: {path!r} is no network namespace", str(error)) from None
        finally:
            setns(home.fileno())


@contextmanager
def step(what: str, harmless: int = 0) -> Iterator[None]:
    """Raise what the kernel refused, except what exists already (EEXIST) or is gone (ENODEV)."""
    try:
        yield
    except NetlinkError as error:
        if error.code != harmless:
            raise Fault(999, f"{what}: {os.strerror(error.code)}") from None


def find(links: IPRoute, name: str) -> Any:
    """Return the interface of this name, or None."""
    with step(name, errno.ENODEV):
        return next(iter(links.link("get", ifname=name)), None)


def find_pair(host: IPRoute, container: IPRoute, request: Request) -> tuple[Any, Any, bool]:
    """Return both ends, each perhaps None, and whether each has the other's index as its peer."""
    outer, inner = find(host, request.port()), find(container, request.ifname)
    both = outer and inner and (outer.get("link"), inner.get("link"))
    return outer, inner, bool(both) and both == (inner["index"], outer["index"])


def ensure_bridge(host: IPRoute, name: str) -> tuple[int, str]:
    """Make the bridge if it does not exist, set it up, and return its index and MAC."""
    try:
        index, ifreq = socket.if_nametoindex(name), name.encode().ljust(40, b"\0")
    except OSError:
        # Without a MAC of its own a bridge takes the lowest of its ports, which would change.
        own = (b"\x02" + blake2b(name.encode(), digest_size=5).digest()).hex(":")
        with step(f"bridge {name}", errno.EEXIST):
            host.link("add", ifname=name, kind="bridge", address=own, state="up")
        return ensure_bridge(host, name)
    with socket.socket() as some:  # SIOCGIFFLAGS, SIOCGIFHWADDR: faster than netlink
        flags, mac = (ioctl(some, number, ifreq)[16:] for number in (0x8913, 0x8927))
    if not int.from_bytes(flags[:2], sys.byteorder) & UP:
        host.link("set", index=index, state="up")
    return index, mac[2:8].hex(":")


def ensure_address(links: IPRoute, index: int, address: Any) -> None:
    """Give an interface an address."""
    with step(f"address {address}", errno.EEXIST):
        links.addr("add", index=index, address=str(address), flags=NODAD)


def routes(result: dict[str, Any]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Yield (destination, gateway, route) of a result; the default is the address's gateway."""
    default = {ip_interface(ip["address"]).version: ip.get("gateway") for ip in result["ips"]}
    for route in result.get("routes", []):
        to = ip_network(route["dst"], strict=False)
        via = route.get("gw") or default.get(to.version)
        yield str(to), via and str(ip_address(via)), route


def add(request: Request) -> dict[str, Any]:
    """Attach the container. What fails is undone."""
    result = request.ipam()
    try:
        with IPRoute() as host, inside(request.netns, IPRoute) as container:
            links = attach(host, container, request, result)
    except BaseException:
        with suppress(Exception):
            delete(request)
        raise
    return {**result, "interfaces": links, "ips": [{**ip, "interface": 2} for ip in result["ips"]]}


def attach(host: IPRoute, container: IPRoute, request: Request, result: dict[str, Any]) -> Any:
    """Make what has the addresses and routes of ``result``: bridge, port, and interface."""
    if (type(request.bridge), type(request.mtu)) != (str, int) or not request.bridge.isprintable():
        raise Fault(7, f"bridge {request.bridge!r} is no text, or mtu {request.mtu!r} no number")
    bridge, mac = ensure_bridge(host, request.bridge)
    port = {"master": bridge, "mtu": request.mtu, "state": "up"}
    inner = {"mtu": request.mtu, "address": bytes.fromhex(f"02{request.port()[5:]}").hex(":")}
    for last in (False, True):
        # One message makes both ends, each in its namespace, so none has to be moved.
        with open(request.netns) as there, step(f"port of {request.bridge}", errno.EEXIST):
            peer = {"ifname": request.ifname, "net_ns_fd": there.fileno(), **inner}
            host.link("add", ifname=request.port(), kind="veth", peer=peer, **port)
            break
        outer, taken, is_pair = find_pair(host, container, request)
        if is_pair:
            host.link("set", index=outer["index"], **port)  # also when it was changed
            break
        if taken or last:
            raise Fault(4, f"CNI_IFNAME: the container has an interface {request.ifname} already")
        host.link("del", index=outer["index"])  # its peer is in the namespace of an earlier start
    index = inside(request.netns, socket.if_nametoindex, request.ifname)
    container.link("set", index=index, state="up")
    for ip in result["ips"]:
        own = ip_interface(ip["address"])
        ensure_address(container, index, own)
        if "gateway" in ip:
            ensure_address(host, bridge, ip_interface((ip["gateway"], own.network.prefixlen)))
            key = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}[own.version]
            if (switch := Path("/proc/sys/net", key)).read_text() != "1\n":
                switch.write_text("1")  # only if it is off, because it may be read-only
    for to, via, route in routes(result):
        keys: dict[str, Any] = {"gateway": via} if via else {"scope": "link"}
        keys |= {key: route[key] for key in ("priority", "table", "scope") if key in route}
        keys["metrics"] = {key: route[key] for key in ("mtu", "advmss") if key in route}
        with step(f"route to {to}"):
            container.route("replace", dst=to, oif=index, **keys)
    ours = {"name": request.ifname, "mac": inner["address"], "sandbox": request.netns}
    return [{"name": request.bridge, "mac": mac}, {"name": request.port()}, ours]


def delete(request: Request) -> None:
    """Detach: delete the interface, then release the address, so that no two containers have it."""
    with IPRoute() as host, step(request.port(), errno.ENODEV):
        host.link("del", ifname=request.port())
    request.ipam(CNI_COMMAND="DEL")


def check(request: Request) -> None:
    """Compare what ADD made, as ``prevResult`` has it, with what exists."""
    request.ipam()
    result = {"ips": [], **(request.conf.get("prevResult") or {})}
    pair = f"its pair with a port of {request.bridge}, all of them up"
    with IPRoute() as host, inside(request.netns, IPRoute) as container:
        bridge = find(host, request.bridge)
        outer, inner, is_pair = find_pair(host, container, request)
        port = is_pair and bridge and outer.get("master") == bridge["index"]
        has = {pair} if port and bridge["flags"] & outer["flags"] & inner["flags"] & UP else set()
        index = inner["index"] if inner else -1
        has |= {f"{a.get('address')}/{a['prefixlen']}" for a in container.get_addr(index=index)}
        for one in container.get_routes(oif=index):
            to = one.get("dst") or ("0.0.0.0" if one["family"] == socket.AF_INET else "::")
            has.add(f"{to}/{one['dst_len']} via {one.get('gateway')}")
    wanted = {pair, *(str(ip_interface(ip["address"])) for ip in result["ips"])}
    wanted |= {f"{to} via {via}" for to, via, _ in routes(result)}
    if wanted - has:
        raise Fault(120, f"{request.ifname} lacks {', '.join(sorted(wanted - has))}")


def collect(request: Request) -> None:
    """Release what the runtime does not list. No ADD runs meanwhile, by the specification."""
    request.ipam()
    valid = request.conf["cni.dev/valid-attachments"]
    keep = {request.port(one["containerID"], one["ifname"]) for one in valid}
    with IPRoute() as host:
        for port in [link.get("ifname") for link in host.get_links(kind="veth")]:
            if port[:6] == request.port()[:6] and len(port) == 15 and port not in keep:
                with step(port, errno.ENODEV):
                    host.link("del", ifname=port)


def handle(environ: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    """Serve a CNI request and return (exit status, standard output). Never raises."""
    commands: dict[str, Any] = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect}
    answer: dict[str, Any] = {"cniVersion": VERSIONS[-1]}
    try:
        if environ.get("CNI_COMMAND") == "VERSION":
            return 0, json.dumps({**answer, "supportedVersions": VERSIONS}).encode()
        request = Request(environ, stdin)
        answer["cniVersion"] = request.version
        done = commands.get(environ.get("CNI_COMMAND", ""), Request.ipam)(request)
        return 0, json.dumps(done).encode() if done else b""
    except Exception as error:
        own = error.args if isinstance(error, Fault) else (999, f"{type(error).__name__}: {error}")
        answer.update(zip(("code", "msg", "details"), own, strict=False))
        return 1, json.dumps(answer).encode()


if __name__ == "__main__":
    status, output = handle(os.environ, sys.stdin.buffer.read())
    sys.stdout.buffer.write(output)
    sys.exit(status)
