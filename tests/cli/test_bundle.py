"""The entry point's bundle: used when it is right, as if it were not there when it is not."""

from __future__ import annotations

import json
import marshal
import os
import subprocess
from pathlib import Path

import pytest

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
    """Who imported fastipam.cni.handler in a process that starts as the entry point does."""
    entry = bin_dir / DIRECT
    lines = entry.read_text().splitlines()
    interpreter = lines[0].removeprefix("#!").split()[0]
    preamble = "\n".join(line for line in lines if not line.startswith(("from fastipam", "main()")))
    code = f"__file__ = {str(entry)!r}\n{preamble}\nimport fastipam.cni.handler as it\n"
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
    activate, modules = marshal.loads((bin_dir / BUNDLE).read_bytes())
    spoil(modules)
    (bin_dir / BUNDLE).write_bytes(marshal.dumps((activate, modules)))
    assert loader_of_handler(bin_dir) == "SourceFileLoader"
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]


@pytest.mark.parametrize("content", [None, b"", b"nonsense", marshal.dumps(7)])
def test_a_damaged_one_is_ignored(content: bytes | None, bin_dir: Path, tmp_path: Path) -> None:
    """A missing or unreadable bundle costs time and nothing else."""
    if content is None:
        os.unlink(bin_dir / BUNDLE)
    else:
        (bin_dir / BUNDLE).write_bytes(content)
    assert loader_of_handler(bin_dir) == "SourceFileLoader"
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]
