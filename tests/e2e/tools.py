"""What a test needs from the machine, and how it says that something is missing.

A missing tool can be installed, so it is a skip for a developer and, with ``--require-all``,
a failure in continuous integration. A missing kernel feature can not: it stays a skip.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ..options import options

_PLUGIN_DIRS = ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin")
"""Where distributions (the first two) and the upstream release put the CNI plugins."""


def lacking(reason: str) -> NoReturn:
    """Skip the test, or fail it where the end-to-end tests are required, naming the reason."""
    if options.require_all:
        pytest.fail(f"required here: {reason}", pytrace=False)
    pytest.skip(reason)


def require_root() -> None:
    """Skip unless this process may make network namespaces, mount, and become another user."""
    if os.geteuid() != 0:
        lacking("only root can do what this test needs")


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
