#!/usr/bin/env python3
"""A CNI main plugin that embeds fastipam: containers on a Linux bridge, in Python.

ADD makes a bridge with the gateways' addresses, a veth pair, address and routes; DEL removes the
pair. The plugin's own keys are ``bridge`` and ``mtu``. It needs root and pyroute2.

Every step reads what exists and makes what is missing, and names are computed, never stored. So
after a plugin was killed, a second ADD completes its work, and a DEL removes it.
"""

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fcntl import ioctl
from hashlib import blake2b
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netns import setns

import fastipam
from fastipam import CniError, cni
from fastipam.cni.error_codes import BAD_ENVIRONMENT

NODAD, UP = 0x02, 0x01  # IFA_F_NODAD: no duplicate detection, the store excludes duplicates; IFF_UP
BRIDGE = "v-net-0"  # unless the configuration names another
LACKS = 120  # the code of this plugin's own: what exists is not what the configuration says


class Request(cni.Request):
    """A request, with the names that are computed from it."""

    def setting(self, key: str, default: Any) -> Any:
        """Return a key of the plugin's own, of the kind of its default."""
        value = self.config.get(key) or default
        if type(value) is not type(default) or not str(value).isprintable():
            kind = "string" if isinstance(default, str) else "number"
            raise fastipam.ConfigError(f"{value!r} is not a {kind}", field=key)
        return value

    def port(self, *owner: str) -> str:
        """Return the name of the host's end: "f", 20 bits of the network's digest, 36 of all."""
        owner = owner or (self.container_id, self.ifname)
        network, pair = (blake2b("\0".join((self.name, *of)).encode()) for of in ((), owner))
        return f"f{network.hexdigest()[:5]}{pair.hexdigest()[:9]}"


def inside(path: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in another network namespace. Only this thread enters it, and returns."""
    with open("/proc/thread-self/ns/net") as home:
        try:
            setns(path, flags=0)
            return call(*arguments)
        except OSError as error:
            text = f"CNI_NETNS: {path!r} is not a network namespace"
            raise CniError(text, BAD_ENVIRONMENT, hint=str(error)) from None
        finally:
            setns(home.fileno())


@contextmanager
def step(what: str, harmless: int = 0) -> Iterator[None]:
    """Raise what the kernel refused, except what exists already (EEXIST) or is gone (ENODEV)."""
    try:
        yield
    except NetlinkError as error:
        if error.code != harmless:
            raise CniError(f"{what}: {os.strerror(error.code)}") from None


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


def add(request: Request) -> dict[str, Any]:
    """Attach the container. What fails is undone, as far as this very call has done it."""
    with IPRoute() as host, inside(request.netns, IPRoute) as container, ExitStack() as undo:
        port = find_port(host, container, request)
        lease = request.allocate(existing="return")
        if lease.created:
            undo.callback(silently, request.delegate, "DEL")
        interfaces = attach(host, container, request, lease, port, undo)
        routes, dns = request.routes(), request.dns()
        done = cni.result(lease, request.version, interfaces=interfaces, routes=routes, dns=dns)
        undo.pop_all()  # nothing failed: it stays
    return done


def silently(call: Callable[..., Any], *arguments: Any) -> None:
    """Undo a step of an ADD. If that fails, too, the runtime's DEL has to do it."""
    with suppress(Exception):
        call(*arguments)


def find_port(host: IPRoute, container: IPRoute, request: Request) -> Any:
    """Return an earlier ADD's port, or None. Refuses what is in the way, and touches nothing."""
    outer, inner, is_pair = find_pair(host, container, request)
    if outer and not is_pair:
        text = f"{request.container_id} {request.ifname} is attached in another namespace"
        hint = "DEL it first; a namespace that was just deleted takes a moment to go"
        raise fastipam.TryLater(text, hint=hint)
    if inner and not is_pair:
        text = f"CNI_IFNAME: the container has an interface {request.ifname} already"
        raise CniError(text, BAD_ENVIRONMENT)
    return outer


def attach(
    host: IPRoute, container: IPRoute, request: Request, lease: fastipam.Lease, had: Any,
    undo: ExitStack,
) -> list[dict[str, Any]]:  # fmt: skip
    """Make what is missing of bridge, pair, addresses and routes; return the interfaces."""
    name, mtu = request.setting("bridge", BRIDGE), request.setting("mtu", 1500)
    bridge, mac = ensure_bridge(host, name)
    port = {"master": bridge, "mtu": mtu, "state": "up"}
    inner = {"mtu": mtu, "address": bytes.fromhex(f"02{request.port()[5:]}").hex(":")}
    # One message makes both ends, each in its namespace, so none has to be moved.
    with open(request.netns) as there, step(f"port of {name}"):
        peer = {"ifname": request.ifname, "net_ns_fd": there.fileno(), **inner}
        if had and had.get("master") not in (None, bridge):  # the kernel would take it off there
            raise CniError(
                f"bridge: {request.port()} is on another than {name}: DEL it first", LACKS
            )
        if had:
            host.link("set", index=had["index"], **port)  # also when it was changed
        else:
            host.link("add", ifname=request.port(), kind="veth", peer=peer, **port)
            undo.callback(silently, delete_port, request.port())
    index = inside(request.netns, socket.if_nametoindex, request.ifname)
    container.link("set", index=index, state="up")
    for one in lease.siblings:
        ensure_address(container, index, one.address)
        if one.gateway is not None:
            own = one.address.network.prefixlen
            ensure_address(host, bridge, ip_interface((one.gateway, own)))
            key = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}[one.family]
            if (switch := Path("/proc/sys/net", key)).read_text() != "1\n":
                switch.write_text("1")  # only if it is off, because it may be read-only
    gateways = {one.family: one.gateway for one in lease.siblings}
    for to, via, route in routes(request, gateways):
        keys: dict[str, Any] = {"gateway": via} if via else {"scope": "link"}
        keys |= {key: route[key] for key in ("priority", "table", "scope") if key in route}
        keys["metrics"] = {key: route[key] for key in ("mtu", "advmss") if key in route}
        with step(f"route to {to}"):
            container.route("replace", dst=to, oif=index, **keys)
    ours = {"name": request.ifname, "mac": inner["address"], "sandbox": request.netns}
    return [{"name": name, "mac": mac}, {"name": request.port()}, ours]


