"""The first process of a node: it mounts what the node has of its own, and reaps what ends there.

It runs as a program, in network, mount, UTS and process id namespaces that are the node's alone:
``init.py NAME DIRECTORY CGROUP``. When it is killed, the kernel ends everything on the node.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

# The machine's own files with the node's changes over them.
_CHANGED = ("/etc", "/opt", "/var", "/usr/libexec")
# The node's own from the beginning. They outlive the first process, as a disk does.
OWN = (
    *("/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni", "/var/lib/kubelet"),
    *("/var/lib/containerd", "/var/log/pods"),
)
READY = "ready"
_CLONE_NEWCGROUP = 0x02000000
_PLAIN_OPTIONS = ("rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec")


def _mount(*arguments: str) -> None:
    subprocess.run(("mount", *arguments), check=True)


def _own_cgroups(name: str) -> None:
    """Live in a cgroup namespace: a kubelet waits seconds for each container that is not its own.

    Only hierarchies of version 1 have one: in version 2 a group with processes has no children.
    """
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mounts = [
        (path, options.split(",")) for _, path, kind, options, *_ in lines if kind == "cgroup"
    ]
    for path, _ in mounts:
        group = Path(path) / name
        group.mkdir(exist_ok=True)
        for each in ("cpuset.cpus", "cpuset.mems"):
            if (group / each).exists():
                (group / each).write_text((group.parent / each).read_text())
        (group / "cgroup.procs").write_text("0")
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWCGROUP):
        raise OSError(ctypes.get_errno(), "unshare")
    for path, options in mounts:
        controllers = [each for each in options if each not in _PLAIN_OPTIONS]
        subprocess.run(("umount", "--lazy", path), check=True)
        _mount("-t", "cgroup", "-o", ",".join(controllers), "cgroup", path)


def _prepare(name: str, directory: Path) -> None:
    for path in _CHANGED:
        own = directory / "changed" / path.strip("/").replace("/", "-")
        for each in ("upper", "work"):
            (own / each).mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={path},upperdir={own / 'upper'},workdir={own / 'work'}"
        _mount("-t", "overlay", "-o", layers, "overlay", path)
    for path in OWN:
        own = directory / "own" / path.strip("/").replace("/", "-")
        own.mkdir(parents=True, exist_ok=True)
        Path(path).mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(own), path)
        _mount("--make-rshared", path)
    # A mount that is covered still stands in mountinfo, which containerd reads.
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        if (path := line.split()[1]).startswith("/run/"):
            # Another test of this machine may have taken it away in between.
            subprocess.run(("umount", "--lazy", path), check=False, stderr=subprocess.DEVNULL)
    _mount("-t", "tmpfs", "-o", "mode=755", "run", "/run")
    _mount("--make-rshared", "/run")
    Path("/etc/machine-id").write_text((directory / "machine-id").read_text())
    subprocess.run(("hostname", name), check=True)
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)


def main() -> None:
    """Prepare the node, say so, and reap."""
    name, directory, cgroup = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    _own_cgroups(cgroup)
    _prepare(name, directory)
    (directory / READY).touch()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
