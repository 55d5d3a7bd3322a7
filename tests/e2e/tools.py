"""What a test needs from the machine, and how it says that something is missing.

A missing tool can be installed, so the test is skipped for a developer and fails in continuous
integration, with ``--require-all`` (``tests/conftest.py`` makes every other skip a failure then). A
kernel feature cannot be installed: a test without it is skipped everywhere.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from _pytest.outcomes import Skipped

import fastipam

_PLUGIN_DIRS = ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin")
"""Where distributions (the first two) and the upstream release put the CNI plugins."""


class Unsupported(Skipped):
    """The skip of a test that needs what nobody can install on this machine."""


class NotBuilt(Skipped):
    """The skip of a test that needs a program of Kubernetes, which takes minutes to build."""


def lacking(reason: str) -> NoReturn:
    """Skip the test for something that can be installed; with ``--require-all`` it fails."""
    pytest.skip(reason)


def not_built(reason: str) -> NoReturn:
    """Skip the test for what a script builds; with ``--require-kubernetes`` it fails."""
    raise NotBuilt(reason)


def unsupported(reason: str) -> NoReturn:
    """Skip the test for something that this kernel, processor or interpreter does not have."""
    raise Unsupported(reason)


def require_root() -> None:
    """Skip unless this process may make network namespaces, mount, and become another user."""
    if os.geteuid() != 0:
        lacking("only root can do what this test needs")


@functools.cache
def as_another_user(uid: int = 65534) -> tuple[str, ...]:
    """The words before a command that another user runs; skip if this user cannot start Python.

    Below a home directory the interpreter and its packages can be closed to every other user.
    """
    require_root()
    require_tools("setpriv")
    words = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    code = "import sys; open(sys.argv[1]).close()"
    done = subprocess.run(
        [*words, sys.executable, "-IS", "-c", code, fastipam.__file__],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        unsupported(f"user {uid} cannot start {sys.executable}: {' '.join(said)}")
    return words


def open_to_all(tmp_path: Path) -> None:
    """Let every user pass through a directory of pytest's to what is in it."""
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(0o755)
        if path.name.startswith("pytest-of-"):
            return


def require_tools(*names: str) -> None:
    """Skip unless every named program is on the search path."""
    absent = [name for name in names if shutil.which(name) is None]
    if absent:
        lacking(f"not installed: {', '.join(absent)}")


def require_compiler() -> str:
    """The path of the C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        lacking("there is no C compiler")
    return compiler


def require_module(name: str) -> Any:
    """Return the imported module, or skip when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        lacking(f"Python module {name} cannot be imported: {error}")


def require_cni_plugins(*names: str) -> None:
    """Skip unless the named CNI plugins are installed."""
    absent = [name for name in names if not (cni_plugins_dir() / name).exists()]
    if absent:
        lacking(f"CNI plugins not installed: {', '.join(absent)}")


@functools.cache
def cni_plugins_dir() -> Path:
    """Return the directory of the installed CNI plugins, or skip when there is none."""
    for directory in map(Path, _PLUGIN_DIRS):
        if (directory / "bridge").exists():
            return directory
    lacking(f"the CNI plugins are in none of {', '.join(_PLUGIN_DIRS)}")