def routes(
    request: Request, gateways: Mapping[Any, Any]
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (destination, gateway, route); the gateway is the family's where the route has none."""
    for route in request.routes():
        to = ip_network(route["dst"], strict=False)
        via = route.get("gw") or gateways.get(to.version)
        yield str(to), str(via) if via else None, route


def delete_port(name: str) -> None:
    """Delete the host's end of a pair, and so both."""
    with IPRoute() as host, step(name, errno.ENODEV):
        host.link("del", ifname=name)


def delete(request: Request) -> None:
    """Detach: delete the interface, then release the address, so that no two containers have it."""
    delete_port(request.port())
    request.delegate()


def check(request: Request) -> None:
    """Compare what ADD made, as ``prevResult`` has it, with what exists."""
    request.delegate()
    addresses = request.prev_result.get("ips", [])
    name = request.setting("bridge", BRIDGE)
    pair = f"its pair with a port of {name}, all of them up"
    with IPRoute() as host, inside(request.netns, IPRoute) as container:
        bridge = find(host, name)
        outer, inner, is_pair = find_pair(host, container, request)
        port = is_pair and bridge and outer.get("master") == bridge["index"]
        has = {pair} if port and bridge["flags"] & outer["flags"] & inner["flags"] & UP else set()
        index = inner["index"] if inner else -1
        has |= {f"{a.get('address')}/{a['prefixlen']}" for a in container.get_addr(index=index)}
        for one in container.get_routes(oif=index):
            to = one.get("dst") or ("0.0.0.0" if one["family"] == socket.AF_INET else "::")
            has.add(f"{to}/{one['dst_len']} via {one.get('gateway')}")
    wanted = {pair, *(str(ip_interface(ip["address"])) for ip in addresses)}
    gateways = {ip_interface(ip["address"]).version: ip.get("gateway") for ip in addresses}
    wanted |= {f"{to} via {via}" for to, via, _ in routes(request, gateways)}
    if wanted - has:
        raise CniError(f"{request.ifname} lacks {', '.join(sorted(wanted - has))}", LACKS)


def collect(request: Request) -> None:
    """Release what the runtime does not list. No ADD runs meanwhile, by the specification."""
    request.delegate()
    keep = {request.port(*owner) for owner in request.valid_attachments()}
    with IPRoute() as host:
        for port in [link.get("ifname") for link in host.get_links(kind="veth")]:
            if port[:6] == request.port()[:6] and len(port) == 15 and port not in keep:
                delete_port(port)


COMMANDS = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect}

if __name__ == "__main__":
    Request.main(COMMANDS)
