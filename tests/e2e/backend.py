"""Which IPAM plugin the end-to-end tests drive: the one switch of this directory.

`--host-local` runs the whole suite with the reference plugin under fastipam's
name, so that a red test can be told apart: red with both means the harness or the machine is at
fault. Without it they run fastipam itself.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..options import options
from . import tools

PLUGIN_TYPE = "fastipam"
"""The `ipam.type` of every configuration here, and the name of the executable behind it."""


@dataclass(frozen=True)
class Lease:
    """One record of the store, as much of it as the tests look at."""

    network: str
    address: str
    status: str
    container_id: str
    ifname: str
    pod_namespace: str
    pod_name: str


class Backend(Protocol):
    """What a test needs from an IPAM plugin besides the CNI protocol itself."""

    records_pods: bool

    def install(self, bin_dir: Path) -> None:
        """Put the plugin into `bin_dir` as `PLUGIN_TYPE`."""

    def leases(self, data_dir: Path) -> list[Lease]:
        """Return every record of the store, whatever its status."""

    def verify(self, data_dir: Path) -> None:
        """Raise AssertionError unless the store is consistent."""


class Fastipam:
    """The plugin under test, driven through its own command line."""

    records_pods = True

    def install(self, bin_dir: Path) -> None:
        """Run `fastipam install`."""
        _run([_fastipam_command(), "install", "--bin-dir", str(bin_dir)])

    def leases(self, data_dir: Path) -> list[Lease]:
        """Read `fastipam list`; a store that was never used is not asked."""
        if _never_used(data_dir):
            return []
        listing = _run([_fastipam_command(), "list", "--json", "--data-dir", str(data_dir)])
        return [_lease_of(entry) for entry in json.loads(listing)]

    def verify(self, data_dir: Path) -> None:
        """Run `fastipam check`, which exits 1 when it has findings."""
        if not _never_used(data_dir):
            _run([_fastipam_command(), "check", "--data-dir", str(data_dir)])


class HostLocal:
    """The reference plugin, whose store is one file for each address in use."""

    records_pods = False

    def install(self, bin_dir: Path) -> None:
        """Link the reference plugin under the name of the one under test."""
        (bin_dir / PLUGIN_TYPE).symlink_to(tools.cni_plugins_dir() / "host-local")

    def leases(self, data_dir: Path) -> list[Lease]:
        """Read the files; their names are the addresses."""
        return [_lease_in(file) for file in sorted(data_dir.glob("*/*")) if _names_address(file)]

    def verify(self, data_dir: Path) -> None:
        """Succeed always: host-local has no checker."""


def _fastipam_command() -> str:
    beside_python = Path(sys.executable).with_name("fastipam")
    command = str(beside_python) if beside_python.exists() else shutil.which("fastipam")
    if command is None:
        raise FileNotFoundError("the fastipam command is not installed beside this Python")
    return command


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv} exited {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def _never_used(data_dir: Path) -> bool:
    return not data_dir.exists() or not any(data_dir.iterdir())


def _lease_of(entry: dict[str, Any]) -> Lease:
    return Lease(
        network=entry["network"],
        address=str(ipaddress.ip_interface(entry["address"]).ip),
        status=entry["status"],
        container_id=entry["container_id"] or "",
        ifname=entry["ifname"] or "",
        pod_namespace=entry["pod_namespace"] or "",
        pod_name=entry["pod_name"] or "",
    )


def _names_address(file: Path) -> bool:
    try:
        ipaddress.ip_address(file.name)
    except ValueError:
        return False
    return True


def _lease_in(file: Path) -> Lease:
    container_id, ifname = file.read_text().splitlines()
    return Lease(file.parent.name, file.name, "ASSIGNED", container_id, ifname, "", "")


@functools.cache
def backend() -> Backend:
    """Return the plugin that the command line chooses."""
    if options.host_local:
        return HostLocal()
    return Fastipam()


def assigned(data_dir: Path) -> list[Lease]:
    """Return the leases that are held now; cooling and reserved addresses are not."""
    return [lease for lease in backend().leases(data_dir) if lease.status == "ASSIGNED"]
