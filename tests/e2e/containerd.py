"""A containerd of the test's own: sockets, state, CNI folders, cgroup, network namespace."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import tools
from .busybox import write_image
from .cni import Document
from .cri import RuntimeClient
from .netns import NetNS
from .scratch import wait_until

_PAUSE_IMAGE = "localhost/fastipam-e2e-pause:1"

_SETTINGS = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.overlayfs",
    "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{directory}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugin_dir}"
conf_dir = "{directory}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{directory}/runc"
"""


class Containerd:
    """A running containerd and a client for it."""

    def __init__(self, directory: Path, client: RuntimeClient) -> None:
        """Take over a runtime that is ready; `running` starts one."""
        self.client = client
        self._cgroup = directory.name

    def run_pod(self, namespace: str, name: str) -> str:
        """Start a pod sandbox and return its id."""
        return self.client.run_sandbox(namespace, name, f"uid-{name}", f"/{self._cgroup}")

    def remove_pod(self, sandbox_id: str) -> None:
        """Stop and remove a pod sandbox, in the two calls that a kubelet makes."""
        self.client.stop_sandbox(sandbox_id)
        self.client.remove_sandbox(sandbox_id)

    def close(self) -> None:
        """Remove every sandbox: their processes would outlive containerd."""
        for sandbox_id in self.client.sandboxes():
            self.remove_pod(sandbox_id)


@contextmanager
def running(
    directory: Path, conflist: Document, plugin_dir: Path, host: NetNS
) -> Iterator[Containerd]:
    """Run containerd inside the namespace `host` for the length of a with block."""
    tools.require_tools("containerd", "containerd-shim-runc-v2", "ctr", "runc", "busybox")
    settings = _write_settings(directory, conflist, plugin_dir)
    log = directory / "containerd.log"
    with log.open("wb") as output:
        argv = host.command("containerd", "--config", str(settings))
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        socket = directory / "containerd.sock"
        started = wait_until(lambda: socket.exists() or process.poll() is not None)
        assert started, "containerd made no socket in time"
        assert process.poll() is None, _tail(log)
        with RuntimeClient(socket) as client:
            _import_pause_image(directory, host)
            ready = wait_until(lambda: _is_ready(client))
            assert ready, f"{client.conditions()} {_tail(log)}"
            with _closing(Containerd(directory, client)) as containerd:
                yield containerd
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def _closing(containerd: Containerd) -> Iterator[Containerd]:
    try:
        yield containerd
    finally:
        containerd.close()


def _write_settings(directory: Path, conflist: Document, plugin_dir: Path) -> Path:
    networks = directory / "cni"
    networks.mkdir()
    (networks / "10-test.conflist").write_text(json.dumps(conflist), encoding="utf-8")
    settings = directory / "containerd.toml"
    text = _SETTINGS.format(directory=directory, plugin_dir=plugin_dir, image=_PAUSE_IMAGE)
    settings.write_text(text, encoding="utf-8")
    return settings


def _import_pause_image(directory: Path, host: NetNS) -> None:
    archive = directory / "pause.tar"
    write_image(archive, _PAUSE_IMAGE, ["/bin/busybox", "sleep", "3600"])
    ctr = ("ctr", "--address", str(directory / "containerd.sock"), "--namespace", "k8s.io")
    host.run(*ctr, "images", "import", "--snapshotter", "native", str(archive))


def _is_ready(client: RuntimeClient) -> bool:
    return all(client.conditions().values()) and client.has_image(_PAUSE_IMAGE)


def _tail(log: Path) -> str:
    return os.linesep.join(log.read_text(errors="replace").splitlines()[-20:])
