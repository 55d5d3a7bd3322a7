"""Decide which files in a plugin directory an installation may write or remove."""

from __future__ import annotations

import string
import sys
from typing import TYPE_CHECKING

from fastipam import files
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DIRECT = "fastipam-direct"  # where src/launcher.c looks for the entry point
# Compiled code is for one version of Python, so each version has files of its own.
BUNDLE = f"{DIRECT}.{sys.implementation.cache_tag}"
CLUSTER_BUNDLE = f"{BUNDLE}.cluster"

# Bytes that every launcher contains: the name of a variable that it reads.
_MARK = b"FASTIPAM_SOCKET"
_LARGEST_LAUNCHER = 4 << 20  # bytes; a larger file is another plugin, and is not read
_LETTERS = frozenset(string.ascii_letters + string.digits + "._-")
# A file name has 255 bytes at most, and a temporary name adds 14 of them.
_LONGEST_NAME = 200


def require_name(name: str) -> None:
    """Raise ConfigError unless the plugin can have this file name."""
    if not name or name[0] in "._-" or not _LETTERS.issuperset(name):
        reason = (
            "the name may have only letters, digits, '.', '_' and '-', and has to begin with a "
            "letter or digit"
        )
    elif name == DIRECT or name.startswith(f"{DIRECT}."):
        reason = "the Python entry point has this name"
    elif len(name) > _LONGEST_NAME:
        reason = f"the name has {len(name)} characters, but at most {_LONGEST_NAME} are allowed"
    else:
        return
    shown = name if len(name) <= _LONGEST_NAME else f"{name[:20]}…"
    raise ConfigError(
        f"{shown!r} cannot be the plugin's name: {reason}",
        field="--name",
        value=name,
        hint='type the name that the configuration has as "type", such as fastipam',
    )


def is_launcher(path: Path) -> bool:
    """Return whether a file is fastipam's launcher. Raises OSError."""
    return path.stat().st_size <= _LARGEST_LAUNCHER and _MARK in path.read_bytes()


def require_free(launcher: Path, others: Iterable[Path], *, replace: bool) -> None:
    """Raise an error when a file cannot be replaced, or is not fastipam's.

    With ``replace`` the launcher may replace another plugin. Raises ConfigError, OSError.
    """
    for one in (launcher, *others):
        files.refuse_other_kinds(str(one))
    try:
        is_ours = replace or is_launcher(launcher)
    except FileNotFoundError:  # or a dangling symbolic link
        return
    if not is_ours:
        raise ConfigError(
            f"{launcher} is another plugin, not fastipam's launcher, and would be replaced",
            field="--name",
            value=launcher.name,
            hint=f"cp {launcher} {launcher}.before, then type --replace; or another --name",
        )


def launchers(directory: Path, *, without: Path) -> list[Path]:
    """Return fastipam's readable launchers in a directory, except the file ``without``."""
    found = []
    for one in sorted(directory.iterdir()) if directory.is_dir() else ():
        if one == without or one.name.startswith(DIRECT):
            continue
        try:
            if one.is_file() and is_launcher(one):
                found.append(one)
        except OSError:
            continue
    return found
