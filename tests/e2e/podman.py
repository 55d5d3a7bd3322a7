"""Podman with its CNI backend, its storage, settings and cgroup all of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from . import tools
from .busybox import make_root
from .cni import Document
from .netns import NetNS

_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:20000", "nproc=4096:4096"]

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"

[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugin_dir}"]
network_config_dir = "{networks}"
"""
"""The limits are low because a container may not raise those of the process that starts it."""


class Podman:
    """One podman installation below a directory, which removes its containers at the end."""

    def __init__(self, directory: Path, plugin_dir: Path, host: NetNS) -> None:
        """Lay out the directory; the first container brings the rest."""
        tools.require_tools("podman", "runc", "conmon", "busybox")
        self._directory = directory
        self._host = host
        self._networks = directory / "networks"
        self._networks.mkdir()
        self._settings = directory / "containers.conf"
        self._settings.write_text(
            _SETTINGS.format(plugin_dir=plugin_dir, networks=self._networks), encoding="utf-8"
        )
        make_root(directory / "rootfs")
        self._require_cni_backend()

    def _require_cni_backend(self) -> None:
        done = self.run("info", "--format", "{{.Host.NetworkBackend}}", check=False)
        if done.stdout.strip() != "cni":
            tools.lacking(f"podman has no CNI backend: {done.stdout}{done.stderr}".strip())

    def add_network(self, conflist: Document) -> None:
        """Make a configuration list known as the network that its `name` says."""
        path = self._networks / f"{conflist['name']}.conflist"
        path.write_text(json.dumps(conflist), encoding="utf-8")

    def run(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one podman command."""
        below = self._directory
        options = [
            f"--root={below / 'storage'}",
            f"--runroot={below / 'run'}",
            f"--tmpdir={below / 'tmp'}",
            "--storage-driver=vfs",
            f"--runtime={shutil.which('runc')}",
        ]
        env = {**os.environ, "CONTAINERS_CONF": str(self._settings)}
        return self._host.run("podman", *options, *args, check=check, env=env)

    def start(
        self, network: str, name: str, *options: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Start a container that sleeps."""
        sleep = ("/bin/sleep", "600")
        options = ("--detach", f"--name={name}", *options)
        return self._container(options, network, sleep, check=check)

    def once(self, network: str, *command: str) -> str:
        """Run a command in a container of its own, removed afterwards; return what it prints."""
        return self._container(("--rm",), network, command, check=True).stdout

    def _container(
        self, options: tuple[str, ...], network: str, command: tuple[str, ...], *, check: bool
    ) -> subprocess.CompletedProcess[str]:
        place = [f"--network={network}", f"--cgroup-parent=/{self._directory.name}"]
        root = ["--rootfs", str(self._directory / "rootfs")]
        return self.run("run", *options, *place, *root, *command, check=check)

    def address(self, name: str, network: str) -> str:
        """Return the address that podman shows for a container."""
        found: list[dict[str, Any]] = json.loads(self.run("inspect", name).stdout)
        address: str = found[0]["NetworkSettings"]["Networks"][network]["IPAddress"]
        return address

    def container_id(self, name: str) -> str:
        """Return the full id of a container."""
        return self.run("inspect", "--format", "{{.Id}}", name).stdout.strip()

    def remove(self, *names: str) -> None:
        """Remove containers, running or not."""
        self.run("rm", "--force", "--time=0", *names)

    def close(self) -> None:
        """Remove every container."""
        self.run("rm", "--force", "--time=0", "--all")
