"""What the directly run plugin imports: a container's start pays for every module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import fastipam

from .plugin import COMMANDS, Make, environment

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAVY = {
    "argparse",
    "asyncio",
    "click",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "hashlib",
    "importlib.metadata",
    "inspect",
    "ipaddress",
    "json",
    "logging",
    "numpy",
    "pathlib",
    "random",
    "re",
    "rich",
    "select",
    "socket",
    "struct",
    "subprocess",
    "tempfile",
    "threading",
    "traceback",
    "typing",
    "warnings",
}
# lmdb's own, and the interpreter's: these are met before the plugin can say anything.
ALLOWED = {"struct", "warnings"}

# The executable's own text, and at the end the list of what is loaded on standard error.
_PROGRAM = """
import os, sys
sys.path += {paths!r}
end = os._exit
def leave(status):
    os.write(2, (chr(10) + " ".join(sorted(sys.modules))).encode())
    end(status)
os._exit = leave
from fastipam.cni.main import main
main()
"""


def _modules(environ: Mapping[str, str], stdin: bytes) -> tuple[int, set[str]]:
    paths = [str(Path(one.__file__ or "").parents[1]) for one in (fastipam, lmdb)]
    done = subprocess.run(
        [sys.executable, "-IS", "-c", _PROGRAM.format(paths=paths)],
        env=dict(environ),
        input=stdin,
        capture_output=True,
        check=False,
    )
    return done.returncode, set(done.stderr.decode().split("\n")[-1].split())


@pytest.fixture
def bare() -> set[str]:
    """What the interpreter itself loads."""
    code = "import os, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, check=True)
    return set(done.stdout.decode().split())


def _full(config: Make, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.3\n")
    return config(
        ipam={
            "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}]],
            "resolvConf": str(tmp_path / "resolv.conf"),
            "routes": [{"dst": "::/0"}],
            "exclude": ["10.1.2.4"],
        }
    ) | {"cni.dev/valid-attachments": []}


def test_light_imports(config: Make, tmp_path: Path, bare: set[str]) -> None:
    """No command, served or refused, imports a heavy module."""
    stdin = json.dumps(_full(config, tmp_path)).encode()
    for command in ("VERSION", "ADD", "ADD", *COMMANDS[1:]):
        environ = environment(command, args="IP=10.1.2.9")
        _, modules = _modules(environ, stdin)
        assert "fastipam.cni.handler" in modules
        assert modules & HEAVY <= bare | ALLOWED, command


def test_no_cluster_no_cluster_code(config: Make, tmp_path: Path) -> None:
    """Without the key ``cluster`` nothing of cluster mode is imported, whatever is asked."""
    stdin = json.dumps(_full(config, tmp_path)).encode()
    for command in COMMANDS:
        _, modules = _modules(environment(command), stdin)
        found = {one for one in modules if one.startswith("fastipam.cluster") or "block" in one}
        assert not found, command
        assert "fastipam.cni.more_blocks" not in modules


@pytest.mark.parametrize(
    "stdin",
    [
        b"[]",
        b'"x"',
        b'{"name": "\xff"}',
        b"[" * 300 + b"]" * 300,
        b'{"name": "a/b"}',
        b'{"name": "a"}',
    ],
)
def test_refusals_are_light(stdin: bytes, bare: set[str]) -> None:
    """A document that is refused for another reason than its syntax does not import json."""
    status, modules = _modules(environment("ADD"), stdin)
    assert status == 1
    assert modules & HEAVY <= bare | ALLOWED


@pytest.mark.parametrize("stdin", [b"", b"{", b'{"a": 1,}'])
def test_json_is_for_malformed_documents(stdin: bytes) -> None:
    """A malformed document imports json, which says where it is wrong."""
    status, modules = _modules(environment("ADD"), stdin)
    assert status == 1
    assert "json" in modules


def test_import_of_the_package() -> None:
    """``import fastipam.cni`` draws in neither numpy, rich, click, asyncio nor typing."""
    code = "import sys; sys.path += {!r}; import fastipam.cni; print(*sys.modules)"
    paths = [str(Path(one.__file__ or "").parents[1]) for one in (fastipam, lmdb)]
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code.format(paths)],
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert not HEAVY - ALLOWED & set(done.stdout.decode().split())
