"""A node: namespaces of its own, containerd and kubelet, with the default paths.

What a node writes below /etc, /opt and /var is in its own directory, so nothing of it is left on
the machine. It has process ids of its own: killing its first process is a power cut.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...e2e.tools import not_built, require_root, require_tools
from ..server import until
from ..tools.build import COMMANDS, program
from . import init
from .leftovers import cgroups, remove_cgroup
from .processes import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...e2e.netns import NetNS

PLUGINS = ("ptp", "bridge", "loopback", "host-local", "portmap", "bandwidth")
PAUSE = "local.test/pause:1"
SOCKET = "unix:///run/containerd/containerd.sock"
_RUNTIME_SETTINGS = f"""
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{PAUSE}'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
"""
_KUBELET_SETTINGS = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "containerRuntimeEndpoint": SOCKET,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "maxPods": 250,
    "failSwapOn": False,
    # Both versions of cgroups, and no limits of the machine's own.
    "failCgroupV1": False,
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "localStorageCapacityIsolation": False,
    "evictionHard": {},
    "imageGCHighThresholdPercent": 100,
    # What a test kills starts again soon; else after 10 s, then 20, 40 and so on.
    "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
    "volumePluginDir": "/var/lib/kubelet/volume-plugins",
}


# On the node each hierarchy of version 1 begins at the node's own group.
_ENTER_CGROUP = """
for group in $(awk '$3 == "cgroup" { print $2 }' /proc/mounts); do
    echo $$ >"$group/cgroup.procs"
