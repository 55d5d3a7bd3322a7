"""The entry point's bundle: used when it is right, as if it were not there when it is not."""

from __future__ import annotations

import importlib
import json
import marshal
import os
import subprocess
import sys
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import fastipam
from fastipam.cli.commands.install import bundle
from fastipam.cli.commands.install.executables import BUNDLE, CLUSTER_BUNDLE, DIRECT, install


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """An installation of the test's own."""
    install(tmp_path / "bin")
    return tmp_path / "bin"


ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/some/where",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}


def configuration(tmp_path: Path) -> str:
    """The network that the test's containers are attached to."""
    ipam = {"type": "fastipam", "subnet": "10.1.0.0/24", "dataDir": str(tmp_path / "store")}
    return json.dumps({"cniVersion": "1.0.0", "name": "n", "ipam": ipam})


def call(bin_dir: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """An ADD through the entry point."""
    return subprocess.run(
        [bin_dir / DIRECT],
        env=ENVIRONMENT,
        input=configuration(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )


def add(bin_dir: Path, tmp_path: Path) -> list[str]:
    """The addresses that an ADD through the entry point gives."""
    done = call(bin_dir, tmp_path)
    assert done.returncode == 0
    assert not done.stderr
    return [one["address"] for one in json.loads(done.stdout)["ips"]]


def loader_of_handler(bin_dir: Path) -> str:
    """Who imported fastipam.cni.handler."""
    return loader_of(bin_dir, "fastipam.cni.handler")


def loader_of(bin_dir: Path, name: str) -> str:
    """Who imported a module in a process that starts as the entry point does."""
    entry = bin_dir / DIRECT
    text = entry.read_text()
    interpreter = text.removeprefix("#!").split()[0]
    preamble = text.partition("try:\n    from fastipam")[0]
    code = f"__file__ = {str(entry)!r}\n{preamble}\nimport {name} as it\n"
    code += "loader = it.__loader__\nprint(getattr(loader, '__name__', type(loader).__name__))\n"
    return subprocess.run(
        [interpreter, "-IS", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_bundle_is_used(bin_dir: Path, tmp_path: Path) -> None:
    """A fresh installation imports from the bundle, and answers."""
    assert loader_of_handler(bin_dir) == "Finder"
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]


def spoil_size(modules: dict[str, tuple[object, ...]]) -> None:
    file, package, size, time_ns, code = modules["fastipam.storage.store"]
    assert isinstance(size, int)
    modules["fastipam.storage.store"] = file, package, size + 1, time_ns, code


def spoil_time(modules: dict[str, tuple[object, ...]]) -> None:
    file, package, size, _, code = modules["fastipam.storage.store"]
    modules["fastipam.storage.store"] = file, package, size, 1, code


def spoil_path(modules: dict[str, tuple[object, ...]]) -> None:
    _, *rest = modules["fastipam.storage.store"]
    modules["fastipam.storage.store"] = "/nonexistent/store.py", *rest


@pytest.mark.parametrize("spoil", [spoil_size, spoil_time, spoil_path])
def test_another_source_disables_it(spoil: object, bin_dir: Path, tmp_path: Path) -> None:
    """When one source is not what it was, every module is imported from its source again."""
    assert callable(spoil)
    activate, modules, *more = marshal.loads((bin_dir / BUNDLE).read_bytes())
    spoil(modules)
    (bin_dir / BUNDLE).write_bytes(marshal.dumps((activate, modules, *more)))
    assert loader_of_handler(bin_dir) == "SourceFileLoader"
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]


def test_each_module_follows_its_imports(bin_dir: Path) -> None:
    """No module of ours is looked for while another one runs: each is there already."""
    activate, modules, *more = marshal.loads((bin_dir / BUNDLE).read_bytes())
    ours = [
        name
        for name, (*_, code) in modules.items()
        if name.startswith("fastipam") and isinstance(code, CodeType)
    ]
    code = "import os, sys; os.write(1, ' '.join(sys.modules).encode() + b'\\n'); os._exit(0)"
    spy = compile(code, "spy", "exec")
    last = ours[-1]
    file, package, size, time_ns, _ = modules[last]
    modules[last] = file, package, size, time_ns, spy
    (bin_dir / BUNDLE).write_bytes(marshal.dumps((activate, modules, *more)))
    done = subprocess.run([bin_dir / DIRECT], env=ENVIRONMENT, capture_output=True, check=False)
    assert set(ours) <= set(done.stdout.decode().split())


def test_a_module_that_fails(bin_dir: Path, tmp_path: Path) -> None:
    """What is wrong with a module is an error object, as for any other failure."""
    activate, modules, *more = marshal.loads((bin_dir / BUNDLE).read_bytes())
    name = "fastipam.cni.results"
    file, package, size, time_ns, _ = modules[name]
    fails = compile("raise RuntimeError('this module fails')", file, "exec")
    modules[name] = file, package, size, time_ns, fails
    (bin_dir / BUNDLE).write_bytes(marshal.dumps((activate, modules, *more)))
    done = call(bin_dir, tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 11
    assert "this module fails" in done.stdout
    assert not done.stderr


def test_the_extensions_are_in_it(bin_dir: Path) -> None:
    """A compiled extension is looked for nowhere: the bundle says where it is."""
    modules = bundle.modules_of((bin_dir / BUNDLE).read_bytes())
    assert {name for name in ("fastipam._bitmap", "lmdb.cpython") if modules[name][4] is None} == {
        "fastipam._bitmap",
        "lmdb.cpython",
    }
    assert loader_of(bin_dir, "fastipam._bitmap") == "ExtensionFileLoader"


def test_the_exceptions_are_in_it(bin_dir: Path) -> None:
    """They are made when one is needed, and no file has to be opened for that."""
    modules = bundle.modules_of((bin_dir / BUNDLE).read_bytes())
    assert isinstance(modules["fastipam.errors"][4], bytes)
    assert loader_of(bin_dir, "fastipam.cni.handler") == "Finder"
    assert loader_of(bin_dir, "fastipam.errors") == "Finder"


# The entry point with an ear at every search for a module on the import path.
SPY = """import sys
from _frozen_importlib_external import PathFinder
find = PathFinder.find_spec
def spy(name, *rest):
    print("searched", name, file=sys.stderr)
    return find(name, *rest)
PathFinder.find_spec = spy
"""


def test_nothing_is_searched_for(bin_dir: Path, tmp_path: Path) -> None:
    """An ADD looks for no module in any directory: the bundle has or knows them all."""
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]
    entry = bin_dir / DIRECT
    entry.write_text(entry.read_text().replace("import sys\n", SPY, 1))
    done = subprocess.run(
        [entry],
        env=ENVIRONMENT | {"CNI_CONTAINERID": "c2"},
        input=configuration(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["ips"][0]["address"] == "10.1.0.3/24"
    assert done.stderr == ""
    (bin_dir / BUNDLE).unlink()
    assert (
        "searched fastipam.cni"
        in subprocess.run(
            [entry], env=ENVIRONMENT, input="", capture_output=True, text=True, check=False
        ).stderr
    )


def test_cluster_mode_is_a_file_of_its_own(bin_dir: Path) -> None:
    """What a claim imports is read when it is asked for."""
    _, always, more, file = marshal.loads((bin_dir / BUNDLE).read_bytes())
    assert not any(name.startswith("fastipam.cluster") for name in always)
    assert {"fastipam.cluster.keeper.on_demand", "fastipam.cluster.engines.etcd.engine"} <= more
    assert file == str(bin_dir / CLUSTER_BUNDLE)
    assert set(bundle.modules_of((bin_dir / CLUSTER_BUNDLE).read_bytes())) == more
    assert loader_of(bin_dir, "fastipam.cluster.keeper.on_demand") == "Finder"


@pytest.mark.parametrize("gone", [False, True])
def test_another_source_disables_cluster_modes_part(bin_dir: Path, gone: bool) -> None:
    """When a source of that part is not what it was, or not there, the part counts for nothing."""
    modules = marshal.loads((bin_dir / CLUSTER_BUNDLE).read_bytes())
    path, package, size, _, code = modules["fastipam.cluster.planner"]
    if gone:
        path = "/nonexistent/planner.py"
    modules["fastipam.cluster.planner"] = path, package, size, 1, code
    (bin_dir / CLUSTER_BUNDLE).write_bytes(marshal.dumps(modules))
    assert loader_of(bin_dir, "fastipam.cluster.keeper.on_demand") == "SourceFileLoader"
    assert loader_of_handler(bin_dir) == "Finder"


@pytest.mark.parametrize("content", [None, b"", b"nonsense", marshal.dumps(7)])
def test_cluster_modes_part_is_damaged(content: bytes | None, bin_dir: Path) -> None:
    """A missing or unreadable part costs time and nothing else."""
    if content is None:
        os.unlink(bin_dir / CLUSTER_BUNDLE)
    else:
        (bin_dir / CLUSTER_BUNDLE).write_bytes(content)
    assert loader_of(bin_dir, "fastipam.cluster.keeper.on_demand") == "SourceFileLoader"
    assert loader_of_handler(bin_dir) == "Finder"


LEAN = '''"""Read by people."""
from __future__ import annotations

limit: Absent = 3

def add(a: Absent, /, b: Absent = 2, *more: Absent, c: Absent = 4, **rest: Absent) -> Absent:
    """Add."""
    def inner(d: Absent) -> Absent:
        return d
    return a + b + c + inner(limit)
'''


def test_lean_code(tmp_path: Path) -> None:
    """Of our modules docstrings and the annotations of functions go; defaults and names stay."""
    path = tmp_path / "lean.py"
    path.write_text(LEAN)
    lean = run(bundle._module("fastipam.lean", path))
    assert lean["add"](1) == 10
    assert lean["add"].__annotations__ == {}
    assert "annotations" not in lean
    assert lean["add"].__doc__ is lean["__doc__"] is None


def test_code_of_others_keeps_its_annotations(tmp_path: Path) -> None:
    """What another package does with the annotations of its functions is not for us to know."""
    path = tmp_path / "other.py"
    path.write_text(LEAN)
    other = run(bundle._module("other", path))
    assert set(other["add"].__annotations__) == {"a", "b", "more", "c", "rest", "return"}


def run(module: Any) -> dict[str, Any]:
    """The names that a module's code makes."""
    names: dict[str, Any] = {"__doc__": None}
    code = module[4]
    assert code is not None
    exec(code, names)
    return names


@pytest.mark.parametrize("content", [None, b"", b"nonsense", marshal.dumps(7)])
def test_a_damaged_one_is_ignored(content: bytes | None, bin_dir: Path, tmp_path: Path) -> None:
    """A missing or unreadable bundle costs time and nothing else."""
    if content is None:
        os.unlink(bin_dir / BUNDLE)
    else:
        (bin_dir / BUNDLE).write_bytes(content)
    assert loader_of_handler(bin_dir) == "SourceFileLoader"
    assert add(bin_dir, tmp_path) == ["10.1.0.2/24"]


def test_an_import_that_fails(tmp_path: Path) -> None:
    """What the plugin's interpreter says is the reason why there is no bundle."""
    (tmp_path / "fastipam").symlink_to(Path(fastipam.__file__).parent)  # and no lmdb beside it
    with pytest.raises(OSError, match="No module named 'lmdb'"):
        bundle.build([str(tmp_path)], "")


def _installed(tmp_path: Path) -> dict[str, Any]:
    """The modules of a bundle: one package with one module, neither known to this process."""
    package = tmp_path / "bundled_package"
    package.mkdir()
    (package / "__init__.py").write_text("NAME = __name__\n")
    (package / "inner.py").write_text("from . import NAME\nseen = NAME, __file__\n")
    return {
        name: bundle._module(name, package / file)
        for name, file in (
            ("bundled_package", "__init__.py"),
            ("bundled_package.inner", "inner.py"),
        )
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
