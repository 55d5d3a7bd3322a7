"""The link between the nodes: a network namespace with a bridge, and sockets inside a namespace."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from ...e2e.netns import NetNS
from . import interruption, leftovers

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
PREFIX, PREFIX6 = "10.75.0.", "fd75::"


def inside(path: str, call: Callable[[], T]) -> T:
    """Return what a call returns in a network namespace. A socket stays in it."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if libc.setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns: {path}")
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=run)  # the namespace ends with the thread
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def connect(path: str, address: tuple[str, int], timeout_s: float) -> socket.socket:
    """Return a TCP connection from a network namespace."""
    return inside(path, lambda: socket.create_connection(address, timeout_s))


class Link:
    """A bridge that all nodes are attached to. Its own address is their default gateway.

    ``make`` prepares for the end: a signal that would end the process raises KeyboardInterrupt from
    then on, so that all is taken down. It removes what a process that was killed has left.
    """

    def __init__(self) -> None:
        self.identity = uuid4().hex[:6]
        self._switch = NetNS(f"fastipam-link-{self.identity}")
        self._mark = leftovers.Mark(self.identity)

    def make(self) -> None:
        """Make the namespace and the bridge."""
        interruption.expect()
        for each in leftovers.remove_old():
            print(f"removed what a test that was killed had left: {each}")
        self._mark.set()
        _run("ip", "netns", "add", self._switch.name)
        self._ip("link", "add", "br0", "type", "bridge")
        self._ip("address", "add", f"{PREFIX}254/24", "dev", "br0")
        self._ip("address", "add", f"{PREFIX6}fe/64", "dev", "br0", "nodad")
        self._ip("link", "set", "br0", "up")

    def attach(self, name: str, number: int) -> NetNS:
        """Make a node's network namespace with its address of both families."""
        netns = NetNS(f"fastipam-{name}-{self.identity}")
        port = f"port{number}"
        _run("ip", "netns", "add", netns.name)
        veth = ("type", "veth", "peer", "name", "eth0", "netns", netns.name)
        self._ip("link", "add", port, *veth)
        self._ip("link", "set", port, "master", "br0", "up")
        for arguments in (
            "link set lo up",
            # A machine has the same one for ever; neighbours keep it for a while.
            f"link set eth0 address 02:00:00:00:00:{number:02x}",
            "link set eth0 up",
            f"address add {PREFIX}{number}/24 dev eth0",
            f"address add {PREFIX6}{number}/64 dev eth0 nodad",
            f"route add default via {PREFIX}254",
            f"-6 route add default via {PREFIX6}fe",
        ):
            _run("ip", "-n", netns.name, *arguments.split())
        return netns

    def remove(self) -> None:
        """Remove all namespaces, and what still runs in them."""
        self._mark.remove()

    def _ip(self, *arguments: str) -> None:
        _run("ip", "-n", self._switch.name, *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