done
exec "$@"
"""


def built(name: str) -> Path:
    """Return a program of tests/kubernetes/tools, or skip where it has not been built."""
    found = program(name)
    if found is None:
        not_built(f"{name} is not built: scripts/kubernetes-tools builds it")
    return found


def require() -> None:
    """Skip where a cluster of nodes cannot be started."""
    require_root()
    require_tools(
        "runc", "busybox", "ip", "unshare", "nsenter", "hostname", "debootstrap", "etcd", "nft"
    )
    for each in COMMANDS:
        built(each)


class Node:
    """One node; ``start`` to ``cut_power``. Its disk is ``directory``."""

    def __init__(self, name: str, addresses: Sequence[str], netns: NetNS, directory: Path) -> None:
        self.name = name
        self.addresses = tuple(addresses)
        self.netns = netns
        self.directory = directory
        self._init: Process | None = None
        self._containerd: Process | None = None
        self._kubelet: Process | None = None
        self._kubeconfig: Path | None = None

    @property
    def _cgroup(self) -> str:
        """The cgroup of its containers, as unique as its network namespace."""
        return self.netns.name

    # Life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start its first process and containerd, and wait until containerd serves."""
        assert self._init is None, f"{self.name} runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        machine_id = self.directory / "machine-id"
        if not machine_id.exists():
            machine_id.write_text(f"{uuid.uuid4().hex}\n")
            self._install_plugins()
        # As kubeadm demands. Without it, two pods that start at the same time both turn it on, and
        # one write may hide the other: the switch is 1, and IPv4 packets are not forwarded.
        for switch in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.netns.run("sysctl", "-qw", f"{switch}=1")
        ready = self.directory / init.READY
        ready.unlink(missing_ok=True)
        command = [
            *("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("--propagation", "private", "nsenter", f"--net={self.netns.path}"),
            *(sys.executable, "-I", str(Path(init.__file__)), self.name, str(self.directory)),
            self._cgroup,
        ]
        self._init = Process(command, self.directory / "init.log", forks=True)
        until(lambda: self._ready(ready), f"{self.name} is prepared")
        self.start_containerd()

    def _ready(self, path: Path) -> bool:
        assert self._init is not None
        assert self._init.runs(), self._init.tail()
        return path.exists()

    def _install_plugins(self) -> None:
        target = self.own("/opt/cni/bin")
        target.mkdir(parents=True)
        for each in PLUGINS:
            shutil.copy2(built(each), target)

    def start_containerd(self) -> None:
        """Start containerd and wait until it serves."""
        settings = self.directory / "containerd.toml"
        settings.write_text(_RUNTIME_SETTINGS)
        path = f"{built('containerd').parent}:{os.environ['PATH']}"
        self._containerd = self._begin(
            "containerd", "env", f"PATH={path}", str(built("containerd")), "-c", str(settings)
        )
        until(lambda: self.ctr("version", check=False).returncode == 0, "containerd serves")

    def start_kubelet(self, kubeconfig: Path | None = None) -> None:
        """Start the kubelet, with the kubeconfig that it had if none is given."""
        self._kubeconfig = kubeconfig or self._kubeconfig
        assert self._kubeconfig is not None
        settings = self.directory / "kubelet.json"
        settings.write_text(json.dumps(_KUBELET_SETTINGS))
        self._kubelet = self._begin(
            "kubelet",
            *(str(built("kubelet")), f"--config={settings}", f"--kubeconfig={self._kubeconfig}"),
            # Without its addresses it asks DNS, which takes 20 s.
            *(f"--hostname-override={self.name}", f"--node-ip={','.join(self.addresses)}"),
        )

    def kill_containerd(self) -> None:
        """SIGKILL; pods go on."""
        assert self._containerd is not None
        self._containerd.kill()

    def kill_kubelet(self) -> None:
        """SIGKILL; pods and containerd go on."""
        assert self._kubelet is not None
        self._kubelet.kill()

    def cut_power(self) -> None:
        """Kill all that runs on the node. Its disk stays, memory file systems do not."""
        if self._init is not None:
            self._init.kill()
        for each in (self._kubelet, self._containerd):
            if each is not None:
                each.kill()
        self._init = self._kubelet = self._containerd = None
        # What a kernel forgets, and this machine's does not.
        for path in cgroups(self._cgroup):
            remove_cgroup(path)
        for family in ("-4", "-6"):
            self.netns.run("ip", family, "route", "flush", "proto", "147", check=False)

    def reboot(self) -> None:
        """Cut the power and start the node again with its kubelet."""
        self.cut_power()
        self.start()
        self.start_kubelet()

    # Use ------------------------------------------------------------------------------------

    def own(self, path: str) -> Path:
        """Return where a directory of the node's own is on the machine."""
        assert path in init.OWN, path
        return self.directory / "own" / path.strip("/").replace("/", "-")

    def command(self, *argv: str) -> list[str]:
        """Return the command line that runs a program on the node."""
        assert self._init is not None, f"{self.name} does not run"
        target = str(self._init.pid)
        return ["nsenter", "-t", target, "-m", "-u", "-n", "-p", "-C", "--", *argv]

    def run(
        self, *argv: str, check: bool = True, stdin: str = "", timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the node and wait for it."""
        done = subprocess.run(
            self.command(*argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{self.name}: {argv}: {done.stdout}{done.stderr}"
        return done

    def json(self, *argv: str) -> Any:
        """Return the JSON document that a program on the node prints."""
        return json.loads(self.run(*argv).stdout or "null")

    def ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ctr in the namespace of Kubernetes."""
        return self.run(str(built("ctr")), "-n", "k8s.io", *arguments, check=check)

    def crictl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run crictl."""
        return self.run(*self.crictl_command(), *arguments, check=check)

    def crictl_command(self) -> tuple[str, ...]:
        """The command line that arguments of crictl are added to."""
        return (str(built("crictl")), "-r", SOCKET)

    def load(self, archive: Path) -> None:
        """Load an image."""
        self.ctr("images", "import", str(archive))

    def log(self, name: str) -> str:
        """The end of a log: containerd, kubelet or init."""
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def _begin(self, name: str, *argv: str) -> Process:
        """Start a program in the cgroup of the node."""
        command = self.command("sh", "-c", _ENTER_CGROUP, "sh", *argv)
        return Process(command, self.directory / f"{name}.log", forks=True)
