"""The image of fastipam as an OCI archive, without an engine and a registry.

It has what deploy/Containerfile puts into one: a Debian with Python (``root``), fastipam with what
it requires as this environment has it installed, and the launcher outside Python's directories.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import json
import platform
import py_compile
import re
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import fastipam

from ...e2e.tools import lacking
from . import root

NAME = "example.com/fastipam"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
_PACKAGES = f"usr/local/lib/python{root.PYTHON[0]}.{root.PYTHON[1]}/dist-packages"
_ENTRY = """#!/usr/bin/python3 -I
import sys
from fastipam.cli.main import main
sys.exit(main())
"""
_CONFIG = {
    "Entrypoint": ["fastipam"],
    "Cmd": ["agent"],
    "User": "0:0",
    "StopSignal": "SIGTERM",
    "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "container=oci",
    ],
}


def requirements(name: str) -> set[str]:
    """Return the names of the distributions that this one needs, itself included."""
    found: set[str] = set()
    missing = [name]
    while missing:
        each = missing.pop()
        if each in found:
            continue
        found.add(each)
        for line in importlib.metadata.requires(each) or ():
            if "extra ==" not in line and _applies(line):
                match = re.match(r"[\w.-]+", line)
                assert match is not None, line
                missing.append(match[0].lower())
    return found


def _applies(requirement: str) -> bool:
    """Whether it is installed here: its condition is for this Python and system."""
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None, requirement
    try:
        importlib.metadata.distribution(match[0])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def build(archive: Path, tag: str) -> str:
    """Write the image to a file and return its name."""
    if sys.version_info[:2] != root.PYTHON:
        wanted = ".".join(map(str, root.PYTHON))
        lacking(f"the image has Python {wanted}: these tests need an environment of the same")
    staged = archive.with_suffix(".root")
    _stage(staged)
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
        for top in sorted(staged.iterdir()):
            tar.add(top, arcname=top.name, filter=_owned_by_root)
    shutil.rmtree(staged)
    name = f"{NAME}:{tag}"
    _pack(archive, name, [root.layer(), layer])
    layer.unlink()
    return name


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _stage(root_directory: Path) -> None:
    """Copy the distributions and compile their modules: nothing can be written in a container."""
    packages = root_directory / _PACKAGES
    package = Path(fastipam.__file__).parent
    shutil.copytree(package, packages / "fastipam")
    for each in requirements("fastipam"):
        distribution = importlib.metadata.distribution(each)
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or not source.exists() or "_editable_" in file.name:
                continue
            target = packages / str(file)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    compileall.compile_dir(packages, quiet=2, workers=2, invalidation_mode=_UNCHECKED)
    for path, content in (
        ("usr/local/bin/fastipam", _ENTRY.encode()),
        ("usr/local/lib/fastipam/fastipam", (package / "launcher").read_bytes()),
    ):
        target = root_directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755)


def _pack(archive: Path, name: str, layers: list[Path]) -> None:
    """Write an OCI archive. The layers are as they are, not compressed."""
    with tarfile.open(archive, "w") as tar:

        def add(path: str, content: bytes) -> None:
            file = archive.with_suffix(".part")
            file.write_bytes(content)
            tar.add(file, arcname=path)
            file.unlink()

        def add_json(content: dict[str, Any], kind: str) -> dict[str, Any]:
            data = json.dumps(content).encode()
            digest = hashlib.sha256(data).hexdigest()
            add(f"blobs/sha256/{digest}", data)
            media_type = f"application/vnd.oci.image.{kind}.v1+json"
            return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

        described = []
        for layer in layers:
            digest = _digest(layer)
            tar.add(layer, arcname=f"blobs/sha256/{digest}")
            media_type = "application/vnd.oci.image.layer.v1.tar"
            size = layer.stat().st_size
            described.append({"mediaType": media_type, "digest": f"sha256:{digest}", "size": size})
        config = {
            "architecture": _MACHINES[platform.machine()],
            "os": "linux",
            "config": _CONFIG,
            "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in described]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": add_json(config, "config"),
            "layers": described,
        }
        entry = add_json(manifest, "manifest")
        entry["annotations"] = {"io.containerd.image.name": name}
        add("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        add("index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
