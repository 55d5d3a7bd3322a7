"""The root directory of an image as a layer: Debian with Python, made by debootstrap once."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from ...e2e.tools import require_root, require_tools

SUITE = "bookworm"
PYTHON = (3, 11)  # what SUITE has
PACKAGES = ("python3", "iproute2", "nftables")
# Nothing reads these in a container.
_UNUSED = ("var/cache/apt", "var/lib/apt", "usr/share/doc", "usr/share/man", "usr/share/locale")


def layer() -> Path:
    """Return the layer, an archive of its root directory. It is made when the cache lacks it."""
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES, *_UNUSED)).encode()).hexdigest()[:12]
    cache = Path.home() / ".cache" / "fastipam"
    made = cache / f"root-{SUITE}-{key}.tar"
    if made.exists():
        return made
    require_root()
    require_tools("debootstrap")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "root.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make(made)
    return made


def _make(layer: Path) -> None:
    """Make it under another name first: an archive that has its name is whole."""
    with tempfile.TemporaryDirectory(dir=layer.parent) as directory:
        root = Path(directory) / "root"
        include = f"--include={','.join(PACKAGES)}"
        _run("debootstrap", "--variant=minbase", include, SUITE, str(root))
        for each in _UNUSED:
            shutil.rmtree(root / each, ignore_errors=True)
        new = Path(directory) / "layer.tar"
        _run("tar", "--numeric-owner", "--exclude=./dev/*", "-C", str(root), "-cf", str(new), ".")
        new.rename(layer)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
