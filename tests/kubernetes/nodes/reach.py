"""Which addresses the pods of a node reach: a program that runs on the node.

It reads a JSON list of addresses from standard input. It sends an echo request to each of them from
the network namespace of each pod, and prints a JSON object: a namespace's name, and the addresses
that have not answered.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_NAMESPACES = Path("/run/netns")
_PATIENCE_S = 10.0  # many pods on a loaded machine
_AT_A_TIME = 2
_AGAIN_S = 0.5  # an echo request is lost while the kernel asks for the next hop's address


def _request(version: int) -> bytes:
    """An echo request; the kernel writes the checksum of an ICMPv6 message."""
    kind = 8 if version == 4 else 128
    head = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, 1)
    if version == 6:
        return head
    total = sum(struct.unpack("!4H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", kind, 0, ~total & 0xFFFF, os.getpid() & 0xFFFF, 1)


def _unreached(addresses: list[str]) -> list[str]:
    """Return those that do not answer in this thread's network namespace."""
    families = {4: socket.AF_INET, 6: socket.AF_INET6}
    protocols = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
    with contextlib.ExitStack() as stack:
        sockets = {}
        for version, family in families.items():
            opened = socket.socket(family, socket.SOCK_RAW, protocols[version])
            sockets[version] = stack.enter_context(opened)
        waiting = set(addresses)
        end = time.monotonic() + _PATIENCE_S
        while waiting and (now := time.monotonic()) < end:
            for each in waiting:
                version = 6 if ":" in each else 4
                with contextlib.suppress(OSError):  # no route: it stays unreached
                    sockets[version].sendto(_request(version), (each, 0))
            _receive(sockets, waiting, now + _AGAIN_S)
    return sorted(waiting)


def _receive(sockets: dict[int, socket.socket], waiting: set[str], end: float) -> None:
    """Take those that answer out of what is waited for."""
    while waiting and (left := end - time.monotonic()) > 0:
        for ready in select.select(list(sockets.values()), [], [], left)[0]:
            data, sender = ready.recvfrom(2048)
            reply = data[20:21] == b"\0" if ready is sockets[4] else data[:1] == b"\x81"
            if reply:
                waiting.discard(sender[0])


def _has_ended() -> bool:
    """Whether this thread's namespace has no link any more: its pod has ended."""
    return all(name == "lo" for _, name in socket.if_nameindex())


def _from(path: Path, addresses: list[str]) -> list[str] | None:
    """Return what is not reached from a namespace; None when that has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None  # the pod has just ended
    entered = not ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET)
    os.close(descriptor)
    if entered:
        missing = [] if _has_ended() else _unreached(addresses)
        return None if _has_ended() else missing
    if ctypes.get_errno() != errno.EINVAL:  # what a namespace that has ended leaves
        raise OSError(ctypes.get_errno(), f"setns: {path}")
    return None


def main() -> None:
    """Look from some namespaces at a time: a thread may be in one of its own."""
    addresses = json.load(sys.stdin)
    paths = sorted(_NAMESPACES.iterdir())
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        found = pool.map(_from, paths, [addresses] * len(paths))
        named = zip((path.name for path in paths), found, strict=True)
        json.dump({name: missing for name, missing in named if missing is not None}, sys.stdout)


if __name__ == "__main__":
    main()
