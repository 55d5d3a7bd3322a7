"""The entry point's bundle: used when it is right, as if it were not there when it is not."""

from __future__ import annotations

import importlib
import json
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam.cli import bundle
from fastipam.cli.install import BUNDLE, DIRECT, install


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """An installation of the test's own."""
    install(tmp_path / "bin")
    return tmp_path / "bin"


def add(bin_dir: Path, tmp_path: Path) -> list[str]:
    """The addresses that an ADD through the entry point gives."""
    config = {
        "cniVersion": "1.0.0",
        "name": "n",
        "ipam": {"type": "fastipam", "subnet": "10.1.0.0/24", "dataDir": str(tmp_path / "store")},
    }
    done = subprocess.run(
        [bin_dir / DIRECT],
        env={
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/some/where",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
        },
        input=json.dumps(config),
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return [one["address"] for one in json.loads(done.stdout)["ips"]]


def loader_of_handler(bin_dir: Path) -> str:
    """Who imported fastipam.cni.handler."""
    return loader_of(bin_dir, "fastipam.cni.handler")


def loader_of(bin_dir: Path, name: str) -> str:
    """Who imported a module in a process that starts as the entry point does."""
    entry = bin_dir / DIRECT
    lines = entry.read_text().splitlines()
    interpreter = lines[0].removeprefix("#!").split()[0]
    preamble = "\n".join(line for line in lines if not line.startswith(("from fastipam", "main()")))
    code = f"__file__ = {str(entry)!r}\n{preamble}\nimport {name} as it\n"
    code += "loader = it.__loader__\nprint(getattr(loader, '__name__', type(loader).__name__))\n"
    return subprocess.run(
        [interpreter, "-IS", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_bundle_is_used(bin_dir: Path, tmp_path: Path) -> None:
    """A fresh installation imports from the bundle, and answers."""
    assert loader_of_handler(bin_dir) == "Bundle"
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]


def spoil_size(modules: dict[str, tuple[object, ...]]) -> None:
    file, package, size, time_ns, code = modules["fastipam.store"]
    assert isinstance(size, int)
    modules["fastipam.store"] = file, package, size + 1, time_ns, code


def spoil_time(modules: dict[str, tuple[object, ...]]) -> None:
    file, package, size, _, code = modules["fastipam.store"]
    modules["fastipam.store"] = file, package, size, 1, code


def spoil_path(modules: dict[str, tuple[object, ...]]) -> None:
    _, *rest = modules["fastipam.store"]
    modules["fastipam.store"] = "/nonexistent/store.py", *rest


@pytest.mark.parametrize("spoil", [spoil_size, spoil_time, spoil_path])
def test_another_source_disables_it(spoil: object, bin_dir: Path, tmp_path: Path) -> None:
    """When one source is not what it was, every module is imported from its source again."""
    assert callable(spoil)
    activate, modules, *more = marshal.loads((bin_dir / BUNDLE).read_bytes())
    spoil(modules)
    (bin_dir / BUNDLE).write_bytes(marshal.dumps((activate, modules, *more)))
    assert loader_of_handler(bin_dir) == "SourceFileLoader"
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]


def test_cluster_mode_is_a_part_of_its_own(bin_dir: Path) -> None:
    """What a claim imports is in the bundle, decoded when it is asked for."""
    _, always, more, later = marshal.loads((bin_dir / BUNDLE).read_bytes())
    assert not any(name.startswith("fastipam.cluster") for name in always)
    assert {"fastipam.cluster.need", "fastipam.cluster.engines.etcd"} <= more
    assert set(marshal.loads(later)) == more
    assert loader_of(bin_dir, "fastipam.cluster.need") == "Bundle"


@pytest.mark.parametrize("gone", [False, True])
def test_another_source_disables_cluster_modes_part(bin_dir: Path, gone: bool) -> None:
    """When a source of that part is not what it was, or not there, the part counts for nothing."""
    *rest, later = marshal.loads((bin_dir / BUNDLE).read_bytes())
    modules = marshal.loads(later)
    file, package, size, _, code = modules["fastipam.cluster.planner"]
    if gone:
        file = "/nonexistent/planner.py"
    modules["fastipam.cluster.planner"] = file, package, size, 1, code
    (bin_dir / BUNDLE).write_bytes(marshal.dumps((*rest, marshal.dumps(modules))))
    assert loader_of(bin_dir, "fastipam.cluster.need") == "SourceFileLoader"
    assert loader_of_handler(bin_dir) == "Bundle"


@pytest.mark.parametrize("content", [None, b"", b"nonsense", marshal.dumps(7)])
def test_a_damaged_one_is_ignored(content: bytes | None, bin_dir: Path, tmp_path: Path) -> None:
    """A missing or unreadable bundle costs time and nothing else."""
    if content is None:
        os.unlink(bin_dir / BUNDLE)
    else:
        (bin_dir / BUNDLE).write_bytes(content)
    assert loader_of_handler(bin_dir) == "SourceFileLoader"
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]


def test_an_import_that_fails() -> None:
    """What the plugin's interpreter says is the reason why there is no bundle."""
    with pytest.raises(OSError, match="No module named 'lmdb'"):
        bundle.build([str(Path(fastipam.__file__).parent.parent)])


def _installed(tmp_path: Path) -> dict[str, Any]:
    """The modules of a bundle: one package with one module, neither known to this process."""
    package = tmp_path / "bundled_package"
    package.mkdir()
    (package / "__init__.py").write_text("NAME = __name__\n")
    (package / "inner.py").write_text("from . import NAME\nseen = NAME, __file__\n")
    return {
        "bundled_package": bundle._module(package / "__init__.py"),
        "bundled_package.inner": bundle._module(package / "inner.py"),
    }


def test_import_from_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages and modules of the bundle are imported with their own names, files and paths."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    bundle.activate(_installed(tmp_path))
    try:
        inner = importlib.import_module("bundled_package.inner")
        assert inner.seen == ("bundled_package", str(tmp_path / "bundled_package" / "inner.py"))
        package = sys.modules["bundled_package"]
        assert list(package.__path__) == [str(tmp_path / "bundled_package")]
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("bundled_package.absent")
    finally:
        for name in ("bundled_package", "bundled_package.inner"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("change", ["longer", "touched"])
def test_stale_bundle(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one source is not what it was, nothing is imported from the bundle."""
    monkeypatch.setattr(sys, "meta_path", before := list(sys.meta_path))
    modules = _installed(tmp_path)
    inner = tmp_path / "bundled_package" / "inner.py"
    status = inner.stat()
    if change == "longer":
        inner.write_text(inner.read_text() + "#")
        os.utime(inner, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(inner, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    bundle.activate(modules)
    assert sys.meta_path == before
