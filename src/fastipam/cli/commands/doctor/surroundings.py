"""Find out where the doctor runs: as which user, and in a container or on the node itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastipam.cli.click_base import as_root
from fastipam.cli.commands.doctor.diagnosis import OK, WARNING, Diagnosis

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHECK = "place"
_KUBERNETES = "KUBERNETES_SERVICE_HOST"  # the kubelet sets it in every container
# Podman, systemd-nspawn, LXC and the image of deploy/Containerfile set this variable. The file
# /.dockerenv proves nothing: it also exists where the node itself is a container of Docker, and
# then the whole node is visible.
_VARIABLE = "container"
_MOUNTS = Path("/proc/self/mounts")
# This file exists in every pod that has a service account.
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CHARTS_NAMESPACE = "fastipam-system"


def look() -> Iterator[Diagnosis]:
    """Diagnose what this process can see of the node."""
    sign = container()
    if sign:
        text = f"this is a container ({sign}): it sees only what is mounted of the node"
        yield Diagnosis(_CHECK, OK, text)
    if os.geteuid() != 0:
        yield Diagnosis("user", WARNING, "run as root to examine everything", as_root())


def container() -> str:
    """Return the evidence that this process is in a container, or "" when it is not in one."""
    found = next((one for one in (_KUBERNETES, _VARIABLE) if os.environ.get(one)), "")
    return f"{found} is set" if found else ""


def in_kubernetes() -> bool:
    """Return whether this process is in a pod."""
    return bool(os.environ.get(_KUBERNETES))


def restart_in_kubernetes() -> str:
    """Return the command that restarts the cluster's agents, in this pod's namespace."""
    try:
        namespace = _NAMESPACE.read_text().strip() or _CHARTS_NAMESPACE
    except OSError:
        namespace = _CHARTS_NAMESPACE
    return f"kubectl -n {namespace} rollout restart daemonset/fastipam-agent"


def lacks(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is missing here, in a container, only because it is not mounted."""
    return bool(container()) and not os.path.exists(path) and mount_of(os.fspath(path))[0] == "/"


def not_mounted(path: str | os.PathLike[str], what: str) -> str:
    """Return the text of a diagnosis about a path of the node that this container lacks."""
    return f"{path} of the node is not mounted in this container: {what}"


def mount_of(path: str) -> tuple[str, str]:
    """Return the mount point that contains a path, and the type of its file system."""
    path = os.path.realpath(path)
    best, kind = "/", "?"
    for line in _MOUNTS.read_text().splitlines():
        point, what = line.split()[1:3]
        point = point.replace("\\040", " ")
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(best):
            best, kind = point, what
    return best, kind
