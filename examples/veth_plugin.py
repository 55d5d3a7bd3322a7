#!/usr/bin/env python3
"""A CNI main plugin in 60 lines: a veth pair a container, IPv4 and IPv6; the host forwards."""

import json
import subprocess
from contextlib import ExitStack
from typing import Any
from zlib import crc32

from fastipam import CniError, cni


def ip(command: str, netns: str = "/proc/self/ns/net") -> Any:
    words = ["nsenter", f"--net={netns}", "ip", "-json", *command.split()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CniError(f"ip {command}: {done.stderr.strip()}")
    return json.loads(done.stdout or "[]")


def port(network: str, *owner: str) -> str:  # the host's end: first the network, then the owner
    return f"v{crc32(network.encode()) >> 12:05x}{crc32(' '.join(owner).encode()):08x}"


def add(call: cni.Request) -> dict[str, Any]:
    host, eth, netns = port(call.name, call.container_id, call.ifname), call.ifname, call.netns
    with ExitStack() as undo:  # what this very ADD has made, and nothing else
        lease = call.allocate(existing="error")
        undo.callback(call.delegate, "DEL")
        ip(f"link add {host} up type veth peer name {eth} netns {netns}")
        undo.callback(ip, f"link delete {host}")
        ip(f"link set {eth} up", netns)
        for one in lease.siblings:
            ip(f"address add {one.gateway} peer {one.address.ip} dev {host} nodad")
            ip(f"address add {one.address.ip} peer {one.gateway} dev {eth} nodad", netns)
            ip(f"-{one.family} route add default via {one.gateway} dev {eth} onlink", netns)
        ends = [{"name": host}, {"name": eth, "sandbox": netns}]
        result = cni.result(lease, call.version, interfaces=ends)
        undo.pop_all()
    return result


def remove(call: cni.Request) -> None:  # DEL: this container; GC: those that are not listed
    gc, this = call.command == "GC", (call.container_id, call.ifname)
    named = [port(call.name, *one) for one in (call.valid_attachments() if gc else [this])]
    for name in [link["ifname"] for link in ip("link show type veth")]:
        if name[:6] == port(call.name)[:6] and (name in named) is not gc:
            ip(f"link delete {name}")
    call.delegate()


def check(call: cni.Request) -> None:
    call.delegate()
    link = ip(f"address show dev {call.ifname}", call.netns)[0]
    has = {one["local"] for one in link["addr_info"] if "UP" in link["flags"]}
    if lost := {one["address"].split("/")[0] for one in call.prev_result["ips"]} - has:
        raise CniError(f"{call.ifname} lacks {lost}", 120)


cni.Request.main({"ADD": add, "DEL": remove, "GC": remove, "CHECK": check})
