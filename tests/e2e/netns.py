"""Network namespaces of the tests' own, and what the kernel offers inside one.

They are entered with nsenter: `ip netns exec` also remounts /sys, which hides the cgroups that
container runtimes need.
"""

from __future__ import annotations

import functools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from fastipam.namespaces import enter

from . import tools

T = TypeVar("T")

_PREPARE = """
ip link set lo up
for conf in all default; do
    accept_dad=/proc/sys/net/ipv6/conf/$conf/accept_dad
    if [ -e $accept_dad ]; then echo 0 > $accept_dad; fi
done
"""
"""Duplicate address detection would keep every new IPv6 address unusable for a second or two."""


@dataclass(frozen=True)
class NetNS:
    """A named network namespace."""

    name: str

    @property
    def path(self) -> str:
        """The file that stands for the namespace, as CNI_NETNS wants it."""
        return f"/run/netns/{self.name}"

    def command(self, *argv: str) -> list[str]:
        """Return the command line that runs `argv` inside the namespace."""
        return ["nsenter", f"--net={self.path}", *argv]

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: str = "",
        env: dict[str, str] | None = None,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` inside the namespace and wait for it."""
        done = subprocess.run(
            self.command(*argv),
            input=stdin,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{argv} failed: {done.stdout}{done.stderr}"
        return done

    def ping(self, address: str) -> None:
        """Fail unless `address` answers an echo request within five seconds."""
        self.run("ping", "-n", "-q", "-c", "1", "-w", "5", address)

    def delete(self) -> None:
        """Remove the namespace; nothing happens when it is gone already."""
        if Path(self.path).exists():
            subprocess.run(["ip", "netns", "delete", self.name], check=True, capture_output=True)


def create(label: str) -> NetNS:
    """Make a namespace with loopback up and duplicate address detection off."""
    netns = NetNS(f"fastipam-{label}-{uuid4().hex[:8]}")
    subprocess.run(["ip", "netns", "add", netns.name], check=True, capture_output=True)
    try:
        netns.run("sh", "-ec", _PREPARE)
    except BaseException:
        netns.delete()
        raise
    return netns


@contextmanager
def temporary(label: str) -> Iterator[NetNS]:
    """Make a namespace for the length of a with block."""
    netns = create(label)
    try:
        yield netns
    finally:
        netns.delete()


def within(namespace: NetNS, work: Callable[[], T]) -> T:
    """Run in a thread that has entered a namespace; return what it returns."""
    done: list[T] = []
    fault: list[BaseException] = []

    def run() -> None:
        try:
            descriptor = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(descriptor)
            finally:
                os.close(descriptor)
            done.append(work())
        except BaseException as error:  # the caller raises it
            fault.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if fault:
        raise fault[0]
    return done[0]


def require_link_type(link_type: str) -> None:
    """Skip, with the kernel's own words, where it offers no such kind of interface."""
    refusal = _link_type_refusal(link_type)
    if refusal:
        tools.unsupported(f"the kernel offers no {link_type}: {refusal}")


@functools.cache
def _link_type_refusal(link_type: str) -> str:
    with temporary("probe") as netns:
        netns.run("ip", "link", "add", "lower", "type", "veth", "peer", "name", "upper")
        probe = ("ip", "link", "add", "link", "lower", "name", "probed", "type", link_type)
        return netns.run(*probe, check=False).stderr.strip()


def require_ipv6() -> None:
    """Skip where the kernel has no IPv6."""
    if not Path("/proc/sys/net/ipv6").exists():
        tools.unsupported("the kernel has no IPv6")


_NAT_RULE = (
    "iptables -t nat -A OUTPUT -p tcp -m addrtype --dst-type LOCAL -m comment --comment probe"
    " -m multiport --destination-ports 80,81 -j DNAT --to-destination 192.0.2.1:80"
)
"""Every match and target that the portmap plugin uses, in one rule."""


def require_nat() -> None:
    """Skip, with the kernel's own words, where iptables cannot redirect ports."""
    with temporary("probe") as netns:
        done = netns.run(*_NAT_RULE.split(), check=False)
    if done.returncode:
        tools.unsupported(f"the kernel redirects no ports: {done.stderr.strip()}")
