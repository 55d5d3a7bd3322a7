"""Container contents made of one static busybox: a root directory, or an image archive."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from pathlib import Path
from typing import Any

APPLETS = ("sh", "sleep", "ping", "ip")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def find_busybox() -> Path:
    """Return busybox; `tools.require_tools("busybox")` comes first."""
    found = shutil.which("busybox")
    assert found is not None, "busybox is not installed"
    return Path(found)


def make_root(directory: Path) -> None:
    """Fill `directory` with the least that a container starts from."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy(find_busybox(), directory / "bin" / "busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")


def write_image(archive: Path, name: str, command: list[str]) -> None:
    """Write an OCI image archive of one layer that runs `command`."""
    blobs: dict[str, bytes] = {}

    def store(content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def store_json(content: dict[str, Any], kind: str) -> dict[str, Any]:
        media_type = f"application/vnd.oci.image.{kind}.v1+json"
        return store(json.dumps(content).encode(), media_type)

    layer = store(_layer(), "application/vnd.oci.image.layer.v1.tar")
    config = {
        "architecture": _MACHINES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": command},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {"schemaVersion": 2, "config": store_json(config, "config"), "layers": [layer]}
    entry = store_json(manifest, "manifest")
    entry["annotations"] = {"io.containerd.image.name": name}
    files = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **blobs,
    }
    with tarfile.open(archive, "w") as tar:
        for path, content in files.items():
            _add_file(tar, path, content)


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add_file(tar, "bin/busybox", find_busybox().read_bytes(), mode=0o755)
    return buffer.getvalue()


def _add_file(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    entry.mode = mode
    tar.addfile(entry, io.BytesIO(content))
